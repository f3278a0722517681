//! How long to wait for content: as long as enough of it comes, however long all of it takes.

use std::{pin::pin, time::Duration};

use diai_core::{Clock, timeout_at};

use crate::Flow;

/// What comes within half of the patience must be at least this, or nothing came: no place is held by a trickle.
const LEAST_BYTES: u64 = 16 << 10;

/// What `work`, a transfer that `flow` counts, gives; `None` once next to nothing has come of it for `patience`. `quiet`
/// is told when that has lasted for half as long.
///
/// Cancel-safe if `work` is.
pub(crate) async fn while_it_flows<T>(
    clock: &dyn Clock,
    flow: &Flow,
    patience: Duration,
    mut quiet: impl FnMut(),
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    let (mut before, mut looks) = (flow.bytes(), 0);
    loop {
        // Two looks a wait, so that most transfers, which are short, need none.
        let until = clock.now() + patience / 2;
        if let Ok(done) = timeout_at(clock, until, work.as_mut()).await {
            return Some(done);
        }
        let bytes = flow.bytes();
        looks = if bytes - before < LEAST_BYTES { looks + 1 } else { 0 };
        match looks {
            0 => {}
            1 => quiet(),
            _ => return None,
        }
        before = bytes;
    }
}

#[cfg(test)]
mod tests {
    use diai_core::{
        Instant,
        memory::{AgentSpec, Sim},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// So many bytes every so many seconds, until all is over.
    async fn transfer(clock: &dyn Clock, flow: &Flow, bytes: u64, every: u64, until: Instant) {
        while clock.now() < until {
            clock.sleep_until(clock.now() + Duration::from_secs(every)).await;
            flow.add(bytes);
        }
    }

    #[test]
    fn a_transfer_may_take_as_long_as_it_likes_but_neither_stand_still_nor_trickle() {
        let sim = Sim::new(1);
        let world = sim.join(AgentSpec::example(1));
        sim.run(async move {
            let clock = &*world.clock;
            for (bytes, every, ends, quiets) in [
                (LEAST_BYTES, 3, true, 0),
                (2 * LEAST_BYTES, 8, true, 15),
                (LEAST_BYTES / 20, 1, false, 1),
                (1 << 30, 1_000, false, 1),
            ] {
                let (flow, began, mut quiet) = (Flow::default(), clock.now(), 0);
                let work = transfer(clock, &flow, bytes, every, began + Duration::from_secs(300));
                let ended = while_it_flows(clock, &flow, PATIENCE, || quiet += 1, work).await;
                assert_eq!(ended.is_some(), ends, "{bytes} bytes every {every} s");
                assert!(ends || clock.now().since(began) == PATIENCE);
                assert!(if quiets > 1 { quiet >= quiets } else { quiet == quiets }, "{quiet} times quiet");
            }
        });
    }
}
