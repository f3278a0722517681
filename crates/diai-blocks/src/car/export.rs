use std::{collections::BTreeSet, io, sync::Arc};

use bytes::{Bytes, BytesMut};
use cid::Cid;
use diai_core::{Disk, DiskFile, Offload, OpenMode, offload};
use futures::{AsyncWrite, AsyncWriteExt};

use super::{
    ExportError, MAX_ROOTS, Progress, ProgressFn, Version,
    header::{Bounds, Header},
    scope::Scope,
};
use crate::{
    BlockSource, SourceError,
    dag_pb::put_varint,
    identity_content,
    store::Key,
    unixfs::{ReadError, frontier::Frontier},
};

/// Small blocks are gathered to chunks of so many bytes.
const CHUNK_BYTES: usize = 256 << 10;
/// Blocks over this length are chunks of their own, not copied.
const SMALL_BYTES: usize = 64 << 10;
/// What is written to a file at once.
const WRITE_BYTES: usize = 4 << 20;
/// Links that may wait; one block has at most 65,536.
const MAX_WAITING: usize = 160 << 10;
/// Told after so many blocks.
const TELL_BLOCKS: u64 = 256;

/// How to export.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// Leave out blocks that are not there, with what is below them, and count them. Otherwise one is an error.
    /// Default no.
    pub partial: bool,
    /// The form of the file. Version 2 says how long it is at its beginning, which is known at the end, so that only
    /// [`export_path`] writes it. Default version 1.
    pub version: Version,
    /// DAGs of more bytes are refused. Default 1 TiB.
    pub max_bytes: u64,
    /// DAGs of more blocks are refused. The export holds about 70 bytes for each block seen. Default 16 Mi.
    pub max_blocks: usize,
    /// Blocks fetched ahead; up to four times as many may be held, of at most 2 MiB each. Default 8.
    pub prefetch: usize,
    /// Sync the file of [`export_path`] and its folder before it returns. Default yes.
    pub durable: bool,
    /// Told as it goes on, on the exporting task.
    pub progress: Option<ProgressFn>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            partial: false,
            version: Version::V1,
            max_bytes: 1 << 40,
            max_blocks: 16 << 20,
            prefetch: 8,
            durable: true,
            progress: None,
        }
    }
}

/// What was exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Exported {
    /// Blocks that were written.
    pub blocks: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Blocks that are not there, of a partial export. What is below them is not known, and not counted.
    pub missing: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// Writes the DAGs under `roots`, whose blocks come from `source`, to `writer` as a CAR file of version 1: depth first,
/// each block once, in the order of the links. Blocks whose CID holds them are left out, as nobody needs them; links out
/// of them are followed. `writer` is flushed and not closed.
///
/// Cancel-safety: dropping the future stops it; what was written until then stays, as after an error.
pub async fn export(
    source: &dyn BlockSource,
    roots: &[Cid],
    mut writer: impl AsyncWrite + Unpin,
    options: &ExportOptions,
) -> Result<Exported, ExportError> {
    if options.version != Version::V1 {
        return Err(ExportError::Options("version 2 can be written to a file only, by export_path"));
    }
    let mut exporter = Exporter::new(source, roots, options)?;
    while let Some(chunk) = exporter.chunk().await? {
        writer.write_all(&chunk).await?;
    }
    writer.flush().await?;
    Ok(exporter.exported())
}

/// The same to a file at `path` of `disk`, which must not exist. After an error there is none.
///
/// Cancel-safety: dropping the future stops it; what was written until then stays.
pub async fn export_path(
    source: &dyn BlockSource,
    roots: &[Cid],
    disk: Arc<dyn Disk>,
    path: &str,
    pool: &Arc<dyn Offload>,
    options: &ExportOptions,
) -> Result<Exported, ExportError> {
    let exporter = Exporter::new(source, roots, options)?;
    let (made, at) = (disk.clone(), path.to_owned());
    let file = off(pool, move || made.open(&at, OpenMode::CreateNew)).await.map_err(|error| match error {
        ExportError::Io(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            ExportError::Exists { path: path.to_owned() }
        }
        error => error,
    })?;
    let written = write_file(exporter, file, pool).await;
    let (good, durable, at) = (written.is_ok(), options.durable, path.to_owned());
    let tidy = off(pool, move || match (good, durable) {
        (false, _) => disk.remove(&at),
        (true, true) => disk.sync_folder(at.rsplit_once('/').map_or("", |(folder, _)| folder)),
        (true, false) => Ok(()),
    })
    .await;
    // The fault that came first is the one to be told.
    written.and_then(|exported| tidy.map(|()| exported))
}

async fn write_file(
    mut exporter: Exporter<'_>,
    file: Arc<dyn DiskFile>,
    pool: &Arc<dyn Offload>,
) -> Result<Exported, ExportError> {
    let v2 = exporter.options.version == Version::V2;
    let begin = if v2 { Bounds::encode(0).len() as u64 } else { 0 };
    let (mut offset, mut ended) = (begin, false);
    while !ended {
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        while bytes < WRITE_BYTES && !ended {
            match exporter.chunk().await? {
                Some(chunk) => {
                    bytes += chunk.len();
                    chunks.push(chunk);
                }
                None => ended = true,
            }
        }
        let file = file.clone();
        let write = move || {
            chunks.iter().try_fold(offset, |at, chunk| file.write_at(at, chunk).map(|()| at + chunk.len() as u64))
        };
        offset = off(pool, write).await?;
    }
    let durable = exporter.options.durable;
    off(pool, move || {
        if v2 {
            file.write_at(0, &Bounds::encode(offset - begin))?;
        }
        if durable { file.sync() } else { Ok(()) }
    })
    .await?;
    Ok(Exported { file_bytes: offset, ..exporter.exported() })
}

async fn off<T: Send + 'static>(
    pool: &Arc<dyn Offload>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ExportError> {
    Ok(offload(&**pool, work).await.map_err(|_| ExportError::Closed)??)
}

/// A CAR file of version 1 in the making, for those who send it somewhere themselves.
pub struct Exporter<'a> {
    options: &'a ExportOptions,
    frontier: Frontier<'a, Scope>,
    /// By codec and hash.
    seen: BTreeSet<(u64, Key)>,
    /// Written, and not all that is below them was followed.
    cut: BTreeSet<(u64, Key)>,
    /// Small blocks on their way into a chunk.
    gathered: BytesMut,
    /// A chunk of its own, for which `gathered` has made way.
    large: Option<Bytes>,
    done: Exported,
    root: Cid,
}

impl std::fmt::Debug for Exporter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").field("done", &self.done).finish_non_exhaustive()
    }
}

impl<'a> Exporter<'a> {
    /// A file of the DAGs under `roots`, whose blocks come from `source`.
    pub fn new(source: &'a dyn BlockSource, roots: &[Cid], options: &'a ExportOptions) -> Result<Self, ExportError> {
        let Some(&root) = roots.first().filter(|_| roots.len() <= MAX_ROOTS) else {
            return Err(ExportError::Options("a CAR file has 1 to 16384 roots"));
        };
        Ok(Self::of(source, roots, roots.iter().map(|root| (*root, Scope::All)).collect(), root, options))
    }

    /// A file whose root is `target`: the blocks on the `path` to it, and what `scope` says of the DAG below it.
    #[cfg(feature = "gateway")]
    pub(crate) fn scoped(
        source: &'a dyn BlockSource,
        path: &[Cid],
        target: Cid,
        scope: Scope,
        options: &'a ExportOptions,
    ) -> Self {
        let path = path.iter().map(|cid| (*cid, Scope::Block)).chain([(target, scope)]).collect();
        Self::of(source, &[target], path, target, options)
    }

    fn of(
        source: &'a dyn BlockSource,
        roots: &[Cid],
        first: Vec<(Cid, Scope)>,
        root: Cid,
        options: &'a ExportOptions,
    ) -> Self {
        let mut frontier = Frontier::new(source, options.prefetch.min(64));
        frontier.push_front(first.into_iter());
        let gathered = BytesMut::from(&Header::encode_v1(roots)[..]);
        let (seen, cut) = (BTreeSet::new(), BTreeSet::new());
        Self { options, frontier, seen, cut, gathered, large: None, done: Exported::default(), root }
    }

    /// What was exported until now.
    pub fn exported(&self) -> Exported {
        self.done
    }

    /// The next part of the file, of at most 2 MiB; `None` at its end. After an error nothing good comes.
    ///
    /// Cancel-safe: what was made while nobody waited is part of the next chunk.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ExportError> {
        while self.large.is_none() && self.gathered.len() < CHUNK_BYTES {
            let Some((cid, scope, fetched)) = self.frontier.next().await else { break };
            let key = (cid.codec(), Key::from(cid.hash()));
            if scope.is_whole() && self.seen.insert(key.clone()) || !scope.is_whole() && !self.seen.contains(&key) {
                self.visit(cid, key, &scope, fetched)?;
            }
        }
        let chunk = if self.gathered.is_empty() { self.large.take() } else { Some(self.gathered.split().freeze()) };
        self.done.file_bytes += chunk.as_ref().map_or(0, Bytes::len) as u64;
        if chunk.is_none() {
            self.tell();
        }
        Ok(chunk)
    }

    fn visit(
        &mut self,
        cid: Cid,
        key: (u64, Key),
        scope: &Scope,
        fetched: Result<Bytes, SourceError>,
    ) -> Result<(), ExportError> {
        if self.seen.len() + self.cut.len() > self.options.max_blocks {
            return Err(ExportError::over(self.root, "blocks", self.options.max_blocks as u64));
        }
        let data = match fetched {
            Err(SourceError::NotFound { .. }) if self.options.partial => {
                self.done.missing += 1;
                return Ok(());
            }
            fetched => fetched.map_err(ReadError::from)?,
        };
        self.follow(scope.follow(cid, &data)?)?;
        // Of a file one block may stand at several places, and be cut at either end of a range.
        let again = self.cut.contains(&key) || !scope.is_whole() && !self.cut.insert(key);
        if !again && identity_content(&cid).is_none() {
            self.write(cid, data)?;
        }
        Ok(())
    }

    fn follow(&mut self, links: Vec<(Cid, Scope)>) -> Result<(), ExportError> {
        let mut here = BTreeSet::new();
        let mut new = Vec::new();
        for (cid, scope) in links {
            let key = (cid.codec(), Key::from(cid.hash()));
            if !self.seen.contains(&key) && (!scope.is_whole() || here.insert(key)) {
                new.push((cid, scope));
            }
        }
        if self.frontier.len() + new.len() > MAX_WAITING {
            return Err(ExportError::over(self.root, "links waiting", MAX_WAITING as u64));
        }
        self.frontier.push_front(new.into_iter());
        Ok(())
    }

    fn write(&mut self, cid: Cid, data: Bytes) -> Result<(), ExportError> {
        self.done.blocks += 1;
        self.done.bytes += data.len() as u64;
        if self.done.bytes > self.options.max_bytes {
            return Err(ExportError::over(self.root, "bytes", self.options.max_bytes));
        }
        if self.done.blocks.is_multiple_of(TELL_BLOCKS) {
            self.tell();
        }
        let mut prefix = Vec::with_capacity(48);
        put_varint(&mut prefix, (cid.encoded_len() + data.len()) as u64);
        cid.write_bytes(&mut prefix).expect("writing to memory");
        self.gathered.extend_from_slice(&prefix);
        if data.len() > SMALL_BYTES {
            self.large = Some(data);
        } else {
            self.gathered.extend_from_slice(&data);
        }
        Ok(())
    }

    fn tell(&self) {
        if let Some(progress) = &self.options.progress {
            let Exported { blocks, bytes, missing, .. } = self.done;
            progress.tell(Progress { blocks, bytes, missing_blocks: missing, ..Progress::default() });
        }
    }
}
