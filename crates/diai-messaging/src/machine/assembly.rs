//! Reassembly of messages of more than one frame.

use bytes::{Bytes, BytesMut};

/// A message that is not whole yet.
#[derive(Debug)]
pub(crate) struct Assembly {
    total: u32,
    buffer: BytesMut,
}

impl Assembly {
    /// A message of `total` bytes that begins with `first`. Its whole length was taken from a window, so it may be
    /// reserved.
    pub(crate) fn new(total: u32, first: &[u8]) -> Self {
        let mut buffer = BytesMut::with_capacity(total as usize);
        buffer.extend_from_slice(first);
        Self { total, buffer }
    }

    pub(crate) fn total(&self) -> u32 {
        self.total
    }

    /// Adds the next bytes; false if they are more than were announced.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.left() {
            return false;
        }
        self.buffer.extend_from_slice(bytes);
        true
    }

    /// Bytes still to come.
    pub(crate) fn left(&self) -> usize {
        self.total as usize - self.buffer.len()
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.left() == 0
    }

    pub(crate) fn finish(self) -> Bytes {
        self.buffer.freeze()
    }
}
