//! Terms that only members can read: encrypted once, the key sealed for each member.

use bytes::Bytes;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, aead::Aead};
use diai_core::{AgentId, Entropy};
use diai_identity::{Domain, Identity, Signed};

use super::{
    JoinError, WorkspaceId,
    codec::{InvitationBytes, Terms},
};

const DOMAIN: Domain = Domain::new("diai/workspace-invitation/1");
const MAX_SIGNED_BYTES: usize = 256 << 10;

/// Terms with the exact bytes that were signed.
#[derive(Clone)]
pub(super) struct SignedTerms {
    pub(super) id: WorkspaceId,
    pub(super) terms: Terms,
    pub(super) creator: AgentId,
    pub(super) bytes: Bytes,
}

fn info(agent: AgentId) -> Vec<u8> {
    let mut info = b"diai/workspace-invitation/1".to_vec();
    info.extend_from_slice(agent.as_bytes());
    info
}

impl SignedTerms {
    pub(super) fn sign(identity: &Identity, terms: Terms) -> Self {
        let payload = terms.encode();
        let id = WorkspaceId::of_terms(&payload);
        let bytes = identity.sign(DOMAIN, payload).to_bytes();
        Self { id, terms, creator: identity.agent(), bytes }
    }

    /// Verifies signed terms of which `identity` must be a member.
    pub(super) fn verify(bytes: Bytes, identity: &Identity) -> Result<Self, JoinError> {
        let forged = |why: String| JoinError::Forged { why };
        let signed = Signed::from_bytes(bytes.clone(), MAX_SIGNED_BYTES).map_err(|_| JoinError::Malformed)?;
        let verified = signed.verify_ever(DOMAIN).map_err(|error| forged(error.to_string()))?;
        let id = WorkspaceId::of_terms(&verified.payload);
        let terms = Terms::decode(verified.payload).map_err(|_| JoinError::Malformed)?;
        for certificate in &terms.members {
            certificate.verify_ever().map_err(|error| forged(error.to_string()))?;
        }
        let is_member = |agent| terms.members.iter().any(|certificate| certificate.agent() == agent);
        if !is_member(verified.agent) {
            return Err(forged("its maker is no member".to_owned()));
        }
        if !is_member(identity.agent()) {
            return Err(JoinError::NotForYou);
        }
        Ok(Self { id, terms, creator: verified.agent, bytes })
    }

    /// The invitation for all members.
    pub(super) fn seal(&self, entropy: &dyn Entropy) -> Bytes {
        let key = zeroize::Zeroizing::new(entropy.bytes::<32>());
        // The key is used once, so the nonce may be anything.
        let cipher = ChaCha20Poly1305::new(&(*key).into());
        let ciphertext = cipher.encrypt(&Nonce::default(), self.bytes.as_ref());
        let ciphertext = ciphertext.expect("the terms are far below the cipher's limit").into();
        let seal = |certificate: &diai_identity::Certificate| {
            certificate.encryption_key().seal(entropy, &info(certificate.agent()), &*key).into()
        };
        InvitationBytes { sealed_keys: self.terms.members.iter().map(seal).collect(), ciphertext }.encode()
    }

    /// Opens an invitation.
    pub(super) fn open(invitation: Bytes, identity: &Identity) -> Result<Self, JoinError> {
        let InvitationBytes { sealed_keys, ciphertext } =
            InvitationBytes::decode(invitation).map_err(|_| JoinError::Malformed)?;
        let info = info(identity.agent());
        let key = sealed_keys.iter().find_map(|sealed| identity.open_sealed(&info, sealed).ok());
        let key = zeroize::Zeroizing::new(key.ok_or(JoinError::NotForYou)?);
        let cipher = ChaCha20Poly1305::new_from_slice(&key).map_err(|_| JoinError::Malformed)?;
        let bytes = cipher.decrypt(&Nonce::default(), ciphertext.as_ref());
        let bytes = bytes.map_err(|_| JoinError::Forged { why: "its content was changed".to_owned() })?;
        Self::verify(bytes.into(), identity)
    }
}
