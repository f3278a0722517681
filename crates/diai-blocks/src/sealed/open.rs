use std::{fmt, ops::Range};

use bytes::{Bytes, BytesMut};
use cid::Cid;
use sha2::{Digest, Sha256};

use super::{
    CONTENT, GRANTS, Keys, MAX_OLDER, Manifest, OpenError, chunks, grants,
    keys::ContentKey,
    manifest::{Extent, head_lengths},
    parts::{Cursor, Part},
};
use crate::{
    BlockSource,
    unixfs::{self, FolderEntry, ReadError},
};

/// Opens the sealed content `root`, whose blocks come from `source`, with a grant for one of `keys` (an `&Identity`, or
/// [`Keys`] for the groups it is a member of too). Reads the root, the grants and the manifest.
///
/// Cancel-safe.
pub async fn open<'a>(
    source: &'a dyn BlockSource,
    keys: impl Into<Keys>,
    root: Cid,
) -> Result<SealedReader<'a>, OpenError> {
    let keys = keys.into();
    let links = Links::read(source, root).await?;
    let key = links.key(source, &keys, root).await?;
    SealedReader::begin(source, root, links, key).await
}

/// Proof that one of `keys` can open `root`, bound to `context`: whoever can open it too gets the same, and nobody else.
/// It tells nothing of the key, and is of no use for another context. Reads the grants only.
///
/// Cancel-safe.
pub async fn access_proof(
    source: &dyn BlockSource,
    keys: impl Into<Keys>,
    root: Cid,
    context: &[u8; 32],
) -> Result<[u8; 32], OpenError> {
    let keys = keys.into();
    let links = Links::read(source, root).await?;
    let key = links.key(source, &keys, root).await?;
    let prover = Sha256::new().chain_update(b"diai/sealed-access/2").chain_update(key.as_bytes()).finalize();
    let proof = Sha256::new().chain_update(prover).chain_update(context).chain_update(links.content.to_bytes());
    Ok(proof.finalize().into())
}

/// Whether `cid` has the form of sealed content. Reads one block.
pub async fn is_sealed(source: &dyn BlockSource, cid: Cid) -> Result<bool, ReadError> {
    match unixfs::stat(source, cid).await {
        Ok(stat) if stat.kind == unixfs::Kind::Folder => {}
        Ok(_) | Err(ReadError::Codec { .. }) => return Ok(false),
        Err(error) => return Err(error),
    }
    match unixfs::entries(source, cid, MAX_LINKS).await {
        Err(ReadError::OverLimit { .. }) => Ok(false),
        entries => Ok(Links::of(entries?).is_some()),
    }
}

/// Links of a root.
const MAX_LINKS: usize = 2 + MAX_OLDER;

/// Name of the `number`-th older content in the root.
pub(super) fn older_name(number: usize) -> String {
    format!("older-{number:02}")
}

/// What a root leads to.
pub(super) struct Links {
    content: Cid,
    content_tsize: u64,
    grants: Cid,
    older: Vec<FolderEntry>,
}

impl Links {
    async fn read(source: &dyn BlockSource, root: Cid) -> Result<Self, OpenError> {
        let why = "it is no folder of a content, grants and at most 32 older contents";
        let entries = unixfs::entries(source, root, MAX_LINKS).await.map_err(|error| match error {
            ReadError::Source(error) => OpenError::Read(error.into()),
            _ => OpenError::NotSealed { root, why },
        })?;
        Self::of(entries).ok_or(OpenError::NotSealed { root, why })
    }

    fn of(entries: Vec<FolderEntry>) -> Option<Self> {
        let (mut content, mut grants, mut older) = (None, None, Vec::new());
        for entry in entries {
            match entry.name.as_str() {
                CONTENT => content = Some((entry.cid, entry.tsize)),
                GRANTS => grants = Some(entry.cid),
                _ => older.push(entry),
            }
        }
        let numbered = older.iter().enumerate().all(|(index, entry)| entry.name == older_name(index));
        let (content, content_tsize) = content?;
        Some(Self { content, content_tsize, grants: grants?, older }).filter(|_| numbered)
    }

    async fn key(&self, source: &dyn BlockSource, keys: &Keys, root: Cid) -> Result<ContentKey, OpenError> {
        let grants = source.block(self.grants).await.map_err(ReadError::from)?;
        grants::find(keys, root, &self.content, &grants)
    }
}

/// Sealed content being read, in constant memory: in order, or anywhere.
pub struct SealedReader<'a> {
    pub(super) root: Cid,
    pub(super) manifest: Manifest,
    pub(super) cursor: Cursor<'a>,
    /// Bytes of all blocks of each part.
    pub(super) tsizes: Vec<u64>,
    /// Index of the entry being read and of its extent, and how much of that was.
    entry: usize,
    extent: usize,
    read: u64,
}

impl fmt::Debug for SealedReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedReader").field("root", &self.root).field("entry", &self.entry).finish_non_exhaustive()
    }
}

impl<'a> SealedReader<'a> {
    async fn begin(source: &'a dyn BlockSource, root: Cid, links: Links, key: ContentKey) -> Result<Self, OpenError> {
        let tampered = || OpenError::Tampered { root, chunk: 0 };
        let sealed_bytes = unixfs::stat(source, links.content).await?.bytes;
        let plain_bytes = chunks::plain_bytes(sealed_bytes).ok_or_else(tampered)?;
        let content = Part { cid: links.content, key, plain_bytes, head_bytes: 0 };
        let mut cursor = Cursor::new(source, root, [content.clone()].into());
        let length = read_exactly(&mut cursor, 0, 4).await?;
        let length = [length[0], length[1], length[2], length[3]];
        let (manifest_bytes, head_bytes) = head_lengths(length).ok_or_else(tampered)?;
        let encoded = read_exactly(&mut cursor, 4, manifest_bytes).await?;
        let manifest = Manifest::decode(encoded).ok_or_else(tampered)?;
        // The padding is a function of the rest, so a length of another class was not made by the rules.
        if manifest.plain_bytes(head_bytes as u64) != plain_bytes {
            return Err(tampered());
        }
        if manifest.older.iter().any(|older| older.is(&content.cid, &content.key)) {
            return Err(tampered());
        }
        if !manifest.older.iter().map(|older| older.cid).eq(links.older.iter().map(|entry| entry.cid)) {
            return Err(OpenError::NotSealed { root, why: "it does not lead to the older contents of its manifest" });
        }
        let older = manifest.older.iter().map(|older| Part {
            cid: older.cid,
            key: older.key.clone(),
            plain_bytes: older.plain_bytes,
            head_bytes: older.head_bytes,
        });
        let parts = [Part { head_bytes: head_bytes as u64, ..content }].into_iter().chain(older).collect();
        let cursor = cursor.with_parts(parts);
        let tsizes = [links.content_tsize].into_iter().chain(links.older.iter().map(|entry| entry.tsize)).collect();
        Ok(Self { root, manifest, cursor, tsizes, entry: 0, extent: 0, read: 0 })
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The next piece of content, at most one chunk, and the index of the entry in the manifest that it belongs to;
    /// `None` at the end. Entries without content are passed over. Not cancel-safe: a piece may be lost.
    pub async fn next(&mut self) -> Result<Option<(usize, Bytes)>, OpenError> {
        let extent = loop {
            let Some(entry) = self.manifest.entries.get(self.entry) else { return Ok(None) };
            match entry.extents.get(self.extent) {
                Some(extent) if self.read < extent.bytes => break *extent,
                Some(_) => self.extent += 1,
                None => (self.entry, self.extent) = (self.entry + 1, 0),
            }
            self.read = 0;
        };
        let ahead = if self.read == 0 { self.run_bytes() } else { extent.bytes };
        let piece = self.cursor.piece(&extent, self.read, ahead).await?;
        self.read += piece.len() as u64;
        Ok(Some((self.entry, piece)))
    }

    /// Bytes from the beginning of the current extent to the end of the last that follows it in the same part.
    fn run_bytes(&self) -> u64 {
        let rest = self.manifest.entries.iter().skip(self.entry);
        let mut extents = rest.flat_map(|entry| &entry.extents).skip(self.extent);
        let Some(first) = extents.next() else { return 0 };
        let follow = |end: u64, next: &Extent| (next.part == first.part && next.at == end).then(|| end + next.bytes);
        let mut end = first.at + first.bytes;
        // So far is fetched ahead anyway; to look further would take long where there are many.
        for next in extents.take(MOST_AHEAD) {
            match follow(end, next) {
                Some(further) => end = further,
                None => break,
            }
        }
        end - first.at
    }

    /// The bytes `range` of the file at `path`; chunks outside it are neither fetched nor opened. A range past the end
    /// yields what there is. Cancel-safe.
    pub async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, OpenError> {
        let index = self.manifest.entries.iter().position(|entry| entry.path == path && !entry.folder);
        let index = index.ok_or_else(|| OpenError::NoEntry { root: self.root, path: path.to_owned() })?;
        let mut cursor = self.cursor.fresh();
        gather(&mut cursor, &self.manifest.entries[index].extents, range, false).await
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
}

/// Extents that are looked at to find out how far to fetch ahead.
const MOST_AHEAD: usize = 256;

/// The bytes `range` of what `extents` are. What follows is fetched ahead if `ahead`.
pub(super) async fn gather(
    cursor: &mut Cursor<'_>,
    extents: &[Extent],
    range: Range<u64>,
    ahead: bool,
) -> Result<Bytes, OpenError> {
    let (mut start, mut gathered) = (0u64, BytesMut::new());
    for extent in extents {
        let (mut from, to) = (range.start.saturating_sub(start), range.end.saturating_sub(start).min(extent.bytes));
        let clipped = Extent { bytes: to, ..*extent };
        while from < to {
            let piece = cursor.piece(&clipped, from, if ahead { extent.bytes } else { to }).await?;
            from += piece.len() as u64;
            if gathered.is_empty() && start + from >= range.end {
                return Ok(piece);
            }
            gathered.extend_from_slice(&piece);
        }
        start += extent.bytes;
    }
    Ok(gathered.freeze())
}

async fn read_exactly(cursor: &mut Cursor<'_>, from: u64, bytes: usize) -> Result<Bytes, OpenError> {
    let all = Extent { part: 0, at: from, bytes: bytes as u64 };
    gather(cursor, &[all], 0..bytes as u64, false).await
}
