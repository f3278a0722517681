use std::{collections::BTreeMap, sync::Arc};

use diai_core::DiskFile;

use super::{key::Key, record::record_bytes, table::Table};

/// Where everything is.
#[derive(Default)]
pub(super) struct Index {
    pub(super) blocks: Table,
    /// Blocks that were found damaged and are not here, each with the record that says so, once it is written.
    pub(super) damaged: BTreeMap<Key, Option<Place>>,
    pub(super) segments: BTreeMap<u32, Segment>,
    pub(super) data_bytes: u64,
    pub(super) file_bytes: u64,
    /// Bytes of the records that are pointed to, in all segments.
    pub(super) live_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) data_len: u32,
    /// The generation in which it was last put or touched.
    pub(super) touched: u32,
}

impl Place {
    pub(super) fn is_at(&self, segment: u32, offset: u32) -> bool {
        (self.segment, self.offset) == (segment, offset)
    }
}

pub(super) struct Segment {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) bytes: u64,
    /// Bytes of the records that the index points to.
    pub(super) live: u64,
    /// Bytes of its tombstones.
    pub(super) tombstones: u64,
    /// Compaction found it damaged and leaves it alone.
    pub(super) kept: bool,
}

impl Index {
    pub(super) fn add_segment(&mut self, id: u32, file: Arc<dyn DiskFile>, bytes: u64) {
        self.file_bytes += bytes;
        self.segments.insert(id, Segment { file, bytes, live: 0, tombstones: 0, kept: false });
    }

    pub(super) fn drop_segment(&mut self, id: u32) {
        self.file_bytes -= self.segments.remove(&id).map_or(0, |segment| segment.bytes);
    }

    pub(super) fn grow(&mut self, id: u32, to: u64) {
        let segment = self.segments.get_mut(&id).expect("the segment being written is in the index");
        self.file_bytes += to.saturating_sub(segment.bytes);
        segment.bytes = segment.bytes.max(to);
    }

    pub(super) fn cut(&mut self, id: u32, to: u64) {
        if let Some(segment) = self.segments.get_mut(&id) {
            self.file_bytes -= segment.bytes.saturating_sub(to);
            segment.bytes = segment.bytes.min(to);
        }
    }

    /// Points to `place`, and no more to where the block was.
    pub(super) fn insert(&mut self, key: Key, place: Place) {
        if !self.segments.contains_key(&place.segment) {
            self.remove(&key);
            return;
        }
        self.heal(&key);
        self.gain(&key, &place);
        self.data_bytes += u64::from(place.data_len);
        let key_bytes = record_bytes(&key, 0);
        if let Some(before) = self.blocks.insert(key, place) {
            self.data_bytes -= u64::from(before.data_len);
            self.lose(before.segment, key_bytes + u64::from(before.data_len));
        }
    }

    /// Notes that the tombstone of `key` lies in `segment`.
    pub(super) fn buried(&mut self, key: &Key, segment: u32) {
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.tombstones += record_bytes(key, 0);
        }
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Place> {
        let place = self.blocks.remove(key)?;
        self.data_bytes -= u64::from(place.data_len);
        self.lose(place.segment, record_bytes(key, place.data_len));
        Some(place)
    }

    /// Notes that the block of `key` is damaged, which the record at `place` says, once there is one.
    pub(super) fn set_aside(&mut self, key: Key, place: Option<Place>) {
        self.remove(&key);
        self.heal(&key);
        let place = place.filter(|place| self.segments.contains_key(&place.segment));
        if let Some(place) = &place {
            self.gain(&key, place);
        }
        self.damaged.insert(key, place);
    }

    /// Forgets that the block of `key` was damaged; returns whether it was.
    pub(super) fn heal(&mut self, key: &Key) -> bool {
        let Some(place) = self.damaged.remove(key) else { return false };
        if let Some(place) = place {
            self.lose(place.segment, record_bytes(key, 0));
        }
        true
    }

    fn gain(&mut self, key: &Key, place: &Place) {
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.live += record_bytes(key, place.data_len);
            self.live_bytes += record_bytes(key, place.data_len);
        }
    }

    fn lose(&mut self, segment: u32, bytes: u64) {
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.live -= bytes;
            self.live_bytes -= bytes;
        }
    }
}
