use std::time::Duration;

use bytes::Bytes;
use diai_core::{AgentId, Multiaddr, PeerId, ProtocolId, RecordKey, WallTime, bounded::DecodeError};
use diai_identity::Domain;
use sha2::{Digest, Sha256};

use crate::{Attributes, CapabilityPath, codec};

/// The protocol by which two devices tell each other their newest records. The opener sends one frame, its own record or
/// nothing; the acceptor answers with one frame, its own record or nothing; then both close.
pub const RECORD_PROTOCOL: ProtocolId = ProtocolId::new("/diai/record/1");
/// The namespace of records in the DHT; what follows it is the device's PeerId as a multihash.
pub const RECORD_NAMESPACE: &str = "diai-agent";
/// The longest signed record in bytes, envelope and certificate included.
pub const MAX_RECORD_BYTES: usize = 2048;
/// The most addresses of a record.
pub const MAX_ADDRS: usize = 8;
/// The longest address in bytes, in binary.
pub const MAX_ADDR_BYTES: usize = 160;
/// The most capabilities of a record, ancestors not counted.
pub const MAX_CAPABILITIES: usize = 32;
/// Room for capabilities and attributes in a record, in bytes; addresses get the rest.
pub const MAX_DESCRIPTION_BYTES: usize = 1024;
/// The longest time from `not_before` to `expires`.
pub const MAX_LIFETIME: Duration = Duration::from_secs(6 * 60 * 60);
/// How far the clocks of two devices may differ: records are valid from so long before they are signed.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(60 * 60);

pub(crate) const RECORD_DOMAIN: Domain = Domain::new("diai/agent-record/1");

/// What a device publishes about itself and its agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRecord {
    /// The agent.
    pub agent: AgentId,
    /// Its device, who signed the record.
    pub peer: PeerId,
    /// Of two records of a device the higher is the newer.
    pub seq: u64,
    /// When the record begins to hold.
    pub not_before: WallTime,
    /// When it ends to hold.
    pub expires: WallTime,
    /// Where the device can be dialled, at most [`MAX_ADDRS`].
    pub addrs: Vec<Multiaddr>,
    /// What the agent can do, sorted, each once, at most [`MAX_CAPABILITIES`]. Their ancestors are not listed.
    pub capabilities: Vec<CapabilityPath>,
    /// What else it says of itself.
    pub attributes: Attributes,
}

impl AgentRecord {
    /// The bytes that are signed, under the domain `diai/agent-record/1`.
    pub fn to_bytes(&self) -> Bytes {
        codec::encode(self)
    }

    /// The record in bytes that were signed. Bounded; who signed them is for [`SignedRecord`](crate::SignedRecord) to
    /// say. Addresses and attribute values of a kind unknown here are left out.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }

    /// Whether one of the capabilities is `path` or lies below it.
    pub fn offers(&self, path: &CapabilityPath) -> bool {
        self.capabilities.iter().any(|capability| capability.is_within(path))
    }
}

/// Where the record of `peer` stands in the DHT.
pub fn record_key(peer: PeerId) -> RecordKey {
    key(RECORD_NAMESPACE, &peer.to_bytes())
}

/// Under which key the devices of agents that offer `path`, or anything below it, are providers.
pub fn capability_key(path: &CapabilityPath) -> RecordKey {
    key("diai-capability", &hash("diai/capability/1", path.as_str().as_bytes()))
}

/// Under which key the devices of `agent` are providers.
pub fn agent_key(agent: AgentId) -> RecordKey {
    key("diai-device", &hash("diai/device/1", agent.as_bytes()))
}

fn hash(domain: &str, name: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(domain).chain_update(name).finalize().into()
}

fn key(namespace: &str, name: &[u8]) -> RecordKey {
    RecordKey::new(namespace, name).expect("a hash or a PeerId is shorter than a key")
}
