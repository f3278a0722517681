//! One-shot payloads that pass a third party: signed inside by the sender, encrypted outside (HPKE) to the recipient's
//! device key. Only the recipient learns who sent it.
//!
//! A sealed payload names its recipient and an expiry under the signature, so nobody can seal it anew for another agent.
//! It may be delivered twice: whoever opens it keeps [`Opened::id`] until [`Opened::expires`] and drops what it has seen.
//! There is no forward secrecy against the theft of the recipient's device key; that is what sessions are for.

use std::time::Duration;

use bytes::Bytes;
use diai_core::{
    AgentId, Entropy, PeerId, WallTime,
    bounded::{self, Bounds, DecodeError, Field},
};
use diai_identity::{Certificate, DecodeSignedError, Domain, EncryptionKey, Identity, Signed, VerifyError};
use prost::Message;

mod wire {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, missing_debug_implementations)]
    include!(concat!(env!("OUT_DIR"), "/diai.sealed.rs"));
}

/// The longest payload.
pub const MAX_PAYLOAD_BYTES: usize = 4 * 1024 * 1024;
/// What sealing adds, at most.
pub const MAX_OVERHEAD_BYTES: usize = Signed::MAX_OVERHEAD_BYTES + EncryptionKey::SEAL_OVERHEAD_BYTES + 96;
/// The longest time that a sealed payload may be valid, and so the longest that ids are kept.
pub const MAX_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

const DOMAIN: Domain = Domain::new("diai/sealed/1");
const INFO: &[u8] = b"diai/sealed/1";
const BOUNDS: Bounds = Bounds::new(
    "sealed payload",
    &[Field::bytes(1, 1, 32), Field::bytes(2, 1, 16), Field::scalar(3), Field::bytes(4, 1, MAX_PAYLOAD_BYTES)],
);

/// What was in a sealed payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Who signed it.
    pub from: AgentId,
    /// With which device.
    pub peer: PeerId,
    /// Random, for whoever must not act on it twice.
    pub id: [u8; 16],
    /// When it stops being valid.
    pub expires: WallTime,
    /// The bytes.
    pub payload: Bytes,
}

/// Why nothing could be sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The payload is over [`MAX_PAYLOAD_BYTES`].
    #[error("a payload of {bytes} bytes, at most {MAX_PAYLOAD_BYTES} can be sealed; seal a CID instead")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The recipient's certificate does not verify.
    #[error("the certificate of {agent} is not valid; get its newest: {source}")]
    Certificate {
        /// Whose.
        agent: AgentId,
        /// What is wrong.
        source: VerifyError,
    },
}

/// Why a sealed payload cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is longer than anything that can be sealed.
    #[error("{bytes} bytes are more than a sealed payload can have")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// It is not for this device, or it was changed on the way.
    #[error("not sealed to this device, or damaged")]
    NotForUs,
    /// What is inside is no signed envelope.
    #[error("the sealed bytes are not signed: {0}")]
    Envelope(#[from] DecodeSignedError),
    /// The signature or the sender's certificate does not verify.
    #[error("the sender is not proven: {0}")]
    Sender(#[from] VerifyError),
    /// The signed content is malformed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It was signed for another agent.
    #[error("signed for {recipient}, not for this agent")]
    OtherRecipient {
        /// For whom.
        recipient: AgentId,
    },
    /// It has expired, or claims a life over [`MAX_LIFE`].
    #[error("expired, or valid for too long")]
    Expired,
}

/// Seals `payload` for the device that `to` certifies. It is valid for `life`, at most [`MAX_LIFE`].
pub fn seal_to(
    to: &Certificate,
    identity: &Identity,
    entropy: &dyn Entropy,
    now: WallTime,
    life: Duration,
    payload: Bytes,
) -> Result<Bytes, SealError> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(SealError::TooLarge { bytes: payload.len() });
    }
    to.verify(now).map_err(|source| SealError::Certificate { agent: to.agent(), source })?;
    let content = wire::Sealed {
        recipient: Bytes::copy_from_slice(to.agent().as_bytes()),
        id: Bytes::copy_from_slice(&entropy.bytes::<16>()),
        expires_ms: (now + life.min(MAX_LIFE)).as_unix_ms(),
        payload,
    };
    let signed = identity.sign(DOMAIN, content.encode_to_vec());
    Ok(to.encryption_key().seal(entropy, INFO, &signed.to_bytes()).into())
}

/// Opens what was sealed for this agent's device, at `now`. Replays are the caller's to tell, by [`Opened::id`].
pub fn open(identity: &Identity, now: WallTime, sealed: &[u8]) -> Result<Opened, OpenError> {
    let max_bytes = MAX_PAYLOAD_BYTES + MAX_OVERHEAD_BYTES;
    if sealed.len() > max_bytes {
        return Err(OpenError::TooLarge { bytes: sealed.len() });
    }
    let bytes = identity.open_sealed(INFO, sealed).map_err(|_| OpenError::NotForUs)?;
    let verified = Signed::from_bytes(bytes, max_bytes)?.verify(DOMAIN, now)?;
    let content: wire::Sealed = bounded::decode(verified.payload, &BOUNDS)?;
    let field = |field| DecodeError::Value { message: "sealed payload", field };
    let recipient = AgentId::try_from(&content.recipient[..]).map_err(|_| field("recipient"))?;
    if recipient != identity.agent() {
        return Err(OpenError::OtherRecipient { recipient });
    }
    let id = <[u8; 16]>::try_from(&content.id[..]).map_err(|_| field("id"))?;
    let expires = WallTime::from_unix_ms(content.expires_ms);
    // The sender's clock may be ahead.
    if expires <= now || expires > now + MAX_LIFE + Certificate::MAX_SKEW {
        return Err(OpenError::Expired);
    }
    Ok(Opened { from: verified.agent, peer: verified.peer, id, expires, payload: content.payload })
}
