//! Signing, encoding and verifying the steps of a negotiation.

use std::time::Duration;

use bytes::Bytes;
use diai_core::{
    AgentId, Entropy, WallTime,
    bounded::{self, Bounds, DecodeError, Field},
};
use diai_identity::{DecodeSignedError, Domain, Identity, Signed, Verified, VerifyError};
use prost::Message;
use sha2::{Digest, Sha256};

use super::message::{
    Agreement, Bid, BidId, Call, MAX_EXTRA_BYTES, MAX_KIND_BYTES, MAX_REASON_BYTES, MAX_SUBJECT_BYTES, NegotiationId,
    Offer, When,
};

mod wire {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, missing_debug_implementations)]
    include!(concat!(env!("OUT_DIR"), "/diai.negotiation.rs"));
}

const CALL: Domain = Domain::new("diai/negotiate/call/1");
const BID: Domain = Domain::new("diai/negotiate/bid/1");
const AWARD: Domain = Domain::new("diai/negotiate/award/1");
const ACCEPTANCE: Domain = Domain::new("diai/negotiate/acceptance/1");
const CANCEL: Domain = Domain::new("diai/negotiate/cancel/1");

/// Tags, lengths and numbers around the bytes of a step.
const FIELDS_BYTES: usize = 160;
const MAX_CALL: usize = MAX_SUBJECT_BYTES + MAX_KIND_BYTES + FIELDS_BYTES + Signed::MAX_OVERHEAD_BYTES;
const MAX_BID: usize = MAX_EXTRA_BYTES + FIELDS_BYTES + Signed::MAX_OVERHEAD_BYTES;
const MAX_SMALL: usize = MAX_REASON_BYTES + FIELDS_BYTES + Signed::MAX_OVERHEAD_BYTES;
/// The longest encoded agreement.
pub(crate) const MAX_AGREEMENT: usize = MAX_CALL + MAX_BID + 2 * MAX_SMALL + FIELDS_BYTES;

const CALL_BOUNDS: Bounds = Bounds::new(
    "call for proposals",
    &[
        Field::bytes(1, 1, 16),
        Field::bytes(2, 1, MAX_KIND_BYTES),
        Field::bytes(3, 1, MAX_SUBJECT_BYTES),
        Field::scalar(4),
        Field::scalar(5),
    ],
);
const BID_BOUNDS: Bounds = Bounds::new(
    "bid",
    &[
        Field::bytes(1, 1, 32),
        Field::scalar(2),
        Field::scalar(3),
        Field::scalar(4),
        Field::scalar(5),
        Field::bytes(6, 1, MAX_EXTRA_BYTES),
    ],
);
const AWARD_BOUNDS: Bounds = Bounds::new("award", &[Field::bytes(1, 1, 32), Field::bytes(2, 1, 32), Field::scalar(3)]);
const ACCEPTANCE_BOUNDS: Bounds = Bounds::new("acceptance", &[Field::bytes(1, 1, 32), Field::bytes(2, 1, 32)]);
const CANCEL_BOUNDS: Bounds = Bounds::new("cancel", &[Field::bytes(1, 1, 32), Field::bytes(2, 1, MAX_REASON_BYTES)]);
const AGREEMENT_BOUNDS: Bounds = Bounds::new(
    "agreement",
    &[
        Field::bytes(1, 1, MAX_CALL),
        Field::bytes(2, 1, MAX_BID),
        Field::bytes(3, 1, MAX_SMALL),
        Field::bytes(4, 1, MAX_SMALL),
    ],
);
const TO_PARTICIPANT_BOUNDS: Bounds = Bounds::new(
    "negotiation request",
    &[Field::bytes(1, 1, MAX_CALL), Field::bytes(2, 1, MAX_SMALL), Field::bytes(3, 1, MAX_SMALL)],
);
const TO_INITIATOR_BOUNDS: Bounds = Bounds::new(
    "negotiation answer",
    &[Field::bytes(1, 1, MAX_BID), Field::bytes(2, 1, MAX_SMALL), Field::bytes(3, 1, MAX_REASON_BYTES)],
);

/// Why bytes are no step of a negotiation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NegotiationError {
    /// Not even an envelope.
    #[error(transparent)]
    Envelope(#[from] DecodeSignedError),
    /// The content is malformed or over a limit.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The signature or the signer's certificate does not verify.
    #[error("the signer is not proven: {0}")]
    Signer(#[from] VerifyError),
    /// Signed by somebody else than it should be.
    #[error("the {step} is signed by {signer}, not by {expected}")]
    WrongSigner {
        /// Which step.
        step: &'static str,
        /// Who signed.
        signer: AgentId,
        /// Who should have.
        expected: AgentId,
    },
    /// It belongs to another negotiation, bid or award.
    #[error("the {step} belongs to something else")]
    WrongReference {
        /// Which step.
        step: &'static str,
    },
    /// It came, or was made, after its validity.
    #[error("the {step} is no longer valid")]
    Expired {
        /// Which step.
        step: &'static str,
    },
}

type Result<T> = std::result::Result<T, NegotiationError>;

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn hash_of(bytes: &Bytes, message: &'static str, field: &'static str) -> Result<[u8; 32]> {
    <[u8; 32]>::try_from(&bytes[..]).map_err(|_| DecodeError::Value { message, field }.into())
}

fn verify(signed: &Signed, domain: Domain, when: When) -> Result<Verified> {
    Ok(match when {
        When::At(now) => signed.verify(domain, now)?,
        When::Ever => signed.verify_ever(domain)?,
    })
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `reason`, cut to what travels.
pub(crate) fn cut(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)]
}

fn signed_by(step: &'static str, signer: AgentId, expected: AgentId) -> Result<()> {
    if signer == expected { Ok(()) } else { Err(NegotiationError::WrongSigner { step, signer, expected }) }
}

fn refers(step: &'static str, to: [u8; 32], expected: &[u8; 32]) -> Result<()> {
    if to == *expected { Ok(()) } else { Err(NegotiationError::WrongReference { step }) }
}

impl Call {
    pub(crate) fn sign(
        identity: &Identity,
        entropy: &dyn Entropy,
        kind: &str,
        subject: Bytes,
        bids_until: WallTime,
        valid_until: WallTime,
    ) -> Result<Self> {
        let content = wire::Call {
            nonce: Bytes::copy_from_slice(&entropy.bytes::<16>()),
            kind: kind.to_owned(),
            subject,
            bids_until_ms: bids_until.as_unix_ms(),
            valid_until_ms: valid_until.as_unix_ms(),
        };
        let signed = identity.sign(CALL, content.encode_to_vec());
        // Our own limits hold for us too.
        Self::of(signed, When::Ever)
    }

    pub(crate) fn of(signed: Signed, when: When) -> Result<Self> {
        let verified = verify(&signed, CALL, when)?;
        let content: wire::Call = bounded::decode(verified.payload, &CALL_BOUNDS)?;
        if content.nonce.len() != 16 {
            return Err(DecodeError::Value { message: "call for proposals", field: "nonce" }.into());
        }
        Ok(Self {
            id: NegotiationId(hash(&signed.to_bytes())),
            initiator: verified.agent,
            kind: content.kind,
            subject: content.subject,
            bids_until: WallTime::from_unix_ms(content.bids_until_ms),
            valid_until: WallTime::from_unix_ms(content.valid_until_ms),
            signed,
        })
    }
}

impl Bid {
    pub(crate) fn sign(identity: &Identity, now: WallTime, call: &Call, offer: Offer) -> Result<Self> {
        let lapses = if offer.valid_for.is_zero() { call.valid_until } else { now + offer.valid_for };
        let content = wire::Bid {
            negotiation: Bytes::copy_from_slice(&call.id.0),
            price: offer.price,
            start_ms: ms(offer.start),
            run_ms: ms(offer.run),
            valid_until_ms: lapses.min(call.valid_until).as_unix_ms(),
            extra: offer.extra,
        };
        // Whether it is too late is for the initiator's clock to say.
        Self::open(identity.sign(BID, content.encode_to_vec()), When::At(now), call)
    }

    pub(crate) fn of(signed: Signed, when: When, call: &Call) -> Result<Self> {
        let bid = Self::open(signed, when, call)?;
        match when {
            When::At(now) if bid.valid_until <= now => Err(NegotiationError::Expired { step: "bid" }),
            _ => Ok(bid),
        }
    }

    fn open(signed: Signed, when: When, call: &Call) -> Result<Self> {
        let verified = verify(&signed, BID, when)?;
        let content: wire::Bid = bounded::decode(verified.payload, &BID_BOUNDS)?;
        refers("bid", hash_of(&content.negotiation, "bid", "negotiation")?, &call.id.0)?;
        let valid_until = WallTime::from_unix_ms(content.valid_until_ms);
        let left = match when {
            When::At(now) => valid_until.since(now),
            When::Ever => Duration::ZERO,
        };
        Ok(Self {
            id: BidId(hash(&signed.to_bytes())),
            negotiation: call.id,
            participant: verified.agent,
            offer: Offer {
                price: content.price,
                start: Duration::from_millis(content.start_ms),
                run: Duration::from_millis(content.run_ms),
                valid_for: left,
                extra: content.extra,
            },
            valid_until,
            signed,
        })
    }
}

/// Signs the award of `bid`.
pub(crate) fn sign_award(identity: &Identity, now: WallTime, bid: &Bid) -> Signed {
    let content = wire::Award {
        negotiation: Bytes::copy_from_slice(&bid.negotiation.0),
        bid: Bytes::copy_from_slice(&bid.id.0),
        awarded_ms: now.as_unix_ms(),
    };
    identity.sign(AWARD, content.encode_to_vec())
}

/// The negotiation that an award claims to be of; unverified.
pub(crate) fn award_of(award: &Signed) -> Result<NegotiationId> {
    let content: wire::Award = bounded::decode(award.payload().clone(), &AWARD_BOUNDS)?;
    Ok(NegotiationId(hash_of(&content.negotiation, "award", "negotiation")?))
}

fn check_award(award: &Signed, when: When, call: &Call, bid: &Bid) -> Result<WallTime> {
    let verified = verify(award, AWARD, when)?;
    signed_by("award", verified.agent, call.initiator)?;
    let content: wire::Award = bounded::decode(verified.payload, &AWARD_BOUNDS)?;
    refers("award", hash_of(&content.negotiation, "award", "negotiation")?, &call.id.0)?;
    refers("award", hash_of(&content.bid, "award", "bid")?, &bid.id.0)?;
    let awarded = WallTime::from_unix_ms(content.awarded_ms);
    if awarded > bid.valid_until || awarded > call.valid_until {
        return Err(NegotiationError::Expired { step: "award" });
    }
    Ok(awarded)
}

/// Signs a cancel of `negotiation`.
pub(crate) fn sign_cancel(identity: &Identity, negotiation: NegotiationId, reason: &str) -> Signed {
    let negotiation = Bytes::copy_from_slice(&negotiation.0);
    let content = wire::Cancel { negotiation, reason: cut(reason).to_owned() };
    identity.sign(CANCEL, content.encode_to_vec())
}

/// Who cancels what, and why.
pub(crate) fn open_cancel(signed: &Signed, now: WallTime) -> Result<(AgentId, NegotiationId, String)> {
    let verified = signed.verify(CANCEL, now)?;
    let content: wire::Cancel = bounded::decode(verified.payload, &CANCEL_BOUNDS)?;
    let negotiation = hash_of(&content.negotiation, "cancel", "negotiation")?;
    Ok((verified.agent, NegotiationId(negotiation), content.reason))
}

impl Agreement {
    /// Countersigns `award`, after checking it.
    pub(crate) fn accept(identity: &Identity, now: WallTime, call: Call, bid: Bid, award: Signed) -> Result<Self> {
        let awarded = check_award(&award, When::At(now), &call, &bid)?;
        let content = wire::Acceptance {
            negotiation: Bytes::copy_from_slice(&call.id.0),
            award: Bytes::copy_from_slice(&hash(&award.to_bytes())),
        };
        let acceptance = identity.sign(ACCEPTANCE, content.encode_to_vec());
        Ok(Self { call, bid, awarded, award, acceptance })
    }

    /// Puts the four together, and checks how they hang together.
    pub(crate) fn of(call: Call, bid: Bid, award: Signed, acceptance: Signed, when: When) -> Result<Self> {
        let awarded = check_award(&award, when, &call, &bid)?;
        let verified = verify(&acceptance, ACCEPTANCE, when)?;
        signed_by("acceptance", verified.agent, bid.participant)?;
        let content: wire::Acceptance = bounded::decode(verified.payload, &ACCEPTANCE_BOUNDS)?;
        refers("acceptance", hash_of(&content.negotiation, "acceptance", "negotiation")?, &call.id.0)?;
        refers("acceptance", hash_of(&content.award, "acceptance", "award")?, &hash(&award.to_bytes()))?;
        Ok(Self { call, bid, awarded, award, acceptance })
    }

    /// Verifies all four signatures and what each says of the others. At a time, the signers' certificates must be
    /// valid then; an agreement of the past is verified with [`When::Ever`].
    pub fn verify(&self, when: When) -> Result<()> {
        Self::from_signed(
            [self.call.signed.clone(), self.bid.signed.clone(), self.award.clone(), self.acceptance.clone()],
            when,
        )
        .map(drop)
    }

    fn from_signed([call, bid, award, acceptance]: [Signed; 4], when: When) -> Result<Self> {
        let call = Call::of(call, when)?;
        // A bid lapses when it is not awarded; once it is, only the signatures count.
        if let When::At(now) = when {
            verify(&bid, BID, When::At(now))?;
        }
        let bid = Bid::of(bid, When::Ever, &call)?;
        Self::of(call, bid, award, acceptance, when)
    }

    /// The agreement as bytes: its four envelopes.
    pub fn to_bytes(&self) -> Bytes {
        let message = wire::Agreement {
            call: self.call.signed.to_bytes(),
            bid: self.bid.signed.to_bytes(),
            award: self.award.to_bytes(),
            acceptance: self.acceptance.to_bytes(),
        };
        message.encode_to_vec().into()
    }

    /// Decodes and verifies.
    pub fn from_bytes(bytes: impl Into<Bytes>, when: When) -> Result<Self> {
        let bytes = bytes.into();
        if bytes.len() > MAX_AGREEMENT {
            return Err(DecodeError::OverLimit { message: "agreement", tag: 0, limit: MAX_AGREEMENT }.into());
        }
        let message: wire::Agreement = bounded::decode(bytes, &AGREEMENT_BOUNDS)?;
        let envelopes = [
            Signed::from_bytes(message.call, MAX_CALL)?,
            Signed::from_bytes(message.bid, MAX_BID)?,
            Signed::from_bytes(message.award, MAX_SMALL)?,
            Signed::from_bytes(message.acceptance, MAX_SMALL)?,
        ];
        Self::from_signed(envelopes, when)
    }
}

/// A request to a participant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToParticipant {
    Call(Signed),
    Award(Signed),
    Cancel(Signed),
}

impl ToParticipant {
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut message = wire::ToParticipant::default();
        match self {
            Self::Call(signed) => message.call = signed.to_bytes(),
            Self::Award(signed) => message.award = signed.to_bytes(),
            Self::Cancel(signed) => message.cancel = signed.to_bytes(),
        }
        message.encode_to_vec().into()
    }

    pub(crate) fn from_bytes(bytes: Bytes) -> Result<Self> {
        let message: wire::ToParticipant = bounded::decode(bytes, &TO_PARTICIPANT_BOUNDS)?;
        match (message.call.is_empty(), message.award.is_empty(), message.cancel.is_empty()) {
            (false, true, true) => Ok(Self::Call(Signed::from_bytes(message.call, MAX_CALL)?)),
            (true, false, true) => Ok(Self::Award(Signed::from_bytes(message.award, MAX_SMALL)?)),
            (true, true, false) => Ok(Self::Cancel(Signed::from_bytes(message.cancel, MAX_SMALL)?)),
            _ => Err(DecodeError::Value { message: "negotiation request", field: "call, award or cancel" }.into()),
        }
    }
}

/// A participant's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToInitiator {
    Bid(Signed),
    Acceptance(Signed),
    Refusal(String),
    /// A cancel was taken note of.
    Noted,
}

impl ToInitiator {
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut message = wire::ToInitiator::default();
        match self {
            Self::Bid(signed) => message.bid = signed.to_bytes(),
            Self::Acceptance(signed) => message.acceptance = signed.to_bytes(),
            // An empty one would be no refusal.
            Self::Refusal(reason) if reason.is_empty() => message.refusal = "refused".to_owned(),
            Self::Refusal(reason) => message.refusal = cut(reason).to_owned(),
            Self::Noted => {}
        }
        message.encode_to_vec().into()
    }

    pub(crate) fn from_bytes(bytes: Bytes) -> Result<Self> {
        let message: wire::ToInitiator = bounded::decode(bytes, &TO_INITIATOR_BOUNDS)?;
        match (message.bid.is_empty(), message.acceptance.is_empty(), message.refusal.is_empty()) {
            (false, true, true) => Ok(Self::Bid(Signed::from_bytes(message.bid, MAX_BID)?)),
            (true, false, true) => Ok(Self::Acceptance(Signed::from_bytes(message.acceptance, MAX_SMALL)?)),
            (true, true, false) => Ok(Self::Refusal(message.refusal)),
            (true, true, true) => Ok(Self::Noted),
            _ => Err(DecodeError::Value { message: "negotiation answer", field: "bid, acceptance or refusal" }.into()),
        }
    }
}
