use bytes::Bytes;
use cid::Cid;
use diai_core::{
    WallTime,
    bounded::{Bounds, Field, decode},
};
use prost::Message;

use super::{MAX_ENTRIES, MAX_PATH_BYTES};
use crate::unixfs::{MAX_DEPTH, check_name};

mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
    include!(concat!(env!("OUT_DIR"), "/diai.sealed.v1.rs"));
}

const ENTRY: Bounds =
    Bounds::new("manifest entry", &[Field::bytes(1, 1, MAX_PATH_BYTES), Field::scalar(2), Field::scalar(3)]);
const MANIFEST: Bounds = Bounds::new("manifest", &[Field::scalar(1), Field::message(2, MAX_ENTRIES, &ENTRY)]);

/// What sealed content holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// When it was sealed, by the clock of who sealed it.
    pub sealed_at: WallTime,
    /// Files and folders, in the order of their contents. Paths are relative, safe and unique.
    pub entries: Vec<ManifestEntry>,
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
}

impl Manifest {
    /// Bytes of all files.
    pub fn content_bytes(&self) -> u64 {
        self.entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.bytes))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let entry =
            |entry: &ManifestEntry| proto::Entry { path: entry.path.clone(), bytes: entry.bytes, folder: entry.folder };
        let entries = self.entries.iter().map(entry).collect();
        proto::Manifest { sealed_at_ms: self.sealed_at.as_unix_ms(), entries }.encode_to_vec()
    }

    /// Decodes what stands at the beginning of the plaintext. `None` if the bytes are no manifest, or hold paths that
    /// are unsafe or stand twice, or sizes beyond all reason.
    pub fn decode(bytes: Bytes) -> Option<Self> {
        let manifest: proto::Manifest = decode(bytes, &MANIFEST).ok()?;
        let entry = |entry: proto::Entry| ManifestEntry { path: entry.path, bytes: entry.bytes, folder: entry.folder };
        let entries: Vec<_> = manifest.entries.into_iter().map(entry).collect();
        check_paths(entries.iter().map(|entry| entry.path.as_str())).ok()?;
        let total = entries.iter().try_fold(0u64, |sum, entry| sum.checked_add(entry.bytes))?;
        let plausible = total < 1 << 56 && entries.iter().all(|entry| !entry.folder || entry.bytes == 0);
        plausible.then_some(Self { sealed_at: WallTime::from_unix_ms(manifest.sealed_at_ms), entries })
    }
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

    fn manifest(paths: &[&str]) -> Manifest {
        let entry = |path: &&str| ManifestEntry { path: (*path).to_owned(), bytes: 5, folder: false };
        Manifest { sealed_at: WallTime::from_unix_ms(1_700_000_000_000), entries: paths.iter().map(entry).collect() }
    }

    #[test]
    fn a_manifest_comes_back_as_it_was() {
        for paths in [&["a/b.txt", "a/c"][..], &[""], &[]] {
            let manifest = manifest(paths);
            assert_eq!(Manifest::decode(manifest.encode().into()), Some(manifest));
        }
    }

    #[test]
    fn unsafe_and_double_paths_and_impossible_sizes_are_refused() {
        for paths in [&["../a"][..], &["/a"], &["a//b"], &["a/./b"], &["a", "a"], &["", "a"], &["a\\b"], &["a\0"]] {
            assert_eq!(Manifest::decode(manifest(paths).encode().into()), None, "{paths:?}");
        }
        let mut huge = manifest(&["a", "b"]);
        huge.entries[0].bytes = u64::MAX;
        assert_eq!(Manifest::decode(huge.encode().into()), None);
        assert_eq!(Manifest::decode(Bytes::from_static(&[0x12, 0xff])), None);
        assert_eq!(Manifest::decode(manifest(&["a".repeat(MAX_PATH_BYTES + 1).as_str()]).encode().into()), None);
    }
}
