//! What is to be sealed: entries, and where the bytes of each are.

use std::{io, sync::Arc};

use bytes::Bytes;
use diai_core::{Disk, DiskFile, EntryKind, OpenMode};

use super::{MAX_ENTRIES, SealError, manifest::check_paths};

/// What to seal.
#[derive(Clone)]
pub enum Source {
    /// Files by name: bytes in memory.
    Files(Vec<(String, Bytes)>),
    /// The file or folder at a path of a disk. A file is sealed without a name, as `add` without sealing does, a folder's
    /// entries under their paths in it. Names that begin with a dot are left out, as everywhere.
    Path {
        /// Where it lies.
        disk: Arc<dyn Disk>,
        /// Its path; empty for the root.
        path: String,
    },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files(files) => write!(f, "Files({})", files.len()),
            Self::Path { path, .. } => write!(f, "Path({path:?})"),
        }
    }
}

/// An entry and its content.
#[derive(Clone)]
pub(super) struct Planned {
    pub(super) path: String,
    pub(super) folder: bool,
    pub(super) content: Content,
}

#[derive(Clone)]
pub(super) enum Content {
    Bytes(Bytes),
    File { disk: Arc<dyn Disk>, path: String, bytes: u64 },
}

impl Content {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Bytes(data) => data.len() as u64,
            Self::File { bytes, .. } => *bytes,
        }
    }

    pub(super) fn open(&self) -> Result<Opened, ReadFailed> {
        match self {
            Self::Bytes(data) => Ok(Opened::Bytes(data.clone())),
            Self::File { disk, path, bytes } => {
                let failed = |error| ReadFailed { path: path.clone(), error };
                let file = disk.open(path, OpenMode::Read).map_err(failed)?;
                if file.len().map_err(failed)? != *bytes {
                    return Err(ReadFailed::changed(path.clone()));
                }
                Ok(Opened::File { file, path: path.clone() })
            }
        }
    }
}

/// A file could not be read.
pub(super) struct ReadFailed {
    pub(super) path: String,
    pub(super) error: io::Error,
}

impl ReadFailed {
    pub(super) fn changed(path: String) -> Self {
        Self { path, error: io::Error::other("the file changed while it was sealed; seal it again") }
    }
}

impl From<ReadFailed> for SealError {
    fn from(ReadFailed { path, error }: ReadFailed) -> Self {
        Self::Io { path, source: error }
    }
}

/// Content that can be read.
#[derive(Clone)]
pub(super) enum Opened {
    Bytes(Bytes),
    File { file: Arc<dyn DiskFile>, path: String },
}

impl Opened {
    /// Appends `bytes` bytes from `at` on to `buffer`.
    pub(super) fn append(&self, at: u64, bytes: usize, buffer: &mut Vec<u8>) -> Result<(), ReadFailed> {
        match self {
            Self::Bytes(data) => buffer.extend_from_slice(&data[at as usize..][..bytes]),
            Self::File { file, path } => {
                let start = buffer.len();
                buffer.resize(start + bytes, 0);
                let read = file.read_exact_at(at, &mut buffer[start..]);
                read.map_err(|error| ReadFailed { path: path.clone(), error })?;
            }
        }
        Ok(())
    }
}

pub(super) fn plan(source: Source) -> Result<Vec<Planned>, SealError> {
    let mut planned = Vec::new();
    match source {
        Source::Files(files) => {
            let file = |(path, data)| Planned { path, folder: false, content: Content::Bytes(data) };
            planned.extend(files.into_iter().map(file));
        }
        Source::Path { disk, path } => {
            plan_path(&disk, &path, &mut planned)?;
            planned.sort_by(|a, b| a.path.cmp(&b.path));
        }
    }
    if planned.len() > MAX_ENTRIES {
        return Err(SealError::TooMany { limit: MAX_ENTRIES });
    }
    check_paths(planned.iter().map(|entry| entry.path.as_str()))
        .map_err(|(path, why)| SealError::Path { path, why })?;
    Ok(planned)
}

/// Adds what lies at `root`, folders before what is in them.
fn plan_path(disk: &Arc<dyn Disk>, root: &str, planned: &mut Vec<Planned>) -> Result<(), SealError> {
    let io = |path: &str, source| SealError::Io { path: path.to_owned(), source };
    let file = |at: String, path: String, bytes| Planned {
        path,
        folder: false,
        content: Content::File { disk: disk.clone(), path: at, bytes },
    };
    if !root.is_empty() {
        let entry = disk.entry(root).map_err(|error| io(root, error))?;
        match entry.kind {
            EntryKind::File => {
                planned.push(file(root.to_owned(), String::new(), entry.bytes));
                return Ok(());
            }
            EntryKind::Symlink => return Err(SealError::Symlink { path: root.to_owned() }),
            EntryKind::Folder => {}
        }
    }
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let at = join(root, &folder);
        for entry in disk.list(&at).map_err(|error| io(&at, error))? {
            if entry.name.starts_with('.') {
                continue;
            }
            let path = join(&folder, &entry.name);
            let at = join(root, &path);
            match entry.kind {
                EntryKind::File => planned.push(file(at, path, entry.bytes)),
                EntryKind::Symlink => return Err(SealError::Symlink { path: at }),
                EntryKind::Folder => {
                    let content = Content::Bytes(Bytes::new());
                    planned.push(Planned { path: path.clone(), folder: true, content });
                    folders.push(path);
                }
            }
            if planned.len() > MAX_ENTRIES {
                return Err(SealError::TooMany { limit: MAX_ENTRIES });
            }
        }
    }
    Ok(())
}

fn join(folder: &str, name: &str) -> String {
    match (folder, name) {
        ("", name) => name.to_owned(),
        (folder, "") => folder.to_owned(),
        (folder, name) => format!("{folder}/{name}"),
    }
}
