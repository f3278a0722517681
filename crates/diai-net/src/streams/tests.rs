use std::sync::Arc;

use diai_core::{
    AcceptOptions, Clock, Network, PeerEvent, ProtocolId,
    os::{FsDisk, OsClock, OsEntropy, ThreadPool},
    timeout_at,
};
use diai_identity::Identity;
use futures::StreamExt;
use libp2p::{PeerId, Swarm};

use super::{Shared, Streams};
use crate::{Behaviour, Config, Parts, transport};

const PROTOCOL: ProtocolId = ProtocolId::new("/diai/churn/1");
const ROUNDS: usize = 200;

fn node(parts: &Parts) -> (Swarm<Behaviour>, Arc<Shared>) {
    let identity = Identity::generate(&OsEntropy, parts.clock.wall());
    let keypair = identity.device_keypair();
    let (behaviour, _) = Behaviour::new(identity, parts.clone(), &Config::test());
    let shared = behaviour.shared();
    (transport::swarm(keypair, behaviour, &Config::test()).unwrap(), shared)
}

async fn drive(mut swarm: Swarm<Behaviour>) {
    loop {
        swarm.select_next_some().await;
    }
}

/// A visitor comes, opens a stream, and is gone without a farewell.
async fn visit(parts: &Parts, host: PeerId, hosts: &Streams) {
    let (swarm, shared) = node(parts);
    let mut task = tokio::task::JoinSet::new();
    task.spawn(drive(swarm));
    let streams = Streams(shared);
    streams.connect(host, hosts.local_addrs()).await.unwrap();
    streams.open(host, &[PROTOCOL]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_visitors_leave_nothing_behind() {
    let folder = std::env::temp_dir().join(format!("diai-net-churn-{}", PeerId::random()));
    let clock = Arc::new(OsClock::new());
    let parts = Parts {
        clock: clock.clone(),
        entropy: Arc::new(OsEntropy),
        disk: Arc::new(FsDisk::open(&folder).unwrap()),
        offload: Arc::new(ThreadPool::new(1)),
    };
    let (mut swarm, shared) = node(&parts);
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let host = Streams(Arc::clone(&shared));
    while host.local_addrs().is_empty() {
        swarm.select_next_some().await;
    }
    let peer = *swarm.local_peer_id();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(drive(swarm));
    let mut events = host.events();
    let mut incoming = host.accept(&[PROTOCOL], AcceptOptions::default()).unwrap();
    let rounds = async {
        for _ in 0..ROUNDS {
            visit(&parts, peer, &host).await;
            drop(incoming.next().await.unwrap());
            while !matches!(events.next().await, Some(PeerEvent::Disconnected(_))) {}
        }
    };
    let deadline = clock.now() + std::time::Duration::from_secs(240);
    timeout_at(&*clock, deadline, rounds).await.unwrap();
    assert_eq!(shared.state().entries(), 0);
    assert!(shared.state().acceptors.values().all(|(_, acceptor)| acceptor.is_idle()));
    tasks.shutdown().await;
    drop((host, incoming, shared, parts));
    std::fs::remove_dir_all(folder).unwrap();
}
