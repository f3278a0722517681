use std::io;

use cid::Cid;

use super::Imported;
use crate::{BlockError, PutError, ipld::CborError, unixfs::ReadError};

/// What is wrong with the beginning of a CAR file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// No dag-cbor.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Longer than [`MAX_HEADER_BYTES`](super::MAX_HEADER_BYTES), or empty.
    #[error("its length is {bytes} bytes, over the limit of 1 MiB or zero")]
    Length {
        /// How long it says it is.
        bytes: u64,
    },
    /// No map of roots and version, and nothing else.
    #[error("it is no map of roots and version")]
    Fields,
    /// More than [`MAX_ROOTS`](super::MAX_ROOTS).
    #[error("it has more than 16384 roots")]
    TooManyRoots,
    /// A version other than 1 and 2, or other than 1 within a CAR of version 2.
    #[error("it is of version {version}, which cannot be read here; versions 1 and 2 can")]
    Version {
        /// Which.
        version: u64,
    },
    /// Offsets or sizes of a CAR of version 2 that contradict each other.
    #[error("its offsets and sizes contradict each other")]
    Bounds,
}

/// What is wrong with one section.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SectionError {
    /// It does not begin with a CID.
    #[error("it does not begin with a CID that can be read here")]
    Cid,
    /// Its data is too long, does not hash to its CID, or cannot be checked.
    #[error(transparent)]
    Block(#[from] BlockError),
}

/// A section that was passed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the section at byte {offset} was passed over: {reason}")]
#[non_exhaustive]
pub struct Refused {
    /// Where in the file the section begins.
    pub offset: u64,
    /// Why.
    #[source]
    pub reason: SectionError,
}

/// What is wrong with a CAR file, or stopped its import.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The reader, or the disk, failed.
    #[error("cannot read the CAR file: {0}")]
    Io(#[from] io::Error),
    /// It is no CAR file.
    #[error("this is no CAR file, its header is malformed: {0}")]
    Header(#[from] HeaderError),
    /// It ends within a section, or within its header.
    #[error("the CAR file is cut short: what begins at byte {offset} is not all there; get the file again")]
    Truncated {
        /// Where in the file that begins.
        offset: u64,
    },
    /// The length of a section is zero or no number: where the next one begins is not known.
    #[error("the CAR file is damaged at byte {offset}, and cannot be read from there on; get the file again")]
    Framing {
        /// Where in the file.
        offset: u64,
    },
    /// The file was read to its end, and some sections are faulty.
    #[error("{count} sections of the CAR file are faulty, the first: {first}; get the file again")]
    Refused {
        /// How many.
        count: u64,
        /// The first of them; [`Imported::refused`] has more.
        #[source]
        first: Refused,
    },
    /// More data than the caller allows.
    #[error("the CAR file has more than {limit} bytes of blocks; raise the limit if you trust its maker")]
    OverLimit {
        /// The cap.
        limit: u64,
    },
    /// A block could not be stored.
    #[error(transparent)]
    Put(#[from] PutError),
    /// The World is shutting down.
    #[error("the import was interrupted by shutdown")]
    Closed,
}

/// A CAR file was not, or not wholly, imported.
#[derive(Debug, thiserror::Error)]
#[error("{error} ({} valid blocks were kept)", kept.done().blocks)]
#[non_exhaustive]
pub struct ImportFailed {
    /// Why.
    #[source]
    pub error: ImportError,
    /// What was valid and is stored all the same.
    pub kept: Box<Imported>,
}

/// Why a CAR file was not written, or not wholly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A block is not there, or its links cannot be told.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The options make no sense.
    #[error("export options: {0}")]
    Options(&'static str),
    /// Something is there already.
    #[error("{path:?} exists; choose another name")]
    Exists {
        /// What is there.
        path: String,
    },
    /// The writer, or the disk, failed.
    #[error("cannot write the CAR file: {0}")]
    Io(#[from] io::Error),
    /// The World is shutting down.
    #[error("the export was interrupted by shutdown")]
    Closed,
}

impl ExportError {
    pub(super) fn over(cid: Cid, what: &'static str, limit: u64) -> Self {
        Self::Read(ReadError::OverLimit { cid, what, limit })
    }
}
