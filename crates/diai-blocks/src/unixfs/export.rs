use std::{io, sync::Arc};

use bytes::Bytes;
use cid::Cid;
use diai_core::{Disk, DiskFile, EntryKind, FileAttributes, Offload, OpenMode, offload};
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    ExportError, FolderEntry, Kind, MAX_DEPTH, PREFETCH, Progress, ProgressFn, ReadError, entries, import::join, read,
    read::stat_block,
};
use crate::{BlockSource, RAW};

/// What is written at once.
const WRITE_BYTES: usize = 4 << 20;
/// Small files that one worker writes at a time.
const GROUP_FILES: usize = 64;

/// How to export.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// Make symbolic links that lead out of the target folder. They are made, never followed. Default no.
    pub outside_links: bool,
    /// Replace files, and write into folders, that are there already. Links are never replaced. Default no.
    pub overwrite: bool,
    /// Restore permissions and times that the maker kept: of permissions the nine that grant reading, writing and
    /// executing, no others; of links nothing. Default no.
    pub attributes: bool,
    /// Sync every file and folder, so that all is durable when the export returns. Default yes.
    pub durable: bool,
    /// A DAG of more content is refused; what was written until then stays. Default 1 TiB.
    pub max_bytes: u64,
    /// A DAG of more files, folders and links is refused. Default 10 million.
    pub max_entries: u64,
    /// Told as it goes on, on the exporting task.
    pub progress: Option<ProgressFn>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            outside_links: false,
            overwrite: false,
            attributes: false,
            durable: true,
            max_bytes: 1 << 40,
            max_entries: 10_000_000,
            progress: None,
        }
    }
}

/// What was exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Exported {
    /// Bytes of content.
    pub bytes: u64,
    /// Files.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Symbolic links.
    pub links: u64,
}

/// Writes the file, folder or link `root` to `target` on `disk`, and nothing anywhere else, whatever names and links
/// its maker put in it: unsafe names are refused ([`ExportError::UnsafeName`]), links that lead outside too, and nothing
/// is written through a link. The folder that holds `target` must exist.
///
/// Cancel-safety: dropping the future stops it; what was written until then stays, as after an error. With
/// [`ExportOptions::overwrite`] a second export completes it.
pub async fn export(
    source: &dyn BlockSource,
    root: Cid,
    disk: Arc<dyn Disk>,
    target: &str,
    pool: &Arc<dyn Offload>,
    options: &ExportOptions,
) -> Result<Exported, ExportError> {
    let mut exporter = Exporter {
        source,
        disk,
        pool,
        options,
        root,
        done: Exported::default(),
        folders: Vec::new(),
        waiting: vec![Waiting { cid: root, path: target.to_owned(), depth: 0 }],
    };
    while let Some(next) = exporter.waiting.pop() {
        exporter.entry(next).await?;
    }
    exporter.finish_folders(target).await?;
    Ok(exporter.done)
}

struct Waiting {
    cid: Cid,
    path: String,
    depth: usize,
}

struct Exporter<'a> {
    source: &'a dyn BlockSource,
    disk: Arc<dyn Disk>,
    pool: &'a Arc<dyn Offload>,
    options: &'a ExportOptions,
    root: Cid,
    done: Exported,
    /// What was made, to be given their attributes and synced at the end, when nothing more is written into them.
    folders: Vec<(String, FileAttributes)>,
    waiting: Vec<Waiting>,
}

impl Exporter<'_> {
    async fn entry(&mut self, Waiting { cid, path, depth }: Waiting) -> Result<(), ExportError> {
        let block = self.source.block(cid).await.map_err(ReadError::from)?;
        let stat = stat_block(cid, &block)?;
        match (stat.kind, stat.target) {
            (Kind::Folder, _) => {
                self.count(|done| done.folders += 1)?;
                self.folder(cid, path, depth, stat.attributes).await
            }
            (Kind::Symlink, Some(target)) => {
                self.count(|done| done.links += 1)?;
                self.link(path, target, depth).await
            }
            _ => {
                self.count(|done| done.files += 1)?;
                self.file(cid, path, stat.attributes).await
            }
        }
    }

    fn count(&mut self, add: impl FnOnce(&mut Exported)) -> Result<(), ReadError> {
        add(&mut self.done);
        let over = |what, limit| Err(ReadError::OverLimit { cid: self.root, what, limit });
        let entries = self.done.files + self.done.folders + self.done.links;
        if let Some(progress) = &self.options.progress {
            progress.tell(Progress { bytes: self.done.bytes, entries });
        }
        match self.options {
            ExportOptions { max_entries, .. } if entries > *max_entries => over("entries", *max_entries),
            ExportOptions { max_bytes, .. } if self.done.bytes > *max_bytes => over("bytes", *max_bytes),
            _ => Ok(()),
        }
    }

    async fn folder(
        &mut self,
        cid: Cid,
        path: String,
        depth: usize,
        attributes: FileAttributes,
    ) -> Result<(), ExportError> {
        if depth == MAX_DEPTH {
            return Err(ReadError::OverLimit { cid, what: "folders below it", limit: MAX_DEPTH as u64 }.into());
        }
        let max = usize::try_from(self.options.max_entries).unwrap_or(usize::MAX);
        let listing = entries(self.source, cid, max).await?;
        for entry in &listing {
            check_name(cid, &entry.name)?;
        }
        let overwrite = self.options.overwrite;
        self.off(&path, move |disk, path| make_folder(disk, path, overwrite)).await?;
        let (small, other): (Vec<FolderEntry>, Vec<FolderEntry>) =
            listing.into_iter().partition(|entry| entry.cid.codec() == RAW);
        self.small_files(&path, small).await?;
        for entry in other.into_iter().rev() {
            self.waiting.push(Waiting { cid: entry.cid, path: join(&path, &entry.name), depth: depth + 1 });
        }
        self.folders.push((path, attributes));
        Ok(())
    }

    /// Files of one raw block: fetched ahead, and written many at a time.
    async fn small_files(&mut self, path: &str, files: Vec<FolderEntry>) -> Result<(), ExportError> {
        let source = self.source;
        let fetch =
            |entry: FolderEntry| async move { Ok::<_, ReadError>((entry.name, source.block(entry.cid).await?)) };
        let mut fetched = stream::iter(files.into_iter().map(fetch)).buffered(PREFETCH);
        let mut group: Vec<(String, Bytes)> = Vec::new();
        let mut bytes = 0;
        while let Some((name, data)) = fetched.try_next().await? {
            self.done.bytes += data.len() as u64;
            self.count(|done| done.files += 1)?;
            bytes += data.len();
            group.push((join(path, &name), data));
            if group.len() == GROUP_FILES || bytes >= WRITE_BYTES {
                bytes = 0;
                self.write_group(path, std::mem::take(&mut group)).await?;
            }
        }
        self.write_group(path, group).await
    }

    async fn write_group(&self, path: &str, group: Vec<(String, Bytes)>) -> Result<(), ExportError> {
        let (overwrite, durable) = (self.options.overwrite, self.options.durable);
        let write = move |disk: &dyn Disk, _: &str| {
            // All are written before the first is synced: the disk then syncs many at once.
            let mut files = Vec::with_capacity(group.len());
            for (path, data) in group {
                let file = create(disk, &path, overwrite)?;
                file.write_at(0, &data).map_err(Problem::at(&path))?;
                files.push((path, file));
            }
            for (path, file) in files.iter().filter(|_| durable) {
                file.sync().map_err(Problem::at(path))?;
            }
            Ok(())
        };
        self.off(path, write).await
    }

    async fn file(&mut self, cid: Cid, path: String, attributes: FileAttributes) -> Result<(), ExportError> {
        let overwrite = self.options.overwrite;
        let file = self.off(&path, move |disk, path| create(disk, path, overwrite)).await?;
        let left = self.options.max_bytes.saturating_sub(self.done.bytes);
        let mut content = std::pin::pin!(read(self.source, cid, left).ready_chunks(WRITE_BYTES >> 20));
        let mut offset = 0;
        while let Some(chunks) = content.next().await {
            let chunks = chunks.into_iter().collect::<Result<Vec<Bytes>, ReadError>>()?;
            let bytes: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
            let written = file.clone();
            let write = move |_: &dyn Disk, path: &str| {
                let mut at = offset;
                for chunk in chunks {
                    written.write_at(at, &chunk).map_err(Problem::at(path))?;
                    at += chunk.len() as u64;
                }
                Ok(())
            };
            self.off(&path, write).await?;
            offset += bytes;
            self.done.bytes += bytes;
            self.count(|_| ())?;
        }
        let (durable, attributes) = (self.options.durable, self.restored(attributes));
        if !durable && attributes.is_none() {
            return Ok(());
        }
        let finish = move |disk: &dyn Disk, path: &str| {
            restore(disk, path, attributes)?;
            if durable { file.sync().map_err(Problem::at(path)) } else { Ok(()) }
        };
        self.off(&path, finish).await
    }

    /// What is set, if anything is: nothing that would give more rights than a file's user has.
    fn restored(&self, attributes: FileAttributes) -> Option<FileAttributes> {
        let attributes = FileAttributes { mode: attributes.mode.map(|mode| mode & 0o777), ..attributes };
        Some(attributes).filter(|attributes| self.options.attributes && *attributes != FileAttributes::default())
    }

    async fn link(&self, path: String, target: String, depth: usize) -> Result<(), ExportError> {
        // A link that is the root itself would lead from the folder around the target, which is not ours.
        if !self.options.outside_links && !stays_inside(&target, depth) {
            return Err(ExportError::UnsafeLink { path, target });
        }
        let make = move |disk: &dyn Disk, path: &str| match disk.entry(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                disk.create_link(path, &target).map_err(Problem::at(path))
            }
            Err(error) => Err(Problem::Io(path.to_owned(), error)),
            Ok(_) => Err(Problem::Exists(path.to_owned())),
        };
        self.off(&path, make).await
    }

    async fn finish_folders(&mut self, target: &str) -> Result<(), ExportError> {
        let durable = self.options.durable;
        let folders = std::mem::take(&mut self.folders).into_iter();
        let folders: Vec<_> = folders.map(|(path, attributes)| (path, self.restored(attributes))).collect();
        let around = target.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        let finish = move |disk: &dyn Disk, _: &str| {
            // Those within come first: who gives up rights to a folder could not reach them any more.
            for (path, attributes) in folders.into_iter().rev() {
                if durable {
                    disk.sync_folder(&path).map_err(Problem::at(&path))?;
                }
                restore(disk, &path, attributes)?;
            }
            if durable { disk.sync_folder(&around).map_err(Problem::at(&around)) } else { Ok(()) }
        };
        self.off(target, finish).await
    }

    async fn off<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce(&dyn Disk, &str) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, ExportError> {
        let (disk, path) = (self.disk.clone(), path.to_owned());
        let outcome = offload(&**self.pool, move || work(&*disk, &path)).await.map_err(|_| ExportError::Closed)?;
        outcome.map_err(|problem| match problem {
            Problem::Exists(path) => ExportError::Exists { path },
            Problem::Io(path, source) => ExportError::Io { path, source },
        })
    }
}

enum Problem {
    Exists(String),
    Io(String, io::Error),
}

impl Problem {
    fn at(path: &str) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| match error.kind() {
            io::ErrorKind::AlreadyExists => Self::Exists(path.to_owned()),
            _ => Self::Io(path.to_owned(), error),
        }
    }
}

fn create(disk: &dyn Disk, path: &str, overwrite: bool) -> Result<Arc<dyn DiskFile>, Problem> {
    if overwrite && disk.entry(path).is_ok_and(|entry| entry.kind == EntryKind::File) {
        disk.remove(path).map_err(Problem::at(path))?;
    }
    disk.open(path, OpenMode::CreateNew).map_err(Problem::at(path))
}

fn restore(disk: &dyn Disk, path: &str, attributes: Option<FileAttributes>) -> Result<(), Problem> {
    attributes.map_or(Ok(()), |attributes| disk.set_attributes(path, attributes).map_err(Problem::at(path)))
}

fn make_folder(disk: &dyn Disk, path: &str, overwrite: bool) -> Result<(), Problem> {
    match disk.entry(path) {
        Ok(entry) if overwrite && entry.kind == EntryKind::Folder => Ok(()),
        Ok(_) => Err(Problem::Exists(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create_folder(path).map_err(Problem::at(path)),
        Err(error) => Err(Problem::Io(path.to_owned(), error)),
    }
}

pub(crate) fn check_name(folder: Cid, name: &str) -> Result<(), ExportError> {
    const RESERVED: [&str; 8] = ["con", "prn", "aux", "nul", "conin$", "conout$", "com", "lpt"];
    let stem = name.split('.').next().unwrap_or("").trim_end().to_ascii_lowercase();
    let reserved = match stem.strip_suffix(|last: char| matches!(last, '1'..='9' | '¹' | '²' | '³')) {
        Some(port) => RESERVED[6..].contains(&port),
        None => RESERVED[..6].contains(&stem.as_str()),
    };
    let foreign = cfg!(windows) && (name.contains(['<', '>', ':', '"', '|', '?', '*']) || name.ends_with(['.', ' ']));
    let unsafe_name = name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0']);
    if unsafe_name || reserved || foreign || name.len() > 255 {
        return Err(ExportError::UnsafeName { folder, name: name.to_owned() });
    }
    Ok(())
}

/// Whether a link that stands `depth` folders deep (1 is the exported folder itself) leads to a place inside. `..` counts
/// only at the beginning, where the folders are known to be no links; since then every link stays inside, so does a
/// path over several.
fn stays_inside(target: &str, depth: usize) -> bool {
    let drive = target.as_bytes().get(1) == Some(&b':');
    if target.is_empty() || target.starts_with('/') || target.contains(['\\', '\0']) || drive {
        return false;
    }
    let mut parts = target.split('/').filter(|part| !part.is_empty() && *part != ".").peekable();
    let mut up = 0;
    while parts.next_if_eq(&"..").is_some() {
        up += 1;
    }
    depth > 0 && up < depth && parts.all(|part| part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside_even_over_other_links() {
        assert!(stays_inside("sibling", 1));
        assert!(stays_inside("../sibling", 2));
        assert!(stays_inside("./a/./b", 1));
        for (target, depth) in
            [("..", 1), ("../x", 1), ("a/../..", 3), ("/etc/passwd", 3), ("c:x", 3), ("a\\b", 3), ("", 3), ("x", 0)]
        {
            assert!(!stays_inside(target, depth), "{target:?} at {depth}");
        }
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        for name in
            ["", ".", "..", "a/b", "a\\b", "a\0", "CON", "nul.txt", "Com1", "LPT9.tar.gz", "CONIN$", "aux ", "lpt¹"]
        {
            assert!(check_name(Cid::default(), name).is_err(), "{name:?}");
        }
        for name in ["a", "...", "con2", "company", "com", "comet1", "ñ", "a b", ".hidden"] {
            assert_eq!(check_name(Cid::default(), name).is_err(), name == "com_", "{name:?}");
        }
    }
}
