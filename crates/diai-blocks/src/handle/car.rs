use std::{collections::BTreeSet, sync::Arc};

use cid::Cid;
use diai_core::{Disk, Instant};

use super::Blocks;
use crate::{
    FlushError, PinError,
    car::{self, Exported, ImportFailed, ImportOptions, Progress},
    fetch::{FetchError, FetchOptions},
};

/// What [`Blocks::import_car`] brought: durable, and pinned as far as it is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CarAdded {
    /// The roots that the file names, each once.
    pub roots: Vec<Cid>,
    /// Those whose DAGs are here as a whole: pinned under their CIDs, and being announced.
    pub pinned: Vec<Cid>,
    /// How many blocks that were.
    pub done: Progress,
}

/// Why a CAR file was not added, or not wholly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddCarError {
    /// The file is faulty, or could not be stored. What was valid is here and durable, but not pinned.
    #[error(transparent)]
    Import(#[from] ImportFailed),
    /// A root could not be pinned.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// What came could not be made durable.
    #[error(transparent)]
    Flush(#[from] FlushError),
}

/// Why a DAG was not written to a CAR file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportCarError {
    /// Not all of it came.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It could not be written.
    #[error(transparent)]
    Export(#[from] car::ExportError),
}

impl Blocks {
    /// Adds the blocks of the CAR file at `path` of `disk`, pins and announces those of its roots whose DAGs are whole
    /// then; others are stored, and collected one day. Durable when it returns.
    ///
    /// Cancel-safety: dropping the future stops it; blocks put until then are garbage.
    pub async fn import_car(
        &self,
        disk: Arc<dyn Disk>,
        path: &str,
        options: &ImportOptions,
    ) -> Result<CarAdded, AddCarError> {
        let imported = car::import_path(self.store(), disk, path, options).await;
        self.store().flush().await?;
        let imported = imported?;
        let (mut once, mut pinned) = (BTreeSet::new(), Vec::new());
        let roots: Vec<Cid> = imported.roots().iter().copied().filter(|root| once.insert(*root)).collect();
        for root in &roots {
            match self.0.pins.pin(&format!("add/{root}"), *root).await {
                Ok(()) => {
                    self.0.announcer.announce(*root);
                    pinned.push(*root);
                }
                Err(PinError::Incomplete { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(CarAdded { roots, pinned, done: imported.done() })
    }

    /// Fetches what is missing of the DAG under `cid` until `deadline`, and writes it to a CAR file at `path` of
    /// `disk`, which must not exist. A [partial](car::ExportOptions::partial) export goes on without what did not come,
    /// if at least the root is here.
    ///
    /// Cancel-safety: dropping the future stops it; what was written until then stays.
    pub async fn export_car(
        &self,
        cid: Cid,
        disk: Arc<dyn Disk>,
        path: &str,
        options: &car::ExportOptions,
        deadline: Instant,
    ) -> Result<Exported, ExportCarError> {
        let _guard = self.store().guard_root(cid);
        match self.fetch(cid, &FetchOptions::until(deadline)).await {
            Err(FetchError::NotFound { .. }) if options.partial && self.has(&cid) => {}
            fetched => drop(fetched?),
        }
        Ok(car::export_path(self.store(), &[cid], disk, path, self.store().offload(), options).await?)
    }
}
