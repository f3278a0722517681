use cid::Cid;

use super::{HeaderError, MAX_ROOTS};
use crate::{
    dag_pb::put_varint,
    ipld::cbor::{CborError, Item, put_head, put_link},
};

/// The form of a CAR file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Version {
    /// Sections alone; the default, and what everybody reads.
    #[default]
    V1,
    /// A CAR of version 1 in a wrapper that says how long it is. Written without an index.
    V2,
}

/// What a CAR of version 2 begins with: a header of version 1 that says 2.
pub(super) const PRAGMA: [u8; 11] = *b"\x0a\xa1\x67version\x02";
/// What follows it.
pub(super) const V2_BYTES: usize = 40;
/// Where data begins at the earliest.
const V2_DATA: u64 = (PRAGMA.len() + V2_BYTES) as u64;

/// The header of version 1, or the pragma of version 2.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u64,
    pub(super) roots: Vec<Cid>,
}

impl Header {
    /// The header that `bytes`, without their length, are.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut rest = bytes;
        let (mut version, mut roots) = (None, None);
        let Item::Map(fields @ 1..=2) = Item::read(&mut rest)? else { return Err(HeaderError::Fields) };
        for _ in 0..fields {
            let Item::Text(name) = Item::read(&mut rest)? else { return Err(HeaderError::Fields) };
            match (name, Item::read(&mut rest)?) {
                (b"version", Item::Number(number)) if version.is_none() => version = Some(number),
                (b"roots", Item::List(count)) if roots.is_none() => roots = Some(read_roots(&mut rest, count)?),
                _ => return Err(HeaderError::Fields),
            }
        }
        if !rest.is_empty() {
            return Err(CborError::Trailing.into());
        }
        match (version.ok_or(HeaderError::Fields)?, roots) {
            (1, Some(roots)) => Ok(Self { version: 1, roots }),
            (2, None) => Ok(Self { version: 2, roots: Vec::new() }),
            (1 | 2, _) => Err(HeaderError::Fields),
            (version, _) => Err(HeaderError::Version { version }),
        }
    }

    /// The header of version 1 with `roots`, and its length before it.
    pub(super) fn encode_v1(roots: &[Cid]) -> Vec<u8> {
        let mut header = Vec::new();
        put_head(&mut header, 5, 2);
        put_text(&mut header, b"roots");
        put_head(&mut header, 4, roots.len() as u64);
        for root in roots {
            put_link(&mut header, root);
        }
        put_text(&mut header, b"version");
        put_head(&mut header, 0, 1);
        let mut out = Vec::with_capacity(header.len() + 3);
        put_varint(&mut out, header.len() as u64);
        out.extend_from_slice(&header);
        out
    }
}

fn read_roots(rest: &mut &[u8], count: u64) -> Result<Vec<Cid>, HeaderError> {
    if count > MAX_ROOTS as u64 {
        return Err(HeaderError::TooManyRoots);
    }
    let mut roots = Vec::new();
    for _ in 0..count {
        let Item::Link(cid) = Item::read(rest)? else { return Err(HeaderError::Fields) };
        roots.push(cid);
    }
    Ok(roots)
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_head(out, 3, text.len() as u64);
    out.extend_from_slice(text);
}

/// Where the CAR of version 1 lies within one of version 2. What the file says of itself and of its index beyond that
/// is of no use here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) begin: u64,
    /// `None` when the writer did not come to tell.
    pub(super) end: Option<u64>,
}

impl Bounds {
    /// From the 40 bytes after the pragma: 16 of characteristics, and the three numbers.
    pub(super) fn decode(bytes: &[u8; V2_BYTES]) -> Result<Self, HeaderError> {
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let (begin, length, index) = (number(16), number(24), number(32));
        if begin < V2_DATA {
            return Err(HeaderError::Bounds);
        }
        // A size of zero stands in files that were streamed: the data ends with the file, or where the index begins.
        let end = match (length, index) {
            (0, 0) => None,
            (0, index) => Some(index),
            (length, _) => Some(begin.checked_add(length).ok_or(HeaderError::Bounds)?),
        };
        if end.is_some_and(|end| end <= begin) { Err(HeaderError::Bounds) } else { Ok(Self { begin, end }) }
    }

    /// What a CAR of version 2 with so many bytes of data, and no index, begins with.
    pub(super) fn encode(data_bytes: u64) -> Vec<u8> {
        let mut out = PRAGMA.to_vec();
        out.extend_from_slice(&[0; 16]);
        for number in [V2_DATA, data_bytes, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Block, RAW};

    #[test]
    fn a_header_comes_back_as_it_was_and_is_the_one_that_kubo_writes() {
        let root = Block::new(RAW, &b"hello"[..]).unwrap().cid;
        let bytes = Header::encode_v1(&[root]);
        assert_eq!(bytes[..17], *b"\x3a\xa2\x65roots\x81\xd8\x2a\x58\x25\0\x01\x55\x12");
        assert_eq!(bytes[bytes.len() - 9..], *b"\x67version\x01");
        assert_eq!(Header::decode(&bytes[1..]), Ok(Header { version: 1, roots: vec![root] }));
        assert_eq!(Header::decode(&PRAGMA[1..]), Ok(Header { version: 2, roots: Vec::new() }));
    }

    #[test]
    fn the_bounds_of_a_car_within_a_car_are_checked() {
        let bounds = |begin: u64, length: u64, index: u64| {
            let mut bytes = [0xff; V2_BYTES];
            for (at, number) in [(16, begin), (24, length), (32, index)] {
                bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            }
            Bounds::decode(&bytes)
        };
        assert_eq!(bounds(51, 9, 0), Ok(Bounds { begin: 51, end: Some(60) }));
        assert_eq!(bounds(80, 9, 7), Ok(Bounds { begin: 80, end: Some(89) }), "the index is of no interest");
        assert_eq!(bounds(51, 0, 0), Ok(Bounds { begin: 51, end: None }));
        assert_eq!(bounds(51, 0, 90), Ok(Bounds { begin: 51, end: Some(90) }));
        for (begin, length, index) in [(50, 9, 0), (0, 0, 0), (51, u64::MAX, 0), (51, 0, 51), (51, 0, 7)] {
            assert_eq!(bounds(begin, length, index), Err(HeaderError::Bounds), "{begin} {length} {index}");
        }
        let encoded = Bounds::encode(9);
        assert_eq!(Bounds::decode(encoded[11..].try_into().unwrap()), Ok(Bounds { begin: 51, end: Some(60) }));
    }
}
