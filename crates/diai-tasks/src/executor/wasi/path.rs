//! Calls on paths.

use wasmtime::{Caller, Linker};

use super::{
    super::{
        fs::{NodeId, Place},
        guest::Guest,
    },
    MODULE,
    errno::{Answer, Errno},
    fd::{RIGHT_READ, RIGHT_WRITE, write_filestat},
    fds::{Fd, OpenNode},
    host,
    view::View,
};

const OPEN_CREATE: u32 = 1;
const OPEN_FOLDER: u32 = 2;
const OPEN_EXCLUSIVE: u32 = 4;
const OPEN_TRUNCATE: u32 = 8;
const FD_APPEND: u32 = 1;

fn base(guest: &Guest, fd: u32) -> Result<NodeId, Errno> {
    let node = guest.fds.node(fd).map_err(|errno| if errno == Errno::SPipe { Errno::NotDir } else { errno })?;
    if guest.fs.is_folder(node.id) { Ok(node.id) } else { Err(Errno::NotDir) }
}

fn find(view: &mut View<'_>, guest: &Guest, fd: u32, path: u32, len: u32) -> Result<Place, Errno> {
    let base = base(guest, fd)?;
    let path = view.text(path, len)?;
    guest.fs.find(base, &path)
}

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(
        MODULE,
        "path_open",
        |caller: Caller<'_, Guest>,
         fd: u32,
         _: u32,
         path: u32,
         len: u32,
         open: u32,
         rights: u64,
         _: u64,
         flags: u32,
         at: u32| {
            host(caller, |view, guest| {
                let place = find(view, guest, fd, path, len)?;
                let number = open_node(guest, &place, open, rights, flags & FD_APPEND != 0)?;
                Ok(view.write_u32(at, number)?)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "path_filestat_get",
        |caller: Caller<'_, Guest>, fd: u32, _: u32, path: u32, len: u32, at: u32| {
            host(caller, |view, guest| {
                let place = find(view, guest, fd, path, len)?;
                let id = place.node.ok_or(Errno::NoEnt)?;
                guest.fs.check_folder(&place, id)?;
                Ok(write_filestat(view, guest, id, at)?)
            })
        },
    )?;
    changes(linker)?;
    unsupported(linker)
}

fn changes(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "path_create_directory", |caller: Caller<'_, Guest>, fd: u32, path: u32, len: u32| {
        host(caller, |view, guest| {
            let place = find(view, guest, fd, path, len)?;
            guest.fs.create_folder(&place)
        })
    })?;
    linker.func_wrap(MODULE, "path_unlink_file", |caller: Caller<'_, Guest>, fd: u32, path: u32, len: u32| {
        host(caller, |view, guest| {
            let place = find(view, guest, fd, path, len)?;
            Ok(guest.fs.unlink_file(&place)?)
        })
    })?;
    linker.func_wrap(MODULE, "path_remove_directory", |caller: Caller<'_, Guest>, fd: u32, path: u32, len: u32| {
        host(caller, |view, guest| {
            let place = find(view, guest, fd, path, len)?;
            Ok(guest.fs.remove_folder(&place)?)
        })
    })?;
    linker.func_wrap(
        MODULE,
        "path_rename",
        |caller: Caller<'_, Guest>, fd: u32, path: u32, len: u32, to_fd: u32, to_path: u32, to_len: u32| {
            host(caller, |view, guest| {
                let from = find(view, guest, fd, path, len)?;
                let to = find(view, guest, to_fd, to_path, to_len)?;
                Ok(guest.fs.rename(&from, &to)?)
            })
        },
    )?;
    Ok(())
}

/// Links and times: there are none in here.
fn unsupported(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    fn no() -> u32 {
        u32::from(Errno::NotSup as u16)
    }
    linker.func_wrap(MODULE, "path_link", |_: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32| no())?;
    linker.func_wrap(MODULE, "path_symlink", |_: u32, _: u32, _: u32, _: u32, _: u32| no())?;
    linker
        .func_wrap(MODULE, "path_filestat_set_times", |_: u32, _: u32, _: u32, _: u32, _: u64, _: u64, _: u32| no())?;
    // No path is a link: whoever asks for a target is told that the argument is wrong, as POSIX does.
    linker.func_wrap(MODULE, "path_readlink", |_: u32, _: u32, _: u32, _: u32, _: u32, _: u32| {
        u32::from(Errno::Inval as u16)
    })?;
    Ok(())
}

fn open_node(guest: &mut Guest, place: &Place, open: u32, rights: u64, append: bool) -> Answer<u32> {
    let write = rights & RIGHT_WRITE != 0 || append;
    let id = match place.node {
        Some(_) if open & OPEN_CREATE != 0 && open & OPEN_EXCLUSIVE != 0 => return Err(Errno::Exist.into()),
        Some(id) => id,
        None if open & OPEN_CREATE != 0 && open & OPEN_FOLDER == 0 => guest.fs.create_file(place)?,
        None => return Err(Errno::NoEnt.into()),
    };
    guest.fs.check_folder(place, id)?;
    let folder = guest.fs.is_folder(id);
    if open & OPEN_FOLDER != 0 && !folder {
        return Err(Errno::NotDir.into());
    }
    let truncate = open & OPEN_TRUNCATE != 0;
    if folder && truncate {
        return Err(Errno::IsDir.into());
    }
    // Who opens a folder asks for every right that folders have, writing among them.
    if (write || truncate) && !folder && !guest.fs.is_writable(id) {
        return Err(Errno::RoFs.into());
    }
    if truncate {
        guest.fs.set_len(id, 0)?;
    }
    let read = rights & RIGHT_READ != 0 || folder;
    let number = guest.fds.insert(Fd::Node(OpenNode { id, position: 0, read, write, append, preopened: None }))?;
    guest.fs.opened(id);
    Ok(number)
}
