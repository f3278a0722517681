use std::collections::BTreeSet;

use bytes::Bytes;
use cid::Cid;
use futures::{Stream, stream};

use super::{PREFETCH, ReadError, frontier::Frontier};
use crate::{
    BlockSource,
    ipld::{self, LinksError},
    store::Key,
};

/// How to walk a DAG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalkOptions {
    /// Fetch leaves, the blocks of codecs without links, too; otherwise they are only named. Default no.
    pub leaves: bool,
    /// A DAG of more blocks is refused. The walk holds about 70 bytes for each block seen. Default 16 Mi.
    pub max_blocks: usize,
    /// Blocks fetched ahead, at most 2 MiB each. Default [`PREFETCH`].
    pub prefetch: usize,
}

impl Default for WalkOptions {
    fn default() -> Self {
        Self { leaves: false, max_blocks: 16 << 20, prefetch: PREFETCH }
    }
}

/// A block of a DAG that is walked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Visited {
    /// Which.
    pub cid: Cid,
    /// Its data, where it was fetched.
    pub data: Option<Bytes>,
}

/// The CIDs that `data`, the block `cid`, links to: [`ipld::links`].
pub fn links(cid: Cid, data: &[u8]) -> Result<Vec<Cid>, ReadError> {
    ipld::links(&cid, data).map_err(|reason| match reason {
        LinksError::Pb(reason) => ReadError::Node { cid, reason },
        reason => ReadError::Links { cid, reason },
    })
}

/// Every block of the DAG under `root`, each once, parents before children. A block that cannot be had, or read, is an
/// error in its place, and the walk goes on with the others.
pub fn walk<'a>(
    source: &'a dyn BlockSource,
    root: Cid,
    options: &WalkOptions,
) -> impl Stream<Item = Result<Visited, ReadError>> + Send + 'a {
    let mut walk = Walk::new(source, options.clone());
    walk.add(root);
    stream::unfold(walk, |mut walk| async move { walk.next().await.map(|visited| (visited, walk)) })
}

/// A walk over several roots that remembers what it has seen.
pub(crate) struct Walk<'a> {
    options: WalkOptions,
    frontier: Frontier<'a, ()>,
    /// Leaves that are named but not fetched, still to be handed out.
    leaves: Vec<Cid>,
    /// By codec and hash.
    seen: BTreeSet<(u64, Key)>,
    root: Cid,
    over_limit: bool,
    /// Leaves that are only named are handed out once for each link, and not remembered.
    forgets_leaves: bool,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(source: &'a dyn BlockSource, options: WalkOptions) -> Self {
        let frontier = Frontier::new(source, options.prefetch);
        let (leaves, seen) = (Vec::new(), BTreeSet::new());
        Self { options, frontier, leaves, seen, root: Cid::default(), over_limit: false, forgets_leaves: false }
    }

    pub(crate) fn forgetting_leaves(self) -> Self {
        Self { forgets_leaves: true, ..self }
    }

    pub(crate) fn add(&mut self, root: Cid) {
        self.root = root;
        self.push(vec![root]);
    }

    fn push(&mut self, cids: Vec<Cid>) {
        let mut inner = Vec::new();
        for cid in cids {
            let named_only = !self.options.leaves && !ipld::has_links(cid.codec());
            if named_only && self.forgets_leaves || self.seen.insert((cid.codec(), Key::from(cid.hash()))) {
                if named_only { self.leaves.push(cid) } else { inner.push((cid, ())) }
            }
        }
        self.frontier.push_front(inner.into_iter());
    }

    pub(crate) async fn next(&mut self) -> Option<Result<Visited, ReadError>> {
        if let Some(cid) = self.leaves.pop() {
            return Some(Ok(Visited { cid, data: None }));
        }
        if self.over_limit {
            return None;
        }
        let (cid, (), fetched) = self.frontier.next().await?;
        let visit = fetched.map_err(ReadError::from).and_then(|data| Ok((links(cid, &data)?, data)));
        Some(match visit {
            Ok((links, data)) => {
                self.push(links);
                if self.seen.len() > self.options.max_blocks {
                    self.over_limit = true;
                    self.leaves.clear();
                    let limit = self.options.max_blocks as u64;
                    return Some(Err(ReadError::OverLimit { cid: self.root, what: "blocks", limit }));
                }
                Ok(Visited { cid, data: Some(data) })
            }
            Err(error) => Err(error),
        })
    }
}
