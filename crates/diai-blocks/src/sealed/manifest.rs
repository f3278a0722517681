use bytes::Bytes;
use cid::Cid;
use diai_core::{
    WallTime,
    bounded::{Bounds, Field, decode},
};
use prost::Message;

use super::{
    MAX_ENTRIES, MAX_EXTENTS, MAX_MANIFEST_BYTES, MAX_OLDER, MAX_PATH_BYTES, chunks::padded_bytes, keys::ContentKey,
};
use crate::unixfs::{MAX_DEPTH, check_name};

pub(super) mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
    include!(concat!(env!("OUT_DIR"), "/diai.sealed.v2.rs"));
}

/// The head is filled up to a multiple of this, so that the lengths of names do not show in that of the whole.
const HEAD_STEP_BYTES: usize = 512;
/// Before the manifest stands its length.
const LENGTH_BYTES: usize = 4;
const MAX_CONTENT_BYTES: u64 = 1 << 56;

const ENTRY: Bounds =
    Bounds::new("manifest entry", &[Field::bytes(1, 1, MAX_PATH_BYTES), Field::scalar(2), Field::scalar(3)]);
const EXTENT: Bounds = Bounds::new("extent", &[Field::scalar(1), Field::scalar(2), Field::scalar(3)]);
const OLDER: Bounds =
    Bounds::new("older content", &[Field::bytes(1, 1, 64), Field::bytes(2, 1, 32), Field::scalar(3), Field::scalar(4)]);
const MANIFEST: Bounds = Bounds::new(
    "manifest",
    &[
        Field::scalar(1),
        Field::message(2, MAX_ENTRIES, &ENTRY),
        Field::message(3, MAX_EXTENTS, &EXTENT),
        Field::message(4, MAX_OLDER, &OLDER),
    ],
);

/// What sealed content holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// When it was sealed, by the clock of who sealed it; zero if it is convergent.
    pub sealed_at: WallTime,
    /// Files and folders. Paths are relative, safe and unique.
    pub entries: Vec<ManifestEntry>,
    /// Contents sealed before, of which some is part of this version too.
    pub(super) older: Vec<Older>,
}

/// One file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestEntry {
    /// Separated by slashes; empty for content that is one file without a name.
    pub path: String,
    /// Bytes of content; zero for a folder.
    pub bytes: u64,
    /// Whether it is a folder.
    pub folder: bool,
    pub(super) extents: Vec<Extent>,
}

/// Consecutive bytes of an entry's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Zero for the content that the manifest stands in, `k` for the `k`-th older one.
    pub(super) part: usize,
    /// Counted from the end of that content's head.
    pub(super) at: u64,
    pub(super) bytes: u64,
}

/// A content that was sealed before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Older {
    pub(super) cid: Cid,
    pub(super) key: ContentKey,
    /// Of its plaintext, head and padding included.
    pub(super) plain_bytes: u64,
    pub(super) head_bytes: u64,
}

impl Manifest {
    /// Bytes of all files.
    pub fn content_bytes(&self) -> u64 {
        self.entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.bytes))
    }

    /// Bytes of all files that stand in `part`.
    pub(super) fn bytes_in(&self, part: usize) -> u64 {
        let extents = self.entries.iter().flat_map(|entry| &entry.extents).filter(|extent| extent.part == part);
        extents.fold(0, |sum, extent| sum.saturating_add(extent.bytes))
    }

    /// What stands before the contents: length, manifest, zeros. `None` if it is too long.
    pub(super) fn head(&self) -> Option<Vec<u8>> {
        let manifest = self.encode();
        if manifest.len() > MAX_MANIFEST_BYTES {
            return None;
        }
        let mut head = (manifest.len() as u32).to_le_bytes().to_vec();
        head.extend_from_slice(&manifest);
        head.resize(head.len().next_multiple_of(HEAD_STEP_BYTES), 0);
        Some(head)
    }

    /// Bytes of the plaintext whose head has `head_bytes`.
    pub(super) fn plain_bytes(&self, head_bytes: u64) -> u64 {
        padded_bytes(head_bytes.saturating_add(self.bytes_in(0)))
    }

    fn encode(&self) -> Vec<u8> {
        let entry = |entry: &ManifestEntry| proto::Entry {
            path: entry.path.clone(),
            folder: entry.folder,
            extents: entry.extents.len() as u32,
        };
        let extent = |extent: &Extent| proto::Extent { part: extent.part as u32, at: extent.at, bytes: extent.bytes };
        let older = |older: &Older| proto::Older {
            cid: older.cid.to_bytes().into(),
            key: Bytes::copy_from_slice(older.key.as_bytes()),
            plain_bytes: older.plain_bytes,
            head_bytes: older.head_bytes,
        };
        let manifest = proto::Manifest {
            sealed_at_ms: self.sealed_at.as_unix_ms(),
            entries: self.entries.iter().map(entry).collect(),
            extents: self.entries.iter().flat_map(|entry| &entry.extents).map(extent).collect(),
            older: self.older.iter().map(older).collect(),
        };
        manifest.encode_to_vec()
    }

    /// Decodes what stands at the beginning of the plaintext. `None` if the bytes are no manifest, or hold paths that
    /// are unsafe or stand twice, or contents that cannot be where they are said to be, or twice as much as there is, or an
    /// older content twice.
    pub fn decode(bytes: Bytes) -> Option<Self> {
        let manifest: proto::Manifest = decode(bytes, &MANIFEST).ok()?;
        let older: Vec<_> = manifest.older.into_iter().map(Older::decode).collect::<Option<_>>()?;
        if older.iter().enumerate().any(|(index, one)| older[..index].iter().any(|other| other.is(&one.cid, &one.key)))
        {
            return None;
        }
        let mut extents = manifest.extents.into_iter();
        let mut entries = Vec::with_capacity(manifest.entries.len());
        for proto::Entry { path, folder, extents: count } in manifest.entries {
            let of_entry: Vec<_> =
                (0..count).map(|_| extents.next().and_then(Extent::decode)).collect::<Option<_>>()?;
            if folder && count > 0 {
                return None;
            }
            let bytes = of_entry.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.bytes))?;
            entries.push(ManifestEntry { path, bytes, folder, extents: of_entry });
        }
        check_paths(entries.iter().map(|entry| entry.path.as_str())).ok()?;
        let sealed_at = WallTime::from_unix_ms(manifest.sealed_at_ms);
        let manifest = Self { sealed_at, entries, older };
        (extents.next().is_none() && manifest.fits()).then_some(manifest)
    }

    /// Whether all contents lie in parts that there are, and no byte serves twice: otherwise little sealed content could
    /// fill a disk.
    fn fits(&self) -> bool {
        let extents: Vec<_> = self.entries.iter().flat_map(|entry| &entry.extents).collect();
        let mut spans: Vec<_> = extents.iter().map(|extent| (extent.part, extent.at, extent.bytes)).collect();
        spans.sort_unstable();
        let apart = spans.array_windows().all(|[a, b]: &[_; 2]| a.0 != b.0 || a.1 + a.2 <= b.1);
        let within = spans.iter().all(|(part, at, bytes)| match part.checked_sub(1) {
            None => true,
            Some(index) => self
                .older
                .get(index)
                .is_some_and(|older| at + bytes <= older.plain_bytes.saturating_sub(older.head_bytes)),
        });
        // The first part has no gaps: how long it is follows from the rest.
        let first = spans.iter().take_while(|(part, ..)| *part == 0).map(|(_, at, bytes)| at + bytes).max();
        apart && within && first.unwrap_or(0) == self.bytes_in(0) && self.content_bytes() < MAX_CONTENT_BYTES
    }
}

impl Extent {
    fn decode(extent: proto::Extent) -> Option<Self> {
        let proto::Extent { part, at, bytes } = extent;
        let plausible = at < MAX_CONTENT_BYTES && (1..MAX_CONTENT_BYTES).contains(&bytes) && part as usize <= MAX_OLDER;
        plausible.then_some(Self { part: part as usize, at, bytes })
    }
}

impl Older {
    fn decode(older: proto::Older) -> Option<Self> {
        let proto::Older { cid, key, plain_bytes, head_bytes } = older;
        let plausible = plain_bytes < 2 * MAX_CONTENT_BYTES && head_bytes <= plain_bytes;
        let (cid, key) = (Cid::try_from(cid.as_ref()).ok()?, ContentKey::from_slice(&key)?);
        plausible.then_some(Self { cid, key, plain_bytes, head_bytes })
    }

    /// Whether it is the content `cid` under another codec, or, as another tree can stand above the same chunks, has its key:
    /// the same bytes would serve twice.
    pub(super) fn is(&self, cid: &Cid, key: &ContentKey) -> bool {
        self.cid.hash() == cid.hash() || self.key == *key
    }
}

/// Length of the manifest whose head begins with `bytes`, and of the head; `None` if it is too long.
pub(super) fn head_lengths(bytes: [u8; LENGTH_BYTES]) -> Option<(usize, usize)> {
    let manifest = u32::from_le_bytes(bytes) as usize;
    (manifest <= MAX_MANIFEST_BYTES).then(|| (manifest, (LENGTH_BYTES + manifest).next_multiple_of(HEAD_STEP_BYTES)))
}

/// Checks that each path stays inside, and stands once. The empty path may stand alone.
pub(super) fn check_paths<'a>(paths: impl Iterator<Item = &'a str>) -> Result<(), (String, &'static str)> {
    let mut all: Vec<_> = paths.collect();
    if all == [""] {
        return Ok(());
    }
    for path in &all {
        check_path(path).map_err(|why| ((*path).to_owned(), why))?;
    }
    all.sort_unstable();
    match all.array_windows().find(|[a, b]: &&[&str; 2]| a == b) {
        Some([path, _]) => Err(((*path).to_owned(), "it stands twice")),
        None => Ok(()),
    }
}

/// Checks that a path stays inside.
pub(crate) fn check_path(path: &str) -> Result<(), &'static str> {
    if path.len() > MAX_PATH_BYTES {
        return Err("it is longer than 1024 bytes");
    }
    if path.split('/').count() > MAX_DEPTH {
        return Err("it is deeper than 128 folders");
    }
    if path.split('/').any(|name| check_name(Cid::default(), name).is_err()) {
        return Err("a part of it is empty, `.`, `..`, reserved, or has a backslash or NUL in it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, at: u64, bytes: u64) -> ManifestEntry {
        let extents = (bytes > 0).then_some(Extent { part: 0, at, bytes });
        ManifestEntry { path: path.to_owned(), bytes, folder: false, extents: extents.into_iter().collect() }
    }

    fn manifest(paths: &[&str]) -> Manifest {
        let entries = paths.iter().enumerate().map(|(index, path)| file(path, 5 * index as u64, 5)).collect();
        Manifest { sealed_at: WallTime::from_unix_ms(1_700_000_000_000), entries, older: Vec::new() }
    }

    fn back(manifest: &Manifest) -> Option<Manifest> {
        Manifest::decode(manifest.encode().into())
    }

    /// One whose file is in an older content of 1,024 bytes, half of it head.
    fn with_older() -> Manifest {
        let mut manifest = manifest(&["a", "b"]);
        let key = ContentKey::from_slice(&[7; 32]).unwrap();
        manifest.older.push(Older { cid: Cid::default(), key, plain_bytes: 1024, head_bytes: 512 });
        manifest.entries[1].extents[0] = Extent { part: 1, at: 507, bytes: 5 };
        manifest
    }

    #[test]
    fn a_manifest_comes_back_as_it_was() {
        for paths in [&["a/b.txt", "a/c"][..], &[""], &[]] {
            let manifest = manifest(paths);
            assert_eq!(back(&manifest), Some(manifest));
        }
        assert_eq!(back(&with_older()), Some(with_older()));
    }

    #[test]
    fn unsafe_and_double_paths_are_refused() {
        for paths in [&["../a"][..], &["/a"], &["a//b"], &["a/./b"], &["a", "a"], &["", "a"], &["a\\b"], &["a\0"]] {
            assert_eq!(back(&manifest(paths)), None, "{paths:?}");
        }
        assert_eq!(Manifest::decode(Bytes::from_static(&[0x12, 0xff])), None);
        assert_eq!(back(&manifest(&["a".repeat(MAX_PATH_BYTES + 1).as_str()])), None);
    }

    #[test]
    fn contents_that_overlap_or_leave_gaps_or_lie_nowhere_are_refused() {
        let refused = |what: &str, change: &dyn Fn(&mut Manifest)| {
            let mut manifest = with_older();
            change(&mut manifest);
            assert_eq!(back(&manifest), None, "{what}");
        };
        refused("impossible size", &|manifest| manifest.entries[0].extents[0].bytes = u64::MAX);
        refused("no bytes", &|manifest| manifest.entries[0].extents[0].bytes = 0);
        refused("a gap", &|manifest| manifest.entries[0].extents[0].at = 1);
        refused("past the end", &|manifest| manifest.entries[1].extents[0].at = 508);
        refused("no such part", &|manifest| manifest.entries[1].extents[0].part = 2);
        refused("a folder with content", &|manifest| manifest.entries[0].folder = true);
        refused("no key", &|manifest| manifest.older[0].head_bytes = 1025);
        refused("twice the same", &|manifest| {
            let again = manifest.entries[1].extents[0];
            manifest.entries[0].extents.push(again);
        });
        let other = crate::Block::new(crate::RAW, "other").unwrap().cid;
        let key = ContentKey::from_slice(&[8; 32]).unwrap();
        refused("an older content twice", &|manifest| {
            let Some(first) = manifest.older.first().cloned() else { return };
            manifest.older.push(Older { key: key.clone(), ..first });
        });
        refused("the key of an older content twice", &|manifest| {
            let Some(first) = manifest.older.first().cloned() else { return };
            manifest.older.push(Older { cid: other, ..first });
        });
    }

    #[test]
    fn names_of_usual_lengths_do_not_change_the_length_of_the_head() {
        assert_eq!(manifest(&["a"]).head().unwrap().len(), 512);
        assert_eq!(manifest(&["a".repeat(400).as_str()]).head().unwrap().len(), 512);
        assert_eq!(manifest(&["a".repeat(600).as_str()]).head().unwrap().len(), 1024);
    }
}
