//! The DHT of IPFS, as a client: announces blocks where Kubo and others look for them, and finds who provides theirs.
//!
//! It speaks `/ipfs/kad/1.0.0` and `/ipfs/lan/kad/1.0.0` (the one of private and loopback addresses), two networks that
//! are kept apart, on streams of its own over any [`World`](diai_core::World). Nothing is served to others.
//!
//! - **Keys** are multihashes, so that a CID's version and codec do not matter.
//! - **A lookup** asks the peers closest to the key, ten at a time, until the twenty closest have answered.
//! - **Announcements go by region**: one lookup or two find all peers of a part of the key space, and with them those for
//!   all keys in it. 100,000 blocks cost as many lookups as the network has regions of twenty peers. Each network has
//!   two queues that go on beside each other: what is provided by itself, and long announcements, slice by slice in the
//!   four quarters of the key space; nothing new waits for those. [`IpfsDht::status`] says how far they are.
//! - **Each network by itself**: what one took is still announced on the other, when somebody comes there. When this
//!   device has new addresses, all is announced again soon.
//! - **Lookups for providers** run by themselves, whether or not anybody reads what they find, and end when nobody can.
//! - **What strangers say of addresses** counts only where it can be true: public ones on the public network, private ones
//!   on the private.
//!
//! # Limits
//! | what | limit |
//! |---|---|
//! | bytes of an answer | [`MAX_MESSAGE_BYTES`] |
//! | peers of an answer, each kind | [`MAX_PEERS`] |
//! | peers that a lookup keeps in sight | [`MAX_CANDIDATES`] |
//! | servers remembered | [`IpfsDhtConfig::max_servers`] |
//! | lookups at a time | [`IpfsDhtConfig::max_lookups`] |
//! | keys announced | [`IpfsDhtConfig::max_keys`] |
//! | keys announced together | 2,048 of a region |
//! | providers that one server names of a key | 4 |
//!
//! Follows the libp2p Kademlia specification and the provider records of go-libp2p-kad-dht.

mod announce;
mod handle;
mod lookup;
mod message;
mod network;
mod prefix;
mod provide;

pub use handle::{
    Announced, IpfsDht, IpfsDhtConfig, IpfsDhtStatus, IpfsNetworkStatus, NamedProviders, ProviderAnswers,
};
pub use lookup::{Lookup, MAX_CANDIDATES, REPLICATION};
pub use message::{DhtMessage, DhtPeer, Key, Kind, MAX_MESSAGE_BYTES, MAX_PEERS};
