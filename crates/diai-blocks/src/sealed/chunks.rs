use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, aead::AeadInOut};
use sha2::{Digest, Sha256};

/// Bytes of a sealed chunk, tag included.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of plaintext in a chunk.
pub const PLAIN_BYTES: usize = CHUNK_BYTES - TAG_BYTES;
const TAG_BYTES: usize = 16;
const SMALLEST_CLASS: u64 = 256;

/// The length class of `bytes`: 256 at least, above that rounded up so that only the highest bits differ from zero
/// (Padme: as many bits as the logarithm of the length has). At most 12 % more.
pub fn padded_bytes(bytes: u64) -> u64 {
    if bytes <= SMALLEST_CLASS {
        return SMALLEST_CLASS;
    }
    let exponent = bytes.ilog2();
    let low_bits = exponent - (exponent.ilog2() + 1);
    let mask = (1u64 << low_bits) - 1;
    bytes.saturating_add(mask) & !mask
}

/// The cipher of one content.
#[derive(Clone)]
pub(super) struct Cipher {
    cipher: ChaCha20Poly1305,
    chunks: u64,
}

/// A chunk that was changed, moved or cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tampered;

impl Cipher {
    pub(super) fn new(key: &[u8; 32], chunks: u64) -> Self {
        let key = Sha256::new().chain_update(b"diai/sealed-content/1").chain_update(key).finalize();
        Self { cipher: ChaCha20Poly1305::new(&<[u8; 32]>::from(key).into()), chunks }
    }

    fn associated(&self, index: u64) -> [u8; 35] {
        let mut data = [0; 35];
        data[..19].copy_from_slice(b"diai/sealed-chunk/1");
        data[19..27].copy_from_slice(&index.to_le_bytes());
        data[27..].copy_from_slice(&self.chunks.to_le_bytes());
        data
    }

    /// Encrypts the plaintext `chunk` in place and appends its tag.
    pub(super) fn seal(&self, index: u64, chunk: &mut Vec<u8>) {
        let sealed = self.cipher.encrypt_in_place(&nonce(index), &self.associated(index), chunk);
        sealed.expect("a chunk is far below the cipher's limit");
    }

    /// Decrypts the sealed `chunk` in place and cuts its tag off.
    pub(super) fn open(&self, index: u64, chunk: &mut Vec<u8>) -> Result<(), Tampered> {
        self.cipher.decrypt_in_place(&nonce(index), &self.associated(index), chunk).map_err(|_| Tampered)
    }
}

fn nonce(index: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&index.to_le_bytes());
    nonce.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_rounded_up_to_few_classes_at_a_small_cost() {
        assert_eq!(padded_bytes(0), 256);
        assert_eq!(padded_bytes(257), 272);
        assert_eq!(padded_bytes(1_000_000), 1_015_808);
        for bytes in [256u64, 1 << 20, 999_999_937, (1 << 40) + 1] {
            let padded = padded_bytes(bytes);
            assert!(padded >= bytes && padded - bytes <= bytes / 8, "{bytes} -> {padded}");
            assert_eq!(padded_bytes(padded), padded);
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
        assert_eq!(open(&cipher, 1, sealed[..10].to_vec()), Err(Tampered));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(open(&cipher, 1, changed), Err(Tampered), "byte {at}");
        }
    }

    #[test]
    fn the_first_chunk_has_the_bytes_of_the_format() {
        let mut sealed = b"diai".to_vec();
        Cipher::new(&[1; 32], 1).seal(0, &mut sealed);
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "76cdbc5f1262b3fe9919e818e4292ce2369c269a");
    }
}
