//! Bounded decoding of protobuf: a walk over the tags, without allocation, that enforces how often each field may
//! stand, how long it may be and how deep messages may nest, before `prost` decodes anything.
//!
//! ```
//! use diai_core::bounded::{Bounds, Field, check};
//!
//! const INNER: Bounds = Bounds::new("inner", &[Field::bytes(1, 1, 8)]);
//! const OUTER: Bounds = Bounds::new("outer", &[Field::scalar(1), Field::message(2, 3, &INNER)]);
//!
//! assert!(check(&[0x08, 0x01, 0x12, 0x02, 0x0a, 0x00], &OUTER).is_ok());
//! assert!(check(&[0x12, 0x0b, 0x0a, 0x09, 0, 0, 0, 0, 0, 0, 0, 0, 0], &OUTER).is_err());
//! ```

use prost::Message;

/// Messages may nest this deep, whatever their bounds say.
pub const MAX_DEPTH: usize = 16;
/// Fields that the bounds do not name are skipped, so that a newer peer is understood, but only so many.
pub const MAX_UNKNOWN_FIELDS: usize = 16;
/// Known fields are told apart by their place in the bounds; so many a message may have.
const MAX_FIELDS: usize = 32;

/// What a message may hold.
#[derive(Debug)]
pub struct Bounds {
    name: &'static str,
    fields: &'static [Field],
}

impl Bounds {
    /// The bounds of the message called `name`, at most 32 fields.
    pub const fn new(name: &'static str, fields: &'static [Field]) -> Self {
        assert!(fields.len() <= MAX_FIELDS, "at most 32 fields");
        Self { name, fields }
    }
}

/// What a field may hold.
#[derive(Debug)]
pub struct Field {
    tag: u32,
    max_count: usize,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    Scalar,
    Bytes { max_bytes: usize },
    Message(&'static Bounds),
}

impl Field {
    /// A number, at most once.
    pub const fn scalar(tag: u32) -> Self {
        Self { tag, max_count: 1, shape: Shape::Scalar }
    }

    /// Repeated varints, packed or not, at most `max_count`.
    pub const fn scalars(tag: u32, max_count: usize) -> Self {
        Self { tag, max_count, shape: Shape::Scalar }
    }

    /// `bytes` or `string`, at most `max_count` times, each at most `max_bytes` long.
    pub const fn bytes(tag: u32, max_count: usize, max_bytes: usize) -> Self {
        Self { tag, max_count, shape: Shape::Bytes { max_bytes } }
    }

    /// A message, at most `max_count` times.
    pub const fn message(tag: u32, max_count: usize, bounds: &'static Bounds) -> Self {
        Self { tag, max_count, shape: Shape::Message(bounds) }
    }
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end within a field, or a tag or length is malformed.
    #[error("{message} is malformed")]
    Malformed {
        /// Which message.
        message: &'static str,
    },
    /// A field is longer, or stands more often, than its bounds allow.
    #[error("field {tag} of {message} is over its limit of {limit}")]
    OverLimit {
        /// Which message.
        message: &'static str,
        /// Which field.
        tag: u32,
        /// The cap, in bytes or entries.
        limit: usize,
    },
    /// Messages nest too deep, or hold too many unknown fields.
    #[error("{message} is too deep or has too many unknown fields")]
    TooComplex {
        /// Which message.
        message: &'static str,
    },
    /// A field's value means nothing.
    #[error("field {field} of {message} is not valid")]
    Value {
        /// Which message.
        message: &'static str,
        /// Which field.
        field: &'static str,
    },
}

/// Checks `bytes` against `bounds` and decodes them. The whole input is consumed.
pub fn decode<M: Message + Default>(bytes: bytes::Bytes, bounds: &Bounds) -> Result<M, DecodeError> {
    check(&bytes, bounds)?;
    M::decode(bytes).map_err(|_| DecodeError::Malformed { message: bounds.name })
}

/// Checks `bytes` against `bounds`.
pub fn check(bytes: &[u8], bounds: &Bounds) -> Result<(), DecodeError> {
    walk(bytes, bounds, MAX_DEPTH)
}

fn walk(mut bytes: &[u8], bounds: &Bounds, depth: usize) -> Result<(), DecodeError> {
    let message = bounds.name;
    let malformed = || DecodeError::Malformed { message };
    let mut counts = [0usize; MAX_FIELDS];
    let mut unknown = 0;
    while !bytes.is_empty() {
        let key = u32::try_from(varint(&mut bytes).ok_or_else(malformed)?).map_err(|_| malformed())?;
        let (tag, wire) = (key >> 3, key & 7);
        if tag == 0 {
            return Err(malformed());
        }
        let (content, scalars) = content(&mut bytes, wire).ok_or_else(malformed)?;
        let Some((index, field)) = bounds.fields.iter().enumerate().find(|(_, field)| field.tag == tag) else {
            unknown += 1;
            if unknown > MAX_UNKNOWN_FIELDS {
                return Err(DecodeError::TooComplex { message });
            }
            continue;
        };
        let over = |limit| DecodeError::OverLimit { message, tag, limit };
        let mut entries = 1;
        match (&field.shape, scalars) {
            (Shape::Scalar, true) => {}
            (Shape::Scalar, false) => entries = packed(content),
            (Shape::Bytes { max_bytes }, false) if content.len() > *max_bytes => return Err(over(*max_bytes)),
            (Shape::Bytes { .. }, false) => {}
            (Shape::Message(inner), false) => {
                let depth = depth.checked_sub(1).ok_or(DecodeError::TooComplex { message })?;
                walk(content, inner, depth)?;
            }
            (Shape::Bytes { .. } | Shape::Message(_), true) => return Err(malformed()),
        }
        counts[index] += entries;
        if counts[index] > field.max_count {
            return Err(over(field.max_count));
        }
    }
    Ok(())
}

/// How many numbers are packed in `content`: each ends in a byte without its top bit, and none is longer than ten bytes.
fn packed(content: &[u8]) -> usize {
    let ends = content.iter().filter(|byte| **byte < 0x80).count();
    ends.max(content.len().div_ceil(10))
}

/// Takes a field's content off `bytes`: what it holds, and whether it is a single number.
fn content<'a>(bytes: &mut &'a [u8], wire: u32) -> Option<(&'a [u8], bool)> {
    match wire {
        0 => {
            varint(bytes)?;
            Some((&[], true))
        }
        1 => split(bytes, 8).map(|content| (content, true)),
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            split(bytes, length).map(|content| (content, false))
        }
        5 => split(bytes, 4).map(|content| (content, true)),
        _ => None,
    }
}

fn split<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (content, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(content)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for index in 0..10 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if index == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
