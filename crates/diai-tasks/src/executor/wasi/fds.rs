//! The guest's open descriptors.

use std::collections::BTreeMap;

use super::{
    super::fs::{IN, NodeId, OUT},
    errno::Errno,
};

/// Descriptors open at a time.
const MAX_FDS: usize = 256;

/// Something that is open.
#[derive(Debug, Clone)]
pub(in crate::executor) enum Fd {
    Stdin { position: u64 },
    Stdout,
    Stderr,
    Node(OpenNode),
}

/// An open file or folder.
#[derive(Debug, Clone)]
pub(in crate::executor) struct OpenNode {
    pub(super) id: NodeId,
    pub(super) position: u64,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) append: bool,
    /// The path under which the guest was given it.
    pub(super) preopened: Option<&'static str>,
}

/// The open descriptors of one guest.
#[derive(Debug)]
pub(in crate::executor) struct Fds(BTreeMap<u32, Fd>);

impl Fds {
    pub(in crate::executor) fn new() -> Self {
        let root = |id, preopened, write| {
            Fd::Node(OpenNode { id, position: 0, read: true, write, append: false, preopened: Some(preopened) })
        };
        Self(BTreeMap::from([
            (0, Fd::Stdin { position: 0 }),
            (1, Fd::Stdout),
            (2, Fd::Stderr),
            (3, root(IN, "/in", false)),
            (4, root(OUT, "/out", true)),
        ]))
    }

    pub(super) fn get(&self, fd: u32) -> Result<&Fd, Errno> {
        self.0.get(&fd).ok_or(Errno::BadF)
    }

    pub(super) fn get_mut(&mut self, fd: u32) -> Result<&mut Fd, Errno> {
        self.0.get_mut(&fd).ok_or(Errno::BadF)
    }

    pub(super) fn node(&self, fd: u32) -> Result<&OpenNode, Errno> {
        match self.get(fd)? {
            Fd::Node(node) => Ok(node),
            Fd::Stdin { .. } | Fd::Stdout | Fd::Stderr => Err(Errno::SPipe),
        }
    }

    pub(super) fn node_mut(&mut self, fd: u32) -> Result<&mut OpenNode, Errno> {
        match self.get_mut(fd)? {
            Fd::Node(node) => Ok(node),
            Fd::Stdin { .. } | Fd::Stdout | Fd::Stderr => Err(Errno::SPipe),
        }
    }

    pub(super) fn insert(&mut self, fd: Fd) -> Result<u32, Errno> {
        let number = (0..).zip(self.0.keys()).find(|(free, used)| free != *used).map(|(free, _)| free);
        let number = number.unwrap_or(u32::try_from(self.0.len()).map_err(|_| Errno::MFile)?);
        if self.0.len() >= MAX_FDS {
            return Err(Errno::MFile);
        }
        self.0.insert(number, fd);
        Ok(number)
    }

    pub(super) fn remove(&mut self, fd: u32) -> Result<Fd, Errno> {
        self.0.remove(&fd).ok_or(Errno::BadF)
    }

    /// Puts `fd` in the place of `to`; what was there.
    pub(super) fn renumber(&mut self, fd: u32, to: u32) -> Result<Option<Fd>, Errno> {
        self.get(to)?;
        if fd == to {
            return Ok(None);
        }
        let moved = self.remove(fd)?;
        Ok(self.0.insert(to, moved))
    }
}
