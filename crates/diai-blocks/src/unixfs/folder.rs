use std::ops::Range;

use cid::Cid;

use super::{ImportError, Kind, Profile, UnixFs, hamt, tree::Child};
use crate::{
    Block, DAG_PB,
    dag_pb::{Link, Node},
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
/// it leads to. Names are not judged here, except that two equal ones are refused.
///
/// Hashes on the calling thread, 1 ms for about 20,000 entries.
pub fn build_folder(mut entries: Vec<Link>, profile: &Profile) -> Result<Folder, ImportError> {
    let data = UnixFs::new(Kind::Folder).encode();
    entries.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    if let Some([first, second]) = entries.array_windows().find(|[a, b]: &&[Link; 2]| a.name == b.name) {
        return Err(ImportError::Collision { first: first.name.clone(), second: second.name.clone() });
    }
    let node = Node { links: entries, data: Some(data) };
    let mut blocks = Vec::new();
    let root = if node.encoded_bytes() > profile.shard_over_bytes {
        let mut hashed: Vec<hamt::Hashed> =
            node.links.into_iter().map(|link| (hamt::murmur3(link.name.as_bytes()), link)).collect();
        hashed.sort_by_key(|(hash, _)| *hash);
        hamt::build(hashed, &mut blocks)?
    } else {
        single(&node, &mut blocks)?
    };
    Ok(Folder { root: root.cid, tsize: root.tsize, blocks })
}

fn single(node: &Node, blocks: &mut Vec<Block>) -> Result<Child, ImportError> {
    let block = Block::new(DAG_PB, node.encode())?;
    let below: u64 = node.links.iter().map(|link| link.tsize).sum();
    let child = Child { cid: block.cid, bytes: 0, tsize: below + block.data.len() as u64 };
    blocks.push(block);
    Ok(child)
}

/// The chunks of `bytes`; one empty chunk of nothing.
pub(super) fn chunks(bytes: u64, chunk_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let count = bytes.div_ceil(chunk_bytes).max(1);
    (0..count).map(move |index| index * chunk_bytes..((index + 1) * chunk_bytes).min(bytes))
}
