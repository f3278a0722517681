//! Reading parts of files, and what is cached of them.

use std::{ops::Range, pin::pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use cid::Cid;
use diai_core::Instant;
use futures::StreamExt;

use super::{Blocks, ContentError};
use crate::{
    CacheStats,
    fetch::FetchOptions,
    unixfs::{self, FileReader, ReadError},
};

impl Blocks {
    /// Opens the file `cid`, whose blocks come from here or from others as they are read. Until it is read to its end, what
    /// it has read may be dropped from the [cache](crate::cache) again, and is fetched once more if need be.
    ///
    /// Cancel-safe, as the reader is.
    pub async fn reader(&self, cid: Cid, options: FetchOptions) -> Result<FileReader<'static>, ReadError> {
        FileReader::open_owned(Arc::new(self.0.fetcher.source(options)), cid).await
    }

    /// The bytes `range` of the file `cid`, or what there is of them, from here or from others: only the blocks that they
    /// lie in are fetched, and the nodes above those. Memory: the bytes asked for. Cancel-safe.
    pub async fn read_range(&self, cid: Cid, range: Range<u64>, deadline: Instant) -> Result<Bytes, ContentError> {
        let source = self.0.fetcher.source(FetchOptions::until(deadline));
        let mut chunks = pin!(unixfs::read_range(&source, cid, range));
        let mut content = BytesMut::new();
        while let Some(chunk) = chunks.next().await {
            content.extend_from_slice(&chunk?);
        }
        Ok(content.freeze())
    }

    /// What the [cache](crate::cache) holds and did.
    pub fn cache_stats(&self) -> CacheStats {
        let fetcher = &self.0.fetcher;
        let blocks = fetcher.store.cached().map(|cached| cached.stats()).unwrap_or_default();
        let lookups = fetcher.lookups.lock();
        CacheStats { provider_hits: lookups.provider_hits, lookups_spared: lookups.spared, ..blocks }
    }
}
