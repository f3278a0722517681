use std::fmt;

use bytes::Bytes;
use diai_core::{AgentId, PeerId, WallTime};

use crate::{
    Certificate, DecodeSignedError, Domain, VerifyError,
    codec::{decode_envelope, encode_envelope},
    signature::is_signed_by,
};

/// The one envelope: a payload, the signature of a device, and the certificate that says whose device it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed {
    pub(crate) payload: Bytes,
    pub(crate) certificate: Certificate,
    pub(crate) signature: [u8; 64],
}

impl Signed {
    /// An envelope is at most this much longer than its payload.
    pub const MAX_OVERHEAD_BYTES: usize = Certificate::MAX_BYTES + 96;

    /// The encoded envelope.
    pub fn to_bytes(&self) -> Bytes {
        encode_envelope(self)
    }

    /// Decodes an envelope of at most `max_bytes`, without believing it. The payload is a slice of `bytes`, which it
    /// keeps in memory.
    pub fn from_bytes(bytes: impl Into<Bytes>, max_bytes: usize) -> Result<Self, DecodeSignedError> {
        decode_envelope(bytes.into(), max_bytes)
    }

    /// The payload, not verified.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The certificate, not verified.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Whether the certificate is genuine and valid at `now`, and its device signed the payload for `domain`.
    ///
    /// Costs a signature check, about 40 us, and two more for a certificate that this process has not seen lately. The
    /// payload returned is not copied.
    pub fn verify(&self, domain: Domain, now: WallTime) -> Result<Verified, VerifyError> {
        self.certificate.verify_time(now)?;
        self.verify_ever(domain)
    }

    /// The same without the look at the clock: for records of the past, such as an agreement.
    pub fn verify_ever(&self, domain: Domain) -> Result<Verified, VerifyError> {
        self.certificate.verify_ever()?;
        if !is_signed_by(self.certificate.device(), &domain.message(&self.payload), &self.signature) {
            return Err(VerifyError::Payload { domain });
        }
        Ok(Verified {
            payload: self.payload.clone(),
            agent: self.certificate.agent(),
            peer: self.certificate.peer(),
            certificate: self.certificate.clone(),
        })
    }
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed")
            .field("payload_bytes", &self.payload.len())
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// What an envelope holds, once it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// The payload.
    pub payload: Bytes,
    /// The agent that signed it.
    pub agent: AgentId,
    /// The device by which it did.
    pub peer: PeerId,
    /// What binds the one to the other.
    pub certificate: Certificate,
}
