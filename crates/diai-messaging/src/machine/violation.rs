//! What a session ends for.

use diai_core::Misbehaviour;

use crate::codec::FrameError;

/// What a peer did against the protocol. The session ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Bytes that are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The first frame is no hello, or a later one is.
    #[error("hello is the first frame, and only that")]
    Hello,
    /// The hello states limits below the floor, or windows that cannot hold the longest message twice.
    #[error("the hello states limits that nobody can work with")]
    Limits,
    /// A request's id does not rise.
    #[error("the request id {id} came twice")]
    DuplicateId {
        /// Which one.
        id: u64,
    },
    /// A frame for a request that is not open.
    #[error("no request {id} is open")]
    UnknownId {
        /// Which one.
        id: u64,
    },
    /// A frame that the request does not allow in its state.
    #[error("request {id} allows no such frame now")]
    Unexpected {
        /// Which one.
        id: u64,
    },
    /// Bytes without credit.
    #[error("bytes were sent without credit")]
    Credit,
    /// A message over the stated limit.
    #[error("a message of {bytes} bytes is over the limit")]
    TooLarge {
        /// Its length.
        bytes: u32,
    },
    /// A new request after the other side had said bye.
    #[error("a request after bye")]
    AfterBye,
    /// Nothing came for too long.
    #[error("the peer is silent")]
    Silent,
}

impl Violation {
    /// What the peer is reported for.
    pub const fn misbehaviour(&self) -> Misbehaviour {
        match self {
            Self::Frame(_) => Misbehaviour::Malformed,
            Self::Credit | Self::TooLarge { .. } => Misbehaviour::Flooding,
            Self::Silent => Misbehaviour::Silent,
            _ => Misbehaviour::Violation,
        }
    }
}
