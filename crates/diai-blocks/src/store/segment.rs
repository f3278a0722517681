use std::{
    collections::BTreeSet,
    fmt, io,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cid::Cid;
use diai_core::{Disk, DiskFile, DiskLock, OpenMode};
use parking_lot::{Condvar, Mutex, RwLock};

use super::{
    Checked, DamageFn, Multihash, Store, StoreConfig, StoreStats, StoredBlock,
    compact::Compaction,
    index::{Index, Place},
    index_log::{IndexLog, LogEntry, entry_bytes},
    key::Key,
    record::{Encoded, Group, Kind, SEGMENT_MAGIC},
    recover,
};
use crate::{Block, FlushError, GetError, OpenStoreError, PutError, RAW, RemoveError};

/// What is written at once at most; a put of more makes several writes.
const GROUP_BYTES: usize = 4 << 20;
/// So many records may wait for a flush; then a put flushes by itself.
const MAX_UNFLUSHED_RECORDS: usize = 64 << 10;
/// And so many bytes: what the next opening has to read at most after a crash.
const MAX_UNFLUSHED_BYTES: u64 = 128 << 20;

/// Blocks on disk: append-only segment files of checksummed records, and a log of where they are.
///
/// A put is one write; flushes at the same time share one sync. Opening replays the log and scans what was written
/// after it; a torn end, which was never flushed, is cut off. Removal writes tombstones; [`Store::compact`] gives the
/// space back. Readers never wait for the disk of a writer.
///
/// A second process on the same folder gets [`OpenStoreError::InUse`].
pub struct SegmentStore {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folder: String,
    config: StoreConfig,
    _lock: DiskLock,
    /// Held only while memory is read or changed, never while the disk works.
    pub(super) index: RwLock<Index>,
    pub(super) writer: Mutex<Writer>,
    syncing: Mutex<Syncing>,
    synced: Condvar,
    pub(super) log: Mutex<IndexLog>,
    pub(super) compaction: Mutex<Option<Compaction>>,
    generation: AtomicU32,
    failed: AtomicBool,
    pub(super) found_damaged: AtomicU64,
    syncs: AtomicU64,
    /// With the entries that wait for a flush.
    pub(super) log_bytes: AtomicU64,
    /// Removals whose blocks came back because they could not be written.
    pub(super) undone: AtomicU64,
    pub(super) on_damage: Mutex<Option<DamageFn>>,
}

pub(super) struct Writer {
    pub(super) segment: u32,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) end: u64,
    /// Bytes appended since the store was opened: what flushes wait for.
    pub(super) sequence: u64,
    /// Of the last sync.
    synced: u64,
    /// Records that the log does not have, each with the sequence after it.
    pub(super) pending: Vec<(u64, LogEntry)>,
}

#[derive(Default)]
struct Syncing {
    synced: u64,
    busy: bool,
}

impl fmt::Debug for SegmentStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentStore").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl SegmentStore {
    /// Opens the store in `folder` of `disk`, or makes it. Blocks: about a second for some million blocks.
    pub fn open(disk: Arc<dyn Disk>, folder: &str, config: StoreConfig) -> Result<Self, OpenStoreError> {
        if !((4 << 20)..=(1 << 30)).contains(&config.segment_bytes) {
            return Err(OpenStoreError::Config("segment_bytes must be from 4 MiB to 1 GiB"));
        }
        disk.create_folder(folder)?;
        let lock = disk.lock(&format!("{folder}/lock")).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenStoreError::InUse { folder: folder.into() },
            _ => OpenStoreError::Io(error),
        })?;
        let recovered = recover::recover(&*disk, folder)?;
        let store = Self {
            disk,
            folder: folder.into(),
            config,
            _lock: lock,
            index: RwLock::new(recovered.index),
            writer: Mutex::new(Writer {
                segment: recovered.segment,
                file: recovered.file,
                end: recovered.end,
                sequence: 0,
                synced: 0,
                pending: Vec::new(),
            }),
            syncing: Mutex::default(),
            synced: Condvar::new(),
            log_bytes: AtomicU64::new(recovered.log.end),
            log: Mutex::new(recovered.log),
            compaction: Mutex::new(None),
            generation: AtomicU32::new(0),
            failed: AtomicBool::new(false),
            found_damaged: AtomicU64::new(recovered.damaged),
            syncs: AtomicU64::new(0),
            undone: AtomicU64::new(0),
            on_damage: Mutex::default(),
        };
        store.mark_damaged();
        Ok(store)
    }

    pub(super) fn check_failed(&self) -> Result<(), Failed> {
        if self.failed.load(Ordering::Acquire) { Err(Failed::Earlier) } else { Ok(()) }
    }

    pub(super) fn fail(&self, error: io::Error) -> Failed {
        self.failed.store(true, Ordering::Release);
        Failed::Now(error)
    }

    /// Appends `group` and makes its records readable. `keep_older` says whether a block that is there already stays
    /// where it is.
    pub(super) fn append(&self, writer: &mut Writer, group: Group, keep_older: bool) -> Result<(), Failed> {
        self.check_failed()?;
        let length = group.bytes.len() as u64;
        if writer.end + length > self.config.segment_bytes && writer.end > SEGMENT_MAGIC.len() as u64 {
            self.roll(writer)?;
        }
        if let Err(error) = writer.file.write_at(writer.end, &group.bytes) {
            // What it left behind the end must not be found by the next opening; the next flush makes that durable.
            writer.file.set_len(writer.end).map_err(|error| self.fail(error))?;
            writer.sequence += 1;
            return Err(error.into());
        }
        let mut index = self.index.write();
        for Encoded { kind, key, offset, data_len, touched } in group.records {
            let offset = writer.end as u32 + offset;
            let entry = LogEntry { kind, key: key.clone(), segment: writer.segment, offset, data_len };
            self.log_bytes.fetch_add(entry_bytes(&key), Ordering::Relaxed);
            writer.pending.push((writer.sequence + length, entry));
            let place = Place { segment: writer.segment, offset, data_len, touched };
            match (kind, index.blocks.get_mut(&key)) {
                (Kind::Block, Some(older)) if keep_older => older.touched = older.touched.max(touched),
                (Kind::Block, older) => {
                    let touched = older.map_or(touched, |older| older.touched.max(touched));
                    index.insert(key, Place { touched, ..place });
                }
                // Whoever writes a tombstone has taken the block out of the index before.
                (Kind::Tombstone, _) => index.buried(&key, writer.segment),
                (Kind::Damaged, _) => index.set_aside(key, Some(place)),
            }
        }
        writer.end += length;
        writer.sequence += length;
        index.grow(writer.segment, writer.end);
        Ok(())
    }

    /// Begins the next segment. The full one is synced, so that only the last can ever be torn.
    fn roll(&self, writer: &mut Writer) -> Result<(), Failed> {
        writer.file.sync().map_err(|error| self.fail(error))?;
        let id = writer.segment + 1;
        let file = create_segment(&*self.disk, &self.folder, id)?;
        self.index.write().add_segment(id, file.clone(), SEGMENT_MAGIC.len() as u64);
        (writer.segment, writer.file, writer.end) = (id, file, SEGMENT_MAGIC.len() as u64);
        Ok(())
    }

    fn sync(&self) -> Result<u64, Failed> {
        let (file, sequence) = {
            let writer = self.writer.lock();
            (writer.file.clone(), writer.sequence)
        };
        file.sync().map_err(|error| self.fail(error))?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        // The log is locked first, so that a rewrite in between cannot reorder entries.
        let mut log = self.log.lock();
        let entries: Vec<LogEntry> = {
            let mut writer = self.writer.lock();
            writer.synced = writer.synced.max(sequence);
            let durable = writer.pending.partition_point(|(after, _)| *after <= sequence);
            writer.pending.drain(..durable).map(|(_, entry)| entry).collect()
        };
        log.append(&entries);
        Ok(sequence)
    }

    pub(super) fn flush_all(&self) -> Result<(), Failed> {
        let target = self.writer.lock().sequence;
        let mut syncing = self.syncing.lock();
        loop {
            if syncing.synced >= target {
                return Ok(());
            }
            if !syncing.busy {
                break;
            }
            self.synced.wait(&mut syncing);
        }
        self.check_failed()?;
        syncing.busy = true;
        drop(syncing);
        let outcome = self.sync();
        let mut syncing = self.syncing.lock();
        syncing.busy = false;
        self.synced.notify_all();
        syncing.synced = syncing.synced.max(outcome?);
        Ok(())
    }

    /// Puts one group if the quota allows.
    fn put_group(&self, group: Group) -> Result<(), PutError> {
        let mut writer = self.writer.lock();
        let needed_bytes =
            group.bytes.len() as u64 + group.records.iter().map(|record| entry_bytes(&record.key)).sum::<u64>();
        let stats = self.stats();
        // A segment may have to be begun.
        if stats.disk_bytes + needed_bytes + SEGMENT_MAGIC.len() as u64 > self.config.quota_bytes {
            return Err(PutError::QuotaExceeded {
                needed_bytes,
                quota_bytes: self.config.quota_bytes,
                live_bytes: stats.disk_bytes - stats.dead_bytes,
                dead_bytes: stats.dead_bytes,
            });
        }
        self.append(&mut writer, group, true)?;
        let unflushed = (writer.pending.len(), writer.sequence - writer.synced);
        drop(writer);
        if unflushed.0 > MAX_UNFLUSHED_RECORDS || unflushed.1 > MAX_UNFLUSHED_BYTES {
            self.flush_all()?;
        }
        Ok(())
    }

    /// Marks the blocks that are here, and returns the others, each once.
    fn missing<'a>(&self, blocks: &'a [Block], generation: u32) -> Vec<(Key, &'a Block)> {
        let mut index = self.index.write();
        let mut seen = BTreeSet::new();
        let mut missing = Vec::new();
        for block in blocks {
            let key = Key::from(block.cid.hash());
            match index.blocks.get_mut(&key) {
                Some(place) => place.touched = generation,
                None if seen.insert(key.clone()) => missing.push((key, block)),
                None => {}
            }
        }
        missing
    }

    /// Takes out of the index what `wanted` chooses, and writes tombstones for it. `forget` says whether blocks that were
    /// set aside are forgotten too.
    fn remove_keys(&self, keys: Vec<Key>, forget: bool, wanted: impl Fn(&Place) -> bool) -> Result<(u64, u64), Failed> {
        // Puts of the same blocks wait for this lock, so that they come after the tombstones.
        let mut writer = self.writer.lock();
        self.check_failed()?;
        let mut removed = Vec::new();
        let mut group = Group::default();
        {
            let mut index = self.index.write();
            for key in keys {
                if index.blocks.get(&key).is_some_and(&wanted) {
                    let place = index.remove(&key).expect("found a line before");
                    group.push(Kind::Tombstone, key.clone(), &[], 0);
                    removed.push((key, place));
                } else if forget && index.heal(&key) {
                    group.push(Kind::Tombstone, key, &[], 0);
                }
            }
        }
        if group.is_empty() {
            return Ok((0, 0));
        }
        if let Err(error) = self.append(&mut writer, group, true) {
            self.undone.fetch_add(1, Ordering::Release);
            let mut index = self.index.write();
            for (key, place) in removed {
                index.insert(key, place);
            }
            return Err(error);
        }
        Ok((removed.len() as u64, removed.iter().map(|(_, place)| u64::from(place.data_len)).sum()))
    }
}

pub(super) fn log_path(folder: &str) -> String {
    format!("{folder}/index.log")
}

pub(super) fn segment_path(folder: &str, id: u32) -> String {
    format!("{folder}/{id:08}.segment")
}

pub(super) fn create_segment(disk: &dyn Disk, folder: &str, id: u32) -> io::Result<Arc<dyn DiskFile>> {
    let path = segment_path(folder, id);
    // A leftover of a roll that failed half-way holds nothing.
    match disk.remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.open(&path, OpenMode::CreateNew)?;
    file.write_at(0, SEGMENT_MAGIC)?;
    file.sync()?;
    disk.sync_folder(folder)?;
    Ok(file)
}

/// Why nothing can be written.
#[derive(Debug)]
pub(super) enum Failed {
    /// An earlier sync failed.
    Earlier,
    Now(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Now(error)
    }
}

macro_rules! from_failed {
    ($($error:ident),*) => {$(
        impl From<Failed> for $error {
            fn from(failed: Failed) -> Self {
                match failed {
                    Failed::Earlier => Self::Failed,
                    Failed::Now(error) => Self::Io(error),
                }
            }
        }
    )*};
}
from_failed!(PutError, RemoveError, FlushError);

impl Store for SegmentStore {
    fn put(&self, blocks: &[Block]) -> Result<(), PutError> {
        let generation = self.generation.load(Ordering::Acquire);
        let mut group = Group::default();
        for (key, block) in self.missing(blocks, generation) {
            if !group.is_empty() && group.bytes.len() + block.data.len() > GROUP_BYTES {
                self.put_group(std::mem::take(&mut group))?;
            }
            group.push(Kind::Block, key, &block.data, generation);
        }
        if group.is_empty() { self.check_failed().map_err(Into::into) } else { self.put_group(group) }
    }

    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, GetError> {
        self.read(cid, self.config.verify_reads)
    }

    fn has(&self, cid: &Cid) -> bool {
        self.index.read().blocks.contains_key(&Key::from(cid.hash()))
    }

    fn touch(&self, cid: &Cid) -> bool {
        let generation = self.generation.load(Ordering::Acquire);
        let mut index = self.index.write();
        index.blocks.get_mut(&Key::from(cid.hash())).map(|place| place.touched = generation).is_some()
    }

    fn remove(&self, cids: &[Cid]) -> Result<(), RemoveError> {
        self.remove_keys(cids.iter().map(|cid| Key::from(cid.hash())).collect(), true, |_| true)?;
        Ok(())
    }

    fn begin_generation(&self) -> u32 {
        // One that never ends only keeps more than it must.
        let next = |now: u32| now.saturating_add(1);
        next(
            self.generation
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| Some(next(now)))
                .unwrap_or_else(|now| now),
        )
    }

    fn collect(&self, hashes: &[Multihash], before: u32) -> Result<(u64, u64), RemoveError> {
        Ok(self.remove_keys(hashes.iter().map(Key::from).collect(), false, |place| place.touched < before)?)
    }

    fn flush(&self) -> Result<(), FlushError> {
        Ok(self.flush_all()?)
    }

    fn compact(&self) -> Result<bool, PutError> {
        Ok(self.compact_step()?)
    }

    fn list(&self, after: Option<&Multihash>, limit: usize) -> Vec<StoredBlock> {
        let index = self.index.read();
        let blocks = index.blocks.after(after.map(Key::from).as_ref()).take(limit);
        blocks.map(|(key, place)| StoredBlock { hash: key.multihash(), bytes: place.data_len }).collect()
    }

    fn size(&self, cid: &Cid) -> Option<u32> {
        self.index.read().blocks.get(&Key::from(cid.hash())).map(|place| place.data_len)
    }

    fn check(&self, hash: &Multihash) -> Result<Checked, GetError> {
        match self.read(&Cid::new_v1(RAW, *hash), true) {
            Ok(found) => Ok(found.map_or(Checked::Absent, |_| Checked::Whole)),
            Err(GetError::Damaged { .. }) => Ok(Checked::Damaged),
            Err(error) => Err(error),
        }
    }

    fn quarantined(&self, after: Option<&Multihash>, limit: usize) -> Vec<Multihash> {
        let from = after.map_or(Bound::Unbounded, |hash| Bound::Excluded(Key::from(hash)));
        let index = self.index.read();
        index.damaged.range((from, Bound::Unbounded)).take(limit).map(|(key, _)| key.multihash()).collect()
    }

    fn is_quarantined(&self, hash: &Multihash) -> bool {
        self.index.read().damaged.contains_key(&Key::from(hash))
    }

    fn on_damage(&self, told: DamageFn) {
        *self.on_damage.lock() = Some(told);
    }

    fn stats(&self) -> StoreStats {
        let index = self.index.read();
        let live = index.live_bytes + (index.segments.len() * SEGMENT_MAGIC.len()) as u64;
        StoreStats {
            blocks: index.blocks.len() as u64,
            data_bytes: index.data_bytes,
            disk_bytes: index.file_bytes + self.log_bytes.load(Ordering::Relaxed),
            dead_bytes: index.file_bytes.saturating_sub(live),
            quota_bytes: self.config.quota_bytes,
            segments: index.segments.len() as u64,
            quarantined: index.damaged.len() as u64,
            damaged: self.found_damaged.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
        }
    }
}
