use std::ops::Range;

use bytes::Bytes;
use cid::Cid;
use diai_core::FileAttributes;

use super::{ImportError, Kind, Profile, ShardSize, UnixFs, hamt, leaf::node_block};
use crate::{
    Block,
    dag_pb::{Link, MAX_NAME_BYTES, Node},
};

/// A folder that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Folder {
    /// Its CID.
    pub root: Cid,
    /// Bytes of all blocks below it, itself included: for the link of a folder around it.
    pub tsize: u64,
    /// Its blocks, the root last: one, or many when it is sharded.
    pub blocks: Vec<Block>,
}

/// The folder of `entries`, in whatever order they come: a pure function of their set. `tsize` of each is that of what
/// it leads to. Names are not judged here, except that no two may be equal and each has 1 to 4,096 bytes.
///
/// Hashes on the calling thread, 1 ms for about 20,000 entries.
pub fn build_folder(entries: Vec<Link>, profile: &Profile) -> Result<Folder, ImportError> {
    build_folder_with(entries, FileAttributes::default(), profile)
}

/// The same with attributes of the folder itself.
pub fn build_folder_with(
    mut entries: Vec<Link>,
    attributes: FileAttributes,
    profile: &Profile,
) -> Result<Folder, ImportError> {
    profile.check()?;
    entries.iter().try_for_each(check_entry)?;
    entries.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    if let Some([first, second]) = entries.array_windows().find(|[a, b]: &&[Link; 2]| a.name == b.name) {
        return Err(ImportError::Collision { first: first.name.clone(), second: second.name.clone() });
    }
    let mut blocks = Vec::new();
    let size = Size::of(attributes, profile);
    let bytes = entries.iter().fold(size.empty, |sum, link| sum.saturating_add(size.entry(link)));
    if bytes > profile.shard_over_bytes {
        let mut hashed: Vec<hamt::Hashed> =
            entries.into_iter().map(|link| (hamt::murmur3(link.name.as_bytes()), link)).collect();
        hashed.sort_by_key(|(hash, _)| *hash);
        let root = hamt::build(hamt::Shape::of(profile), hashed, attributes, &mut blocks)?;
        return Ok(Folder { root: root.cid, tsize: root.tsize, blocks });
    }
    let below = entries.iter().fold(0u64, |sum, link| sum.saturating_add(link.tsize));
    let node = Node { links: entries, data: Some(folder_data(attributes)) };
    let block = node_block(profile.cid_version, node.encode())?;
    let tsize = below.saturating_add(block.data.len() as u64);
    Ok(Folder { root: block.cid, tsize, blocks: vec![block] })
}

/// Others could read a folder with another name wrongly, or not at all.
pub(super) fn check_entry(link: &Link) -> Result<(), ImportError> {
    match link.name.len() {
        1..=MAX_NAME_BYTES => Ok(()),
        _ => Err(ImportError::Name { name: link.name.clone() }),
    }
}

fn folder_data(attributes: FileAttributes) -> Bytes {
    UnixFs::new(Kind::Folder).with(attributes).encode()
}

/// How large a folder is, as its profile counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    rule: ShardSize,
    /// Of one without entries.
    pub(super) empty: usize,
}

impl Size {
    pub(super) fn of(attributes: FileAttributes, profile: &Profile) -> Self {
        let node = Node { links: Vec::new(), data: Some(folder_data(attributes)) };
        let empty = if profile.shard_size == ShardSize::Block { node.encoded_bytes() } else { 0 };
        Self { rule: profile.shard_size, empty }
    }

    /// What an entry adds.
    pub(super) fn entry(&self, link: &Link) -> usize {
        match self.rule {
            ShardSize::Block => link.encoded_bytes(),
            ShardSize::Links => link.name.len() + link.cid.encoded_len(),
        }
    }
}

/// The chunks of `bytes`; one empty chunk of nothing.
pub(super) fn chunks(bytes: u64, chunk_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let count = bytes.div_ceil(chunk_bytes).max(1);
    (0..count).map(move |index| index * chunk_bytes..((index + 1) * chunk_bytes).min(bytes))
}
