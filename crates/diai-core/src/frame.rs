//! Frames: an unsigned varint length, then that many bytes. The length is checked before anything is allocated.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest length prefix: a 32-bit length.
pub const MAX_PREFIX_BYTES: usize = 5;

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length prefix is over-long, or not in its shortest form.
    #[error("the length prefix of a frame is malformed")]
    Prefix,
    /// The frame is longer than the reader allows.
    #[error("a frame of {bytes} bytes, at most {max_bytes} are allowed")]
    TooLong {
        /// Its announced length.
        bytes: usize,
        /// The cap.
        max_bytes: usize,
    },
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadFrameError {
    /// The peer's bytes are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream failed, or ended within a frame.
    #[error("the stream failed: {0}")]
    Io(#[from] io::Error),
}

/// The varint length of `bytes`, at most [`MAX_PREFIX_BYTES`] long for lengths below 2^35.
pub fn put_prefix(bytes: usize, out: &mut BytesMut) {
    let mut rest = bytes as u64;
    loop {
        let low = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            out.extend_from_slice(&[low]);
            return;
        }
        out.extend_from_slice(&[low | 0x80]);
    }
}

/// Appends `frame` with its prefix to `out`.
pub fn put(frame: &[u8], out: &mut BytesMut) {
    out.reserve(frame.len() + MAX_PREFIX_BYTES);
    put_prefix(frame.len(), out);
    out.extend_from_slice(frame);
}

/// The value and length of the varint at the start of `bytes`; `None` if it is not whole yet.
fn prefix(bytes: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().enumerate().take(MAX_PREFIX_BYTES) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if byte == 0 && index > 0 {
                return Err(FrameError::Prefix);
            }
            return Ok(Some((usize::try_from(value).map_err(|_| FrameError::Prefix)?, index + 1)));
        }
    }
    if bytes.len() >= MAX_PREFIX_BYTES { Err(FrameError::Prefix) } else { Ok(None) }
}

/// Takes the first whole frame off the front of `buffer`, without copying it; `None` if more bytes are needed.
pub fn take(buffer: &mut BytesMut, max_bytes: usize) -> Result<Option<Bytes>, FrameError> {
    let Some((bytes, prefix_bytes)) = prefix(buffer)? else { return Ok(None) };
    if bytes > max_bytes {
        return Err(FrameError::TooLong { bytes, max_bytes });
    }
    if buffer.len() - prefix_bytes < bytes {
        buffer.reserve(prefix_bytes + bytes - buffer.len());
        return Ok(None);
    }
    buffer.advance(prefix_bytes);
    Ok(Some(buffer.split_to(bytes).freeze()))
}

/// Reads one frame of at most `max_bytes`; `None` if the stream ended before its first byte.
///
/// Not cancel-safe: a dropped future may have taken part of a frame off the stream.
pub async fn read<R: AsyncRead + Unpin + ?Sized>(
    stream: &mut R,
    max_bytes: usize,
) -> Result<Option<Bytes>, ReadFrameError> {
    let mut head = [0u8; MAX_PREFIX_BYTES];
    let mut have = 0;
    let bytes = loop {
        if stream.read(&mut head[have..=have]).await? == 0 {
            if have == 0 {
                return Ok(None);
            }
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        have += 1;
        if let Some((bytes, _)) = prefix(&head[..have])? {
            break bytes;
        }
    };
    if bytes > max_bytes {
        return Err(FrameError::TooLong { bytes, max_bytes }.into());
    }
    let mut frame = BytesMut::zeroed(bytes);
    stream.read_exact(&mut frame).await?;
    Ok(Some(frame.freeze()))
}

/// Writes one frame and flushes.
///
/// Not cancel-safe: a dropped future may have written part of a frame.
pub async fn write<W: AsyncWrite + Unpin + ?Sized>(stream: &mut W, frame: &[u8]) -> io::Result<()> {
    let mut out = BytesMut::new();
    put(frame, &mut out);
    stream.write_all(&out).await?;
    stream.flush().await
}
