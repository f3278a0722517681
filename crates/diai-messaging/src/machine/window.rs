//! Credit, from both ends.

use super::outbound::URGENT;

/// What we let the other side have unfinished.
#[derive(Debug)]
pub(crate) struct Window {
    size: u64,
    left: u64,
    owed: u64,
}

impl Window {
    pub(crate) fn new(size: u32) -> Self {
        Self { size: u64::from(size), left: u64::from(size), owed: 0 }
    }

    /// Takes `bytes`; false if the other side had no credit for them.
    pub(crate) fn take(&mut self, bytes: u32) -> bool {
        let Some(left) = self.left.checked_sub(u64::from(bytes)) else { return false };
        self.left = left;
        true
    }

    /// `bytes` are finished; they are owed to the other side.
    pub(crate) fn finish(&mut self, bytes: u32) {
        self.owed += u64::from(bytes);
    }

    /// Whether enough is owed to be worth a frame. What stays unpaid, less than a quarter, never stops the longest
    /// message, which fits twice.
    pub(crate) fn is_due(&self) -> bool {
        self.owed > 0 && self.owed >= self.size / 4
    }

    /// Pays what is owed.
    pub(crate) fn pay(&mut self) -> u32 {
        let owed = std::mem::take(&mut self.owed);
        self.left = (self.left + owed).min(self.size);
        // Owed is at most the window, which is a u32.
        u32::try_from(owed).unwrap_or(u32::MAX)
    }

    /// Bytes of the other side that are unfinished.
    pub(crate) fn used(&self) -> u64 {
        self.size - self.left - self.owed
    }
}

/// What the other side lets us have unfinished. An eighth is spared for what is urgent: long messages that hold all the
/// rest give it back only when they have arrived. The longest message, which fits twice, always has room beside it.
#[derive(Debug, Default)]
pub(crate) struct Credit {
    left: u64,
    spared: u64,
}

impl Credit {
    /// The other side has said how large its window is; nothing was taken before.
    pub(crate) fn open(&mut self, window_bytes: u32) {
        self.left = u64::from(window_bytes);
        self.spared = self.left / 8;
    }

    pub(crate) fn add(&mut self, bytes: u32) {
        self.left = self.left.saturating_add(u64::from(bytes));
    }

    /// Takes `bytes` for a message of `class`; false if there are too few.
    pub(crate) fn take(&mut self, bytes: usize, class: usize) -> bool {
        let spared = if class == URGENT { 0 } else { self.spared };
        let Some(left) = self.left.checked_sub(bytes as u64).filter(|&left| left >= spared) else { return false };
        self.left = left;
        true
    }
}
