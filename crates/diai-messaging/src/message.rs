//! The frames of `/diai/session/1`.
//!
//! A frame is a header of 12 bytes and a payload of at most [`MAX_FRAME_BYTES`]; all numbers are little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0 | kind in the low four bits, flags in the high four (only requests have flags: bits 0-1 mode, 2-3 priority) |
//! | 1-3 | length of the payload |
//! | 4-11 | id: of the request, the token of a ping, else zero |
//!
//! Ids are the caller's own, start at one and rise with every request; each direction has its own. A message (request
//! body, answer or part) that does not fit one frame goes on in data frames; the first one states its whole length.

use diai_core::{Priority, ProtocolId, Refusal};

/// The session protocol.
pub const SESSION: ProtocolId = ProtocolId::new("/diai/session/1");
/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 12;
/// The longest payload of a frame.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;
/// The longest body that travels in one frame. A longer one is cut, and needs session credit for all its bytes.
pub const MAX_INLINE_BYTES: usize = MAX_FRAME_BYTES - 256;
/// The longest request, answer or part of an answer.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// The longest name of a service.
pub const MAX_SERVICE_BYTES: usize = 128;
/// The longest reason of a refusal; longer ones are cut before they are sent.
pub const MAX_REASON_BYTES: usize = 1024;
/// The longest hello. Today's are shorter; what a newer peer adds is skipped.
pub const MAX_HELLO_BYTES: usize = 256;
/// What a part of an answer costs of the stream's credit beside its length, so that empty parts are bounded too.
pub const PART_OVERHEAD_BYTES: usize = 64;

/// What is sent back for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One whole answer.
    Whole,
    /// An acknowledgement that the handler returned.
    OneWay,
    /// An answer in parts.
    Streaming,
}

/// What one side accepts. Each side states it in its hello; before that, [`Limits::FLOOR`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests that may be open at a time; more are refused as busy.
    pub max_requests: u32,
    /// The longest message in bytes.
    pub max_message_bytes: u32,
    /// Bytes of requests of more than one frame that may be unfinished at a time.
    pub request_window_bytes: u32,
    /// Bytes of answers and parts of more than one frame that may be in reassembly at a time.
    pub reply_window_bytes: u32,
    /// Bytes of parts that may wait to be taken, per streaming answer; one part may overdraw it.
    pub stream_window_bytes: u32,
}

impl Limits {
    /// What every peer accepts, before it has said hello: a few small requests.
    pub const FLOOR: Self = Self {
        max_requests: 16,
        max_message_bytes: MAX_INLINE_BYTES as u32,
        request_window_bytes: 0,
        reply_window_bytes: 0,
        stream_window_bytes: 1024,
    };

    /// Whether a peer that states these can be talked to: no less than the floor, and windows that hold the longest
    /// message twice, so that what is not yet given back never stops one.
    pub fn are_sound(&self) -> bool {
        self.max_requests >= Self::FLOOR.max_requests
            && self.max_message_bytes >= Self::FLOOR.max_message_bytes
            && self.stream_window_bytes >= Self::FLOOR.stream_window_bytes
            && self.request_window_bytes / 2 >= self.max_message_bytes
            && self.reply_window_bytes / 2 >= self.max_message_bytes
    }
}

/// The first frame of each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The sender's life: a random number that it drew when it started.
    pub incarnation: u64,
    /// The number of this session among those that the sender opened in this life; zero from the side that accepted.
    pub number: u64,
    /// The last incarnation of the other side that the sender knows; zero if none.
    pub seen_incarnation: u64,
    /// The highest session number that it has seen of it. Tells a session opened at once from one opened because the
    /// other was lost.
    pub seen_number: u64,
    /// What the sender accepts.
    pub limits: Limits,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The first frame of each side.
    Hello(Hello),
    /// A request, with as much of its body as fits.
    Request {
        /// Rises with every request.
        id: u64,
        /// What is expected back.
        mode: Mode,
        /// Which frames of request and answer go first.
        priority: Priority,
        /// What is left of the caller's time, in milliseconds.
        deadline_ms: u32,
        /// Length of the whole body.
        total: u32,
        /// The service's name.
        service: &'a str,
        /// The first bytes of the body.
        body: &'a [u8],
    },
    /// More of a request's body.
    RequestData {
        /// The request.
        id: u64,
        /// The next bytes; not empty.
        body: &'a [u8],
    },
    /// The whole answer, with as much of it as fits.
    Response {
        /// The request.
        id: u64,
        /// Length of the whole answer.
        total: u32,
        /// Its first bytes.
        body: &'a [u8],
    },
    /// A part of a streaming answer, with as much of it as fits.
    Part {
        /// The request.
        id: u64,
        /// Length of the whole part.
        total: u32,
        /// Its first bytes.
        body: &'a [u8],
    },
    /// More of an answer or part.
    ReplyData {
        /// The request.
        id: u64,
        /// The next bytes; not empty.
        body: &'a [u8],
    },
    /// The streaming answer is complete.
    End {
        /// The request.
        id: u64,
    },
    /// The handler of a one-way request has returned.
    Ack {
        /// The request.
        id: u64,
    },
    /// A typed no; nothing follows.
    Refusal {
        /// The request.
        id: u64,
        /// Why.
        refusal: Refusal,
    },
    /// The caller gives up; the rest of the body will not come.
    Cancel {
        /// The request.
        id: u64,
    },
    /// The cancelled request is gone; nothing follows.
    Cancelled {
        /// The request.
        id: u64,
    },
    /// Bytes given back to the session's two windows.
    Credit {
        /// Of requests.
        request_bytes: u32,
        /// Of answers.
        reply_bytes: u32,
    },
    /// Bytes given back to a streaming answer's window.
    StreamCredit {
        /// The request.
        id: u64,
        /// How many.
        bytes: u32,
    },
    /// Are you there?
    Ping {
        /// Comes back in the pong.
        token: u64,
    },
    /// Yes.
    Pong {
        /// The ping's.
        token: u64,
    },
    /// The sender makes no more requests on this session. It ends when what is open has been answered.
    Bye,
}
