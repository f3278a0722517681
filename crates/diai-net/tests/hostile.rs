//! Peers that misbehave, and peers that speak no diAI.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::{Folder, Node, event, identity, parts, within};
use diai_core::{AcceptOptions, Misbehaviour, OpenError, PeerEvent, ProtocolId, World};
use diai_identity::Identity;
use diai_net::{Behaviour, Config};
use futures::StreamExt;
use libp2p::{
    Swarm, SwarmBuilder, identify,
    identity::Keypair,
    kad::{self, Quorum, store::MemoryStore},
    swarm::{NetworkBehaviour, SwarmEvent},
    tls, yamux,
};

const OWN: ProtocolId = ProtocolId::new("/diai/test/1");
const STANDARD: ProtocolId = ProtocolId::new("/standard/1");

fn swarm<B: NetworkBehaviour>(keypair: Keypair, behaviour: B) -> Swarm<B> {
    SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(libp2p::tcp::Config::default(), tls::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| behaviour)
        .unwrap()
        .build()
}

fn run<B>(tasks: &mut tokio::task::JoinSet<()>, mut swarm: Swarm<B>)
where
    B: NetworkBehaviour<ToSwarm: Send> + Send,
{
    tasks.spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
}

/// A node whose certificate is of another device than its connections.
fn impostor(tasks: &mut tokio::task::JoinSet<()>, folder: &Folder) -> (Keypair, World) {
    let (claimed, real) = (identity(), Keypair::generate_ed25519());
    let (behaviour, world) = Behaviour::new(claimed, parts(folder), &Config::test());
    run(tasks, swarm(real.clone(), behaviour));
    (real, world)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_device_is_refused_and_its_bearer_cut_off() {
    let honest = Node::start(Config::test()).await;
    let mut incoming = honest.world.network.accept(&[OWN], AcceptOptions::default()).unwrap();
    let mut events = honest.world.network.events();
    let (mut tasks, folder) = (tokio::task::JoinSet::new(), Folder::new());
    let (key, world) = impostor(&mut tasks, &folder);
    let impostor = key.public().to_peer_id();
    let refused = within(world.network.connect(honest.peer(), honest.addrs())).await;
    assert!(refused.as_ref().is_ok_and(|info| info.agent.is_none()) || refused.is_err(), "{refused:?}");
    let cut = within(async {
        loop {
            match honest.world.network.open(impostor, &[OWN]).await {
                Err(OpenError::CutOff { peer }) => break peer,
                other => assert!(other.is_err(), "{other:?}"),
            }
        }
    });
    assert_eq!(cut.await, impostor);
    assert!(honest.world.network.peers().iter().all(|info| info.agent.is_none()));
    let again = within(world.network.open(honest.peer(), &[OWN])).await;
    assert!(again.is_err(), "{again:?}");
    within(honest.net.shutdown()).await.unwrap();
    assert!(incoming.next().await.is_none(), "no stream of its was handed out");
    while let Some(event) = events.next().await {
        assert!(!matches!(event, PeerEvent::Connected(_)), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_without_hello_is_spoken_to_by_standard_protocols_only() {
    let node = Node::start(Config::test()).await;
    let _own = node.world.network.accept(&[OWN], AcceptOptions::default()).unwrap();
    let key = Keypair::generate_ed25519();
    let behaviour = identify::Behaviour::new(identify::Config::new("/other/1".into(), key.public()));
    let mut other = swarm(key.clone(), behaviour);
    other.listen_on(common::TCP.parse().unwrap()).unwrap();
    let addr = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = within(other.select_next_some()).await {
            break address;
        }
    };
    let mut tasks = tokio::task::JoinSet::new();
    run(&mut tasks, other);
    let peer = key.public().to_peer_id();
    let info = within(node.world.network.connect(peer, vec![addr])).await.unwrap();
    assert_eq!((info.peer, info.agent, info.certificate), (peer, None, None));
    let error = within(node.world.network.open(peer, &[OWN])).await.unwrap_err();
    assert!(matches!(error, OpenError::Uncertified { .. }), "{error}");
    let error = within(node.world.network.open(peer, &[OWN, STANDARD])).await.unwrap_err();
    assert_eq!(error, OpenError::Unsupported { peer, protocol: STANDARD });
}

/// Speaks kad as a stranger would: without a hello.
fn stranger() -> Swarm<kad::Behaviour<MemoryStore>> {
    let key = Keypair::generate_ed25519();
    let mut config = kad::Config::new(libp2p::StreamProtocol::new("/diai/kad/1"));
    // It waits for an answer no longer than that.
    config.set_substreams_timeout(std::time::Duration::from_millis(500));
    let peer = key.public().to_peer_id();
    swarm(key, kad::Behaviour::with_config(peer, MemoryStore::new(peer), config))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dht_neither_answers_nor_believes_devices_without_a_certificate() {
    let node = Node::start(Config::test()).await;
    node.world.dht.register_validator("test", Arc::new(common::Numbered));
    let mut stranger = stranger();
    stranger.behaviour_mut().add_address(&node.peer(), node.addrs()[0].clone());
    let key = common::key("k");
    let record = kad::Record::new(key.as_bytes().to_vec(), common::record(1, "theirs").to_vec());
    stranger.behaviour_mut().put_record_to(record, [node.peer()].into_iter(), Quorum::One);
    let asked = stranger.behaviour_mut().get_closest_peers(key.as_bytes().to_vec());
    let mut results = Vec::new();
    while results.len() < 2 {
        let event = within(stranger.select_next_some()).await;
        if let SwarmEvent::Behaviour(kad::Event::OutboundQueryProgressed { id, result, stats, .. }) = event {
            if id == asked {
                assert_eq!(stats.num_successes(), 0, "it was not answered");
            } else {
                assert!(matches!(result, kad::QueryResult::PutRecord(Err(_))), "{result:?}");
            }
            results.push(id);
        }
    }
    assert_eq!(within(node.world.dht.get(key)).await, Ok(None));
}

#[tokio::test]
async fn enough_misbehaviour_disconnects_and_keeps_out() {
    let (alice, bob) = (Node::start(Config::test()).await, Node::start(Config::test()).await);
    alice.meet(&bob).await;
    let mut events = alice.world.network.events();
    let mut bobs = bob.world.network.events();
    let (alice_peer, bob_peer) = (alice.peer(), bob.peer());
    alice.world.network.penalise(bob_peer, Misbehaviour::Violation);
    assert!(alice.world.network.peer(bob_peer).is_some(), "half of it is not enough");
    alice.world.network.penalise(bob_peer, Misbehaviour::Violation);
    alice.world.network.penalise(bob_peer, Misbehaviour::Flooding);
    event(&mut events, |event| (event == PeerEvent::Disconnected(bob_peer)).then_some(())).await;
    event(&mut bobs, |event| (event == PeerEvent::Disconnected(alice_peer)).then_some(())).await;
    let cut_off = OpenError::CutOff { peer: bob_peer };
    assert_eq!(within(alice.world.network.open(bob_peer, &[OWN])).await.unwrap_err(), cut_off);
    assert_eq!(within(alice.world.network.connect(bob_peer, bob.addrs())).await.unwrap_err(), cut_off);
    let back = within(bob.world.network.connect(alice.peer(), alice.addrs())).await;
    assert!(back.is_err(), "{back:?}");
    let carol = Node::start(Config::test()).await;
    carol.meet(&alice).await;
}

#[derive(NetworkBehaviour)]
struct Mine {
    diai: Behaviour,
    identify: identify::Behaviour,
}

/// A swarm as a user would write it.
async fn own_swarm(tasks: &mut tokio::task::JoinSet<()>, who: &Identity, folder: &Folder) -> World {
    let (diai, world) = Behaviour::new(who.clone(), parts(folder), &Config::test());
    let key = who.device_keypair();
    let identify = identify::Behaviour::new(identify::Config::new("/mine/1".into(), key.public()));
    let mut swarm = swarm(key, Mine { diai, identify });
    swarm.listen_on(common::TCP.parse().unwrap()).unwrap();
    while world.network.local_addrs().is_empty() {
        within(swarm.select_next_some()).await;
    }
    run(tasks, swarm);
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_behaviour_works_in_a_swarm_of_the_users() {
    let (mut tasks, folder, who) = (tokio::task::JoinSet::new(), Folder::new(), identity());
    let world = own_swarm(&mut tasks, &who, &folder).await;
    let node = Node::start(Config::test()).await;
    node.world.dht.register_validator("test", Arc::new(common::Numbered));
    world.dht.register_validator("test", Arc::new(common::Numbered));
    let info = within(node.world.network.connect(who.peer(), world.network.local_addrs())).await.unwrap();
    assert_eq!(info.agent, Some(who.agent()));
    let mut incoming = world.network.accept(&[OWN], AcceptOptions::default()).unwrap();
    let _opened = within(node.world.network.open(who.peer(), &[OWN])).await.unwrap();
    assert_eq!(within(incoming.next()).await.unwrap().agent, Some(node.identity.agent()));
    within(world.dht.put(common::key("k"), common::record(1, "mine"))).await.unwrap();
    assert_eq!(within(node.world.dht.get(common::key("k"))).await, Ok(Some(common::record(1, "mine"))));
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    assert_eq!(within(world.network.open(node.peer(), &[OWN])).await.unwrap_err(), OpenError::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_is_closed_when_the_owner_of_the_swarm_says_so() {
    let (folder, who, node) = (Folder::new(), identity(), Node::start(Config::test()).await);
    let (behaviour, world) = Behaviour::new(who.clone(), parts(&folder), &Config::test());
    let mut swarm = swarm(who.device_keypair(), behaviour);
    let connect = world.network.connect(node.peer(), node.addrs());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { drop(connect.await) });
    loop {
        match within(swarm.select_next_some()).await {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                swarm.behaviour().observe_silence(peer_id, connection_id);
            }
            SwarmEvent::ConnectionClosed { peer_id, .. } if peer_id == node.peer() => break,
            _ => {}
        }
    }
}
