use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{Disk, DiskFile, DiskLock, Entry, EntryKind, FileAttributes, FileTime, OpenMode};

/// A folder of the operating system's file system. New files are readable by their owner only (0600), new folders 0700.
///
/// Every part of a path is checked for being a symbolic link before it is used. Whoever can write into the folder
/// while it is in use could swap a part in between: the folder must belong to the user of the process alone.
#[derive(Debug, Clone)]
pub struct FsDisk {
    root: PathBuf,
}

impl FsDisk {
    /// The folder at `root`, made if it is not there.
    pub fn open(root: impl AsRef<Path>) -> io::Result<Self> {
        create_folder(root.as_ref())?;
        Ok(Self { root: root.as_ref().canonicalize()? })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The real path of `path`, whose parents are checked to be folders and no links.
    fn resolve(&self, path: &str) -> io::Result<PathBuf> {
        let refuse = |why| io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} {why}"));
        if path.starts_with('/') || path.contains('\0') {
            return Err(refuse("is not a relative path"));
        }
        let mut real = self.root.clone();
        let mut parts = path.split('/').filter(|part| !part.is_empty() && *part != ".").peekable();
        while let Some(part) = parts.next() {
            if part == ".." {
                return Err(refuse("leaves the disk"));
            }
            real.push(part);
            if parts.peek().is_some() && fs::symlink_metadata(&real).is_ok_and(|found| found.is_symlink()) {
                return Err(refuse("goes through a symbolic link"));
            }
        }
        Ok(real)
    }

    /// The same, where the last part must be no link either.
    fn resolve_unlinked(&self, path: &str) -> io::Result<PathBuf> {
        let real = self.resolve(path)?;
        if fs::symlink_metadata(&real).is_ok_and(|found| found.is_symlink()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} is a symbolic link")));
        }
        Ok(real)
    }
}

fn create_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn entry(path: &Path, name: String) -> io::Result<Entry> {
    let found = fs::symlink_metadata(path)?;
    let (kind, bytes) = match found.file_type() {
        kind if kind.is_symlink() => (EntryKind::Symlink, 0),
        kind if kind.is_dir() => (EntryKind::Folder, 0),
        _ => (EntryKind::File, found.len()),
    };
    Ok(Entry { name, kind, bytes })
}

/// The point in time, if the system can hold it.
fn system_time(time: FileTime) -> Option<SystemTime> {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    whole.filter(|_| time.nanos < 1_000_000_000)?.checked_add(Duration::from_nanos(time.nanos.into()))
}

fn text(path: &Path) -> io::Result<String> {
    let refuse = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is not UTF-8", path.display()));
    path.to_str().map(str::to_owned).ok_or_else(refuse)
}

impl Disk for FsDisk {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let real = self.resolve_unlinked(path)?;
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true).create(true),
            OpenMode::CreateNew => options.write(true).create_new(true),
        };
        Ok(Arc::new(FsFile(options.open(real)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.resolve(from)?, self.resolve(to)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.resolve(path)?)
    }

    fn create_folder(&self, path: &str) -> io::Result<()> {
        create_folder(&self.resolve_unlinked(path)?)
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let real = self.resolve_unlinked(path)?;
        let mut entries = Vec::new();
        for found in fs::read_dir(real)? {
            let found = found?;
            entries.push(entry(&found.path(), text(Path::new(&found.file_name()))?)?);
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    fn entry(&self, path: &str) -> io::Result<Entry> {
        entry(&self.resolve(path)?, path.rsplit('/').next().unwrap_or_default().to_owned())
    }

    fn read_link(&self, path: &str) -> io::Result<String> {
        text(&fs::read_link(self.resolve(path)?)?)
    }

    fn create_link(&self, path: &str, target: &str) -> io::Result<()> {
        std::os::unix::fs::symlink(target, self.resolve(path)?)
    }

    fn attributes(&self, path: &str) -> io::Result<FileAttributes> {
        let found = fs::symlink_metadata(self.resolve(path)?)?;
        let nanos = u32::try_from(found.mtime_nsec()).unwrap_or(0);
        let mtime = FileTime { seconds: found.mtime(), nanos };
        Ok(FileAttributes { mode: Some(found.mode() & 0o7777), mtime: Some(mtime) })
    }

    fn set_attributes(&self, path: &str, attributes: FileAttributes) -> io::Result<()> {
        let file = File::open(self.resolve_unlinked(path)?)?;
        if let Some(mtime) = attributes.mtime {
            let unheld =
                || io::Error::new(io::ErrorKind::InvalidInput, format!("{mtime:?} cannot be held by the system"));
            file.set_times(fs::FileTimes::new().set_modified(system_time(mtime).ok_or_else(unheld)?))?;
        }
        match attributes.mode {
            Some(mode) => file.set_permissions(fs::Permissions::from_mode(mode & 0o7777)),
            None => Ok(()),
        }
    }

    fn sync_folder(&self, path: &str) -> io::Result<()> {
        File::open(self.resolve_unlinked(path)?)?.sync_all()
    }

    fn lock(&self, path: &str) -> io::Result<DiskLock> {
        let real = self.resolve_unlinked(path)?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(real)?;
        match file.try_lock() {
            Ok(()) => Ok(DiskLock::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

struct FsFile(File);

impl DiskFile for FsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match self.0.read_at(&mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
