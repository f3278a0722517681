//! Making room in a store that is full.

use super::Cached;
use crate::{FlushError, PutError, RemoveError, store::Store};

/// What is dropped at least, so that segments become worth emptying.
const MIN_BYTES: u64 = 16 << 20;

/// Drops cached blocks until `needed_bytes` fit into `store`; returns whether they do. `before` is as in
/// [`Cached::sweep`]. Blocks.
pub(crate) fn make_room(
    cached: &Cached,
    store: &dyn Store,
    before: impl Fn() -> u32,
    needed_bytes: u64,
) -> Result<bool, PutError> {
    loop {
        let any = cached.condemn(needed_bytes.max(MIN_BYTES));
        let held_before = cached.stats().condemned_bytes;
        cached.sweep(store, before(), true).map_err(|error| match error {
            RemoveError::Failed => PutError::Failed,
            RemoveError::Io(error) => PutError::Io(error),
            RemoveError::Closed => PutError::Closed,
        })?;
        let swept = cached.stats().condemned_bytes < held_before;
        if !any && !swept {
            return Ok(false);
        }
        store.flush().map_err(|error| match error {
            FlushError::Io(error) => PutError::Io(error),
            FlushError::Failed => PutError::Failed,
            FlushError::Closed => PutError::Closed,
        })?;
        while store.compact()? {}
        let stats = store.stats();
        // A store without a disk counts its data.
        let taken = stats.disk_bytes.max(stats.data_bytes);
        if taken.saturating_add(needed_bytes) <= stats.quota_bytes {
            return Ok(true);
        }
    }
}
