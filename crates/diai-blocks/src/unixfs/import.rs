use std::{future::poll_fn, ops::Range, sync::Arc, task::Poll};

use bytes::Bytes;
use cid::Cid;
use diai_core::{BoxFuture, Disk, DiskFile, Entry, EntryKind, FileAttributes, OpenMode, offload};
use futures::{
    AsyncRead, AsyncReadExt, FutureExt, StreamExt, TryStreamExt,
    stream::{self, FuturesOrdered},
};

use super::{
    ImportError, ImportOptions, Kind, Leaves, MAX_DEPTH, Profile, Progress, UnixFs, build_folder_with,
    folder::chunks,
    leaf::{Leaf, node_block},
    tree::{Child, Tree},
};
use crate::{
    Block, BlockStore, FlushError, Guard,
    dag_pb::{Link, Node},
};

/// What one worker reads, hashes and stores at a time: chunks of together so many bytes, at least one,
const GROUP_BYTES: u64 = 1 << 20;
/// and so many at most.
const GROUP_CHUNKS: u64 = 1024;
/// Small files that one worker reads, hashes and stores at a time.
const GROUP_FILES: usize = 64;
/// A file up to this length is small: one worker makes all of it, and others make its neighbours meanwhile.
const SMALL_BYTES: u64 = 4 << 20;
/// After so many bytes the disk is told to go ahead, so that it works while the next are hashed.
const FLUSH_BYTES: u64 = 64 << 20;

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
    Ok(importer.finish(root))
}

/// Imports what `reader` yields, as one file, without attributes. Durability and cancel-safety as with [`import_path`].
pub async fn import_reader(
    blocks: &BlockStore,
    reader: impl AsyncRead + Unpin,
    options: &ImportOptions,
) -> Result<Imported, ImportError> {
    let mut importer = Importer::new(blocks, options)?;
    let root = importer.reader(reader).await?;
    Ok(importer.finish(root))
}

struct Importer<'a> {
    blocks: &'a BlockStore,
    options: &'a ImportOptions,
    parallel: usize,
    done: Progress,
    /// Bytes put since the disk was last told to go ahead, and how it is with that.
    unflushed: u64,
    flushing: Option<BoxFuture<'static, Result<(), FlushError>>>,
    guard: Guard,
}

/// Lets others of this task have a turn: where all is always ready, an import would be one long poll, which nothing stops.
async fn give_way() {
    let mut given = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl<'a> Importer<'a> {
    fn new(blocks: &'a BlockStore, options: &'a ImportOptions) -> Result<Self, ImportError> {
        options.check()?;
        let parallel = if options.parallel == 0 { 8 } else { options.parallel.min(256) };
        let (done, guard) = (Progress::default(), blocks.guard());
        Ok(Self { blocks, options, parallel, done, unflushed: 0, flushing: None, guard })
    }

    fn finish(self, root: Child) -> Imported {
        self.tell();
        Imported { root, done: self.done, _guard: self.guard }
    }

    fn tell(&self) {
        if let Some(progress) = &self.options.progress {
            progress.tell(self.done);
        }
    }

    /// Counts what is put, tells of it, and now and then has the disk go ahead.
    async fn advance(&mut self, bytes: u64, entries: u64) -> Result<(), ImportError> {
        self.done.bytes += bytes;
        self.done.entries += entries;
        self.tell();
        self.unflushed += bytes;
        if self.unflushed >= FLUSH_BYTES {
            self.unflushed = 0;
            if let Some(flushing) = self.flushing.take() {
                flushing.await?;
            }
            let blocks = self.blocks.clone();
            let mut flushing: BoxFuture<'static, _> = Box::pin(async move { blocks.flush().await });
            match (&mut flushing).now_or_never() {
                Some(flushed) => flushed?,
                None => self.flushing = Some(flushing),
            }
        }
        give_way().await;
        Ok(())
    }

    /// Runs `work`, which reads the disk at `path`, off the thread.
    async fn off<T: Send + 'static>(
        &mut self,
        path: &str,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, ImportError> {
        let outcome = offload(&**self.blocks.offload(), work).await.map_err(|_| ImportError::Closed)?;
        outcome.map_err(|source| ImportError::Io { path: path.to_owned(), source })
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
        let (listed, at, keep) = (disk.clone(), path.to_owned(), Keep::of(self.options));
        let listing = self.off(path, move || Ok((listed.list(&at)?, keep.attributes(&*listed, &at)?)));
        let (mut entries, attributes) = listing.await?;
        let (hidden, symlinks) = (self.options.hidden, self.options.symlinks);
        entries
            .retain(|entry| (hidden || !entry.name.starts_with('.')) && (symlinks || entry.kind != EntryKind::Symlink));
        let small_bytes = small_bytes(&self.options.profile);
        let small = |entry: &Entry| entry.kind == EntryKind::File && entry.bytes <= small_bytes;
        let (small, other): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(small);
        let mut links = self.small_files(disk, path, small).await?;
        for entry in other {
            let child = self.entry(disk, &join(path, &entry.name), &entry, depth + 1).await?;
            links.push(Link { cid: child.cid, name: entry.name, tsize: child.tsize });
        }
        let profile = self.options.profile.clone();
        let build = move || {
            let folder = build_folder_with(links, attributes, &profile)?;
            Ok::<_, ImportError>((Child { cid: folder.root, bytes: 0, tsize: folder.tsize }, folder.blocks))
        };
        self.blocks.put_made(build).await
    }

    /// Many at a time.
    async fn small_files(
        &mut self,
        disk: &Arc<dyn Disk>,
        path: &str,
        files: Vec<Entry>,
    ) -> Result<Vec<Link>, ImportError> {
        let mut links = Vec::with_capacity(files.len());
        let (blocks, profile, keep) = (self.blocks, self.options.profile.clone(), Keep::of(self.options));
        let jobs = groups_of(files).into_iter().map(|group| {
            let (disk, path, profile) = (disk.clone(), path.to_owned(), profile.clone());
            blocks.put_made(move || {
                let (mut made, mut blocks) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
                for entry in group {
                    let child = small_file(&*disk, &join(&path, &entry.name), &profile, keep, &mut blocks)?;
                    made.push((child.bytes, Link { cid: child.cid, name: entry.name, tsize: child.tsize }));
                }
                Ok::<_, ImportError>((made, blocks))
            })
        });
        let mut jobs = stream::iter(jobs).buffered(self.parallel);
        while let Some(made) = jobs.try_next().await? {
            let bytes = made.iter().map(|(bytes, _)| bytes).sum();
            self.advance(bytes, made.len() as u64).await?;
            links.extend(made.into_iter().map(|(_, link)| link));
        }
        Ok(links)
    }

    async fn file(&mut self, disk: &Arc<dyn Disk>, path: &str) -> Result<Child, ImportError> {
        let (opened, at, keep) = (disk.clone(), path.to_owned(), Keep::of(self.options));
        let open = move || {
            let file = opened.open(&at, OpenMode::Read)?;
            let bytes = file.len()?;
            Ok((file, bytes, keep.attributes(&*opened, &at)?))
        };
        let (file, bytes, attributes) = self.off(path, open).await?;
        let (blocks, profile) = (self.blocks, self.options.profile.clone());
        let chunk_bytes = profile.chunk_bytes as u64;
        let of_leaf = of_leaf(bytes, &profile, attributes);
        let group = |range: Range<u64>| {
            let (file, path, profile) = (file.clone(), path.to_owned(), profile.clone());
            blocks.put_made(move || {
                let leaf = |chunk: Range<u64>| {
                    leaf(&*file, &path, range.start + chunk.start..range.start + chunk.end, &profile, of_leaf)
                };
                chunks(range.end - range.start, chunk_bytes).map(leaf).collect::<Result<(Vec<Child>, Vec<Block>), _>>()
            })
        };
        let groups = chunks(bytes, (GROUP_BYTES / chunk_bytes).clamp(1, GROUP_CHUNKS) * chunk_bytes);
        let mut groups = stream::iter(groups.map(group)).buffered(self.parallel);
        let mut tree = Tree::new(&self.options.profile, attributes);
        while let Some(leaves) = groups.try_next().await? {
            self.leaves(leaves, &mut tree).await?;
        }
        self.root(tree).await
    }

    async fn reader(&mut self, mut reader: impl AsyncRead + Unpin) -> Result<Child, ImportError> {
        let mut tree = Tree::new(&self.options.profile, FileAttributes::default());
        let mut making = FuturesOrdered::new();
        let (mut ended, mut first) = (false, true);
        while !ended {
            let (group, last) = read_group(&mut reader, &self.options.profile, first).await?;
            (ended, first) = (last, false);
            if !group.is_empty() {
                let (blocks, profile) = (self.blocks, self.options.profile.clone());
                making.push_back(blocks.put_made(move || {
                    let leaf = |data: Bytes| read_leaf(data, &profile);
                    group.into_iter().map(leaf).collect::<Result<(Vec<Child>, Vec<Block>), ImportError>>()
                }));
            }
            while making.len() >= self.parallel || (ended && !making.is_empty()) {
                let Some(leaves) = making.next().await else { break };
                self.leaves(leaves?, &mut tree).await?;
            }
        }
        self.done.entries += 1;
        self.root(tree).await
    }

    async fn leaves(&mut self, leaves: Vec<Child>, tree: &mut Tree) -> Result<(), ImportError> {
        let (bytes, mut nodes) = (leaves.iter().map(|leaf| leaf.bytes).sum(), Vec::new());
        for leaf in leaves {
            tree.push(leaf, &mut nodes)?;
        }
        self.blocks.put_many(nodes).await?;
        self.advance(bytes, 0).await
    }

    async fn root(&mut self, tree: Tree) -> Result<Child, ImportError> {
        let mut nodes = Vec::new();
        let root = tree.finish(&mut nodes)?;
        self.blocks.put_many(nodes).await?;
        Ok(root)
    }

    async fn link(&mut self, disk: &Arc<dyn Disk>, path: &str) -> Result<Child, ImportError> {
        let (read, at) = (disk.clone(), path.to_owned());
        // The permissions of a link mean nothing.
        let keep = Keep { mode: false, ..Keep::of(self.options) };
        let (target, attributes) =
            self.off(path, move || Ok((read.read_link(&at)?, keep.attributes(&*read, &at)?))).await?;
        let data = UnixFs { data: Some(target.into()), ..UnixFs::new(Kind::Symlink).with(attributes) };
        let node = Node { links: Vec::new(), data: Some(data.encode()) };
        let block = node_block(self.options.profile.cid_version, node.encode())?;
        let child = Child { cid: block.cid, bytes: 0, tsize: block.data.len() as u64 };
        self.blocks.put(block).await?;
        Ok(child)
    }
}

/// Which attributes are kept.
#[derive(Clone, Copy)]
struct Keep {
    mode: bool,
    mtime: bool,
}

impl Keep {
    fn of(options: &ImportOptions) -> Self {
        Self { mode: options.mode, mtime: options.mtime }
    }

    fn attributes(self, disk: &dyn Disk, path: &str) -> std::io::Result<FileAttributes> {
        if !self.mode && !self.mtime {
            return Ok(FileAttributes::default());
        }
        let found = disk.attributes(path)?;
        // Others cannot tell no permissions from none written, and write none.
        let mode = found.mode.filter(|mode| self.mode && *mode != 0);
        Ok(FileAttributes { mode, mtime: found.mtime.filter(|_| self.mtime) })
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
            Some(group) if group.len() < GROUP_FILES && bytes + file.bytes <= GROUP_BYTES => {
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

fn small_bytes(profile: &Profile) -> u64 {
    SMALL_BYTES.min(profile.chunk_bytes as u64 * GROUP_CHUNKS)
}

fn small_file(
    disk: &dyn Disk,
    path: &str,
    profile: &Profile,
    keep: Keep,
    blocks: &mut Vec<Block>,
) -> Result<Child, ImportError> {
    let io = |source| ImportError::Io { path: path.to_owned(), source };
    let file = disk.open(path, OpenMode::Read).map_err(io)?;
    let bytes = file.len().map_err(io)?;
    if bytes > small_bytes(profile) {
        return Err(ImportError::Changed { path: path.to_owned() });
    }
    let attributes = keep.attributes(disk, path).map_err(io)?;
    let (mut tree, of_leaf) = (Tree::new(profile, attributes), of_leaf(bytes, profile, attributes));
    for range in chunks(bytes, profile.chunk_bytes as u64) {
        let (child, block) = leaf(&*file, path, range, profile, of_leaf)?;
        blocks.push(block);
        tree.push(child, blocks)?;
    }
    Ok(tree.finish(blocks)?)
}

/// The attributes of a file stand in its leaf if that is all of it.
fn of_leaf(bytes: u64, profile: &Profile, attributes: FileAttributes) -> FileAttributes {
    if bytes <= profile.chunk_bytes as u64 { attributes } else { FileAttributes::default() }
}

fn leaf(
    file: &dyn DiskFile,
    path: &str,
    range: Range<u64>,
    profile: &Profile,
    attributes: FileAttributes,
) -> Result<(Child, Block), ImportError> {
    let mut leaf = Leaf::new(profile, (range.end - range.start) as usize, attributes);
    let content = leaf.content();
    match file.read_at(range.start, content) {
        Ok(read) if read == content.len() => Ok(leaf.finish(profile)?),
        Ok(_) => Err(ImportError::Changed { path: path.to_owned() }),
        Err(source) => Err(ImportError::Io { path: path.to_owned(), source }),
    }
}

fn read_leaf(data: Bytes, profile: &Profile) -> Result<(Child, Block), ImportError> {
    if profile.leaves == Leaves::Raw {
        let block = Block::new(crate::RAW, data)?;
        let bytes = block.data.len() as u64;
        return Ok((Child { cid: block.cid, bytes, tsize: bytes }, block));
    }
    let mut leaf = Leaf::new(profile, data.len(), FileAttributes::default());
    leaf.content().copy_from_slice(&data);
    Ok(leaf.finish(profile)?)
}

/// Some chunks, together at least [`GROUP_BYTES`] where there is as much, and whether the reader has ended. The only
/// chunk of an empty file is empty.
async fn read_group(
    reader: &mut (impl AsyncRead + Unpin),
    profile: &Profile,
    first: bool,
) -> Result<(Vec<Bytes>, bool), ImportError> {
    let (mut group, mut bytes) = (Vec::new(), 0);
    while bytes < GROUP_BYTES && (group.len() as u64) < GROUP_CHUNKS {
        let mut data = Vec::with_capacity(if first && group.is_empty() { 0 } else { profile.chunk_bytes });
        let mut limited = (&mut *reader).take(profile.chunk_bytes as u64);
        let read = limited.read_to_end(&mut data).await;
        let read = read.map_err(|source| ImportError::Io { path: "the reader".into(), source })?;
        bytes += read as u64;
        if read > 0 || (first && group.is_empty()) {
            group.push(data.into());
        }
        if read < profile.chunk_bytes {
            return Ok((group, true));
        }
    }
    Ok((group, false))
}
