//! Negotiation: a contract net. The initiator calls for proposals, participants bid or refuse, the initiator awards one,
//! the participant countersigns: an [`Agreement`] that anyone can verify later.
//!
//! Every step is signed, and each names the one before by its hash, so that neither side can claim another course. The
//! call stays open until its validity ends: when the first agreement fails, another bid can be awarded. All messages may
//! come twice and are answered the same way.
//!
//! [`Initiator`] and [`Participant`] are the two sides without IO; [`Negotiator`] runs both over any
//! [`Calls`](diai_core::Calls) as the service [`SERVICE`].
//!
//! | what | limit |
//! |---|---|
//! | subject of a call | [`MAX_SUBJECT_BYTES`] |
//! | extra bytes of a bid | [`MAX_EXTRA_BYTES`] |
//! | participants of a call | [`MAX_PARTICIPANTS`] |
//! | negotiations that a participant holds | [`MAX_NEGOTIATIONS`], of one initiator [`MAX_PER_INITIATOR`] |

mod codec;
mod driver;
mod initiator;
mod message;
mod participant;

pub use codec::NegotiationError;
pub use driver::{AwardError, Bidding, CallForProposals, Negotiation, Negotiator, OpenCallError};
pub use initiator::{Initiator, InitiatorInput, InitiatorOutput, StepError};
pub use message::{
    Agreement, Bid, BidId, Bidder, Call, Ending, MAX_EXTRA_BYTES, MAX_KIND_BYTES, MAX_REASON_BYTES, MAX_SUBJECT_BYTES,
    NegotiationId, Offer, SERVICE, When,
};
pub use participant::{AwardStep, CallStep, MAX_NEGOTIATIONS, MAX_PER_INITIATOR, Participant};

/// So many agents can be asked in one call.
pub const MAX_PARTICIPANTS: usize = 256;
