//! A stranger's root node, read as a file and as a folder. What it links to nobody has.
#![no_main]

use bytes::Bytes;
use diai_blocks::{Block, BlockSource, Cid, DAG_PB, SourceError, unixfs};
use diai_core::BoxFuture;
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;

struct Root(Block);

impl BlockSource for Root {
    fn block(&self, cid: Cid) -> BoxFuture<'_, Result<Bytes, SourceError>> {
        let found = (cid == self.0.cid).then(|| self.0.data.clone());
        Box::pin(async move { found.ok_or(SourceError::NotFound { cid, asked: "nobody".to_owned() }) })
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(block) = Block::new(DAG_PB, Bytes::copy_from_slice(data)) else { return };
    let (root, source) = (block.cid, Root(block));
    block_on(async {
        let _ = unixfs::stat(&source, root).await;
        let _ = unixfs::entries(&source, root, 1000).await;
        let _ = unixfs::lookup(&source, root, "content").await;
        let entry = unixfs::FolderEntry { name: "new".to_owned(), cid: root, tsize: u64::MAX };
        let put = vec![unixfs::Change::Put(entry)];
        if let Ok(folder) = unixfs::update_folder(&source, root, put, &unixfs::Profile::default()).await {
            assert!(folder.blocks.iter().any(|block| block.cid == folder.root));
        }
        let remove = vec![unixfs::Change::Remove("content".to_owned())];
        let _ = unixfs::update_folder(&source, root, remove, &unixfs::Profile::UNIXFS_V0_2015).await;
        if let Ok(content) = unixfs::read_all(&source, root, 1 << 20).await {
            assert!(content.len() <= 1 << 20);
        }
    });
});
