//! Opening: the log is replayed, what was written after it is scanned, and a torn end is cut off.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    sync::Arc,
};

use diai_core::{Disk, DiskFile, EntryKind, OpenMode};

use super::{
    index::{Index, Place},
    index_log::{IndexLog, LogEntry, NewLog, Replayed},
    key::Key,
    record::{Kind, SEGMENT_MAGIC, Scanner, record_bytes},
    segment::{create_segment, log_path, segment_path},
    table::{Table, prefix},
};
use crate::OpenStoreError;

const FIRST: u64 = SEGMENT_MAGIC.len() as u64;
/// Of an entry of the log.
const LEAST_ENTRY_BYTES: u64 = 54;
/// Of entries that are applied together: 64 bytes each.
const MAX_WAITING: usize = 1 << 20;

pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) log: IndexLog,
    /// The segment that is written on, and where.
    pub(super) segment: u32,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) end: u64,
    pub(super) damaged: u64,
}

pub(super) fn recover(disk: &dyn Disk, folder: &str) -> Result<Recovered, OpenStoreError> {
    let mut index = Index::default();
    let last = open_segments(disk, folder, &mut index)?;
    let Some(last) = last else {
        let file = create_segment(disk, folder, 1)?;
        index.add_segment(1, file.clone(), FIRST);
        let log = rewrite(disk, folder, &index, (1, FIRST as u32))?;
        return Ok(Recovered { index, log, segment: 1, file, end: FIRST, damaged: 0 });
    };
    let logged = disk.entry(&log_path(folder)).map_or(0, |entry| entry.bytes);
    index.blocks = Table::with_capacity((logged / LEAST_ENTRY_BYTES) as usize);
    let mut damaged = 0;
    // Everything before this place is in the log.
    let mut covered = (0, FIRST);
    let mut waiting = Waiting::default();
    let mut log = IndexLog::replay(disk, &log_path(folder), |replayed| match replayed {
        Replayed::Checkpoint { segment, offset } => covered = (segment, u64::from(offset)),
        Replayed::Entry(entry) => {
            let after = u64::from(entry.offset) + record_bytes(&entry.key, entry.data_len);
            covered = (entry.segment, after);
            // The segment is gone when it was compacted: the entry of the copy follows.
            let Some(segment) = index.segments.get(&entry.segment) else { return };
            let held = after <= segment.bytes;
            damaged += u64::from(!held);
            waiting.add(&mut index, entry, held);
        }
    })?;
    waiting.apply(&mut index);
    let torn = damaged > 0;
    let mut found = Vec::new();
    let end = scan(&mut index, covered, last, &mut damaged, &mut found)?;
    let file = index.segments[&last].file.clone();
    let cut = end < file.len()?;
    if cut {
        file.set_len(end)?;
    }
    // What was found by scanning may never have been synced; from here on it counts as stored.
    if cut || !found.is_empty() {
        file.sync()?;
    }
    log.append(&found);
    let stale = log.entries > 2 * index.blocks.len() as u64 + (64 << 10);
    // Entries of records that are no more would lie in the way of those that come in their place.
    if torn || stale {
        log = rewrite(disk, folder, &index, (last, end as u32))?;
    }
    Ok(Recovered { index, log, segment: last, file, end, damaged })
}

/// Entries of the log that are to be applied, by the first byte of what the index goes by: one part of the index after
/// the other fits the caches of the processor, the whole does not.
#[derive(Default)]
struct Waiting {
    /// With whether the segment holds what the entry says.
    parts: BTreeMap<u8, Vec<(LogEntry, bool)>>,
    entries: usize,
}

impl Waiting {
    fn add(&mut self, index: &mut Index, entry: LogEntry, held: bool) {
        self.parts.entry((prefix(&entry.key) >> 24) as u8).or_default().push((entry, held));
        self.entries += 1;
        if self.entries >= MAX_WAITING {
            self.apply(index);
        }
    }

    fn apply(&mut self, index: &mut Index) {
        for (entry, held) in self.parts.values_mut().flat_map(|part| part.drain(..)) {
            if held { apply(index, entry) } else { index.set_aside(entry.key, None) }
        }
        self.entries = 0;
    }
}

/// A log of all that is live, which is all before `place`.
fn rewrite(disk: &dyn Disk, folder: &str, index: &Index, place: (u32, u32)) -> io::Result<IndexLog> {
    let mut log = NewLog::begin(disk, &log_path(folder))?;
    for (key, place) in index.blocks.after(None) {
        log.push(&LogEntry::of(Kind::Block, key, place))?;
    }
    for (key, place) in &index.damaged {
        if let Some(place) = place {
            log.push(&LogEntry::of(Kind::Damaged, key, place))?;
        }
    }
    log.checkpoint(place)?;
    log.install(disk)
}

fn open_segments(disk: &dyn Disk, folder: &str, index: &mut Index) -> Result<Option<u32>, OpenStoreError> {
    let mut ids: Vec<u32> = Vec::new();
    for entry in disk.list(folder)? {
        if let (EntryKind::File, Some(id)) = (entry.kind, entry.name.strip_suffix(".segment")) {
            ids.extend(id.parse::<u32>());
        }
    }
    ids.sort_unstable();
    for &id in &ids {
        let path = segment_path(folder, id);
        let file = disk.open(&path, OpenMode::ReadWrite)?;
        let mut magic = [0; SEGMENT_MAGIC.len()];
        let read = file.read_at(0, &mut magic)?;
        if magic != *SEGMENT_MAGIC {
            // A segment's head is synced before anything is put into it: the last one may be torn, and is then empty.
            let torn = Some(&id) == ids.last() && (read < magic.len() || magic == [0; SEGMENT_MAGIC.len()]);
            if !torn {
                return Err(OpenStoreError::Format { file: path });
            }
            file.set_len(0)?;
            file.write_at(0, SEGMENT_MAGIC)?;
            file.sync()?;
        }
        let bytes = file.len()?;
        index.add_segment(id, file, bytes);
    }
    Ok(ids.last().copied())
}

/// Applies every record after `covered` and adds it to `found`; returns the end of the last segment's last record.
fn scan(
    index: &mut Index,
    covered: (u32, u64),
    last: u32,
    damaged: &mut u64,
    found: &mut Vec<LogEntry>,
) -> Result<u64, OpenStoreError> {
    // A log of segments that somebody took away covers nothing.
    let covered = if covered.0 > last { (0, FIRST) } else { covered };
    let ids: Vec<u32> = index.segments.range(covered.0..).map(|(id, _)| *id).collect();
    let mut end = FIRST;
    for id in ids {
        let file = index.segments[&id].file.clone();
        let length = index.segments[&id].bytes;
        let from = if id == covered.0 && covered.1 <= length { covered.1.max(FIRST) } else { FIRST };
        let mut scanner = Scanner::new(file, from)?;
        end = from;
        // Damaged, if whole records follow; else it is the torn end.
        let mut doubtful: Vec<Key> = Vec::new();
        loop {
            let scanned = match scanner.next() {
                Ok(Some(scanned)) => scanned,
                Ok(None) => break,
                Err(error) if error.kind() == ErrorKind::InvalidData => break,
                Err(error) => return Err(error.into()),
            };
            if !scanned.whole {
                doubtful.push(scanned.key);
                continue;
            }
            *damaged += doubtful.len() as u64;
            doubtful.drain(..).for_each(|key| index.set_aside(key, None));
            let data_len = scanned.data.len() as u32;
            let entry =
                LogEntry { kind: scanned.kind, key: scanned.key, segment: id, offset: scanned.offset, data_len };
            found.push(entry.clone());
            apply(index, entry);
            end = scanner.offset();
        }
        if id != last {
            *damaged += doubtful.len() as u64 + u64::from(scanner.offset() < length);
            doubtful.into_iter().for_each(|key| index.set_aside(key, None));
        }
    }
    index.cut(last, end);
    Ok(end)
}

fn apply(index: &mut Index, entry: LogEntry) {
    let LogEntry { kind, key, segment, offset, data_len } = entry;
    let place = Place { segment, offset, data_len, touched: 0 };
    match kind {
        Kind::Block => index.insert(key, place),
        Kind::Tombstone => {
            index.remove(&key);
            index.heal(&key);
            index.buried(&key, segment);
        }
        Kind::Damaged => index.set_aside(key, Some(place)),
    }
}
