//! A libp2p stream as libp2p comes: TCP, Noise, Yamux, and SHA-256 over what arrives.

use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, multiaddr::Protocol, noise, swarm::SwarmEvent, tcp, yamux,
};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::Outcome;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/bare/bulk/1");
const PIECE: usize = 1 << 20;

fn swarm() -> Outcome<Swarm<libp2p_stream::Behaviour>> {
    let builder = SwarmBuilder::with_new_identity().with_tokio();
    let builder = builder.with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?;
    let builder = builder.with_behaviour(|_| libp2p_stream::Behaviour::new())?;
    Ok(builder.with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(3600))).build())
}

pub(crate) async fn serve() -> Outcome {
    let mut swarm = swarm()?;
    let mut incoming = swarm.behaviour().new_control().accept(PROTOCOL)?;
    tokio::spawn(async move {
        while let Some((_, mut stream)) = incoming.next().await {
            tokio::spawn(async move {
                let piece: Vec<u8> = (0..PIECE).map(|at| (at % 251) as u8).collect();
                let mut mib = [0; 8];
                if stream.read_exact(&mut mib).await.is_ok() {
                    for _ in 0..u64::from_le_bytes(mib) {
                        if stream.write_all(&piece).await.is_err() {
                            break;
                        }
                    }
                    // The reader may have gone.
                    let _ = stream.close().await;
                }
            });
        }
    });
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    let peer = *swarm.local_peer_id();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            println!("{}", json!({ "addr": address.with(Protocol::P2p(peer)).to_string() }));
        }
    }
}

pub(crate) async fn fetch(addr: &str, mib: u64) -> Outcome {
    let addr: Multiaddr = addr.parse()?;
    let peer = addr.iter().find_map(|part| if let Protocol::P2p(peer) = part { Some(peer) } else { None });
    let peer: PeerId = peer.ok_or("the address names no peer")?;
    let mut swarm = swarm()?;
    let mut control = swarm.behaviour().new_control();
    swarm.dial(addr)?;
    while !matches!(swarm.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    let mut stream = control.open_stream(peer, PROTOCOL).await.map_err(|error| error.to_string())?;
    let (mut piece, mut hash) = (vec![0; PIECE], Sha256::new());
    let began = Instant::now();
    stream.write_all(&mib.to_le_bytes()).await?;
    stream.flush().await?;
    for _ in 0..mib {
        stream.read_exact(&mut piece).await?;
        hash.update(&piece);
    }
    std::hint::black_box(hash.finalize());
    println!("{}", json!({ "seconds": began.elapsed().as_secs_f64() }));
    Ok(())
}
