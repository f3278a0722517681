use cid::Cid;

use super::{MAX_DEPTH, MAX_LINKS};
use crate::dag_pb::exact_cid;

const LINK_TAG: u64 = 42;

/// Why bytes are no dag-cbor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CborError {
    /// The bytes end within an item.
    #[error("the dag-cbor node is cut short")]
    Truncated,
    /// Something follows the node.
    #[error("the dag-cbor node is followed by other bytes")]
    Trailing,
    /// A kind of item that dag-cbor does not have: an indefinite length, a simple value, a number that is none.
    #[error("the dag-cbor node has an item that dag-cbor does not allow")]
    Item,
    /// A number or length that is longer than need be.
    #[error("the dag-cbor node has a number that is not in its shortest form")]
    NotShortest,
    /// A tag that dag-cbor does not have, or a tag of a tag.
    #[error("the dag-cbor node has a tag that dag-cbor does not allow")]
    Tag,
    /// A key of a map that is no text.
    #[error("the dag-cbor node has a key that is no text")]
    Key,
    /// A link that is no CID after a zero byte.
    #[error("the dag-cbor node has a link that is no CID")]
    Link,
    /// More than [`MAX_DEPTH`].
    #[error("the dag-cbor node is nested too deeply")]
    TooDeep,
    /// More than [`MAX_LINKS`].
    #[error("the dag-cbor node has too many links")]
    TooManyLinks,
}

/// A map or list that is not read to its end.
struct Open {
    /// Items still to come; keys count like values.
    left: u64,
    map: bool,
}

/// The links of a dag-cbor node.
pub(super) fn links(data: &[u8]) -> Result<Vec<Cid>, CborError> {
    let (mut rest, mut links, mut open) = (data, Vec::new(), Vec::<Open>::new());
    loop {
        let key = open.last_mut().is_some_and(|open| {
            open.left -= 1;
            open.map && open.left % 2 == 1
        });
        match Item::read(&mut rest)? {
            Item::Text(_) => {}
            _ if key => return Err(CborError::Key),
            Item::Link(_) if links.len() == MAX_LINKS => return Err(CborError::TooManyLinks),
            Item::Link(cid) => links.push(cid),
            Item::List(_) | Item::Map(_) if open.len() == MAX_DEPTH => return Err(CborError::TooDeep),
            // An item has at least a byte, so that what claims more than there is ends here.
            Item::List(left) if left > rest.len() as u64 => return Err(CborError::Truncated),
            Item::Map(pairs) if pairs > rest.len() as u64 / 2 => return Err(CborError::Truncated),
            Item::List(left) => open.push(Open { left, map: false }),
            Item::Map(pairs) => open.push(Open { left: pairs * 2, map: true }),
            Item::Number(_) | Item::Bytes | Item::Other => {}
        }
        while open.pop_if(|open| open.left == 0).is_some() {}
        if open.is_empty() {
            return if rest.is_empty() { Ok(links) } else { Err(CborError::Trailing) };
        }
    }
}

/// One item; of a map or list only its beginning.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    /// Not negative.
    Number(u64),
    Text(&'a [u8]),
    Bytes,
    Link(Cid),
    /// With so many items.
    List(u64),
    /// With so many pairs.
    Map(u64),
    Other,
}

impl<'a> Item<'a> {
    /// Takes an item off `rest`.
    pub(crate) fn read(rest: &mut &'a [u8]) -> Result<Self, CborError> {
        let (mut kind, mut value) = head(rest)?;
        let tag = (kind == 6).then_some(value);
        if tag.is_some() {
            (kind, value) = head(rest)?;
        }
        match (kind, tag) {
            (0, _) => Ok(Self::Number(value)),
            (1, _) => Ok(Self::Other),
            (2, None) => take(rest, value).map(|_| Self::Bytes),
            (2, Some(LINK_TAG)) => match take(rest, value)? {
                [0, cid @ ..] => exact_cid(cid).map(Self::Link).ok_or(CborError::Link),
                _ => Err(CborError::Link),
            },
            // Kubo overlooks tags of anything else than bytes.
            (3, _) => take(rest, value).map(Self::Text),
            (4, _) => Ok(Self::List(value)),
            (5, _) => Ok(Self::Map(value)),
            (7, _) => Ok(Self::Other),
            _ => Err(CborError::Tag),
        }
    }
}

/// Takes the beginning of an item off `rest`: its kind, and the number that goes with it.
fn head(rest: &mut &[u8]) -> Result<(u8, u64), CborError> {
    let (&first, after) = rest.split_first().ok_or(CborError::Truncated)?;
    *rest = after;
    let (kind, short) = (first >> 5, first & 0x1f);
    let bytes = match short {
        0..24 => 0,
        24..28 => 1 << (short - 24),
        _ => return Err(CborError::Item),
    };
    let value = take(rest, bytes)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    if kind == 7 {
        // True, false, null, undefined; floats of 2, 4 and 8 bytes whose exponent is not that of infinity and NaN.
        let finite = |bits: u32, at: u32| (value >> at) & ((1 << bits) - 1) != (1 << bits) - 1;
        let allowed = match short {
            20..=23 => true,
            25 => finite(5, 10),
            26 => finite(8, 23),
            27 => finite(11, 52),
            _ => false,
        };
        return if allowed { Ok((kind, value)) } else { Err(CborError::Item) };
    }
    match bytes {
        0 => Ok((kind, u64::from(short))),
        1 if value < 24 => Err(CborError::NotShortest),
        1 => Ok((kind, value)),
        _ if value >> (bytes * 4) == 0 => Err(CborError::NotShortest),
        _ => Ok((kind, value)),
    }
}

fn take<'a>(rest: &mut &'a [u8], bytes: u64) -> Result<&'a [u8], CborError> {
    let bytes = usize::try_from(bytes).map_err(|_| CborError::Truncated)?;
    let (taken, after) = rest.split_at_checked(bytes).ok_or(CborError::Truncated)?;
    *rest = after;
    Ok(taken)
}

/// Appends the beginning of an item of `kind`, in its shortest form.
pub(crate) fn put_head(out: &mut Vec<u8>, kind: u8, value: u64) {
    let bytes = value.to_be_bytes();
    let (short, from) = match value {
        0..24 => return out.push(kind << 5 | value as u8),
        24..=0xff => (24, 7),
        0x100..=0xffff => (25, 6),
        0x1_0000..=0xffff_ffff => (26, 4),
        _ => (27, 0),
    };
    out.push(kind << 5 | short);
    out.extend_from_slice(&bytes[from..]);
}

/// Appends a link.
pub(crate) fn put_link(out: &mut Vec<u8>, cid: &Cid) {
    put_head(out, 6, LINK_TAG);
    put_head(out, 2, 1 + cid.encoded_len() as u64);
    out.push(0);
    cid.write_bytes(out).expect("writing to memory");
}
