//! Requesters and workers: who gets a task, and what happens when he fails.

#![allow(clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use common::{Group, guests, slow, wait};
use diai_core::{AgentId, Calls};
use diai_tasks::{
    Config, ExecutorConfig, Input, NativeOutput, NativeTask, Policy, RunError, RunEvent, Serving, TaskEvent,
    TaskFailure, TaskSpec, native_fn,
};
use futures::{StreamExt, future};

fn asking() -> Config {
    Config { allow_local: false, ..Config::default() }
}

/// A service that answers with its owner's name.
fn whoami(agent: AgentId) -> Arc<dyn NativeTask> {
    native_fn(move |_, _| async move { Ok(NativeOutput { stdout: Bytes::from(agent.to_string()), files: vec![] }) })
}

#[test]
fn when_a_worker_dies_at_its_first_progress_another_finishes() {
    let group = Group::new(3, 3);
    let [alice, bob, carol] = group.peers.clone().try_into().ok().unwrap();
    let board = group.board.clone();
    group.sim.run(async move {
        let workers = [&bob, &carol].map(|peer| {
            let tasks = peer.start(Config::serving());
            let service = tasks.register("slow", slow(peer)).unwrap();
            (tasks, service)
        });
        let tasks = alice.start(asking());
        let mut handle = tasks.run(TaskSpec::service("slow"));
        let mut events = handle.events().unwrap();
        let (mut victim, mut log) = (None, Vec::new());
        while let Some(event) = events.next().await {
            if let (RunEvent::Progress { agent, progress }, None) = (&event, victim) {
                assert_eq!((progress.done, progress.total, progress.note.as_str()), (1, 10, "begun"));
                victim = Some(*agent);
                board.kill(*agent);
            }
            log.push(event);
        }
        let output = handle.await.unwrap();
        let victim = victim.unwrap();
        assert_ne!(output.worker, victim);
        assert!(log.iter().any(|event| matches!(event, RunEvent::WorkerLost { agent, .. } if *agent == victim)));
        assert!(log.contains(&RunEvent::Retrying { failed: 1 }));
        assert_eq!(log.last(), Some(&RunEvent::Done { agent: output.worker, remembered: false }));
        drop(workers);
    });
}

#[test]
fn a_running_task_keeps_its_lease_however_long_it_takes() {
    let group = Group::new(4, 2);
    let (alice, bob) = (group.peers[0].clone(), group.peers[1].clone());
    group.sim.run(async move {
        let worker = bob.start(Config::serving());
        let clock = bob.world.clock.clone();
        let service = worker.register(
            "long",
            native_fn(move |_, _| {
                let nap = wait(&clock, 25_000);
                async move {
                    nap.await;
                    Ok(NativeOutput::default())
                }
            }),
        );
        let tasks = alice.start(asking());
        assert_eq!(tasks.run(TaskSpec::service("long")).await.map(|output| output.worker), Ok(bob.agent));
        drop(service);
    });
}

#[test]
fn a_native_task_over_its_time_limit_is_stopped_and_not_retried() {
    let group = Group::new(5, 3);
    let (alice, workers) = (group.peers[0].clone(), group.peers[1..].to_vec());
    group.sim.run(async move {
        let runs = Arc::new(AtomicUsize::new(0));
        let serving: Vec<_> = workers
            .iter()
            .map(|peer| {
                let (tasks, runs) = (peer.start(Config::serving()), runs.clone());
                let never = native_fn(move |_, _| {
                    runs.fetch_add(1, Ordering::SeqCst);
                    future::pending::<Result<NativeOutput, TaskFailure>>()
                });
                (tasks.register("never", never).unwrap(), tasks)
            })
            .collect();
        let tasks = alice.start(asking());
        let error = tasks.run(TaskSpec::service("never")).await.unwrap_err();
        assert_eq!((error.code(), runs.load(Ordering::SeqCst)), ("time_limit", 1));
        drop(serving);
    });
}

#[test]
fn a_service_that_cannot_here_is_tried_elsewhere_and_one_that_cannot_at_all_is_not() {
    let group = Group::new(6, 3);
    let (alice, workers) = (group.peers[0].clone(), group.peers[1..].to_vec());
    group.sim.run(async move {
        let runs = Arc::new(AtomicUsize::new(0));
        let mut serving = Vec::new();
        for peer in &workers {
            let tasks = peer.start(Config::serving());
            for (name, unavailable) in [("later", true), ("never", false)] {
                let runs = runs.clone();
                let service = native_fn(move |_, _| {
                    runs.fetch_add(1, Ordering::SeqCst);
                    let reason = "no".to_owned();
                    let failure =
                        if unavailable { TaskFailure::Unavailable { reason } } else { TaskFailure::Failed { reason } };
                    future::ready(Err(failure))
                });
                serving.push(tasks.register(name, service).unwrap());
            }
            serving.push(diai_core::Registration::new(move || drop(tasks)));
        }
        let tasks = alice.start(asking());
        assert_eq!(tasks.run(TaskSpec::service("later")).await.unwrap_err().code(), "no_worker");
        assert_eq!(runs.swap(0, Ordering::SeqCst), 2);
        assert_eq!(tasks.run(TaskSpec::service("never")).await.unwrap_err().code(), "trap");
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert_eq!(tasks.run(TaskSpec::service("unheard of")).await.unwrap_err().code(), "no_worker");
    });
}

#[test]
fn the_agent_that_holds_the_input_is_preferred() {
    let group = Group::new(7, 4);
    let (alice, workers) = (group.peers[0].clone(), group.peers[1..].to_vec());
    group.sim.run(async move {
        let mut spec = alice.program(guests::CAT);
        let mut inputs = Vec::new();
        let mut serving = Vec::new();
        for (index, peer) in workers.iter().enumerate() {
            peer.store.add(alice_program());
            let part = vec![u8::try_from(index).unwrap(); 2 << 20];
            inputs.push(Input::new("part", peer.store.add(part)));
            serving.push(peer.start(Config::serving()));
        }
        spec.limits.output_bytes = 4 << 20;
        let tasks = alice.start(asking());
        let mut results = tasks.map(spec, inputs.clone());
        let mut seen = BTreeSet::new();
        while let Some((index, output)) = results.next().await {
            let output = output.unwrap();
            assert_eq!(output.worker, workers[index].agent, "part {index} is where it lies");
            assert_eq!(output.stdout().cid, inputs[index].cid);
            assert!(alice.store.holds(&output.stdout().cid), "the output was brought here");
            seen.insert(index);
        }
        assert_eq!(seen.len(), 3);
        drop(serving);
    });
}

fn alice_program() -> Bytes {
    wat::parse_str(guests::CAT).unwrap().into()
}

#[test]
fn more_inputs_than_slots_are_all_mapped() {
    let group = Group::new(8, 3);
    let (alice, workers) = (group.peers[0].clone(), group.peers[1..].to_vec());
    group.sim.run(async move {
        let serving: Vec<_> = workers.iter().map(|peer| peer.start(Config::serving())).collect();
        let tasks = alice.start(asking());
        let inputs: Vec<_> = (0..60u32).map(|n| Input::new("n", alice.store.add(n.to_string()))).collect();
        let results: Vec<_> = tasks.map(alice.program(guests::CAT), inputs).collect().await;
        assert_eq!(results.len(), 60);
        for (index, output) in results {
            assert_eq!(output.unwrap().stdout().inline.as_deref(), Some(index.to_string().as_bytes()));
        }
        drop(serving);
    });
}

#[test]
fn a_task_runs_here_when_nobody_else_can_unless_that_is_switched_off() {
    let group = Group::new(9, 1);
    let alice = group.peers[0].clone();
    group.sim.run(async move {
        let tasks = alice.start(Config::default());
        let output = tasks.run(alice.program(guests::NOTHING)).await.unwrap();
        assert_eq!(output.worker, alice.agent);
        let elsewhere = tasks.run_on(alice.program(guests::NOTHING).nonce(1), vec![]).await;
        assert_eq!(elsewhere.unwrap_err().code(), "no_worker");
        let here = tasks.run_on(alice.program(guests::NOTHING).nonce(2), vec![alice.agent]).await;
        assert_eq!(here.unwrap().worker, alice.agent);
        drop(tasks);
        let tasks = alice.start(asking());
        assert_eq!(tasks.run(alice.program(guests::NOTHING)).await.unwrap_err().code(), "no_worker");
    });
}

#[test]
fn an_equal_task_is_not_run_again() {
    let group = Group::new(10, 2);
    let (alice, bob) = (group.peers[0].clone(), group.peers[1].clone());
    group.sim.run(async move {
        let worker = bob.start(Config::serving());
        let mut served = worker.events();
        let tasks = alice.start(asking());
        let first = tasks.run(alice.program(guests::NOTHING)).await.unwrap();
        let again = tasks.run(alice.program(guests::NOTHING)).await.unwrap();
        assert_eq!(first.attempt, again.attempt);
        let other = tasks.run(alice.program(guests::NOTHING).nonce(1)).await.unwrap();
        assert_ne!(first.attempt, other.attempt);
        drop((worker, tasks));
        let mut begun = 0;
        while let Some(event) = futures::FutureExt::now_or_never(served.next()).flatten() {
            begun += usize::from(matches!(event, TaskEvent::Serving { .. }));
        }
        assert_eq!(begun, 2);
    });
}

#[test]
fn what_nobody_has_is_an_error_that_says_who_was_asked() {
    let group = Group::new(11, 3);
    let (alice, workers) = (group.peers[0].clone(), group.peers[1..].to_vec());
    group.sim.run(async move {
        let serving: Vec<_> = workers.iter().map(|peer| peer.start(Config::serving())).collect();
        let tasks = alice.start(asking());
        let nowhere = common::raw_cid(b"nowhere");
        for spec in [TaskSpec::wasm(nowhere), alice.program(guests::CAT).input("a", nowhere)] {
            let error = tasks.run(spec).await.unwrap_err();
            assert_eq!(error.code(), "not_found");
            let text = error.to_string();
            assert!(text.contains(&nowhere.to_string()) && text.contains("everybody in the test"), "{text}");
            assert!(workers.iter().all(|peer| text.contains(&peer.agent.to_string())), "{text}");
        }
        drop(serving);
    });
}

#[test]
fn a_deadline_ends_the_search_and_the_run() {
    let group = Group::new(12, 2);
    let (alice, bob) = (group.peers[0].clone(), group.peers[1].clone());
    group.sim.run(async move {
        let worker = bob.start(Config::serving());
        let stopped = Arc::new(Mutex::new(false));
        struct OnDrop(Arc<Mutex<bool>>);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                *self.0.lock().unwrap() = true;
            }
        }
        let flag = stopped.clone();
        let service = worker.register(
            "endless",
            native_fn(move |_, _| {
                let guard = OnDrop(flag.clone());
                async move {
                    future::pending::<()>().await;
                    drop(guard);
                    Ok(NativeOutput::default())
                }
            }),
        );
        let tasks = alice.start(asking());
        let began = alice.world.clock.now();
        let error = tasks.run(TaskSpec::service("endless").deadline(Duration::from_secs(7))).await.unwrap_err();
        assert_eq!(error.code(), "deadline");
        assert_eq!(alice.world.clock.now().since(began), Duration::from_secs(7));
        assert!(*stopped.lock().unwrap(), "the worker stopped when the requester did");
        drop(service);
    });
}

#[test]
fn only_who_is_on_the_list_is_served() {
    let group = Group::new(13, 3);
    let [alice, bob, carol] = group.peers.clone().try_into().ok().unwrap();
    group.sim.run(async move {
        let policy = Policy::Allow(BTreeSet::from([carol.agent]));
        let worker = bob.start(Config { serve: Some(Serving { policy, ..Serving::default() }), ..Config::default() });
        let _service = worker.register("whoami", whoami(bob.agent)).unwrap();
        let refused = alice.start(asking()).run(TaskSpec::service("whoami")).await;
        assert_eq!(refused.unwrap_err().code(), "not_allowed");
        let served = carol.start(asking()).run(TaskSpec::service("whoami")).await.unwrap();
        assert_eq!(served.stdout().inline.as_deref(), Some(bob.agent.to_string().as_bytes()));
    });
}

#[test]
fn who_does_not_serve_is_not_there_for_others() {
    let group = Group::new(14, 2);
    let (alice, bob) = (group.peers[0].clone(), group.peers[1].clone());
    group.sim.run(async move {
        let _idle = bob.start(Config::default());
        let result = alice.start(asking()).run_on(alice.program(guests::NOTHING), vec![bob.agent]).await;
        assert_eq!(result.unwrap_err().code(), "no_worker");
    });
}

fn one_slot() -> Config {
    let executor = ExecutorConfig { max_guests: 1, max_queued: 0, ..ExecutorConfig::default() };
    Config { executor, busy_patience: Duration::from_millis(500), ..Config::serving() }
}

#[test]
fn a_full_worker_is_busy_and_takes_the_next_task_when_it_is_free() {
    let group = Group::new(15, 2);
    let (alice, bob) = (group.peers[0].clone(), group.peers[1].clone());
    group.sim.run(async move {
        let worker = bob.start(one_slot());
        let _service = worker.register("slow", slow(&bob)).unwrap();
        let impatient = alice.start(Config { busy_patience: Duration::from_millis(300), ..asking() });
        let first = impatient.run(TaskSpec::service("slow").nonce(1));
        wait(&alice.world.clock, 50).await;
        let error = impatient.run(TaskSpec::service("slow").nonce(2)).await.unwrap_err();
        assert_eq!(error.code(), "busy");
        let patient = alice.start(asking());
        let second = patient.run(TaskSpec::service("slow").nonce(3));
        let (first, second) = future::join(first.result(), second.result()).await;
        assert_eq!((first.unwrap().worker, second.unwrap().worker), (bob.agent, bob.agent));
    });
}

#[test]
fn of_a_thousand_offers_at_once_most_are_told_that_the_worker_is_busy() {
    let group = Group::new(16, 3);
    let [alice, bob, mallory] = group.peers.clone().try_into().ok().unwrap();
    group.sim.run(async move {
        let worker = bob.start(one_slot());
        let _service = worker.register("slow", slow(&bob)).unwrap();
        let tasks = mallory.start(Config { busy_patience: Duration::ZERO, ..asking() });
        let flood = (0..1000).map(|nonce| tasks.run(TaskSpec::service("slow").nonce(nonce)).result());
        let results = future::join_all(flood).await;
        let busy = results.iter().filter(|result| matches!(result, Err(RunError::Busy { .. }))).count();
        let done = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!((done, busy), (1, 999));
        let after = alice.start(asking()).run(TaskSpec::service("slow")).await;
        assert_eq!(after.unwrap().worker, bob.agent, "others are served");
    });
}

#[test]
fn a_task_without_inputs_is_awarded_at_once_to_a_worker_that_was_just_free() {
    let group = Group::new(17, 3);
    let (alice, workers) = (group.peers[0].clone(), group.peers[1..].to_vec());
    group.sim.run(async move {
        let serving: Vec<_> = workers.iter().map(|peer| peer.start(Config::serving())).collect();
        let tasks = alice.start(asking());
        tasks.run(alice.program(guests::NOTHING).nonce(0)).await.unwrap();
        let mut handle = tasks.run(alice.program(guests::NOTHING).nonce(1));
        let events: Vec<_> = handle.events().unwrap().collect().await;
        assert!(matches!(events[..], [RunEvent::Awarded { .. }, RunEvent::Done { .. }]), "{events:?}");
        handle.await.unwrap();
        drop(serving);
    });
}

#[test]
fn shutdown_waits_for_what_runs_and_takes_nothing_new() {
    let group = Group::new(18, 2);
    let (alice, bob) = (group.peers[0].clone(), group.peers[1].clone());
    group.sim.run(async move {
        let worker = bob.start(Config::serving());
        let _service = worker.register("slow", slow(&bob)).unwrap();
        let tasks = alice.start(asking());
        let running = tasks.run(TaskSpec::service("slow"));
        wait(&alice.world.clock, 50).await;
        let (ended, result) = future::join(worker.shutdown(Duration::from_secs(10)), running.result()).await;
        assert!(ended);
        assert_eq!(result.unwrap().worker, bob.agent);
        let later = tasks.run(TaskSpec::service("slow").nonce(1)).await;
        assert_eq!(later.unwrap_err().code(), "no_worker");
    });
}

#[test]
fn partial_results_arrive_in_order_before_the_result() {
    let group = Group::new(19, 2);
    let (alice, bob) = (group.peers[0].clone(), group.peers[1].clone());
    group.sim.run(async move {
        let worker = bob.start(Config::serving());
        let service = native_fn(|context: diai_tasks::TaskContext, _| async move {
            for part in ["one", "two", "three"] {
                assert!(context.partial(Bytes::from(part)).await);
            }
            future::pending::<Result<NativeOutput, TaskFailure>>().await
        });
        let _service = worker.register("parts", service).unwrap();
        let tasks = alice.start(asking());
        let mut handle = tasks.run(TaskSpec::service("parts"));
        let events = handle.events().unwrap();
        let parts = events.filter_map(|event| {
            future::ready(match event {
                RunEvent::Partial { part, .. } => Some(part),
                _ => None,
            })
        });
        let parts: Vec<_> = parts.take(3).collect().await;
        assert_eq!(parts, ["one", "two", "three"]);
    });
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = || {
        let group = Group::new(20, 4);
        let (alice, workers) = (group.peers[0].clone(), group.peers[1..].to_vec());
        group.sim.run(async move {
            let serving: Vec<_> = workers.iter().map(|peer| peer.start(Config::serving())).collect();
            let tasks = alice.start(asking());
            let mut events = tasks.events();
            let inputs = (0..9u32).map(|n| Input::new("n", alice.store.add(n.to_string()))).collect();
            let order: Vec<_> = tasks.map(alice.program(guests::CAT), inputs).map(|(index, _)| index).collect().await;
            drop(tasks);
            let mut log = Vec::new();
            while let Some(Some(event)) = futures::FutureExt::now_or_never(events.next()) {
                log.push(event);
            }
            drop(serving);
            (order, log)
        })
    };
    assert_eq!(run(), run());
}

#[test]
fn a_guest_made_with_the_standard_library_runs_and_reports_progress() {
    let group = Group::new(21, 2);
    let (alice, bob) = (group.peers[0].clone(), group.peers[1].clone());
    group.sim.run(async move {
        let _worker = bob.start(Config::serving());
        let program = alice.store.add(&include_bytes!("guests/std_guest.wasm")[..]);
        let spec = TaskSpec::wasm(program)
            .arg("--greeting")
            .arg("grüß dich")
            .input("first.txt", alice.store.add("to be or not to be"))
            .input("second.txt", alice.store.add("second"))
            .clock_start(diai_core::WallTime::from_unix_ms(1_700_000_000_000));
        let mut handle = alice.start(asking()).run(spec);
        let progress = handle.events().unwrap().filter_map(|event| {
            future::ready(match event {
                RunEvent::Progress { progress, .. } => Some(progress),
                _ => None,
            })
        });
        let notes: Vec<_> =
            progress.map(|progress| format!("{}/{} {}", progress.done, progress.total, progress.note)).collect().await;
        assert_eq!(notes, ["1/3 folders", "2/3 files", "3/3 time"]);
        let output = handle.await.unwrap();
        assert_eq!(output.stdout().inline.as_deref(), Some("grüß dich 4 words 1700000005\n".as_bytes()));
        let names: Vec<_> = output.files().iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["notes.txt", "sub/second.txt"]);
        assert_eq!(output.file("notes.txt").unwrap().inline.as_deref(), Some(&b"hello small world"[..]));
    });
}

#[test]
fn the_service_names_are_taken_once() {
    let group = Group::new(22, 1);
    let alice = group.peers[0].clone();
    let worker = alice.start(Config::serving());
    let taken = diai_core::service_fn(|_| async { Ok(Bytes::new().into()) });
    assert!(alice.calls.register("diai.task.run", taken).is_err());
    drop(worker);
}
