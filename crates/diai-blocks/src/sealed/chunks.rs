use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, aead::AeadInOut};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

/// Bytes of a sealed chunk, tag and commitment included.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of plaintext in a chunk.
pub const PLAIN_BYTES: usize = CHUNK_BYTES - OVERHEAD_BYTES;
pub(super) const OVERHEAD_BYTES: usize = TAG_BYTES + COMMITMENT_BYTES;
const TAG_BYTES: usize = 16;
const COMMITMENT_BYTES: usize = 32;
const SMALLEST_CLASS: u64 = 1024;

/// The length class of `bytes`: 1024 at least, above that rounded up so that only the highest bits differ from zero
/// (Padmé: as many bits as the logarithm of the length has). At most one part in 16 more, in 32 from 64 KiB on, in 64 from 4 GiB on.
pub fn padded_bytes(bytes: u64) -> u64 {
    if bytes <= SMALLEST_CLASS {
        return SMALLEST_CLASS;
    }
    let exponent = bytes.ilog2();
    let low_bits = exponent - (exponent.ilog2() + 1);
    let mask = (1u64 << low_bits) - 1;
    bytes.saturating_add(mask) & !mask
}

/// Chunks that `plain_bytes` are cut into.
pub(super) fn chunk_count(plain_bytes: u64) -> u64 {
    plain_bytes.div_ceil(PLAIN_BYTES as u64)
}

/// Bytes of the ciphertext of `plain_bytes`.
pub(super) fn sealed_bytes(plain_bytes: u64) -> u64 {
    plain_bytes.saturating_add(chunk_count(plain_bytes).saturating_mul(OVERHEAD_BYTES as u64))
}

/// Bytes of plaintext in a ciphertext of `sealed_bytes`; `None` if there is none of that length.
pub(super) fn plain_bytes(sealed: u64) -> Option<u64> {
    let chunks = sealed.div_ceil(CHUNK_BYTES as u64);
    let plain = sealed.checked_sub(chunks.checked_mul(OVERHEAD_BYTES as u64)?)?;
    (plain > 0 && sealed_bytes(plain) == sealed).then_some(plain)
}

/// The cipher of one content.
#[derive(Clone)]
pub(super) struct Cipher {
    derived: Hkdf<Sha256>,
    chunks: u64,
}

/// A chunk that was changed, moved or cut, or is of another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tampered;

impl Cipher {
    pub(super) fn new(key: &[u8; 32], chunks: u64) -> Self {
        Self { derived: Hkdf::new(Some(b"diai/sealed-content/2"), key), chunks }
    }

    /// Key and commitment of a chunk. As each key serves once, the nonce may be anything; as index and count are in the
    /// derivation, nothing is left to be authenticated beside the chunk.
    fn chunk(&self, index: u64) -> (ChaCha20Poly1305, [u8; COMMITMENT_BYTES]) {
        let mut derived = Zeroizing::new([0; 32 + COMMITMENT_BYTES]);
        let info = [b"diai/sealed-chunk/2", &index.to_le_bytes()[..], &self.chunks.to_le_bytes()];
        self.derived.expand_multi_info(&info, &mut *derived).expect("64 bytes are far below the limit");
        let (mut key, mut commitment) = (Zeroizing::new([0; 32]), [0; COMMITMENT_BYTES]);
        key.copy_from_slice(&derived[..32]);
        commitment.copy_from_slice(&derived[32..]);
        (ChaCha20Poly1305::new(&(*key).into()), commitment)
    }

    /// Encrypts the plaintext `chunk` in place and appends its tag and the commitment.
    pub(super) fn seal(&self, index: u64, chunk: &mut Vec<u8>) {
        let (cipher, commitment) = self.chunk(index);
        cipher.encrypt_in_place(&Nonce::default(), b"", chunk).expect("a chunk is far below the cipher's limit");
        chunk.extend_from_slice(&commitment);
    }

    /// Decrypts the sealed `chunk` in place and cuts tag and commitment off.
    pub(super) fn open(&self, index: u64, chunk: &mut Vec<u8>) -> Result<(), Tampered> {
        let (cipher, commitment) = self.chunk(index);
        // It is public; no need to compare it in constant time.
        if !chunk.ends_with(&commitment) {
            return Err(Tampered);
        }
        chunk.truncate(chunk.len() - COMMITMENT_BYTES);
        cipher.decrypt_in_place(&Nonce::default(), b"", chunk).map_err(|_| Tampered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_rounded_up_to_few_classes_at_a_small_cost() {
        assert_eq!(padded_bytes(0), 1024);
        assert_eq!(padded_bytes(1025), 1088);
        assert_eq!(padded_bytes(1_000_000), 1_015_808);
        for bytes in (1024u64..5000).chain([(64 << 10) + 1, 1 << 20, 999_999_937, (4 << 30) + 1, (1 << 40) + 1]) {
            let padded = padded_bytes(bytes);
            let bound = match bytes {
                0..0x1_0000 => 16,
                0x1_0000..0x1_0000_0000 => 32,
                _ => 64,
            };
            assert!(padded >= bytes && padded - bytes <= bytes / bound, "{bytes} -> {padded}");
            assert_eq!(padded_bytes(padded), padded);
        }
    }

    #[test]
    fn the_length_of_the_plaintext_follows_from_that_of_the_ciphertext() {
        let full = PLAIN_BYTES as u64;
        for plain in [1, 1024, full - 1, full, full + 1, 5 * full, 5 * full + 77] {
            assert_eq!(plain_bytes(sealed_bytes(plain)), Some(plain));
        }
        let chunk = CHUNK_BYTES as u64;
        for impossible in [0, 1, 48, chunk + 1, chunk + 48] {
            assert_eq!(plain_bytes(impossible), None, "{impossible}");
        }
    }

    #[test]
    fn a_chunk_opens_only_whole_at_its_place_and_under_its_key() {
        let cipher = Cipher::new(&[7; 32], 3);
        let mut sealed = b"a ring of light".to_vec();
        cipher.seal(1, &mut sealed);
        let open = |cipher: &Cipher, index, mut chunk: Vec<u8>| cipher.open(index, &mut chunk).map(|()| chunk);
        assert_eq!(open(&cipher, 1, sealed.clone()).unwrap(), b"a ring of light");
        assert_eq!(open(&cipher, 2, sealed.clone()), Err(Tampered));
        assert_eq!(open(&Cipher::new(&[7; 32], 4), 1, sealed.clone()), Err(Tampered));
        assert_eq!(open(&Cipher::new(&[8; 32], 3), 1, sealed.clone()), Err(Tampered));
        for cut in 0..sealed.len() {
            assert_eq!(open(&cipher, 1, sealed[..cut].to_vec()), Err(Tampered), "cut to {cut}");
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(open(&cipher, 1, changed), Err(Tampered), "byte {at}");
        }
    }

    #[test]
    fn a_ciphertext_that_is_valid_under_two_keys_opens_under_one_at_most() {
        // The tag of an empty message under Poly1305 is a known function of the key alone, so that it is easy to try both
        // keys' tags: without commitments each would open its own.
        let (ours, theirs) = (Cipher::new(&[1; 32], 1), Cipher::new(&[2; 32], 1));
        let (mut sealed, mut other) = (b"same".to_vec(), b"same".to_vec());
        ours.seal(0, &mut sealed);
        theirs.seal(0, &mut other);
        let commitments = |sealed: &[u8]| sealed[sealed.len() - COMMITMENT_BYTES..].to_vec();
        assert_ne!(commitments(&sealed), commitments(&other));
        // What the other key would accept, if it were not for the commitment at its end.
        let mut mixed = other[..other.len() - COMMITMENT_BYTES].to_vec();
        mixed.extend(commitments(&sealed));
        assert_eq!(theirs.open(0, &mut mixed.clone()), Err(Tampered));
        assert_eq!(ours.open(0, &mut mixed), Err(Tampered));
    }

    #[test]
    fn the_first_chunk_has_the_bytes_of_the_format() {
        let mut sealed = b"diai".to_vec();
        Cipher::new(&[1; 32], 1).seal(0, &mut sealed);
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "37c1339c150a01dea2b8214b416a259ac8835f8554b73fa189d75b1173cc727834742c35f27e401a36ef1efee193e4d38b5869b6"
        );
    }
}
