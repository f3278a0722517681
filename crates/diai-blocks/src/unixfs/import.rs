use std::{fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use cid::Cid;
use diai_core::{BoxFuture, Disk, DiskFile, Entry, EntryKind, OpenMode, offload};
use futures::{
    AsyncRead, AsyncReadExt, StreamExt, TryStreamExt,
    stream::{self, FuturesOrdered},
};

use super::{
    ImportError, Kind, MAX_DEPTH, UnixFs, build_folder,
    folder::chunks,
    tree::{Child, Tree},
};
use crate::{
    Block, BlockStore, DAG_PB, Guard, MAX_BLOCK_BYTES, RAW,
    dag_pb::{Link, Node},
};

/// Blocks are put in groups of so many bytes,
const GROUP_BYTES: usize = 4 << 20;
/// or of so many blocks.
const GROUP_BLOCKS: usize = 1024;
/// Small files that one worker reads and hashes at a time.
const GROUP_FILES: usize = 64;

/// What decides the CIDs: agents, and other implementations, that use the same profile make the same CIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Bytes of a chunk. Default 1 MiB.
    pub chunk_bytes: usize,
    /// Links of a file's node. Default 1024.
    pub width: usize,
    /// A folder whose block would be longer is sharded. Default 256 KiB.
    pub shard_over_bytes: usize,
}

impl Profile {
    /// `unixfs-v1-2025`: CIDv1, SHA-256, raw leaves, chunks of 1 MiB, balanced trees 1024 wide, folders over 256 KiB
    /// sharded 256 wide.
    pub const UNIXFS_V1_2025: Self = Self { chunk_bytes: 1 << 20, width: 1024, shard_over_bytes: 256 << 10 };

    fn check(&self) -> Result<(), ImportError> {
        match self {
            Self { chunk_bytes: 1..=MAX_BLOCK_BYTES, width: 2..=16_384, shard_over_bytes: 64..=0x10_0000 } => Ok(()),
            _ => Err(ImportError::Options("chunks of 1 B to 2 MiB, width 2 to 16384, sharding over 64 B to 1 MiB")),
        }
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::UNIXFS_V1_2025
    }
}

/// How to import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// What decides the CIDs. Default [`Profile::UNIXFS_V1_2025`].
    pub profile: Profile,
    /// Import entries whose names begin with a dot. Default no.
    pub hidden: bool,
    /// Chunks read and hashed at a time; memory is about as many chunks, and 4 MiB. Zero stands for 8. Default 0.
    pub parallel: usize,
    /// Told after each group of chunks, on the importing task.
    pub progress: Option<ProgressFn>,
}

/// Somebody who wants to know how far it is.
#[derive(Clone)]
pub struct ProgressFn(Arc<dyn Fn(Progress) + Send + Sync>);

impl ProgressFn {
    /// Calls `told`, which must not block.
    pub fn new(told: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    pub(super) fn tell(&self, progress: Progress) {
        (self.0)(progress);
    }
}

impl fmt::Debug for ProgressFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressFn")
    }
}

/// How far an import or export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of content done.
    pub bytes: u64,
    /// Files, links and folders done.
    pub entries: u64,
}

/// What was imported. Keep it until its root is pinned: while it lives, its blocks are not collected.
#[derive(Debug)]
pub struct Imported {
    root: Child,
    done: Progress,
    _guard: Guard,
}

impl Imported {
    /// The CID of the file or folder.
    pub fn root(&self) -> Cid {
        self.root.cid
    }

    /// Bytes of content in all files.
    pub fn content_bytes(&self) -> u64 {
        self.done.bytes
    }

    /// Bytes of all blocks, those that stand more than once counted as often: for the link of a folder around it.
    pub fn tsize(&self) -> u64 {
        self.root.tsize
    }

    /// Files, links and folders.
    pub fn entries(&self) -> u64 {
        self.done.entries
    }
}

/// Imports the file, folder or link at `path` of `disk` (`""` is its root). Readable when it returns, durable after
/// [`BlockStore::flush`].
///
/// Cancel-safety: dropping the future stops it; blocks put until then are garbage.
pub async fn import_path(
    blocks: &BlockStore,
    disk: Arc<dyn Disk>,
    path: &str,
    options: &ImportOptions,
) -> Result<Imported, ImportError> {
    let mut importer = Importer::new(blocks, options)?;
    let entry = if path.is_empty() {
        Entry { name: String::new(), kind: EntryKind::Folder, bytes: 0 }
    } else {
        let (disk, at) = (disk.clone(), path.to_owned());
        importer.off(path, move || disk.entry(&at)).await?
    };
    let root = importer.entry(&disk, path, &entry, 0).await?;
    importer.finish(root).await
}

/// Imports what `reader` yields, as one file. Durability and cancel-safety as with [`import_path`].
pub async fn import_reader(
    blocks: &BlockStore,
    reader: impl AsyncRead + Unpin,
    options: &ImportOptions,
) -> Result<Imported, ImportError> {
    let mut importer = Importer::new(blocks, options)?;
    let root = importer.reader(reader).await?;
    importer.finish(root).await
}

struct Importer<'a> {
    blocks: &'a BlockStore,
    options: &'a ImportOptions,
    parallel: usize,
    group: Vec<Block>,
    group_bytes: usize,
    done: Progress,
    guard: Guard,
}

type Small = Result<Vec<(String, Block)>, ImportError>;

impl<'a> Importer<'a> {
    fn new(blocks: &'a BlockStore, options: &'a ImportOptions) -> Result<Self, ImportError> {
        options.profile.check()?;
        let parallel = if options.parallel == 0 { 8 } else { options.parallel.min(256) };
        let (group, done) = (Vec::new(), Progress::default());
        Ok(Self { blocks, options, parallel, group, group_bytes: 0, done, guard: blocks.guard() })
    }

    async fn finish(mut self, root: Child) -> Result<Imported, ImportError> {
        self.put_group().await?;
        Ok(Imported { root, done: self.done, _guard: self.guard })
    }

    /// Runs `work`, which reads the disk at `path`, off the thread.
    async fn off<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, ImportError> {
        let outcome = offload(&**self.blocks.offload(), work).await.map_err(|_| ImportError::Closed)?;
        outcome.map_err(|source| ImportError::Io { path: path.to_owned(), source })
    }

    async fn add(&mut self, block: Block) -> Result<(), ImportError> {
        self.group_bytes += block.data.len();
        self.group.push(block);
        if self.group_bytes >= GROUP_BYTES || self.group.len() >= GROUP_BLOCKS {
            self.put_group().await
        } else {
            Ok(())
        }
    }

    async fn add_all(&mut self, blocks: &mut Vec<Block>) -> Result<(), ImportError> {
        for block in blocks.drain(..) {
            self.add(block).await?;
        }
        Ok(())
    }

    async fn put_group(&mut self) -> Result<(), ImportError> {
        self.group_bytes = 0;
        self.blocks.put_many(std::mem::take(&mut self.group)).await?;
        if let Some(progress) = &self.options.progress {
            progress.tell(self.done);
        }
        Ok(())
    }

    fn entry<'b>(
        &'b mut self,
        disk: &'b Arc<dyn Disk>,
        path: &'b str,
        entry: &'b Entry,
        depth: usize,
    ) -> BoxFuture<'b, Result<Child, ImportError>> {
        Box::pin(async move {
            let child = match entry.kind {
                EntryKind::File => self.file(disk, path).await?,
                EntryKind::Symlink => self.link(disk, path).await?,
                EntryKind::Folder => self.folder(disk, path, depth).await?,
            };
            self.done.entries += 1;
            Ok(child)
        })
    }

    async fn folder(&mut self, disk: &Arc<dyn Disk>, path: &str, depth: usize) -> Result<Child, ImportError> {
        if depth == MAX_DEPTH {
            return Err(ImportError::TooDeep { path: path.to_owned() });
        }
        let (listed, at) = (disk.clone(), path.to_owned());
        let mut entries = self.off(path, move || listed.list(&at)).await?;
        entries.retain(|entry| self.options.hidden || !entry.name.starts_with('.'));
        let small =
            |entry: &Entry| entry.kind == EntryKind::File && entry.bytes <= self.options.profile.chunk_bytes as u64;
        let (small, other): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(small);
        let mut links = self.small_files(disk, path, small).await?;
        for entry in other {
            let child = self.entry(disk, &join(path, &entry.name), &entry, depth + 1).await?;
            links.push(Link { cid: child.cid, name: entry.name, tsize: child.tsize });
        }
        let profile = self.options.profile.clone();
        let build = offload(&**self.blocks.offload(), move || build_folder(links, &profile));
        let mut folder = build.await.map_err(|_| ImportError::Closed)??;
        self.add_all(&mut folder.blocks).await?;
        Ok(Child { cid: folder.root, bytes: 0, tsize: folder.tsize })
    }

    /// Files of one chunk, many at a time.
    async fn small_files(
        &mut self,
        disk: &Arc<dyn Disk>,
        path: &str,
        files: Vec<Entry>,
    ) -> Result<Vec<Link>, ImportError> {
        let chunk_bytes = self.options.profile.chunk_bytes as u64;
        let mut links = Vec::with_capacity(files.len());
        let offload_pool = self.blocks.offload().clone();
        let jobs = groups_of(files).into_iter().map(|group| {
            let (disk, path, pool) = (disk.clone(), path.to_owned(), offload_pool.clone());
            async move {
                let work = move || -> Small {
                    group
                        .into_iter()
                        .map(|entry| small_file(&*disk, &join(&path, &entry.name), entry, chunk_bytes))
                        .collect()
                };
                offload(&*pool, work).await.map_err(|_| ImportError::Closed)?
            }
        });
        let mut jobs = stream::iter(jobs).buffered(self.parallel.div_ceil(2));
        while let Some(read) = jobs.try_next().await? {
            for (name, block) in read {
                let tsize = block.data.len() as u64;
                links.push(Link { cid: block.cid, name, tsize });
                self.done.bytes += tsize;
                self.done.entries += 1;
                self.add(block).await?;
            }
        }
        Ok(links)
    }

    async fn file(&mut self, disk: &Arc<dyn Disk>, path: &str) -> Result<Child, ImportError> {
        let (opened, at) = (disk.clone(), path.to_owned());
        let (file, bytes) = self
            .off(path, move || {
                let file = opened.open(&at, OpenMode::Read)?;
                let bytes = file.len()?;
                Ok((file, bytes))
            })
            .await?;
        let pool = self.blocks.offload().clone();
        let leaf = |range: Range<u64>| {
            let (pool, file, path) = (pool.clone(), file.clone(), path.to_owned());
            async move {
                let work = move || chunk(&*file, &path, range);
                offload(&*pool, work).await.map_err(|_| ImportError::Closed)?
            }
        };
        let mut leaves =
            stream::iter(chunks(bytes, self.options.profile.chunk_bytes as u64).map(leaf)).buffered(self.parallel);
        let (mut tree, mut nodes) = (Tree::new(self.options.profile.width), Vec::new());
        while let Some(block) = leaves.try_next().await? {
            self.leaf(block, &mut tree, &mut nodes).await?;
        }
        self.root(tree, nodes).await
    }

    async fn reader(&mut self, mut reader: impl AsyncRead + Unpin) -> Result<Child, ImportError> {
        let (mut tree, mut nodes) = (Tree::new(self.options.profile.width), Vec::new());
        let pool = self.blocks.offload().clone();
        let mut hashing = FuturesOrdered::new();
        let mut first = true;
        loop {
            let data = read_chunk(&mut reader, self.options.profile.chunk_bytes).await?;
            let ended = data.len() < self.options.profile.chunk_bytes;
            if !data.is_empty() || first {
                let pool = pool.clone();
                hashing.push_back(async move { offload(&*pool, move || Block::new(RAW, data)).await });
            }
            first = false;
            while hashing.len() >= self.parallel || (ended && !hashing.is_empty()) {
                let Some(block) = hashing.next().await else { break };
                self.leaf(block.map_err(|_| ImportError::Closed)??, &mut tree, &mut nodes).await?;
            }
            if ended {
                self.done.entries += 1;
                return self.root(tree, nodes).await;
            }
        }
    }

    async fn leaf(&mut self, block: Block, tree: &mut Tree, nodes: &mut Vec<Block>) -> Result<(), ImportError> {
        self.done.bytes += block.data.len() as u64;
        tree.push(Child::leaf(&block), nodes)?;
        self.add(block).await?;
        self.add_all(nodes).await
    }

    async fn root(&mut self, tree: Tree, mut nodes: Vec<Block>) -> Result<Child, ImportError> {
        let root = tree.finish(&mut nodes)?;
        self.add_all(&mut nodes).await?;
        Ok(root)
    }

    async fn link(&mut self, disk: &Arc<dyn Disk>, path: &str) -> Result<Child, ImportError> {
        let (read, at) = (disk.clone(), path.to_owned());
        let target = self.off(path, move || read.read_link(&at)).await?;
        let data = UnixFs { data: Some(target.into()), ..UnixFs::new(Kind::Symlink) }.encode();
        let block = Block::new(DAG_PB, Node { links: Vec::new(), data: Some(data) }.encode())?;
        let child = Child { bytes: 0, ..Child::leaf(&block) };
        self.add(block).await?;
        Ok(child)
    }
}

pub(super) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

fn groups_of(files: Vec<Entry>) -> Vec<Vec<Entry>> {
    let mut groups: Vec<Vec<Entry>> = Vec::new();
    let mut bytes = 0;
    for file in files {
        match groups.last_mut() {
            Some(group) if group.len() < GROUP_FILES && bytes + file.bytes <= (1 << 20) => {
                bytes += file.bytes;
                group.push(file);
            }
            _ => {
                bytes = file.bytes;
                groups.push(vec![file]);
            }
        }
    }
    groups
}

fn small_file(disk: &dyn Disk, path: &str, entry: Entry, chunk_bytes: u64) -> Result<(String, Block), ImportError> {
    let io = |source| ImportError::Io { path: path.to_owned(), source };
    let file = disk.open(path, OpenMode::Read).map_err(io)?;
    let bytes = file.len().map_err(io)?;
    if bytes > chunk_bytes {
        return Err(ImportError::Changed { path: path.to_owned() });
    }
    Ok((entry.name, chunk(&*file, path, 0..bytes)?))
}

fn chunk(file: &dyn DiskFile, path: &str, range: Range<u64>) -> Result<Block, ImportError> {
    let mut data = vec![0; (range.end - range.start) as usize];
    match file.read_at(range.start, &mut data) {
        Ok(read) if read == data.len() => Ok(Block::new(RAW, data)?),
        Ok(_) => Err(ImportError::Changed { path: path.to_owned() }),
        Err(source) => Err(ImportError::Io { path: path.to_owned(), source }),
    }
}

async fn read_chunk(reader: &mut (impl AsyncRead + Unpin), chunk_bytes: usize) -> Result<Bytes, ImportError> {
    let mut data = Vec::new();
    let mut limited = reader.take(chunk_bytes as u64);
    limited.read_to_end(&mut data).await.map_err(|source| ImportError::Io { path: "the reader".into(), source })?;
    Ok(data.into())
}
