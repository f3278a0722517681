//! Compaction: what lives in a mostly dead segment is appended again, then the segment is dropped. In bounded steps,
//! beside readers and writers.

use std::io;

use super::{
    SegmentStore,
    index::{Place, Segment},
    key::Key,
    record::{Group, Kind, SEGMENT_MAGIC, Scanner},
    segment::{Failed, segment_path},
};

/// What a step copies at most.
const STEP_BYTES: usize = 8 << 20;
/// What is written at once, while writers wait.
const GROUP_BYTES: usize = 2 << 20;

/// Tombstones in closed segments may take this share of the files.
const TOMBSTONE_SHARE: u64 = 4;

/// A segment that is being emptied.
pub(super) struct Compaction {
    segment: u32,
    scanner: Scanner,
}

struct Found {
    kind: Kind,
    key: Key,
    offset: u32,
    data: Vec<u8>,
}

impl SegmentStore {
    /// One bounded step; returns whether there is more to do.
    pub(super) fn compact_step(&self) -> Result<bool, Failed> {
        let mut current = self.compaction.lock();
        let mut compaction = match current.take() {
            Some(compaction) => compaction,
            None => match self.choose()? {
                Some(compaction) => compaction,
                None => {
                    if self.rewrite_log_due() {
                        self.rewrite_log()?;
                    }
                    return Ok(false);
                }
            },
        };
        let mut copied = 0;
        while copied < STEP_BYTES {
            let (found, bytes, ended) = self.gather(&mut compaction)?;
            copied += bytes;
            self.copy(compaction.segment, found)?;
            if ended {
                self.drop_segment(compaction.segment)?;
                return Ok(true);
            }
        }
        *current = Some(compaction);
        Ok(true)
    }

    /// The closed segment with the most bytes to be gained, if more than half of it is. Tombstones are no gain while an
    /// older segment may hold what they bury: when there are too many of them, it is the oldest segment that goes.
    fn choose(&self) -> Result<Option<Compaction>, Failed> {
        let written = self.writer.lock().segment;
        let index = self.index.read();
        let closed = || index.segments.iter().filter(|(id, segment)| **id != written && !segment.kept);
        let oldest = index.segments.keys().next();
        let gain = |(id, segment): &(&u32, &Segment)| {
            let needed = if Some(*id) == oldest { 0 } else { segment.tombstones };
            segment.bytes.saturating_sub(segment.live + needed + SEGMENT_MAGIC.len() as u64)
        };
        let half = |(_, segment): &(&u32, &Segment)| (segment.bytes - SEGMENT_MAGIC.len() as u64) / 2;
        let mostly_dead = closed().filter(|segment| gain(segment) > half(segment)).max_by_key(gain);
        let tombstones: u64 =
            closed().filter(|(id, _)| Some(*id) != oldest).map(|(_, segment)| segment.tombstones).sum();
        let many = tombstones > index.file_bytes / TOMBSTONE_SHARE;
        let Some((&segment, chosen)) = mostly_dead.or_else(|| closed().next().filter(|_| many)) else {
            return Ok(None);
        };
        let scanner = Scanner::new(chosen.file.clone(), SEGMENT_MAGIC.len() as u64)?;
        Ok(Some(Compaction { segment, scanner }))
    }

    /// The next records that may have to live on, the bytes read for them, and whether the segment has ended.
    fn gather(&self, compaction: &mut Compaction) -> Result<(Vec<Found>, usize, bool), Failed> {
        let mut found = Vec::new();
        let mut bytes = 0;
        while bytes < GROUP_BYTES {
            let Some(scanned) = compaction.scanner.next()? else { return Ok((found, bytes, true)) };
            bytes += scanned.data.len() + 64;
            let place = self.index.read().blocks.get(&scanned.key).copied();
            let here = |place: &Place| place.is_at(compaction.segment, scanned.offset);
            match (scanned.kind, place.filter(here)) {
                (Kind::Block, Some(place)) if !scanned.whole => self.quarantine(&scanned.key, place),
                (Kind::Block, None) => {}
                (kind, _) => {
                    found.push(Found { kind, key: scanned.key, offset: scanned.offset, data: scanned.data });
                }
            }
        }
        Ok((found, bytes, false))
    }

    /// Appends those of `found` that still live. A tombstone lives while an older segment might hold its block.
    fn copy(&self, segment: u32, found: Vec<Found>) -> Result<(), Failed> {
        let mut writer = self.writer.lock();
        let mut group = Group::default();
        {
            let index = self.index.read();
            let oldest = index.segments.keys().next() == Some(&segment);
            for Found { kind, key, offset, data } in found {
                let place = index.blocks.get(&key);
                let damaged = index.damaged.get(&key);
                match (kind, place) {
                    (Kind::Block, Some(place)) if place.is_at(segment, offset) => {
                        group.push(kind, key, &data, place.touched);
                    }
                    (Kind::Damaged, None)
                        if damaged.is_some_and(|at| at.is_some_and(|at| at.is_at(segment, offset))) =>
                    {
                        group.push(kind, key, &[], 0);
                    }
                    // Where a block is noted as damaged, that note buries it.
                    (Kind::Tombstone, None) if !oldest && damaged.is_none() => group.push(kind, key, &[], 0),
                    _ => {}
                }
            }
        }
        if group.is_empty() { Ok(()) } else { self.append(&mut writer, group, false) }
    }

    fn drop_segment(&self, id: u32) -> Result<(), Failed> {
        // The copies are durable before the originals go.
        self.flush_all()?;
        {
            let mut index = self.index.write();
            if let Some(segment) = index.segments.get_mut(&id).filter(|segment| segment.live > 0) {
                segment.kept = true;
                // Records behind an unreadable header: the index reaches them, a scan does not.
                tracing::warn!(segment = id, "a segment is damaged and cannot be compacted; it is kept");
                return Ok(());
            }
            index.drop_segment(id);
        }
        match self.disk.remove(&segment_path(&self.folder, id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        // Its tombstones may be dropped once the blocks they bury cannot come back.
        Ok(self.disk.sync_folder(&self.folder)?)
    }
}
