//! What was compiled, or turned out to be no program, kept up to a cap on bytes.

use std::num::NonZeroUsize;

use cid::Cid;
use lru::LruCache;

use super::wasm::Compiled;
use crate::{ExecutorConfig, error::GuestError};

/// A program that was compiled before, or what is wrong with it.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) compiled: Result<Compiled, GuestError>,
    /// Whether it was got for another agent, and so is nothing that only this one could open.
    pub(super) open: bool,
    /// Length of the program; what is none takes no room.
    pub(super) bytes: usize,
}

/// The least recently used go first.
pub(super) struct Modules {
    known: LruCache<Cid, Known>,
    bytes: usize,
    max_bytes: usize,
}

impl Modules {
    pub(super) fn new(config: &ExecutorConfig) -> Self {
        let capacity = NonZeroUsize::new(config.max_modules).unwrap_or(NonZeroUsize::MIN);
        let max_bytes = usize::try_from(config.max_module_bytes).unwrap_or(usize::MAX);
        Self { known: LruCache::new(capacity), bytes: 0, max_bytes }
    }

    pub(super) fn get(&mut self, program: &Cid) -> Option<Known> {
        self.known.get(program).cloned()
    }

    /// From now on `program`, if it is known, is open to all.
    pub(super) fn open(&mut self, program: &Cid) {
        if let Some(known) = self.known.get_mut(program) {
            known.open = true;
        }
    }

    /// Keeps `program`, and of the others what there is room for.
    pub(super) fn put(&mut self, program: Cid, known: Known) {
        self.bytes += known.bytes;
        let replaced = self.known.push(program, known);
        self.bytes -= replaced.map_or(0, |(_, old)| old.bytes);
        while self.bytes > self.max_bytes && self.known.len() > 1 {
            self.bytes -= self.known.pop_lru().map_or(0, |(_, old)| old.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::raw_cid;

    #[test]
    fn programs_are_kept_by_their_length_and_the_latest_always() {
        let config = ExecutorConfig { max_modules: 4, max_module_bytes: 100, ..ExecutorConfig::default() };
        let mut modules = Modules::new(&config);
        let known = |bytes| Known { compiled: Err(GuestError::TimeLimit), open: true, bytes };
        let [a, b, c, d] = [b"a", b"b", b"c", b"d"].map(|name| raw_cid(name));
        modules.put(a, known(60));
        modules.put(b, known(40));
        assert!(modules.get(&a).is_some() && modules.get(&b).is_some());
        modules.put(c, known(30));
        assert!(modules.get(&a).is_none() && modules.get(&b).is_some());
        modules.put(c, known(60));
        assert_eq!((modules.get(&b).is_some(), modules.bytes), (true, 100));
        modules.put(d, known(500));
        assert_eq!((modules.known.len(), modules.bytes), (1, 500));
        for number in 0..9 {
            modules.put(raw_cid(&[number]), known(0));
        }
        assert_eq!((modules.known.len(), modules.bytes), (4, 0));
    }
}
