//! The commands that read and write CAR files.

use std::{path::Path, time::Duration};

use diai::{
    Agent, Cid,
    blocks::{
        AddCarError, ExportCarError, FetchError,
        car::{ExportError, ExportOptions, ImportError, ImportOptions},
    },
};
use serde_json::{Value, json};

use crate::{
    output::Failure,
    perform::{file_failure, place, source},
};

/// Blocks that nobody has are left out and counted, if at least the root is there.
pub(crate) async fn export(agent: &Agent, cid: Cid, out: &Path, within: Duration) -> Result<Value, Failure> {
    let (disk, name) = place(out)?;
    let options = ExportOptions { partial: true, ..ExportOptions::default() };
    let deadline = agent.world().clock.now() + within;
    let exported = agent.blocks().export_car(cid, disk, &name, &options, deadline).await;
    let exported = exported.map_err(|error| match &error {
        ExportCarError::Export(ExportError::Exists { .. } | ExportError::Io(_)) => file_failure(out, &error),
        ExportCarError::Fetch(FetchError::NotFound { .. }) => Failure::new("not_found", error),
        _ => Failure::new("store", error),
    })?;
    Ok(json!({
        "path": out.display().to_string(),
        "blocks": exported.blocks,
        "bytes": exported.bytes,
        "missing": exported.missing,
    }))
}

/// Roots whose DAGs are whole are pinned.
pub(crate) async fn import(agent: &Agent, path: &Path) -> Result<Value, Failure> {
    let (disk, name) = source(path)?;
    let added = agent.blocks().import_car(disk, &name, &ImportOptions::default()).await;
    let added = added.map_err(|error| match &error {
        AddCarError::Import(failed) => match failed.error {
            ImportError::Io(_) => file_failure(path, &error),
            ImportError::Put(_) | ImportError::Closed => Failure::new("store", error),
            _ => Failure::new("invalid_car", error),
        },
        _ => Failure::new("store", error),
    })?;
    let texts = |cids: &[Cid]| cids.iter().map(ToString::to_string).collect::<Vec<_>>();
    Ok(json!({
        "roots": texts(&added.roots),
        "pinned": texts(&added.pinned),
        "blocks": added.done.blocks,
        "bytes": added.done.bytes,
        "held": added.done.held_blocks,
    }))
}
