//! diAI in a libp2p swarm that you wrote: add one behaviour, and use single crates over the World that it brings, without
//! `diai`.
//!
//! ```sh
//! cargo run --release --example own_swarm
//! ```

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use diai_core::{
    CallOptions, Calls, Clock, World,
    os::{FsDisk, OsClock, OsEntropy, ThreadPool},
    service_fn,
};
use diai_discovery::{Config as DiscoveryConfig, Discovery, FindOptions, Registration};
use diai_identity::Identity;
use diai_messaging::{Config as MessagingConfig, Messaging, NoLocate};
use diai_net::{Behaviour, Config, Parts};
use futures::StreamExt;
use libp2p::{SwarmBuilder, identify, noise, ping, swarm::NetworkBehaviour, tcp, yamux};
use tokio::task::JoinSet;

/// Your own behaviours, and ours beside them.
#[derive(NetworkBehaviour)]
struct Mine {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    diai: Behaviour,
}

/// Builds a swarm as you would, polls it in a task, and returns the World that diAI's crates live in.
async fn node(folder: &Path, tasks: &mut JoinSet<()>) -> Result<(World, Identity), Box<dyn Error>> {
    let clock = Arc::new(OsClock::new());
    let identity = Identity::generate(&OsEntropy, clock.wall());
    let parts = Parts {
        clock,
        entropy: Arc::new(OsEntropy),
        disk: Arc::new(FsDisk::open(folder)?),
        offload: Arc::new(ThreadPool::new(2)),
    };
    let (diai, world) = Behaviour::new(identity.clone(), parts, &Config::test());
    let mut swarm = SwarmBuilder::with_existing_identity(identity.device_keypair())
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
        .with_behaviour(|keypair| Mine {
            identify: identify::Behaviour::new(identify::Config::new("/my-app/1".into(), keypair.public())),
            ping: ping::Behaviour::default(),
            diai,
        })?
        .build();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    while !matches!(swarm.next().await, Some(libp2p::swarm::SwarmEvent::NewListenAddr { .. })) {}
    tasks.spawn(async move { while swarm.next().await.is_some() {} });
    Ok((world, identity))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    diai_examples::log_to_stderr();
    let folder = tempfile::tempdir()?;
    let mut tasks = JoinSet::new();
    let (alice, alice_id) = node(&folder.path().join("alice"), &mut tasks).await?;
    let (bob, bob_id) = node(&folder.path().join("bob"), &mut tasks).await?;

    // Alice offers a capability and a service.
    let discovery = Discovery::start(&alice, alice_id.clone(), DiscoveryConfig::default()).await?;
    let messaging = Messaging::start(&alice, &alice_id, Arc::new(NoLocate), MessagingConfig::default())?;
    let shout = service_fn(|request| async move { Ok(request.body.to_ascii_uppercase().into()) });
    let _served = messaging.register("shout", shout)?;

    // Bob joins through Alice's address, finds who can shout, and asks.
    let addr = alice.network.local_addrs().into_iter().next().ok_or("alice listens nowhere")?;
    bob.network.dial(addr).await?;
    discovery.register(Registration::of(["voice/shout".parse()?])).await?;
    let searching = Discovery::start(&bob, bob_id.clone(), DiscoveryConfig::default()).await?;
    let calling = Messaging::start(&bob, &bob_id, Arc::new(NoLocate), MessagingConfig::default())?;
    let mut found = searching.find(&"voice".parse()?, FindOptions::within(Duration::from_secs(10)).enough(1));
    let shouter = found.next().await.ok_or("nobody can shout")?.agent();
    let answer = calling.call(shouter, "shout", "it works".into(), CallOptions::default()).await?;
    println!("{shouter} says {}", String::from_utf8_lossy(&answer));
    assert_eq!(&answer[..], b"IT WORKS");

    calling.shutdown().await;
    messaging.shutdown().await;
    Ok(())
}
