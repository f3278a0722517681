//! Reading parts of files, and what is cached of them.

use super::Blocks;
use crate::CacheStats;

impl Blocks {
    /// What the [cache](crate::cache) holds and did.
    pub fn cache_stats(&self) -> CacheStats {
        let fetcher = &self.0.fetcher;
        let blocks = fetcher.store.cached().map(|cached| cached.stats()).unwrap_or_default();
        let lookups = fetcher.lookups.lock();
        CacheStats { provider_hits: lookups.provider_hits, lookups_spared: lookups.spared, ..blocks }
    }
}
