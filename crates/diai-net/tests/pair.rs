//! Two nodes: opening, accepting, refusing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Node, QUIC, TCP, event, only, within};
use diai_core::{AcceptError, AcceptOptions, Incoming, OpenError, PeerEvent, ProtocolId};
use diai_net::Config;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};

const ECHO: ProtocolId = ProtocolId::new("/diai/echo/1");
const STALL: ProtocolId = ProtocolId::new("/diai/stall/1");
const PLAIN: ProtocolId = ProtocolId::new("/plain/1");

async fn serve(mut incoming: Incoming) {
    while let Some(inbound) = incoming.next().await {
        let (reader, mut writer) = inbound.stream.split();
        futures::io::copy(reader, &mut writer).await.unwrap();
        writer.close().await.unwrap();
    }
}

async fn echo_over(listen: &str) {
    let (alice, bob) = (Node::start(only(listen)).await, Node::start(only(listen)).await);
    let incoming = bob.world.network.accept(&[ECHO], AcceptOptions::default()).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(serve(incoming));
    let info = alice.meet(&bob).await;
    assert_eq!(info.agent, Some(bob.identity.agent()));
    let opened = within(alice.world.network.open(bob.peer(), &[STALL, ECHO])).await.unwrap();
    assert_eq!(opened.protocol, ECHO);
    let sent = vec![7; 300_000];
    let (mut reader, mut writer) = opened.stream.split();
    let write = async {
        writer.write_all(&sent).await.unwrap();
        writer.close().await.unwrap();
    };
    let mut received = Vec::new();
    let ((), read) = within(futures::future::join(write, reader.read_to_end(&mut received))).await;
    read.unwrap();
    assert!(received == sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_come_back_over_tcp() {
    echo_over(TCP).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_come_back_over_quic() {
    echo_over(QUIC).await;
}

#[tokio::test]
async fn whoever_dials_an_address_learns_whom_it_met_and_both_get_an_event() {
    let (alice, bob) = (Node::start(Config::test()).await, Node::start(Config::test()).await);
    let mut events = bob.world.network.events();
    let mut addr = bob.addrs()[0].clone();
    addr.pop();
    let info = within(alice.world.network.dial(addr)).await.unwrap();
    assert_eq!((info.peer, info.agent), (bob.peer(), Some(bob.identity.agent())));
    assert_eq!(info.certificate, Some(bob.identity.certificate().to_bytes()));
    let met = event(&mut events, |event| match event {
        PeerEvent::Connected(info) => Some(info),
        _ => None,
    })
    .await;
    assert_eq!((met.peer, met.agent), (alice.peer(), Some(alice.identity.agent())));
    assert!(!met.addrs.is_empty(), "the hello says where to dial back");
    let peers: Vec<_> = bob.world.network.peers().into_iter().map(|info| info.peer).collect();
    assert_eq!(peers, [alice.peer()]);
}

#[tokio::test]
async fn what_nobody_accepts_is_unsupported_and_what_is_accepted_is_taken() {
    let (alice, bob) = (Node::start(Config::test()).await, Node::start(Config::test()).await);
    alice.meet(&bob).await;
    let open = || within(alice.world.network.open(bob.peer(), &[ECHO]));
    assert_eq!(open().await.unwrap_err(), OpenError::Unsupported { peer: bob.peer(), protocol: ECHO });
    let incoming = bob.world.network.accept(&[ECHO], AcceptOptions::default()).unwrap();
    let again = bob.world.network.accept(&[STALL, ECHO], AcceptOptions::default());
    assert_eq!(again.err(), Some(AcceptError::Taken(ECHO)));
    assert!(open().await.is_ok());
    drop(incoming);
    assert_eq!(open().await.unwrap_err(), OpenError::Unsupported { peer: bob.peer(), protocol: ECHO });
}

#[tokio::test]
async fn a_stalled_acceptor_costs_only_its_own_streams() {
    let (alice, bob) = (Node::start(Config::test()).await, Node::start(Config::test()).await);
    let options = AcceptOptions { max_waiting: 2, ..AcceptOptions::default() };
    let mut stalled = bob.world.network.accept(&[STALL], options).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(serve(bob.world.network.accept(&[ECHO], AcceptOptions::default()).unwrap()));
    alice.meet(&bob).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(within(alice.world.network.open(bob.peer(), &[STALL])).await.unwrap());
    }
    let mut surplus = within(alice.world.network.open(bob.peer(), &[STALL])).await.unwrap();
    let refused = within(surplus.stream.read(&mut [0])).await;
    assert!(matches!(refused, Err(_) | Ok(0)), "the one too many is reset: {refused:?}");
    let mut opened = within(alice.world.network.open(bob.peer(), &[ECHO])).await.unwrap();
    opened.stream.write_all(b"still here").await.unwrap();
    opened.stream.close().await.unwrap();
    let mut text = String::new();
    within(opened.stream.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "still here");
    let waiting = within(stalled.next()).await.unwrap();
    assert_eq!((waiting.peer, waiting.agent), (alice.peer(), Some(alice.identity.agent())));
}

#[tokio::test]
async fn a_place_among_the_streams_of_a_peer_is_free_again_when_a_stream_is_dropped() {
    let (alice, bob) = (Node::start(Config::test()).await, Node::start(Config::test()).await);
    let options = AcceptOptions { max_per_peer: 1, ..AcceptOptions::default() };
    let mut incoming = bob.world.network.accept(&[ECHO], options).unwrap();
    alice.meet(&bob).await;
    for _ in 0..20 {
        let opened = within(alice.world.network.open(bob.peer(), &[ECHO])).await.unwrap();
        let taken = within(incoming.next()).await.unwrap();
        drop((opened, taken));
    }
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_to_the_opener() {
    let mut config = Config::test();
    config.limits.streams_per_peer = 2;
    let (alice, bob) = (Node::start(config).await, Node::start(Config::test()).await);
    let _incoming = bob.world.network.accept(&[ECHO], AcceptOptions::default()).unwrap();
    alice.meet(&bob).await;
    let open = || within(alice.world.network.open(bob.peer(), &[ECHO]));
    let (first, _second) = (open().await.unwrap(), open().await.unwrap());
    assert_eq!(open().await.unwrap_err(), OpenError::TooMany { peer: bob.peer(), limit: 2 });
    drop(first);
    assert!(open().await.is_ok());
}

#[tokio::test]
async fn open_dials_by_itself_and_says_so_when_nobody_is_there() {
    let (alice, bob) = (Node::start(Config::test()).await, Node::start(Config::test()).await);
    let _incoming = bob.world.network.accept(&[PLAIN], AcceptOptions::default()).unwrap();
    alice.world.network.add_addrs(bob.peer(), bob.addrs());
    assert!(within(alice.world.network.open(bob.peer(), &[PLAIN])).await.is_ok());
    let nobody = common::identity().peer();
    let error = within(alice.world.network.open(nobody, &[PLAIN])).await.unwrap_err();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
    let error = within(alice.world.network.dial("/ip4/127.0.0.1/tcp/1".parse().unwrap())).await.unwrap_err();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn both_may_dial_at_once() {
    let (alice, bob) = (Node::start(Config::test()).await, Node::start(Config::test()).await);
    let (there, back) = futures::future::join(alice.meet(&bob), bob.meet(&alice)).await;
    assert_eq!((there.peer, back.peer), (bob.peer(), alice.peer()));
    let _incoming = bob.world.network.accept(&[ECHO], AcceptOptions::default()).unwrap();
    assert!(within(alice.world.network.open(bob.peer(), &[ECHO])).await.is_ok());
}

#[tokio::test]
async fn shutdown_ends_what_waits_and_tells_the_others() {
    let (alice, bob) = (Node::start(Config::test()).await, Node::start(Config::test()).await);
    alice.meet(&bob).await;
    let mut incoming = bob.world.network.accept(&[ECHO], AcceptOptions::default()).unwrap();
    let mut own = bob.world.network.events();
    let mut events = alice.world.network.events();
    let peer = bob.peer();
    within(bob.net.shutdown()).await.unwrap();
    assert!(within(incoming.next()).await.is_none());
    while within(own.next()).await.is_some() {}
    assert_eq!(within(bob.world.network.open(alice.peer(), &[ECHO])).await.unwrap_err(), OpenError::Closed);
    event(&mut events, |event| (event == PeerEvent::Disconnected(peer)).then_some(())).await;
}

#[tokio::test]
async fn peers_met_before_a_restart_are_met_again_without_contacts() {
    let (alice, bob) = (Node::start(Config::test()).await, Node::start(Config::test()).await);
    alice.meet(&bob).await;
    let Node { net, identity, folder, .. } = alice;
    within(net.shutdown()).await.unwrap();
    let alice = Node::start_as(identity, folder, Config::test()).await;
    let mut events = alice.world.network.events();
    if alice.world.network.peer(bob.peer()).is_none_or(|info| info.agent.is_none()) {
        event(&mut events, |event| match event {
            PeerEvent::Connected(info) => (info.peer == bob.peer()).then_some(()),
            _ => None,
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_may_renew_their_certificates_at_once() {
    let (alice, bob) = (Node::start(Config::test()).await, Node::start(Config::test()).await);
    alice.meet(&bob).await;
    let (mut alices, mut bobs) = (alice.world.network.events(), bob.world.network.events());
    let now = alice.world.clock.wall();
    let of_alice = alice.identity.renew_certificate(now).await.unwrap().to_bytes();
    let of_bob = bob.identity.renew_certificate(now).await.unwrap().to_bytes();
    let shown = |wanted| {
        move |event| match event {
            PeerEvent::Connected(info) => (info.certificate.as_ref() == Some(&wanted)).then_some(()),
            _ => None,
        }
    };
    event(&mut alices, shown(of_bob)).await;
    event(&mut bobs, shown(of_alice)).await;
}
