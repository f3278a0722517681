use cid::Cid;
use diai_core::offload;

use super::{PROGRESS_BLOCKS, Pin, PinKind, PinState, Pins, tell};
use crate::{
    GcError, PutError, RAW, RemoveError,
    progress::ProgressFn,
    store::Multihash,
    unixfs::{WalkOptions, walk::Walk},
};

/// Blocks looked at in one step of the sweep.
const PAGE_BLOCKS: usize = 1024;

/// What a collection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Collected {
    /// Blocks removed.
    pub blocks: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Blocks that are kept: by pins, by guards, or because they came meanwhile.
    pub kept: u64,
}

/// How far a collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct GcProgress {
    /// Blocks found under pins and guards; one that several keep may count several times.
    pub marked: u64,
    /// Blocks looked at since, of those in the store.
    pub swept: u64,
    /// What was removed of them.
    pub collected: Collected,
    /// Bytes of disk that are still to be given back; they fall while segments are compacted.
    pub dead_bytes: u64,
}

impl Pins {
    /// Removes every block that no pin keeps and no [`Guard`](crate::Guard) guards, and gives space back to the disk.
    /// Readers and writers go on meanwhile: marks are in the index, the sweep goes page by page, and what is put, touched
    /// or pinned after it began is spared.
    ///
    /// Memory: about 130 bytes for each node with links that is kept, nothing for leaves. A pin whose DAG is damaged stops
    /// it before anything is removed. One collection runs at a time, others wait.
    ///
    /// Cancel-safety: dropping the future stops it; what was removed until then is garbage all the same.
    pub async fn gc(&self) -> Result<Collected, GcError> {
        self.gc_with(None).await
    }

    /// The same, with progress.
    pub async fn gc_with(&self, progress: Option<ProgressFn<GcProgress>>) -> Result<Collected, GcError> {
        let _one = self.shared.collecting.lock().await;
        let progress = progress.as_ref();
        let (before, guarded) = self.blocks.guarded();
        let mut done = GcProgress::default();
        self.mark(guarded, &mut done, progress).await?;
        let mut after: Option<Multihash> = None;
        loop {
            let page = self.blocks.store().list(after.as_ref(), PAGE_BLOCKS);
            let Some(last) = page.last() else { break };
            after = Some(last.hash);
            let (looked_at, hashes) = (page.len() as u64, page.into_iter().map(|block| block.hash).collect());
            let (blocks, bytes) = self.collect(hashes, before).await?;
            done.swept += looked_at;
            done.collected.blocks += blocks;
            done.collected.bytes += bytes;
            done.collected.kept += looked_at - blocks;
            done.dead_bytes = self.blocks.stats().dead_bytes;
            tell(progress, done);
        }
        self.blocks.flush().await?;
        while self.compact().await? {
            done.dead_bytes = self.blocks.stats().dead_bytes;
            tell(progress, done);
        }
        Ok(done.collected)
    }

    /// Marks all that is under pins, and what there is under `guarded` and under pins that are pending, as of the
    /// generation that the collection began.
    async fn mark(
        &self,
        guarded: Vec<Cid>,
        done: &mut GcProgress,
        progress: Option<&ProgressFn<GcProgress>>,
    ) -> Result<(), GcError> {
        let (mut whole, mut partial) = (Vec::new(), guarded);
        for Pin { root, kind, state, .. } in self.pins().await? {
            match (kind, state) {
                (PinKind::Direct, _) => done.marked += u64::from(self.blocks.touch(&root)),
                (PinKind::Recursive, PinState::Complete) => whole.push(root),
                (PinKind::Recursive, PinState::Pending) => partial.push(root),
            }
        }
        let options = WalkOptions { max_blocks: usize::MAX, ..WalkOptions::default() };
        let mut walk = Walk::new(&self.blocks, options).forgetting_leaves();
        // Whole ones first: what a partial DAG lacks must not pass for seen in theirs.
        let roots = whole.into_iter().map(|root| (root, true)).chain(partial.into_iter().map(|root| (root, false)));
        for (root, must_be_whole) in roots {
            walk.add(root);
            while let Some(visited) = walk.next().await {
                let cid = match visited {
                    Ok(visited) => visited.cid,
                    Err(reason) if must_be_whole => return Err(GcError::Pin { root, reason }),
                    // A fetch that is under way keeps what there is.
                    Err(_) => continue,
                };
                done.marked += u64::from(self.blocks.touch(&cid));
                if done.marked.is_multiple_of(PROGRESS_BLOCKS) {
                    tell(progress, *done);
                }
            }
        }
        tell(progress, *done);
        Ok(())
    }

    async fn collect(&self, hashes: Vec<Multihash>, before: u32) -> Result<(u64, u64), GcError> {
        let (store, cached) = (self.blocks.store().clone(), self.blocks.cached().cloned());
        let work = move || {
            let collected = store.collect(&hashes, before);
            if let Some(cached) = cached {
                cached.forget(hashes.iter(), |hash| !store.has(&Cid::new_v1(RAW, *hash)));
            }
            collected
        };
        let collected = offload(&*self.offload, work).await;
        Ok(collected.map_err(|_| GcError::Remove(RemoveError::Closed))??)
    }

    async fn compact(&self) -> Result<bool, GcError> {
        let store = self.blocks.store().clone();
        let more = offload(&*self.offload, move || store.compact()).await;
        Ok(more.map_err(|_| GcError::Compact(PutError::Closed))??)
    }
}
