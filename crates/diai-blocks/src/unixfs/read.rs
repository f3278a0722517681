use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use cid::Cid;
use diai_core::FileAttributes;
use futures::{Stream, StreamExt, TryStreamExt, stream};

use super::{
    Kind, MAX_DEPTH, PREFETCH, ReadError, UnixFs,
    frontier::{Fetch, Frontier},
};
use crate::{BlockSource, DAG_PB, RAW, dag_pb::Node};

/// What a CID leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// What it is; a sharded folder is a [`Kind::Folder`], a raw block a [`Kind::File`].
    pub kind: Kind,
    /// Bytes of a file's content, as its root says; zero for all else.
    pub bytes: u64,
    /// Target of a symbolic link.
    pub target: Option<String>,
    /// What its maker kept of its permissions and time.
    pub attributes: FileAttributes,
}

/// What `cid` is. Reads one block.
pub async fn stat(source: &dyn BlockSource, cid: Cid) -> Result<Stat, ReadError> {
    let data = source.block(cid).await?;
    stat_block(cid, &data)
}

pub(super) fn stat_block(cid: Cid, data: &Bytes) -> Result<Stat, ReadError> {
    let stat = Stat { kind: Kind::File, bytes: 0, target: None, attributes: FileAttributes::default() };
    if cid.codec() == RAW {
        return Ok(Stat { bytes: data.len() as u64, ..stat });
    }
    let (_, unixfs) = unixfs_node(cid, data)?;
    let stat = Stat { attributes: unixfs.attributes(), ..stat };
    match unixfs.kind {
        Kind::File | Kind::Raw => Ok(Stat { bytes: Part::of(cid, data)?.bytes, ..stat }),
        Kind::Folder | Kind::Shard => Ok(Stat { kind: Kind::Folder, ..stat }),
        Kind::Symlink => {
            let target = unixfs.data.as_deref().and_then(|data| std::str::from_utf8(data).ok());
            let target = target.ok_or(ReadError::Malformed { cid, what: "the link's target is no text" })?;
            Ok(Stat { kind: Kind::Symlink, target: Some(target.to_owned()), ..stat })
        }
    }
}

/// The node and its UnixFS data.
pub(super) fn unixfs_node(cid: Cid, data: &Bytes) -> Result<(Node, UnixFs), ReadError> {
    if cid.codec() != DAG_PB {
        return Err(ReadError::Codec { cid, codec: cid.codec() });
    }
    let node = Node::decode(data).map_err(|reason| ReadError::Node { cid, reason })?;
    let unixfs = node.data.as_ref().ok_or(super::DataError::Missing).and_then(UnixFs::decode);
    let unixfs = unixfs.map_err(|reason| ReadError::Data { cid, reason })?;
    Ok((node, unixfs))
}

/// The content of the file `cid`, in order, block by block, [`PREFETCH`] of them fetched ahead. Files over `max_bytes`
/// are refused before any content comes. Dropping the stream ends all fetching.
pub fn read<'a>(
    source: &'a dyn BlockSource,
    cid: Cid,
    max_bytes: u64,
) -> impl Stream<Item = Result<Bytes, ReadError>> + Send + 'a {
    chunks(source, cid, 0..u64::MAX, max_bytes)
}

/// The bytes `range` of the file `cid`; blocks outside it are not fetched. A range past the end yields what there is.
pub fn read_range<'a>(
    source: &'a dyn BlockSource,
    cid: Cid,
    range: Range<u64>,
) -> impl Stream<Item = Result<Bytes, ReadError>> + Send + 'a {
    chunks(source, cid, range, u64::MAX)
}

/// The whole content of the file `cid`, at most `max_bytes`.
pub async fn read_all(source: &dyn BlockSource, cid: Cid, max_bytes: u64) -> Result<Vec<u8>, ReadError> {
    let mut content = Vec::new();
    let mut chunks = std::pin::pin!(read(source, cid, max_bytes));
    while let Some(chunk) = chunks.next().await {
        content.extend_from_slice(&chunk?);
    }
    Ok(content)
}

pub(super) struct Expected {
    /// Where in the file it begins.
    start: u64,
    /// As the parent says; the root has none.
    bytes: Option<u64>,
    depth: usize,
}

fn chunks<'a>(
    source: &'a dyn BlockSource,
    cid: Cid,
    range: Range<u64>,
    max_bytes: u64,
) -> impl Stream<Item = Result<Bytes, ReadError>> + Send + 'a {
    let chunks = Chunks::new(Arc::new(move |cid| source.block(cid)), cid, range, max_bytes);
    let parts = stream::try_unfold(chunks, |mut chunks| async move {
        let content = chunks.next(u64::MAX, 0).await?;
        Ok::<_, ReadError>(content.map(|content| (content, chunks)))
    });
    parts.try_filter(|content| std::future::ready(!content.is_empty()))
}

/// The content of a file within a range, as it is asked for.
pub(super) struct Chunks<'a> {
    frontier: Frontier<'a, Expected>,
    range: Range<u64>,
    max_bytes: u64,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(fetch: Fetch<'a>, cid: Cid, range: Range<u64>, max_bytes: u64) -> Self {
        let mut frontier = Frontier::fetching(fetch, PREFETCH);
        frontier.push_front([(cid, Expected { start: 0, bytes: None, depth: 0 })].into_iter());
        Self { frontier, range, max_bytes }
    }

    /// What the next node has of it, perhaps nothing; `None` at the end. Fetches what begins before `until`, and `ahead`
    /// blocks after that. Cancel-safe.
    pub(super) async fn next(&mut self, until: u64, ahead: usize) -> Result<Option<Bytes>, ReadError> {
        let next = self.frontier.next_of(|expected| expected.start < until, ahead).await;
        let Some((cid, expected, fetched)) = next else { return Ok(None) };
        let part = Part::of(cid, &fetched?)?;
        step(&mut self.frontier, cid, &expected, part, &self.range, self.max_bytes).map(Some)
    }
}

/// Checks `part` against what its parent said, queues its children, and returns its own content within `range`.
fn step(
    frontier: &mut Frontier<'_, Expected>,
    cid: Cid,
    expected: &Expected,
    part: Part,
    range: &Range<u64>,
    max_bytes: u64,
) -> Result<Bytes, ReadError> {
    if expected.bytes.is_some_and(|bytes| bytes != part.bytes) {
        return Err(ReadError::Malformed { cid, what: "its size is not what its parent says" });
    }
    if part.bytes > max_bytes {
        return Err(ReadError::OverLimit { cid, what: "bytes", limit: max_bytes });
    }
    if expected.depth >= MAX_DEPTH {
        return Err(ReadError::OverLimit { cid, what: "levels", limit: MAX_DEPTH as u64 });
    }
    let within = |start: u64, bytes: u64| start < range.end && start + bytes > range.start;
    let mut start = expected.start + part.data.len() as u64;
    let mut children = Vec::new();
    for (cid, bytes) in part.children {
        if within(start, bytes) {
            children.push((cid, Expected { start, bytes: Some(bytes), depth: expected.depth + 1 }));
        }
        start += bytes;
    }
    frontier.push_front(children.into_iter());
    let clip = |at: u64| at.saturating_sub(expected.start).min(part.data.len() as u64) as usize;
    let (from, to) = (clip(range.start), clip(range.end));
    Ok(if from < to { part.data.slice(from..to) } else { Bytes::new() })
}

/// A node of a file.
struct Part {
    data: Bytes,
    children: Vec<(Cid, u64)>,
    /// Of its content and its children's.
    bytes: u64,
}

impl Part {
    fn of(cid: Cid, block: &Bytes) -> Result<Self, ReadError> {
        if cid.codec() == RAW {
            return Ok(Self { data: block.clone(), children: Vec::new(), bytes: block.len() as u64 });
        }
        let (node, unixfs) = unixfs_node(cid, block)?;
        if !matches!(unixfs.kind, Kind::File | Kind::Raw) {
            return Err(ReadError::NotAFile { cid });
        }
        let malformed = |what| ReadError::Malformed { cid, what };
        if node.links.len() != unixfs.blocksizes.len() {
            return Err(malformed("it has not one size for each link"));
        }
        // A child without content could only serve to make reading endless.
        if unixfs.blocksizes.contains(&0) {
            return Err(malformed("a part of a file is empty"));
        }
        let data = unixfs.data.unwrap_or_default();
        let bytes = unixfs.blocksizes.iter().try_fold(data.len() as u64, |sum, size| sum.checked_add(*size));
        let bytes = bytes.filter(|bytes| unixfs.filesize.is_none_or(|claimed| claimed == *bytes));
        let bytes = bytes.ok_or(malformed("its sizes do not add up"))?;
        let children = node.links.iter().map(|link| link.cid).zip(unixfs.blocksizes).collect();
        Ok(Self { data, children, bytes })
    }
}
