use std::{fmt, sync::Arc};

use bytes::Bytes;
use diai_core::{InvalidRecord, Misbehaviour, Multiaddr, PeerId, RecordKey, RecordMeta, RecordValidator, WallTime};
use diai_identity::{Certificate, EncryptionKey, Identity, Signed};

use crate::{
    AgentRecord, RecordError, codec,
    message::{CLOCK_TOLERANCE, MAX_LIFETIME, MAX_RECORD_BYTES, RECORD_DOMAIN},
};

/// An [`AgentRecord`] whose signature and certificate were verified, with the bytes that prove it. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedRecord(Arc<Inner>);

#[derive(PartialEq, Eq)]
struct Inner {
    record: AgentRecord,
    certificate: Certificate,
    bytes: Bytes,
}

impl SignedRecord {
    /// Signs `record`. Fails unless [`SignedRecord::verify`] would accept it at `now`: it must speak of this device and
    /// agent, be short enough, and hold.
    pub fn sign(identity: &Identity, record: &AgentRecord, now: WallTime) -> Result<Self, RecordError> {
        let bytes = identity.sign(RECORD_DOMAIN, codec::encode(record)).to_bytes();
        Self::verify(bytes, now)
    }

    /// Decodes a record and verifies it: envelope, certificate, signature, that signer and record are the same device
    /// and agent, and that it holds at `now`.
    pub fn verify(bytes: Bytes, now: WallTime) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLong { bytes: bytes.len() });
        }
        let signed = Signed::from_bytes(bytes.clone(), MAX_RECORD_BYTES)
            .map_err(|error| RecordError::Envelope { reason: error.to_string() })?;
        // Time is checked below: an honest device with a wrong clock is no forger.
        let verified =
            signed.verify_ever(RECORD_DOMAIN).map_err(|error| RecordError::Forged { reason: error.to_string() })?;
        let record = codec::decode(verified.payload)?;
        if record.peer != verified.peer {
            return Err(RecordError::WrongSigner { what: "device" });
        }
        if record.agent != verified.agent {
            return Err(RecordError::WrongSigner { what: "agent" });
        }
        if record.expires.since(record.not_before) > MAX_LIFETIME {
            return Err(RecordError::TooLongLived);
        }
        let certificate = verified.certificate;
        if record.not_before > now || certificate.not_before() > now + CLOCK_TOLERANCE {
            return Err(RecordError::NotYetValid);
        }
        if record.expires <= now || certificate.expires() <= now {
            return Err(RecordError::Expired);
        }
        Ok(Self(Arc::new(Inner { record, certificate, bytes })))
    }

    /// What the device says.
    pub fn record(&self) -> &AgentRecord {
        &self.0.record
    }

    /// The certificate that binds the device to its agent.
    pub fn certificate(&self) -> &Certificate {
        &self.0.certificate
    }

    /// The key to seal for this device, from its certificate.
    pub fn encryption_key(&self) -> EncryptionKey {
        self.0.certificate.encryption_key()
    }

    /// When the record, or its certificate, ends to hold.
    pub fn expires(&self) -> WallTime {
        self.0.record.expires.min(self.0.certificate.expires())
    }

    /// The signed bytes: what [`SignedRecord::verify`] takes.
    pub fn to_bytes(&self) -> Bytes {
        self.0.bytes.clone()
    }

    /// The addresses that are this device's: those that name another device at their end are left out.
    pub(crate) fn addrs(&self) -> Vec<Multiaddr> {
        let peer = self.0.record.peer.to_base58();
        let own = |addr: &&Multiaddr| addr.to_string().rsplit_once("/p2p/").is_none_or(|(_, last)| last == peer);
        self.0.record.addrs.iter().filter(own).cloned().collect()
    }
}

impl fmt::Debug for SignedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedRecord").field("record", &self.0.record).finish_non_exhaustive()
    }
}

impl RecordError {
    /// What the device did wrong that gave us this, as its own record or as one it holds; `None` when its clock, or ours,
    /// may be to blame.
    pub(crate) fn misbehaviour(&self) -> Option<Misbehaviour> {
        match self {
            Self::TooLong { .. } | Self::Envelope { .. } | Self::Malformed(_) => Some(Misbehaviour::Malformed),
            Self::Forged { .. } | Self::WrongSigner { .. } => Some(Misbehaviour::Forged),
            Self::TooLongLived => Some(Misbehaviour::Violation),
            Self::Expired | Self::NotYetValid => None,
        }
    }
}

/// Verifies `bytes` as the record of `peer`.
pub(crate) fn verify_of(peer: PeerId, bytes: Bytes, now: WallTime) -> Result<SignedRecord, RecordError> {
    let record = SignedRecord::verify(bytes, now)?;
    if record.record().peer == peer { Ok(record) } else { Err(RecordError::WrongSigner { what: "device" }) }
}

/// Tells the DHT which agent records to hold: those that verify, under the key of the device that signed them.
#[derive(Debug, Clone, Copy, Default)]
pub struct AgentRecordValidator;

impl RecordValidator for AgentRecordValidator {
    fn validate(&self, key: &RecordKey, value: &[u8], now: WallTime) -> Result<RecordMeta, InvalidRecord> {
        let invalid = |error: RecordError| InvalidRecord { reason: error.to_string(), fault: error.misbehaviour() };
        if value.len() > MAX_RECORD_BYTES {
            return Err(invalid(RecordError::TooLong { bytes: value.len() }));
        }
        let peer = PeerId::from_bytes(key.name())
            .map_err(|_| InvalidRecord::faulty("the key names no device", Misbehaviour::Violation))?;
        let record = verify_of(peer, Bytes::copy_from_slice(value), now).map_err(invalid)?;
        Ok(RecordMeta { seq: record.record().seq, expires: record.expires() })
    }
}
