//! Every future can be dropped at any point.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Agent, echo, until};
use diai_core::{Bytes, CallOptions, Calls, Elapsed, memory::Sim, service_fn, timeout_at};

struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn dropping_a_call_drops_its_handler() {
    let sim = Sim::new(1);
    let (alice, bob) = Agent::two(&sim);
    sim.run(async move {
        let (a, b) = (alice.messaging(), bob.messaging());
        let dropped = Arc::new(AtomicUsize::new(0));
        let count = dropped.clone();
        let hangs = service_fn(move |_| {
            let guard = Dropped(count.clone());
            async move {
                let _guard = guard;
                std::future::pending().await
            }
        });
        let _served = b.register("hangs", hangs).unwrap();
        alice.world.network.connect(bob.peer(), vec![]).await.unwrap();
        let call = a.call(bob.identity.agent(), "hangs", Bytes::new(), CallOptions::default());
        let deadline = alice.world.clock.now() + Duration::from_millis(100);
        assert_eq!(timeout_at(&*alice.world.clock, deadline, call).await, Err(Elapsed));
        until(&bob.world, || dropped.load(Ordering::Relaxed) == 1).await;
        until(&bob.world, || b.status().open_requests == 0 && a.status().open_calls == 0).await;
    });
}

#[test]
fn a_deadline_drops_the_handler_when_the_caller_is_gone_for_good() {
    let sim = Sim::new(2);
    let (alice, bob) = Agent::two(&sim);
    let cutter = sim.clone();
    sim.run(async move {
        let (a, b) = (alice.messaging(), bob.messaging());
        let dropped = Arc::new(AtomicUsize::new(0));
        let count = dropped.clone();
        let hangs = service_fn(move |_| {
            let guard = Dropped(count.clone());
            async move {
                let _guard = guard;
                std::future::pending().await
            }
        });
        let _served = b.register("hangs", hangs).unwrap();
        alice.world.network.connect(bob.peer(), vec![]).await.unwrap();
        let call = a.call(bob.identity.agent(), "hangs", Bytes::new(), CallOptions::default());
        let cut = async {
            until(&bob.world, || b.status().open_requests == 1).await;
            cutter.cut(alice.peer(), bob.peer());
        };
        let (result, ()) = futures::join!(call, cut);
        assert!(result.is_err());
        until(&bob.world, || dropped.load(Ordering::Relaxed) == 1).await;
    });
}

#[test]
fn a_call_dropped_at_any_point_leaves_a_session_that_works() {
    let sim = Sim::new(3);
    let (alice, bob) = Agent::two(&sim);
    sim.run(async move {
        let (a, b) = (alice.messaging(), bob.messaging());
        let _served = b.register("echo", echo()).unwrap();
        alice.world.network.connect(bob.peer(), vec![]).await.unwrap();
        let to = bob.identity.agent();
        for step in 0..100u64 {
            // From before the dial is through to after the answer has come.
            let body = Bytes::from(vec![0; if step % 2 == 0 { 10 } else { 2 << 20 }]);
            let call = a.call(to, "echo", body, CallOptions::default());
            let deadline = alice.world.clock.now() + Duration::from_micros(step * 150);
            let _ = timeout_at(&*alice.world.clock, deadline, call).await;
        }
        let big = Bytes::from(vec![3; 16 << 20]);
        assert_eq!(a.call(to, "echo", big.clone(), CallOptions::default()).await.unwrap(), big);
        until(&bob.world, || b.status().open_requests == 0 && a.status().open_calls == 0).await;
        assert_eq!((a.status().violations, b.status().violations), (0, 0));
    });
}

#[test]
fn dropping_the_last_handle_ends_its_sessions() {
    let sim = Sim::new(4);
    let (alice, bob) = Agent::two(&sim);
    sim.run(async move {
        let (a, b) = (alice.messaging(), bob.messaging());
        let _served = b.register("echo", echo()).unwrap();
        alice.world.network.connect(bob.peer(), vec![]).await.unwrap();
        a.call(bob.identity.agent(), "echo", Bytes::new(), CallOptions::default()).await.unwrap();
        assert_eq!(b.status().sessions, 1);
        drop(a);
        until(&bob.world, || b.status().sessions == 0).await;
    });
}
