//! What of the store may be sent over HTTP.

use bytes::Bytes;
use cid::Cid;
use diai_core::BoxFuture;

use crate::{
    BlockSource, BlockStore, GetError, SourceError, identity_content,
    serve::{Gate, ServeRule},
};

/// The store, without what is denied to whoever has no device and no agent: it is as if it were not here.
#[derive(Clone)]
pub(super) struct Served {
    store: BlockStore,
    gate: Gate,
}

impl Served {
    pub(super) fn new(store: BlockStore, rule: &ServeRule) -> Self {
        Self { store, gate: rule.gate(None, || None) }
    }

    /// Whoever names a block that its CID holds has it already.
    fn allows(&self, cid: &Cid) -> bool {
        self.gate.is_open() || identity_content(cid).is_some() || self.gate.allows(cid)
    }

    pub(super) fn has(&self, cid: &Cid) -> bool {
        self.allows(cid) && self.store.has(cid)
    }

    pub(super) fn size(&self, cid: &Cid) -> Option<u64> {
        self.store.size(cid).filter(|_| self.allows(cid))
    }

    pub(super) async fn get(&self, cid: &Cid) -> Result<Option<Bytes>, GetError> {
        if self.allows(cid) { self.store.get(cid).await } else { Ok(None) }
    }
}

impl BlockSource for Served {
    fn block(&self, cid: Cid) -> BoxFuture<'_, Result<Bytes, SourceError>> {
        if self.allows(&cid) {
            return self.store.block(cid);
        }
        Box::pin(std::future::ready(Err(SourceError::NotFound { cid, asked: "the local store".into() })))
    }
}
