//! `/diai/dag/1`: a whole DAG in one request.
//!
//! # On the wire
//! A stream carries one request and its answer. Whoever opens it writes one frame (varint length, protobuf `Request` of
//! `proto/dag.proto`) and nothing more; the answer is a row of frames of these kinds:
//!
//! | frame | bytes |
//! |---|---|
//! | block | a section of a CAR file of version 1: varint length of what follows, CID, data |
//! | missing | `00 01`, varint length, CID: the sender has not got this block, and nothing of what is below it follows |
//! | skipped | `00 02`, varint length, CID: this block is on the skip list, which was obeyed |
//! | end | `00 03`, varint length, protobuf `End`: why the answer ends, and what it held |
//!
//! No section of a CAR file has the length 0, so that the block frames alone are the body of a CAR file.
//!
//! **Order.** Depth first from the root, links in the order of [`ipld::links`](crate::ipld::links), as a CAR file is
//! [exported](crate::car::export). A node, a block of a codec with links, is visited once, at its first place, whatever
//! became of it there; at later places there is no frame for it. A leaf that was sent may be left out at later
//! places; a sender remembers the latest only. A block whose CID holds it is never sent, and links out of it are followed.
//!
//! **Skips.** A skip names a block that the receiver has, and either says that all below it is there too, or which of its
//! links are not to be followed, by turns how many stay and how many are left out; links after the last turn stay. The
//! sender answers with one frame, and follows the links that stay. So a cut answer is resumed, and the children of one
//! node are shared among several senders, at the cost of one entry for each node on the way and not for each leaf.
//!
//! **Trust.** Every block is hashed when it arrives and must be the next that the blocks before it announced. A sender of
//! anything else, and one whose end does not fit what it sent, is penalised and left. What came before stays.
//!
//! **Patience.** Who is slower than the floor is left, by sender and receiver alike, and not penalised; only who says nothing
//! where it owes an answer is. Time that the other side spends on itself does not count. A sender that has no room for one more
//! answer says so at once; whether it has a root it tells even then.
//!
//! # Limits
//! | what | limit |
//! |---|---|
//! | bytes of a request | [`MAX_REQUEST_BYTES`] |
//! | skips of a request | [`MAX_SKIPS`] |
//! | turns of all skips of a request | [`MAX_TURNS`] |
//! | bytes of a block | [`MAX_BLOCK_BYTES`](crate::MAX_BLOCK_BYTES) |
//! | depth | [`MAX_DEPTH`]; beyond, a receiver asks from there |
//! | nodes, links that wait, streams, bytes under way of a sender | [`DagConfig`]; a quarter of the streams is for one peer |
//! | nodes, bytes of a receiver | [`FetchConfig`](crate::config::FetchConfig) |
//! | links that wait at a receiver | 262,144 for a request |
//! | bytes that a receiver takes though they are here | 16 MiB for a request, and as many as are not |
//! | time for 1 MiB of an answer | 10 s of waiting for the other side |
//! | silence of a sender | [`FetchConfig::stall`](crate::config::FetchConfig::stall) |
//! | silence of a receiver | 10 s |

mod expected;
mod frame;
mod held;
mod incoming;
mod pace;
mod receive;
mod request;
mod server;
mod walker;

pub use crate::config::DagConfig;
pub use frame::{DecodeFrameError, End, EndReason, Frame};
pub use request::{DecodeRequestError, MAX_REQUEST_BYTES, MAX_SKIPS, MAX_TURNS, Request, Scope, Skip};
pub use server::{DagServer, DagStatus};

pub(crate) use held::{Held, held};
pub(crate) use receive::{Ended, Receiving, Tally, probe, receive};

use diai_core::ProtocolId;

/// What streams of whole DAGs speak.
pub const PROTOCOL: ProtocolId = ProtocolId::new("/diai/dag/1");
/// Nodes deeper below the root are not followed.
pub const MAX_DEPTH: u32 = 65_536;
