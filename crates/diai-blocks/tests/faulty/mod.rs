#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::Sender,
    },
};

use diai_core::{Disk, DiskFile, DiskLock, Entry, OpenMode, memory::MemoryDisk};

/// A disk whose syncs can be held up or made to fail, whose writes can fail after they were made, and which remembers what
/// it held in the middle of a change.
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
    /// Changes until the one in whose middle the disk is remembered; zero for none.
    countdown: AtomicU64,
    remembered: Mutex<Option<MemoryDisk>>,
}

impl FaultyDisk {
    /// Remembers what the disk holds in the middle of the change number `change`, counted from one.
    pub(crate) fn remember_at(&self, change: u64) {
        *self.faults.remembered.lock().unwrap() = None;
        self.faults.countdown.store(change, Ordering::Release);
    }

    /// What a process finds that starts after another was killed in the middle of that change, or now if it did not come.
    pub(crate) fn after_kill(&self) -> Self {
        self.faults.countdown.store(0, Ordering::Release);
        let remembered = self.faults.remembered.lock().unwrap().take();
        Self { inner: remembered.unwrap_or_else(|| self.inner.snapshot()), faults: Arc::default() }
    }
}

impl Faults {
    /// Called before a change, of which `half` makes a part.
    fn change(&self, disk: &MemoryDisk, half: impl FnOnce()) {
        if self.countdown.load(Ordering::Acquire) > 0 && self.countdown.fetch_sub(1, Ordering::AcqRel) == 1 {
            half();
            *self.remembered.lock().unwrap() = Some(disk.snapshot());
        }
    }
}

struct FaultyFile {
    inner: Arc<dyn DiskFile>,
    disk: MemoryDisk,
    faults: Arc<Faults>,
}

impl Disk for FaultyDisk {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.faults.change(&self.inner, || {});
        let (disk, faults) = (self.inner.clone(), self.faults.clone());
        Ok(Arc::new(FaultyFile { inner: self.inner.open(path, mode)?, disk, faults }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.faults.change(&self.inner, || {});
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.faults.change(&self.inner, || {});
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
        self.faults.change(&self.disk, || self.inner.write_at(offset, &data[..data.len() / 2]).unwrap());
        self.inner.write_at(offset, data)?;
        let failing = self.faults.failing_writes.load(Ordering::Acquire);
        if failing { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.faults.change(&self.disk, || {});
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
