use std::{fmt, sync::Arc, time::Duration};

use diai_core::AgentId;

use crate::message::{Limits, MAX_FRAME_BYTES, MAX_MESSAGE_BYTES};

/// Who may call what. Asked for each request, in the session's task: it must answer at once.
pub trait Policy: Send + Sync + 'static {
    /// Whether `from` may call `service`; if not, why, in words that `from` gets to read.
    fn allows(&self, from: AgentId, service: &str) -> Result<(), String>;
}

impl<F: Fn(AgentId, &str) -> Result<(), String> + Send + Sync + 'static> Policy for F {
    fn allows(&self, from: AgentId, service: &str) -> Result<(), String> {
        self(from, service)
    }
}

/// Lets every agent call everything: whoever has a session has shown a certificate.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllCertified;

impl Policy for AllCertified {
    fn allows(&self, _: AgentId, _: &str) -> Result<(), String> {
        Ok(())
    }
}

/// How messaging behaves. Worst case in memory per session, if the peer is hostile and the handlers are slow:
/// `max_requests` * 64 KiB + `request_window_bytes` + `reply_window_bytes` + `max_reply_bytes` + two messages and 4 MiB;
/// with the defaults about 150 MiB. An idle session holds about 100 KiB. Each streaming answer that this agent asked for and does
/// not read holds at most `stream_window_bytes` and one message.
#[derive(Clone)]
pub struct Config {
    /// Sessions at a time, those that are ending included; more are refused. Default 1,024.
    pub max_sessions: usize,
    /// Streams of one peer that may be open at a time: one session, and those that end. Default 4.
    pub max_sessions_per_peer: usize,
    /// Requests of one peer that may be open at a time, at least 16; more are refused as busy. Default 256.
    pub max_requests: u32,
    /// Calls towards one peer that may be open at a time, the waiting ones included; more fail as too many. Default 4,096.
    pub max_calls: usize,
    /// The longest request, answer or part, 64 KiB to 16 MiB. Default 16 MiB.
    pub max_message_bytes: u32,
    /// Bytes of requests of more than one frame that a peer may have unfinished here; at least twice the longest message.
    /// Default 32 MiB.
    pub request_window_bytes: u32,
    /// Bytes of answers and parts of more than one frame in reassembly, per session; at least twice the longest message.
    /// Default 32 MiB.
    pub reply_window_bytes: u32,
    /// Bytes of parts that may wait to be taken, per streaming answer, at least 1 KiB; one part may overdraw it. Default
    /// 256 KiB.
    pub stream_window_bytes: u32,
    /// Bytes of request bodies over 64 KiB in flight towards one peer; further such calls wait for room. At least the
    /// longest message. Default 64 MiB.
    pub max_queued_bytes: u32,
    /// Bytes of answers that may wait to be sent to one peer; beyond it its requests are refused as busy and its handlers
    /// and streams pause, urgent ones when a longest message and 4 MiB more wait. Default 32 MiB.
    pub max_reply_bytes: usize,
    /// What a busy refusal tells the caller. Default 250 ms.
    pub retry_after: Duration,
    /// Silence after which a ping goes out; after two and a half times as much, the session is broken. Default 10 s.
    pub keep_alive: Duration,
    /// A peer that takes none of the bytes written for so long is cut off. Default 30 s.
    pub stall: Duration,
    /// Time that [`Messaging::shutdown`](crate::Messaging::shutdown) gives to what is open. Default 5 s.
    pub shutdown_grace: Duration,
    /// Who may call what. Default [`AllCertified`].
    pub policy: Arc<dyn Policy>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_sessions: 1024,
            max_sessions_per_peer: 4,
            max_requests: 256,
            max_calls: 4096,
            // 16 MiB fits a u32.
            max_message_bytes: MAX_MESSAGE_BYTES as u32,
            request_window_bytes: 32 << 20,
            reply_window_bytes: 32 << 20,
            stream_window_bytes: 256 << 10,
            max_queued_bytes: 64 << 20,
            max_reply_bytes: 32 << 20,
            retry_after: Duration::from_millis(250),
            keep_alive: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(5),
            policy: Arc::new(AllCertified),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("max_sessions", &self.max_sessions)
            .field("max_requests", &self.max_requests)
            .field("max_calls", &self.max_calls)
            .field("max_message_bytes", &self.max_message_bytes)
            .finish_non_exhaustive()
    }
}

impl Config {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_requests: self.max_requests,
            max_message_bytes: self.max_message_bytes,
            request_window_bytes: self.request_window_bytes,
            reply_window_bytes: self.reply_window_bytes,
            stream_window_bytes: self.stream_window_bytes,
        }
    }

    /// What is wrong with it, if anything.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let longest = self.max_message_bytes as usize;
        if !(MAX_FRAME_BYTES..=MAX_MESSAGE_BYTES).contains(&longest) {
            return Err("max_message_bytes is 64 KiB to 16 MiB");
        }
        if !self.limits().are_sound() {
            return Err("max_requests is at least 16, stream_window_bytes at least 1 KiB, the other windows at least \
                        twice max_message_bytes");
        }
        if self.max_queued_bytes < self.max_message_bytes {
            return Err("max_queued_bytes is at least max_message_bytes");
        }
        if self.keep_alive.is_zero() || self.stall.is_zero() {
            return Err("keep_alive and stall are not zero");
        }
        Ok(())
    }
}
