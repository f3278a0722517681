//! A newer version of sealed content, for other readers or with other content: what has not changed is referred to, not
//! sealed again.

use std::collections::HashMap;

use bytes::Bytes;
use cid::Cid;
use diai_core::{World, offload};

use super::{
    Keys, MAX_EXTENTS, MAX_OLDER, Manifest, ManifestEntry, OpenError, SealError, SealOptions, Sealed, SealedReader,
    Source,
    manifest::{Extent, Older},
    open::{gather, open},
    parts::Cursor,
    plan::{Content, Opened, Planned, ReadFailed, plan},
    seal::{Draft, readers},
    stream::Piece,
};
use crate::BlockStore;

/// What is compared at a time.
const COMPARED_BYTES: u64 = 1 << 20;

/// Seals a newer version of the sealed content `previous`, whose blocks are in `store` and which one of `keys` opens, for
/// the readers of `options` and no others: `source`, or, if that is `None`, the same content as before.
///
/// What is in `previous` too, at the same place of the same path, is not sealed again but stays under its key: who could
/// read it before still can. All else, the names included, is sealed under a new key that only the readers of now have.
/// Contents of which less than half is still in use are sealed anew, if `source` is given. New readers get the keys of the
/// contents that are kept, and with them of those that these refer to in turn. Use [`seal`](super::seal()) with
/// [`Keying::Random`](super::Keying::Random) where nothing of before may be shared.
///
/// Reads both `previous` and `source`. Cancel-safety: as [`seal`](super::seal()).
pub async fn reseal(
    world: &World,
    store: &BlockStore,
    keys: impl Into<Keys>,
    previous: Cid,
    source: Option<Source>,
    options: &SealOptions,
) -> Result<Sealed, SealError> {
    let keys = keys.into();
    let readers = readers(world, &keys.identity, options)?;
    let guard = store.guard_root(previous);
    let before = open(store, keys, previous).await.map_err(failed)?;
    let draft = match source {
        None => Version::unchanged(&before),
        Some(source) => {
            let planned = offload(&*world.offload, move || plan(source)).await.map_err(|_| SealError::Closed)??;
            Version::compared(world, &before, planned).await?
        }
    };
    draft.keeping_few(&before)?.draft(&before).seal(world, store, &readers, &options.keying, guard).await
}

fn failed(error: OpenError) -> SealError {
    SealError::Previous { reason: Box::new(error) }
}

/// What an entry's content is made of.
struct Slice {
    /// Where it was before: part and place there; `None` if it is new.
    before: Option<(usize, u64)>,
    /// Where it is in the file.
    at: u64,
    bytes: u64,
}

struct Entry {
    path: String,
    folder: bool,
    /// Of what is there now; `None` if nobody gave it.
    content: Option<Content>,
    slices: Vec<Slice>,
}

impl Entry {
    fn add(&mut self, before: Option<(usize, u64)>, bytes: u64) {
        let at = self.slices.last().map_or(0, |last| last.at + last.bytes);
        if let Some(last) = self.slices.last_mut() {
            let follows = match (last.before, before) {
                (None, None) => true,
                (Some((part, start)), Some(next)) => next == (part, start + last.bytes),
                _ => false,
            };
            if follows {
                last.bytes += bytes;
                return;
            }
        }
        self.slices.push(Slice { before, at, bytes });
    }

    /// Without what was before in parts that are not `kept`.
    fn keeping(self, kept: &[bool]) -> Self {
        let mut entry = Self { slices: Vec::new(), ..self };
        for slice in self.slices {
            entry.add(slice.before.filter(|(part, _)| kept[*part]), slice.bytes);
        }
        entry
    }
}

/// The newer version.
struct Version {
    entries: Vec<Entry>,
    /// Whether all contents are there, so that any may be sealed anew.
    complete: bool,
}

impl Version {
    fn unchanged(before: &SealedReader<'_>) -> Self {
        let entry = |entry: &ManifestEntry| {
            let mut same = Entry { path: entry.path.clone(), folder: entry.folder, content: None, slices: Vec::new() };
            entry.extents.iter().for_each(|extent| same.add(Some((extent.part, extent.at)), extent.bytes));
            same
        };
        Self { entries: before.manifest.entries.iter().map(entry).collect(), complete: false }
    }

    async fn compared(world: &World, before: &SealedReader<'_>, planned: Vec<Planned>) -> Result<Self, SealError> {
        let old = before.manifest.entries.iter().filter(|entry| entry.bytes > 0);
        let old: HashMap<&str, &ManifestEntry> = old.map(|entry| (entry.path.as_str(), entry)).collect();
        let (mut entries, mut cursor) = (Vec::with_capacity(planned.len()), before.cursor.fresh());
        for Planned { path, folder, content } in planned {
            let same = old.get(path.as_str()).copied().filter(|_| !folder);
            let mut entry = Entry { path, folder, content: Some(content.clone()), slices: Vec::new() };
            match same {
                Some(same) => compare(world, &mut cursor, &content, same, &mut entry).await?,
                None if content.bytes() > 0 => entry.add(None, content.bytes()),
                None => {}
            }
            entries.push(entry);
        }
        Ok(Self { entries, complete: true })
    }

    fn keeping(self, kept: &[bool]) -> Self {
        Self { entries: self.entries.into_iter().map(|entry| entry.keeping(kept)).collect(), ..self }
    }

    /// Bytes still in use of each part of before.
    fn live(&self, parts: usize) -> Vec<u64> {
        let mut live = vec![0; parts];
        for (part, bytes) in self.slices().filter_map(|slice| Some((slice.before?.0, slice.bytes))) {
            live[part] += bytes;
        }
        live
    }

    fn slices(&self) -> impl Iterator<Item = &Slice> {
        self.entries.iter().flat_map(|entry| &entry.slices)
    }

    /// Keeps parts that are worth it, as far as limits allow.
    fn keeping_few(self, before: &SealedReader<'_>) -> Result<Self, SealError> {
        let parts = before.cursor.parts();
        let live = self.live(parts.len());
        if !self.complete {
            let used = live.iter().filter(|bytes| **bytes > 0).count();
            return if used <= MAX_OLDER { Ok(self) } else { Err(SealError::TooManyVersions { limit: MAX_OLDER }) };
        }
        let worth =
            |part: usize| live[part] > 0 && live[part] >= (parts[part].plain_bytes - parts[part].head_bytes) / 2;
        let mut by_use: Vec<usize> = (0..parts.len()).filter(|part| worth(*part)).collect();
        by_use.sort_by_key(|part| std::cmp::Reverse(live[*part]));
        by_use.truncate(MAX_OLDER);
        let mut kept = vec![false; parts.len()];
        by_use.into_iter().for_each(|part| kept[part] = true);
        let version = self.keeping(&kept);
        // So scattered that it is better sealed anew.
        if version.slices().count() > MAX_EXTENTS {
            Ok(version.keeping(&vec![false; parts.len()]))
        } else {
            Ok(version)
        }
    }

    fn draft(self, before: &SealedReader<'_>) -> Draft {
        let parts = before.cursor.parts();
        let live = self.live(parts.len());
        let used: Vec<usize> = (0..parts.len()).filter(|part| live[*part] > 0).collect();
        let number = |part: usize| used.iter().position(|used| *used == part).map_or(0, |index| index + 1);
        let (mut entries, mut pieces, mut end) = (Vec::new(), Vec::new(), 0u64);
        for Entry { path, folder, content, slices } in self.entries {
            let (mut extents, mut total) = (Vec::with_capacity(slices.len()), 0);
            for Slice { before, at, bytes } in slices {
                total += bytes;
                match (before, &content) {
                    (Some((part, at)), _) => extents.push(Extent { part: number(part), at, bytes }),
                    (None, Some(content)) => {
                        extents.push(Extent { part: 0, at: end, bytes });
                        pieces.push(Piece { content: content.clone(), at, bytes });
                        end += bytes;
                    }
                    // Nothing is new where no content was given.
                    (None, None) => {}
                }
            }
            entries.push(ManifestEntry { path, bytes: total, folder, extents });
        }
        let older = used.iter().map(|part| {
            let part = &parts[*part];
            Older { cid: part.cid, key: part.key.clone(), plain_bytes: part.plain_bytes, head_bytes: part.head_bytes }
        });
        let older = older.collect();
        let manifest = Manifest { sealed_at: diai_core::WallTime::default(), entries, older };
        Draft { manifest, pieces, older_tsizes: used.iter().map(|part| before.tsizes[*part]).collect() }
    }
}

/// Adds to `entry` what `content` has in common with `same`, and what not.
async fn compare(
    world: &World,
    cursor: &mut Cursor<'_>,
    content: &Content,
    same: &ManifestEntry,
    entry: &mut Entry,
) -> Result<(), SealError> {
    let pool = &*world.offload;
    let opening = content.clone();
    let opened = offload(pool, move || opening.open()).await.map_err(|_| SealError::Closed)??;
    let mut at = 0;
    while at < content.bytes() {
        let bytes = COMPARED_BYTES.min(content.bytes() - at);
        let equal = if at + bytes <= same.bytes {
            let old = gather(cursor, &same.extents, at..at + bytes, true).await.map_err(failed)?;
            let opened = opened.clone();
            offload(pool, move || equals(&opened, at, &old)).await.map_err(|_| SealError::Closed)??
        } else {
            false
        };
        if equal {
            within(&same.extents, at, bytes).for_each(|(part, at, bytes)| entry.add(Some((part, at)), bytes));
        } else {
            entry.add(None, bytes);
        }
        at += bytes;
    }
    Ok(())
}

fn equals(opened: &Opened, at: u64, old: &Bytes) -> Result<bool, ReadFailed> {
    let mut new = Vec::with_capacity(old.len());
    opened.append(at, old.len(), &mut new)?;
    Ok(new == *old)
}

/// Where `bytes` bytes of a file from `at` on are: part, place, bytes.
fn within(extents: &[Extent], at: u64, bytes: u64) -> impl Iterator<Item = (usize, u64, u64)> {
    let starts = extents.iter().scan(0u64, |end, extent| {
        let start = *end;
        *end += extent.bytes;
        Some((start, extent))
    });
    starts.filter_map(move |(start, extent)| {
        let (from, to) = (at.max(start), (at + bytes).min(start + extent.bytes));
        (from < to).then(|| (extent.part, extent.at + from - start, to - from))
    })
}
