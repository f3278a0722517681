//! Whole discoveries over the in-memory World, under virtual time.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use common::{Addressed, Agent, FaultyDht, Seeded, WatchedDisk, join, join_as, path, registration};
use diai_core::{AgentId, Multiaddr, memory::Sim};
use diai_discovery::{Config, Decimal, Discovery, DiscoveryEvent, FindAgentError, FindOptions, Found, RegisterError};
use diai_identity::{Identity, LocalSigner};
use futures::{FutureExt, StreamExt};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn an_agent_is_found_under_its_path_and_every_ancestor_and_nowhere_else() {
    let sim = Sim::new(1);
    sim.run(async {
        let alice = Agent::offering(&sim, 1, &["modeling/3d/cad"]).await;
        let bob = Agent::start(&sim, 2).await;
        for found in ["modeling/3d/cad", "modeling/3d", "modeling"] {
            assert_eq!(bob.find_peers(found).await, [alice.peer()], "{found}");
        }
        for other in ["modeling/3d/cad/solid", "modeling/2d", "model", "cad"] {
            assert!(bob.find(other).await.is_empty(), "{other}");
        }
        let found = &bob.find("modeling").await[0];
        assert_eq!(found.agent(), alice.identity.agent());
        assert_eq!(found.record.encryption_key(), alice.identity.encryption_key());
    });
}

#[test]
fn what_a_record_says_arrives_as_it_was_registered() {
    let sim = Sim::new(2);
    sim.run(async {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        let price = Decimal::new(1999, 2).unwrap();
        let registration = registration(&["market/data", "market/analysis"])
            .with("region", "eu")
            .with("slots", 4)
            .with("price", price)
            .with("gpu", true);
        alice.discovery.register(registration.clone()).await.unwrap();
        let found = bob.find("market").await;
        assert_eq!(found.len(), 1, "one device, though two paths match");
        let record = found[0].record.record();
        assert_eq!(record.attributes, registration.attributes);
        assert!(record.capabilities.iter().eq(&registration.capabilities));
    });
}

#[test]
fn who_joins_late_finds_everyone() {
    let sim = Sim::new(3);
    sim.run(async {
        let mut agents = Vec::new();
        for number in 0..20 {
            agents.push(Agent::offering(&sim, number, &["market/data/diamonds", &format!("own/{number}")]).await);
        }
        agents[0].wait(3 * HOUR).await;
        let late = Agent::start(&sim, 100).await;
        let mut all: Vec<_> = agents.iter().map(Agent::peer).collect();
        all.sort();
        assert_eq!(late.find_peers("market").await, all);
        for agent in &agents {
            let record = late.discovery.find_agent(agent.identity.agent(), HOUR).await.unwrap();
            assert_eq!(record.record().peer, agent.peer());
        }
        let three = late.discovery.find_all(&path("market"), FindOptions::default().limit(3)).await;
        assert_eq!(three.len(), 3);
    });
}

#[test]
fn an_agent_without_capabilities_is_found_by_its_id_and_a_stranger_is_not() {
    let sim = Sim::new(4);
    sim.run(async {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        alice.wait(Duration::from_secs(1)).await;
        let record = bob.discovery.find_agent(alice.identity.agent(), HOUR).await.unwrap();
        assert_eq!(record.record().peer, alice.peer());
        assert_eq!(bob.discovery.record_of(alice.identity.agent()), Some(record));
        let stranger = AgentId::from_bytes([9; 32]);
        let error = bob.discovery.find_agent(stranger, HOUR).await.unwrap_err();
        assert_eq!(error, FindAgentError::NotFound { agent: stranger, candidates: 0 });
    });
}

#[test]
fn all_devices_of_an_agent_are_found_by_its_id() {
    let sim = Sim::new(20);
    sim.run(async {
        let root = Arc::new(LocalSigner::from_seed(&[7; 32]));
        let mut devices = Vec::new();
        for number in 0..3 {
            let identity = Identity::with_signer(root.clone(), &Seeded::new(number), sim.wall()).await.unwrap();
            devices.push(Agent::start_in(join_as(&sim, &identity), identity).await);
        }
        let agent = devices[0].identity.agent();
        let bob = Agent::start(&sim, 100).await;
        bob.wait(Duration::from_secs(1)).await;
        let found = bob.discovery.find_devices(agent, FindOptions::default());
        let found: BTreeSet<_> = found.map(|found| found.peer()).collect().await;
        assert_eq!(found, devices.iter().map(Agent::peer).collect());

        sim.kill(devices[0].peer());
        bob.connect(&devices[1]).await;
        let best = bob.discovery.record_of(agent).unwrap();
        assert_eq!(best.record().peer, devices[1].peer(), "the connected one");
    });
}

#[test]
fn a_lookup_that_is_still_held_does_not_keep_a_closed_discovery_open() {
    let sim = Sim::new(21);
    sim.run(async {
        let alice = Agent::offering(&sim, 1, &["render"]).await;
        let (mut world, identity) = join(&sim, 2);
        let disk = WatchedDisk::install(&mut world);
        let bob = Agent::start_in(world, identity).await;
        assert_eq!(disk.open_files(), 1);
        let (mut held, events) = (bob.discovery.find(&path("render"), FindOptions::default()), bob.discovery.events());
        assert_eq!(held.next().await.unwrap().peer(), alice.peer());
        bob.discovery.close().await;
        assert_eq!(disk.open_files(), 0);

        let Agent { world, identity, discovery: closed } = bob;
        let bob = Agent::start_in(world, identity).await;
        assert_eq!(bob.discovery.known().len(), 1);
        drop((closed, held, events, bob.discovery));
        alice.wait(Duration::from_secs(1)).await;
        assert_eq!(disk.open_files(), 0, "the last handle was dropped");
    });
}

#[test]
fn the_own_device_is_an_answer_only_when_asked_for() {
    let sim = Sim::new(5);
    sim.run(async {
        let alice = Agent::offering(&sim, 1, &["echo"]).await;
        assert!(alice.find("echo").await.is_empty());
        let with_self = alice.discovery.find_all(&path("echo"), FindOptions::default().include_self()).await;
        assert_eq!(with_self.iter().map(Found::peer).collect::<Vec<_>>(), [alice.peer()]);
    });
}

#[test]
fn a_withdrawn_capability_is_gone_at_once_for_the_connected_and_later_for_the_others() {
    let sim = Sim::new(6);
    sim.run(async {
        let alice = Agent::offering(&sim, 1, &["render"]).await;
        let (near, far) = (Agent::start(&sim, 2).await, Agent::start(&sim, 3).await);
        near.connect(&alice).await;
        near.wait_for(alice.peer(), |record| record.offers(&path("render"))).await;
        assert_eq!(far.find("render").await.len(), 1);

        alice.discovery.withdraw().await.unwrap();
        near.wait_for(alice.peer(), |record| record.capabilities.is_empty()).await;
        assert!(near.find("render").await.is_empty());
        assert!(Agent::start(&sim, 4).await.find("render").await.is_empty());

        far.wait(Config::default().max_age + Duration::from_secs(1)).await;
        assert!(far.find("render").await.is_empty());
        let record = far.discovery.find_agent(alice.identity.agent(), HOUR).await.unwrap();
        assert!(record.record().capabilities.is_empty());
    });
}

#[test]
fn a_newer_record_takes_the_place_of_the_older() {
    let sim = Sim::new(7);
    sim.run(async {
        let (alice, bob) = (Agent::offering(&sim, 1, &["render"]).await, Agent::start(&sim, 2).await);
        let first = bob.find("render").await[0].record.record().seq;
        alice.discovery.register(registration(&["render", "paint"])).await.unwrap();
        assert_eq!(bob.find_peers("paint").await, [alice.peer()], "although an older record is known");
        let found = bob.find("render").await;
        assert_eq!(found.len(), 1);
        assert!(found[0].record.record().seq > first);
        assert_eq!(bob.discovery.known().len(), 1);
    });
}

#[test]
fn connected_devices_find_each_other_without_any_dht() {
    let sim = Sim::new(8);
    sim.run(async {
        let dead = |number| {
            let (mut world, identity) = join(&sim, number);
            FaultyDht::install(&mut world).dead.store(true, Ordering::Relaxed);
            Agent::start_in(world, identity)
        };
        let (alice, bob) = (dead(1).await, dead(2).await);
        bob.connect(&alice).await;
        let error = alice.discovery.register(registration(&["render/fast"])).await.unwrap_err();
        let RegisterError::NotPlaced { failed } = error else { panic!("{error}") };
        let what: Vec<_> = failed.iter().map(|item| item.what.as_str()).collect();
        assert_eq!(what, ["the record", "the agent", "render", "render/fast"]);
        bob.wait_for(alice.peer(), |record| record.offers(&path("render"))).await;
        assert_eq!(bob.find_peers("render").await, [alice.peer()]);
    });
}

#[test]
fn what_could_not_be_placed_is_placed_later_without_being_asked() {
    let sim = Sim::new(9);
    sim.run(async {
        let (mut world, identity) = join(&sim, 1);
        let dht = FaultyDht::install(&mut world);
        dht.dead.store(true, Ordering::Relaxed);
        let alice = Agent::start_in(world, identity).await;
        assert!(alice.discovery.register(registration(&["render"])).await.is_err());
        let bob = Agent::start(&sim, 2).await;
        assert!(bob.find("render").await.is_empty());
        dht.dead.store(false, Ordering::Relaxed);
        alice.wait(Config::default().max_backoff).await;
        assert_eq!(bob.find_peers("render").await, [alice.peer()]);
    });
}

#[test]
fn a_provider_whose_record_the_dht_lost_is_asked_itself() {
    let sim = Sim::new(10);
    sim.run(async {
        let (mut world, identity) = join(&sim, 1);
        FaultyDht::install(&mut world).loses_records.store(true, Ordering::Relaxed);
        let alice = Agent::start_in(world, identity).await;
        alice.register(&["render"]).await;
        let bob = Agent::start(&sim, 2).await;
        assert_eq!(bob.find_peers("render").await, [alice.peer()]);
    });
}

#[test]
fn the_dht_is_left_alone_when_the_index_has_enough() {
    let sim = Sim::new(11);
    sim.run(async {
        let alice = Agent::offering(&sim, 1, &["render"]).await;
        let (mut world, identity) = join(&sim, 2);
        let dht = FaultyDht::install(&mut world);
        let bob = Agent::start_in(world, identity).await;
        let options = FindOptions::default().enough(1);
        for lookups in [1, 1, 1] {
            let found = bob.discovery.find_all(&path("render"), options.clone()).await;
            assert_eq!(found.len(), 1);
            assert_eq!(dht.lookups.load(Ordering::Relaxed), lookups);
        }
        alice.wait(Config::default().max_age * 2).await;
        bob.discovery.find_all(&path("render"), options).await;
        assert_eq!(dht.lookups.load(Ordering::Relaxed), 2, "what was known is too old to be enough");
    });
}

#[test]
fn after_a_restart_it_still_knows_whom_to_ask() {
    let sim = Sim::new(12);
    sim.run(async {
        let alice = Agent::offering(&sim, 1, &["render"]).await;
        let bob = Agent::start(&sim, 2).await;
        assert_eq!(bob.find("render").await.len(), 1);
        let seq = bob.discovery.local_record().unwrap().record().seq;
        bob.discovery.close().await;
        assert_eq!(bob.discovery.register(registration(&[])).await, Err(RegisterError::Closed));
        let identity = bob.identity.clone();
        drop(bob);
        sim.kill(identity.peer());

        let mut world = sim.rejoin(identity.peer());
        FaultyDht::install(&mut world).dead.store(true, Ordering::Relaxed);
        sim.cut(identity.peer(), alice.peer());
        let bob = Agent::start_in(world, identity).await;
        assert_eq!(bob.discovery.known().len(), 1);
        let found = bob.find("render").await;
        assert_eq!(found.iter().map(Found::peer).collect::<Vec<_>>(), [alice.peer()]);
        assert!(!found[0].fresh, "nobody could be asked");
        assert!(bob.discovery.local_record().unwrap().record().seq > seq);

        sim.heal(bob.peer(), alice.peer());
        let found = bob.find("render").await;
        assert!(found[0].fresh, "the device itself was asked");
    });
}

#[test]
fn who_died_is_forgotten_when_the_record_expires() {
    let sim = Sim::new(13);
    sim.run(async {
        let (alice, bob) = (Agent::offering(&sim, 1, &["render"]).await, Agent::start(&sim, 2).await);
        assert_eq!(bob.find("render").await.len(), 1);
        let (peer, agent) = (alice.peer(), alice.identity.agent());
        sim.kill(peer);
        drop(alice);
        let mut events = bob.discovery.events();
        bob.wait(Config::default().record_lifetime + Duration::from_secs(10)).await;
        assert!(bob.find("render").await.is_empty());
        assert!(bob.discovery.known().is_empty());
        assert_eq!(bob.discovery.record_of(agent), None);
        let expired = DiscoveryEvent::Expired { agent, peer };
        let mut heard = std::iter::from_fn(|| events.next().now_or_never().flatten());
        assert!(heard.any(|event| event == expired));
    });
}

#[test]
fn a_new_address_is_announced_and_the_addresses_of_other_devices_are_not_believed() {
    let sim = Sim::new(14);
    sim.run(async {
        let (mut world, identity) = join(&sim, 1);
        let (mut other_world, other) = join(&sim, 2);
        let addr = |port: u16, peer| -> Multiaddr { format!("/ip4/10.0.0.1/tcp/{port}/p2p/{peer}").parse().unwrap() };
        let network = Addressed::install(&mut world, vec![addr(1, identity.peer())]);
        let told = Addressed::install(&mut other_world, Vec::new());
        let alice = Agent::start_in(world, identity).await;
        let bob = Agent::start_in(other_world, other).await;
        alice.register(&["render"]).await;
        assert_eq!(bob.find("render").await[0].record.record().addrs, [addr(1, alice.peer())]);

        let new = vec![addr(2, alice.peer()), addr(3, bob.peer())];
        *network.local.lock().unwrap() = new.clone();
        alice.wait(Config::default().max_age * 2).await;
        assert_eq!(bob.find("render").await[0].record.record().addrs, new);
        let told = told.added.lock().unwrap().clone();
        assert_eq!(told.last(), Some(&(alice.peer(), vec![addr(2, alice.peer())])));
    });
}

#[test]
fn addresses_are_left_out_before_a_record_becomes_too_long() {
    let sim = Sim::new(15);
    sim.run(async {
        let (mut world, identity) = join(&sim, 1);
        let long =
            |number: usize| -> Multiaddr { format!("/dns4/{}{number}.example/tcp/1", "x".repeat(60)).parse().unwrap() };
        Addressed::install(&mut world, (0..20).map(long).collect());
        let alice = Agent::start_in(world, identity).await;
        let mut registration = registration(&["render"]);
        for number in 0..3 {
            registration = registration.with(format!("text{number}"), "y".repeat(256).as_str());
        }
        alice.discovery.register(registration.clone()).await.unwrap();
        let record = alice.discovery.local_record().unwrap();
        assert!(record.to_bytes().len() <= diai_discovery::MAX_RECORD_BYTES);
        let addrs = &record.record().addrs;
        assert!((4..20).contains(&addrs.len()), "{}", addrs.len());
        assert!(addrs.iter().cloned().eq((0..addrs.len()).map(long)), "the first ones");

        let too_large = registration.with("text3", "y".repeat(256).as_str());
        let error = alice.discovery.register(too_large).await.unwrap_err();
        assert!(matches!(error, RegisterError::TooLarge { .. }), "{error}");
    });
}

#[test]
fn a_second_discovery_over_one_world_is_refused() {
    let sim = Sim::new(16);
    sim.run(async {
        let alice = Agent::start(&sim, 1).await;
        let mut world = alice.world.clone();
        world.disk = Arc::new(diai_core::memory::MemoryDisk::default());
        let error = Discovery::start(&world, alice.identity.clone(), Config::default()).await.unwrap_err();
        assert!(matches!(error, diai_discovery::StartError::Accept(_)), "{error}");
    });
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = |seed| {
        let sim = Sim::new(seed);
        sim.run(async {
            let mut agents = Vec::new();
            for number in 0..10 {
                agents.push(Agent::offering(&sim, number, &["market/data"]).await);
            }
            for pair in agents.windows(2) {
                pair[0].connect(&pair[1]).await;
            }
            assert_eq!(agents[3].find("market").await.len(), 9);
            agents[5].discovery.withdraw().await.unwrap();
            agents[0].wait(Duration::from_secs(300)).await;
            assert_eq!(agents[3].find("market").await.len(), 8);
        });
        sim.trace_hash()
    };
    assert_eq!(run(17), run(17));
    assert_ne!(run(17), run(18));
}
