//! Pinning, collecting, checking, repairing.

use cid::Cid;

use super::Blocks;
use crate::{
    Collected, GcError, GcProgress, Pin, PinError, PinKind, PinProgress, PinState, RepairError, RepairProgress,
    Repaired, StoreEvent, Verified, VerifyError, VerifyProgress,
    fetch::{FetchError, FetchOptions, FetchProgressFn},
    progress::ProgressFn,
};

/// What is pinned here is announced; what is added silently is not.
const ADDED: &str = "add/";
const SILENT: &str = "silent/";
const NAMED: &str = "named/";

/// How to pin.
#[derive(Debug, Clone, Default)]
pub struct PinOptions {
    /// The name of the pin, in place of what had it; without one it goes by its CID. At most 250 bytes.
    pub name: Option<String>,
    /// With everything below it, or the block alone.
    pub kind: PinKind,
    /// Told how far it is.
    pub progress: Option<ProgressFn<PinProgress>>,
}

/// Why something was not pinned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinContentError {
    /// Not all of it came.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It could not be pinned.
    #[error(transparent)]
    Pin(#[from] PinError),
}

/// The name that the pin of something added has.
pub(super) fn added_name(cid: &Cid, silent: bool) -> String {
    if silent { format!("{SILENT}{cid}") } else { format!("{ADDED}{cid}") }
}

/// The root of a pin that is announced; workspaces announce their folders themselves.
pub(super) fn announced(pin: &Pin) -> Option<Cid> {
    let is_announced = pin.name.starts_with(ADDED) || pin.name.starts_with(NAMED);
    (is_announced && pin.state == PinState::Complete).then_some(pin.root)
}

impl Pin {
    /// The name that its user gave it; `None` for what was added or pinned without one, and for the pins of workspaces.
    pub fn given_name(&self) -> Option<&str> {
        self.name.strip_prefix(NAMED)
    }

    /// Whether a user set it, by adding or pinning, and may give it up by its CID: not so the pins of workspaces.
    pub fn is_user_set(&self) -> bool {
        [ADDED, SILENT, NAMED].iter().any(|prefix| self.name.starts_with(prefix))
    }
}

impl Blocks {
    /// Fetches what is missing of the DAG under `cid`, pins and announces it. As [`pin_with`](Self::pin_with).
    pub async fn pin(&self, cid: Cid, options: &FetchOptions) -> Result<(), PinContentError> {
        self.pin_with(cid, &PinOptions::default(), options).await
    }

    /// Fetches what is missing of `cid`, pins it, and announces it. Durable when it returns. From the beginning it is
    /// listed as pending, and what there is of it is kept: after an error, a crash or a drop of the future, calling it
    /// again goes on from there, as [`resume_pins`](Self::resume_pins) does, and [`unpin`](Self::unpin) gives it up.
    pub async fn pin_with(&self, cid: Cid, pin: &PinOptions, fetch: &FetchOptions) -> Result<(), PinContentError> {
        let name = pin.name.as_ref().map_or_else(|| added_name(&cid, false), |name| format!("{NAMED}{name}"));
        self.pin_under(&name, cid, pin.kind, pin.progress.as_ref(), fetch).await
    }

    async fn pin_under(
        &self,
        name: &str,
        cid: Cid,
        kind: PinKind,
        progress: Option<&ProgressFn<PinProgress>>,
        fetch: &FetchOptions,
    ) -> Result<(), PinContentError> {
        let pins = &self.0.pins;
        let before = pins.get(name).await?;
        let _guard = self.store().guard_root(cid);
        pins.begin(name, cid, kind).await?;
        let mut fetched = PinProgress::default();
        let mut fetch = FetchOptions { kept: true, ..fetch.clone() };
        match kind {
            PinKind::Direct => drop(self.0.fetcher.block(cid, &fetch).await?),
            PinKind::Recursive => {
                if let Some(told) = progress.cloned() {
                    fetch.progress = Some(FetchProgressFn::new(move |fetched| told.tell(fetched.into())));
                }
                fetched = self.fetch(cid, &fetch).await?.into();
            }
        }
        let tell = |walked: PinProgress| {
            if let Some(progress) = progress {
                progress.tell(PinProgress { blocks: walked.blocks, bytes: walked.bytes, ..fetched });
            }
        };
        pins.pin_with(name, cid, kind, tell).await?;
        if name.starts_with(SILENT) {
            return Ok(());
        }
        self.0.announcer.announce(cid);
        if let Some(before) = before.filter(|before| *before != cid) {
            self.withdraw_unpinned(before).await?;
        }
        Ok(())
    }

    /// Goes on with every pin that is pending, one after the other, and returns those that are complete now. The first
    /// that cannot be had ends it.
    pub async fn resume_pins(&self, fetch: &FetchOptions) -> Result<Vec<Pin>, PinContentError> {
        let mut resumed = Vec::new();
        for pin in self.pins().await?.into_iter().filter(|pin| pin.state == PinState::Pending) {
            self.pin_under(&pin.name, pin.root, pin.kind, None, fetch).await?;
            resumed.push(Pin { state: PinState::Complete, ..pin });
        }
        Ok(resumed)
    }

    /// Gives up what was pinned or added under `cid`, complete or pending, and stops announcing it. Returns whether it was
    /// pinned. Space comes back with [`gc`](Self::gc).
    pub async fn unpin(&self, cid: Cid) -> Result<bool, PinError> {
        let removed = self.0.pins.unpin_all(move |pin| pin.root == cid && pin.is_user_set()).await?;
        self.0.announcer.withdraw(cid);
        Ok(!removed.is_empty())
    }

    async fn withdraw_unpinned(&self, cid: Cid) -> Result<(), PinError> {
        if !self.pins().await?.iter().any(|pin| announced(pin) == Some(cid)) {
            self.0.announcer.withdraw(cid);
        }
        Ok(())
    }

    /// Every pin, pending ones and those of workspaces included.
    pub async fn pins(&self) -> Result<Vec<Pin>, PinError> {
        self.0.pins.pins().await
    }

    /// Removes what no pin keeps, cached content too. Cancel-safety as [`Pins::gc`](crate::Pins::gc).
    pub async fn gc(&self) -> Result<Collected, GcError> {
        self.gc_with(None).await
    }

    /// The same, with progress.
    pub async fn gc_with(&self, progress: Option<ProgressFn<GcProgress>>) -> Result<Collected, GcError> {
        let collected = self.0.pins.gc_with(progress).await;
        self.0.announcer.collected();
        collected
    }

    /// Hashes every block and walks every pin. As [`Pins::verify`](crate::Pins::verify). Damaged blocks are fetched again
    /// in the background, as always.
    pub async fn verify(&self, progress: Option<ProgressFn<VerifyProgress>>) -> Result<Verified, VerifyError> {
        self.0.pins.verify(progress).await
    }

    /// Fetches what pins lack and what is damaged from peers, and drops what nobody has. As
    /// [`Pins::repair`](crate::Pins::repair). A deadline in `fetch` is for all of it: what did not come by then counts as
    /// what nobody has.
    pub async fn repair(
        &self,
        fetch: FetchOptions,
        progress: Option<ProgressFn<RepairProgress>>,
    ) -> Result<Repaired, RepairError> {
        let fetch = FetchOptions { kept: true, ..fetch };
        // What lacks may be of sealed content, or of a workspace.
        self.0.pins.repair(&self.0.fetcher.for_sealed().source(fetch), progress).await
    }

    /// What becomes of damaged blocks, from now on.
    pub fn store_events(&self) -> impl futures::Stream<Item = StoreEvent> + Send + Unpin + 'static {
        self.store().events()
    }
}
