//! Folders too large for one block: a trie over the hash of the names, as wide as the profile says.

use bytes::Bytes;
use cid::Version;
use diai_core::FileAttributes;

use super::{ImportError, Kind, Profile, UnixFs, data::HASH_MURMUR3, leaf::node_block, tree::Child};
use crate::{
    Block,
    dag_pb::{Link, Node},
};

/// An entry and the hash of its name.
pub(super) type Hashed = (u64, Link);

/// How the shards of a folder look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    fanout: usize,
    version: Version,
}

impl Shape {
    pub(super) fn of(profile: &Profile) -> Self {
        Self { fanout: profile.fanout, version: profile.cid_version }
    }

    pub(super) fn fanout(self) -> usize {
        self.fanout
    }

    /// Where in a shard at `level` a name of `hash` belongs; `None` below the last level.
    pub(super) fn index(self, hash: u64, level: usize) -> Option<usize> {
        let bits = self.fanout.trailing_zeros();
        let used = bits * (level as u32 + 1);
        (used <= 64).then(|| (hash >> (64 - used)) as usize & (self.fanout - 1))
    }

    /// The shard of `slots`, which are sorted: each an entry, or a shard, whose link has no name.
    pub(super) fn node(
        self,
        slots: Vec<(usize, Link)>,
        attributes: FileAttributes,
    ) -> Result<(Child, Block), ImportError> {
        let width = format!("{:X}", self.fanout - 1).len();
        let mut bits = vec![0u8; self.fanout / 8];
        let mut below = 0u64;
        let mut node = Node::default();
        for (index, link) in slots {
            bits[self.fanout / 8 - 1 - index / 8] |= 1 << (index % 8);
            below = below.saturating_add(link.tsize);
            node.links.push(Link { name: format!("{index:0width$X}{}", link.name), ..link });
        }
        let leading = bits.iter().take_while(|byte| **byte == 0).count();
        let data = UnixFs {
            data: Some(Bytes::copy_from_slice(&bits[leading..])),
            hash_type: Some(HASH_MURMUR3),
            fanout: Some(self.fanout as u64),
            ..UnixFs::new(Kind::Shard).with(attributes)
        };
        node.data = Some(data.encode());
        let block = node_block(self.version, node.encode())?;
        let tsize = below.saturating_add(block.data.len() as u64);
        Ok((Child { cid: block.cid, bytes: 0, tsize }, block))
    }
}

/// The trie over `entries`, which are sorted by their hashes; its blocks, the root last, go to `out`. `attributes` are
/// those of the folder: they stand in the root.
pub(super) fn build(
    shape: Shape,
    entries: Vec<Hashed>,
    attributes: FileAttributes,
    out: &mut Vec<Block>,
) -> Result<Child, ImportError> {
    shard(shape, entries, 0, attributes, out)
}

/// Calls itself once a level, 21 times at most.
fn shard(
    shape: Shape,
    entries: Vec<Hashed>,
    level: usize,
    attributes: FileAttributes,
    out: &mut Vec<Block>,
) -> Result<Child, ImportError> {
    let mut slots = Vec::new();
    let mut rest = entries.into_iter().peekable();
    while let Some(first) = rest.next() {
        let Some(index) = shape.index(first.0, level) else {
            let second = rest.next().map(|(_, link)| link.name).unwrap_or_default();
            return Err(ImportError::Collision { first: first.1.name, second });
        };
        let mut group = vec![first];
        while let Some(next) = rest.next_if(|next| shape.index(next.0, level) == Some(index)) {
            group.push(next);
        }
        let link = match <[Hashed; 1]>::try_from(group) {
            Ok([(_, link)]) => link,
            Err(group) => {
                let child = shard(shape, group, level + 1, FileAttributes::default(), out)?;
                Link { cid: child.cid, name: String::new(), tsize: child.tsize }
            }
        };
        slots.push((index, link));
    }
    let (child, block) = shape.node(slots, attributes)?;
    out.push(block);
    Ok(child)
}

/// A shard that was read and found valid.
pub(super) struct Shard {
    pub(super) links: Vec<Link>,
    pub(super) prefix: usize,
    pub(super) fanout: usize,
    bits_per_level: u32,
}

impl Shard {
    /// `node` as a shard, or what is wrong with it.
    pub(super) fn check(node: Node, data: &UnixFs) -> Result<Self, &'static str> {
        let fanout = data.fanout.unwrap_or(0);
        if !fanout.is_power_of_two() || !(8..=1024).contains(&fanout) {
            return Err("the width of a folder's shard is no power of two from 8 to 1024");
        }
        if data.hash_type != Some(HASH_MURMUR3) {
            return Err("a folder's shard is of an unknown hash function");
        }
        let bits = data.data.as_deref().unwrap_or(&[]);
        if bits.len() as u64 > fanout / 8 {
            return Err("the bit field of a folder's shard is too long");
        }
        let set = (0..fanout as usize)
            .filter(|bit| bits.len().checked_sub(1 + bit / 8).is_some_and(|byte| bits[byte] >> (bit % 8) & 1 == 1));
        let prefix = format!("{:X}", fanout - 1).len();
        let named = |link: &Link| {
            let name = link.name.get(..prefix)?;
            let index = usize::from_str_radix(name, 16).ok()?;
            (name == format!("{index:0prefix$X}")).then_some(index)
        };
        if !set.map(Some).eq(node.links.iter().map(named)) {
            return Err("the links of a folder's shard do not match its bit field");
        }
        Ok(Self { links: node.links, prefix, fanout: fanout as usize, bits_per_level: fanout.trailing_zeros() })
    }

    /// Where in the shard at `level` a name of `hash` belongs, as a prefix; `None` below the last level.
    pub(super) fn place(&self, hash: u64, level: usize) -> Option<String> {
        let used = self.bits_per_level * (level as u32 + 1);
        let index = (used <= 64).then(|| (hash >> (64 - used)) & ((1 << self.bits_per_level) - 1))?;
        Some(format!("{index:0width$X}", width = self.prefix))
    }

    /// What stands in the shard at `place`, in order, or what is wrong with it: entries, and shards below with their
    /// places. Each entry must stand where its hash belongs, and a shard below the root must have something: else a few
    /// shards that are each linked many times make a trie without end.
    pub(super) fn slots(self, place: Place) -> Result<Vec<Standing>, &'static str> {
        if place.bits > 0 && self.links.is_empty() {
            return Err("a shard of a folder is empty");
        }
        let bits = place.bits + self.bits_per_level;
        if bits > 64 {
            return Err("the folder's shards nest too deep");
        }
        let mut slots = Vec::with_capacity(self.links.len());
        for mut link in self.links {
            let name = link.name.split_off(self.prefix);
            let index = usize::from_str_radix(&link.name, 16).map_err(|_| "a link of a folder's shard has no place")?;
            // Checked above: of the first shard's bits there are fewer than 64.
            let hash = (place.hash << self.bits_per_level) | index as u64;
            if !name.is_empty() && murmur3(name.as_bytes()) >> (64 - bits) != hash {
                return Err("an entry of a folder stands in a shard where it does not belong");
            }
            let below = name.is_empty().then_some(Place { bits, hash });
            slots.push((index, Link { name, ..link }, below));
        }
        Ok(slots)
    }
}

/// At which place something stands in a shard, and where in the trie if it is a shard itself.
pub(super) type Standing = (usize, Link, Option<Place>);

/// Where in the trie a shard stands: the leading bits of the hashes below it. The default is the root's.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    bits: u32,
    hash: u64,
}

/// The first half of MurmurHash3 x64 128.
pub(super) fn murmur3(data: &[u8]) -> u64 {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let mix1 = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let mix2 = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    };
    let (mut h1, mut h2) = (0u64, 0u64);
    let mut chunks = data.chunks_exact(16);
    for chunk in &mut chunks {
        h1 ^= mix1(word(&chunk[..8]));
        h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 ^= mix2(word(&chunk[8..]));
        h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let tail = chunks.remainder();
    h2 ^= mix2(word(tail.get(8..).unwrap_or(&[])));
    h1 ^= mix1(word(&tail[..tail.len().min(8)]));
    h1 ^= data.len() as u64;
    h2 ^= data.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    finish(h1).wrapping_add(finish(h2))
}

fn finish(mut k: u64) -> u64 {
    k = (k ^ (k >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    k = (k ^ (k >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hash_as_everywhere_else() {
        assert_eq!(murmur3(b"a"), 0x8555_5565_f659_7889);
        assert_eq!(murmur3(b"").to_be_bytes(), [0; 8]);
        // Longer than a block of 16 bytes, with a tail in both halves.
        assert_eq!(murmur3(b"The quick brown fox jumps over the lazy dog"), 0xe34b_bc7b_bc07_1b6c);
    }
}
