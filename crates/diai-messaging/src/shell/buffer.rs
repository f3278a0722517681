//! The bytes of a session between the stream and the frames.

use diai_core::Instant;

use crate::message::MAX_FRAME_BYTES;

/// Two of the longest frames: reading goes on while one is not whole.
const READ_BYTES: usize = 2 * MAX_FRAME_BYTES;
/// A write buffer larger than this is given back when nothing is to be sent.
const KEPT_BYTES: usize = 16 * 1024;

pub(super) struct ReadBuffer {
    pub(super) bytes: Vec<u8>,
    pub(super) start: usize,
    pub(super) end: usize,
}

#[derive(Default)]
pub(super) struct WriteBuffer {
    pub(super) bytes: Vec<u8>,
    pub(super) sent: usize,
    pub(super) unflushed: bool,
    /// Since when the peer takes nothing.
    pub(super) stalled: Option<Instant>,
}

impl ReadBuffer {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; READ_BYTES], start: 0, end: 0 }
    }

    /// Free space for the next read. A frame that is not whole is moved to the front when space runs low.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.bytes.len() - self.end < MAX_FRAME_BYTES / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.bytes[self.end..]
    }
}

impl WriteBuffer {
    pub(super) fn is_clear(&self) -> bool {
        self.sent == self.bytes.len() && !self.unflushed
    }

    /// Nothing is to be sent.
    pub(super) fn rest(&mut self) {
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
    }
}
