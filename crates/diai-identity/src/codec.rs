//! The wire forms, and their bounds.

use bytes::Bytes;
use diai_core::{
    AgentId, PeerId, WallTime,
    bounded::{self, Bounds, DecodeError, Field},
};
use prost::Message;

use crate::{Certificate, EncryptionKey, Signed, WeakKeyError};

mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
    include!(concat!(env!("OUT_DIR"), "/diai.identity.v1.rs"));
}

const BODY: Bounds = Bounds::new(
    "certificate body",
    &[
        Field::bytes(1, 1, 32),
        Field::bytes(2, 1, 32),
        Field::bytes(3, 1, 32),
        Field::scalar(4),
        Field::scalar(5),
        Field::scalar(6),
    ],
);
const CERTIFICATE: Bounds =
    Bounds::new("certificate", &[Field::message(1, 1, &BODY), Field::bytes(2, 1, 64), Field::bytes(3, 1, 64)]);
const ENVELOPE: Bounds = Bounds::new(
    "envelope",
    &[Field::bytes(1, 1, usize::MAX), Field::bytes(2, 1, Certificate::MAX_BYTES), Field::bytes(3, 1, 64)],
);

/// Why bytes are no certificate. Whether one can be believed is another question, see
/// [`VerifyError`](crate::VerifyError).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeCertificateError {
    /// There are too many of them.
    #[error("a certificate of {bytes} bytes, at most {max_bytes} are allowed")]
    TooLong {
        /// How many there are.
        bytes: usize,
        /// The cap.
        max_bytes: usize,
    },
    /// They are no certificate's protobuf.
    #[error("not a certificate: {0}")]
    Malformed(#[from] DecodeError),
    /// The device's key is no point on the curve.
    #[error("not a certificate: the device's key is not an Ed25519 key")]
    DeviceKey,
    /// The encryption key is of small order: what is sealed to it anybody could read.
    #[error("not a certificate: {0}")]
    EncryptionKey(#[from] WeakKeyError),
    /// It ends before it begins.
    #[error("not a certificate: it expires before it becomes valid")]
    Times,
}

/// Why bytes are no envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeSignedError {
    /// There are too many of them.
    #[error("an envelope of {bytes} bytes, at most {max_bytes} are allowed here")]
    TooLong {
        /// How many there are.
        bytes: usize,
        /// The cap.
        max_bytes: usize,
    },
    /// They are no envelope's protobuf.
    #[error("not an envelope: {0}")]
    Malformed(#[from] DecodeError),
    /// The certificate within is none.
    #[error("an envelope without a certificate: {0}")]
    Certificate(#[from] DecodeCertificateError),
}

/// What a certificate says.
#[derive(Clone, Copy)]
pub(crate) struct Body {
    pub(crate) agent: AgentId,
    pub(crate) device: [u8; 32],
    pub(crate) encryption: EncryptionKey,
    pub(crate) not_before: WallTime,
    pub(crate) expires: WallTime,
    pub(crate) seq: u64,
}

impl Body {
    pub(crate) fn encode(&self) -> Bytes {
        let body = proto::CertificateBody {
            agent: Bytes::copy_from_slice(self.agent.as_bytes()),
            device: Bytes::copy_from_slice(&self.device),
            encryption: Bytes::copy_from_slice(self.encryption.as_bytes()),
            not_before: self.not_before.as_unix_ms(),
            expires: self.expires.as_unix_ms(),
            seq: self.seq,
        };
        body.encode_to_vec().into()
    }

    fn decode(bytes: Bytes) -> Result<Self, DecodeCertificateError> {
        let body: proto::CertificateBody = bounded::decode(bytes, &BODY)?;
        let (not_before, expires) = (WallTime::from_unix_ms(body.not_before), WallTime::from_unix_ms(body.expires));
        if expires < not_before {
            return Err(DecodeCertificateError::Times);
        }
        Ok(Self {
            agent: AgentId::from_bytes(fixed(&body.agent, "certificate body", "agent")?),
            device: fixed(&body.device, "certificate body", "device")?,
            encryption: EncryptionKey::from_bytes(fixed(&body.encryption, "certificate body", "encryption")?)?,
            not_before,
            expires,
            seq: body.seq,
        })
    }
}

/// A certificate's exact bytes, and what they say.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) encoded: Bytes,
    pub(crate) signed: Bytes,
    pub(crate) root_signature: [u8; 64],
    pub(crate) device_signature: [u8; 64],
    pub(crate) body: Body,
    pub(crate) peer: PeerId,
}

impl Parts {
    pub(crate) fn decode(encoded: Bytes) -> Result<Self, DecodeCertificateError> {
        if encoded.len() > Certificate::MAX_BYTES {
            let (bytes, max_bytes) = (encoded.len(), Certificate::MAX_BYTES);
            return Err(DecodeCertificateError::TooLong { bytes, max_bytes });
        }
        let certificate: proto::Certificate = bounded::decode(encoded.clone(), &CERTIFICATE)?;
        let body = Body::decode(certificate.body.clone())?;
        Ok(Self {
            root_signature: fixed(&certificate.root_signature, "certificate", "root_signature")?,
            device_signature: fixed(&certificate.device_signature, "certificate", "device_signature")?,
            peer: peer_id(&body.device).ok_or(DecodeCertificateError::DeviceKey)?,
            // A copy, so that a certificate does not keep the whole buffer alive that it was read from.
            encoded: Bytes::copy_from_slice(&encoded),
            signed: Bytes::copy_from_slice(&certificate.body),
            body,
        })
    }
}

/// The libp2p name of the device whose Ed25519 public key this is; `None` if it is no such key.
pub(crate) fn peer_id(device: &[u8; 32]) -> Option<PeerId> {
    let key = libp2p_identity::ed25519::PublicKey::try_from_bytes(device).ok()?;
    Some(libp2p_identity::PublicKey::from(key).to_peer_id())
}

pub(crate) fn encode_certificate(body: Bytes, root_signature: [u8; 64], device_signature: [u8; 64]) -> Bytes {
    let certificate = proto::Certificate {
        body,
        root_signature: Bytes::copy_from_slice(&root_signature),
        device_signature: Bytes::copy_from_slice(&device_signature),
    };
    certificate.encode_to_vec().into()
}

pub(crate) fn encode_envelope(signed: &Signed) -> Bytes {
    let envelope = proto::Envelope {
        payload: signed.payload.clone(),
        certificate: signed.certificate.to_bytes(),
        signature: Bytes::copy_from_slice(&signed.signature),
    };
    envelope.encode_to_vec().into()
}

pub(crate) fn decode_envelope(bytes: Bytes, max_bytes: usize) -> Result<Signed, DecodeSignedError> {
    if bytes.len() > max_bytes {
        return Err(DecodeSignedError::TooLong { bytes: bytes.len(), max_bytes });
    }
    let envelope: proto::Envelope = bounded::decode(bytes, &ENVELOPE)?;
    Ok(Signed {
        signature: fixed(&envelope.signature, "envelope", "signature")?,
        certificate: Certificate::from_bytes(envelope.certificate)?,
        payload: envelope.payload,
    })
}

fn fixed<const N: usize>(bytes: &[u8], message: &'static str, field: &'static str) -> Result<[u8; N], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::Value { message, field })
}
