//! dag-pb, the codec of UnixFS nodes: links, then data. Encoding is canonical, so that equal nodes have equal CIDs;
//! decoding is strict and bounded by the block it decodes.
//!
//! ```
//! use diai_blocks::dag_pb::{Link, Node};
//! use bytes::Bytes;
//!
//! let node = Node { links: Vec::new(), data: Some(Bytes::from_static(&[8, 1])) };
//! assert_eq!(node.encode(), [0x0a, 2, 8, 1]);
//! assert_eq!(Node::decode(&node.encode())?, node);
//! # Ok::<(), diai_blocks::dag_pb::DecodeError>(())
//! ```

use bytes::Bytes;
use cid::Cid;

/// More links than this in one node are refused: what fits a block of 2 MiB with the shortest CIDs in use.
pub const MAX_LINKS: usize = 64 << 10;
/// A name longer than this is refused.
pub const MAX_NAME_BYTES: usize = 4096;
/// A longer CID is refused: room for a 128-byte digest, as in Bitswap.
pub(crate) const MAX_CID_BYTES: usize = 168;

/// A node: its links in their order, and its data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// The links. Directories sort theirs by name ([`Node::sort_links`]); files keep the order of the content.
    pub links: Vec<Link>,
    /// The data; `None` is another node than `Some` of nothing.
    pub data: Option<Bytes>,
}

/// A link to another block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Where it leads.
    pub cid: Cid,
    /// Its name; empty in files.
    pub name: String,
    /// Bytes of all blocks below, as the maker of the node says: a hint.
    pub tsize: u64,
}

/// Why bytes are no dag-pb node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end within a field.
    #[error("the dag-pb node is cut short")]
    Truncated,
    /// A field that does not belong there, stands twice, or is out of order.
    #[error("the dag-pb node has an unexpected field")]
    Field,
    /// A link without a CID, or with one that is none.
    #[error("a link of the dag-pb node has no valid CID")]
    Cid,
    /// A name that is no UTF-8, or too long.
    #[error("a link of the dag-pb node has no valid name")]
    Name,
    /// More than [`MAX_LINKS`].
    #[error("the dag-pb node has too many links")]
    TooManyLinks,
}

impl Node {
    /// Sorts the links by the bytes of their names, equal names staying as they are: what directories must do.
    pub fn sort_links(&mut self) {
        self.links.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_bytes());
        for link in &self.links {
            out.push(0x12);
            put_varint(&mut out, link.body_bytes() as u64);
            out.push(0x0a);
            put_varint(&mut out, link.cid.encoded_len() as u64);
            link.cid.write_bytes(&mut out).expect("writing to memory");
            out.push(0x12);
            put_bytes(&mut out, link.name.as_bytes());
            out.push(0x18);
            put_varint(&mut out, link.tsize);
        }
        if let Some(data) = &self.data {
            out.push(0x0a);
            put_bytes(&mut out, data);
        }
        out
    }

    /// How many bytes [`Node::encode`] makes.
    pub fn encoded_bytes(&self) -> usize {
        let data = self.data.as_ref().map_or(0, |data| 1 + varint_bytes(data.len() as u64) + data.len());
        data + self.links.iter().map(Link::encoded_bytes).sum::<usize>()
    }

    /// The node that `bytes` are. Links may stand after the data, as old writers put them, but not around it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut node = Self::default();
        let mut rest = bytes;
        let mut links_ended = false;
        while !rest.is_empty() {
            match field(&mut rest)? {
                (0x0a, Content::Bytes(data)) if node.data.is_none() => {
                    node.data = Some(Bytes::copy_from_slice(data));
                    links_ended = !node.links.is_empty();
                }
                (0x12, Content::Bytes(_)) if links_ended => return Err(DecodeError::Field),
                (0x12, Content::Bytes(link)) => {
                    if node.links.len() == MAX_LINKS {
                        return Err(DecodeError::TooManyLinks);
                    }
                    node.links.push(Link::decode(link)?);
                }
                _ => return Err(DecodeError::Field),
            }
        }
        Ok(node)
    }
}

impl Link {
    fn body_bytes(&self) -> usize {
        let (cid, name) = (self.cid.encoded_len(), self.name.len());
        3 + varint_bytes(cid as u64) + cid + varint_bytes(name as u64) + name + varint_bytes(self.tsize)
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        let body = self.body_bytes();
        1 + varint_bytes(body as u64) + body
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut cid, mut name, mut tsize) = (None, None, None);
        let mut rest = bytes;
        while !rest.is_empty() {
            match field(&mut rest)? {
                (0x0a, Content::Bytes(bytes)) if cid.is_none() && name.is_none() && tsize.is_none() => {
                    cid = Some(exact_cid(bytes).ok_or(DecodeError::Cid)?);
                }
                (0x12, Content::Bytes(bytes)) if name.is_none() && tsize.is_none() => {
                    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_NAME_BYTES);
                    name = Some(text.ok_or(DecodeError::Name)?.to_owned());
                }
                (0x18, Content::Number(number)) if tsize.is_none() => tsize = Some(number),
                _ => return Err(DecodeError::Field),
            }
        }
        Ok(Self { cid: cid.ok_or(DecodeError::Cid)?, name: name.unwrap_or_default(), tsize: tsize.unwrap_or(0) })
    }
}

/// The CID that `bytes` are, exactly.
pub(crate) fn exact_cid(bytes: &[u8]) -> Option<Cid> {
    let mut rest = bytes;
    let cid = (bytes.len() <= MAX_CID_BYTES).then(|| Cid::read_bytes(&mut rest).ok())??;
    rest.is_empty().then_some(cid)
}

pub(crate) enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Takes a field off `rest`: its key, and what it holds.
pub(crate) fn field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Content<'a>), DecodeError> {
    let key = varint(rest)?;
    match key & 7 {
        0 => Ok((key, Content::Number(varint(rest)?))),
        2 => {
            let length = usize::try_from(varint(rest)?).map_err(|_| DecodeError::Truncated)?;
            let (content, after) = rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
            *rest = after;
            Ok((key, Content::Bytes(content)))
        }
        _ => Err(DecodeError::Field),
    }
}

pub(crate) fn varint(rest: &mut &[u8]) -> Result<u64, DecodeError> {
    let mut value = 0u64;
    for index in 0..10 {
        let (&byte, after) = rest.split_first().ok_or(DecodeError::Truncated)?;
        *rest = after;
        if index == 9 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DecodeError::Field)
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}
