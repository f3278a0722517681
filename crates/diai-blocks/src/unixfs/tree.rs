//! The balanced tree of a file: leaves in runs of the width, runs of runs above them. Built from the left in constant
//! memory.

use cid::{Cid, Version};
use diai_core::FileAttributes;

use super::{Kind, Profile, UnixFs, leaf::node_block};
use crate::{
    Block, BlockError,
    dag_pb::{Link, Node},
};

/// A node of the tree, as its parent sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Child {
    pub(super) cid: Cid,
    /// Bytes of the file below it.
    pub(super) bytes: u64,
    /// Bytes of all blocks below it, itself included.
    pub(super) tsize: u64,
}

pub(super) struct Tree {
    width: usize,
    version: Version,
    /// Of the file: they stand in the root, unless that is a leaf.
    attributes: FileAttributes,
    /// What waits for a parent, the leaves first.
    levels: Vec<Vec<Child>>,
}

impl Tree {
    pub(super) fn new(profile: &Profile, attributes: FileAttributes) -> Self {
        let (width, version) = (profile.width, profile.cid_version);
        Self { width, version, attributes, levels: vec![Vec::new()] }
    }

    /// Adds the next leaf; nodes that are complete go to `out`.
    pub(super) fn push(&mut self, leaf: Child, out: &mut Vec<Block>) -> Result<(), BlockError> {
        self.push_at(0, leaf, out)
    }

    fn push_at(&mut self, level: usize, child: Child, out: &mut Vec<Block>) -> Result<(), BlockError> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        // A full run gets its parent only when it is known not to be the root's.
        if self.levels[level].len() == self.width {
            let run = std::mem::take(&mut self.levels[level]);
            let node = self.parent(&run, FileAttributes::default(), out)?;
            self.push_at(level + 1, node, out)?;
        }
        self.levels[level].push(child);
        Ok(())
    }

    /// The root, after at least one leaf.
    pub(super) fn finish(mut self, out: &mut Vec<Block>) -> Result<Child, BlockError> {
        let mut level = 0;
        loop {
            let run = std::mem::take(&mut self.levels[level]);
            match (run.as_slice(), level + 1 == self.levels.len()) {
                ([root], true) => return Ok(*root),
                (run, true) => return self.parent(run, self.attributes, out),
                (run, false) => {
                    let node = self.parent(run, FileAttributes::default(), out)?;
                    self.push_at(level + 1, node, out)?;
                }
            }
            level += 1;
        }
    }

    fn parent(&self, run: &[Child], attributes: FileAttributes, out: &mut Vec<Block>) -> Result<Child, BlockError> {
        let bytes = run.iter().map(|child| child.bytes).sum();
        let data = UnixFs {
            filesize: Some(bytes),
            blocksizes: run.iter().map(|child| child.bytes).collect(),
            ..UnixFs::new(Kind::File).with(attributes)
        };
        let link = |child: &Child| Link { cid: child.cid, name: String::new(), tsize: child.tsize };
        let node = Node { links: run.iter().map(link).collect(), data: Some(data.encode()) };
        let block = node_block(self.version, node.encode())?;
        let tsize = block.data.len() as u64 + run.iter().map(|child| child.tsize).sum::<u64>();
        let child = Child { cid: block.cid, bytes, tsize };
        out.push(block);
        Ok(child)
    }
}
