use std::{fmt, io, sync::Arc, time::Duration};

use diai_core::{BoxFuture, Clock, Disk, Entropy, Offload, PeerId, World};
use diai_identity::Identity;
use libp2p::swarm::{ConnectionId, NetworkBehaviour};

use crate::{
    Config,
    kad::{self, DhtShared, Table},
    streams::{self, Shared, Streams},
};

/// The parts of a World that are not the network. `diai_core::os` has them for an operating system.
#[derive(Clone)]
pub struct Parts {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The agent's data folder; the network keeps its files in `net/`.
    pub disk: Arc<dyn Disk>,
    /// Threads for work that blocks.
    pub offload: Arc<dyn Offload>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parts")
    }
}

/// What [`Behaviour`] reports. Nothing needs to be done about any of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The addresses of earlier runs were read; these peers were met last, the latest first, at most 16.
    Remembered {
        /// Who could be dialled.
        peers: Vec<PeerId>,
    },
    /// Addresses or records cannot be kept over a restart; all else works.
    StorageFailed {
        /// What went wrong.
        reason: String,
    },
}

/// All of diAI's network as one behaviour: streams with their hello, penalties, and the DHT. Add it to a swarm of your
/// own and poll the swarm; the [`World`] that comes with it does the rest. The swarm's key must be the identity's
/// [`device_keypair`](Identity::device_keypair), or else no peer will believe the certificate.
///
/// When it is dropped, the World's network is closed: what waits ends with `Closed`, streams of events end.
#[derive(NetworkBehaviour)]
#[behaviour(to_swarm = "Event")]
pub struct Behaviour {
    streams: streams::Behaviour,
    dht: kad::Driver,
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Behaviour")
    }
}

impl Behaviour {
    /// The behaviour, and the World that it brings about. Of `config` only
    /// [`kad_server`](Config::kad_server), [`limits`](Config::limits) and [`dht`](Config::dht) count: how to listen and
    /// whom to dial is the swarm's owner's business.
    pub fn new(identity: Identity, parts: Parts, config: &Config) -> (Self, World) {
        let (dht, commands) = DhtShared::new();
        let table = Table {
            shared: Arc::clone(&dht),
            clock: Arc::clone(&parts.clock),
            max_value_bytes: config.dht.value_bytes,
        };
        let shared = Shared::new(identity, parts.clone(), config.limits.clone(), dht);
        let world = World {
            network: Arc::new(Streams(Arc::clone(&shared))),
            dht: Arc::new(table),
            clock: parts.clock,
            entropy: parts.entropy,
            disk: parts.disk,
            offload: parts.offload,
        };
        let dht = kad::Driver::new(Arc::clone(&shared), commands, config.dht.clone(), config.kad_server);
        (Self { streams: streams::Behaviour::new(shared), dht }, world)
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.streams.shared()
    }

    /// Notes a round-trip time that the swarm's owner measured, by libp2p's ping for one.
    pub fn observe_rtt(&self, peer: PeerId, rtt: Duration) {
        self.streams.set_rtt(peer, rtt);
    }

    /// Closes a connection on which the peer has not answered for too long, as the swarm's owner found out, by libp2p's
    /// ping for one. A peer that vanished without a farewell is noticed by this alone: its TCP connection would stand
    /// for a quarter of an hour.
    pub fn observe_silence(&self, peer: PeerId, connection: ConnectionId) {
        self.streams.close(peer, connection);
    }

    /// The peers that showed where they are, the one met last first.
    pub(crate) fn met(&self) -> Vec<PeerId> {
        self.streams.met()
    }

    /// Writes addresses and records that are not written yet; they are also written by themselves within seconds. To be
    /// called last, before the swarm is dropped.
    ///
    /// Cancel-safety: dropping the future loses what it was about to write.
    pub fn flush(&mut self) -> BoxFuture<'static, io::Result<()>> {
        let (book, records) = (self.streams.save(), self.dht.save());
        Box::pin(async move {
            records.await?;
            book.await
        })
    }
}
