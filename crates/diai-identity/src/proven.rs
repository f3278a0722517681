//! Certificates whose signatures were checked before, so that each costs its two checks once: with every envelope of a
//! device comes the same one. Whether the signatures are good follows from the bytes alone, so that it can be remembered
//! for all agents of a process; a certificate's time is looked at anew each time.

use std::{
    num::NonZeroUsize,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use lru::LruCache;

/// About half a megabyte.
const MAX_PROVEN: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

static PROVEN: LazyLock<Mutex<LruCache<Box<[u8]>, ()>>> = LazyLock::new(|| Mutex::new(LruCache::new(MAX_PROVEN)));

fn proven() -> MutexGuard<'static, LruCache<Box<[u8]>, ()>> {
    PROVEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether both signatures of exactly this certificate were found good.
pub(crate) fn is_known(encoded: &[u8]) -> bool {
    proven().get(encoded).is_some()
}

/// Call only after both were.
pub(crate) fn remember(encoded: &[u8]) {
    proven().put(encoded.into(), ());
}
