use bytes::Bytes;
use diai_core::{
    Multiaddr, PeerId,
    bounded::{self, Bounds, DecodeError, Field},
};
use prost::Message as _;
use sha2::{Digest, Sha256};

mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/diai.ipfs_kad.v1.rs"));
}

/// The longest answer that is read. Twenty peers with a dozen addresses each take 20 KiB.
pub const MAX_MESSAGE_BYTES: usize = 256 << 10;
/// Peers of one kind that an answer may name.
pub const MAX_PEERS: usize = 256;
/// Addresses of one peer that count.
const MAX_ADDRS: usize = 16;
/// Addresses of one peer that are read over.
const MAX_ADDRS_READ: usize = 128;
const MAX_ADDR_BYTES: usize = 512;
const MAX_ID_BYTES: usize = 128;
const MAX_KEY_BYTES: usize = 128;

const PEER: Bounds = Bounds::new(
    "Peer",
    &[Field::bytes(1, 1, MAX_ID_BYTES), Field::bytes(2, MAX_ADDRS_READ, MAX_ADDR_BYTES), Field::scalar(3)],
);
const MESSAGE: Bounds = Bounds::new(
    "Message",
    &[
        Field::scalar(1),
        Field::bytes(2, 1, MAX_KEY_BYTES),
        Field::message(8, MAX_PEERS, &PEER),
        Field::message(9, MAX_PEERS, &PEER),
        Field::scalar(10),
    ],
);

/// A place in the key space: the SHA-256 of a key, or of a peer's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

impl Key {
    /// Of what is looked for.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Of a peer.
    pub fn of_peer(peer: &PeerId) -> Self {
        Self::of(&peer.to_bytes())
    }

    /// How far apart: the XOR, the first byte counting most.
    pub fn distance(&self, other: &Self) -> [u8; 32] {
        std::array::from_fn(|index| self.0[index] ^ other.0[index])
    }

    /// How many bits from the first on are equal.
    pub fn common_bits(&self, other: &Self) -> u32 {
        let distance = self.distance(other);
        let equal = distance.iter().take_while(|byte| **byte == 0).count();
        8 * u32::try_from(equal).unwrap_or(u32::MAX) + distance.get(equal).map_or(0, |byte| byte.leading_zeros())
    }
}

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The sender provides the key; not answered.
    AddProvider,
    /// Who provides the key, and who is closer to it.
    GetProviders,
    /// Who is closer to the key.
    FindNode,
}

/// A peer and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhtPeer {
    /// Who.
    pub peer: PeerId,
    /// Where, at most 16.
    pub addrs: Vec<Multiaddr>,
}

/// A question or an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhtMessage {
    /// What it is for.
    pub kind: Kind,
    /// What it is about.
    pub key: Bytes,
    /// Peers closer to the key.
    pub closer: Vec<DhtPeer>,
    /// Peers that provide it.
    pub providers: Vec<DhtPeer>,
}

impl DhtMessage {
    /// A question about `key`.
    pub fn new(kind: Kind, key: Bytes) -> Self {
        Self { kind, key, closer: Vec::new(), providers: Vec::new() }
    }

    /// The protobuf.
    pub fn to_bytes(&self) -> Vec<u8> {
        let peers = |peers: &[DhtPeer]| peers.iter().map(to_wire).collect();
        proto::Message {
            r#type: match self.kind {
                Kind::AddProvider => 2,
                Kind::GetProviders => 3,
                Kind::FindNode => 4,
            },
            key: self.key.clone(),
            closer_peers: peers(&self.closer),
            provider_peers: peers(&self.providers),
            // Levels are counted from one; nobody has used them since.
            cluster_level: 0,
        }
        .encode_to_vec()
    }

    /// Decodes a message. Peers and addresses that mean nothing to this version are left out.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        let message: proto::Message = bounded::decode(bytes, &MESSAGE)?;
        let kind = match message.r#type {
            2 => Kind::AddProvider,
            3 => Kind::GetProviders,
            4 => Kind::FindNode,
            _ => return Err(DecodeError::Value { message: "Message", field: "type" }),
        };
        let peers = |peers: Vec<proto::Peer>| peers.into_iter().filter_map(from_wire).collect();
        Ok(Self {
            kind,
            key: message.key,
            closer: peers(message.closer_peers),
            providers: peers(message.provider_peers),
        })
    }
}

/// One provider's word about many keys, encoded once.
pub(super) struct Announcement {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Announcement {
    pub(super) fn new(provider: DhtPeer) -> Self {
        let mut message = DhtMessage::new(Kind::AddProvider, Bytes::new());
        message.providers.push(provider);
        // The type comes first, in two bytes; the key next, which is left out while it is empty.
        let mut head = message.to_bytes();
        let tail = head.split_off(2);
        Self { head, tail }
    }

    /// The message about `key`, of up to 127 bytes.
    pub(super) fn of(&self, key: &[u8]) -> Vec<u8> {
        [&self.head, &[0x12, key.len() as u8][..], key, &self.tail].concat()
    }
}

fn to_wire(peer: &DhtPeer) -> proto::Peer {
    let addrs = peer.addrs.iter().take(MAX_ADDRS).map(|addr| Bytes::copy_from_slice(addr.as_ref())).collect();
    proto::Peer { id: peer.peer.to_bytes().into(), addrs, connection: 1 }
}

fn from_wire(peer: proto::Peer) -> Option<DhtPeer> {
    let addrs = peer.addrs.into_iter().filter_map(|addr| Multiaddr::try_from(addr.to_vec()).ok()).take(MAX_ADDRS);
    Some(DhtPeer { peer: PeerId::from_bytes(&peer.id).ok()?, addrs: addrs.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_has_the_bytes_of_its_message() {
        let peer = diai_core::memory::AgentSpec::example(1).peer;
        let provider = DhtPeer { peer, addrs: vec!["/ip4/10.0.0.1/tcp/1".parse().unwrap()] };
        let announcement = Announcement::new(provider.clone());
        for key in [&[0x12, 2, 7, 7][..], &[9; 100]] {
            let mut message = DhtMessage::new(Kind::AddProvider, Bytes::copy_from_slice(key));
            message.providers.push(provider.clone());
            assert_eq!(announcement.of(key), message.to_bytes());
        }
    }
}
