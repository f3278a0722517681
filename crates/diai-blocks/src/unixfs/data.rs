use bytes::Bytes;
use diai_core::{FileAttributes, FileTime};

use crate::dag_pb::{Content, DecodeError, field, put_bytes, put_varint, varint};

/// The hash that sharded folders use: murmur3-x64-64.
pub(super) const HASH_MURMUR3: u64 = 0x22;

/// What a UnixFS node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of a file, as old writers put them.
    Raw,
    /// A folder whose links are its entries.
    Folder,
    /// A file, or a part of one.
    File,
    /// A symbolic link.
    Symlink,
    /// A part of a folder too large for one block.
    Shard,
}

impl Kind {
    const fn number(self) -> u64 {
        match self {
            Self::Raw => 0,
            Self::Folder => 1,
            Self::File => 2,
            Self::Symlink => 4,
            Self::Shard => 5,
        }
    }

    const fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Raw),
            1 => Some(Self::Folder),
            2 => Some(Self::File),
            4 => Some(Self::Symlink),
            5 => Some(Self::Shard),
            _ => None,
        }
    }
}

/// The data field of a dag-pb node that is part of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixFs {
    /// What it is.
    pub kind: Kind,
    /// Content of a file, target of a link, bit field of a shard.
    pub data: Option<Bytes>,
    /// Bytes of the file below this node.
    pub filesize: Option<u64>,
    /// Bytes of the file below each link.
    pub blocksizes: Vec<u64>,
    /// The hash function of a shard.
    pub hash_type: Option<u64>,
    /// The width of a shard.
    pub fanout: Option<u64>,
    /// Permission bits, the lowest twelve; what stands above them has no meaning.
    pub mode: Option<u32>,
    /// Time of the last change, as its maker says: the nanoseconds may be any number.
    pub mtime: Option<FileTime>,
}

/// Why a node's data is no UnixFS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// No data at all.
    #[error("it has no UnixFS data")]
    Missing,
    /// No kind, or one that is not known.
    #[error("its UnixFS kind is missing or unknown")]
    Kind,
    /// A field ends early, stands twice, or is unknown.
    #[error("its UnixFS data is malformed")]
    Field,
}

impl From<DecodeError> for DataError {
    fn from(_: DecodeError) -> Self {
        Self::Field
    }
}

impl UnixFs {
    /// A node of `kind` with nothing in it.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            data: None,
            filesize: None,
            blocksizes: Vec::new(),
            hash_type: None,
            fanout: None,
            mode: None,
            mtime: None,
        }
    }

    /// The same with the attributes of a file, folder or link.
    pub fn with(self, attributes: FileAttributes) -> Self {
        Self { mode: attributes.mode, mtime: attributes.mtime, ..self }
    }

    /// Its attributes, without what has no meaning.
    pub fn attributes(&self) -> FileAttributes {
        let mtime = self.mtime.filter(|mtime| mtime.nanos < 1_000_000_000);
        FileAttributes { mode: self.mode.map(|mode| mode & 0o7777), mtime }
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![0x08, self.kind.number() as u8];
        let number = |out: &mut Vec<u8>, key: u8, value: Option<u64>| {
            if let Some(value) = value {
                out.push(key);
                put_varint(out, value);
            }
        };
        if let Some(data) = &self.data {
            out.push(0x12);
            put_bytes(&mut out, data);
        }
        number(&mut out, 0x18, self.filesize);
        for size in &self.blocksizes {
            number(&mut out, 0x20, Some(*size));
        }
        number(&mut out, 0x28, self.hash_type);
        number(&mut out, 0x30, self.fanout);
        number(&mut out, 0x38, self.mode.map(u64::from));
        if let Some(mtime) = self.mtime {
            out.push(0x42);
            put_bytes(&mut out, &encode_time(mtime));
        }
        out.into()
    }

    /// The UnixFS data that `bytes` are. Unknown fields are refused: nothing that they could mean would be obeyed.
    pub fn decode(bytes: &Bytes) -> Result<Self, DataError> {
        let mut kind = None;
        let mut found = Self::new(Kind::Raw);
        let mut rest = bytes.as_ref();
        while !rest.is_empty() {
            match field(&mut rest)? {
                (0x08, Content::Number(number)) if kind.is_none() => {
                    kind = Some(Kind::from_number(number).ok_or(DataError::Kind)?);
                }
                (0x12, Content::Bytes(data)) if found.data.is_none() => found.data = Some(bytes.slice_ref(data)),
                (0x18, Content::Number(size)) if found.filesize.is_none() => found.filesize = Some(size),
                (0x20, Content::Number(size)) => found.blocksizes.push(size),
                // Packed, as some writers do; canonical it is not.
                (0x22, Content::Bytes(mut sizes)) => {
                    while !sizes.is_empty() {
                        found.blocksizes.push(varint(&mut sizes)?);
                    }
                }
                (0x28, Content::Number(hash)) if found.hash_type.is_none() => found.hash_type = Some(hash),
                (0x30, Content::Number(fanout)) if found.fanout.is_none() => found.fanout = Some(fanout),
                (0x38, Content::Number(mode)) if found.mode.is_none() => {
                    found.mode = Some(u32::try_from(mode).map_err(|_| DataError::Field)?);
                }
                (0x42, Content::Bytes(mtime)) if found.mtime.is_none() => found.mtime = Some(decode_time(mtime)?),
                _ => return Err(DataError::Field),
            }
        }
        Ok(Self { kind: kind.ok_or(DataError::Kind)?, ..found })
    }
}

fn encode_time(time: FileTime) -> Vec<u8> {
    let mut out = vec![0x08];
    put_varint(&mut out, time.seconds.cast_unsigned());
    if time.nanos > 0 {
        out.push(0x15);
        out.extend_from_slice(&time.nanos.to_le_bytes());
    }
    out
}

fn decode_time(bytes: &[u8]) -> Result<FileTime, DataError> {
    let (mut seconds, mut nanos) = (None, None);
    let mut rest = bytes;
    while let Some((key, after)) = rest.split_first() {
        rest = after;
        match key {
            0x08 if seconds.is_none() => seconds = Some(varint(&mut rest)?.cast_signed()),
            0x15 if nanos.is_none() => {
                let (found, after) = rest.split_first_chunk().ok_or(DataError::Field)?;
                (nanos, rest) = (Some(u32::from_le_bytes(*found)), after);
            }
            _ => return Err(DataError::Field),
        }
    }
    Ok(FileTime { seconds: seconds.ok_or(DataError::Field)?, nanos: nanos.unwrap_or(0) })
}
