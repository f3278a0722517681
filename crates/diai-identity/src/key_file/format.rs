//! The bytes of a key file. See the module above for the layout.

use argon2::{Algorithm, Argon2, Params, Version};
use bytes::Bytes;
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use diai_core::{Entropy, WallTime};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Cost, KeyFileError};
use crate::{Certificate, Identity, LocalSigner, Signer, identity::DeviceKeys};

const MAGIC: &[u8; 8] = b"diai-key";
const VERSION: u8 = 1;
const PLAIN: u8 = 0;
const ENCRYPTED: u8 = 1;
const HASH_BYTES: usize = 32;
const SALT_BYTES: usize = 16;

type Key = Zeroizing<[u8; 32]>;

/// How the content is protected.
pub(super) enum Protection {
    Plain,
    /// The key is kept, so that the file can be written again without its passphrase.
    Passphrase {
        cost: Cost,
        salt: [u8; SALT_BYTES],
        key: Key,
    },
}

impl Protection {
    pub(super) fn new(passphrase: &str, cost: Cost, entropy: &dyn Entropy) -> Result<Self, KeyFileError> {
        let salt = entropy.bytes();
        Ok(Self::Passphrase { cost, salt, key: derive(passphrase, cost, &salt)? })
    }
}

fn derive(passphrase: &str, cost: Cost, salt: &[u8; SALT_BYTES]) -> Result<Key, KeyFileError> {
    let Cost { memory_kib, passes, lanes } = cost;
    let max = Cost::MAX;
    if memory_kib > max.memory_kib || passes > max.passes || lanes > max.lanes {
        return Err(KeyFileError::Cost { cost });
    }
    let params = Params::new(memory_kib, passes, lanes, Some(32)).map_err(|_| KeyFileError::Cost { cost })?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .map_err(|_| KeyFileError::Cost { cost })?;
    Ok(key)
}

/// The content of a key file.
pub(super) struct Secrets {
    root: Key,
    device: Key,
    encryption: Key,
    certificate: Bytes,
}

impl Secrets {
    /// Those of `identity`; `None` if its root key is elsewhere.
    pub(super) fn of(identity: &Identity) -> Option<Self> {
        let keys = identity.keys();
        Some(Self {
            root: Zeroizing::new(*identity.root_seed()?),
            device: Zeroizing::new(*keys.signing.as_bytes()),
            encryption: Zeroizing::new(*keys.decryption.as_bytes()),
            certificate: identity.certificate().to_bytes(),
        })
    }

    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // The capacity is right from the start: growing would leave a copy of the keys behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(3 * 32 + self.certificate.len()));
        for key in [&self.root, &self.device, &self.encryption] {
            bytes.extend_from_slice(&**key);
        }
        bytes.extend_from_slice(&self.certificate);
        bytes
    }

    fn from_bytes(mut bytes: &[u8]) -> Result<Self, KeyFileError> {
        let root = take(&mut bytes).map(Zeroizing::new)?;
        let device = take(&mut bytes).map(Zeroizing::new)?;
        let encryption = take(&mut bytes).map(Zeroizing::new)?;
        Ok(Self { root, device, encryption, certificate: Bytes::copy_from_slice(bytes) })
    }

    /// The identity, and whether its certificate had to be renewed.
    pub(super) fn into_identity(self, now: WallTime) -> Result<(Identity, bool), KeyFileError> {
        let damaged = |reason| KeyFileError::Damaged { reason };
        let certificate = Certificate::from_bytes(self.certificate).map_err(|_| damaged("its certificate is none"))?;
        certificate.verify_ever().map_err(|_| damaged("its certificate is not genuine"))?;
        let root = LocalSigner::from_seed(&self.root);
        let keys = DeviceKeys::from_seeds(&self.device, self.encryption);
        let same = certificate.agent() == root.agent()
            && *certificate.device() == keys.public()
            && certificate.encryption_key() == keys.decryption.public();
        if !same {
            return Err(damaged("its certificate is for other keys"));
        }
        if certificate.is_due(now) {
            Ok((Identity::with_local_root(root, keys, now, certificate.seq()), true))
        } else {
            Ok((Identity::with_certificate(root, keys, certificate), false))
        }
    }
}

pub(super) fn encode(secrets: &Secrets, protection: &Protection, entropy: &dyn Entropy) -> Zeroizing<Vec<u8>> {
    let content = secrets.to_bytes();
    let mut file = Zeroizing::new(Vec::with_capacity(super::KeyFile::MAX_BYTES));
    file.extend_from_slice(MAGIC);
    file.push(VERSION);
    match protection {
        Protection::Plain => {
            file.push(PLAIN);
            file.extend_from_slice(&content);
        }
        Protection::Passphrase { cost, salt, key } => {
            let nonce: [u8; 24] = entropy.bytes();
            file.push(ENCRYPTED);
            for number in [cost.memory_kib, cost.passes, cost.lanes] {
                file.extend_from_slice(&number.to_le_bytes());
            }
            file.extend_from_slice(salt);
            file.extend_from_slice(&nonce);
            let payload = Payload { msg: &content, aad: &file };
            let sealed = cipher(key).encrypt(&nonce.into(), payload).expect("the content is far below the limit");
            file.extend_from_slice(&sealed);
        }
    }
    let hash = Sha256::digest(&file[..]);
    file.extend_from_slice(&hash);
    file
}

/// What is in a key file. Damage is noticed before anything is computed.
pub(super) fn decode(file: &[u8], passphrase: Option<&str>) -> Result<(Secrets, Protection), KeyFileError> {
    let damaged = |reason| KeyFileError::Damaged { reason };
    let rest = file.strip_prefix(MAGIC).ok_or(damaged("it does not begin like a key file"))?;
    match rest.first() {
        Some(&VERSION) => {}
        Some(&version) => return Err(KeyFileError::UnknownFormat { version }),
        None => return Err(damaged("it ends too early")),
    }
    let (file, hash) = file.split_last_chunk::<HASH_BYTES>().ok_or(damaged("it ends too early"))?;
    if Sha256::digest(file)[..] != hash[..] {
        return Err(damaged("its checksum is wrong"));
    }
    let mut rest = file.get(MAGIC.len() + 1..).ok_or(damaged("it ends too early"))?;
    match (take::<1>(&mut rest)?, passphrase) {
        ([PLAIN], None) => Ok((Secrets::from_bytes(rest)?, Protection::Plain)),
        ([PLAIN], Some(_)) => Err(KeyFileError::NotEncrypted),
        ([ENCRYPTED], None) => Err(KeyFileError::PassphraseNeeded),
        ([ENCRYPTED], Some(passphrase)) => decrypt(file, rest, passphrase),
        _ => Err(damaged("its kind is not known")),
    }
}

/// Decrypts a file whose part after the kind is `rest`.
fn decrypt(file: &[u8], mut rest: &[u8], passphrase: &str) -> Result<(Secrets, Protection), KeyFileError> {
    let cost = Cost {
        memory_kib: u32::from_le_bytes(take(&mut rest)?),
        passes: u32::from_le_bytes(take(&mut rest)?),
        lanes: u32::from_le_bytes(take(&mut rest)?),
    };
    let salt = take(&mut rest)?;
    let nonce: [u8; 24] = take(&mut rest)?;
    let key = derive(passphrase, cost, &salt)?;
    let payload = Payload { msg: rest, aad: &file[..file.len() - rest.len()] };
    let content = cipher(&key).decrypt(&nonce.into(), payload).map_err(|_| KeyFileError::WrongPassphrase)?;
    let secrets = Secrets::from_bytes(&Zeroizing::new(content))?;
    Ok((secrets, Protection::Passphrase { cost, salt, key }))
}

fn cipher(key: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new((&**key).into())
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], KeyFileError> {
    let (first, rest) = bytes.split_first_chunk::<N>().ok_or(KeyFileError::Damaged { reason: "it ends too early" })?;
    *bytes = rest;
    Ok(*first)
}
