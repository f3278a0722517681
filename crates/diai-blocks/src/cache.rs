//! The cache of what others have: blocks that were fetched and that nobody keeps.
//!
//! A block that a fetch stored is *cached* until it is put by somebody here, pinned, or removed. What is added, imported,
//! pinned or fetched for a pin never is, and is never dropped for want of room in the cache. The cache is no second store:
//! its blocks lie in the [store](crate::Store) and are served from there; it knows only which they are, and drops those that
//! are worth least ([`Policy`]) when they exceed [`CacheConfig::max_bytes`].
//!
//! - **Guards.** What a guard holds, such as the DAG that a fetch is at, is dropped only after it; until then the cache may
//!   exceed its budget, by what came or was found since the oldest guard.
//! - **Quota.** When the store is full, cached blocks give way before a put fails.
//! - **Collection.** [`gc`](crate::Blocks::gc) removes all that is not kept, cached blocks too.
//! - **Restart.** Which blocks are cached is in a small database; how often they were asked for is not, so that the counts
//!   begin anew. After a kill, up to 4,096 that came last count as kept until the next collection.
//!
//! # Limits
//! | what | limit |
//! |---|---|
//! | bytes of cached blocks, beyond what guards hold | [`CacheConfig::max_bytes`], at most half the store's quota |
//! | cached blocks | [`CacheConfig::max_blocks`], 200 bytes of memory each |
//! | counters | 5 bytes for each 4 KiB of the budget, twice that at worst, and no more than for `max_blocks` |
//! | roots whose providers are remembered, CIDs that the DHT does not know | [`CacheConfig::max_roots`] of each |
//!
//! [`CacheConfig::max_bytes`]: crate::config::CacheConfig::max_bytes
//! [`CacheConfig::max_blocks`]: crate::config::CacheConfig::max_blocks
//! [`CacheConfig::max_roots`]: crate::config::CacheConfig::max_roots

mod cached;
mod list;
mod marks;
mod policy;
mod providers;
mod room;
mod sketch;
mod sweep;

pub(crate) use cached::Cached;
pub use policy::Policy;
pub(crate) use providers::Lookups;
pub(crate) use room::make_room;
pub(crate) use sweep::Sweeper;

/// What the cache holds and did since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CacheStats {
    /// Bytes that cached blocks may have.
    pub max_bytes: u64,
    /// Blocks that are cached.
    pub blocks: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Bytes of blocks that are to go, as soon as nobody holds them.
    pub condemned_bytes: u64,
    /// Times that a fetch found a block cached.
    pub hits: u64,
    /// Bytes of those.
    pub hit_bytes: u64,
    /// Times that a fetch had to ask for a block. What is kept here counts as neither.
    pub misses: u64,
    /// Blocks that were dropped.
    pub evicted_blocks: u64,
    /// Bytes of those.
    pub evicted_bytes: u64,
    /// Fetches that knew providers of their root from before.
    pub provider_hits: u64,
    /// Lookups in the DHT that were left out, because it had just known nobody.
    pub lookups_spared: u64,
}
