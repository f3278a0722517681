//! The links of a block, whatever codec it is of: what everything goes by that walks, pins, collects, fetches or exports
//! a DAG.
//!
//! Of dag-cbor and dag-json only the links are read, in one pass and without building what is around them. What Kubo
//! 0.43 takes for a block of these codecs is taken here, its leniencies included; what is malformed is an error. Keys
//! that stand twice, which Kubo refuses, are let pass: they hide no link.
//!
//! # Limits
//! | what | limit |
//! |---|---|
//! | links of a block | [`MAX_LINKS`] |
//! | maps and lists within each other | [`MAX_DEPTH`] |
//! | bytes of a CID | 168 |
//!
//! ```
//! use diai_blocks::{Block, DAG_JSON, RAW, ipld};
//!
//! let leaf = Block::new(RAW, &b"a ring"[..])?.cid;
//! let node = Block::new(DAG_JSON, format!(r#"{{"ring":{{"/":"{leaf}"}}}}"#))?;
//! assert_eq!(ipld::links(&node.cid, &node.data)?, [leaf]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub(crate) mod cbor;
mod json;

use cid::Cid;

pub use cbor::CborError;
pub use json::JsonError;

use crate::{DAG_CBOR, DAG_JSON, DAG_PB, dag_pb};

/// More links than this in one block are refused.
pub const MAX_LINKS: usize = dag_pb::MAX_LINKS;
/// Maps and lists deeper within each other are refused, as Kubo does.
pub const MAX_DEPTH: usize = 1024;

/// Why the links of a block cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinksError {
    /// It is no dag-pb.
    #[error(transparent)]
    Pb(#[from] dag_pb::DecodeError),
    /// It is no dag-cbor.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// It is no dag-json.
    #[error(transparent)]
    Json(#[from] JsonError),
}

/// Whether blocks of `codec` can have links: dag-pb, dag-cbor and dag-json. All others are leaves.
pub fn has_links(codec: u64) -> bool {
    matches!(codec, DAG_PB | DAG_CBOR | DAG_JSON)
}

/// The CIDs that `data`, the block `cid`, links to, in their order, as often as they stand there.
pub fn links(cid: &Cid, data: &[u8]) -> Result<Vec<Cid>, LinksError> {
    match cid.codec() {
        DAG_PB => Ok(dag_pb::Node::decode(data)?.links.into_iter().map(|link| link.cid).collect()),
        DAG_CBOR => Ok(cbor::links(data)?),
        DAG_JSON => Ok(json::links(data)?),
        _ => Ok(Vec::new()),
    }
}
