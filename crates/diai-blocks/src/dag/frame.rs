use bytes::{Buf, Bytes, BytesMut};
use cid::Cid;
use diai_core::bounded::{Bounds, DecodeError, Field, decode};
use prost::Message;

use super::request::proto;
use crate::{
    MAX_BLOCK_BYTES,
    dag_pb::{MAX_CID_BYTES, exact_cid, put_varint},
};

const END: Bounds =
    Bounds::new("dag end", &[Field::scalar(1), Field::scalar(2), Field::scalar(3), Field::scalar(4), Field::scalar(5)]);
/// Bytes of the protobuf in an end, at most.
const MAX_END_BYTES: usize = 1024;
/// Bytes of a block's frame after its length.
const MAX_SECTION_BYTES: usize = MAX_BLOCK_BYTES + MAX_CID_BYTES;
/// Lengths up to 256 MiB, far over every limit here.
const MAX_PREFIX_BYTES: usize = 4;

const MISSING: u8 = 1;
const SKIPPED: u8 = 2;
const ENDED: u8 = 3;

/// Why an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// That was all.
    Complete,
    /// A limit of the request, or of the sender, was met: ask again for the rest.
    Limit,
    /// The sender has too much to do: ask later, or somebody else.
    Busy,
    /// The sender's store failed.
    Failed,
}

/// The end of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: EndReason,
    /// Blocks that were sent.
    pub blocks: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Blocks that were said to be missing.
    pub missing: u64,
    /// Blocks that were skipped.
    pub skipped: u64,
}

impl End {
    /// An answer without any block.
    pub(super) fn empty(reason: EndReason) -> Self {
        Self { reason, blocks: 0, bytes: 0, missing: 0, skipped: 0 }
    }
}

/// A frame of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A block, not checked.
    Block {
        /// Which it is said to be.
        cid: Cid,
        /// At most [`MAX_BLOCK_BYTES`].
        data: Bytes,
    },
    /// The sender has not got this block.
    Missing(Cid),
    /// This block is on the skip list.
    Skipped(Cid),
    /// The last frame.
    End(End),
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeFrameError {
    /// A length is over its limit, or not the shortest varint.
    #[error("a frame's length is over {limit} bytes, or malformed")]
    Length {
        /// The cap.
        limit: usize,
    },
    /// A kind that is not known.
    #[error("a frame is of the unknown kind {kind}")]
    Kind {
        /// As it stood there.
        kind: u8,
    },
    /// A CID is malformed.
    #[error("the CID of a frame is malformed")]
    Cid,
    /// An end is malformed.
    #[error(transparent)]
    End(#[from] DecodeError),
    /// The reason of an end is not one of those known.
    #[error("the reason {reason} of an end is unknown")]
    Reason {
        /// As it stood there.
        reason: u32,
    },
}

/// Where the content of a frame begins and ends, and its kind; 0 stands for a block.
struct Span {
    kind: u8,
    begin: usize,
    end: usize,
}

fn span(buffer: &[u8]) -> Result<Option<Span>, DecodeFrameError> {
    let (kind, at, limit) = match buffer {
        [] | [0] => return Ok(None),
        [0, kind @ (MISSING | SKIPPED), ..] => (*kind, 2, MAX_CID_BYTES),
        [0, ENDED, ..] => (ENDED, 2, MAX_END_BYTES),
        [0, kind, ..] => return Err(DecodeFrameError::Kind { kind: *kind }),
        _ => (0, 0, MAX_SECTION_BYTES),
    };
    let mut length = 0usize;
    for (index, &byte) in buffer[at..].iter().enumerate().take(MAX_PREFIX_BYTES) {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if length > limit || byte == 0 && index > 0 {
                break;
            }
            let begin = at + index + 1;
            return Ok(Some(Span { kind, begin, end: begin + length }));
        }
    }
    let whole = buffer[at..].iter().take(MAX_PREFIX_BYTES).any(|byte| byte & 0x80 == 0);
    if whole || buffer.len() - at >= MAX_PREFIX_BYTES { Err(DecodeFrameError::Length { limit }) } else { Ok(None) }
}

impl Frame {
    /// Bytes of the frame that `buffer` begins with, as far as they can be told from what is there.
    pub fn length(buffer: &[u8]) -> Result<Option<usize>, DecodeFrameError> {
        Ok(span(buffer)?.map(|span| span.end))
    }

    /// Takes the first whole frame off the front of `buffer`, without copying its data; `None` if more bytes are needed.
    pub fn take(buffer: &mut BytesMut) -> Result<Option<Self>, DecodeFrameError> {
        let Some(span) = span(buffer)?.filter(|span| span.end <= buffer.len()) else { return Ok(None) };
        let mut content = buffer.split_to(span.end).freeze();
        content.advance(span.begin);
        Ok(Some(match span.kind {
            MISSING => Self::Missing(exact_cid(&content).ok_or(DecodeFrameError::Cid)?),
            SKIPPED => Self::Skipped(exact_cid(&content).ok_or(DecodeFrameError::Cid)?),
            ENDED => Self::End(decode_end(content)?),
            _ => {
                let mut rest = &content[..content.len().min(MAX_CID_BYTES)];
                let before = rest.len();
                let cid = Cid::read_bytes(&mut rest).map_err(|_| DecodeFrameError::Cid)?;
                content.advance(before - rest.len());
                if content.len() > MAX_BLOCK_BYTES {
                    return Err(DecodeFrameError::Length { limit: MAX_BLOCK_BYTES });
                }
                Self::Block { cid, data: content }
            }
        }))
    }

    /// What stands before the data of a block's frame.
    pub(super) fn head(cid: &Cid, bytes: usize) -> Vec<u8> {
        let mut head = Vec::with_capacity(48);
        put_varint(&mut head, (cid.encoded_len() + bytes) as u64);
        cid.write_bytes(&mut head).expect("writing to memory");
        head
    }

    /// Appends the frame to `out`.
    pub fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Block { cid, data } => {
                out.extend_from_slice(&Self::head(cid, data.len()));
                out.extend_from_slice(data);
            }
            Self::Missing(cid) => put_control(MISSING, &cid.to_bytes(), out),
            Self::Skipped(cid) => put_control(SKIPPED, &cid.to_bytes(), out),
            Self::End(End { reason, blocks, bytes, missing, skipped }) => {
                let reason = match reason {
                    EndReason::Complete => 1,
                    EndReason::Limit => 2,
                    EndReason::Busy => 3,
                    EndReason::Failed => 4,
                };
                let end = proto::End { reason, blocks: *blocks, bytes: *bytes, missing: *missing, skipped: *skipped };
                put_control(ENDED, &end.encode_to_vec(), out);
            }
        }
    }
}

fn put_control(kind: u8, content: &[u8], out: &mut BytesMut) {
    let mut head = vec![0, kind];
    put_varint(&mut head, content.len() as u64);
    out.extend_from_slice(&head);
    out.extend_from_slice(content);
}

fn decode_end(content: Bytes) -> Result<End, DecodeFrameError> {
    let proto::End { reason, blocks, bytes, missing, skipped } = decode(content, &END)?;
    let reason = match reason {
        1 => EndReason::Complete,
        2 => EndReason::Limit,
        3 => EndReason::Busy,
        4 => EndReason::Failed,
        reason => return Err(DecodeFrameError::Reason { reason }),
    };
    Ok(End { reason, blocks, bytes, missing, skipped })
}
