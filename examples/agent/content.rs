//! What is known of content without writing it anywhere.

use std::time::Duration;

use diai::{
    Agent, Cid,
    blocks::{
        BlockSource, ContentError, DAG_PB, FetchOptions, RAW, SourceError, sealed,
        unixfs::{self, FolderEntry, Kind, ReadError, Stat, WalkOptions},
    },
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use crate::output::Failure;

/// The largest folder that `ls` shows.
const MAX_LISTED: usize = 10_000;
/// The largest DAG whose blocks `stat` counts.
const MAX_COUNTED: usize = 1_000_000;
/// Entries of a folder that are looked at side by side.
const SIDE_BY_SIDE: usize = 16;

/// Where blocks come from: here, or others that have them.
fn source(agent: &Agent, within: Duration) -> impl BlockSource + use<> {
    let deadline = agent.world().clock.now() + within;
    agent.blocks().fetcher().source(FetchOptions::until(deadline))
}

fn failure(error: ReadError) -> Failure {
    let code = match &error {
        ReadError::Source(SourceError::NotFound { .. }) => "not_found",
        ReadError::NotAFolder { .. } | ReadError::Codec { .. } => "not_a_folder",
        ReadError::NotAFile { .. } => "not_a_file",
        ReadError::OverLimit { .. } => "too_large",
        _ => "store",
    };
    Failure::new(code, error)
}

fn kind(stat: &Stat) -> &'static str {
    match stat.kind {
        Kind::Folder | Kind::Shard => "folder",
        Kind::Symlink => "link",
        Kind::File | Kind::Raw => "file",
    }
}

/// What `cid` is: its kind, the bytes of its content, the blocks of its DAG (each once), and the links of its root.
pub(crate) async fn stat(agent: &Agent, cid: Cid, within: Duration) -> Result<Value, Failure> {
    let source = source(agent, within);
    let root = source.block(cid).await.map_err(|error| failure(error.into()))?;
    let unixfs = matches!(cid.codec(), RAW | DAG_PB);
    let mut answer = if !unixfs {
        json!({ "kind": "node", "codec": format!("{:#x}", cid.codec()), "bytes": root.len() })
    } else if sealed::is_sealed(&source, cid).await.map_err(failure)? {
        let content = unixfs::lookup(&source, cid, "content").await.map_err(failure)?;
        let sealed = unixfs::stat(&source, content.cid).await.map_err(failure)?;
        json!({ "kind": "sealed", "bytes": sealed.bytes, "note": "encrypted; get opens it for those it was granted to" })
    } else {
        let stat = unixfs::stat(&source, cid).await.map_err(failure)?;
        let mut answer = json!({ "kind": kind(&stat), "bytes": stat.bytes });
        if let Some(target) = &stat.target {
            answer["target"] = json!(target);
        }
        if let Some(mode) = stat.attributes.mode {
            answer["mode"] = json!(format!("{mode:04o}"));
        }
        if let Some(mtime) = stat.attributes.mtime {
            answer["mtime_s"] = json!(mtime.seconds);
        }
        answer
    };
    answer["links"] = json!(unixfs::links(cid, &root).map_err(failure)?.len());
    let options = WalkOptions { max_blocks: MAX_COUNTED, ..WalkOptions::default() };
    let mut blocks = 0u64;
    let mut walk = std::pin::pin!(unixfs::walk(&source, cid, &options));
    while let Some(visited) = walk.next().await {
        visited.map_err(failure)?;
        blocks += 1;
    }
    answer["blocks"] = json!(blocks);
    Ok(answer)
}

/// Bytes of a file: as text if they are, else in hexadecimal digits.
pub(crate) async fn cat(agent: &Agent, cid: Cid, offset: u64, length: u64, within: Duration) -> Result<Value, Failure> {
    let deadline = agent.world().clock.now() + within;
    let range = offset..offset.saturating_add(length);
    let read = agent.blocks().read_range(cid, range, deadline).await.map_err(|error| match error {
        ContentError::Read(error) => failure(error),
        error => Failure::new("store", error),
    })?;
    let mut answer = json!({ "offset": offset, "bytes": read.len() });
    match std::str::from_utf8(&read) {
        Ok(text) => answer["text"] = json!(text),
        Err(_) => answer["hex"] = json!(read.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
    Ok(answer)
}

/// The entries of a folder. The bytes of a file of one raw block are what its folder says; such blocks are not fetched.
pub(crate) async fn ls(agent: &Agent, cid: Cid, within: Duration) -> Result<Value, Failure> {
    let source = source(agent, within);
    if cid.codec() == DAG_PB && sealed::is_sealed(&source, cid).await.map_err(failure)? {
        let text = format!("{cid} is sealed: get {cid} OUT opens it, if it was granted to this agent");
        return Err(Failure::new("sealed", text));
    }
    let entries = unixfs::entries(&source, cid, MAX_LISTED).await.map_err(|error| match error {
        ReadError::Codec { codec: RAW, .. } | ReadError::NotAFolder { .. } => {
            let text = format!("{cid} is a file, not a folder; get {cid} OUT writes it");
            Failure::new("not_a_folder", text)
        }
        error => failure(error),
    })?;
    let source = &source;
    let entries = stream::iter(entries).map(|entry| listed(source, entry)).buffered(SIDE_BY_SIDE);
    Ok(json!({ "entries": entries.collect::<Vec<_>>().await }))
}

async fn listed(source: &impl BlockSource, entry: FolderEntry) -> Value {
    let (kind, bytes) = match entry.cid.codec() {
        RAW => (Some("file"), Some(entry.tsize)),
        DAG_PB => match unixfs::stat(source, entry.cid).await {
            Ok(stat) => (Some(kind(&stat)), Some(stat.bytes)),
            // It cannot be had now, or is no part of a file system.
            Err(_) => (None, None),
        },
        _ => (Some("node"), None),
    };
    json!({ "name": entry.name, "cid": entry.cid.to_string(), "kind": kind, "bytes": bytes })
}
