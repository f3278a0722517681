//! Writing the index log anew, beside readers and writers.

use std::sync::atomic::Ordering;

use super::{
    SegmentStore,
    index::Place,
    index_log::{LogEntry, NewLog, entry_bytes},
    key::Key,
    record::Kind,
    segment::{Failed, log_path},
};

/// Blocks looked at while writers wait.
const PAGE: usize = 1024;

impl SegmentStore {
    pub(super) fn rewrite_log_due(&self) -> bool {
        self.log.lock().entries > 2 * self.index.read().blocks.len() as u64 + (64 << 10)
    }

    /// Writes the log anew with what is live. Readers and writers go on meanwhile; called by compaction alone, so that no
    /// block changes its place.
    pub(super) fn rewrite_log(&self) -> Result<(), Failed> {
        self.flush_all()?;
        let path = log_path(&self.folder);
        let mut new = NewLog::begin(&*self.disk, &path)?;
        // What lies before `place` comes from the index, all else from what is appended to the old log meanwhile.
        let (place, undone) = {
            let mut log = self.log.lock();
            let writer = self.writer.lock();
            log.remember();
            let first = writer.pending.first().map(|(_, entry)| (entry.segment, entry.offset));
            (first.unwrap_or((writer.segment, writer.end as u32)), self.undone.load(Ordering::Acquire))
        };
        let written = self.write_live(&mut new, place);
        let mut log = self.log.lock();
        let since = log.remembered();
        written?;
        let writer = self.writer.lock();
        if undone != self.undone.load(Ordering::Acquire) {
            // A block that came back may have been passed over. The old log is as good; the next time, then.
            return Ok(());
        }
        for entry in &since {
            new.push(entry)?;
        }
        *log = new.install(&*self.disk)?;
        let pending: u64 = writer.pending.iter().map(|(_, entry)| entry_bytes(&entry.key)).sum();
        self.log_bytes.store(log.end + pending, Ordering::Relaxed);
        Ok(())
    }

    fn write_live(&self, new: &mut NewLog, place: (u32, u32)) -> Result<(), Failed> {
        let before = |found: &Place| (found.segment, found.offset) < place;
        let mut after: Option<Key> = None;
        loop {
            let page: Vec<(Key, Place)> = {
                let index = self.index.read();
                index.blocks.after(after.as_ref()).take(PAGE).map(|(key, place)| (key.clone(), *place)).collect()
            };
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, found) in page.iter().filter(|(_, found)| before(found)) {
                new.push(&LogEntry::of(Kind::Block, key, found))?;
            }
        }
        let damaged: Vec<(Key, Place)> = {
            let index = self.index.read();
            index.damaged.iter().filter_map(|(key, place)| Some((key.clone(), (*place)?))).collect()
        };
        for (key, found) in damaged.iter().filter(|(_, found)| before(found)) {
            new.push(&LogEntry::of(Kind::Damaged, key, found))?;
        }
        Ok(new.checkpoint(place)?)
    }
}
