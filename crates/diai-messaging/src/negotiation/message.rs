use std::{fmt, time::Duration};

use bytes::Bytes;
use diai_core::{AgentId, BoxFuture, WallTime};
use diai_identity::Signed;

/// The service that participants serve.
pub const SERVICE: &str = "diai.negotiate";
/// The longest subject of a call; a longer one goes as a CID.
pub const MAX_SUBJECT_BYTES: usize = 64 * 1024;
/// The longest extra bytes of a bid.
pub const MAX_EXTRA_BYTES: usize = 16 * 1024;
/// The longest kind of a call.
pub const MAX_KIND_BYTES: usize = 128;
/// The longest reason of a refusal or cancel; longer ones are cut.
pub const MAX_REASON_BYTES: usize = 1024;

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(super) [u8; 32]);

        impl $name {
            /// The hash.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

hash_id! {
    /// A negotiation: the SHA-256 of the signed call, so both sides compute the same. Written in hex.
    NegotiationId
}
hash_id! {
    /// A bid: the SHA-256 of the signed bid. Written in hex.
    BidId
}

/// As of when signatures are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Certificates must be valid then.
    At(WallTime),
    /// Certificates may have expired since: for records of the past.
    Ever,
}

/// A verified call for proposals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub(super) id: NegotiationId,
    pub(super) initiator: AgentId,
    pub(super) kind: String,
    pub(super) subject: Bytes,
    pub(super) bids_until: WallTime,
    pub(super) valid_until: WallTime,
    pub(super) signed: Signed,
}

impl Call {
    /// The negotiation that it opens.
    pub fn id(&self) -> NegotiationId {
        self.id
    }

    /// Who calls.
    pub fn initiator(&self) -> AgentId {
        self.initiator
    }

    /// What the subject is, such as `task/1`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What it is about.
    pub fn subject(&self) -> &Bytes {
        &self.subject
    }

    /// Bids are taken until then.
    pub fn bids_until(&self) -> WallTime {
        self.bids_until
    }

    /// Awards are made until then.
    pub fn valid_until(&self) -> WallTime {
        self.valid_until
    }

    /// The signed envelope.
    pub fn signed(&self) -> &Signed {
        &self.signed
    }
}

/// A verified bid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bid {
    pub(super) id: BidId,
    pub(super) negotiation: NegotiationId,
    pub(super) participant: AgentId,
    pub(super) offer: Offer,
    pub(super) valid_until: WallTime,
    pub(super) signed: Signed,
}

impl Bid {
    /// The hash by which an award names it.
    pub fn id(&self) -> BidId {
        self.id
    }

    /// The negotiation that it is for.
    pub fn negotiation(&self) -> NegotiationId {
        self.negotiation
    }

    /// Who bids.
    pub fn participant(&self) -> AgentId {
        self.participant
    }

    /// What it offers. Its `valid_for` is what was left when the bid was decoded or made; see [`Bid::valid_until`].
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// It can be awarded until then.
    pub fn valid_until(&self) -> WallTime {
        self.valid_until
    }

    /// When the result is there, counted from the award: start and run estimate together.
    pub fn finish(&self) -> Duration {
        self.offer.start + self.offer.run
    }

    /// The signed envelope.
    pub fn signed(&self) -> &Signed {
        &self.signed
    }
}

/// What a participant offers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offer {
    /// In credits.
    pub price: u64,
    /// When it would start, counted from the award; whole milliseconds travel.
    pub start: Duration,
    /// How long it would take; whole milliseconds travel.
    pub run: Duration,
    /// How long the offer stands; never longer than the call. Zero stands for as long as the call.
    pub valid_for: Duration,
    /// What the kind of the call asks for, at most [`MAX_EXTRA_BYTES`].
    pub extra: Bytes,
}

/// What both sides signed: call, bid, award and acceptance, each bound to the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    pub(super) call: Call,
    pub(super) bid: Bid,
    pub(super) awarded: WallTime,
    pub(super) award: Signed,
    pub(super) acceptance: Signed,
}

impl Agreement {
    /// The negotiation.
    pub fn id(&self) -> NegotiationId {
        self.call.id
    }

    /// What was called for.
    pub fn call(&self) -> &Call {
        &self.call
    }

    /// What was offered and awarded.
    pub fn bid(&self) -> &Bid {
        &self.bid
    }

    /// Who called.
    pub fn initiator(&self) -> AgentId {
        self.call.initiator
    }

    /// Who agreed to do it.
    pub fn participant(&self) -> AgentId {
        self.bid.participant
    }

    /// When it was awarded, by the initiator's clock.
    pub fn awarded(&self) -> WallTime {
        self.awarded
    }

    /// The initiator's signature under the award.
    pub fn award(&self) -> &Signed {
        &self.award
    }

    /// The participant's signature under the award.
    pub fn acceptance(&self) -> &Signed {
        &self.acceptance
    }
}

/// Why a participant's part in a negotiation ended without work, or its agreement with it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// The initiator cancelled, maybe after the agreement.
    Cancelled {
        /// Its words.
        reason: String,
    },
    /// The offer lapsed without an award, or before the award was taken.
    Lapsed,
}

/// Who makes the bids.
pub trait Bidder: Send + Sync + 'static {
    /// An offer for `call`, or why there is none, in words that the initiator gets to read.
    fn bid(&self, call: Call) -> BoxFuture<'static, Result<Offer, String>>;

    /// The offer was awarded: on `Ok` the signed agreement goes to the initiator, an error takes the offer back. Comes
    /// again, with an equal agreement, when the initiator asks again before the first answer reached it.
    fn awarded(&self, agreement: Agreement) -> BoxFuture<'static, Result<(), String>>;

    /// A negotiation in which an offer was made has ended.
    fn ended(&self, negotiation: NegotiationId, ending: Ending);
}
