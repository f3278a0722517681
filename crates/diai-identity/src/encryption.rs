use std::{convert::Infallible, fmt, sync::Arc};

use diai_core::Entropy;
use hpke::{
    Deserializable, Kem as _, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256,
    kem::X25519HkdfSha256, single_shot_open, single_shot_seal_with_rng,
};
use rand_core::{TryCryptoRng, TryRng};
use zeroize::Zeroizing;

type Kem = X25519HkdfSha256;
const ENCAPPED_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

/// The encodings, with the top bit cleared, of all points of small order on Curve25519 and its twist.
const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    edge(0x01, 0x00, 0x00),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    edge(0xec, 0xff, 0x7f),
    edge(0xed, 0xff, 0x7f),
    edge(0xee, 0xff, 0x7f),
];

const fn edge(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

/// The X25519 public key of a device, to seal messages with that only this device can open.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EncryptionKey([u8; 32]);

/// A public key of small order, which gives no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the encryption key is of small order, so that anybody could open what is sealed with it")]
pub struct WeakKeyError;

/// A sealed message cannot be opened: it is for another device or another purpose, or it was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot open the sealed message: it is for another device or another purpose, or it was changed on its way")]
pub struct OpenSealedError;

impl EncryptionKey {
    /// A sealed message is exactly this much longer than its plaintext.
    pub const SEAL_OVERHEAD_BYTES: usize = ENCAPPED_BYTES + TAG_BYTES;

    /// The key with these 32 bytes. The seven points of small order are refused.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, WeakKeyError> {
        let mut masked = bytes;
        masked[31] &= 0x7f;
        if SMALL_ORDER.contains(&masked) { Err(WeakKeyError) } else { Ok(Self(bytes)) }
    }

    /// Its 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Seals `plaintext` so that only the device can open it, and only for the same `info`, which says what it is for
    /// (`diai/<what>/1`, with whatever else both sides know).
    ///
    /// HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305:
    /// `encapsulated key || ciphertext || tag`. Says nothing about who sealed it; sign inside if that matters.
    pub fn seal(&self, entropy: &dyn Entropy, info: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let key = <Kem as hpke::Kem>::PublicKey::from_bytes(&self.0).expect("any 32 bytes are an X25519 key");
        let mut random = Random(entropy);
        let (encapped, ciphertext) = single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &OpModeS::Base,
            &key,
            info,
            plaintext,
            &[],
            &mut random,
        )
        .expect("keys of small order were refused and one message is within the cipher's limits");
        let mut sealed = Vec::with_capacity(ENCAPPED_BYTES + ciphertext.len());
        sealed.extend_from_slice(&encapped.to_bytes());
        sealed.extend_from_slice(&ciphertext);
        sealed
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncryptionKey(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// The secret that opens what was sealed with an [`EncryptionKey`].
pub(crate) struct DecryptionKey(Zeroizing<[u8; 32]>);

impl DecryptionKey {
    pub(crate) fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn key(&self) -> <Kem as hpke::Kem>::PrivateKey {
        <Kem as hpke::Kem>::PrivateKey::from_bytes(&*self.0).expect("any 32 bytes are an X25519 secret")
    }

    pub(crate) fn public(&self) -> EncryptionKey {
        EncryptionKey(Kem::sk_to_pk(&self.key()).to_bytes().into())
    }

    pub(crate) fn open(&self, info: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenSealedError> {
        let (encapped, ciphertext) = sealed.split_at_checked(ENCAPPED_BYTES).ok_or(OpenSealedError)?;
        let encapped = <Kem as hpke::Kem>::EncappedKey::from_bytes(encapped).map_err(|_| OpenSealedError)?;
        single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &OpModeR::Base,
            &self.key(),
            &encapped,
            info,
            ciphertext,
            &[],
        )
        .map_err(|_| OpenSealedError)
    }
}

/// The secret of an [`EncryptionKey`] that several devices hold, such as those of the members of a group. Clones share it;
/// it is wiped with the last.
#[derive(Clone)]
pub struct SharedKey(Arc<DecryptionKey>);

impl SharedKey {
    /// A new one.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self::from_bytes(Zeroizing::new(entropy.bytes()))
    }

    /// The one with these 32 bytes, whatever they are.
    pub fn from_bytes(secret: Zeroizing<[u8; 32]>) -> Self {
        Self(Arc::new(DecryptionKey::from_bytes(secret)))
    }

    /// Its 32 bytes, for those who are to hold it too.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The key to seal with.
    pub fn encryption_key(&self) -> EncryptionKey {
        self.0.public()
    }

    /// Opens what was sealed with [`encryption_key`](Self::encryption_key) for the same `info`.
    pub fn open_sealed(&self, info: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenSealedError> {
        self.0.open(info, sealed)
    }
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKey").field("public", &self.encryption_key()).finish_non_exhaustive()
    }
}

/// The World's entropy for crates that take a `rand_core` generator.
struct Random<'a>(&'a dyn Entropy);

impl TryRng for Random<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(self.0.bytes()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.u64())
    }

    fn try_fill_bytes(&mut self, buffer: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(buffer);
        Ok(())
    }
}

impl TryCryptoRng for Random<'_> {}
