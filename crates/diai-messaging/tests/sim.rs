//! Whole messagings over the in-memory World.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Agent, echo, until};
use diai_core::{
    AgentId, BoxFuture, Bytes, CallError, CallOptions, Calls, Priority, Refusal, Reply, Request, memory::Sim,
    service_fn,
};
use diai_messaging::{Config, Device, Locate, Messaging, NoLocate, StartError};
use futures::{StreamExt, future::join_all, stream};

#[test]
fn requests_streams_and_notices_work_in_both_directions_over_one_session() {
    let sim = Sim::new(1);
    let (alice, bob) = Agent::two(&sim);
    sim.run(async move {
        let (a, b) = (alice.messaging(), bob.messaging());
        let count = service_fn(|_| async {
            Ok(Reply::Parts(
                stream::iter((0..500u32).map(|number| Ok(Bytes::from(number.to_le_bytes().to_vec())))).boxed(),
            ))
        });
        let _served = [a.register("echo", echo()).unwrap(), b.register("echo", echo()).unwrap()];
        let _counting = b.register("count", count).unwrap();
        alice.world.network.connect(bob.peer(), vec![]).await.unwrap();
        let big = Bytes::from(vec![5; 3 << 20]);
        let to_b = a.call(bob.identity.agent(), "echo", big.clone(), CallOptions::default());
        let to_a = b.call(alice.identity.agent(), "echo", big.clone(), CallOptions::default());
        let (at_a, at_b) = futures::join!(to_b, to_a);
        assert_eq!(at_a.unwrap(), big);
        assert_eq!(at_b.unwrap(), big);
        a.notify(bob.identity.agent(), "echo", Bytes::from("hi"), CallOptions::default()).await.unwrap();
        let parts =
            a.call_streaming(bob.identity.agent(), "count", Bytes::new(), CallOptions::default()).await.unwrap();
        let parts: Vec<_> = parts.map(|part| part.unwrap()).collect().await;
        assert_eq!(parts.len(), 500);
        assert_eq!(parts[499], 499u32.to_le_bytes().to_vec());
        until(&alice.world, || a.status().sessions == 1 && b.status().sessions == 1).await;
    });
}

#[test]
fn requests_that_are_ready_together_leave_in_one_write() {
    let sim = Sim::new(2);
    let (alice, bob) = Agent::two(&sim);
    sim.run(async move {
        let (a, b) = (alice.messaging(), bob.messaging());
        let _served = b.register("echo", echo()).unwrap();
        alice.world.network.connect(bob.peer(), vec![]).await.unwrap();
        let call = |_| a.call(bob.identity.agent(), "echo", Bytes::from_static(&[1; 64]), CallOptions::default());
        call(0).await.unwrap();
        let (before, there) = (a.status().writes, b.status().writes);
        for result in join_all((0..64).map(call)).await {
            result.unwrap();
        }
        assert_eq!(a.status().writes - before, 1);
        assert_eq!(b.status().writes - there, 1);
    });
}

#[test]
fn two_sessions_opened_at_once_become_one_and_lose_nothing() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let (alice, bob) = Agent::two(&sim);
        sim.run(async move {
            let (a, b) = (alice.messaging(), bob.messaging());
            let runs = Arc::new(AtomicUsize::new(0));
            let counted = runs.clone();
            let service = service_fn(move |request: Request| {
                counted.fetch_add(1, Ordering::Relaxed);
                async move { Ok(Reply::from(request.body)) }
            });
            let _served = [a.register("echo", service.clone()).unwrap(), b.register("echo", service).unwrap()];
            alice.world.network.connect(bob.peer(), vec![]).await.unwrap();
            let calls = (0..100).map(|index| {
                let (from, to) = if index % 2 == 0 { (&a, &bob) } else { (&b, &alice) };
                from.call(to.identity.agent(), "echo", Bytes::from(vec![index as u8]), CallOptions::default())
            });
            for (index, result) in join_all(calls).await.into_iter().enumerate() {
                assert_eq!(result.unwrap(), vec![index as u8]);
            }
            assert_eq!(runs.load(Ordering::Relaxed), 100);
            until(&alice.world, || a.status().sessions == 1 && b.status().sessions == 1).await;
        });
    }
}

#[test]
fn a_broken_session_leaves_the_outcome_unknown_and_idempotent_calls_are_tried_again() {
    let sim = Sim::new(3);
    let (alice, bob) = Agent::two(&sim);
    let cutter = sim.clone();
    sim.run(async move {
        let b = bob.messaging();
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let clock = bob.world.clock.clone();
        let slow = service_fn(move |request: Request| {
            counted.fetch_add(1, Ordering::Relaxed);
            let clock = clock.clone();
            async move {
                clock.sleep_until(clock.now() + Duration::from_secs(1)).await;
                Ok(Reply::from(request.body))
            }
        });
        let _served = b.register("slow", slow).unwrap();
        let to = bob.identity.agent();
        let locate = Known(to, bob.peer());
        let a = Messaging::start(&alice.world, &alice.identity, Arc::new(locate), Config::default()).unwrap();
        let once = a.call(to, "slow", Bytes::from("once"), CallOptions::default());
        let again = a.call(to, "slow", Bytes::from("again"), CallOptions::default().idempotent());
        let cut = async {
            until(&alice.world, || runs.load(Ordering::Relaxed) == 2).await;
            cutter.disconnect(alice.peer(), bob.peer());
        };
        let (once, again, ()) = futures::join!(once, again, cut);
        assert_eq!(once, Err(CallError::OutcomeUnknown { agent: to }));
        assert_eq!(again.unwrap(), "again");
        assert_eq!(runs.load(Ordering::Relaxed), 3);
    });
}

struct Known(AgentId, diai_core::PeerId);

impl Locate for Known {
    fn locate(&self, agent: AgentId) -> BoxFuture<'static, Vec<Device>> {
        let devices = if agent == self.0 { vec![Device { peer: self.1, addrs: vec![] }] } else { vec![] };
        Box::pin(async { devices })
    }
}

#[test]
fn an_agent_that_is_not_connected_is_located_and_a_stranger_is_not_taken_for_it() {
    let sim = Sim::new(4);
    let (alice, bob) = Agent::two(&sim);
    sim.run(async move {
        let b = bob.messaging();
        let _served = b.register("echo", echo()).unwrap();
        let nobody = AgentId::from_bytes([9; 32]);
        let locate = Arc::new(Known(nobody, bob.peer()));
        let a = Messaging::start(&alice.world, &alice.identity, locate, Config::default()).unwrap();
        let error = a.call(nobody, "echo", Bytes::new(), CallOptions::default()).await.unwrap_err();
        let CallError::Unreachable { reason, .. } = error else { panic!("{error}") };
        assert!(reason.contains("another agent"), "{reason}");
        let unknown = AgentId::from_bytes([8; 32]);
        let error = a.call(unknown, "echo", Bytes::new(), CallOptions::default()).await.unwrap_err();
        assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    });
}

#[test]
fn typed_refusals_travel() {
    let sim = Sim::new(5);
    let (alice, bob) = Agent::two(&sim);
    sim.run(async move {
        let banned = alice.identity.agent();
        let policy = move |from: AgentId, service: &str| {
            if from == banned && service == "secret" { Err("friends only".to_owned()) } else { Ok(()) }
        };
        let a = alice.messaging();
        let b = bob.messaging_with(Config { policy: Arc::new(policy), ..Config::default() });
        let panics = service_fn(|_| async { panic!("on purpose") });
        let parts = service_fn(|_| async { Ok(Reply::Parts(stream::iter([Ok(Bytes::new())]).boxed())) });
        let _served = [
            b.register("secret", echo()).unwrap(),
            b.register("panics", panics).unwrap(),
            b.register("parts", parts).unwrap(),
        ];
        alice.world.network.connect(bob.peer(), vec![]).await.unwrap();
        let agent = bob.identity.agent();
        let refusal = |service: &'static str| {
            let call = a.call(agent, service, Bytes::new(), CallOptions::default());
            async move {
                match call.await {
                    Err(CallError::Refused { refusal, .. }) => refusal,
                    other => panic!("{service}: {other:?}"),
                }
            }
        };
        assert_eq!(refusal("nothing").await, Refusal::UnknownService);
        assert_eq!(refusal("").await, Refusal::UnknownService);
        let long: &'static str = Box::leak("x".repeat(129).into_boxed_str());
        assert_eq!(refusal(long).await, Refusal::UnknownService);
        assert_eq!(refusal("secret").await, Refusal::NotAllowed { reason: "friends only".into() });
        assert!(matches!(refusal("panics").await, Refusal::Failed { .. }));
        assert!(matches!(refusal("parts").await, Refusal::BadRequest { .. }));
        assert_eq!(a.status().sessions, 1, "none of it cost the session");
    });
}

#[test]
fn calls_to_the_own_agent_need_no_network() {
    let sim = Sim::new(6);
    let alice = Agent::join(&sim, 1);
    sim.run(async move {
        let a = alice.messaging();
        let me = alice.identity.agent();
        let _served = a.register("echo", echo()).unwrap();
        assert_eq!(a.call(me, "echo", Bytes::from("x"), CallOptions::default()).await.unwrap(), "x");
        let parts = a.call_streaming(me, "echo", Bytes::from("y"), CallOptions::default()).await.unwrap();
        assert_eq!(parts.map(|part| part.unwrap()).collect::<Vec<_>>().await, ["y"]);
        let hangs = service_fn(|_| async { std::future::pending().await });
        let _hangs = a.register("hangs", hangs).unwrap();
        let late = a.call(me, "hangs", Bytes::new(), CallOptions::within(Duration::from_millis(5))).await;
        assert_eq!(late, Err(CallError::Deadline { agent: me }));
        assert_eq!(a.status().sessions, 0);
    });
}

#[test]
fn ten_thousand_calls_at_once_are_refused_beyond_the_cap_and_others_are_served() {
    let sim = Sim::new(7);
    let (alice, bob) = Agent::two(&sim);
    let carol = Agent::join(&sim, 3);
    sim.run(async move {
        let (a, b, c) = (alice.messaging(), bob.messaging(), carol.messaging());
        let _served = b.register("echo", echo()).unwrap();
        for other in [&alice, &carol] {
            other.world.network.connect(bob.peer(), vec![]).await.unwrap();
        }
        let to = bob.identity.agent();
        let calls: Vec<_> = (0..10_000).map(|_| a.call(to, "echo", Bytes::from("x"), CallOptions::default())).collect();
        let other = c.call(to, "echo", Bytes::from("y"), CallOptions::within(Duration::from_secs(1)));
        let (results, other) = futures::join!(join_all(calls), other);
        assert_eq!(other.unwrap(), "y");
        let served = results.iter().filter(|result| result.is_ok()).count();
        let limit = Config::default().max_calls;
        assert_eq!(served, limit);
        assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(CallError::TooMany { .. }))));
    });
}

#[test]
fn a_slow_reader_of_a_stream_slows_its_sender_and_nobody_else() {
    let sim = Sim::new(8);
    let (alice, bob) = Agent::two(&sim);
    sim.run(async move {
        let (a, b) = (alice.messaging(), bob.messaging());
        let produced = Arc::new(AtomicUsize::new(0));
        let counted = produced.clone();
        let endless = service_fn(move |_| {
            let counted = counted.clone();
            async move {
                let parts = stream::repeat_with(move || {
                    counted.fetch_add(1, Ordering::Relaxed);
                    Ok(Bytes::from_static(&[0; 1024]))
                });
                Ok(Reply::Parts(parts.boxed()))
            }
        });
        let _served = [b.register("endless", endless).unwrap(), b.register("echo", echo()).unwrap()];
        alice.world.network.connect(bob.peer(), vec![]).await.unwrap();
        let to = bob.identity.agent();
        let mut parts = a.call_streaming(to, "endless", Bytes::new(), CallOptions::default()).await.unwrap();
        parts.next().await.unwrap().unwrap();
        for _ in 0..50 {
            a.call(to, "echo", Bytes::new(), CallOptions::default()).await.unwrap();
        }
        let stopped = produced.load(Ordering::Relaxed);
        assert!((200..=300).contains(&stopped), "256 KiB of credit are some 240 parts, not {stopped}");
        for _ in 0..1000 {
            parts.next().await.unwrap().unwrap();
        }
        assert!(produced.load(Ordering::Relaxed) >= 1000);
        drop(parts);
        until(&bob.world, || b.status().open_requests == 0).await;
    });
}

#[test]
fn shutdown_finishes_what_is_open_and_refuses_what_is_new() {
    let sim = Sim::new(9);
    let (alice, bob) = Agent::two(&sim);
    sim.run(async move {
        let (a, b) = (alice.messaging(), bob.messaging());
        let clock = bob.world.clock.clone();
        let begun = Arc::new(AtomicUsize::new(0));
        let counted = begun.clone();
        let slow = service_fn(move |request: Request| {
            let clock = clock.clone();
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                clock.sleep_until(clock.now() + Duration::from_secs(2)).await;
                Ok(Reply::from(request.body))
            }
        });
        let _served = b.register("slow", slow).unwrap();
        alice.world.network.connect(bob.peer(), vec![]).await.unwrap();
        let to = bob.identity.agent();
        let open = a.call(to, "slow", Bytes::from("x"), CallOptions::default());
        let shut = async {
            until(&bob.world, || begun.load(Ordering::Relaxed) == 1).await;
            b.shutdown().await;
        };
        let (open, ()) = futures::join!(open, shut);
        assert_eq!(open.unwrap(), "x");
        assert_eq!(b.status().sessions, 0);
        let closed = b.call(alice.identity.agent(), "slow", Bytes::new(), CallOptions::default()).await;
        assert_eq!(closed, Err(CallError::Closed));
        assert!(a.call(to, "slow", Bytes::new(), CallOptions::default()).await.is_err());
        b.shutdown().await;
    });
}

#[test]
fn a_dead_peer_is_noticed_and_its_calls_end() {
    let sim = Sim::new(10);
    let (alice, bob) = Agent::two(&sim);
    let killer = sim.clone();
    sim.run(async move {
        let (a, b) = (alice.messaging(), bob.messaging());
        let hangs = service_fn(|_| async { std::future::pending().await });
        let _served = b.register("hangs", hangs).unwrap();
        alice.world.network.connect(bob.peer(), vec![]).await.unwrap();
        let to = bob.identity.agent();
        let call = a.call(to, "hangs", Bytes::new(), CallOptions::within(Duration::from_secs(600)));
        let kill = async {
            until(&alice.world, || b.status().open_requests == 1).await;
            killer.kill(bob.peer());
        };
        let (call, ()) = futures::join!(call, kill);
        assert_eq!(call, Err(CallError::OutcomeUnknown { agent: to }));
        until(&alice.world, || a.status().sessions == 0).await;
    });
}

#[test]
fn code_of_the_user_that_panics_holds_up_no_caller_and_no_shutdown() {
    struct PanicsWhenDropped;
    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    let sim = Sim::new(13);
    let (alice, bob) = Agent::two(&sim);
    sim.run(async move {
        let policy = |_: AgentId, service: &str| {
            assert_ne!(service, "panics", "on purpose");
            Ok(())
        };
        let (a, b) = (alice.messaging(), bob.messaging_with(Config { policy: Arc::new(policy), ..Config::default() }));
        let hangs = service_fn(|request: Request| {
            let guard = (&request.body[..] == b"panic").then(|| PanicsWhenDropped);
            async move {
                let _guard = guard;
                std::future::pending().await
            }
        });
        let _served = [b.register("echo", echo()).unwrap(), b.register("hangs", hangs).unwrap()];
        alice.world.network.connect(bob.peer(), vec![]).await.unwrap();
        let to = bob.identity.agent();
        let refused = a.call(to, "panics", Bytes::new(), CallOptions::default()).await;
        assert!(matches!(refused, Err(CallError::Refused { refusal: Refusal::Failed { .. }, .. })), "{refused:?}");
        assert_eq!(a.status().sessions, 1, "it cost the request and not the session");

        let other = a.call(to, "hangs", Bytes::new(), CallOptions::default());
        let from_there = b.call(alice.identity.agent(), "nothing", Bytes::new(), CallOptions::default());
        let panics = a.call(to, "hangs", Bytes::from("panic"), CallOptions::within(Duration::from_secs(1)));
        let (other, panics, from_there) = futures::join!(other, panics, from_there);
        assert_eq!(other, Err(CallError::OutcomeUnknown { agent: to }));
        assert_eq!(panics, Err(CallError::Deadline { agent: to }));
        assert!(from_there.is_err());
        assert_eq!(a.call(to, "echo", Bytes::from("x"), CallOptions::default()).await.unwrap(), "x");
        b.shutdown().await;
        assert_eq!(b.status().sessions, 0);
    });
}

#[test]
fn high_priority_answers_overtake_bulk() {
    let sim = Sim::new(11);
    let (alice, bob) = Agent::two(&sim);
    sim.run(async move {
        let (a, b) = (alice.messaging(), bob.messaging());
        let _served = b.register("echo", echo()).unwrap();
        alice.world.network.connect(bob.peer(), vec![]).await.unwrap();
        let to = bob.identity.agent();
        let order = Mutex::new(Vec::new());
        let bulk = CallOptions { priority: Priority::Low, ..CallOptions::default() };
        let urgent = CallOptions { priority: Priority::High, ..CallOptions::default() };
        let long = async {
            a.call(to, "echo", Bytes::from(vec![0; 8 << 20]), bulk).await.unwrap();
            order.lock().unwrap().push("bulk");
        };
        let short = async {
            a.call(to, "echo", Bytes::from("now"), urgent).await.unwrap();
            order.lock().unwrap().push("urgent");
        };
        futures::join!(long, short);
        assert_eq!(*order.lock().unwrap(), ["urgent", "bulk"]);
    });
}

#[test]
fn a_bad_configuration_and_a_foreign_identity_do_not_start() {
    let sim = Sim::new(12);
    let (alice, bob) = Agent::two(&sim);
    sim.run(async move {
        let start = |identity, config| Messaging::start(&alice.world, identity, Arc::new(NoLocate), config).map(drop);
        let narrow = Config { request_window_bytes: 1 << 20, ..Config::default() };
        assert!(matches!(start(&alice.identity, narrow), Err(StartError::Config(_))));
        assert!(matches!(start(&bob.identity, Config::default()), Err(StartError::OtherDevice { .. })));
        let first = alice.messaging();
        assert!(matches!(start(&alice.identity, Config::default()), Err(StartError::Accept(_))));
        drop(first);
    });
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = |seed| {
        let sim = Sim::new(seed);
        let (alice, bob) = Agent::two(&sim);
        sim.run(async move {
            let (a, b) = (alice.messaging(), bob.messaging());
            let _served = [a.register("echo", echo()).unwrap(), b.register("echo", echo()).unwrap()];
            alice.world.network.connect(bob.peer(), vec![]).await.unwrap();
            let calls = (0..50usize).map(|index| {
                let (from, to) = if index % 2 == 0 { (&a, &bob) } else { (&b, &alice) };
                from.call(to.identity.agent(), "echo", Bytes::from(vec![1; index * 4000]), CallOptions::default())
            });
            join_all(calls).await
        });
        sim.trace_hash()
    };
    assert_eq!(run(77), run(77));
    assert_ne!(run(77), run(78));
}
