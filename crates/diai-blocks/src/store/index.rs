use std::{collections::BTreeMap, sync::Arc};

use diai_core::DiskFile;

use super::{key::Key, record::record_bytes};

/// Where everything is.
#[derive(Default)]
pub(super) struct Index {
    pub(super) blocks: BTreeMap<Key, Place>,
    pub(super) segments: BTreeMap<u32, Segment>,
    pub(super) data_bytes: u64,
    pub(super) file_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) data_len: u32,
    /// The generation in which it was last put or touched.
    pub(super) touched: u32,
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
        self.remove(&key);
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.live += record_bytes(&key, place.data_len);
            self.data_bytes += u64::from(place.data_len);
            self.blocks.insert(key, place);
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
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.live -= record_bytes(key, place.data_len);
        }
        Some(place)
    }
}
