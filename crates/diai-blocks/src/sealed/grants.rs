//! Who can open a content: its key, sealed once for each reader.

use bytes::Bytes;
use cid::Cid;
use diai_core::{AgentId, Entropy};
use diai_identity::{EncryptionKey, SharedKey};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{
    MAX_GRANTS, OpenError,
    keys::{ContentKey, Keying, Keys, Once},
};
use crate::{Block, BlockError, RAW};

/// Begins the block of grants, and says which version of the format it is.
const MAGIC: &[u8; 14] = b"diai/sealed/2\n";
/// What is the same for all versions.
const FAMILY: &[u8] = b"diai/sealed/";
/// Bytes of a grant: an encapsulated key, a content key, a tag.
const GRANT_BYTES: usize = 32 + EncryptionKey::SEAL_OVERHEAD_BYTES;

/// An agent's device or a group: its id, and the key that its grants are sealed with.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) id: [u8; 32],
    pub(super) key: EncryptionKey,
    /// The secret of a group.
    pub(super) shared: Option<SharedKey>,
}

impl Reader {
    pub(super) fn agent(agent: AgentId, key: EncryptionKey) -> Self {
        Self { id: *agent.as_bytes(), key, shared: None }
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        (self.id, self.key) == (other.id, other.key)
    }
}

/// What the ephemeral key of a group's grant is made of: members know the grant by it, without trying all. It serves once,
/// as contents commit to their key.
fn ephemeral(group: &SharedKey, content: &Cid) -> Once {
    let mut derived = Zeroizing::new([0; 32]);
    let secret = Hkdf::<Sha256>::new(Some(b"diai/sealed-group-grant/2"), group.as_bytes());
    secret.expand(&content.to_bytes(), &mut *derived).expect("32 bytes are far below the limit");
    Once::new(derived)
}

/// What a grant is bound to.
fn info(id: &[u8; 32], content: &Cid) -> Vec<u8> {
    [&b"diai/sealed-grant/2"[..], id, &content.to_bytes()].concat()
}

/// The block of grants of `content` for `readers`, filled up to a power of two with some that nobody can open.
pub(super) fn make(
    entropy: &dyn Entropy,
    keying: &Keying,
    readers: &[Reader],
    content: &Cid,
    key: &ContentKey,
) -> Result<Block, BlockError> {
    let mut grants: Vec<Vec<u8>> = Vec::with_capacity(readers.len().next_power_of_two());
    for Reader { id, key: reader, shared } in readers {
        let derived = match (shared, keying) {
            (Some(shared), _) => Some(ephemeral(shared, content)),
            (None, Keying::Convergent(salt)) => Some(salt.ephemeral(key, content, id, reader)),
            (None, Keying::Random) => None,
        };
        let entropy = derived.as_ref().map_or(entropy, |once| once);
        grants.push(reader.seal(entropy, &info(id, content), key.as_bytes()));
    }
    let mut number = 0;
    while !grants.len().is_power_of_two() {
        let (nobody, ephemeral) = match keying {
            Keying::Random => (entropy.bytes(), Once::new(Zeroizing::new(entropy.bytes()))),
            Keying::Convergent(salt) => salt.nobody(key, content, number),
        };
        number += 1;
        if let Ok(nobody) = EncryptionKey::from_bytes(nobody) {
            grants.push(nobody.seal(&ephemeral, b"", &[0; 32]));
        }
    }
    // By what looks random, so that their order says nothing either.
    grants.sort_unstable();
    let mut data = MAGIC.to_vec();
    grants.iter().for_each(|grant| data.extend_from_slice(grant));
    Block::new(RAW, data)
}

/// The key of `content` as granted to one of `keys`.
pub(super) fn find(keys: &Keys, root: Cid, content: &Cid, block: &Bytes) -> Result<ContentKey, OpenError> {
    let Some(grants) = block.strip_prefix(MAGIC) else {
        return Err(if block.starts_with(FAMILY) {
            OpenError::Version { root }
        } else {
            OpenError::NotSealed { root, why: "its grants are none" }
        });
    };
    let (grants, rest) = grants.as_chunks::<GRANT_BYTES>();
    if !rest.is_empty() || grants.len() > MAX_GRANTS {
        return Err(OpenError::NotSealed { root, why: "its grants are cut off, or more than 256" });
    }
    let opened = |opened: Vec<u8>| ContentKey::from_slice(&Zeroizing::new(opened));
    let own = info(keys.identity.agent().as_bytes(), content);
    let by_device = grants.iter().find_map(|grant| keys.identity.open_sealed(&own, grant).ok().and_then(opened));
    by_device.or_else(|| by_group(keys, content, grants)).ok_or(OpenError::NotForYou { root })
}

fn by_group(keys: &Keys, content: &Cid, grants: &[[u8; GRANT_BYTES]]) -> Option<ContentKey> {
    let shared = keys.groups.iter().flat_map(|group| group.keys().map(move |key| (group, key)));
    for (group, key) in shared {
        let probe = key.encryption_key().seal(&ephemeral(key, content), b"", b"");
        let Some(grant) = grants.iter().find(|grant| grant[..32] == probe[..32]) else { continue };
        if let Ok(opened) = key.open_sealed(&info(group.id().as_bytes(), content), grant) {
            return ContentKey::from_slice(&Zeroizing::new(opened));
        }
    }
    None
}
