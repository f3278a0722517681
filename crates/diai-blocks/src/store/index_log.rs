//! The index log: one entry for each durable record, appended lazily, so that opening a store need not read the
//! segments. It may lag behind and its end may be torn: what it lacks is scanned from the segments.
//!
//! An entry is `crc u32 | kind u8 | hash_len u8 | 0 u16 | segment u32 | offset u32 | data_len u32 | hash`.

use std::{io, sync::Arc};

use diai_core::{Disk, DiskFile, OpenMode};

use super::{index::Place, key::Key, record::Kind};

const MAGIC: &[u8; 8] = b"diaiidx1";
const ENTRY_BYTES: usize = 20;
/// Everything before this place in the segments is in the log.
const CHECKPOINT: u8 = 3;
const CHUNK_BYTES: usize = 1 << 20;

#[derive(Debug, Clone)]
pub(super) struct LogEntry {
    pub(super) kind: Kind,
    pub(super) key: Key,
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) data_len: u32,
}

impl LogEntry {
    pub(super) fn of(kind: Kind, key: &Key, place: &Place) -> Self {
        let Place { segment, offset, data_len, .. } = *place;
        Self { kind, key: key.clone(), segment, offset, data_len }
    }
}

/// Bytes that the entry of `key` takes.
pub(super) fn entry_bytes(key: &Key) -> u64 {
    (ENTRY_BYTES + key.len()) as u64
}

pub(super) enum Replayed {
    Entry(LogEntry),
    Checkpoint { segment: u32, offset: u32 },
}

pub(super) struct IndexLog {
    file: Arc<dyn DiskFile>,
    pub(super) end: u64,
    pub(super) entries: u64,
    /// A write failed: nothing more is appended, the next opening scans.
    broken: bool,
    /// While a new log is written beside this one: what was appended meanwhile, which belongs into both.
    since: Option<Vec<LogEntry>>,
}

/// A log that is being written to take the place of another.
pub(super) struct NewLog {
    log: IndexLog,
    path: String,
    waiting: Vec<u8>,
}

impl IndexLog {
    /// Opens the log, hands each entry to `apply`, and cuts off what is torn.
    pub(super) fn replay(disk: &dyn Disk, path: &str, mut apply: impl FnMut(Replayed)) -> io::Result<Self> {
        let file = disk.open(path, OpenMode::ReadWrite)?;
        let length = file.len()?;
        let mut magic = [0; MAGIC.len()];
        let mut log = Self { file, end: MAGIC.len() as u64, entries: 0, broken: false, since: None };
        if log.file.read_at(0, &mut magic)? != magic.len() || magic != *MAGIC {
            log.file.set_len(0)?;
            log.file.write_at(0, MAGIC)?;
            return Ok(log);
        }
        let mut chunk = Vec::new();
        loop {
            chunk.resize(CHUNK_BYTES.min((length - log.end) as usize), 0);
            log.file.read_exact_at(log.end, &mut chunk)?;
            let mut used = 0;
            while let Some((replayed, bytes)) = decode(&chunk[used..]) {
                apply(replayed);
                used += bytes;
                log.entries += 1;
            }
            log.end += used as u64;
            if used == 0 {
                break;
            }
        }
        if log.end < length {
            log.file.set_len(log.end)?;
        }
        Ok(log)
    }

    /// Appends `entries`, whose records are durable. Not synced: it is only a shortcut.
    pub(super) fn append(&mut self, entries: &[LogEntry]) {
        if let Some(since) = &mut self.since {
            since.extend_from_slice(entries);
        }
        if self.broken || entries.is_empty() {
            return;
        }
        let mut bytes = Vec::with_capacity(entries.len() * 54);
        for entry in entries {
            encode(&mut bytes, entry);
        }
        match self.file.write_at(self.end, &bytes) {
            Ok(()) => {
                self.end += bytes.len() as u64;
                self.entries += entries.len() as u64;
            }
            Err(error) => {
                tracing::warn!(%error, "the index log cannot be written; the next opening will take longer");
                self.broken = true;
            }
        }
    }

    /// Remembers from now on what is appended, for a new log that is begun.
    pub(super) fn remember(&mut self) {
        self.since = Some(Vec::new());
    }

    /// What was appended since [`remember`](Self::remember).
    pub(super) fn remembered(&mut self) -> Vec<LogEntry> {
        self.since.take().unwrap_or_default()
    }
}

impl NewLog {
    pub(super) fn begin(disk: &dyn Disk, path: &str) -> io::Result<Self> {
        let temporary = format!("{path}.new");
        match disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.open(&temporary, OpenMode::CreateNew)?;
        let log = IndexLog { file, end: 0, entries: 0, broken: false, since: None };
        Ok(Self { log, path: path.into(), waiting: MAGIC.to_vec() })
    }

    pub(super) fn push(&mut self, entry: &LogEntry) -> io::Result<()> {
        encode(&mut self.waiting, entry);
        self.log.entries += 1;
        if self.waiting.len() >= CHUNK_BYTES { self.write() } else { Ok(()) }
    }

    /// Says that all that was pushed is all that is live before the place `segment`, `offset`, and makes it durable.
    pub(super) fn checkpoint(&mut self, (segment, offset): (u32, u32)) -> io::Result<()> {
        seal(&mut self.waiting, CHECKPOINT, None, (segment, offset, 0));
        self.log.entries += 1;
        self.write()?;
        self.log.file.sync()
    }

    fn write(&mut self) -> io::Result<()> {
        self.log.file.write_at(self.log.end, &self.waiting)?;
        self.log.end += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// Takes the place of the other log.
    pub(super) fn install(mut self, disk: &dyn Disk) -> io::Result<IndexLog> {
        self.write()?;
        disk.rename(&format!("{}.new", self.path), &self.path)?;
        disk.sync_folder(self.path.rsplit_once('/').map_or("", |(folder, _)| folder))?;
        Ok(self.log)
    }
}

fn encode(out: &mut Vec<u8>, entry: &LogEntry) {
    seal(out, entry.kind.byte(), Some(&entry.key), (entry.segment, entry.offset, entry.data_len));
}

fn seal(out: &mut Vec<u8>, kind: u8, key: Option<&Key>, (segment, offset, data_len): (u32, u32, u32)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, kind, key.map_or(0, Key::len) as u8, 0, 0]);
    for word in [segment, offset, data_len] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    if let Some(key) = key {
        key.write_to(out);
    }
    let checksum = crc32fast::hash(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
}

fn decode(bytes: &[u8]) -> Option<(Replayed, usize)> {
    let used = ENTRY_BYTES + usize::from(*bytes.get(5)?);
    let bytes = bytes.get(..used)?;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if crc32fast::hash(&bytes[4..]) != word(0) {
        return None;
    }
    let (segment, offset, data_len) = (word(8), word(12), word(16));
    if bytes[4] == CHECKPOINT {
        return Some((Replayed::Checkpoint { segment, offset }, used));
    }
    let (kind, key) = (Kind::from_byte(bytes[4])?, Key::from_bytes(&bytes[ENTRY_BYTES..])?);
    Some((Replayed::Entry(LogEntry { kind, key, segment, offset, data_len }), used))
}
