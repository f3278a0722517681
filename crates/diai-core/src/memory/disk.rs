//! A disk in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{Disk, DiskFile, DiskLock, Entry, EntryKind, FileAttributes, OpenMode};

type Content = Arc<Mutex<Vec<u8>>>;

#[derive(Clone)]
enum Node {
    File(Content),
    Folder,
    Link(String),
}

#[derive(Default)]
struct Tree {
    nodes: BTreeMap<String, Node>,
    /// What was set of what is there.
    attributes: BTreeMap<String, FileAttributes>,
    locks: BTreeSet<String>,
}

/// A [`Disk`] in memory. Clones are the same disk; [`MemoryDisk::snapshot`] makes another.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Tree>>);

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDisk").field("entries", &self.tree().nodes.len()).finish()
    }
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of the disk as it is now, without its locks: what a machine would find that starts from it.
    pub fn snapshot(&self) -> Self {
        let copy = |node: &Node| match node {
            Node::File(content) => Node::File(Arc::new(Mutex::new(lock(content).clone()))),
            other => other.clone(),
        };
        let tree = self.tree();
        let nodes = tree.nodes.iter().map(|(path, node)| (path.clone(), copy(node))).collect();
        let attributes = tree.attributes.clone();
        Self(Arc::new(Mutex::new(Tree { nodes, attributes, locks: BTreeSet::new() })))
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        lock(&self.0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The path in its one form; refuses what could leave the root.
fn clean(path: &str) -> io::Result<String> {
    if path.starts_with('/') || path.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} is not a relative path")));
    }
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} leaves the disk")));
    }
    Ok(parts.join("/"))
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Tree {
    fn expect_folder(&self, path: &str) -> io::Result<()> {
        let mut end = 0;
        while end < path.len() {
            end = path[end + 1..].find('/').map_or(path.len(), |slash| end + 1 + slash);
            match self.nodes.get(&path[..end]) {
                Some(Node::Folder) => {}
                Some(Node::Link(_)) => {
                    let text = format!("{:?} is a symbolic link", &path[..end]);
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
                }
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => return Err(io::ErrorKind::NotFound.into()),
            }
        }
        Ok(())
    }

    fn move_attributes(&mut self, from: &str, to: &str) {
        match self.attributes.remove(from) {
            Some(attributes) => self.attributes.insert(to.to_owned(), attributes),
            None => self.attributes.remove(to),
        };
    }

    fn entry(&self, path: &str) -> io::Result<Entry> {
        self.expect_folder(parent(path))?;
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        match self.nodes.get(path) {
            Some(Node::File(content)) => Ok(Entry { name, kind: EntryKind::File, bytes: lock(content).len() as u64 }),
            Some(Node::Folder) => Ok(Entry { name, kind: EntryKind::Folder, bytes: 0 }),
            Some(Node::Link(_)) => Ok(Entry { name, kind: EntryKind::Symlink, bytes: 0 }),
            None if path.is_empty() => Ok(Entry { name, kind: EntryKind::Folder, bytes: 0 }),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let path = clean(path)?;
        let mut tree = self.tree();
        tree.expect_folder(parent(&path))?;
        let content = match (tree.nodes.get(&path), mode) {
            (Some(Node::File(_)), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(Node::File(content)), OpenMode::Read | OpenMode::ReadWrite) => content.clone(),
            (Some(Node::Folder), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(Node::Link(_)), _) => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} is a symbolic link")));
            }
            (None, OpenMode::Read) => return Err(io::ErrorKind::NotFound.into()),
            (None, OpenMode::ReadWrite | OpenMode::CreateNew) => {
                let content = Content::default();
                tree.nodes.insert(path, Node::File(content.clone()));
                content
            }
        };
        Ok(Arc::new(MemoryFile { content, writable: mode != OpenMode::Read }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (clean(from)?, clean(to)?);
        let mut tree = self.tree();
        tree.expect_folder(parent(&to))?;
        let node = tree.nodes.remove(&from).ok_or(io::ErrorKind::NotFound)?;
        let inner: Vec<_> =
            tree.nodes.range(format!("{from}/")..format!("{from}0")).map(|(path, _)| path.clone()).collect();
        for path in inner {
            if let Some(node) = tree.nodes.remove(&path) {
                tree.move_attributes(&path, &format!("{to}{}", &path[from.len()..]));
                tree.nodes.insert(format!("{to}{}", &path[from.len()..]), node);
            }
        }
        tree.move_attributes(&from, &to);
        tree.nodes.insert(to, node);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let path = clean(path)?;
        let mut tree = self.tree();
        if matches!(tree.nodes.get(&path), Some(Node::Folder)) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        tree.attributes.remove(&path);
        tree.nodes.remove(&path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create_folder(&self, path: &str) -> io::Result<()> {
        let path = clean(path)?;
        let mut tree = self.tree();
        let ends: Vec<_> = path.match_indices('/').map(|(end, _)| end).chain([path.len()]).collect();
        for end in ends.into_iter().filter(|end| *end > 0) {
            match tree.nodes.get(&path[..end]) {
                Some(Node::Folder) => {}
                Some(Node::Link(_)) => return Err(io::ErrorKind::InvalidInput.into()),
                Some(Node::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                None => {
                    tree.nodes.insert(path[..end].to_owned(), Node::Folder);
                }
            }
        }
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let path = clean(path)?;
        let tree = self.tree();
        tree.expect_folder(&path)?;
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let inside = tree.nodes.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix));
        inside.filter(|(path, _)| !path[prefix.len()..].contains('/')).map(|(path, _)| tree.entry(path)).collect()
    }

    fn entry(&self, path: &str) -> io::Result<Entry> {
        self.tree().entry(&clean(path)?)
    }

    fn read_link(&self, path: &str) -> io::Result<String> {
        match self.tree().nodes.get(&clean(path)?) {
            Some(Node::Link(target)) => Ok(target.clone()),
            Some(_) => Err(io::ErrorKind::InvalidInput.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn create_link(&self, path: &str, target: &str) -> io::Result<()> {
        let path = clean(path)?;
        let mut tree = self.tree();
        tree.expect_folder(parent(&path))?;
        if tree.nodes.contains_key(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        tree.nodes.insert(path, Node::Link(target.to_owned()));
        Ok(())
    }

    fn attributes(&self, path: &str) -> io::Result<FileAttributes> {
        let (path, tree) = (clean(path)?, self.tree());
        tree.entry(&path)?;
        Ok(tree.attributes.get(&path).copied().unwrap_or_default())
    }

    fn set_attributes(&self, path: &str, attributes: FileAttributes) -> io::Result<()> {
        let (path, mut tree) = (clean(path)?, self.tree());
        if tree.entry(&path)?.kind == EntryKind::Symlink {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} is a symbolic link")));
        }
        let held = tree.attributes.entry(path).or_default();
        held.mode = attributes.mode.map(|mode| mode & 0o7777).or(held.mode);
        held.mtime = attributes.mtime.or(held.mtime);
        Ok(())
    }

    fn sync_folder(&self, path: &str) -> io::Result<()> {
        self.tree().expect_folder(&clean(path)?)
    }

    fn lock(&self, path: &str) -> io::Result<DiskLock> {
        let path = clean(path)?;
        if !self.tree().locks.insert(path.clone()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(DiskLock::new(Unlock { disk: self.clone(), path }))
    }
}

struct Unlock {
    disk: MemoryDisk,
    path: String,
}

impl Drop for Unlock {
    fn drop(&mut self) {
        self.disk.tree().locks.remove(&self.path);
    }
}

struct MemoryFile {
    content: Content,
    writable: bool,
}

impl MemoryFile {
    fn change(&self) -> io::Result<MutexGuard<'_, Vec<u8>>> {
        if self.writable { Ok(lock(&self.content)) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

fn place(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl DiskFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.content).len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let content = lock(&self.content);
        let rest = content.get(place(offset)?..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut content = self.change()?;
        let start = place(offset)?;
        if content.len() < start + data.len() {
            content.resize(start + data.len(), 0);
        }
        content[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.change()?.resize(place(bytes)?, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
