use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use cid::Cid;
use diai_core::BoxFuture;
use futures::{StreamExt, stream, stream::FuturesUnordered};

use super::{PROGRESS_BLOCKS, Pin, PinKind, PinState, Pins, report, table, tell, verify::culprit};
use crate::{
    Block, BlockSource, BlockStore, RAW, RepairError, SourceError,
    progress::ProgressFn,
    store::Multihash,
    unixfs::{WalkOptions, walk::Walk},
};

/// Blocks that are got at a time, of 2 MiB at most.
const PARALLEL: usize = 16;

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Repaired {
    /// Blocks that were damaged or missing and are here again.
    pub blocks: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Blocks that could not be had. 10,000 at most.
    pub lost: Vec<Cid>,
    /// Pins that lack some of those: they are pending now, so that a collection goes on beside them, and complete again
    /// once they are pinned again. 10,000 at most.
    pub pending: Vec<Pin>,
    /// There are more than are named.
    pub truncated: bool,
}

/// How far a repair is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RepairProgress {
    /// Pins walked.
    pub pins: u64,
    /// Blocks that are here again.
    pub blocks: u64,
    /// Blocks that could not be had.
    pub lost: u64,
}

impl Pins {
    /// Gets from `source` what complete pins lack and what was set aside as damaged. What `source` does not have is
    /// dropped: a pin that lacks something becomes pending, and a damaged block that nobody has is noted no more. Blocks
    /// that cannot be had for any other reason keep their note.
    ///
    /// Memory: sixteen blocks, the report, and about 70 bytes for each node with links of one pin.
    ///
    /// Cancel-safety: dropping the future stops it; what was got until then is stored, not flushed.
    pub async fn repair(
        &self,
        source: &dyn BlockSource,
        progress: Option<ProgressFn<RepairProgress>>,
    ) -> Result<Repaired, RepairError> {
        let healing = Healing { blocks: &self.blocks, source, got: AtomicU64::new(0), bytes: AtomicU64::new(0) };
        let mut repaired = Repaired::default();
        let mut done = RepairProgress::default();
        // What comes must stay until the walk is through.
        let _guard = self.blocks.guard();
        for pin in self.pins().await?.into_iter().filter(|pin| pin.state == PinState::Complete) {
            let lost = healing.pin(&pin).await;
            done.pins += 1;
            done.lost += lost.len() as u64;
            done.blocks = healing.got.load(Ordering::Relaxed);
            if !lost.is_empty() {
                let suspended = vec![pin.clone()];
                self.run(move |shared| table::suspend(&shared.database, &suspended)).await?;
                report(&mut repaired.pending, &mut repaired.truncated, pin);
            }
            lost.into_iter().for_each(|cid| report(&mut repaired.lost, &mut repaired.truncated, cid));
            tell(progress.as_ref(), done);
        }
        self.blocks.flush().await?;
        self.repair_set_aside(&healing, &mut repaired, &mut done, progress.as_ref()).await?;
        self.blocks.flush().await?;
        repaired.blocks = healing.got.load(Ordering::Relaxed);
        repaired.bytes = healing.bytes.load(Ordering::Relaxed);
        Ok(repaired)
    }

    async fn repair_set_aside(
        &self,
        healing: &Healing<'_>,
        repaired: &mut Repaired,
        done: &mut RepairProgress,
        progress: Option<&ProgressFn<RepairProgress>>,
    ) -> Result<(), RepairError> {
        let mut after: Option<Multihash> = None;
        loop {
            let page = self.blocks.store().quarantined(after.as_ref(), PROGRESS_BLOCKS as usize);
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(*last);
            let got = stream::iter(page).map(|hash| healing.got(Cid::new_v1(RAW, hash))).buffer_unordered(PARALLEL);
            let lost: Vec<_> = got.filter_map(|got| async { got.err() }).collect().await;
            let mut forgotten = Vec::new();
            for error in lost {
                if let SourceError::NotFound { cid, .. } = error {
                    forgotten.push(cid);
                    report(&mut repaired.lost, &mut repaired.truncated, cid);
                }
            }
            done.lost += forgotten.len() as u64;
            done.blocks = healing.got.load(Ordering::Relaxed);
            self.blocks.remove(forgotten).await?;
            tell(progress, *done);
        }
    }
}

/// The store, with a source behind it for what it lacks.
struct Healing<'a> {
    blocks: &'a BlockStore,
    source: &'a dyn BlockSource,
    got: AtomicU64,
    bytes: AtomicU64,
}

impl Healing<'_> {
    /// What of `pin` cannot be had.
    async fn pin(&self, pin: &Pin) -> BTreeSet<Cid> {
        let mut lost = BTreeSet::new();
        if pin.kind == PinKind::Direct {
            lost.extend(self.got(pin.root).await.is_err().then_some(pin.root));
            return lost;
        }
        let options = WalkOptions { max_blocks: usize::MAX, ..WalkOptions::default() };
        let mut walk = Walk::new(self, options).forgetting_leaves();
        walk.add(pin.root);
        let mut leaves = FuturesUnordered::new();
        while let Some(visited) = walk.next().await {
            match visited {
                Ok(visited) if self.blocks.touch(&visited.cid) => {}
                Ok(visited) => leaves.push(async move { (visited.cid, self.got(visited.cid).await) }),
                Err(reason) => drop(lost.insert(culprit(&reason).unwrap_or(pin.root))),
            }
            while leaves.len() >= PARALLEL {
                lost.extend(leaves.next().await.and_then(|(cid, got)| got.err().map(|_| cid)));
            }
        }
        while let Some((cid, got)) = leaves.next().await {
            lost.extend(got.err().map(|_| cid));
        }
        lost
    }

    /// Has the block in the store.
    async fn got(&self, cid: Cid) -> Result<(), SourceError> {
        if self.blocks.touch(&cid) { Ok(()) } else { self.block(cid).await.map(drop) }
    }
}

impl BlockSource for Healing<'_> {
    fn block(&self, cid: Cid) -> BoxFuture<'_, Result<Bytes, SourceError>> {
        Box::pin(async move {
            let failed = |reason: String| SourceError::Failed { cid, reason };
            match self.blocks.get_whole(&cid).await {
                Ok(None) => {}
                Ok(Some(data)) => return Ok(data),
                Err(error) => return Err(failed(error.to_string())),
            }
            let data = self.source.block(cid).await?;
            let block = Block::verified(cid, data).map_err(|error| failed(error.to_string()))?;
            let data = block.data.clone();
            self.blocks.put(block).await.map_err(|error| failed(error.to_string()))?;
            self.got.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
            Ok(data)
        })
    }
}
