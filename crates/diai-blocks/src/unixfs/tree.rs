//! The balanced tree of a file: leaves in runs of the width, runs of runs above them. Built from the left in constant
//! memory.

use cid::Cid;

use super::{Kind, UnixFs};
use crate::{
    Block, BlockError, DAG_PB,
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

impl Child {
    pub(super) fn leaf(block: &Block) -> Self {
        let bytes = block.data.len() as u64;
        Self { cid: block.cid, bytes, tsize: bytes }
    }
}

pub(super) struct Tree {
    width: usize,
    /// What waits for a parent, the leaves first.
    levels: Vec<Vec<Child>>,
}

impl Tree {
    pub(super) fn new(width: usize) -> Self {
        Self { width, levels: vec![Vec::new()] }
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
            self.push_at(level + 1, parent(&run, out)?, out)?;
        }
        self.levels[level].push(child);
        Ok(())
    }

    /// The root, after at least one leaf.
    pub(super) fn finish(mut self, out: &mut Vec<Block>) -> Result<Child, BlockError> {
        let mut level = 0;
        loop {
            let run = std::mem::take(&mut self.levels[level]);
            if let ([root], true) = (run.as_slice(), level + 1 == self.levels.len()) {
                return Ok(*root);
            }
            let node = parent(&run, out)?;
            self.push_at(level + 1, node, out)?;
            level += 1;
        }
    }
}

fn parent(run: &[Child], out: &mut Vec<Block>) -> Result<Child, BlockError> {
    let bytes = run.iter().map(|child| child.bytes).sum();
    let data = UnixFs {
        filesize: Some(bytes),
        blocksizes: run.iter().map(|child| child.bytes).collect(),
        ..UnixFs::new(Kind::File)
    };
    let link = |child: &Child| Link { cid: child.cid, name: String::new(), tsize: child.tsize };
    let node = Node { links: run.iter().map(link).collect(), data: Some(data.encode()) };
    let block = Block::new(DAG_PB, node.encode())?;
    let tsize = block.data.len() as u64 + run.iter().map(|child| child.tsize).sum::<u64>();
    let child = Child { cid: block.cid, bytes, tsize };
    out.push(block);
    Ok(child)
}
