//! The in-memory World: up to some tens of agents in one thread, under virtual time, from one seed.
//!
//! [`Sim::run`] runs a future on a paused current-thread tokio runtime. Whenever every task waits, the earliest event
//! (a delivery or a timer) fires and time jumps there: nothing sleeps, and the same seed gives the same run.
//!
//! The model is plain: every device reaches every other by its [`PeerId`]; bytes arrive in order after 0.5 to 1.5 ms;
//! the DHT is one table that all see. [`Sim::cut`], [`Sim::disconnect`] and [`Sim::kill`] are its faults.
//!
//! # Example
//! ```
//! use diai_core::{AcceptOptions, AgentId, ProtocolId, memory::{AgentSpec, Sim}};
//! use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
//!
//! const ECHO: ProtocolId = ProtocolId::new("/example/echo/1");
//! let sim = Sim::new(7);
//! let alice = sim.join(AgentSpec::example(1));
//! let bob = sim.join(AgentSpec::example(2));
//! let text = sim.run(async move {
//!     let mut incoming = bob.network.accept(&[ECHO], AcceptOptions::default())?;
//!     let mut out = alice.network.open(bob.network.local_peer(), &[ECHO]).await?.stream;
//!     out.write_all(b"hello").await?;
//!     out.close().await?;
//!     let mut text = String::new();
//!     incoming.next().await.ok_or("no stream")?.stream.read_to_string(&mut text).await?;
//!     Ok::<_, Box<dyn std::error::Error>>(text)
//! })?;
//! assert_eq!(text, "hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod dht;
mod disk;
mod network;
mod state;
mod time;
mod wire;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::{Either, select};
use libp2p_identity::{Keypair, PeerId};

pub use disk::MemoryDisk;

use self::{
    dht::MemoryDht,
    network::MemoryNetwork,
    state::{Device, Shared},
    time::{SeededEntropy, VirtualClock},
};
use crate::{AgentId, Instant, Offload, WallTime, World};

/// Who joins a [`Sim`].
#[derive(Debug, Clone)]
pub struct AgentSpec {
    /// The agent.
    pub agent: AgentId,
    /// Its device.
    pub peer: PeerId,
    /// The device's certificate, shown to all others as if the hello had verified it.
    pub certificate: Bytes,
}

impl AgentSpec {
    /// An agent and a device made of a number, with an empty certificate.
    pub fn example(number: u8) -> Self {
        let mut secret = [number; 32];
        let keypair = Keypair::ed25519_from_bytes(&mut secret).expect("32 bytes are an Ed25519 key");
        Self {
            agent: AgentId::from_bytes([number; 32]),
            peer: keypair.public().to_peer_id(),
            certificate: Bytes::new(),
        }
    }
}

/// A network of agents in memory. Clones are handles to the same one.
#[derive(Clone)]
pub struct Sim(Arc<Shared>);

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("now", &self.now()).finish_non_exhaustive()
    }
}

impl Sim {
    /// An empty network. Equal seeds give equal runs.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Shared::new(seed)))
    }

    /// Adds a device and gives the World it lives in.
    pub fn join(&self, spec: AgentSpec) -> World {
        let peer = spec.peer;
        self.0.lock().devices.insert(peer, Device::new(spec));
        self.world(peer)
    }

    /// Brings a killed device back, with the disk it had.
    ///
    /// # Panics
    /// If it never joined.
    pub fn rejoin(&self, peer: PeerId) -> World {
        {
            let mut state = self.0.lock();
            let device = state.devices.get_mut(&peer).expect("rejoin is for a device that joined");
            *device = Device { disk: device.disk.clone(), ..Device::new(device.spec.clone()) };
        }
        self.world(peer)
    }

    fn world(&self, peer: PeerId) -> World {
        let (disk, seed) = {
            let mut state = self.0.lock();
            let seed = state.random();
            (state.devices[&peer].disk.clone(), seed)
        };
        World {
            network: Arc::new(MemoryNetwork::new(self.0.clone(), peer)),
            dht: Arc::new(MemoryDht::new(self.0.clone(), peer)),
            clock: Arc::new(VirtualClock(self.0.clone())),
            entropy: Arc::new(SeededEntropy::new(seed)),
            disk: Arc::new(disk),
            offload: Arc::new(Inline),
        }
    }

    /// Runs `future`, and all that it spawns, until it completes. Not to be called within a runtime.
    ///
    /// # Panics
    /// If every task waits and no event is left: the run would never end.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a current-thread runtime needs nothing");
        runtime.block_on(async {
            let future = std::pin::pin!(future);
            let driver = std::pin::pin!(self.drive());
            match select(future, driver).await {
                Either::Left((output, _)) => output,
                Either::Right((never, _)) => match never {},
            }
        })
    }

    async fn drive(&self) -> std::convert::Infallible {
        loop {
            // The runtime's clock is paused: this completes only when every task waits.
            #[allow(clippy::disallowed_methods, reason = "tells that all tasks are idle; no time passes")]
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(self.0.fire_next(), "every task waits and no event is left: the run would never end");
        }
    }

    /// Closes the connection between two devices: their streams break. They may connect again.
    pub fn disconnect(&self, one: PeerId, other: PeerId) {
        self.0.disconnect(one, other);
    }

    /// Closes the connection between two devices and keeps them apart until [`Sim::heal`].
    pub fn cut(&self, one: PeerId, other: PeerId) {
        self.0.lock().cuts.insert(state::pair(one, other));
        self.0.disconnect(one, other);
    }

    /// Ends what [`Sim::cut`] began.
    pub fn heal(&self, one: PeerId, other: PeerId) {
        self.0.lock().cuts.remove(&state::pair(one, other));
    }

    /// Takes a device off the network, as a power cut would: its streams break and nobody reaches it. What it put into
    /// the DHT stays there until it expires. Its tasks are not stopped: drop the agent.
    pub fn kill(&self, peer: PeerId) {
        self.0.kill(peer);
    }

    /// Now, on the clock that all agents share.
    pub fn now(&self) -> Instant {
        self.0.lock().now
    }

    /// Now, on the wall clock that all agents share.
    pub fn wall(&self) -> WallTime {
        self.0.lock().wall()
    }

    /// A hash over all bytes delivered so far, with times, senders and receivers: equal runs have equal traces.
    pub fn trace_hash(&self) -> u64 {
        self.0.lock().trace
    }
}

/// Runs work at once, on the thread that asks.
struct Inline;

impl Offload for Inline {
    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }
}
