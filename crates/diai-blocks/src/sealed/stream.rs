//! The plaintext of a content, chunk by chunk, and its way into the store.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use diai_core::{Offload, offload};
use futures::{
    TryStreamExt,
    stream::{self, BoxStream},
};
use sha2::{Digest, Sha256};

use super::{
    PLAIN_BYTES, SealError,
    chunks::{Cipher, chunk_count},
    keys::{ContentKey, Salt},
    plan::{Content, Opened, ReadFailed},
};
use crate::{
    BlockStore,
    unixfs::{self, ImportError, ImportOptions, Imported},
};

/// Consecutive bytes of a file that is to be sealed.
#[derive(Clone)]
pub(super) struct Piece {
    pub(super) content: Content,
    pub(super) at: u64,
    pub(super) bytes: u64,
}

/// The plaintext: pieces one after the other, then zeros.
#[derive(Clone)]
pub(super) struct Plain {
    pieces: Arc<[Piece]>,
    plain_bytes: u64,
    /// The piece being read, and how much of it was.
    piece: usize,
    read: u64,
    opened: Option<Opened>,
    left: u64,
}

impl Plain {
    pub(super) fn new(head: Vec<u8>, pieces: Vec<Piece>, plain_bytes: u64) -> Self {
        let head = Piece { at: 0, bytes: head.len() as u64, content: Content::Bytes(head.into()) };
        let pieces = [head].into_iter().chain(pieces).collect();
        Self { pieces, plain_bytes, piece: 0, read: 0, opened: None, left: plain_bytes }
    }

    /// The plaintext of the next chunk, with room for what sealing appends; empty at the end.
    fn next(&mut self) -> Result<Vec<u8>, ReadFailed> {
        let bytes = self.left.min(PLAIN_BYTES as u64) as usize;
        let mut chunk = Vec::with_capacity(bytes + super::chunks::OVERHEAD_BYTES);
        while chunk.len() < bytes {
            let Some(piece) = self.pieces.get(self.piece) else {
                // Padding.
                chunk.resize(bytes, 0);
                break;
            };
            let opened = match &mut self.opened {
                Some(opened) => opened,
                none => none.insert(piece.content.open()?),
            };
            let take = (piece.bytes - self.read).min((bytes - chunk.len()) as u64);
            opened.append(piece.at + self.read, take as usize, &mut chunk)?;
            self.read += take;
            if self.read == piece.bytes {
                (self.piece, self.read, self.opened) = (self.piece + 1, 0, None);
            }
        }
        self.left -= bytes as u64;
        Ok(chunk)
    }

    /// What is being read, for errors.
    fn path(&self) -> String {
        match self.pieces.get(self.piece).or(self.pieces.last()).map(|piece| &piece.content) {
            Some(Content::File { path, .. }) => path.clone(),
            _ => String::new(),
        }
    }
}

/// Hashes of all chunks, against which they are held when they are sealed: under a key that is a function of the content
/// nothing else may ever be sealed.
pub(super) type Hashes = Arc<[[u8; 32]]>;

/// The key of `plain` under `salt`, and the hashes it was derived from. Reads everything once.
pub(super) async fn convergent_key(
    pool: &Arc<dyn Offload>,
    salt: &Salt,
    plain: &Plain,
) -> Result<(ContentKey, Hashes), SealError> {
    let (mut hashes, mut reading) = (Vec::new(), plain.clone());
    while reading.left > 0 {
        let work = move || {
            let chunk = reading.next()?;
            Ok::<_, ReadFailed>((<[u8; 32]>::from(Sha256::digest(&chunk)), reading))
        };
        let (hash, rest) = offload(&**pool, work).await.map_err(|_| SealError::Closed)??;
        hashes.push(hash);
        reading = rest;
    }
    let mut whole =
        Sha256::new().chain_update(b"diai/sealed-plaintext/2").chain_update(plain.plain_bytes.to_le_bytes());
    hashes.iter().for_each(|hash| whole.update(hash));
    Ok((salt.key(&whole.finalize().into()), hashes.into()))
}

/// Seals `plain` chunk by chunk, and stores it as a file.
pub(super) async fn import(
    store: &BlockStore,
    pool: &Arc<dyn Offload>,
    plain: Plain,
    key: &ContentKey,
    hashes: Option<Hashes>,
) -> Result<Imported, SealError> {
    let sealing = Sealing { cipher: key.cipher(chunk_count(plain.plain_bytes)), plain, index: 0, hashes };
    let pool = pool.clone();
    let failed: Arc<Mutex<Option<String>>> = Arc::default();
    let failure = failed.clone();
    // Boxed as a type of its own: the bare one is too particular for callers that need a `Send` future.
    let sealed: BoxStream<'static, io::Result<_>> = Box::pin(stream::try_unfold(Some(sealing), move |sealing| {
        let (pool, failure) = (pool.clone(), failure.clone());
        async move {
            let Some(mut sealing) = sealing.filter(|sealing| sealing.plain.left > 0) else { return Ok(None) };
            let work = move || sealing.next().map(|chunk| (chunk, sealing));
            match offload(&*pool, work).await.map_err(io::Error::other)? {
                Ok((chunk, sealing)) => Ok(Some((chunk, Some(sealing)))),
                Err(ReadFailed { path, error }) => {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(path);
                    Err(error)
                }
            }
        }
    }));
    let reader = sealed.into_async_read();
    unixfs::import_reader(store, reader, &ImportOptions::default()).await.map_err(|error| {
        let path = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (error, path) {
            (ImportError::Io { source, .. }, Some(path)) => SealError::Io { path, source },
            (error, _) => error.into(),
        }
    })
}

struct Sealing {
    plain: Plain,
    cipher: Cipher,
    index: u64,
    hashes: Option<Hashes>,
}

impl Sealing {
    fn next(&mut self) -> Result<Vec<u8>, ReadFailed> {
        let path = self.plain.path();
        let mut chunk = self.plain.next()?;
        if let Some(hashes) = &self.hashes {
            let hash: [u8; 32] = Sha256::digest(&chunk).into();
            if hashes.get(self.index as usize) != Some(&hash) {
                return Err(ReadFailed::changed(path));
            }
        }
        self.cipher.seal(self.index, &mut chunk);
        self.index += 1;
        Ok(chunk)
    }
}
