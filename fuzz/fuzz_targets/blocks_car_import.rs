//! A stranger's CAR file. What is kept of it hashes to what it is kept under, and comes out again as it went in.
#![no_main]

use std::sync::Arc;

use diai_blocks::{Block, BlockStore, Cid, MemoryStore, RAW, car};
use diai_fuzz::Inline;
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let store = BlockStore::new(Arc::new(MemoryStore::new(16 << 20)), Arc::new(Inline));
    let imported = match block_on(car::import(&store, data, &car::ImportOptions::default())) {
        Ok(imported) => imported,
        Err(failed) => *failed.kept,
    };
    assert!(imported.done().bytes <= data.len() as u64);
    assert!(imported.refused().len() <= car::MAX_REFUSED && imported.roots().len() <= car::MAX_ROOTS);
    for stored in store.store().list(None, usize::MAX) {
        let cid = Cid::new_v1(RAW, stored.hash);
        let block = store.store().get(&cid).expect("memory does not fail").expect("it is listed");
        Block::verified(cid, block).expect("it was checked");
    }
    let options = car::ExportOptions { partial: true, ..car::ExportOptions::default() };
    let mut file = Vec::new();
    if let Ok(exported) = block_on(car::export(&store, imported.roots(), &mut file, &options)) {
        let there = BlockStore::new(Arc::new(MemoryStore::new(16 << 20)), Arc::new(Inline));
        let again = block_on(car::import(&there, &file[..], &car::ImportOptions::default())).expect("we wrote it");
        assert_eq!((again.roots(), again.done().blocks), (imported.roots(), exported.blocks));
    }
});
