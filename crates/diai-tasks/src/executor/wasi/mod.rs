//! `wasi_snapshot_preview1` for a guest that has no world: arguments, files in memory, a clock and random numbers that
//! come from the task.

mod clock;
pub(crate) mod errno;
mod fd;
pub(super) mod fds;
mod path;
mod view;

use wasmtime::{Caller, Extern, Linker, Trap};

use self::{
    errno::{Answer, Errno, Fault, Stop},
    view::View,
};
use super::guest::Guest;

/// The module that guests import from.
pub(super) const MODULE: &str = "wasi_snapshot_preview1";
/// Fuel that a host call costs, and bytes that it moves for one more.
const CALL_FUEL: u64 = 16;
const BYTES_PER_FUEL: u64 = 8;

/// Defines all that a guest may import.
pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    arguments(linker)?;
    clock::link(linker)?;
    fd::link(linker)?;
    path::link(linker)?;
    refused(linker)
}

/// Runs one host call: gives it the guest's memory, takes its price, and turns its answer into the guest's.
fn host(
    mut caller: Caller<'_, Guest>,
    call: impl FnOnce(&mut View<'_>, &mut Guest) -> Answer,
) -> wasmtime::Result<u32> {
    let memory = match caller.data().memory {
        Some(memory) => memory,
        // Before the start function has returned.
        None => match caller.get_export("memory") {
            Some(Extern::Memory(memory)) => memory,
            _ => return Ok(u32::from(Errno::Fault as u16)),
        },
    };
    let (bytes, guest) = memory.data_and_store_mut(&mut caller);
    let mut view = View::new(bytes);
    let answer = call(&mut view, guest);
    let moved = view.moved + guest.fs.take_grown();
    let price = CALL_FUEL + moved / BYTES_PER_FUEL;
    let left = caller.get_fuel()?;
    caller.set_fuel(left.saturating_sub(price))?;
    if left < price {
        return Err(wasmtime::Error::new(Trap::OutOfFuel));
    }
    match answer {
        Ok(()) => Ok(0),
        Err(Fault::Errno(errno)) => Ok(u32::from(errno as u16)),
        Err(Fault::Stop(stop)) => Err(wasmtime::Error::new(stop)),
    }
}

/// Writes C strings and the pointers to them, as `args_get` and `environ_get` do.
fn strings(view: &mut View<'_>, strings: &[Vec<u8>], mut pointers: u32, mut buffer: u32) -> Answer {
    for text in strings {
        view.write_u32(pointers, buffer)?;
        view.write(buffer, text)?;
        let len = u32::try_from(text.len()).map_err(|_| Errno::Fault)?;
        buffer = buffer.checked_add(len).ok_or(Errno::Fault)?;
        view.write(buffer, &[0])?;
        buffer = buffer.checked_add(1).ok_or(Errno::Fault)?;
        pointers = pointers.checked_add(4).ok_or(Errno::Fault)?;
    }
    Ok(())
}

fn sizes(view: &mut View<'_>, strings: &[Vec<u8>], count: u32, bytes: u32) -> Answer {
    let total: usize = strings.iter().map(|text| text.len() + 1).sum();
    view.write_u32(count, u32::try_from(strings.len()).map_err(|_| Errno::Fault)?)?;
    view.write_u32(bytes, u32::try_from(total).map_err(|_| Errno::Fault)?)?;
    Ok(())
}

fn arguments(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "args_sizes_get", |caller: Caller<'_, Guest>, count: u32, bytes: u32| {
        host(caller, |view, guest| sizes(view, &guest.args, count, bytes))
    })?;
    linker.func_wrap(MODULE, "args_get", |caller: Caller<'_, Guest>, pointers: u32, buffer: u32| {
        host(caller, |view, guest| strings(view, &guest.args, pointers, buffer))
    })?;
    linker.func_wrap(MODULE, "environ_sizes_get", |caller: Caller<'_, Guest>, count: u32, bytes: u32| {
        host(caller, |view, _| sizes(view, &[], count, bytes))
    })?;
    linker.func_wrap(MODULE, "environ_get", |caller: Caller<'_, Guest>, pointers: u32, buffer: u32| {
        host(caller, |view, _| strings(view, &[], pointers, buffer))
    })?;
    linker.func_wrap(MODULE, "proc_exit", |_: Caller<'_, Guest>, code: u32| -> wasmtime::Result<()> {
        Err(wasmtime::Error::new(Stop::Exit(code.cast_signed())))
    })?;
    Ok(())
}

/// What there is no such thing as: processes, signals, sockets.
fn refused(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    fn no() -> u32 {
        u32::from(Errno::NoSys as u16)
    }
    linker.func_wrap(MODULE, "proc_raise", |_: u32| no())?;
    linker.func_wrap(MODULE, "sock_accept", |_: u32, _: u32, _: u32| no())?;
    linker.func_wrap(MODULE, "sock_recv", |_: u32, _: u32, _: u32, _: u32, _: u32, _: u32| no())?;
    linker.func_wrap(MODULE, "sock_send", |_: u32, _: u32, _: u32, _: u32, _: u32| no())?;
    linker.func_wrap(MODULE, "sock_shutdown", |_: u32, _: u32| no())?;
    Ok(())
}
