//! Sealed content written to a disk.

use std::{io, sync::Arc};

use diai_core::{Disk, DiskFile, Offload, OpenMode, offload};

use super::{OpenError, SealedReader};

impl SealedReader<'_> {
    /// Writes everything below `target` of `disk`, which is made as a folder, or, if it is one file without a name, to
    /// `target` itself. Nothing that exists is replaced. Files are durable when it returns. Returns the bytes written.
    ///
    /// Cancel-safety: dropping the future stops it; what was written until then stays.
    pub async fn export(
        mut self,
        disk: Arc<dyn Disk>,
        target: &str,
        pool: &Arc<dyn Offload>,
    ) -> Result<u64, OpenError> {
        let paths: Vec<String> = self.manifest.entries.iter().map(|entry| place(target, &entry.path)).collect();
        let folders = self.folders(target, &paths);
        let maker = disk.clone();
        off(pool, target, move || folders.iter().try_for_each(|folder| maker.create_folder(folder))).await?;
        let mut open: Option<(usize, Arc<dyn DiskFile>, u64)> = None;
        for (entry, path) in self.manifest.entries.iter().zip(&paths) {
            if entry.bytes == 0 && !entry.folder {
                let (disk, at) = (disk.clone(), path.clone());
                off(pool, path, move || disk.open(&at, OpenMode::CreateNew)?.sync()).await?;
            }
        }
        let mut written = 0;
        while let Some((index, piece)) = self.next().await? {
            let (file, at) = match open.take() {
                Some((current, file, at)) if current == index => (file, at),
                done => {
                    if let Some((done, file, _)) = done {
                        off(pool, &paths[done], move || file.sync()).await?;
                    }
                    let (disk, path) = (disk.clone(), paths[index].clone());
                    (off(pool, &paths[index], move || disk.open(&path, OpenMode::CreateNew)).await?, 0)
                }
            };
            let (handle, bytes) = (file.clone(), piece.len() as u64);
            off(pool, &paths[index], move || handle.write_at(at, &piece)).await?;
            written += bytes;
            open = Some((index, file, at + bytes));
        }
        if let Some((done, file, _)) = open {
            off(pool, &paths[done], move || file.sync()).await?;
        }
        Ok(written)
    }

    fn folders(&self, target: &str, paths: &[String]) -> Vec<String> {
        let mut folders = Vec::new();
        for (entry, path) in self.manifest.entries.iter().zip(paths) {
            if entry.folder {
                folders.push(path.clone());
            } else if let Some((parent, _)) = path.rsplit_once('/')
                && !entry.path.is_empty()
            {
                folders.push(parent.to_owned());
            }
        }
        if self.manifest.entries.is_empty() {
            folders.push(target.to_owned());
        }
        folders.sort();
        folders.dedup();
        folders
    }
}

/// Where an entry goes. Paths of a manifest were checked when it was decoded.
fn place(target: &str, path: &str) -> String {
    match (target, path) {
        ("", path) => path.to_owned(),
        (target, "") => target.to_owned(),
        (target, path) => format!("{target}/{path}"),
    }
}

async fn off<T: Send + 'static>(
    pool: &Arc<dyn Offload>,
    path: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, OpenError> {
    let outcome = offload(&**pool, work).await.map_err(|_| OpenError::Closed)?;
    outcome.map_err(|source| OpenError::Io { path: path.to_owned(), source })
}
