//! The transport: TCP with TLS or Noise and Yamux, and QUIC, both with DNS. A faster pipe changes this file.

use libp2p::{Swarm, SwarmBuilder, identity::Keypair, noise, swarm::NetworkBehaviour, tcp, tls, yamux};

use crate::{Config, StartError};

/// Streams of one connection, with Yamux ours and the peer's together: above what the limits of both sides' handlers
/// allow.
const MAX_STREAMS: u16 = 1024;
/// Inbound streams of one connection whose protocol is being agreed on.
const MAX_NEGOTIATING_INBOUND: usize = 128;

/// A swarm over the transport.
pub(crate) fn swarm<B: NetworkBehaviour>(
    keypair: Keypair,
    behaviour: B,
    config: &Config,
) -> Result<Swarm<B>, StartError> {
    let key = |error: &dyn std::error::Error| StartError::Key { reason: error.to_string() };
    let swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        // TLS first: it can use AES where the CPU can, and post-quantum key exchange.
        .with_tcp(tcp::Config::default(), (tls::Config::new, noise::Config::new), yamux)
        .map_err(|error| key(&error))?
        .with_quic_config(|mut quic| {
            quic.handshake_timeout = config.handshake_timeout;
            quic.max_concurrent_stream_limit = MAX_STREAMS.into();
            quic
        })
        .with_dns()
        .map_err(|error| StartError::Dns { reason: error.to_string() })?
        .with_behaviour(|_| behaviour)
        .map_err(|never| match never {})?
        .with_swarm_config(|swarm| {
            swarm
                .with_idle_connection_timeout(config.idle_timeout)
                .with_max_negotiating_inbound_streams(MAX_NEGOTIATING_INBOUND)
        })
        .build();
    Ok(swarm)
}

fn yamux() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(MAX_STREAMS.into());
    config
}
