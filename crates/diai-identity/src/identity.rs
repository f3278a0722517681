use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use diai_core::{AgentId, Entropy, PeerId, WallTime};
use ed25519_dalek::{Signer as _, SigningKey};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{
    Certificate, Domain, EncryptionKey, LocalSigner, OpenSealedError, Signed, Signer, SignerError, VerifyError,
    certificate::{BY_DEVICE, BY_ROOT},
    codec::Body,
    encryption::DecryptionKey,
};

/// An unlocked device of an agent: its libp2p key, its X25519 key, its certificate, and whatever signs for the root.
/// Clones share all of it.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    keys: DeviceKeys,
    root: Root,
    certificate: RwLock<Certificate>,
}

enum Root {
    Here(Box<LocalSigner>),
    Elsewhere(Arc<dyn Signer>),
}

/// Why a device got no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RenewError {
    /// The root's signer refused or failed.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The root's signer returned a signature that does not verify.
    #[error("the signer of {agent} returned a signature that does not verify ({reason}); does it hold another key?")]
    Signature {
        /// Whose root was asked to sign.
        agent: AgentId,
        /// What was wrong.
        reason: VerifyError,
    },
}

impl Identity {
    /// A new agent with its first device: root key, device key and certificate, valid for [`Certificate::LIFE`] from
    /// `now`. Nothing is stored; [`KeyFile`](crate::key_file::KeyFile) does that.
    pub fn generate(entropy: &dyn Entropy, now: WallTime) -> Self {
        let root = LocalSigner::from_seed(&Zeroizing::new(entropy.bytes()));
        Self::with_local_root(root, DeviceKeys::generate(entropy), now, 0)
    }

    /// A new device of the agent whose root key is held by `signer`, which is asked for a certificate at once.
    ///
    /// Cancel-safety: dropping the future leaves nothing behind.
    pub async fn with_signer(
        signer: Arc<dyn Signer>,
        entropy: &dyn Entropy,
        now: WallTime,
    ) -> Result<Self, RenewError> {
        let keys = DeviceKeys::generate(entropy);
        let certificate = certify_by(&*signer, &keys, now, 0).await?;
        Ok(Self::assemble(keys, Root::Elsewhere(signer), certificate))
    }

    pub(crate) fn with_local_root(root: LocalSigner, keys: DeviceKeys, now: WallTime, after_seq: u64) -> Self {
        let certificate = certify(&root, &keys, now, after_seq);
        Self::assemble(keys, Root::Here(Box::new(root)), certificate)
    }

    pub(crate) fn with_certificate(root: LocalSigner, keys: DeviceKeys, certificate: Certificate) -> Self {
        Self::assemble(keys, Root::Here(Box::new(root)), certificate)
    }

    fn assemble(keys: DeviceKeys, root: Root, certificate: Certificate) -> Self {
        Self(Arc::new(Inner { keys, root, certificate: RwLock::new(certificate) }))
    }

    /// The agent.
    pub fn agent(&self) -> AgentId {
        self.certificate().agent()
    }

    /// This device.
    pub fn peer(&self) -> PeerId {
        self.certificate().peer()
    }

    /// The current certificate of this device.
    pub fn certificate(&self) -> Certificate {
        self.0.certificate.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the root sign a new certificate for this device, valid for [`Certificate::LIFE`] from `now`, and returns the
    /// newest one. All clones of this identity use it from then on. [`Certificate::is_due`] says when to do so;
    /// [`KeyFile::save`](crate::key_file::KeyFile::save) keeps it.
    ///
    /// Cancel-safety: dropping the future leaves the old certificate in place.
    pub async fn renew_certificate(&self, now: WallTime) -> Result<Certificate, RenewError> {
        let seq = self.certificate().seq();
        let renewed = match &self.0.root {
            Root::Here(root) => certify(root, &self.0.keys, now, seq),
            Root::Elsewhere(signer) => certify_by(&**signer, &self.0.keys, now, seq).await?,
        };
        let mut current = self.0.certificate.write().unwrap_or_else(PoisonError::into_inner);
        // Another clone may have renewed it meanwhile: the higher number wins.
        if renewed.seq() > current.seq() {
            *current = renewed;
        }
        Ok(current.clone())
    }

    /// The device's key for the transport; its public half gives [`Identity::peer`].
    pub fn device_keypair(&self) -> libp2p_identity::Keypair {
        let mut seed = Zeroizing::new(*self.0.keys.signing.as_bytes());
        libp2p_identity::Keypair::ed25519_from_bytes(&mut *seed).expect("any 32 bytes are an Ed25519 seed")
    }

    /// The key to seal messages to this device with; it stands in the certificate.
    pub fn encryption_key(&self) -> EncryptionKey {
        self.certificate().encryption_key()
    }

    /// Signs `payload` for `domain` with the device's key, and attaches the current certificate.
    pub fn sign(&self, domain: Domain, payload: impl Into<Bytes>) -> Signed {
        let payload = payload.into();
        let signature = self.0.keys.sign(domain, &payload);
        Signed { payload, certificate: self.certificate(), signature }
    }

    /// Opens what was sealed with [`Identity::encryption_key`] for the same `info`.
    pub fn open_sealed(&self, info: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenSealedError> {
        self.0.keys.decryption.open(info, sealed)
    }

    /// A secret of this device for `purpose` (`diai/<what>/1`), the same each time: HKDF-SHA256 (RFC 5869) of the device's
    /// X25519 secret with the salt `diai/device-secret/1` and the purpose as info. It is lost with the device's keys.
    pub fn derive_secret(&self, purpose: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut secret = Zeroizing::new([0; 32]);
        let derived = Hkdf::<Sha256>::new(Some(b"diai/device-secret/1"), self.0.keys.decryption.as_bytes());
        derived.expand(purpose, &mut *secret).expect("32 bytes are far below the limit");
        secret
    }

    pub(crate) fn keys(&self) -> &DeviceKeys {
        &self.0.keys
    }

    /// The seed of the root, if it is in this process.
    pub(crate) fn root_seed(&self) -> Option<&[u8; 32]> {
        match &self.0.root {
            Root::Here(root) => Some(root.seed()),
            Root::Elsewhere(_) => None,
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("agent", &self.agent()).field("peer", &self.peer()).finish_non_exhaustive()
    }
}

/// The secret keys of a device; wiped when dropped.
pub(crate) struct DeviceKeys {
    pub(crate) signing: SigningKey,
    pub(crate) decryption: DecryptionKey,
}

impl DeviceKeys {
    fn generate(entropy: &dyn Entropy) -> Self {
        Self::from_seeds(&Zeroizing::new(entropy.bytes()), Zeroizing::new(entropy.bytes()))
    }

    pub(crate) fn from_seeds(signing: &[u8; 32], decryption: Zeroizing<[u8; 32]>) -> Self {
        Self { signing: SigningKey::from_bytes(signing), decryption: DecryptionKey::from_bytes(decryption) }
    }

    pub(crate) fn public(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }

    fn sign(&self, domain: Domain, payload: &[u8]) -> [u8; 64] {
        self.signing.sign(&domain.message(payload)).to_bytes()
    }

    /// The body of a certificate for these keys, encoded. Its number is the time, so that numbers grow also where the
    /// last one was not kept, but always above `after_seq`.
    fn certificate_body(&self, agent: AgentId, now: WallTime, after_seq: u64) -> Bytes {
        let body = Body {
            agent,
            device: self.public(),
            encryption: self.decryption.public(),
            not_before: now,
            expires: now + Certificate::LIFE,
            seq: now.as_unix_ms().max(after_seq.saturating_add(1)),
        };
        body.encode()
    }
}

fn certify(root: &LocalSigner, keys: &DeviceKeys, now: WallTime, after_seq: u64) -> Certificate {
    let body = keys.certificate_body(root.agent(), now, after_seq);
    let by_root = root.sign_now(&BY_ROOT.message(&body));
    let by_device = keys.sign(BY_DEVICE, &body);
    Certificate::from_signed(body, by_root, by_device)
}

async fn certify_by(
    signer: &dyn Signer,
    keys: &DeviceKeys,
    now: WallTime,
    after_seq: u64,
) -> Result<Certificate, RenewError> {
    let agent = signer.agent();
    let body = keys.certificate_body(agent, now, after_seq);
    let by_root = signer.sign(BY_ROOT.message(&body)).await?;
    let by_device = keys.sign(BY_DEVICE, &body);
    let certificate = Certificate::from_signed(body, by_root, by_device);
    certificate.verify_ever().map_err(|reason| RenewError::Signature { agent, reason })?;
    Ok(certificate)
}
