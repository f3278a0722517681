use std::{fmt, sync::Arc};

use crate::{Clock, Dht, Disk, Entropy, Network, Offload};

/// All that an agent can learn or do outside itself. Cheap to clone.
///
/// `diai-net` makes one of libp2p, [`memory`](crate::memory) one of a seed.
#[derive(Clone)]
pub struct World {
    /// Streams to other devices.
    pub network: Arc<dyn Network>,
    /// Records and providers, spread over all devices.
    pub dht: Arc<dyn Dht>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The agent's data folder.
    pub disk: Arc<dyn Disk>,
    /// Threads for work that blocks.
    pub offload: Arc<dyn Offload>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("peer", &self.network.local_peer()).finish_non_exhaustive()
    }
}
