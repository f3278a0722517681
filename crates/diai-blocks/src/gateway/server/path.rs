//! Where a path leads, and by which blocks.

use cid::Cid;
use diai_core::BoxFuture;
use parking_lot::Mutex;

use bytes::Bytes;

use super::served::Served;
use crate::{
    BlockSource, SourceError,
    unixfs::{self, ReadError},
};

/// What a path leads to.
pub(super) struct Resolved {
    pub(super) target: Cid,
    /// Where each name begins, the first being the root.
    pub(super) roots: Vec<Cid>,
    /// The blocks that were read on the way, in order, without the target.
    pub(super) blocks: Vec<Cid>,
}

/// Notes what is read.
struct Noting<'a> {
    store: &'a Served,
    read: Mutex<Vec<Cid>>,
}

impl BlockSource for Noting<'_> {
    fn block(&self, cid: Cid) -> BoxFuture<'_, Result<Bytes, SourceError>> {
        self.read.lock().push(cid);
        self.store.block(cid)
    }
}

/// Follows `path` from `root`. At most as many blocks are noted as a sharded folder has levels, for each name.
pub(super) async fn resolve(store: &Served, root: Cid, path: &[String]) -> Result<Resolved, ReadError> {
    let noting = Noting { store, read: Mutex::default() };
    let mut roots = vec![root];
    let mut target = root;
    for name in path {
        target = unixfs::lookup(&noting, target, name).await?.cid;
        roots.push(target);
    }
    Ok(Resolved { target, roots, blocks: noting.read.into_inner() })
}
