//! The transport: TCP with TLS or Noise and Yamux, and QUIC, both with DNS.
//!
//! On the wire all is libp2p's. Over TCP three things differ from libp2p as it comes, each without the peer's knowledge:
//! the order of ciphers (`tls.rs`, `verifier.rs`), the size of Yamux's frames (`muxer.rs`), and buffers around
//! TLS (`buffered.rs` towards the socket, `corked.rs` towards Yamux). ARCHITECTURE.md has the figures.

mod buffered;
mod corked;
mod muxer;
#[cfg(test)]
mod tests;
mod tls;
mod verifier;

use libp2p::{Swarm, SwarmBuilder, identity::Keypair, noise, swarm::NetworkBehaviour, tcp};

use crate::{Config, StartError};

use self::{buffered::Buffered, muxer::Yamux, tls::Tls};

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
        // TLS first: it is no slower with ChaCha20, much faster with AES, and has post-quantum key exchange.
        .with_tcp(
            tcp::Config::default(),
            // Noise is not buffered: it was measured to be slower so.
            (|keypair: &Keypair| Tls::new(keypair).map(Buffered), noise::Config::new),
            || Yamux::new(MAX_STREAMS),
        )
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
        .with_connection_timeout(2 * config.handshake_timeout)
        .build();
    Ok(swarm)
}
