use bytes::{Bytes, BytesMut};
use cid::Cid;
use diai_core::{
    bounded::{Bounds, DecodeError, Field, decode},
    frame,
};
use prost::Message;

use crate::dag_pb::{MAX_CID_BYTES, exact_cid};

pub(super) mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
    include!(concat!(env!("OUT_DIR"), "/diai.dag.v1.rs"));
}

/// Bytes of a request.
pub const MAX_REQUEST_BYTES: usize = 512 << 10;
/// Entries of a request's skip list.
pub const MAX_SKIPS: usize = 2048;
/// Turns of all entries of a request's skip list together.
pub const MAX_TURNS: usize = 32_768;

const SKIP: Bounds =
    Bounds::new("skip", &[Field::bytes(1, 1, MAX_CID_BYTES), Field::scalar(2), Field::scalars(3, MAX_TURNS)]);
const REQUEST: Bounds = Bounds::new(
    "dag request",
    &[Field::bytes(1, 1, MAX_CID_BYTES), Field::scalar(2), Field::message(3, MAX_SKIPS, &SKIP), Field::scalar(4)],
);

/// How much is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// The root and all below it.
    #[default]
    Dag,
    /// The root alone.
    Block,
}

/// A block that the receiver has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// Which.
    pub cid: Cid,
    /// All below it is there too.
    pub whole: bool,
    /// Which of its links are not to be followed: by turns how many stay and how many are left out. Those after the
    /// last turn stay.
    pub turns: Vec<u32>,
}

impl Skip {
    /// All of the DAG under `cid`.
    pub fn whole(cid: Cid) -> Self {
        Self { cid, whole: true, turns: Vec::new() }
    }

    /// The block `cid`, and what is below those of its links of which `left_out` says so.
    pub fn links(cid: Cid, left_out: impl IntoIterator<Item = bool>) -> Self {
        let (mut turns, mut out) = (vec![0], false);
        for this in left_out {
            if this != out {
                out = this;
                turns.push(0);
            }
            if let Some(turn) = turns.last_mut() {
                *turn += 1;
            }
        }
        if !out {
            turns.pop();
        }
        Self { cid, whole: false, turns }
    }

    /// Which of so many links are left out.
    pub(super) fn left_out(&self, links: usize) -> Vec<bool> {
        let mut left_out = Vec::with_capacity(links);
        for (at, &turn) in self.turns.iter().enumerate() {
            let this = (turn as usize).min(links - left_out.len());
            left_out.resize(left_out.len() + this, at % 2 == 1);
        }
        left_out.resize(links, false);
        if self.whole { vec![true; links] } else { left_out }
    }

    /// Those of `links` that stay.
    pub fn remaining(&self, links: Vec<Cid>) -> Vec<Cid> {
        if self.whole {
            return Vec::new();
        }
        let (mut links, mut remaining) = (links.into_iter(), Vec::new());
        for pair in self.turns.chunks(2) {
            remaining.extend(links.by_ref().take(pair[0] as usize));
            if let Some(&out) = pair.get(1).filter(|out| **out > 0) {
                links.nth(out as usize - 1);
            }
        }
        remaining.extend(links);
        remaining
    }
}

/// Why bytes are no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeRequestError {
    /// The protobuf is malformed, or over a limit.
    #[error(transparent)]
    Message(#[from] DecodeError),
    /// A CID is malformed.
    #[error("a CID of the request is malformed")]
    Cid,
    /// The scope is not one of those known.
    #[error("scope {scope} of the request is unknown")]
    Scope {
        /// As it stood there.
        scope: u32,
    },
    /// All turns together are too many.
    #[error("the skips of the request have more than {MAX_TURNS} turns")]
    Turns,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where to begin.
    pub root: Cid,
    /// How much.
    pub scope: Scope,
    /// What the receiver has.
    pub skips: Vec<Skip>,
    /// Bytes of blocks that may come; 0 asks only whether the root is there.
    pub max_bytes: u64,
}

impl Request {
    /// Decodes the content of a request's frame.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeRequestError> {
        let request: proto::Request = decode(bytes, &REQUEST)?;
        let cid = |bytes: &Bytes| exact_cid(bytes).ok_or(DecodeRequestError::Cid);
        if request.skips.iter().map(|skip| skip.turns.len()).sum::<usize>() > MAX_TURNS {
            return Err(DecodeRequestError::Turns);
        }
        let skip = |skip: proto::Skip| Ok(Skip { cid: cid(&skip.cid)?, whole: skip.whole, turns: skip.turns });
        Ok(Self {
            root: cid(&request.root)?,
            scope: match request.scope {
                0 => Scope::Dag,
                1 => Scope::Block,
                scope => return Err(DecodeRequestError::Scope { scope }),
            },
            skips: request.skips.into_iter().map(skip).collect::<Result<_, DecodeRequestError>>()?,
            max_bytes: request.max_bytes,
        })
    }

    /// Whether only this is asked: is the root there?
    pub(super) fn only_asks(&self) -> bool {
        self.scope == Scope::Block && self.max_bytes == 0
    }

    /// The frame of the request, which must be within the limits of its receiver.
    pub fn encode(&self) -> Bytes {
        let skip =
            |skip: &Skip| proto::Skip { cid: skip.cid.to_bytes().into(), whole: skip.whole, turns: skip.turns.clone() };
        let request = proto::Request {
            root: self.root.to_bytes().into(),
            scope: match self.scope {
                Scope::Dag => 0,
                Scope::Block => 1,
            },
            skips: self.skips.iter().map(skip).collect(),
            max_bytes: self.max_bytes,
        };
        let mut frame = BytesMut::new();
        frame::put(&request.encode_to_vec(), &mut frame);
        frame.freeze()
    }
}
