//! Which worker a task goes to, what is asked again, and what one agent may take of another.

#![allow(clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::time::Duration;

use common::{Group, guests, slow, wait};
use diai_tasks::{Config, ExecutorConfig, TaskSpec};
use futures::future;

fn asking() -> Config {
    Config { allow_local: false, ..Config::default() }
}

#[test]
fn a_remembered_result_of_another_agent_is_not_what_was_asked_for() {
    let group = Group::new(23, 3);
    let [alice, bob, carol] = group.peers.clone().try_into().ok().unwrap();
    group.sim.run(async move {
        let _workers = [bob.start(Config::serving()), carol.start(Config::serving())];
        let tasks = alice.start(asking());
        let spec = alice.program(guests::NOTHING);
        for worker in [bob.agent, carol.agent] {
            assert_eq!(tasks.run_on(spec.clone(), vec![worker]).await.unwrap().worker, worker);
        }
        let again = tasks.run_on(spec.clone(), vec![bob.agent, carol.agent]).await.unwrap();
        assert_eq!(again.worker, carol.agent, "that is what is remembered");
    });
}

#[test]
fn who_is_unreachable_for_a_moment_is_asked_again() {
    let group = Group::new(24, 2);
    let (alice, bob) = (group.peers[0].clone(), group.peers[1].clone());
    let board = group.board.clone();
    group.sim.run(async move {
        let _worker = bob.start(Config::serving());
        board.kill(bob.agent);
        let tasks = alice.start(asking());
        let began = alice.world.clock.now();
        let gone = tasks.run_on(alice.program(guests::NOTHING), vec![bob.agent]).await;
        assert_eq!(gone.unwrap_err().code(), "no_worker");
        assert!(alice.world.clock.now().since(began) < Duration::from_secs(2), "but not for ever");
        let run = tasks.run_on(alice.program(guests::NOTHING), vec![bob.agent]);
        wait(&alice.world.clock, 100).await;
        board.revive(bob.agent);
        assert_eq!(run.await.unwrap().worker, bob.agent);
    });
}

#[test]
fn limits_that_are_too_high_for_everybody_are_not_allowed() {
    let group = Group::new(25, 1);
    let alice = group.peers[0].clone();
    group.sim.run(async move {
        let mut spec = alice.program(guests::NOTHING);
        spec.limits.memory_bytes = 1 << 40;
        assert_eq!(alice.start(Config::default()).run(spec).await.unwrap_err().code(), "not_allowed");
    });
}

#[test]
fn what_is_too_large_for_a_worker_costs_no_attempts() {
    let group = Group::new(26, 5);
    let (alice, workers) = (group.peers[0].clone(), group.peers[1..].to_vec());
    group.sim.run(async move {
        let executor = ExecutorConfig { max_program_bytes: 1 << 10, max_input_bytes: 1 << 10, ..Default::default() };
        let small = Config { executor, ..Config::serving() };
        let serving: Vec<_> = workers.iter().map(|peer| peer.start(small.clone())).collect();
        let tasks = alice.start(asking());
        let spec = alice.program(guests::CAT).input("a", alice.store.add(vec![7; 2 << 10]));
        assert_eq!(tasks.run(spec.clone()).await.unwrap_err().code(), "not_allowed");
        let long = TaskSpec::wasm(alice.store.add(vec![7; 2 << 10]));
        assert_eq!(tasks.run(long).await.unwrap_err().code(), "invalid_program");
        drop(serving);
    });
}

#[test]
fn who_holds_the_input_may_be_slower_with_its_bid() {
    let group = Group::new(27, 3);
    let [alice, bob, carol] = group.peers.clone().try_into().ok().unwrap();
    group.board.slow_down(carol.agent, Duration::from_millis(100));
    group.sim.run(async move {
        let _workers = [bob.start(Config::serving()), carol.start(Config::serving())];
        let mut spec = alice.program(guests::CAT).input("a", carol.store.add(vec![7; 8 << 20]));
        spec.limits.output_bytes = 16 << 20;
        assert_eq!(alice.start(asking()).run(spec).await.unwrap().worker, carol.agent);
    });
}

#[test]
fn one_agent_leaves_room_for_others() {
    let group = Group::new(28, 3);
    let [alice, bob, mallory] = group.peers.clone().try_into().ok().unwrap();
    group.sim.run(async move {
        let worker = bob.start(Config::serving());
        let _service = worker.register("slow", slow(&bob)).unwrap();
        let greedy = mallory.start(Config { busy_patience: Duration::ZERO, ..asking() });
        let flood: Vec<_> = (0..20).map(|nonce| greedy.run(TaskSpec::service("slow").nonce(nonce))).collect();
        wait(&alice.world.clock, 50).await;
        let patient = alice.start(Config { busy_patience: Duration::ZERO, ..asking() });
        assert_eq!(patient.run(TaskSpec::service("slow")).await.unwrap().worker, bob.agent);
        let flood = future::join_all(flood.into_iter().map(|run| run.result())).await;
        assert_eq!(flood.iter().filter(|result| result.is_ok()).count(), 3);
    });
}
