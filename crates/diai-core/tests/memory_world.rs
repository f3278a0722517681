//! The in-memory World keeps what the World's traits promise.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use diai_core::{
    AcceptOptions, InvalidRecord, Misbehaviour, OpenError, PeerEvent, ProtocolId, RecordKey, RecordMeta,
    RecordValidator, WallTime, World,
    memory::{AgentSpec, Sim},
    timeout_at,
};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};

const ECHO: ProtocolId = ProtocolId::new("/test/echo/1");

fn two(seed: u64) -> (Sim, World, World) {
    let sim = Sim::new(seed);
    let (alice, bob) = (sim.join(AgentSpec::example(1)), sim.join(AgentSpec::example(2)));
    (sim, alice, bob)
}

async fn echo(bob: World) {
    let mut incoming = bob.network.accept(&[ECHO], AcceptOptions::default()).expect("free");
    while let Some(inbound) = incoming.next().await {
        let (mut reader, mut writer) = inbound.stream.split();
        if futures::io::copy(&mut reader, &mut writer).await.is_ok() {
            let _ = writer.close().await;
        }
    }
}

async fn round_trip(alice: &World, bob: &World, bytes: usize) -> Vec<u8> {
    let opened = alice.network.open(bob.network.local_peer(), &[ECHO]).await.expect("opens");
    let (mut reader, mut writer) = opened.stream.split();
    let sent: Vec<u8> = (0..bytes).map(|index| index as u8).collect();
    let send = async {
        writer.write_all(&sent).await.expect("writes");
        writer.close().await.expect("closes");
    };
    let mut back = Vec::new();
    let (_, read) = futures::join!(send, reader.read_to_end(&mut back));
    read.expect("reads");
    assert_eq!(back, sent);
    back
}

fn echo_run(seed: u64) -> (u64, u64) {
    let (sim, alice, bob) = two(seed);
    sim.run(async {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(echo(bob.clone()));
        tokio::task::yield_now().await;
        round_trip(&alice, &bob, 1_000_000).await;
    });
    (sim.trace_hash(), sim.now().as_nanos())
}

#[test]
fn equal_seeds_give_equal_traces_and_other_seeds_others() {
    assert_eq!(echo_run(1), echo_run(1));
    assert_ne!(echo_run(1).0, echo_run(2).0);
}

#[test]
fn a_killed_device_breaks_its_streams_and_is_not_reached_until_it_is_back() {
    let (sim, alice, bob) = two(3);
    let there = bob.network.local_peer();
    let run = sim.clone();
    sim.run(async move {
        let mut incoming = bob.network.accept(&[ECHO], AcceptOptions::default()).expect("free");
        let mut events = alice.network.events();
        let mut stream = alice.network.open(there, &[ECHO]).await.expect("opens").stream;
        let _far = incoming.next().await.expect("arrives");
        run.kill(there);
        assert!(stream.read(&mut [0; 8]).await.is_err());
        assert!(matches!(events.next().await, Some(PeerEvent::Connected(_))));
        assert_eq!(events.next().await, Some(PeerEvent::Disconnected(there)));
        let refused = alice.network.open(there, &[ECHO]).await.expect_err("dead");
        assert!(matches!(refused, OpenError::Unreachable { .. }));
        let back = run.rejoin(there);
        let _incoming = back.network.accept(&[ECHO], AcceptOptions::default()).expect("free again");
        alice.network.open(there, &[ECHO]).await.expect("opens again");
    });
}

#[test]
fn a_stalled_acceptor_resets_what_it_cannot_take() {
    let (sim, alice, bob) = two(4);
    sim.run(async move {
        let options = AcceptOptions { max_waiting: 1, ..AcceptOptions::default() };
        let _incoming = bob.network.accept(&[ECHO], options).expect("free");
        let _first = alice.network.open(bob.network.local_peer(), &[ECHO]).await.expect("waits");
        let mut second = alice.network.open(bob.network.local_peer(), &[ECHO]).await.expect("opens").stream;
        assert_eq!(second.read(&mut [0; 8]).await.expect("ends"), 0);
    });
}

#[test]
fn a_penalised_peer_is_cut_off_and_let_in_again_later() {
    let (sim, alice, bob) = two(5);
    sim.run(async move {
        let (here, there) = (alice.network.local_peer(), bob.network.local_peer());
        alice.network.connect(there, Vec::new()).await.expect("connects");
        alice.network.penalise(there, Misbehaviour::Violation);
        assert!(alice.network.peer(there).is_some());
        alice.network.penalise(there, Misbehaviour::Violation);
        assert!(alice.network.peer(there).is_none());
        assert!(bob.network.connect(here, Vec::new()).await.is_err());
        assert_eq!(alice.network.connect(there, Vec::new()).await, Err(OpenError::CutOff { peer: there }));
        alice.clock.sleep_until(alice.clock.now() + Duration::from_secs(61)).await;
        bob.network.connect(here, Vec::new()).await.expect("connects");
    });
}

struct FirstByteIsSeq;

impl RecordValidator for FirstByteIsSeq {
    fn validate(&self, _: &RecordKey, value: &[u8], now: WallTime) -> Result<RecordMeta, InvalidRecord> {
        let seq = *value.first().ok_or_else(|| InvalidRecord::faulty("empty", Misbehaviour::Violation))?;
        Ok(RecordMeta { seq: seq.into(), expires: now + Duration::from_secs(10) })
    }
}

#[test]
fn the_dht_validates_keeps_the_newest_and_forgets_the_expired() {
    let (sim, alice, bob) = two(6);
    sim.run(async move {
        let key = RecordKey::new("test", b"key").expect("short");
        assert!(alice.dht.put(key.clone(), Bytes::from_static(&[1])).await.is_err());
        alice.dht.register_validator("test", Arc::new(FirstByteIsSeq));
        assert!(alice.dht.put(key.clone(), Bytes::new()).await.is_err());
        alice.dht.put(key.clone(), Bytes::from_static(&[2, 2])).await.expect("valid");
        alice.dht.put(key.clone(), Bytes::from_static(&[1, 1])).await.expect("valid, older");
        assert_eq!(bob.dht.get(key.clone()).await, Ok(Some(Bytes::from_static(&[2, 2]))));
        alice.dht.provide(key.clone()).await.expect("provides");
        let found = bob.dht.providers(key.clone()).next().await.expect("a batch").expect("found");
        assert_eq!(found, [alice.network.local_peer()]);
        bob.clock.sleep_until(bob.clock.now() + Duration::from_secs(11)).await;
        assert_eq!(bob.dht.get(key).await, Ok(None));
    });
}

#[test]
fn a_timeout_drops_what_it_waited_for() {
    let (sim, alice, _) = two(7);
    sim.run(async move {
        let deadline = alice.clock.now() + Duration::from_secs(5);
        assert!(timeout_at(&*alice.clock, deadline, std::future::pending::<()>()).await.is_err());
        assert_eq!(alice.clock.now(), deadline);
    });
}
