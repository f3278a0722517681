//! The framing of a CAR file, read from a stream: lengths and what they span.

use bytes::Bytes;
use cid::Cid;
use futures::io::{AsyncRead, AsyncReadExt, BufReader, copy, sink};

use super::{
    HeaderError, ImportError, MAX_HEADER_BYTES, Version,
    header::{Bounds, Header, V2_BYTES},
};
use crate::{MAX_BLOCK_BYTES, dag_pb::MAX_CID_BYTES};

/// What is read at once of small sections.
const BUFFER_BYTES: usize = 64 << 10;
/// A longer section holds no block that could be stored.
const MAX_SECTION_BYTES: u64 = (MAX_BLOCK_BYTES + MAX_CID_BYTES) as u64;
/// Room is made for at most so many bytes before any of them came.
const FIRST_BYTES: u64 = 256 << 10;

/// A section: a CID and its data.
pub(crate) struct Section {
    /// Where in the file it begins.
    pub(crate) offset: u64,
    pub(crate) content: Content,
}

pub(crate) enum Content {
    /// All of it.
    Whole(Bytes),
    /// Its beginning, and the length of the whole, which is too long for a block.
    TooLong(Vec<u8>, u64),
}

pub(crate) struct Sections<R> {
    reader: BufReader<R>,
    /// Of the file.
    offset: u64,
    /// Sections that are too long for a block are not passed over: nothing can be read after one.
    strict: bool,
    /// Where the sections end; `u64::MAX` stands for the end of the file.
    end: u64,
    pub(super) version: Version,
    pub(super) roots: Vec<Cid>,
}

impl<R: AsyncRead + Unpin> Sections<R> {
    /// Before anything is read.
    pub(crate) fn new(reader: R) -> Self {
        let reader = BufReader::with_capacity(BUFFER_BYTES, reader);
        Self { reader, offset: 0, strict: false, end: u64::MAX, version: Version::V1, roots: Vec::new() }
    }

    /// The same for a file whose maker may make it long for nothing.
    #[cfg(feature = "gateway")]
    pub(crate) fn strict(reader: R) -> Self {
        Self { strict: true, ..Self::new(reader) }
    }

    /// Reads all that stands before the first section.
    pub(crate) async fn begin(&mut self) -> Result<(), ImportError> {
        let mut header = self.header().await?;
        if header.version == 2 {
            let fields = self.bytes(V2_BYTES as u64).await?;
            let bounds = Bounds::decode(fields.as_slice().try_into().map_err(|_| HeaderError::Bounds)?)?;
            self.skip(bounds.begin - self.offset).await?;
            self.version = Version::V2;
            self.end = bounds.end.unwrap_or(u64::MAX);
            header = self.header().await?;
            if header.version != 1 {
                return Err(HeaderError::Version { version: header.version }.into());
            }
        }
        self.roots = header.roots;
        Ok(())
    }

    async fn header(&mut self) -> Result<Header, ImportError> {
        let begin = self.offset;
        let bytes = self.length().await?.ok_or(ImportError::Truncated { offset: begin })?;
        if bytes == 0 || bytes > MAX_HEADER_BYTES as u64 {
            return Err(HeaderError::Length { bytes }.into());
        }
        Ok(Header::decode(&self.bytes(bytes).await?)?)
    }

    /// The next section; `None` at the end. Not cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Section>, ImportError> {
        let offset = self.offset;
        let Some(length) = self.length().await? else { return Ok(None) };
        let content = match length {
            0 => return Err(ImportError::Framing { offset }),
            1..=MAX_SECTION_BYTES => Content::Whole(self.bytes(length).await?.into()),
            _ if self.strict => Content::TooLong(Vec::new(), length),
            _ => {
                let start = self.bytes(MAX_CID_BYTES as u64).await?;
                self.skip(length - MAX_CID_BYTES as u64).await?;
                Content::TooLong(start, length)
            }
        };
        Ok(Some(Section { offset, content }))
    }

    /// A length before what it spans; `None` at the end.
    async fn length(&mut self) -> Result<Option<u64>, ImportError> {
        let begin = self.offset;
        let mut value = 0u64;
        for index in 0..10 {
            let mut byte = [0];
            if self.offset == self.end || self.reader.read(&mut byte).await? == 0 {
                let whole = index == 0 && (self.offset == self.end || self.end == u64::MAX);
                return if whole { Ok(None) } else { Err(ImportError::Truncated { offset: begin }) };
            }
            self.offset += 1;
            if index == 9 && byte[0] > 1 {
                break;
            }
            value |= u64::from(byte[0] & 0x7f) << (7 * index);
            if byte[0] & 0x80 == 0 {
                return Ok(Some(value));
            }
        }
        Err(ImportError::Framing { offset: begin })
    }

    async fn bytes(&mut self, length: u64) -> Result<Vec<u8>, ImportError> {
        let begin = self.offset;
        let truncated = ImportError::Truncated { offset: begin };
        if length > self.end - begin {
            return Err(truncated);
        }
        let mut data = Vec::with_capacity(length.min(FIRST_BYTES) as usize);
        self.offset += (&mut self.reader).take(length).read_to_end(&mut data).await? as u64;
        if self.offset - begin == length { Ok(data) } else { Err(truncated) }
    }

    async fn skip(&mut self, length: u64) -> Result<(), ImportError> {
        let begin = self.offset;
        let truncated = ImportError::Truncated { offset: begin };
        if length > self.end - begin {
            return Err(truncated);
        }
        self.offset += copy((&mut self.reader).take(length), &mut sink()).await?;
        if self.offset - begin == length { Ok(()) } else { Err(truncated) }
    }
}
