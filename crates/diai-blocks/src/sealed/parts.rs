//! The contents that a sealed root is made of, and reading anywhere in them.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use bytes::Bytes;
use cid::Cid;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;

use super::{
    CHUNK_BYTES, OpenError, PLAIN_BYTES,
    chunks::{Cipher, chunk_count, sealed_bytes},
    keys::ContentKey,
    manifest::Extent,
};
use crate::{
    BlockSource,
    unixfs::{self, ReadError},
};

/// Chunks that are kept opened, each of at most 1 MiB: extents may go to and fro between contents.
const KEPT_CHUNKS: usize = 8;

type Blocks<'a> = Pin<Box<dyn Stream<Item = Result<Bytes, ReadError>> + Send + 'a>>;

/// One content.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) cid: Cid,
    pub(super) key: ContentKey,
    pub(super) plain_bytes: u64,
    pub(super) head_bytes: u64,
}

/// Reads plaintext at any place of any part: each chunk is fetched and opened once where the places
/// follow each other, or go to and fro between few chunks.
pub(super) struct Cursor<'a> {
    source: &'a dyn BlockSource,
    root: Cid,
    parts: Arc<[Part]>,
    /// Parts that are known to be as long as they should.
    measured: Vec<bool>,
    /// Never locked: it makes what is reading fit to be shared.
    run: Mutex<Option<Run<'a>>>,
    opened: Opened,
}

/// The chunks that were read last, the very last first, with their parts and numbers.
#[derive(Default)]
struct Opened(VecDeque<(usize, u64, Bytes)>);

impl Opened {
    fn get(&mut self, part: usize, index: u64) -> Option<Bytes> {
        let at = self.0.iter().position(|(of, chunk, _)| (*of, *chunk) == (part, index))?;
        let found = self.0.remove(at)?;
        let plain = found.2.clone();
        self.0.push_front(found);
        Some(plain)
    }

    fn keep(&mut self, part: usize, index: u64, plain: Bytes) {
        self.0.truncate(KEPT_CHUNKS - 1);
        self.0.push_front((part, index, plain));
    }
}

/// Chunks that are being fetched.
struct Run<'a> {
    part: usize,
    next: u64,
    end: u64,
    cipher: Cipher,
    blocks: Blocks<'a>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a dyn BlockSource, root: Cid, parts: Arc<[Part]>) -> Self {
        let measured = vec![false; parts.len()];
        Self { source, root, parts, measured, run: Mutex::default(), opened: Opened::default() }
    }

    /// One that has no chunk yet.
    pub(super) fn fresh(&self) -> Self {
        let (parts, measured) = (self.parts.clone(), self.measured.clone());
        Self { source: self.source, root: self.root, parts, measured, run: Mutex::default(), opened: Opened::default() }
    }

    /// The same with the parts that the manifest names; the first is the one it knows already.
    pub(super) fn with_parts(self, parts: Arc<[Part]>) -> Self {
        let mut measured = self.measured;
        measured.resize(parts.len(), false);
        Self { parts, measured, ..self }
    }

    pub(super) fn parts(&self) -> &Arc<[Part]> {
        &self.parts
    }

    /// The first piece, within one chunk, of `extent` from its byte `from` on. Chunks are fetched ahead up to the one in
    /// which its byte `ahead_to` lies, which may be past its end.
    pub(super) async fn piece(&mut self, extent: &Extent, from: u64, ahead_to: u64) -> Result<Bytes, OpenError> {
        let head = self.parts.get(extent.part).map_or(0, |part| part.head_bytes);
        let start = head + extent.at;
        self.at(extent.part, start + from, start + extent.bytes, start + ahead_to.max(from + 1)).await
    }

    /// The bytes of `part` from `at` to `end`, or to the end of a chunk.
    pub(super) async fn at(&mut self, part: usize, at: u64, end: u64, ahead: u64) -> Result<Bytes, OpenError> {
        let index = at / PLAIN_BYTES as u64;
        let tampered = OpenError::Tampered { root: self.root, chunk: index };
        let plain = match self.opened.get(part, index) {
            Some(plain) => plain,
            None => self.open_chunk(part, index, chunk_count(ahead)).await?,
        };
        let start = index * PLAIN_BYTES as u64;
        let (from, to) = ((at - start) as usize, (end - start).min(plain.len() as u64) as usize);
        // No byte at all would be read again for ever.
        if from >= to { Err(tampered) } else { Ok(plain.slice(from..to)) }
    }

    async fn open_chunk(&mut self, part: usize, index: u64, end: u64) -> Result<Bytes, OpenError> {
        let tampered = OpenError::Tampered { root: self.root, chunk: index };
        if !self.run.get_mut().as_ref().is_some_and(|run| (run.part, run.next) == (part, index) && run.next < run.end) {
            *self.run.get_mut() = Some(self.begin(part, index, end).await?);
        }
        let (Some(run), Some(of)) = (self.run.get_mut(), self.parts.get(part)) else { return Err(tampered) };
        let Some(sealed) = run.blocks.next().await.transpose()? else { return Err(tampered) };
        run.next += 1;
        // Leaves of another length would be chunks cut elsewhere.
        let expected = (sealed_bytes(of.plain_bytes) - index * CHUNK_BYTES as u64).min(CHUNK_BYTES as u64);
        if sealed.len() as u64 != expected {
            return Err(tampered);
        }
        let mut chunk = Vec::from(sealed);
        run.cipher.open(index, &mut chunk).map_err(|_| tampered)?;
        let plain = Bytes::from(chunk);
        self.opened.keep(part, index, plain.clone());
        Ok(plain)
    }

    async fn begin(&mut self, part: usize, index: u64, end: u64) -> Result<Run<'a>, OpenError> {
        let tampered = OpenError::Tampered { root: self.root, chunk: index };
        let Some(of) = self.parts.get(part) else { return Err(tampered) };
        let (chunks, sealed) = (chunk_count(of.plain_bytes), sealed_bytes(of.plain_bytes));
        if index >= chunks {
            return Err(tampered);
        }
        if !self.measured[part] {
            if unixfs::stat(self.source, of.cid).await?.bytes != sealed {
                return Err(tampered);
            }
            self.measured[part] = true;
        }
        let end = end.clamp(index + 1, chunks);
        let range = index * CHUNK_BYTES as u64..(end * CHUNK_BYTES as u64).min(sealed);
        let blocks = Box::pin(unixfs::read_range(self.source, of.cid, range));
        Ok(Run { part, next: index, end, cipher: of.key.cipher(chunks), blocks })
    }
}
