//! The guest's memory as host calls see it. Every access is checked, and counted, so that it can be paid in fuel.

use super::errno::{Answer, Errno};

/// Buffers of one scatter or gather call that are looked at; the rest is for the next call.
const MAX_BUFFERS: u32 = 1024;
/// Bytes that one call moves; a longer read or write is cut short, so that no host call takes long.
pub(super) const MAX_MOVED: usize = 4 << 20;

/// The guest's linear memory during one host call.
pub(super) struct View<'a> {
    bytes: &'a mut [u8],
    /// Bytes moved so far.
    pub(super) moved: u64,
}

impl<'a> View<'a> {
    pub(super) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, moved: 0 }
    }

    pub(super) fn read(&mut self, at: u32, len: u32) -> Result<&[u8], Errno> {
        self.moved += u64::from(len);
        let start = at as usize;
        self.bytes.get(start..start + len as usize).ok_or(Errno::Fault)
    }

    pub(super) fn slice_mut(&mut self, at: u32, len: u32) -> Result<&mut [u8], Errno> {
        self.moved += u64::from(len);
        let start = at as usize;
        self.bytes.get_mut(start..start + len as usize).ok_or(Errno::Fault)
    }

    pub(super) fn write(&mut self, at: u32, data: &[u8]) -> Result<(), Errno> {
        let len = u32::try_from(data.len()).map_err(|_| Errno::Fault)?;
        self.slice_mut(at, len)?.copy_from_slice(data);
        Ok(())
    }

    pub(super) fn write_u32(&mut self, at: u32, value: u32) -> Result<(), Errno> {
        self.write(at, &value.to_le_bytes())
    }

    pub(super) fn write_u64(&mut self, at: u32, value: u64) -> Result<(), Errno> {
        self.write(at, &value.to_le_bytes())
    }

    pub(super) fn read_u32(&mut self, at: u32) -> Result<u32, Errno> {
        let bytes = self.read(at, 4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A path or name.
    pub(super) fn text(&mut self, at: u32, len: u32) -> Result<String, Errno> {
        if len as usize > MAX_MOVED {
            return Err(Errno::NameTooLong);
        }
        std::str::from_utf8(self.read(at, len)?).map(str::to_owned).map_err(|_| Errno::IlSeq)
    }

    /// The buffers of a scatter or gather call, as many of them as one call moves.
    fn buffers(&mut self, at: u32, count: u32) -> Result<Vec<(u32, u32)>, Errno> {
        let mut buffers = Vec::new();
        let mut room = MAX_MOVED;
        for index in 0..count.min(MAX_BUFFERS) {
            let entry = index.checked_mul(8).and_then(|offset| at.checked_add(offset)).ok_or(Errno::Fault)?;
            let (start, len) = (self.read_u32(entry)?, self.read_u32(entry.checked_add(4).ok_or(Errno::Fault)?)?);
            let len = len.min(u32::try_from(room).unwrap_or(u32::MAX));
            room -= len as usize;
            if len > 0 {
                buffers.push((start, len));
            }
        }
        Ok(buffers)
    }

    /// Copies from `source` into the buffers; how much.
    pub(super) fn scatter(&mut self, at: u32, count: u32, mut source: &[u8]) -> Result<u32, Errno> {
        let mut moved = 0;
        for (start, len) in self.buffers(at, count)? {
            let len = len.min(u32::try_from(source.len()).unwrap_or(u32::MAX));
            let (now, rest) = source.split_at(len as usize);
            self.write(start, now)?;
            source = rest;
            moved += len;
        }
        Ok(moved)
    }

    /// Hands each buffer to `sink`; how much.
    pub(super) fn gather(&mut self, at: u32, count: u32, mut sink: impl FnMut(&[u8]) -> Answer) -> Answer<u32> {
        let mut moved = 0;
        for (start, len) in self.buffers(at, count)? {
            sink(self.read(start, len)?)?;
            moved += len;
        }
        Ok(moved)
    }
}
