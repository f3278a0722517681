//! Records of a segment: `header_crc u32 | data_crc u32 | data_len u32 | kind u8 | hash_len u8 | 0 u16 | hash | data`, all
//! little-endian. The two checksums are apart so that damaged data does not hide the records behind it.

use std::{io, sync::Arc};

use diai_core::DiskFile;

use super::key::Key;
use crate::{MAX_BLOCK_BYTES, block::SHA2_256};

/// What a segment begins with.
pub(super) const SEGMENT_MAGIC: &[u8; 8] = b"diaiseg1";
const HEADER_BYTES: usize = 16;
/// What a scan reads at once.
const WINDOW_BYTES: usize = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Block,
    /// The block of this hash is removed.
    Tombstone,
    /// The block of this hash was found damaged: it is not here, and is to be fetched again. Buries as a tombstone does.
    Damaged,
}

impl Kind {
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Block => 1,
            Self::Tombstone => 2,
            // 3 is the index log's.
            Self::Damaged => 4,
        }
    }

    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Block),
            2 => Some(Self::Tombstone),
            4 => Some(Self::Damaged),
            _ => None,
        }
    }
}

impl Key {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Sha256(_) => 34,
            Self::Other(bytes) => bytes.len(),
        }
    }

    pub(super) fn write_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Sha256(digest) => {
                out.extend_from_slice(&[SHA2_256 as u8, 32]);
                out.extend_from_slice(digest);
            }
            Self::Other(bytes) => out.extend_from_slice(bytes),
        }
    }
}

/// Bytes that the record of `data_len` bytes under `key` takes.
pub(super) fn record_bytes(key: &Key, data_len: u32) -> u64 {
    (HEADER_BYTES + key.len()) as u64 + u64::from(data_len)
}

/// Where the data of a record begins.
pub(super) fn data_offset(key: &Key, offset: u32) -> u64 {
    u64::from(offset) + (HEADER_BYTES + key.len()) as u64
}

/// Records encoded to be appended in one write.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) bytes: Vec<u8>,
    pub(super) records: Vec<Encoded>,
}

#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) kind: Kind,
    pub(super) key: Key,
    /// From the beginning of the group.
    pub(super) offset: u32,
    pub(super) data_len: u32,
    pub(super) touched: u32,
}

impl Group {
    pub(super) fn push(&mut self, kind: Kind, key: Key, data: &[u8], touched: u32) {
        let start = self.bytes.len();
        self.bytes.reserve(HEADER_BYTES + key.len() + data.len());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&crc32fast::hash(data).to_le_bytes());
        self.bytes.extend_from_slice(&(data.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&[kind.byte(), key.len() as u8, 0, 0]);
        key.write_to(&mut self.bytes);
        let checksum = crc32fast::hash(&self.bytes[start + 4..]);
        self.bytes[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
        self.bytes.extend_from_slice(data);
        self.records.push(Encoded { kind, key, offset: start as u32, data_len: data.len() as u32, touched });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

struct Header {
    data_crc: u32,
    data_len: u32,
    kind: Kind,
    key: Key,
}

/// Reads the records of a file one after the other.
pub(super) struct Scanner {
    file: Arc<dyn DiskFile>,
    offset: u64,
    end: u64,
    window: Vec<u8>,
    window_at: u64,
}

pub(super) struct Scanned {
    pub(super) offset: u32,
    pub(super) kind: Kind,
    pub(super) key: Key,
    pub(super) data: Vec<u8>,
    /// Whether the data is what was written.
    pub(super) whole: bool,
}

impl Scanner {
    pub(super) fn new(file: Arc<dyn DiskFile>, offset: u64) -> io::Result<Self> {
        let end = file.len()?;
        Ok(Self { file, offset, end, window: Vec::new(), window_at: 0 })
    }

    /// Where the next record would begin.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record; `None` at the end, or where no header can be made out.
    pub(super) fn next(&mut self) -> io::Result<Option<Scanned>> {
        let Some(header) = self.header()? else { return Ok(None) };
        let Header { data_crc, data_len, kind, key } = header;
        let data_at = self.offset + (HEADER_BYTES + key.len()) as u64;
        let Some(data) = self.bytes(data_at, data_len as usize)? else { return Ok(None) };
        let data = data.to_vec();
        let whole = crc32fast::hash(&data) == data_crc;
        let offset = u32::try_from(self.offset).map_err(|_| io::ErrorKind::InvalidData)?;
        self.offset = data_at + u64::from(data_len);
        Ok(Some(Scanned { offset, kind, key, data, whole }))
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        let offset = self.offset;
        let Some(hash_len) = self.bytes(offset, HEADER_BYTES)?.map(|bytes| usize::from(bytes[13])) else {
            return Ok(None);
        };
        let Some(bytes) = self.bytes(offset, HEADER_BYTES + hash_len)? else { return Ok(None) };
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if crc32fast::hash(&bytes[4..]) != word(0) || word(8) as usize > MAX_BLOCK_BYTES {
            return Ok(None);
        }
        let header = Kind::from_byte(bytes[12]).zip(Key::from_bytes(&bytes[HEADER_BYTES..]));
        Ok(header.map(|(kind, key)| Header { data_crc: word(4), data_len: word(8), kind, key }))
    }

    fn bytes(&mut self, offset: u64, count: usize) -> io::Result<Option<&[u8]>> {
        if offset + count as u64 > self.end {
            return Ok(None);
        }
        let covered = offset >= self.window_at && offset + count as u64 <= self.window_at + self.window.len() as u64;
        if !covered {
            let want = (count.max(WINDOW_BYTES) as u64).min(self.end - offset) as usize;
            self.window.resize(want, 0);
            self.window_at = offset;
            self.file.read_exact_at(offset, &mut self.window)?;
        }
        let from = (offset - self.window_at) as usize;
        Ok(Some(&self.window[from..from + count]))
    }
}
