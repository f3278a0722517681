//! Pins of agents: fetched with progress, named, pending until they are whole.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::sync::{Arc, Mutex};

use common::{Agent, noise};
use diai_blocks::{
    AddOptions, Cid, PinContentError, PinKind, PinOptions, PinState, ProgressFn,
    fetch::{FetchError, FetchOptions},
};
use diai_core::memory::Sim;

async fn listed(agent: &Agent) -> Vec<(Option<String>, Cid, PinState)> {
    let pins = agent.blocks.pins().await.unwrap();
    pins.iter().map(|pin| (pin.given_name().map(str::to_owned), pin.root, pin.state)).collect()
}

#[test]
fn a_pin_says_how_far_it_is_and_goes_by_its_name() {
    let sim = Sim::new(1);
    sim.run(async {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        alice.connect(&bob).await;
        let added = alice.blocks.add_bytes(noise(1, 9 << 20), AddOptions::default()).await.unwrap().cid;
        let other = alice.blocks.add_bytes(noise(2, 3000), AddOptions::default()).await.unwrap().cid;
        let told: Arc<Mutex<Vec<_>>> = Arc::default();
        let telling = told.clone();
        let options = PinOptions {
            name: Some("ring".into()),
            progress: Some(ProgressFn::new(move |progress| telling.lock().unwrap().push(progress))),
            ..PinOptions::default()
        };
        bob.blocks.pin_with(added, &options, &FetchOptions::until(bob.within(60))).await.unwrap();
        let told = told.lock().unwrap().clone();
        let last = told.last().unwrap();
        assert_eq!((last.fetched_blocks, last.blocks, last.open_blocks), (10, 10, 0), "{told:?}");
        assert!(last.fetched_bytes > 9 << 20 && last.bytes == last.fetched_bytes);
        assert!(told.first().unwrap().fetched_blocks < 10, "{told:?}");
        let ring = Some("ring".to_owned());
        assert_eq!(listed(&bob).await, [(ring.clone(), added, PinState::Complete)]);
        // Another takes the name.
        let direct = PinOptions { kind: PinKind::Direct, progress: None, ..options };
        bob.blocks.pin_with(other, &direct, &FetchOptions::until(bob.within(60))).await.unwrap();
        assert_eq!(listed(&bob).await, [(ring, other, PinState::Complete)]);
        bob.blocks.gc().await.unwrap();
        assert_eq!(bob.blocks.store().stats().blocks, 1);
        assert!(bob.blocks.unpin(other).await.unwrap());
        assert!(!bob.blocks.unpin(other).await.unwrap());
        assert!(listed(&bob).await.is_empty());
    });
}

#[test]
fn a_pin_that_could_not_be_ended_is_pending_after_a_restart_and_is_resumed() {
    let sim = Sim::new(2);
    sim.run(async {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        let added = alice.blocks.add_bytes(noise(1, 3 << 20), AddOptions::default()).await.unwrap().cid;
        let refused = bob.blocks.pin(added, &FetchOptions::until(bob.within(3))).await;
        assert!(matches!(refused, Err(PinContentError::Fetch(FetchError::NotFound { .. }))), "{refused:?}");
        let (peer, identity) = (bob.peer(), bob.identity.clone());
        bob.blocks.shutdown().await.unwrap();
        drop(bob);
        sim.kill(peer);
        let bob = Agent::on(sim.rejoin(peer), identity).await;
        assert_eq!(listed(&bob).await, [(None, added, PinState::Pending)]);
        alice.connect(&bob).await;
        let resumed = bob.blocks.resume_pins(&FetchOptions::until(bob.within(60))).await.unwrap();
        assert_eq!((resumed.len(), resumed[0].root), (1, added));
        assert_eq!(listed(&bob).await, [(None, added, PinState::Complete)]);
        assert!(bob.blocks.resume_pins(&FetchOptions::until(bob.within(60))).await.unwrap().is_empty());
        assert_eq!(bob.blocks.gc().await.unwrap().blocks, 0);
    });
}
