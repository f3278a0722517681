use std::{fmt, io, pin::Pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use cid::Cid;
use diai_core::{Disk, DiskFile, Offload, OpenMode, offload};
use diai_identity::Identity;
use futures::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    CHUNK_BYTES, CONTENT, MAX_ENTRIES, MAX_GRANTS, Manifest, OpenError,
    chunks::{Cipher, padded_bytes},
    grant_info,
};
use crate::{
    BlockSource,
    unixfs::{self, ReadError},
};

/// Manifests over this many bytes are refused.
const MAX_MANIFEST_BYTES: usize = 64 << 20;
/// Bytes of a grant; others are skipped.
const GRANT_BYTES: usize = 80;

type Chunks<'a> = Pin<Box<dyn Stream<Item = Result<Bytes, ReadError>> + Send + 'a>>;

/// Opens the sealed content `root`, whose blocks come from `source`, with a grant for `identity`.
///
/// Cancel-safe.
pub async fn open<'a>(
    source: &'a dyn BlockSource,
    identity: &Identity,
    root: Cid,
) -> Result<SealedReader<'a>, OpenError> {
    let (content, key) = content_key(source, identity, root).await?;
    let sealed_bytes = unixfs::stat(source, content).await?.bytes;
    let chunks = sealed_bytes.div_ceil(CHUNK_BYTES as u64);
    SealedReader::begin(root, Box::pin(unixfs::read(source, content, u64::MAX)), Cipher::new(&key, chunks), chunks)
        .await
}

/// Proof that `identity` can open `root`, bound to `context`: whoever can open it too gets the same, and nobody else. It
/// tells nothing of the key, and is of no use for another context. Reads the grants only.
///
/// Cancel-safe.
pub async fn access_proof(
    source: &dyn BlockSource,
    identity: &Identity,
    root: Cid,
    context: &[u8; 32],
) -> Result<[u8; 32], OpenError> {
    let (content, key) = content_key(source, identity, root).await?;
    let prover = Sha256::new().chain_update(b"diai/sealed-access/1").chain_update(&key[..]).finalize();
    let proof = Sha256::new().chain_update(prover).chain_update(context).chain_update(content.to_bytes());
    Ok(proof.finalize().into())
}

/// The content below `root`, and its key as granted to `identity`.
async fn content_key(
    source: &dyn BlockSource,
    identity: &Identity,
    root: Cid,
) -> Result<(Cid, Zeroizing<[u8; 32]>), OpenError> {
    let not_sealed = |why| OpenError::NotSealed { root, why };
    let entries = unixfs::entries(source, root, MAX_GRANTS + 1).await.map_err(|error| match error {
        ReadError::Source(error) => OpenError::Read(error.into()),
        _ => not_sealed("it is no folder of a content and at most 256 grants"),
    })?;
    let content = entries.iter().find(|entry| entry.name == CONTENT).map(|entry| entry.cid);
    let content = content.ok_or_else(|| not_sealed("it has no content"))?;
    let info = grant_info(identity.agent(), &content);
    let mut key = None;
    for grant in entries.iter().filter(|entry| entry.name != CONTENT) {
        let sealed = source.block(grant.cid).await.map_err(ReadError::from)?;
        if sealed.len() == GRANT_BYTES
            && let Ok(opened) = identity.open_sealed(&info, &sealed)
        {
            key = <[u8; 32]>::try_from(Zeroizing::new(opened).as_slice()).ok().map(Zeroizing::new);
            break;
        }
    }
    Ok((content, key.ok_or(OpenError::NotForYou { root })?))
}

/// Sealed content being read, in order, in constant memory.
pub struct SealedReader<'a> {
    root: Cid,
    manifest: Manifest,
    sealed: Chunks<'a>,
    cipher: Cipher,
    chunks: u64,
    next_chunk: u64,
    /// Plaintext not taken yet.
    plain: BytesMut,
    /// Index of the entry being read, and how much of it is still to come.
    entry: usize,
    left: u64,
}

impl fmt::Debug for SealedReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedReader")
            .field("root", &self.root)
            .field("next_chunk", &self.next_chunk)
            .finish_non_exhaustive()
    }
}

impl<'a> SealedReader<'a> {
    async fn begin(root: Cid, sealed: Chunks<'a>, cipher: Cipher, chunks: u64) -> Result<Self, OpenError> {
        let manifest = Manifest { sealed_at: diai_core::WallTime::default(), entries: Vec::new() };
        let plain = BytesMut::new();
        let mut reader = Self { root, manifest, sealed, cipher, chunks, next_chunk: 0, plain, entry: 0, left: 0 };
        let length = reader.exactly(4).await?;
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if length > MAX_MANIFEST_BYTES {
            return Err(reader.tampered());
        }
        let encoded = reader.exactly(length).await?;
        reader.manifest = Manifest::decode(encoded).ok_or_else(|| reader.tampered())?;
        // The padding is a function of the rest, so a length of another class was not made by the rules.
        let total = padded_bytes(reader.manifest.content_bytes() + 4 + length as u64);
        if total.div_ceil(super::PLAIN_BYTES as u64) != reader.chunks {
            return Err(reader.tampered());
        }
        reader.left = reader.manifest.entries.first().map_or(0, |entry| entry.bytes);
        Ok(reader)
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The next piece of content, at most one chunk, and the index of the entry in the manifest that it belongs to;
    /// `None` at the end. Entries without content are passed over. Not cancel-safe: a piece may be lost.
    pub async fn next(&mut self) -> Result<Option<(usize, Bytes)>, OpenError> {
        while self.left == 0 {
            self.entry += 1;
            match self.manifest.entries.get(self.entry) {
                Some(entry) => self.left = entry.bytes,
                None => return Ok(None),
            }
        }
        if self.plain.is_empty() {
            self.fill().await?;
        }
        let take = self.left.min(self.plain.len() as u64);
        self.left -= take;
        Ok(Some((self.entry, self.plain.split_to(take as usize).freeze())))
    }

    /// Reads everything into memory: paths and contents, folders left out.
    pub async fn read_all(mut self, max_bytes: u64) -> Result<Vec<(String, Bytes)>, OpenError> {
        let bytes = self.manifest.content_bytes();
        if bytes > max_bytes {
            return Err(OpenError::TooLarge { root: self.root, bytes, limit: max_bytes });
        }
        let mut contents = vec![BytesMut::new(); self.manifest.entries.len()];
        while let Some((index, piece)) = self.next().await? {
            contents[index].extend_from_slice(&piece);
        }
        let files = self.manifest.entries.iter().zip(contents).filter(|(entry, _)| !entry.folder);
        Ok(files.map(|(entry, content)| (entry.path.clone(), content.freeze())).collect())
    }

    /// Writes everything below `target` of `disk`, which is made as a folder, or, if it is one file without a name, to
    /// `target` itself. Nothing that exists is replaced. Files are durable when it returns. Returns the bytes written.
    ///
    /// Cancel-safety: dropping the future stops it; what was written until then stays.
    pub async fn export(
        mut self,
        disk: Arc<dyn Disk>,
        target: &str,
        pool: &Arc<dyn Offload>,
    ) -> Result<u64, OpenError> {
        let paths: Vec<String> = self.manifest.entries.iter().map(|entry| place(target, &entry.path)).collect();
        let folders = self.folders(target, &paths);
        let maker = disk.clone();
        off(pool, target, move || folders.iter().try_for_each(|folder| maker.create_folder(folder))).await?;
        let mut open: Option<(usize, Arc<dyn DiskFile>, u64)> = None;
        for (entry, path) in self.manifest.entries.iter().zip(&paths) {
            if entry.bytes == 0 && !entry.folder {
                let (disk, at) = (disk.clone(), path.clone());
                off(pool, path, move || disk.open(&at, OpenMode::CreateNew)?.sync()).await?;
            }
        }
        let mut written = 0;
        while let Some((index, piece)) = self.next().await? {
            let (file, at) = match open.take() {
                Some((current, file, at)) if current == index => (file, at),
                done => {
                    if let Some((done, file, _)) = done {
                        off(pool, &paths[done], move || file.sync()).await?;
                    }
                    let (disk, path) = (disk.clone(), paths[index].clone());
                    (off(pool, &paths[index], move || disk.open(&path, OpenMode::CreateNew)).await?, 0)
                }
            };
            let (handle, bytes) = (file.clone(), piece.len() as u64);
            off(pool, &paths[index], move || handle.write_at(at, &piece)).await?;
            written += bytes;
            open = Some((index, file, at + bytes));
        }
        if let Some((done, file, _)) = open {
            off(pool, &paths[done], move || file.sync()).await?;
        }
        Ok(written)
    }

    fn folders(&self, target: &str, paths: &[String]) -> Vec<String> {
        let mut folders = Vec::new();
        for (entry, path) in self.manifest.entries.iter().zip(paths) {
            if entry.folder {
                folders.push(path.clone());
            } else if let Some((parent, _)) = path.rsplit_once('/')
                && !entry.path.is_empty()
            {
                folders.push(parent.to_owned());
            }
        }
        if self.manifest.entries.is_empty() {
            folders.push(target.to_owned());
        }
        folders.sort();
        folders.dedup();
        folders
    }

    fn tampered(&self) -> OpenError {
        OpenError::Tampered { root: self.root, chunk: self.next_chunk.saturating_sub(1) }
    }

    async fn exactly(&mut self, bytes: usize) -> Result<Bytes, OpenError> {
        while self.plain.len() < bytes {
            self.fill().await?;
        }
        Ok(self.plain.split_to(bytes).freeze())
    }

    /// Opens the next chunk.
    async fn fill(&mut self) -> Result<(), OpenError> {
        let index = self.next_chunk;
        self.next_chunk += 1;
        let Some(sealed) = self.sealed.next().await.transpose()? else { return Err(self.tampered()) };
        // Leaves of another length would be chunks cut elsewhere.
        let last = index + 1 == self.chunks;
        if index >= self.chunks || (sealed.len() != CHUNK_BYTES && !last) {
            return Err(self.tampered());
        }
        let mut chunk = Vec::from(sealed);
        self.cipher.open(index, &mut chunk).map_err(|_| self.tampered())?;
        if self.plain.is_empty() {
            self.plain = BytesMut::from(Bytes::from(chunk));
        } else {
            self.plain.extend_from_slice(&chunk);
        }
        Ok(())
    }
}

/// Where an entry goes. Paths of a manifest were checked when it was decoded.
fn place(target: &str, path: &str) -> String {
    match (target, path) {
        ("", path) => path.to_owned(),
        (target, "") => target.to_owned(),
        (target, path) => format!("{target}/{path}"),
    }
}

async fn off<T: Send + 'static>(
    pool: &Arc<dyn Offload>,
    path: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, OpenError> {
    let outcome = offload(&**pool, work).await.map_err(|_| OpenError::Closed)?;
    outcome.map_err(|source| OpenError::Io { path: path.to_owned(), source })
}

const _: () = assert!(MAX_ENTRIES * 16 < MAX_MANIFEST_BYTES);
