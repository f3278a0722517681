//! The files of a guest: in memory, with a cap on bytes and on count. `/in` is read-only, `/out` is writable.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::wasi::errno::{Answer, Errno, Stop};
use crate::{message::MAX_OUTPUT_NAME_BYTES, spec::is_file_name};

/// Files and folders of one guest.
const MAX_NODES: usize = 4096;
/// What a file or folder counts against the cap, beside its content.
const NODE_BYTES: u64 = 256;
/// A file may hold so much more than twice what it has.
const SPARE_BYTES: usize = 4096;
/// Paths are at most so long.
const MAX_PATH_BYTES: usize = 4096;

/// A file or folder; never used twice within a guest, so it also is the inode number.
pub(super) type NodeId = u64;

pub(super) const IN: NodeId = 1;
pub(super) const OUT: NodeId = 2;

#[derive(Debug)]
enum Content {
    Input(Bytes),
    File(Vec<u8>),
    Folder(BTreeMap<String, NodeId>),
}

#[derive(Debug)]
struct Node {
    content: Content,
    /// Below `/out`.
    writable: bool,
    /// Open descriptors.
    open: u32,
    /// Still has a name.
    linked: bool,
}

/// Where a path leads.
pub(super) struct Place {
    pub(super) parent: NodeId,
    /// Empty if the path is its own base.
    name: String,
    pub(super) node: Option<NodeId>,
    must_be_folder: bool,
}

/// The files of one guest.
#[derive(Debug)]
pub(super) struct Fs {
    nodes: BTreeMap<NodeId, Node>,
    next: NodeId,
    used: u64,
    max_bytes: u64,
    /// Bytes by which files have grown, until somebody asks.
    grown: u64,
}

impl Fs {
    pub(super) fn new(inputs: impl IntoIterator<Item = (String, Bytes)>, max_bytes: u64) -> Self {
        let mut nodes = BTreeMap::new();
        let mut entries = BTreeMap::new();
        let mut next = OUT + 1;
        for (name, bytes) in inputs {
            nodes.insert(next, Node { content: Content::Input(bytes), writable: false, open: 0, linked: true });
            entries.insert(name, next);
            next += 1;
        }
        // One more descriptor than those of the guest: the roots stay.
        let root = |content, writable| Node { content, writable, open: 1, linked: true };
        nodes.insert(IN, root(Content::Folder(entries), false));
        nodes.insert(OUT, root(Content::Folder(BTreeMap::new()), true));
        Self { nodes, next, used: 0, max_bytes, grown: 0 }
    }

    /// Bytes that were written to make files longer, since the last time: for a host call to be paid by.
    pub(super) fn take_grown(&mut self) -> u64 {
        std::mem::take(&mut self.grown)
    }

    /// Takes `bytes` off what the guest may still write.
    pub(super) fn reserve(&mut self, bytes: u64) -> Answer {
        match self.used.checked_add(bytes) {
            Some(used) if used <= self.max_bytes => {
                self.used = used;
                Ok(())
            }
            _ => Err(Stop::OutputLimit.into()),
        }
    }

    fn node(&self, id: NodeId) -> Result<&Node, Errno> {
        self.nodes.get(&id).ok_or(Errno::BadF)
    }

    fn node_mut(&mut self, id: NodeId) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&id).ok_or(Errno::BadF)
    }

    fn entries(&self, id: NodeId) -> Result<&BTreeMap<String, NodeId>, Errno> {
        match &self.node(id)?.content {
            Content::Folder(entries) => Ok(entries),
            Content::Input(_) | Content::File(_) => Err(Errno::NotDir),
        }
    }

    fn entries_mut(&mut self, id: NodeId) -> Result<&mut BTreeMap<String, NodeId>, Errno> {
        let node = self.node_mut(id)?;
        match &mut node.content {
            Content::Folder(_) if !node.writable => Err(Errno::RoFs),
            Content::Folder(_) if !node.linked => Err(Errno::NoEnt),
            Content::Folder(entries) => Ok(entries),
            Content::Input(_) | Content::File(_) => Err(Errno::NotDir),
        }
    }

    pub(super) fn is_folder(&self, id: NodeId) -> bool {
        matches!(self.nodes.get(&id).map(|node| &node.content), Some(Content::Folder(_)))
    }

    pub(super) fn is_writable(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.writable)
    }

    pub(super) fn len(&self, id: NodeId) -> u64 {
        match self.nodes.get(&id).map(|node| &node.content) {
            Some(Content::Input(bytes)) => bytes.len() as u64,
            Some(Content::File(bytes)) => bytes.len() as u64,
            Some(Content::Folder(_)) | None => 0,
        }
    }

    /// Follows `path` from `base`, which it cannot leave.
    pub(super) fn find(&self, base: NodeId, path: &str) -> Result<Place, Errno> {
        if path.is_empty() {
            return Err(Errno::NoEnt);
        }
        if path.len() > MAX_PATH_BYTES {
            return Err(Errno::NameTooLong);
        }
        if path.starts_with('/') {
            return Err(Errno::NotCapable);
        }
        let mut trail = vec![base];
        let mut last = None;
        for name in path.split('/').filter(|name| !matches!(*name, "" | ".")) {
            // What came before is walked through, so it must be a folder that is there.
            if let Some((_, node)) = last.take() {
                trail.push(Option::ok_or(node, Errno::NoEnt)?);
            }
            let here = *trail.last().ok_or(Errno::NotCapable)?;
            let entries = self.entries(here)?;
            if name == ".." {
                trail.pop();
                if trail.is_empty() {
                    return Err(Errno::NotCapable);
                }
            } else if is_file_name(name) {
                last = Some((name, entries.get(name).copied()));
            } else {
                return Err(if name.len() > 255 { Errno::NameTooLong } else { Errno::Inval });
            }
        }
        let parent = *trail.last().ok_or(Errno::NotCapable)?;
        let must_be_folder = path.ends_with(['/', '.']) && !last.is_some_and(|(name, _)| path.ends_with(name));
        Ok(match last {
            Some((name, node)) => Place { parent, name: name.to_owned(), node, must_be_folder },
            None => Place { parent, name: String::new(), node: Some(parent), must_be_folder: true },
        })
    }

    fn add(&mut self, place: &Place, content: Content) -> Answer<NodeId> {
        if place.name.is_empty() {
            return Err(Errno::Exist.into());
        }
        self.entries_mut(place.parent)?;
        if self.nodes.len() >= MAX_NODES {
            return Err(Stop::OutputLimit.into());
        }
        self.reserve(NODE_BYTES)?;
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, Node { content, writable: true, open: 0, linked: true });
        self.entries_mut(place.parent)?.insert(place.name.clone(), id);
        Ok(id)
    }

    pub(super) fn create_file(&mut self, place: &Place) -> Answer<NodeId> {
        if place.must_be_folder {
            return Err(Errno::IsDir.into());
        }
        self.add(place, Content::File(Vec::new()))
    }

    pub(super) fn create_folder(&mut self, place: &Place) -> Answer {
        if place.node.is_some() {
            return Err(Errno::Exist.into());
        }
        self.add(place, Content::Folder(BTreeMap::new())).map(drop)
    }

    pub(super) fn check_folder(&self, place: &Place, id: NodeId) -> Result<(), Errno> {
        if place.must_be_folder && !self.is_folder(id) { Err(Errno::NotDir) } else { Ok(()) }
    }

    fn unlink(&mut self, parent: NodeId, name: &str) -> Result<(), Errno> {
        let id = self.entries_mut(parent)?.remove(name).ok_or(Errno::NoEnt)?;
        self.node_mut(id)?.linked = false;
        self.release(id);
        Ok(())
    }

    /// Frees `id` if nothing leads to it any more.
    fn release(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else { return };
        if node.open == 0 && !node.linked {
            self.used = self.used.saturating_sub(NODE_BYTES + self.len(id));
            self.nodes.remove(&id);
        }
    }

    pub(super) fn unlink_file(&mut self, place: &Place) -> Result<(), Errno> {
        let id = place.node.ok_or(Errno::NoEnt)?;
        self.check_folder(place, id)?;
        if self.is_folder(id) {
            return Err(Errno::IsDir);
        }
        self.unlink(place.parent, &place.name)
    }

    pub(super) fn remove_folder(&mut self, place: &Place) -> Result<(), Errno> {
        let id = place.node.ok_or(Errno::NoEnt)?;
        if !self.entries(id)?.is_empty() {
            return Err(Errno::NotEmpty);
        }
        if place.name.is_empty() {
            return Err(Errno::Inval);
        }
        self.unlink(place.parent, &place.name)
    }

    pub(super) fn rename(&mut self, from: &Place, to: &Place) -> Result<(), Errno> {
        let id = from.node.ok_or(Errno::NoEnt)?;
        if from.name.is_empty() || to.name.is_empty() {
            return Err(Errno::Inval);
        }
        self.check_folder(from, id)?;
        self.entries_mut(from.parent)?;
        self.entries_mut(to.parent)?;
        if self.holds(id, to.parent) {
            return Err(Errno::Inval);
        }
        if to.node == Some(id) {
            return Ok(());
        }
        if let Some(old) = to.node {
            match (self.is_folder(id), self.is_folder(old)) {
                (true, false) => return Err(Errno::NotDir),
                (false, true) => return Err(Errno::IsDir),
                (true, true) if !self.entries(old)?.is_empty() => return Err(Errno::NotEmpty),
                _ => self.unlink(to.parent, &to.name)?,
            }
        } else if to.must_be_folder && !self.is_folder(id) {
            return Err(Errno::NotDir);
        }
        self.entries_mut(from.parent)?.remove(&from.name);
        self.entries_mut(to.parent)?.insert(to.name.clone(), id);
        Ok(())
    }

    /// Whether `id` is `inner` or lies above it. Nodes are few, and so is what this looks at.
    fn holds(&self, id: NodeId, inner: NodeId) -> bool {
        let mut waiting = vec![id];
        while let Some(id) = waiting.pop() {
            if id == inner {
                return true;
            }
            if let Ok(entries) = self.entries(id) {
                waiting.extend(entries.values());
            }
        }
        false
    }

    pub(super) fn opened(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.open += 1;
        }
    }

    pub(super) fn closed(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.open = node.open.saturating_sub(1);
            self.release(id);
        }
    }

    /// The bytes of file `id` from `offset` on.
    pub(super) fn read(&self, id: NodeId, offset: u64) -> Result<&[u8], Errno> {
        let bytes: &[u8] = match &self.node(id)?.content {
            Content::Input(bytes) => bytes,
            Content::File(bytes) => bytes,
            Content::Folder(_) => return Err(Errno::IsDir),
        };
        Ok(usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default())
    }

    pub(super) fn write(&mut self, id: NodeId, offset: u64, data: &[u8]) -> Answer {
        let end = offset.checked_add(data.len() as u64).ok_or(Errno::FBig)?;
        if data.is_empty() {
            return Ok(());
        }
        if end > self.len(id) {
            self.set_len(id, end)?;
        }
        let Content::File(bytes) = &mut self.node_mut(id)?.content else { return Err(Errno::RoFs.into()) };
        let start = usize::try_from(offset).map_err(|_| Errno::FBig)?;
        bytes.get_mut(start..start + data.len()).ok_or(Errno::FBig)?.copy_from_slice(data);
        Ok(())
    }

    pub(super) fn set_len(&mut self, id: NodeId, len: u64) -> Answer {
        match self.node(id)?.content {
            Content::File(_) => {}
            Content::Input(_) => return Err(Errno::RoFs.into()),
            Content::Folder(_) => return Err(Errno::IsDir.into()),
        }
        let old = self.len(id);
        match len.checked_sub(old) {
            Some(more) => {
                self.reserve(more)?;
                self.grown += more;
            }
            None => self.used = self.used.saturating_sub(old - len),
        }
        let target = usize::try_from(len).map_err(|_| Errno::FBig)?;
        if let Content::File(bytes) = &mut self.node_mut(id)?.content {
            bytes.resize(target, 0);
            // What is counted no more must not be held any more either.
            if bytes.capacity() / 2 > target + SPARE_BYTES {
                bytes.shrink_to_fit();
            }
        }
        Ok(())
    }

    /// The entries of folder `id` in the order of their making, which removals do not disturb.
    pub(super) fn list(&self, id: NodeId) -> Result<Vec<(NodeId, &str)>, Errno> {
        let mut entries: Vec<_> = self.entries(id)?.iter().map(|(name, id)| (*id, name.as_str())).collect();
        entries.sort_unstable();
        Ok(entries)
    }

    /// The files under `/out`, sorted by path; `None` if a path is too long to be an output's.
    pub(super) fn into_outputs(mut self) -> Option<Vec<(String, Bytes)>> {
        let mut files = Vec::new();
        let mut waiting = vec![(String::new(), OUT)];
        while let Some((path, id)) = waiting.pop() {
            let Some(node) = self.nodes.remove(&id) else { continue };
            match node.content {
                Content::Folder(entries) => {
                    for (name, id) in entries {
                        let path = if path.is_empty() { name } else { format!("{path}/{name}") };
                        if path.len() > MAX_OUTPUT_NAME_BYTES {
                            return None;
                        }
                        waiting.push((path, id));
                    }
                }
                Content::File(bytes) => files.push((path, Bytes::from(bytes))),
                Content::Input(bytes) => files.push((path, bytes)),
            }
        }
        files.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Some(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the writable files hold of the host's memory.
    fn held(fs: &Fs) -> usize {
        let capacity = |node: &Node| if let Content::File(bytes) = &node.content { bytes.capacity() } else { 0 };
        fs.nodes.values().map(capacity).sum()
    }

    #[test]
    fn a_file_that_was_cut_gives_its_memory_back() {
        const CAP: u64 = 1 << 20;
        let mut fs = Fs::new(Vec::new(), CAP);
        for number in 0..64 {
            let place = fs.find(OUT, &format!("{number}")).unwrap();
            let Ok(id) = fs.create_file(&place) else { panic!("there is room for a file") };
            assert!(fs.set_len(id, CAP / 2).is_ok() && fs.set_len(id, 0).is_ok());
        }
        assert!(held(&fs) <= 64 * 2 * SPARE_BYTES, "{} bytes", held(&fs));
    }
}
