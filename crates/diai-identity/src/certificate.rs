use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use diai_core::{AgentId, PeerId, WallTime};

use crate::{
    DecodeCertificateError, Domain, EncryptionKey, VerifyError,
    codec::{Parts, encode_certificate},
    proven,
    signature::is_signed_by,
};

/// By the root: this device acts for me.
pub(crate) const BY_ROOT: Domain = Domain::new("diai/device-certificate/1");
/// By the device: I act for this agent.
pub(crate) const BY_DEVICE: Domain = Domain::new("diai/device-consent/1");

/// Binds a device, with its libp2p key and its X25519 key, to an agent, for a time. Cheap to clone.
///
/// One that was decoded is well-formed, no more: [`Certificate::verify`] says whether to believe it. Two are equal
/// when the same was signed, with the same signatures.
#[derive(Clone)]
pub struct Certificate(Arc<Parts>);

impl Certificate {
    /// The longest encoded form in bytes.
    pub const MAX_BYTES: usize = 384;
    /// How long a new certificate is valid: 30 days.
    pub const LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
    /// A certificate is believed this long before its `not_before`, because clocks differ: 2 minutes.
    pub const MAX_SKEW: Duration = Duration::from_secs(120);

    pub(crate) fn from_signed(body: Bytes, by_root: [u8; 64], by_device: [u8; 64]) -> Self {
        Self::from_bytes(encode_certificate(body, by_root, by_device)).expect("a body of our own is well-formed")
    }

    /// The exact bytes it was decoded from.
    pub fn to_bytes(&self) -> Bytes {
        self.0.encoded.clone()
    }

    /// Decodes a certificate, without believing it.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self, DecodeCertificateError> {
        Parts::decode(bytes.into()).map(|parts| Self(Arc::new(parts)))
    }

    /// Whether the agent's root and the device both signed it, and it is valid at `now`.
    pub fn verify(&self, now: WallTime) -> Result<(), VerifyError> {
        self.verify_time(now)?;
        self.verify_ever()
    }

    /// The same without the look at the clock: for what was signed in the past.
    pub fn verify_ever(&self) -> Result<(), VerifyError> {
        if proven::is_known(&self.0.encoded) {
            return Ok(());
        }
        let Parts { signed, root_signature, device_signature, body, .. } = &*self.0;
        if !is_signed_by(body.agent.as_bytes(), &BY_ROOT.message(signed), root_signature) {
            return Err(VerifyError::Root);
        }
        if !is_signed_by(&body.device, &BY_DEVICE.message(signed), device_signature) {
            return Err(VerifyError::Device);
        }
        proven::remember(&self.0.encoded);
        Ok(())
    }

    pub(crate) fn verify_time(&self, now: WallTime) -> Result<(), VerifyError> {
        let (not_before, expires) = (self.not_before(), self.expires());
        if now + Self::MAX_SKEW < not_before {
            return Err(VerifyError::NotYetValid { not_before, now });
        }
        if now >= expires {
            return Err(VerifyError::Expired { expires, now });
        }
        Ok(())
    }

    /// Whether it should be replaced: less than half of its life is left at `now`, or it is not valid then.
    pub fn is_due(&self, now: WallTime) -> bool {
        let life = self.expires().since(self.not_before());
        self.verify_time(now).is_err() || self.expires().since(now) < life / 2
    }

    /// The agent that the device acts for.
    pub fn agent(&self) -> AgentId {
        self.0.body.agent
    }

    /// The device, by its libp2p name, which follows from its key.
    pub fn peer(&self) -> PeerId {
        self.0.peer
    }

    /// The key to seal messages to the device with.
    pub fn encryption_key(&self) -> EncryptionKey {
        self.0.body.encryption
    }

    /// From when it is valid.
    pub fn not_before(&self) -> WallTime {
        self.0.body.not_before
    }

    /// From when on it is valid no more.
    pub fn expires(&self) -> WallTime {
        self.0.body.expires
    }

    /// Of two certificates of one device, the one with the higher number is the newer.
    pub fn seq(&self) -> u64 {
        self.0.body.seq
    }

    pub(crate) fn device(&self) -> &[u8; 32] {
        &self.0.body.device
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        let key = |parts: &Parts| (parts.signed.clone(), parts.root_signature, parts.device_signature);
        key(&self.0) == key(&other.0)
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("agent", &self.agent())
            .field("peer", &self.peer())
            .field("not_before", &self.not_before())
            .field("expires", &self.expires())
            .field("seq", &self.seq())
            .finish_non_exhaustive()
    }
}
