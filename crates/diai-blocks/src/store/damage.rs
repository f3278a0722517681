//! Reading, and what becomes of blocks that are not any more what was stored.

use std::{io, sync::atomic::Ordering};

use bytes::Bytes;
use cid::Cid;

use super::{
    SegmentStore,
    index::Place,
    key::Key,
    record::{Group, Kind, data_offset},
};
use crate::{GetError, block};

impl SegmentStore {
    /// The data of `cid`; a block that turns out to be damaged is set aside.
    pub(super) fn read(&self, cid: &Cid, verify: bool) -> Result<Option<Bytes>, GetError> {
        let key = Key::from(cid.hash());
        let (place, file) = {
            let index = self.index.read();
            let Some(place) = index.blocks.get(&key).copied() else { return Ok(None) };
            (place, index.segments[&place.segment].file.clone())
        };
        let mut data = vec![0; place.data_len as usize];
        match file.read_exact_at(data_offset(&key, place.offset), &mut data) {
            Ok(()) if !verify || block::verify(cid, &data).is_ok() => return Ok(Some(data.into())),
            Err(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
                return Err(GetError::Io { cid: *cid, source });
            }
            _ => {}
        }
        self.quarantine(&key, place);
        Err(GetError::Damaged { cid: *cid })
    }

    /// Sets a damaged block aside: it counts as missing, also after the store was opened again, until it is put again
    /// or removed. Its bytes stay where they are until compaction comes by.
    pub(super) fn quarantine(&self, key: &Key, found: Place) {
        let mut writer = self.writer.lock();
        {
            let mut index = self.index.write();
            if !index.blocks.get(key).is_some_and(|place| place.is_at(found.segment, found.offset)) {
                return;
            }
            index.set_aside(key.clone(), None);
        }
        self.found_damaged.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(hash = ?key.multihash(), segment = found.segment, "a stored block is damaged and was set aside");
        let mut group = Group::default();
        group.push(Kind::Damaged, key.clone(), &[], 0);
        if self.append(&mut writer, group, true).is_err() {
            tracing::warn!("that a block is damaged could not be written; it is found out again after a restart");
        }
        drop(writer);
        let told = self.on_damage.lock().clone();
        if let Some(told) = told {
            told(key.multihash());
        }
    }

    /// Writes down what opening the store found damaged.
    pub(super) fn mark_damaged(&self) {
        let mut writer = self.writer.lock();
        let mut group = Group::default();
        for (key, _) in self.index.read().damaged.iter().filter(|(_, place)| place.is_none()) {
            group.push(Kind::Damaged, key.clone(), &[], 0);
        }
        if !group.is_empty() && self.append(&mut writer, group, true).is_err() {
            tracing::warn!("that blocks are damaged could not be written; it is found out again after a restart");
        }
    }
}
