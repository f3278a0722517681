//! Calls on descriptors.

use wasmtime::{Caller, Linker};

use super::{
    super::{fs::NodeId, guest::Guest},
    MODULE,
    errno::{Answer, Errno, Fault},
    fds::Fd,
    host,
    view::View,
};

pub(super) const RIGHT_READ: u64 = 1 << 1;
pub(super) const RIGHT_WRITE: u64 = 1 << 6;
const RIGHTS_ALL: u64 = (1 << 30) - 1;

const TYPE_CHARACTERS: u8 = 2;
const TYPE_FOLDER: u8 = 3;
const TYPE_FILE: u8 = 4;

const FD_APPEND: u16 = 1;
const DIRENT_BYTES: usize = 24;

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    reading(linker)?;
    writing(linker)?;
    positions(linker)?;
    status(linker)?;
    folders(linker)?;
    descriptors(linker)
}

fn reading(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "fd_read", |caller: Caller<'_, Guest>, fd: u32, buffers: u32, count: u32, at: u32| {
        host(caller, |view, guest| {
            let moved = match guest.fds.get(fd)? {
                Fd::Stdin { position } => {
                    let rest = usize::try_from(*position).ok().and_then(|start| guest.stdin.get(start..));
                    view.scatter(buffers, count, rest.unwrap_or_default())?
                }
                Fd::Node(node) if node.read => view.scatter(buffers, count, guest.fs.read(node.id, node.position)?)?,
                Fd::Node(_) | Fd::Stdout | Fd::Stderr => return Err(Errno::BadF.into()),
            };
            match guest.fds.get_mut(fd)? {
                Fd::Stdin { position } => *position += u64::from(moved),
                Fd::Node(node) => node.position += u64::from(moved),
                Fd::Stdout | Fd::Stderr => {}
            }
            Ok(view.write_u32(at, moved)?)
        })
    })?;
    linker.func_wrap(
        MODULE,
        "fd_pread",
        |caller: Caller<'_, Guest>, fd: u32, buffers: u32, count: u32, offset: u64, at: u32| {
            host(caller, |view, guest| {
                let node = guest.fds.node(fd)?;
                if !node.read {
                    return Err(Errno::BadF.into());
                }
                let moved = view.scatter(buffers, count, guest.fs.read(node.id, offset)?)?;
                Ok(view.write_u32(at, moved)?)
            })
        },
    )?;
    Ok(())
}

/// The file that `fd` may write to.
fn writable(guest: &Guest, fd: u32) -> Result<NodeId, Errno> {
    let node = guest.fds.node(fd)?;
    match (guest.fs.is_folder(node.id), node.write) {
        (true, _) => Err(Errno::IsDir),
        (false, true) => Ok(node.id),
        (false, false) => Err(Errno::BadF),
    }
}

fn write_node(view: &mut View<'_>, guest: &mut Guest, fd: u32, buffers: u32, count: u32, offset: u64) -> Answer<u32> {
    let id = writable(guest, fd)?;
    let before = guest.fs.len(id);
    let mut position = offset;
    let moved = view.gather(buffers, count, |data| {
        guest.fs.write(id, position, data)?;
        position = position.saturating_add(data.len() as u64);
        Ok(())
    })?;
    // A gap that was filled with zeros costs as well.
    view.moved += guest.fs.len(id).saturating_sub(before);
    Ok(moved)
}

fn writing(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "fd_write", |caller: Caller<'_, Guest>, fd: u32, buffers: u32, count: u32, at: u32| {
        host(caller, |view, guest| {
            let moved = match guest.fds.get(fd)? {
                Fd::Stdin { .. } => return Err(Errno::BadF.into()),
                Fd::Stdout => view.gather(buffers, count, |data| guest.write_stdout(data))?,
                Fd::Stderr => view.gather(buffers, count, |data| {
                    guest.stderr.write(data);
                    Ok(())
                })?,
                Fd::Node(node) => {
                    let start = if node.append { guest.fs.len(node.id) } else { node.position };
                    let moved = write_node(view, guest, fd, buffers, count, start)?;
                    guest.fds.node_mut(fd)?.position = start.saturating_add(u64::from(moved));
                    moved
                }
            };
            Ok(view.write_u32(at, moved)?)
        })
    })?;
    linker.func_wrap(
        MODULE,
        "fd_pwrite",
        |caller: Caller<'_, Guest>, fd: u32, buffers: u32, count: u32, offset: u64, at: u32| {
            host(caller, |view, guest| {
                let moved = write_node(view, guest, fd, buffers, count, offset)?;
                Ok(view.write_u32(at, moved)?)
            })
        },
    )?;
    linker.func_wrap(MODULE, "fd_filestat_set_size", |caller: Caller<'_, Guest>, fd: u32, len: u64| {
        host(caller, |view, guest| set_len(view, guest, fd, len, false))
    })?;
    linker.func_wrap(MODULE, "fd_allocate", |caller: Caller<'_, Guest>, fd: u32, offset: u64, len: u64| {
        host(caller, |view, guest| {
            let end = offset.checked_add(len).ok_or(Errno::FBig)?;
            set_len(view, guest, fd, end, true)
        })
    })?;
    Ok(())
}

fn set_len(view: &mut View<'_>, guest: &mut Guest, fd: u32, len: u64, only_grow: bool) -> Answer {
    let id = writable(guest, fd)?;
    let old = guest.fs.len(id);
    if only_grow && len <= old {
        return Ok(());
    }
    guest.fs.set_len(id, len)?;
    view.moved += len.saturating_sub(old);
    Ok(())
}

fn positions(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "fd_seek", |caller: Caller<'_, Guest>, fd: u32, offset: i64, whence: u32, at: u32| {
        host(caller, |view, guest| {
            let node = guest.fds.node(fd)?;
            if guest.fs.is_folder(node.id) {
                return Err(Errno::BadF.into());
            }
            let base = match whence {
                0 => 0,
                1 => node.position,
                2 => guest.fs.len(node.id),
                _ => return Err(Errno::Inval.into()),
            };
            let position = base.checked_add_signed(offset).ok_or(Errno::Inval)?;
            guest.fds.node_mut(fd)?.position = position;
            Ok(view.write_u64(at, position)?)
        })
    })?;
    linker.func_wrap(MODULE, "fd_tell", |caller: Caller<'_, Guest>, fd: u32, at: u32| {
        host(caller, |view, guest| Ok(view.write_u64(at, guest.fds.node(fd)?.position)?))
    })?;
    Ok(())
}

fn kind(guest: &Guest, fd: u32) -> Result<u8, Errno> {
    Ok(match guest.fds.get(fd)? {
        Fd::Stdin { .. } | Fd::Stdout | Fd::Stderr => TYPE_CHARACTERS,
        Fd::Node(node) => node_kind(guest, node.id),
    })
}

fn node_kind(guest: &Guest, id: NodeId) -> u8 {
    if guest.fs.is_folder(id) { TYPE_FOLDER } else { TYPE_FILE }
}

fn filestat(kind: u8, id: NodeId, len: u64) -> [u8; 64] {
    let mut stat = [0; 64];
    stat[8..16].copy_from_slice(&id.to_le_bytes());
    stat[16] = kind;
    stat[24..32].copy_from_slice(&1u64.to_le_bytes());
    stat[32..40].copy_from_slice(&len.to_le_bytes());
    stat
}

/// Files have no times: all three are the epoch, so that equal runs see equal ones.
pub(super) fn write_filestat(view: &mut View<'_>, guest: &Guest, id: NodeId, at: u32) -> Result<(), Errno> {
    view.write(at, &filestat(node_kind(guest, id), id, guest.fs.len(id)))
}

fn rights(guest: &Guest, fd: u32) -> Result<u64, Errno> {
    Ok(match guest.fds.get(fd)? {
        Fd::Stdin { .. } => RIGHT_READ,
        Fd::Stdout | Fd::Stderr => RIGHT_WRITE,
        // A C library asks folders what may be done below them, and passes on no more than that.
        Fd::Node(node) if guest.fs.is_folder(node.id) => RIGHTS_ALL,
        Fd::Node(node) => {
            let read = if node.read { RIGHT_READ } else { 0 };
            let write = if node.write { RIGHT_WRITE } else { 0 };
            (RIGHTS_ALL & !(RIGHT_READ | RIGHT_WRITE)) | read | write
        }
    })
}

fn status(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "fd_fdstat_get", |caller: Caller<'_, Guest>, fd: u32, at: u32| {
        host(caller, |view, guest| {
            let flags = match guest.fds.get(fd)? {
                Fd::Node(node) if node.append => FD_APPEND,
                _ => 0,
            };
            let rights = rights(guest, fd)?;
            let mut stat = [0; 24];
            stat[0] = kind(guest, fd)?;
            stat[2..4].copy_from_slice(&flags.to_le_bytes());
            stat[8..16].copy_from_slice(&rights.to_le_bytes());
            stat[16..24].copy_from_slice(&rights.to_le_bytes());
            Ok(view.write(at, &stat)?)
        })
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_set_flags", |caller: Caller<'_, Guest>, fd: u32, flags: u32| {
        host(caller, |_, guest| {
            if let Fd::Node(node) = guest.fds.get_mut(fd)? {
                node.append = flags & u32::from(FD_APPEND) != 0;
            }
            Ok(())
        })
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_set_rights", |caller: Caller<'_, Guest>, fd: u32, base: u64, _: u64| {
        host(caller, |_, guest| {
            // Rights can be given up, never gained.
            if let Fd::Node(node) = guest.fds.get_mut(fd)? {
                node.read &= base & RIGHT_READ != 0;
                node.write &= base & RIGHT_WRITE != 0;
            }
            Ok(())
        })
    })?;
    linker.func_wrap(MODULE, "fd_filestat_get", |caller: Caller<'_, Guest>, fd: u32, at: u32| {
        host(caller, |view, guest| match guest.fds.get(fd)? {
            Fd::Node(node) => Ok(write_filestat(view, guest, node.id, at)?),
            Fd::Stdin { .. } | Fd::Stdout | Fd::Stderr => Ok(view.write(at, &filestat(TYPE_CHARACTERS, 0, 0))?),
        })
    })?;
    linker
        .func_wrap(MODULE, "fd_filestat_set_times", |_: u32, _: u64, _: u64, _: u32| u32::from(Errno::NotSup as u16))?;
    Ok(())
}

fn folders(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "fd_prestat_get", |caller: Caller<'_, Guest>, fd: u32, at: u32| {
        host(caller, |view, guest| {
            let path = preopened(guest, fd)?;
            view.write_u32(at, 0)?;
            Ok(view.write_u32(at.checked_add(4).ok_or(Errno::Fault)?, u32::try_from(path.len()).unwrap_or(0))?)
        })
    })?;
    linker.func_wrap(MODULE, "fd_prestat_dir_name", |caller: Caller<'_, Guest>, fd: u32, at: u32, len: u32| {
        host(caller, |view, guest| {
            let path = preopened(guest, fd)?.as_bytes();
            if (len as usize) < path.len() {
                return Err(Errno::NameTooLong.into());
            }
            Ok(view.write(at, path)?)
        })
    })?;
    linker.func_wrap(
        MODULE,
        "fd_readdir",
        |caller: Caller<'_, Guest>, fd: u32, buffer: u32, len: u32, cookie: u64, at: u32| {
            host(caller, |view, guest| {
                let used = read_folder(view, guest, fd, buffer, len, cookie)?;
                Ok(view.write_u32(at, used)?)
            })
        },
    )?;
    Ok(())
}

fn preopened(guest: &Guest, fd: u32) -> Result<&'static str, Errno> {
    match guest.fds.get(fd)? {
        Fd::Node(node) => node.preopened.ok_or(Errno::BadF),
        Fd::Stdin { .. } | Fd::Stdout | Fd::Stderr => Err(Errno::BadF),
    }
}

/// Entries after `cookie`, which is the id of the last one read plus one: ids rise, so removals in between skip
/// nothing. An entry that does not fit is cut, by which the guest knows to call again.
fn read_folder(view: &mut View<'_>, guest: &Guest, fd: u32, buffer: u32, len: u32, cookie: u64) -> Result<u32, Fault> {
    let folder = guest.fds.node(fd)?.id;
    let entries = guest.fs.list(folder)?;
    view.moved += entries.len() as u64 * DIRENT_BYTES as u64;
    let mut used = 0u32;
    for (id, name) in entries {
        let next = id + 1;
        if next <= cookie {
            continue;
        }
        let mut entry = [0; DIRENT_BYTES].to_vec();
        entry[..8].copy_from_slice(&next.to_le_bytes());
        entry[8..16].copy_from_slice(&id.to_le_bytes());
        entry[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap_or(0).to_le_bytes());
        entry[20] = node_kind(guest, id);
        entry.extend_from_slice(name.as_bytes());
        let room = (len - used) as usize;
        let part = &entry[..entry.len().min(room)];
        view.write(buffer.checked_add(used).ok_or(Errno::Fault)?, part)?;
        used += u32::try_from(part.len()).map_err(|_| Errno::Fault)?;
        if used == len {
            break;
        }
    }
    Ok(used)
}

fn descriptors(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "fd_close", |caller: Caller<'_, Guest>, fd: u32| {
        host(caller, |_, guest| {
            if let Fd::Node(node) = guest.fds.remove(fd)? {
                guest.fs.closed(node.id);
            }
            Ok(())
        })
    })?;
    linker.func_wrap(MODULE, "fd_renumber", |caller: Caller<'_, Guest>, fd: u32, to: u32| {
        host(caller, |_, guest| {
            if let Some(Fd::Node(node)) = guest.fds.renumber(fd, to)? {
                guest.fs.closed(node.id);
            }
            Ok(())
        })
    })?;
    // There is nothing to sync and nothing to advise.
    linker.func_wrap(MODULE, "fd_sync", |caller: Caller<'_, Guest>, fd: u32| {
        host(caller, |_, guest| Ok(guest.fds.get(fd).map(drop)?))
    })?;
    linker.func_wrap(MODULE, "fd_datasync", |caller: Caller<'_, Guest>, fd: u32| {
        host(caller, |_, guest| Ok(guest.fds.get(fd).map(drop)?))
    })?;
    linker.func_wrap(MODULE, "fd_advise", |caller: Caller<'_, Guest>, fd: u32, _: u64, _: u64, _: u32| {
        host(caller, |_, guest| Ok(guest.fds.node(fd).map(drop)?))
    })?;
    Ok(())
}
