//! Clocks, random numbers, and waiting that takes no time.

use wasmtime::{Caller, Linker};

use super::{
    super::guest::{Guest, GuestClock},
    MODULE,
    errno::{Answer, Errno},
    host,
    view::{MAX_MOVED, View},
};

const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;
const PROCESS_CPU: u32 = 2;
const THREAD_CPU: u32 = 3;

const SUBSCRIPTION_BYTES: u32 = 48;
const EVENT_BYTES: u32 = 32;
const MAX_SUBSCRIPTIONS: u32 = 1024;
const EVENT_CLOCK: u8 = 0;
const ABSOLUTE: u16 = 1;

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "clock_res_get", |caller: Caller<'_, Guest>, id: u32, at: u32| {
        host(caller, |view, _| match id {
            REALTIME..=THREAD_CPU => Ok(view.write_u64(at, GuestClock::RESOLUTION_NS)?),
            _ => Err(Errno::Inval.into()),
        })
    })?;
    linker.func_wrap(MODULE, "clock_time_get", |caller: Caller<'_, Guest>, id: u32, _: u64, at: u32| {
        host(caller, |view, guest| Ok(view.write_u64(at, time(guest, id)?)?))
    })?;
    linker.func_wrap(MODULE, "random_get", |caller: Caller<'_, Guest>, at: u32, len: u32| {
        host(caller, |view, guest| {
            if len as usize > MAX_MOVED {
                return Err(Errno::Inval.into());
            }
            guest.random.fill(view.slice_mut(at, len)?);
            // Hashing costs more than moving.
            view.moved += 16 * u64::from(len);
            Ok(())
        })
    })?;
    linker.func_wrap(MODULE, "sched_yield", |caller: Caller<'_, Guest>| host(caller, |_, _| Ok(())))?;
    linker.func_wrap(
        MODULE,
        "poll_oneoff",
        |caller: Caller<'_, Guest>, subscriptions: u32, events: u32, count: u32, stored: u32| {
            host(caller, |view, guest| poll(view, guest, subscriptions, events, count, stored))
        },
    )?;
    Ok(())
}

fn time(guest: &mut Guest, id: u32) -> Result<u64, Errno> {
    match id {
        REALTIME => Ok(guest.clock.wall()),
        MONOTONIC | PROCESS_CPU | THREAD_CPU => Ok(guest.clock.monotonic()),
        _ => Err(Errno::Inval),
    }
}

/// Every descriptor is ready, so a wait ends at once; only if there are clocks alone does the guest's time jump, to the
/// earliest of them.
fn poll(view: &mut View<'_>, guest: &mut Guest, subscriptions: u32, events: u32, count: u32, stored: u32) -> Answer {
    if count == 0 || count > MAX_SUBSCRIPTIONS {
        return Err(Errno::Inval.into());
    }
    let mut ready = Vec::new();
    let mut earliest: Option<(u64, [u8; 8])> = None;
    for index in 0..count {
        let at = subscriptions.checked_add(index * SUBSCRIPTION_BYTES).ok_or(Errno::Fault)?;
        let bytes = view.read(at, SUBSCRIPTION_BYTES)?;
        let word = |from: usize| -> [u8; 8] { std::array::from_fn(|index| bytes[from + index]) };
        let (user, kind, clock) = (word(0), bytes[8], bytes[16]);
        let (timeout, flags) = (u64::from_le_bytes(word(24)), u16::from_le_bytes([bytes[40], bytes[41]]));
        if kind != EVENT_CLOCK {
            ready.push((user, kind));
            continue;
        }
        let wait = if flags & ABSOLUTE == 0 { timeout } else { timeout.saturating_sub(time(guest, u32::from(clock))?) };
        if earliest.is_none_or(|(least, _)| wait < least) {
            earliest = Some((wait, user));
        }
    }
    if ready.is_empty()
        && let Some((wait, user)) = earliest
    {
        guest.clock.skip(wait);
        ready.push((user, EVENT_CLOCK));
    }
    for (index, (user, kind)) in (0u32..).zip(&ready) {
        let mut event = [0; EVENT_BYTES as usize];
        event[..8].copy_from_slice(user);
        event[10] = *kind;
        // How much can be read or written without waiting: enough to try.
        event[16..24].copy_from_slice(&4096u64.to_le_bytes());
        view.write(events.checked_add(index * EVENT_BYTES).ok_or(Errno::Fault)?, &event)?;
    }
    let ready = u32::try_from(ready.len()).map_err(|_| Errno::Inval)?;
    Ok(view.write_u32(stored, ready)?)
}
