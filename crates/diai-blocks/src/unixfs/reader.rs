use std::{fmt, sync::Arc};

use bytes::Bytes;
use cid::Cid;

use super::{Kind, PREFETCH, ReadError, frontier::Fetch, read, read::Chunks};
use crate::BlockSource;

/// Reads in order after which the reader counts as sequential.
const SEQUENTIAL: u32 = 2;
/// Blocks that are fetched ahead when it first does.
const FIRST_AHEAD: usize = 2;

/// A file that is read here and there, or from here on.
///
/// Only those blocks are fetched that what is asked for lies in, and the nodes above them. After two reads in order, the next
/// blocks of the file are fetched ahead: two, then twice as many with each block that is read, up to [`PREFETCH`] at a time. A
/// seek ends that, unless it goes to a place in the block at hand.
///
/// Memory: the blocks on their way and the one at hand, of at most 2 MiB each, and 200 bytes for each link that follows.
pub struct FileReader<'a> {
    fetch: Fetch<'a>,
    cid: Cid,
    bytes: u64,
    position: u64,
    /// Of the block at hand, from the position on.
    rest: Bytes,
    /// What follows `rest`.
    chunks: Option<Chunks<'a>>,
    reads_in_order: u32,
    ahead: usize,
}

impl fmt::Debug for FileReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileReader").field("cid", &self.cid).field("position", &self.position).finish_non_exhaustive()
    }
}

impl<'a> FileReader<'a> {
    /// Opens the file `cid` of `source`, at its beginning. Reads one block.
    pub async fn open(source: &'a dyn BlockSource, cid: Cid) -> Result<Self, ReadError> {
        Self::fetching(Arc::new(move |cid| source.block(cid)), cid).await
    }

    /// The same for a reader that keeps its source.
    pub async fn open_owned(source: Arc<dyn BlockSource>, cid: Cid) -> Result<FileReader<'static>, ReadError> {
        let fetch: Fetch<'static> = Arc::new(move |cid| {
            let source = source.clone();
            Box::pin(async move { source.block(cid).await })
        });
        FileReader::fetching(fetch, cid).await
    }

    async fn fetching(fetch: Fetch<'a>, cid: Cid) -> Result<Self, ReadError> {
        let root = fetch(cid).await?;
        let stat = read::stat_block(cid, &root)?;
        if stat.kind != Kind::File {
            return Err(ReadError::NotAFile { cid });
        }
        // It is needed after each seek.
        let fetch: Fetch<'a> = Arc::new(move |wanted| match wanted == cid {
            true => Box::pin(std::future::ready(Ok(root.clone()))),
            false => fetch(wanted),
        });
        let (bytes, rest) = (stat.bytes, Bytes::new());
        Ok(Self { fetch, cid, bytes, position: 0, rest, chunks: None, reads_in_order: 0, ahead: 0 })
    }

    /// Bytes of the file, as its root says.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the next read begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Has the next read begin at `position`, which may be past the end. Fetches nothing.
    pub fn seek(&mut self, position: u64) {
        match position.checked_sub(self.position) {
            Some(0) => return,
            Some(skipped) if skipped <= self.rest.len() as u64 => drop(self.rest.split_to(skipped as usize)),
            _ => {
                self.rest = Bytes::new();
                self.chunks = None;
            }
        }
        self.position = position;
        (self.reads_in_order, self.ahead) = (0, 0);
    }

    /// The next bytes, at most `max_bytes`: what there is of them in one block. Empty at the end of the file.
    ///
    /// Cancel-safe: what a dropped read would have given, the next one gives. After an error it may be tried again.
    pub async fn read(&mut self, max_bytes: usize) -> Result<Bytes, ReadError> {
        if max_bytes == 0 {
            return Ok(Bytes::new());
        }
        let until = self.position.saturating_add(max_bytes as u64);
        while self.rest.is_empty() && self.position < self.bytes {
            let ahead = match self.reads_in_order + 1 {
                SEQUENTIAL.. => (2 * self.ahead).clamp(FIRST_AHEAD, PREFETCH),
                _ => 0,
            };
            let chunks = self
                .chunks
                .get_or_insert_with(|| Chunks::new(self.fetch.clone(), self.cid, self.position..u64::MAX, u64::MAX));
            match chunks.next(until, ahead).await {
                Ok(Some(rest)) => self.rest = rest,
                Ok(None) => break,
                Err(error) => {
                    self.chunks = None;
                    return Err(error);
                }
            }
            if !self.rest.is_empty() {
                self.ahead = ahead;
            }
        }
        let read = self.rest.split_to(max_bytes.min(self.rest.len()));
        self.position += read.len() as u64;
        self.reads_in_order = self.reads_in_order.saturating_add(1);
        Ok(read)
    }
}
