//! The keys of contents, and what they are derived from.

use std::fmt;

use cid::Cid;
use diai_core::Entropy;
use diai_identity::{EncryptionKey, Identity};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Group, chunks::Cipher};

/// Whose grants are tried when content is opened: a device's own, and those of groups it is a member of.
#[derive(Debug, Clone)]
pub struct Keys {
    pub(super) identity: Identity,
    pub(super) groups: Vec<Group>,
}

impl Keys {
    /// The device of `identity` as a member of `groups`.
    pub fn new(identity: Identity, groups: Vec<Group>) -> Self {
        Self { identity, groups }
    }
}

impl From<&Identity> for Keys {
    fn from(identity: &Identity) -> Self {
        Self::new(identity.clone(), Vec::new())
    }
}

/// Where the key of a content comes from.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Keying {
    /// A new random key each time: equal contents have nothing in common. The default.
    #[default]
    Random,
    /// A function of the content and a secret salt: who seals the same for the same readers twice gets the same CID, and it
    /// is stored once. The price: everybody sees that it is the same, whoever has the salt can test a guess of
    /// the content, and when it was sealed is not said.
    ///
    /// The key is the same for other readers too: sealing the same content again does not take a reader out who had it. That
    /// takes [`Random`](Self::Random) or another salt.
    Convergent(Salt),
}

/// The secret of whoever wants equal contents to have equal CIDs. Nobody else may know it.
#[derive(Clone, PartialEq, Eq)]
pub struct Salt(Zeroizing<[u8; 32]>);

impl Salt {
    /// The one with these 32 bytes, which must be random.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// That of a device, which needs not be kept anywhere. The first `generation` is zero; in the next, all keys are others,
    /// which is what takes a reader out of content that has not changed.
    pub fn of_device(identity: &Identity, generation: u64) -> Self {
        let purpose = [&b"diai/sealed-salt/2"[..], &generation.to_le_bytes()].concat();
        Self(identity.derive_secret(&purpose))
    }

    /// That of a group, which all members have; another in each epoch.
    pub fn of_group(group: &Group) -> Self {
        let mut salt = Zeroizing::new([0; 32]);
        let derived = Hkdf::<Sha256>::new(Some(b"diai/sealed-group-salt/2"), group.current().as_bytes());
        derived.expand(b"", &mut *salt).expect("32 bytes are far below the limit");
        Self(salt)
    }

    fn expand<const N: usize>(&self, info: &[&[u8]]) -> Zeroizing<[u8; N]> {
        let mut derived = Zeroizing::new([0; N]);
        let salted = Hkdf::<Sha256>::new(Some(b"diai/sealed-convergent/2"), &*self.0);
        salted.expand_multi_info(info, &mut *derived).expect("few bytes are far below the limit");
        derived
    }

    /// The key of the content whose plaintext has this hash.
    pub(super) fn key(&self, plaintext: &[u8; 32]) -> ContentKey {
        ContentKey(self.expand(&[b"key", plaintext]))
    }

    /// What the ephemeral key of a grant of `granted` is made of. That key is in it, as who has the ephemeral key opens the
    /// grant: the salt alone, which all members of a group have, must not suffice.
    pub(super) fn ephemeral(
        &self,
        granted: &ContentKey,
        content: &Cid,
        reader: &[u8; 32],
        key: &EncryptionKey,
    ) -> Once {
        Once(self.expand(&[b"grant", granted.as_bytes(), &content.to_bytes(), reader, key.as_bytes()]))
    }

    /// The key that nobody has of the fill-up `number`, and what its ephemeral key is made of.
    pub(super) fn nobody(&self, granted: &ContentKey, content: &Cid, number: u64) -> ([u8; 32], Once) {
        let info = [b"fill-up", &granted.as_bytes()[..], &content.to_bytes(), &number.to_le_bytes()];
        let derived = self.expand::<64>(&info);
        let (mut key, mut ephemeral) = ([0; 32], Zeroizing::new([0; 32]));
        key.copy_from_slice(&derived[..32]);
        ephemeral.copy_from_slice(&derived[32..]);
        (key, Once(ephemeral))
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Salt").finish_non_exhaustive()
    }
}

/// 32 bytes, for the one key that a grant takes.
pub(super) struct Once(Zeroizing<[u8; 32]>);

impl Once {
    pub(super) fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }
}

impl Entropy for Once {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.iter_mut().zip(self.0.iter().cycle()).for_each(|(byte, derived)| *byte = *derived);
    }
}

/// The key of one content.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ContentKey(Zeroizing<[u8; 32]>);

impl ContentKey {
    pub(super) fn random(entropy: &dyn Entropy) -> Self {
        Self(Zeroizing::new(entropy.bytes()))
    }

    pub(super) fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) fn cipher(&self, chunks: u64) -> Cipher {
        Cipher::new(&self.0, chunks)
    }
}

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentKey").finish_non_exhaustive()
    }
}
