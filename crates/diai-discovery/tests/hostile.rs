//! Devices that lie, flood and stall: what they give is left out, they are reported, and others are served.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use common::{Agent, FaultyDht, join, path};
use diai_core::{
    AcceptOptions, InvalidRecord, PeerId, RecordKey, RecordMeta, RecordValidator, WallTime, World, frame, memory::Sim,
};
use diai_discovery::{
    AgentRecord, Attributes, FindOptions, Found, MAX_RECORD_BYTES, RECORD_NAMESPACE, RECORD_PROTOCOL, SignedRecord,
    capability_key, record_key,
};
use diai_identity::{Domain, Identity};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use tokio::task::JoinSet;

const DOMAIN: Domain = Domain::new("diai/agent-record/1");
const HOUR: Duration = Duration::from_secs(3600);

/// A device that says what it likes.
struct Liar {
    world: World,
    identity: Identity,
    tasks: JoinSet<()>,
}

impl Liar {
    /// A provider of `render`, like an honest device, that runs no discovery.
    async fn start(sim: &Sim, number: u64) -> Self {
        let (world, identity) = join(sim, number);
        world.dht.register_validator(RECORD_NAMESPACE, Arc::new(Anything));
        world.dht.provide(capability_key(&path("render"))).await.unwrap();
        Self { world, identity, tasks: JoinSet::new() }
    }

    fn peer(&self) -> PeerId {
        self.identity.peer()
    }

    /// The record that an honest device would publish.
    fn record(&self) -> AgentRecord {
        let now = self.world.clock.wall();
        AgentRecord {
            agent: self.identity.agent(),
            peer: self.identity.peer(),
            seq: 1,
            not_before: now.minus(HOUR),
            expires: now + HOUR,
            addrs: Vec::new(),
            capabilities: vec![path("render")],
            attributes: Attributes::new(),
        }
    }

    fn sign(&self, record: &AgentRecord) -> Bytes {
        self.identity.sign(DOMAIN, record.to_bytes()).to_bytes()
    }

    /// Answers every question with `bytes`, as they are.
    fn answer(&mut self, bytes: Bytes) {
        let mut incoming = self.world.network.accept(&[RECORD_PROTOCOL], AcceptOptions::default()).unwrap();
        self.tasks.spawn(async move {
            while let Some(mut inbound) = incoming.next().await {
                let _ = inbound.stream.write_all(&bytes).await;
                let _ = inbound.stream.close().await;
            }
        });
    }
}

/// Holds whatever it is given, as the newest, like a DHT node that does not check.
struct Anything;

impl RecordValidator for Anything {
    fn validate(&self, _: &RecordKey, _: &[u8], now: WallTime) -> Result<RecordMeta, InvalidRecord> {
        Ok(RecordMeta { seq: u64::MAX, expires: now + HOUR })
    }
}

fn framed(bytes: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    frame::put(bytes, &mut out);
    out.freeze()
}

fn flipped(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    bytes.into()
}

/// Lets a liar answer with what `lie` makes, beside an honest device; returns whether the liar was cut off.
fn is_cut_off(lie: impl FnOnce(&Liar, &SignedRecord) -> Bytes) -> bool {
    let sim = Sim::new(1);
    sim.run(async {
        let honest = Agent::offering(&sim, 1, &["render"]).await;
        let mut liar = Liar::start(&sim, 2).await;
        let bytes = lie(&liar, &honest.discovery.local_record().unwrap());
        liar.answer(bytes);
        let bob = Agent::start(&sim, 3).await;
        assert_eq!(bob.find_peers("render").await, [honest.peer()]);
        assert!(bob.discovery.known().iter().all(|record| record.peer != liar.peer()));
        assert!(bob.world.network.peer(honest.peer()).is_none(), "the DHT had its record");
        let reached = bob.world.network.connect(liar.peer(), Vec::new()).await;
        reached.is_err()
    })
}

#[test]
fn the_liar_of_these_tests_is_believed_when_it_tells_the_truth() {
    let sim = Sim::new(1);
    sim.run(async {
        let mut liar = Liar::start(&sim, 2).await;
        liar.answer(framed(&liar.sign(&liar.record())));
        let bob = Agent::start(&sim, 3).await;
        assert_eq!(bob.find_peers("render").await, [liar.peer()]);
    });
}

#[test]
fn bytes_that_are_no_record_cut_off_who_sends_them() {
    assert!(is_cut_off(|_, _| framed(&[0xff; 100])));
    assert!(is_cut_off(|_, _| Bytes::from_static(&[0xff; 100])), "no frame");
}

#[test]
fn an_oversized_record_cuts_off_who_sends_it() {
    assert!(is_cut_off(|_, _| framed(&vec![0; MAX_RECORD_BYTES + 1])));
    assert!(is_cut_off(|_, _| Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f])), "announced, and never sent");
}

#[test]
fn a_forged_record_cuts_off_who_sends_it() {
    assert!(is_cut_off(|liar, _| framed(&flipped(&liar.sign(&liar.record())))), "a broken signature");
    assert!(
        is_cut_off(|liar, honest| {
            let record = AgentRecord { agent: honest.record().agent, ..liar.record() };
            framed(&liar.sign(&record))
        }),
        "another agent"
    );
    assert!(
        is_cut_off(|liar, honest| {
            let record = AgentRecord { peer: honest.record().peer, ..liar.record() };
            framed(&liar.sign(&record))
        }),
        "another device"
    );
    assert!(is_cut_off(|_, honest| framed(&honest.to_bytes())), "the record of another device, replayed");
    assert!(
        is_cut_off(|liar, _| {
            let other = Domain::new("diai/another/1");
            framed(&liar.identity.sign(other, liar.record().to_bytes()).to_bytes())
        }),
        "signed for something else"
    );
}

#[test]
fn an_expired_record_is_left_out_but_a_wrong_clock_is_no_crime() {
    let sim = Sim::new(1);
    let now = sim.wall();
    assert!(!is_cut_off(|liar, _| framed(&liar.sign(&AgentRecord { expires: now, ..liar.record() }))));
    assert!(!is_cut_off(|liar, _| {
        framed(&liar.sign(&AgentRecord { not_before: now + HOUR, expires: now + 2 * HOUR, ..liar.record() }))
    }));
}

#[test]
fn a_record_that_holds_too_long_or_offers_something_else_is_left_out() {
    assert!(!is_cut_off(|liar, _| {
        let record = liar.record();
        framed(&liar.sign(&AgentRecord { expires: record.not_before + 7 * HOUR, ..record }))
    }));
    let sim = Sim::new(1);
    sim.run(async {
        let mut liar = Liar::start(&sim, 2).await;
        liar.answer(framed(&liar.sign(&AgentRecord { capabilities: vec![path("paint")], ..liar.record() })));
        let bob = Agent::start(&sim, 3).await;
        assert!(bob.find("render").await.is_empty());
        assert_eq!(bob.discovery.stats().unfounded, 1);
    });
}

#[test]
fn providers_without_a_record_are_left_out_within_the_deadline() {
    let sim = Sim::new(2);
    sim.run(async {
        let honest = Agent::offering(&sim, 1, &["render"]).await;
        let mut liars = Vec::new();
        for number in 10..40 {
            // They can be reached, and never say a word.
            let mut liar = Liar::start(&sim, number).await;
            let mut incoming = liar.world.network.accept(&[RECORD_PROTOCOL], AcceptOptions::default()).unwrap();
            liar.tasks.spawn(async move {
                let mut silent = Vec::new();
                while let Some(inbound) = incoming.next().await {
                    silent.push(inbound);
                }
            });
            liars.push(liar);
        }
        let bob = Agent::start(&sim, 3).await;
        let start = sim.now();
        let first = bob.discovery.find(&path("render"), FindOptions::default()).next().await.unwrap();
        assert_eq!(first.peer(), honest.peer());
        assert!(sim.now().since(start) < Duration::from_secs(1), "the silent hold nobody up");
        let all = bob.discovery.find_all(&path("render"), FindOptions::within(Duration::from_secs(8))).await;
        assert_eq!(all.iter().map(Found::peer).collect::<Vec<_>>(), [honest.peer()]);
        assert!(sim.now().since(start) <= Duration::from_secs(9));
    });
}

#[test]
fn providers_that_are_made_up_do_not_hold_up_one_that_is_connected() {
    let sim = Sim::new(6);
    sim.run(async {
        let mut other = Liar::start(&sim, 2).await;
        let (mut world, identity) = join(&sim, 3);
        let dht = FaultyDht::install(&mut world);
        *dht.made_up.lock().unwrap() = (10..200).map(|number| join(&sim, number).1.peer()).collect();
        let bob = Agent::start_in(world, identity).await;
        bob.world.network.connect(other.peer(), Vec::new()).await.unwrap();
        bob.wait(Duration::from_secs(1)).await;
        // Only now, so that it is not known already.
        other.answer(framed(&other.sign(&other.record())));
        assert_eq!(bob.find_peers("render").await, [other.peer()]);
    });
}

#[test]
fn a_forged_record_in_the_dht_does_not_hide_the_device() {
    let sim = Sim::new(3);
    sim.run(async {
        let liar = Liar::start(&sim, 2).await;
        let (world, identity) = join(&sim, 1);
        let forged = AgentRecord { agent: identity.agent(), peer: identity.peer(), ..liar.record() };
        liar.world.dht.put(record_key(identity.peer()), liar.sign(&forged)).await.unwrap();
        let honest = Agent::start_in(world, identity).await;
        honest.register(&["render"]).await;
        let bob = Agent::start(&sim, 3).await;
        assert_eq!(bob.find_peers("render").await, [honest.peer()]);
        assert_eq!(bob.discovery.stats().forged, 1);
    });
}

#[test]
fn who_asks_with_a_forged_record_is_cut_off() {
    let sim = Sim::new(4);
    sim.run(async {
        let honest = Agent::offering(&sim, 1, &["render"]).await;
        let liar = Liar::start(&sim, 2).await;
        let mut stream = liar.world.network.open(honest.peer(), &[RECORD_PROTOCOL]).await.unwrap().stream;
        frame::write(&mut stream, &honest.discovery.local_record().unwrap().to_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        honest.wait(Duration::from_secs(1)).await;
        assert!(honest.world.network.peer(liar.peer()).is_none());
        assert!(liar.world.network.connect(honest.peer(), Vec::new()).await.is_err());
        assert_eq!(honest.discovery.stats().forged, 1);
    });
}

#[test]
fn who_floods_is_cut_off_and_who_stalls_costs_nobody_else() {
    let sim = Sim::new(5);
    sim.run(async {
        let honest = Agent::offering(&sim, 1, &["render"]).await;
        let (flooder, staller) = (Liar::start(&sim, 2).await, Liar::start(&sim, 3).await);
        let mut stalled = Vec::new();
        for _ in 0..200 {
            stalled.extend(staller.world.network.open(honest.peer(), &[RECORD_PROTOCOL]).await);
        }
        let mut answered = 0;
        for _ in 0..200 {
            let Ok(opened) = flooder.world.network.open(honest.peer(), &[RECORD_PROTOCOL]).await else { break };
            let mut stream = opened.stream;
            if frame::write(&mut stream, &[]).await.is_err() {
                break;
            }
            answered += usize::from(matches!(frame::read(&mut stream, MAX_RECORD_BYTES).await, Ok(Some(_))));
        }
        assert!((1..=64).contains(&answered), "{answered}");
        assert!(honest.discovery.stats().refused > 0);
        assert!(honest.world.network.peer(flooder.peer()).is_none());

        let bob = Agent::start(&sim, 4).await;
        bob.connect(&honest).await;
        bob.wait_for(honest.peer(), |record| record.offers(&path("render"))).await;
        drop(stalled);
    });
}
