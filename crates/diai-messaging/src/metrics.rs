use std::sync::atomic::{AtomicU64, Ordering};

/// What messaging has done since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Status {
    /// Sessions that are open, those that are ending included.
    pub sessions: usize,
    /// Calls made here that are open on a session.
    pub open_calls: usize,
    /// Requests of others that are open here.
    pub open_requests: usize,
    /// Calls handed to a session.
    pub calls: u64,
    /// Calls whose outcome is unknown because their session broke.
    pub broken_calls: u64,
    /// Requests handed to a service.
    pub served: u64,
    /// Requests refused by policy or because nobody serves that name.
    pub refused: u64,
    /// Sessions ended because the peer broke the protocol.
    pub violations: u64,
    /// Bytes of frames received.
    pub bytes_in: u64,
    /// Bytes of frames sent.
    pub bytes_out: u64,
    /// Writes that sent them: many frames leave in one.
    pub writes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) calls: Counter,
    pub(crate) broken_calls: Counter,
    pub(crate) served: Counter,
    pub(crate) refused: Counter,
    pub(crate) violations: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) writes: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
