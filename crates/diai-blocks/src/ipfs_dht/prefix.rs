use std::ops::RangeInclusive;

use bytes::Bytes;

use super::message::Key;

/// Bits up to which a key with a given beginning is found by trying: 16,384 hashes on average.
const MAX_SAMPLED_BITS: u32 = 14;

/// A part of the key space: all keys whose first `bits` bits are those of `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    first: Key,
    bits: u32,
}

impl Prefix {
    /// The part around `key`; with 256 bits `key` alone.
    pub(super) fn of(key: &Key, bits: u32) -> Self {
        Self { first: Key(masked(key, bits, 0)), bits }
    }

    pub(super) fn bits(&self) -> u32 {
        self.bits
    }

    /// From its first key to its last.
    pub(super) fn range(&self) -> RangeInclusive<Key> {
        self.first..=Key(masked(&self.first, self.bits, 0xff))
    }

    /// The part that differs in the last of its bits, of which there must be one.
    pub(super) fn sibling(mut self) -> Self {
        let last = self.bits - 1;
        self.first.0[last as usize / 8] ^= 0x80 >> (last % 8);
        self
    }

    /// What has its place here, in the form of a multihash; `None` where finding it takes too long.
    pub(super) fn sample(&self) -> Option<(Bytes, Key)> {
        if self.bits > MAX_SAMPLED_BITS {
            return None;
        }
        let tries = 0..(64u32 << self.bits);
        tries.into_iter().find_map(|number| {
            let mut bytes = [0; 34];
            bytes[..2].copy_from_slice(&[0x12, 0x20]);
            bytes[2..6].copy_from_slice(&number.to_be_bytes());
            let key = Key::of(&bytes);
            (key.common_bits(&self.first) >= self.bits).then(|| (Bytes::copy_from_slice(&bytes), key))
        })
    }
}

/// `key` up to `bits`, and the bits of `rest` from there on.
fn masked(key: &Key, bits: u32, rest: u8) -> [u8; 32] {
    std::array::from_fn(|index| {
        let keep = bits.saturating_sub(8 * index as u32).min(8);
        let mask = 0xffu8.checked_shr(keep).unwrap_or(0);
        key.0[index] & !mask | rest & mask
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_key_space_holds_what_begins_like_it_and_nothing_else() {
        let key = Key::of(b"somewhere");
        for bits in [0, 1, 7, 8, 9, 20, 255, 256] {
            let prefix = Prefix::of(&key, bits);
            let (first, last) = prefix.range().into_inner();
            assert!(first <= key && key <= last);
            assert_eq!(first.common_bits(&last), bits, "{bits} bits");
            if bits > 0 {
                let beside = prefix.sibling();
                assert_eq!((beside.range().start().common_bits(&key), beside.sibling()), (bits - 1, prefix));
            }
        }
        for bits in [0, 5, 11] {
            let prefix = Prefix::of(&key, bits);
            let (bytes, found) = prefix.sample().unwrap();
            assert!(found == Key::of(&bytes) && prefix.range().contains(&found));
        }
        assert_eq!(Prefix::of(&key, 200).sample(), None);
    }
}
