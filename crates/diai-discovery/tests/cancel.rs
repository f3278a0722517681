//! Futures and streams that are dropped halfway.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::Duration;

use common::{Agent, join, path, registration};
use diai_core::memory::Sim;
use diai_discovery::{Config, Discovery, FindOptions};
use futures::{FutureExt, StreamExt};

#[test]
fn a_registration_holds_though_nobody_waited_for_it() {
    let sim = Sim::new(1);
    sim.run(async {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        assert!(alice.discovery.register(registration(&["render"])).now_or_never().is_none());
        alice.wait(Duration::from_secs(1)).await;
        assert_eq!(bob.find_peers("render").await, [alice.peer()]);
    });
}

#[test]
fn a_lookup_that_is_dropped_leaves_the_next_one_whole() {
    let sim = Sim::new(2);
    sim.run(async {
        let mut agents = Vec::new();
        for number in 0..10 {
            agents.push(Agent::offering(&sim, number, &["render"]).await);
        }
        let bob = Agent::start(&sim, 100).await;
        for wait_ms in 0..10 {
            let mut found = bob.discovery.find(&path("render"), FindOptions::default());
            // Far enough to have asked, in turn, for providers and for records.
            futures::future::select(found.next(), Box::pin(bob.wait(Duration::from_millis(wait_ms)))).await;
        }
        assert_eq!(bob.find("render").await.len(), 10);
    });
}

#[test]
fn lookups_that_are_kept_and_not_looked_at_hold_up_no_other() {
    let sim = Sim::new(5);
    sim.run(async {
        let mut agents = Vec::new();
        for number in 0..10 {
            agents.push(Agent::offering(&sim, number, &[&format!("kept/{number}")]).await);
        }
        let alice = Agent::offering(&sim, 50, &["render"]).await;
        let (world, identity) = join(&sim, 100);
        let config = Config { max_fetches: 1, ..Config::default() };
        let discovery = Discovery::start(&world, identity.clone(), config).await.unwrap();
        let bob = Agent { world, identity, discovery };
        let mut kept = Vec::new();
        for number in 0..10 {
            let mut found = bob.discovery.find(&path(&format!("kept/{number}")), FindOptions::default());
            // Far enough to be, in turn, at each of its steps.
            futures::future::select(found.next(), Box::pin(bob.wait(Duration::from_millis(number)))).await;
            kept.push(found);
        }
        assert_eq!(bob.find_peers("render").await, [alice.peer()]);
    });
}

#[test]
fn two_lookups_at_once_find_the_same() {
    let sim = Sim::new(3);
    sim.run(async {
        let mut agents = Vec::new();
        for number in 0..10 {
            agents.push(Agent::offering(&sim, number, &["render"]).await);
        }
        let bob = Agent::start(&sim, 100).await;
        let (one, other) = futures::join!(bob.find_peers("render"), bob.find_peers("render"));
        assert_eq!((one.len(), &one), (10, &other));
    });
}

#[test]
fn dropping_the_last_handle_stops_the_answers() {
    let sim = Sim::new(4);
    sim.run(async {
        let (alice, bob) = (Agent::offering(&sim, 1, &["render"]).await, Agent::start(&sim, 2).await);
        let Agent { world, discovery, .. } = alice;
        let second = discovery.clone();
        drop(discovery);
        assert!(second.register(registration(&["paint"])).await.is_ok(), "one handle is left");
        drop(second);
        bob.wait(Duration::from_secs(1)).await;
        let protocols = [diai_discovery::RECORD_PROTOCOL];
        let opened = bob.world.network.open(world.network.local_peer(), &protocols).await;
        assert!(matches!(opened, Err(diai_core::OpenError::Unsupported { .. })));
    });
}
