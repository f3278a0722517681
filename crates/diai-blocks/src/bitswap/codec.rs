//! The bytes of a Bitswap message, read and written by hand: payloads stay slices of what was read, and each count
//! and length is checked before anything is kept.

use bytes::{BufMut, Bytes, BytesMut};
use cid::Cid;

use crate::MAX_BLOCK_BYTES;

use super::message::{
    MAX_CID_BYTES, MAX_ENTRIES, MAX_MESSAGE_BYTES, Message, Payload, Prefix, Presence, Version, Want, WantKind,
};

/// Hash functions known to IPFS have digests of at most this length; a prefix that claims more is refused.
const MAX_DIGEST_BYTES: u64 = 128;
/// Blocks of at least this length are written from where they are, without a copy.
const COPY_BELOW_BYTES: usize = 32 << 10;

/// Why bytes are no Bitswap message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeMessageError {
    /// A tag, length or number is malformed, or the bytes end within a field.
    #[error("the message is malformed")]
    Malformed,
    /// A CID or a CID prefix is malformed.
    #[error("a CID in the message is malformed")]
    Cid,
    /// The message, a block, or the number of entries is over its limit.
    #[error("the message is over a limit: {what} may be at most {limit}")]
    OverLimit {
        /// What there is too much of.
        what: &'static str,
        /// The cap.
        limit: usize,
    },
}

use DecodeMessageError as Error;

/// Reads one message, without its length prefix. Blocks are slices of `bytes`. Wants and presences for identity CIDs
/// and for CIDs over [`MAX_CID_BYTES`] are left out; unknown fields are skipped.
pub fn decode(bytes: &Bytes) -> Result<Message, DecodeMessageError> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(Error::OverLimit { what: "bytes of a message", limit: MAX_MESSAGE_BYTES });
    }
    let mut message = Message::default();
    let mut fields = Fields(bytes);
    while let Some((tag, value)) = fields.next()? {
        match (tag, value) {
            (1, Value::Bytes(content)) => wantlist(content, &mut message)?,
            (2, Value::Bytes(data)) => {
                push(&mut message.payload, Payload { prefix: Prefix::V0, data: block(bytes, data)? })?;
            }
            (3, Value::Bytes(content)) => {
                let payload = payload(bytes, content)?;
                push(&mut message.payload, payload)?;
            }
            (4, Value::Bytes(content)) => {
                if let Some(presence) = presence(content)? {
                    push(&mut message.presences, presence)?;
                }
            }
            // Less than nothing is nothing.
            (5, Value::Number(pending)) => message.pending_bytes = (pending as i32).max(0),
            (1..=5, _) => return Err(Error::Malformed),
            _ => {}
        }
    }
    Ok(message)
}

fn push<T>(entries: &mut Vec<T>, entry: T) -> Result<(), Error> {
    if entries.len() >= MAX_ENTRIES {
        return Err(Error::OverLimit { what: "entries of a message", limit: MAX_ENTRIES });
    }
    entries.push(entry);
    Ok(())
}

fn block(whole: &Bytes, data: &[u8]) -> Result<Bytes, Error> {
    if data.len() > MAX_BLOCK_BYTES {
        return Err(Error::OverLimit { what: "bytes of a block", limit: MAX_BLOCK_BYTES });
    }
    Ok(whole.slice_ref(data))
}

fn wantlist(content: &[u8], message: &mut Message) -> Result<(), Error> {
    let mut fields = Fields(content);
    while let Some((tag, value)) = fields.next()? {
        match (tag, value) {
            (1, Value::Bytes(entry)) => {
                if let Some(want) = want(entry)? {
                    push(&mut message.wants, want)?;
                }
            }
            (2, Value::Number(full)) => message.full = full != 0,
            (1 | 2, _) => return Err(Error::Malformed),
            _ => {}
        }
    }
    Ok(())
}

fn want(content: &[u8]) -> Result<Option<Want>, Error> {
    let (mut cid, mut priority, mut cancel, mut kind, mut send_dont_have) = (None, 0, false, WantKind::Block, false);
    let mut fields = Fields(content);
    while let Some((tag, value)) = fields.next()? {
        match (tag, value) {
            (1, Value::Bytes(bytes)) => cid = Some(bytes),
            (2, Value::Number(number)) => priority = number as i32,
            (3, Value::Number(number)) => cancel = number != 0,
            (4, Value::Number(number)) => kind = if number == 1 { WantKind::Have } else { WantKind::Block },
            (5, Value::Number(number)) => send_dont_have = number != 0,
            (1..=5, _) => return Err(Error::Malformed),
            _ => {}
        }
    }
    Ok(parse_cid(cid.ok_or(Error::Cid)?)?.map(|cid| Want { cid, priority, cancel, kind, send_dont_have }))
}

fn presence(content: &[u8]) -> Result<Option<Presence>, Error> {
    let (mut cid, mut have) = (None, true);
    let mut fields = Fields(content);
    while let Some((tag, value)) = fields.next()? {
        match (tag, value) {
            (1, Value::Bytes(bytes)) => cid = Some(bytes),
            (2, Value::Number(number)) => have = number == 0,
            (1 | 2, _) => return Err(Error::Malformed),
            _ => {}
        }
    }
    Ok(parse_cid(cid.ok_or(Error::Cid)?)?.map(|cid| Presence { cid, have }))
}

/// `None` for CIDs that are ignored.
fn parse_cid(bytes: &[u8]) -> Result<Option<Cid>, Error> {
    if bytes.len() > MAX_CID_BYTES {
        return Ok(None);
    }
    let mut rest = bytes;
    let cid = Cid::read_bytes(&mut rest).map_err(|_| Error::Cid)?;
    if !rest.is_empty() {
        return Err(Error::Cid);
    }
    Ok((cid.hash().code() != 0).then_some(cid))
}

fn payload(whole: &Bytes, content: &[u8]) -> Result<Payload, Error> {
    let (mut prefix, mut data) = (None, Bytes::new());
    let mut fields = Fields(content);
    while let Some((tag, value)) = fields.next()? {
        match (tag, value) {
            (1, Value::Bytes(bytes)) => prefix = Some(parse_prefix(bytes)?),
            (2, Value::Bytes(bytes)) => data = block(whole, bytes)?,
            (1 | 2, _) => return Err(Error::Malformed),
            _ => {}
        }
    }
    Ok(Payload { prefix: prefix.ok_or(Error::Cid)?, data })
}

/// Always four varints; a CIDv0 has `00 70 12 20`.
fn parse_prefix(mut bytes: &[u8]) -> Result<Prefix, Error> {
    let mut next = || varint(&mut bytes).map_err(|_| Error::Cid);
    let prefix = Prefix { version: next()?, codec: next()?, hash: next()?, digest_bytes: next()? };
    let known = match prefix.version {
        0 => prefix == Prefix::V0,
        1 => prefix.digest_bytes <= MAX_DIGEST_BYTES,
        _ => false,
    };
    if known && bytes.is_empty() { Ok(prefix) } else { Err(Error::Cid) }
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Error> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = varint(&mut self.0)?;
        let tag = key >> 3;
        if tag == 0 || tag >= 1 << 29 {
            return Err(Error::Malformed);
        }
        let value = match key & 7 {
            0 => Value::Number(varint(&mut self.0)?),
            1 => self.split(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(varint(&mut self.0)?).map_err(|_| Error::Malformed)?;
                Value::Bytes(self.split(length)?)
            }
            5 => self.split(4).map(|_| Value::Fixed)?,
            _ => return Err(Error::Malformed),
        };
        Ok(Some((tag, value)))
    }

    fn split(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (content, rest) = self.0.split_at_checked(length).ok_or(Error::Malformed)?;
        self.0 = rest;
        Ok(content)
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Error> {
    let mut value = 0u64;
    for index in 0..10 {
        let (&byte, rest) = bytes.split_first().ok_or(Error::Malformed)?;
        *bytes = rest;
        if index == 9 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Error::Malformed)
}

/// Writes one message with its length prefix, in the form that `version` understands: what it cannot say is left out.
/// Large blocks are not copied, so the result is a list of slices to be written one after the other. Empty if nothing
/// is left to say.
pub fn encode(message: &Message, version: Version) -> Vec<Bytes> {
    let haves = version == Version::V1_2;
    let wants = || message.wants.iter().filter(move |want| haves || want.kind == WantKind::Block || want.cancel);
    let payload = || message.payload.iter().filter(move |block| version > Version::V1_0 || block.prefix == Prefix::V0);
    let presences = || message.presences.iter().filter(move |_| haves);
    if !message.full && wants().next().is_none() && payload().next().is_none() && presences().next().is_none() {
        return Vec::new();
    }
    let wantlist: usize =
        wants().map(|want| field_len(want_len(want))).sum::<usize>() + if message.full { 2 } else { 0 };
    let mut total = field_len(wantlist);
    for block in payload() {
        total += if version > Version::V1_0 { field_len(payload_len(block)) } else { field_len(block.data.len()) };
    }
    total += presences().map(|presence| field_len(presence_len(presence))).sum::<usize>();
    if message.pending_bytes > 0 {
        total += 1 + varint_len(message.pending_bytes as u64);
    }

    let mut out = Slices::default();
    out.varint(total as u64);
    // Always there, even if empty: older boxo cannot do without.
    out.head(1, wantlist);
    for want in wants() {
        put_want(want, &mut out);
    }
    if message.full {
        out.number(2, 1);
    }
    for block in payload() {
        if version > Version::V1_0 {
            out.head(3, payload_len(block));
            put_prefix(&block.prefix, &mut out);
            out.head(2, block.data.len());
        } else {
            out.head(2, block.data.len());
        }
        out.block(&block.data);
    }
    for presence in presences() {
        out.head(4, presence_len(presence));
        out.head(1, presence.cid.encoded_len());
        out.cid(&presence.cid);
        if !presence.have {
            out.number(2, 1);
        }
    }
    if message.pending_bytes > 0 {
        out.number(5, message.pending_bytes as u64);
    }
    out.finish()
}

fn want_len(want: &Want) -> usize {
    let mut length = field_len(want.cid.encoded_len());
    if want.priority != 0 {
        length += 1 + varint_len(i64::from(want.priority) as u64);
    }
    length
        + 2 * (usize::from(want.cancel) + usize::from(want.kind == WantKind::Have) + usize::from(want.send_dont_have))
}

fn put_want(want: &Want, out: &mut Slices) {
    out.head(1, want_len(want));
    out.head(1, want.cid.encoded_len());
    out.cid(&want.cid);
    if want.priority != 0 {
        out.number(2, i64::from(want.priority) as u64);
    }
    if want.cancel {
        out.number(3, 1);
    }
    if want.kind == WantKind::Have {
        out.number(4, 1);
    }
    if want.send_dont_have {
        out.number(5, 1);
    }
}

fn prefix_len(prefix: &Prefix) -> usize {
    varint_len(prefix.version) + varint_len(prefix.codec) + varint_len(prefix.hash) + varint_len(prefix.digest_bytes)
}

fn put_prefix(prefix: &Prefix, out: &mut Slices) {
    out.head(1, prefix_len(prefix));
    for number in [prefix.version, prefix.codec, prefix.hash, prefix.digest_bytes] {
        out.varint(number);
    }
}

fn payload_len(block: &Payload) -> usize {
    field_len(prefix_len(&block.prefix)) + field_len(block.data.len())
}

fn presence_len(presence: &Presence) -> usize {
    field_len(presence.cid.encoded_len()) + if presence.have { 0 } else { 2 }
}

/// Length of a field of `content` bytes with a tag below 16.
fn field_len(content: usize) -> usize {
    1 + varint_len(content as u64) + content
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[derive(Default)]
struct Slices {
    done: Vec<Bytes>,
    open: BytesMut,
}

impl Slices {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.open.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.open.put_u8(value as u8);
    }

    fn head(&mut self, tag: u8, length: usize) {
        self.open.put_u8(tag << 3 | 2);
        self.varint(length as u64);
    }

    fn number(&mut self, tag: u8, value: u64) {
        self.open.put_u8(tag << 3);
        self.varint(value);
    }

    fn cid(&mut self, cid: &Cid) {
        cid.write_bytes((&mut self.open).writer()).expect("a BytesMut takes any bytes");
    }

    fn block(&mut self, data: &Bytes) {
        if data.len() < COPY_BELOW_BYTES {
            self.open.extend_from_slice(data);
        } else {
            self.done.push(self.open.split().freeze());
            self.done.push(data.clone());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.done.push(self.open.freeze());
        }
        self.done
    }
}
