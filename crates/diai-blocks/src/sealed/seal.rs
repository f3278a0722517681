use std::{io, sync::Arc};

use bytes::Bytes;
use cid::Cid;
use diai_core::{AgentId, Disk, DiskFile, EntryKind, Offload, OpenMode, World, offload};
use diai_identity::{Certificate, EncryptionKey, Identity};
use futures::{
    TryStreamExt,
    stream::{self, BoxStream},
};
use zeroize::Zeroizing;

use super::{
    CONTENT, MAX_ENTRIES, MAX_GRANTS, Manifest, ManifestEntry, PLAIN_BYTES, SealError,
    chunks::{Cipher, padded_bytes},
    grant_info,
    manifest::check_paths,
};
use crate::{
    Block, BlockStore, Guard, RAW,
    dag_pb::Link,
    unixfs::{self, ImportOptions, Imported, Profile},
};

/// What to seal.
#[derive(Clone)]
pub enum Source {
    /// Files by name: bytes in memory.
    Files(Vec<(String, Bytes)>),
    /// The file or folder at a path of a disk. A file is sealed without a name, as `add` without sealing does, a folder's
    /// entries under their paths in it. Names that begin with a dot are left out, as everywhere.
    Path {
        /// Where it lies.
        disk: Arc<dyn Disk>,
        /// Its path; empty for the root.
        path: String,
    },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files(files) => write!(f, "Files({})", files.len()),
            Self::Path { path, .. } => write!(f, "Path({path:?})"),
        }
    }
}

/// What was sealed. Keep it until its root is pinned: while it lives, its blocks are not collected.
#[derive(Debug)]
#[non_exhaustive]
pub struct Sealed {
    /// The CID that opens it.
    pub root: Cid,
    /// Bytes of all blocks, for the link of a folder around it.
    pub tsize: u64,
    /// What it holds.
    pub manifest: Manifest,
    _guard: Guard,
}

/// Seals `source` for `recipients` and for `identity` itself. Readable when it returns, durable after
/// [`BlockStore::flush`]. Memory: some chunks of 1 MiB, and the manifest.
///
/// Cancel-safety: dropping the future stops it; blocks put until then are garbage.
pub async fn seal(
    world: &World,
    store: &BlockStore,
    identity: &Identity,
    source: Source,
    recipients: &[Certificate],
) -> Result<Sealed, SealError> {
    for certificate in recipients {
        let agent = certificate.agent();
        certificate.verify(world.clock.wall()).map_err(|reason| SealError::Recipient { agent, reason })?;
    }
    let keys = recipients.iter().map(|certificate| (certificate.agent(), certificate.encryption_key())).collect();
    seal_to(world, store, identity, source, keys).await
}

/// The same for keys whose certificates the caller has judged.
pub(crate) async fn seal_to(
    world: &World,
    store: &BlockStore,
    identity: &Identity,
    source: Source,
    recipients: Vec<(AgentId, EncryptionKey)>,
) -> Result<Sealed, SealError> {
    let keys = distinct(identity, recipients)?;
    let guard = store.guard();
    let sealed_at = world.clock.wall();
    let pool = world.offload.clone();
    let plan = offload(&*pool, move || plan(source)).await.map_err(|_| SealError::Closed)??;
    let entries = plan.iter().map(|part| part.entry.clone()).collect();
    let manifest = Manifest { sealed_at, entries };

    let key = Zeroizing::new(world.entropy.bytes::<32>());
    let content = import_content(store, &pool, &manifest, plan, &key).await?;
    let mut links = vec![Link { cid: content.root(), name: CONTENT.to_owned(), tsize: content.tsize() }];
    let mut grants = Vec::new();
    for (agent, recipient) in keys {
        let sealed = recipient.seal(&*world.entropy, &grant_info(agent, &content.root()), &*key);
        grants.push(Block::new(RAW, sealed).map_err(unixfs::ImportError::from)?);
    }
    while !grants.len().is_power_of_two() {
        grants.push(decoy(world)?);
    }
    // Sorted by what looks random, so that their order says nothing either.
    grants.sort_by_key(|grant| grant.cid);
    for (index, grant) in grants.iter().enumerate() {
        links.push(Link { cid: grant.cid, name: format!("g{index:03}"), tsize: grant.data.len() as u64 });
    }
    let folder = unixfs::build_folder(links, &Profile::UNIXFS_V1_2025)?;
    grants.extend(folder.blocks);
    store.put_many(grants).await?;
    Ok(Sealed { root: folder.root, tsize: folder.tsize, manifest, _guard: guard })
}

/// This agent's key and the others', each once.
fn distinct(
    identity: &Identity,
    recipients: Vec<(AgentId, EncryptionKey)>,
) -> Result<Vec<(AgentId, EncryptionKey)>, SealError> {
    let mut keys = vec![(identity.agent(), identity.encryption_key())];
    for key in recipients {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    if keys.len() > MAX_GRANTS {
        return Err(SealError::TooManyRecipients { recipients: keys.len(), limit: MAX_GRANTS });
    }
    Ok(keys)
}

/// A grant that nobody can open, and that nobody can tell from others.
fn decoy(world: &World) -> Result<Block, SealError> {
    loop {
        if let Ok(nobody) = EncryptionKey::from_bytes(world.entropy.bytes()) {
            let sealed = nobody.seal(&*world.entropy, b"", &world.entropy.bytes::<32>());
            return Ok(Block::new(RAW, sealed).map_err(unixfs::ImportError::from)?);
        }
    }
}

/// An entry and where its content is.
#[derive(Clone)]
struct Part {
    entry: ManifestEntry,
    content: Content,
}

#[derive(Clone)]
enum Content {
    Bytes(Bytes),
    File { disk: Arc<dyn Disk>, path: String },
}

fn plan(source: Source) -> Result<Vec<Part>, SealError> {
    let mut parts = Vec::new();
    match source {
        Source::Files(files) => {
            for (path, data) in files {
                let entry = ManifestEntry { path, bytes: data.len() as u64, folder: false };
                parts.push(Part { entry, content: Content::Bytes(data) });
            }
        }
        Source::Path { disk, path } => plan_path(&disk, &path, &mut parts)?,
    }
    if parts.len() > MAX_ENTRIES {
        return Err(SealError::TooMany { limit: MAX_ENTRIES });
    }
    check_paths(parts.iter().map(|part| part.entry.path.as_str()))
        .map_err(|(path, why)| SealError::Path { path, why })?;
    Ok(parts)
}

/// Adds what lies at `root`, folders before what is in them.
fn plan_path(disk: &Arc<dyn Disk>, root: &str, parts: &mut Vec<Part>) -> Result<(), SealError> {
    let io = |path: &str, source| SealError::Io { path: path.to_owned(), source };
    let file = |at: String, path: String, bytes| Part {
        entry: ManifestEntry { path, bytes, folder: false },
        content: Content::File { disk: disk.clone(), path: at },
    };
    if !root.is_empty() {
        let entry = disk.entry(root).map_err(|error| io(root, error))?;
        match entry.kind {
            EntryKind::File => {
                parts.push(file(root.to_owned(), String::new(), entry.bytes));
                return Ok(());
            }
            EntryKind::Symlink => return Err(SealError::Symlink { path: root.to_owned() }),
            EntryKind::Folder => {}
        }
    }
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let at = join(root, &folder);
        for entry in disk.list(&at).map_err(|error| io(&at, error))? {
            if entry.name.starts_with('.') {
                continue;
            }
            let path = join(&folder, &entry.name);
            let at = join(root, &path);
            match entry.kind {
                EntryKind::File => parts.push(file(at, path, entry.bytes)),
                EntryKind::Symlink => return Err(SealError::Symlink { path: at }),
                EntryKind::Folder => {
                    let entry = ManifestEntry { path: path.clone(), bytes: 0, folder: true };
                    parts.push(Part { entry, content: Content::Bytes(Bytes::new()) });
                    folders.push(path);
                }
            }
            if parts.len() > MAX_ENTRIES {
                return Err(SealError::TooMany { limit: MAX_ENTRIES });
            }
        }
    }
    Ok(())
}

fn join(folder: &str, name: &str) -> String {
    match (folder, name) {
        ("", name) => name.to_owned(),
        (folder, "") => folder.to_owned(),
        (folder, name) => format!("{folder}/{name}"),
    }
}

async fn import_content(
    store: &BlockStore,
    pool: &Arc<dyn Offload>,
    manifest: &Manifest,
    parts: Vec<Part>,
    key: &[u8; 32],
) -> Result<Imported, SealError> {
    let encoded = manifest.encode();
    let mut head = (encoded.len() as u32).to_le_bytes().to_vec();
    head.extend_from_slice(&encoded);
    let total = padded_bytes((head.len() as u64).saturating_add(manifest.content_bytes()));
    let chunks = total.div_ceil(PLAIN_BYTES as u64);
    let mut parts = parts;
    let head = Part {
        entry: ManifestEntry { path: "manifest".to_owned(), bytes: head.len() as u64, folder: false },
        content: Content::Bytes(head.into()),
    };
    parts.insert(0, head);
    let plain =
        Plain { parts: parts.into_iter(), current: None, left: total, index: 0, cipher: Cipher::new(key, chunks) };
    let pool = pool.clone();
    let failed: Arc<std::sync::Mutex<Option<String>>> = Arc::default();
    let failure = failed.clone();
    // Boxed as a type of its own: the bare one is too particular for callers that need a `Send` future.
    let sealed: BoxStream<'static, io::Result<_>> = Box::pin(stream::try_unfold(Some(plain), move |plain| {
        let (pool, failure) = (pool.clone(), failure.clone());
        async move {
            let Some(mut plain) = plain.filter(|plain| plain.left > 0) else { return Ok(None) };
            let work = move || plain.next_chunk().map(|chunk| (chunk, plain));
            match offload(&*pool, work).await.map_err(io::Error::other)? {
                Ok((chunk, plain)) => Ok(Some((chunk, Some(plain)))),
                Err((path, error)) => {
                    *failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(path);
                    Err(error)
                }
            }
        }
    }));
    let reader = sealed.into_async_read();
    unixfs::import_reader(store, reader, &ImportOptions::default()).await.map_err(|error| {
        let path = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match (error, path) {
            (unixfs::ImportError::Io { source, .. }, Some(path)) => SealError::Io { path, source },
            (error, _) => error.into(),
        }
    })
}

/// The plaintext, cut into chunks and sealed one by one.
struct Plain {
    parts: std::vec::IntoIter<Part>,
    current: Option<Open>,
    /// Bytes of plaintext still to come, padding included.
    left: u64,
    index: u64,
    cipher: Cipher,
}

struct Open {
    path: String,
    at: u64,
    bytes: u64,
    content: Opened,
}

enum Opened {
    Bytes(Bytes),
    File(Arc<dyn DiskFile>),
}

impl Plain {
    fn next_chunk(&mut self) -> Result<Vec<u8>, (String, io::Error)> {
        let bytes = self.left.min(PLAIN_BYTES as u64) as usize;
        let mut chunk = Vec::with_capacity(bytes + 16);
        while chunk.len() < bytes {
            let Some(open) = &mut self.current else {
                match self.parts.next() {
                    Some(part) => self.current = Some(open_part(part)?),
                    // Padding.
                    None => chunk.resize(bytes, 0),
                }
                continue;
            };
            let take = (open.bytes - open.at).min((bytes - chunk.len()) as u64) as usize;
            match &open.content {
                Opened::Bytes(data) => chunk.extend_from_slice(&data[open.at as usize..][..take]),
                Opened::File(file) => {
                    let start = chunk.len();
                    chunk.resize(start + take, 0);
                    file.read_exact_at(open.at, &mut chunk[start..]).map_err(|error| (open.path.clone(), error))?;
                }
            }
            open.at += take as u64;
            if open.at == open.bytes {
                self.current = None;
            }
        }
        self.cipher.seal(self.index, &mut chunk);
        self.index += 1;
        self.left -= bytes as u64;
        Ok(chunk)
    }
}

fn open_part(part: Part) -> Result<Open, (String, io::Error)> {
    let bytes = part.entry.bytes;
    let (path, content) = match part.content {
        Content::Bytes(data) => (part.entry.path, Opened::Bytes(data)),
        Content::File { disk, path } => {
            let file = disk.open(&path, OpenMode::Read).map_err(|error| (path.clone(), error))?;
            if file.len().map_err(|error| (path.clone(), error))? != bytes {
                let changed = io::Error::other("the file changed while it was sealed; seal it again");
                return Err((path, changed));
            }
            (path, Opened::File(file))
        }
    };
    Ok(Open { path, at: 0, bytes, content })
}
