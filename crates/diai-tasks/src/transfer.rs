//! How long to wait for content: as long as something comes, however long all of it takes.

use std::{pin::pin, time::Duration};

use diai_core::{Clock, timeout_at};

use crate::Artifacts;

/// What `work`, a transfer into `artifacts`, gives; `None` once nothing has come from others for `patience`.
///
/// It is counted for all transfers together: one may wait for as long as another brings something. The deadline of its
/// task bounds it. Cancel-safe if `work` is.
pub(crate) async fn while_it_flows<T>(
    clock: &dyn Clock,
    artifacts: &dyn Artifacts,
    patience: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    let (mut before, mut quiet) = (None, 0);
    loop {
        // Two looks a wait, so that most transfers, which are short, need none.
        let until = clock.now() + patience / 2;
        if let Ok(done) = timeout_at(clock, until, work.as_mut()).await {
            return Some(done);
        }
        let received = artifacts.received().await;
        // The first look cannot tell whether something came before it.
        quiet = if before.is_none_or(|before| before == received) { quiet + 1 } else { 0 };
        if quiet == 2 {
            return None;
        }
        before = Some(received);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use bytes::Bytes;
    use cid::Cid;
    use diai_core::{
        AgentId, BoxFuture,
        memory::{AgentSpec, Sim},
    };
    use futures::FutureExt;

    use super::*;
    use crate::{Access, ArtifactError, Content};

    /// Something comes at every so manieth look, if ever.
    struct Trickle {
        every: u64,
        looks: AtomicU64,
    }

    fn trickle(every: u64) -> Trickle {
        Trickle { every, looks: AtomicU64::new(0) }
    }

    impl Artifacts for Trickle {
        fn get(
            &self,
            cid: Cid,
            _: u64,
            _: Access,
            _: Option<AgentId>,
        ) -> BoxFuture<'static, Result<Content, ArtifactError>> {
            std::future::ready(Err(ArtifactError::NotAllowed { cid })).boxed()
        }

        fn prove(&self, _: Cid, _: [u8; 32]) -> BoxFuture<'static, Option<[u8; 32]>> {
            std::future::ready(None).boxed()
        }

        fn put(&self, _: Bytes, _: Option<AgentId>) -> BoxFuture<'static, Result<Cid, ArtifactError>> {
            std::future::pending().boxed()
        }

        fn flush(&self) -> BoxFuture<'static, Result<(), ArtifactError>> {
            std::future::pending().boxed()
        }

        fn held(&self, _: Cid) -> BoxFuture<'static, Option<u64>> {
            std::future::ready(None).boxed()
        }

        fn received(&self) -> BoxFuture<'static, u64> {
            let looks = self.looks.fetch_add(1, Ordering::SeqCst);
            std::future::ready(looks.checked_div(self.every).unwrap_or(0)).boxed()
        }
    }

    #[test]
    fn a_transfer_may_take_as_long_as_it_likes_but_not_stand_still() {
        const PATIENCE: Duration = Duration::from_secs(10);
        let sim = Sim::new(1);
        let world = sim.join(AgentSpec::example(1));
        sim.run(async move {
            let clock = &*world.clock;
            let after = |seconds| clock.sleep_until(clock.now() + Duration::from_secs(seconds));
            let fast = while_it_flows(clock, &trickle(1), PATIENCE, after(300)).await;
            assert_eq!(fast, Some(()));
            let began = clock.now();
            let slow = while_it_flows(clock, &trickle(3), PATIENCE, after(300)).await;
            assert_eq!((slow, clock.now().since(began)), (None, PATIENCE));
            let began = clock.now();
            let stuck = while_it_flows(clock, &trickle(0), PATIENCE, after(300)).await;
            assert_eq!((stuck, clock.now().since(began)), (None, PATIENCE));
            // Looked at every five seconds, something comes every ten.
            let barely = Trickle { every: 2, looks: AtomicU64::new(1) };
            assert_eq!(while_it_flows(clock, &barely, PATIENCE, after(300)).await, Some(()));
        });
    }
}
