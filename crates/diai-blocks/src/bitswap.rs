//! Bitswap 1.2.0: exchanging single blocks with any IPFS node.
//!
//! Streams are used as Kubo uses them. Each is one-way: frames (varint length, protobuf) from whoever opened it until
//! its end. Both styles are read: many messages on one stream, and many short streams at once. We keep at most two
//! open per peer, one for wants and one for answers, and open them again when they break.
//!
//! - [`Message`] and the codec: what is said, with caps on everything.
//! - [`ClientMachine`]: which want goes to whom, and when to ask another.
//! - [`ServerMachine`]: whom to answer next, with how much.
//! - [`Bitswap`]: the tasks around them.

mod client;
mod codec;
mod frames;
mod handle;
mod message;
mod peer;
mod server;
mod shell;
mod streams;

pub use client::{ClientInput, ClientMachine, ClientOutput};
pub use codec::{DecodeMessageError, decode, encode};
pub use handle::{Bitswap, BitswapStatus, Delivery, Session};
pub use message::{MAX_CID_BYTES, MAX_MESSAGE_BYTES, Message, Payload, Prefix, Presence, Version, Want, WantKind};
pub use server::{ServerInput, ServerMachine, ServerOutput};
