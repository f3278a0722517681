//! Opening: the log is replayed, what was written after it is scanned, and a torn end is cut off.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
};

use diai_core::{Disk, DiskFile, EntryKind, OpenMode};

use super::{
    index::{Index, Place},
    index_log::{IndexLog, LogEntry, Replayed},
    record::{Kind, SEGMENT_MAGIC, Scanner, record_bytes},
    segment::{create_segment, log_path, rewrite, segment_path},
};
use crate::OpenStoreError;

const FIRST: u64 = SEGMENT_MAGIC.len() as u64;

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
        disk.sync_folder(folder)?;
        return Ok(Recovered { index, log, segment: 1, file, end: FIRST, damaged: 0 });
    };
    let mut damaged = 0;
    // Everything before this place is in the log.
    let mut covered = (0, FIRST);
    let log = IndexLog::replay(disk, &log_path(folder), |replayed| match replayed {
        Replayed::Checkpoint { segment, offset } => covered = (segment, u64::from(offset)),
        Replayed::Entry(entry) => {
            let after = u64::from(entry.offset) + record_bytes(&entry.key, entry.data_len);
            covered = (entry.segment, after);
            // The segment is gone when it was compacted: the entry of the copy follows.
            let Some(segment) = index.segments.get(&entry.segment) else { return };
            if after > segment.bytes {
                damaged += 1;
            } else {
                apply(&mut index, entry);
            }
        }
    })?;
    let end = scan(&mut index, covered, last, &mut damaged)?;
    let file = index.segments[&last].file.clone();
    if end < file.len()? {
        file.set_len(end)?;
    }
    // What was found by scanning may never have been synced; from here on it counts as stored.
    file.sync()?;
    let mut recovered = Recovered { index, log, segment: last, file, end, damaged };
    recovered.log = rewrite_if_behind(disk, folder, &recovered, covered)?.unwrap_or(recovered.log);
    Ok(recovered)
}

/// A log that lags or has grown stale is written anew, so that its entries stay in the order of the records.
fn rewrite_if_behind(
    disk: &dyn Disk,
    folder: &str,
    recovered: &Recovered,
    covered: (u32, u64),
) -> io::Result<Option<IndexLog>> {
    let stale = recovered.log.entries > 2 * recovered.index.blocks.len() as u64 + (64 << 10);
    if covered == (recovered.segment, recovered.end) && !stale {
        return Ok(None);
    }
    let log = rewrite(disk, folder, &recovered.index, (recovered.segment, recovered.end as u32))?;
    disk.sync_folder(folder)?;
    Ok(Some(log))
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

/// Applies every record after `covered`; returns the end of the last segment's last record.
fn scan(index: &mut Index, covered: (u32, u64), last: u32, damaged: &mut u64) -> Result<u64, OpenStoreError> {
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
        loop {
            let scanned = match scanner.next() {
                Ok(Some(scanned)) => scanned,
                Ok(None) => break,
                Err(error) if error.kind() == ErrorKind::InvalidData => break,
                Err(error) => return Err(error.into()),
            };
            if !scanned.whole {
                // Torn, or damaged with whole records behind it: those are kept.
                *damaged += u64::from(id != last);
                continue;
            }
            let data_len = scanned.data.len() as u32;
            let entry =
                LogEntry { kind: scanned.kind, key: scanned.key, segment: id, offset: scanned.offset, data_len };
            apply(index, entry);
            end = scanner.offset();
        }
        *damaged += u64::from(id != last && scanner.offset() < length);
    }
    index.cut(last, end);
    Ok(end)
}

fn apply(index: &mut Index, entry: LogEntry) {
    match entry.kind {
        Kind::Block => {
            let LogEntry { segment, offset, data_len, .. } = entry;
            index.insert(entry.key, Place { segment, offset, data_len, touched: 0 });
        }
        Kind::Tombstone => {
            index.remove(&entry.key);
            index.buried(&entry.key, entry.segment);
        }
    }
}
