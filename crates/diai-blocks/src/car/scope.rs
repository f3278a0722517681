//! How much of a DAG is exported below a block.

use std::ops::Range;

use cid::Cid;

use crate::{
    DAG_PB,
    dag_pb::Node,
    unixfs::{Kind, ReadError, UnixFs, links},
};

/// What of the DAG below a block goes along with it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "gateway"), allow(dead_code, reason = "only gateways are asked for less than all"))]
pub(crate) enum Scope {
    /// Nothing.
    Block,
    /// Of a file the bytes `range`, of a folder its shards, of all else nothing.
    Entity {
        /// Where in the file this part of it begins.
        start: u64,
        range: Range<u64>,
        /// Whether all below this part is meant.
        whole: bool,
    },
    /// All of it.
    All,
}

impl Scope {
    /// A file or a folder, and of a file the bytes `range`.
    #[cfg(feature = "gateway")]
    pub(crate) fn entity(range: Range<u64>) -> Self {
        let whole = range.start == 0 && range.end == u64::MAX;
        Self::Entity { start: 0, range, whole }
    }

    /// Whether a second visit of the same block, under the same scope, would bring nothing new.
    pub(super) fn is_whole(&self) -> bool {
        !matches!(self, Self::Entity { whole: false, .. })
    }

    /// The links out of `data`, the block `cid`, that are followed.
    pub(super) fn follow(&self, cid: Cid, data: &[u8]) -> Result<Vec<(Cid, Self)>, ReadError> {
        match self {
            Self::Block => Ok(Vec::new()),
            Self::All => Ok(links(cid, data)?.into_iter().map(|link| (link, Self::All)).collect()),
            Self::Entity { start, range, .. } if cid.codec() == DAG_PB => Ok(entity(data, *start, range)),
            Self::Entity { .. } => Ok(Vec::new()),
        }
    }
}

/// What is no UnixFS is a block and nothing else, as other gateways have it.
fn entity(data: &[u8], start: u64, range: &Range<u64>) -> Vec<(Cid, Scope)> {
    let Ok(node) = Node::decode(data) else { return Vec::new() };
    let Some(unixfs) = node.data.as_ref().and_then(|data| UnixFs::decode(data).ok()) else { return Vec::new() };
    match unixfs.kind {
        Kind::File | Kind::Raw => parts(&node, &unixfs, start, range),
        Kind::Shard => shards(&node, &unixfs),
        Kind::Folder | Kind::Symlink => Vec::new(),
    }
}

fn parts(node: &Node, unixfs: &UnixFs, start: u64, range: &Range<u64>) -> Vec<(Cid, Scope)> {
    let mut start = start.saturating_add(unixfs.data.as_ref().map_or(0, |data| data.len() as u64));
    let mut parts = Vec::new();
    for (link, bytes) in node.links.iter().zip(&unixfs.blocksizes) {
        let end = start.saturating_add(*bytes);
        if start < range.end && end > range.start {
            let whole = range.start <= start && end <= range.end;
            parts.push((link.cid, Scope::Entity { start, range: range.clone(), whole }));
        }
        start = end;
    }
    parts
}

/// A shard below has no name but its place.
fn shards(node: &Node, unixfs: &UnixFs) -> Vec<(Cid, Scope)> {
    let place = format!("{:X}", unixfs.fanout.unwrap_or(0).saturating_sub(1)).len();
    let below = node.links.iter().filter(|link| link.name.len() == place);
    below.map(|link| (link.cid, Scope::Entity { start: 0, range: 0..u64::MAX, whole: true })).collect()
}
