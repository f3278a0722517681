use std::collections::BTreeSet;

use cid::Cid;
use diai_core::offload;
use futures::{StreamExt, stream};

use super::{PROGRESS_BLOCKS, Pin, PinKind, PinState, Pins, report, tell};
use crate::{
    GetError, RAW, SourceError, VerifyError,
    progress::ProgressFn,
    store::{Checked, Multihash},
    unixfs::{ReadError, WalkOptions, walk::Walk},
};

/// Blocks hashed in one go on one thread.
const PAGE_BLOCKS: usize = 64;
/// Pages hashed at a time.
const PARALLEL: usize = 4;

/// What a check of everything found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Verified {
    /// Blocks that are here and whole.
    pub blocks: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Complete pins that were walked.
    pub pins: u64,
    /// Blocks that are damaged, those found before and set aside included; as CIDs of raw blocks, since a store knows the
    /// hash alone. 10,000 at most.
    pub damaged: Vec<Cid>,
    /// Blocks that pins need and that are not here, the damaged ones included. 10,000 at most.
    pub missing: Vec<MissingBlock>,
    /// There are more than are named.
    pub truncated: bool,
}

/// A block that a pin needs and that is not here, or no node that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingBlock {
    /// The name of the pin.
    pub pin: String,
    /// Which block.
    pub cid: Cid,
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct VerifyProgress {
    /// Blocks hashed.
    pub blocks: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Blocks that there are; some may come or go meanwhile.
    pub all_blocks: u64,
    /// Pins walked after that.
    pub pins: u64,
    /// Damaged blocks found.
    pub damaged: u64,
    /// Missing blocks found.
    pub missing: u64,
}

impl Pins {
    /// Hashes every block of the store, and walks every complete pin to find out whether all of it is here. What is
    /// damaged is set aside; [`repair`](Self::repair) gets it again. Readers and writers go on meanwhile.
    ///
    /// Memory: four blocks, the report, and about 70 bytes for each node with links of one pin.
    ///
    /// Cancel-safety: dropping the future stops it; what was set aside stays so.
    pub async fn verify(&self, progress: Option<ProgressFn<VerifyProgress>>) -> Result<Verified, VerifyError> {
        let mut found = Verified::default();
        let mut done = VerifyProgress { all_blocks: self.blocks.stats().blocks, ..VerifyProgress::default() };
        self.verify_blocks(&mut found, &mut done, progress.as_ref()).await?;
        for pin in self.pins().await?.iter().filter(|pin| pin.state == PinState::Complete) {
            for cid in self.missing(pin).await {
                done.missing += 1;
                report(&mut found.missing, &mut found.truncated, MissingBlock { pin: pin.name.clone(), cid });
            }
            done.pins += 1;
            tell(progress.as_ref(), done);
        }
        found.pins = done.pins;
        Ok(found)
    }

    async fn verify_blocks(
        &self,
        found: &mut Verified,
        done: &mut VerifyProgress,
        progress: Option<&ProgressFn<VerifyProgress>>,
    ) -> Result<(), VerifyError> {
        let pages = stream::unfold(None, |after: Option<Multihash>| async move {
            let page = self.blocks.store().list(after.as_ref(), PAGE_BLOCKS);
            page.last().map(|last| last.hash).map(|last| (page, Some(last)))
        });
        let checks = pages.map(|page| {
            let store = self.blocks.store().clone();
            offload(&*self.offload, move || {
                let check = |hash: &Multihash| store.check(hash);
                page.into_iter()
                    .map(|block| check(&block.hash).map(|checked| (block, checked)))
                    .collect::<Result<Vec<_>, _>>()
            })
        });
        let mut checks = std::pin::pin!(checks.buffered(PARALLEL));
        while let Some(checked) = checks.next().await {
            for (block, checked) in checked.map_err(|_| GetError::Closed)?? {
                done.blocks += 1;
                done.bytes += u64::from(block.bytes);
                match checked {
                    Checked::Whole => {
                        found.blocks += 1;
                        found.bytes += u64::from(block.bytes);
                    }
                    // Named below, with those that were found before.
                    Checked::Damaged => done.damaged += 1,
                    Checked::Absent => {}
                }
            }
            tell(progress, *done);
        }
        let mut after: Option<Multihash> = None;
        loop {
            let page = self.blocks.store().quarantined(after.as_ref(), PROGRESS_BLOCKS as usize);
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(*last);
            for hash in page {
                report(&mut found.damaged, &mut found.truncated, Cid::new_v1(RAW, hash));
            }
        }
    }

    /// What `pin` needs and does not have, as far as can be told without it.
    pub(super) async fn missing(&self, pin: &Pin) -> BTreeSet<Cid> {
        if pin.kind == PinKind::Direct {
            return if self.blocks.has(&pin.root) { BTreeSet::new() } else { BTreeSet::from([pin.root]) };
        }
        let options = WalkOptions { max_blocks: usize::MAX, ..WalkOptions::default() };
        let mut walk = Walk::new(&self.blocks, options).forgetting_leaves();
        walk.add(pin.root);
        let mut missing = BTreeSet::new();
        while let Some(visited) = walk.next().await {
            let cid = match visited {
                Ok(visited) if self.blocks.has(&visited.cid) => continue,
                Ok(visited) => visited.cid,
                Err(reason) => culprit(&reason).unwrap_or(pin.root),
            };
            // One more than is reported, so that it shows.
            if missing.len() <= super::MAX_REPORTED {
                missing.insert(cid);
            }
        }
        missing
    }
}

/// The block that cannot be read.
pub(super) fn culprit(reason: &ReadError) -> Option<Cid> {
    match reason {
        ReadError::Source(SourceError::NotFound { cid, .. } | SourceError::Failed { cid, .. })
        | ReadError::Node { cid, .. }
        | ReadError::Data { cid, .. }
        | ReadError::Malformed { cid, .. } => Some(*cid),
        _ => None,
    }
}
