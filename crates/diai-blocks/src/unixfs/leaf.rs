//! Chunks and nodes become blocks.

use cid::{Cid, Version};
use diai_core::FileAttributes;

use super::{Kind, Leaves, Profile, UnixFs, tree::Child};
use crate::{
    Block, BlockError, DAG_PB, RAW,
    dag_pb::{put_varint, varint_bytes},
};

/// The block of a node.
pub(super) fn node_block(version: Version, data: Vec<u8>) -> Result<Block, BlockError> {
    let mut block = Block::new(DAG_PB, data)?;
    if version == Version::V0 {
        block.cid = Cid::new_v0(*block.cid.hash()).expect("it is SHA-256");
    }
    Ok(block)
}

/// A leaf that is about to be filled: what stands around its content, so that the content is read into its place.
pub(super) struct Leaf {
    bytes: Vec<u8>,
    /// Where the content begins.
    start: usize,
    content: usize,
}

impl Leaf {
    /// For `content` bytes; `attributes` are those of the file if this leaf is all of it.
    pub(super) fn new(profile: &Profile, content: usize, attributes: FileAttributes) -> Self {
        if profile.leaves == Leaves::Raw {
            return Self { bytes: vec![0; content], start: 0, content };
        }
        let after = UnixFs {
            filesize: Some(content as u64),
            mode: attributes.mode,
            mtime: attributes.mtime,
            ..UnixFs::new(Kind::File)
        };
        // The kind stands before the content, all else after it; an empty file has no content at all.
        let after = after.encode();
        let (kind, after) = after.split_at(2);
        let mut head = kind.to_vec();
        if content > 0 {
            head.push(0x12);
            put_varint(&mut head, content as u64);
        }
        let inner = head.len() + content + after.len();
        let start = 1 + varint_bytes(inner as u64) + head.len();
        // Zeroed memory is cheaper from the system than when written here.
        let mut bytes = vec![0; start + content + after.len()];
        let mut around = vec![0x0a];
        put_varint(&mut around, inner as u64);
        around.extend_from_slice(&head);
        bytes[..start].copy_from_slice(&around);
        bytes[start + content..].copy_from_slice(after);
        Self { bytes, start, content }
    }

    /// Where the content belongs.
    pub(super) fn content(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.content]
    }

    pub(super) fn finish(self, profile: &Profile) -> Result<(Child, Block), BlockError> {
        let block = match profile.leaves {
            Leaves::Raw => Block::new(RAW, self.bytes)?,
            Leaves::DagPb => node_block(profile.cid_version, self.bytes)?,
        };
        Ok((Child { cid: block.cid, bytes: self.content as u64, tsize: block.data.len() as u64 }, block))
    }
}
