use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
};

use diai_core::{Disk, DiskFile, DiskLock, Entry, OpenMode, memory::MemoryDisk};

/// A disk whose syncs can be held up or made to fail, and whose writes can fail after they were made.
#[derive(Clone, Default)]
pub(crate) struct FaultyDisk {
    inner: MemoryDisk,
    pub(crate) faults: Arc<Faults>,
}

#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) failing: AtomicBool,
    pub(crate) failing_writes: AtomicBool,
    /// Once set, told when a sync begins, which then waits for the gate.
    pub(crate) entered: Mutex<Option<Sender<()>>>,
    pub(crate) gate: Mutex<()>,
}

struct FaultyFile {
    inner: Arc<dyn DiskFile>,
    faults: Arc<Faults>,
}

impl Disk for FaultyDisk {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(FaultyFile { inner: self.inner.open(path, mode)?, faults: self.faults.clone() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn create_folder(&self, path: &str) -> io::Result<()> {
        self.inner.create_folder(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        self.inner.list(path)
    }

    fn entry(&self, path: &str) -> io::Result<Entry> {
        self.inner.entry(path)
    }

    fn read_link(&self, path: &str) -> io::Result<String> {
        self.inner.read_link(path)
    }

    fn create_link(&self, path: &str, target: &str) -> io::Result<()> {
        self.inner.create_link(path, target)
    }

    fn sync_folder(&self, path: &str) -> io::Result<()> {
        self.inner.sync_folder(path)
    }

    fn lock(&self, path: &str) -> io::Result<DiskLock> {
        self.inner.lock(path)
    }
}

impl DiskFile for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, data)?;
        let failing = self.faults.failing_writes.load(Ordering::Acquire);
        if failing { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        if let Some(entered) = self.faults.entered.lock().unwrap().as_ref() {
            let _ = entered.send(());
            drop(self.faults.gate.lock().unwrap());
        }
        if self.faults.failing.load(Ordering::Acquire) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}
