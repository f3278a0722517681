use std::{fmt, io, sync::Arc};

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing or new file, for reading and writing.
    ReadWrite,
    /// A file that must not exist yet, for reading and writing.
    CreateNew,
}

/// What a folder entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A plain file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link; `Disk` never follows one.
    Symlink,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, without any separator.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Length in bytes; zero for what is no file.
    pub bytes: u64,
}

/// When something was last changed: seconds since 1970, negative before, and nanoseconds after those, under a thousand
/// million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct FileTime {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// Nanoseconds after them.
    pub nanos: u32,
}

/// What a file system knows of a file, folder or link beside its name and content; `None` is unknown, or to be left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileAttributes {
    /// Permission bits, the lowest twelve: `0o644`.
    pub mode: Option<u32>,
    /// Time of the last change.
    pub mtime: Option<FileTime>,
}

/// The only way to files below the facade. Paths are relative, `/`-separated, and stay below the disk's root:
/// absolute paths, `..`, and paths through a symbolic link are refused with [`io::ErrorKind::InvalidInput`].
///
/// Calls block: make them on [`Offload`](crate::Offload). What was written is durable after
/// [`DiskFile::sync`]; a name is durable after [`Disk::sync_folder`] of its folder.
pub trait Disk: Send + Sync + 'static {
    /// Opens the file at `path`.
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;

    /// Moves `from` to `to`, in one step, replacing what is there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes the file (or the symbolic link itself) at `path`.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes the folder at `path` and its parents; not an error if it is there.
    fn create_folder(&self, path: &str) -> io::Result<()>;

    /// The entries of the folder at `path` (`""` is the root), sorted by name.
    fn list(&self, path: &str) -> io::Result<Vec<Entry>>;

    /// What is at `path`, without following a link.
    fn entry(&self, path: &str) -> io::Result<Entry>;

    /// The target of the symbolic link at `path`.
    fn read_link(&self, path: &str) -> io::Result<String>;

    /// Makes a symbolic link at `path`, which must not exist.
    fn create_link(&self, path: &str, target: &str) -> io::Result<()>;

    /// Permissions and time of what is at `path`, without following a link. A disk that has none says
    /// [`io::ErrorKind::Unsupported`].
    fn attributes(&self, path: &str) -> io::Result<FileAttributes> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Sets those of `attributes` that are there on the file or folder at `path`; links have none that can be set. The
    /// same is said by a disk that has none.
    fn set_attributes(&self, path: &str, attributes: FileAttributes) -> io::Result<()> {
        let _ = (path, attributes);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes the names in the folder at `path` durable.
    fn sync_folder(&self, path: &str) -> io::Result<()>;

    /// Takes an exclusive lock that other processes see; [`io::ErrorKind::WouldBlock`] if it is held. The
    /// operating system releases it when the process dies.
    fn lock(&self, path: &str) -> io::Result<DiskLock>;
}

/// An open file. Reads and writes are positioned, so that one handle serves many threads.
pub trait DiskFile: Send + Sync + 'static {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Reads exactly `buffer.len()` bytes at `offset`.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.read_at(offset, buffer)? == buffer.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Writes all of `data` at `offset`, extending the file where needed. Readable when it returns, durable after
    /// [`DiskFile::sync`].
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Cuts or extends the file to `bytes`.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Makes all that was written durable (data and length).
    fn sync(&self) -> io::Result<()>;
}

/// An exclusive lock, held until dropped.
pub struct DiskLock(#[allow(dead_code, reason = "held for its Drop")] Box<dyn Send + Sync>);

impl DiskLock {
    /// Wraps whatever releases the lock on drop.
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        Self(Box::new(guard))
    }
}

impl fmt::Debug for DiskLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskLock")
    }
}

/// Replaces the file at `path` by `data` so that a crash leaves either the old or the new whole: writes
/// `<path>.new`, syncs, renames, syncs the folder. Files are made readable by their owner only (0600).
pub fn write_atomically(disk: &dyn Disk, path: &str, data: &[u8]) -> io::Result<()> {
    let temporary = format!("{path}.new");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.open(&temporary, OpenMode::CreateNew)?;
    file.write_at(0, data)?;
    file.sync()?;
    disk.rename(&temporary, path)?;
    disk.sync_folder(path.rsplit_once('/').map_or("", |(folder, _)| folder))
}
