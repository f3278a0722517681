use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use diai_core::{DhtError, Instant, PeerId};
use futures::task::AtomicWaker;
use tokio::sync::{mpsc, oneshot};

use super::dht::Batch;

/// Providers that one lookup may find.
const MAX_PROVIDERS: usize = 4096;
/// A device names at most so many providers in an answer: one that names as many may know more.
const FULL_ANSWER: usize = 20;
/// A lookup asks so many times for more.
const MAX_ROUNDS: usize = 16;

/// A record that a device (`None`: this one) holds; without a value, the lookup ran out of time.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) from: Option<PeerId>,
    pub(crate) value: Option<Vec<u8>>,
}

/// Providers on their way to whoever looks for them.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    content: Mutex<Content>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Content {
    seen: BTreeSet<PeerId>,
    fresh: Vec<PeerId>,
    end: Option<Result<(), DhtError>>,
    ended: bool,
}

impl Inbox {
    /// Adds what is new among `peers`; how many that were.
    fn add(&self, peers: impl IntoIterator<Item = PeerId>) -> usize {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let before = content.fresh.len();
        for peer in peers {
            if content.seen.len() < MAX_PROVIDERS && content.seen.insert(peer) {
                content.fresh.push(peer);
            }
        }
        let added = content.fresh.len() - before;
        drop(content);
        self.waker.wake();
        added
    }

    fn end(&self, end: Result<(), DhtError>) {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        content.end.get_or_insert(end);
        drop(content);
        self.waker.wake();
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Batch {
        self.waker.register(cx.waker());
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        if !content.fresh.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut content.fresh))));
        }
        if content.ended {
            return Poll::Ready(None);
        }
        match content.end.take() {
            None => Poll::Pending,
            Some(end) => {
                content.ended = true;
                Poll::Ready(end.err().map(Err))
            }
        }
    }
}

/// A lookup of providers; ends the inbox when dropped.
#[derive(Debug)]
pub(crate) struct ProviderQuery {
    pub(crate) key: Vec<u8>,
    inbox: Arc<Inbox>,
    rounds: usize,
    /// A device named as many as it may in this round, and some of them were new: it may know more.
    more: bool,
    /// `None` until it has begun.
    deadline: Option<Instant>,
}

impl ProviderQuery {
    pub(crate) fn new(key: Vec<u8>, inbox: Arc<Inbox>) -> Self {
        Self { key, inbox, rounds: 0, more: false, deadline: None }
    }

    /// Begins with what this device holds itself.
    pub(crate) fn begin(&mut self, here: Vec<PeerId>, deadline: Instant) {
        self.deadline = Some(deadline);
        self.inbox.add(here);
    }

    /// Takes in one answer, of which no more counts than an honest device names.
    pub(crate) fn found(&mut self, peers: impl IntoIterator<Item = PeerId, IntoIter: ExactSizeIterator>) {
        let peers = peers.into_iter();
        let full = peers.len() >= FULL_ANSWER;
        let fresh = self.inbox.add(peers.take(FULL_ANSWER));
        self.more |= full && fresh > 0;
    }

    /// Whether another round may bring more; begins it.
    pub(crate) fn next_round(&mut self, now: Instant) -> bool {
        let in_time = self.deadline.is_some_and(|deadline| now < deadline);
        let more = std::mem::take(&mut self.more) && self.rounds < MAX_ROUNDS && in_time;
        self.rounds += 1;
        more
    }
}

impl Drop for ProviderQuery {
    fn drop(&mut self) {
        // One that never began was not looked at by anybody.
        self.inbox.end(if self.deadline.is_some() { Ok(()) } else { Err(DhtError::Closed) });
    }
}

/// A lookup under way, and who waits for it.
#[derive(Debug)]
pub(crate) enum Query {
    Get(mpsc::Sender<Found>),
    Closest(oneshot::Sender<Result<Vec<PeerId>, DhtError>>),
    Providers(ProviderQuery),
    FindPeer(oneshot::Sender<()>),
    /// Puts and announcements: held here already, so that they succeed however the rest ends.
    Publish(oneshot::Sender<Result<(), DhtError>>),
    /// An announcement that nobody waits for.
    Background,
}

impl Query {
    /// Whether nobody waits for the outcome of a lookup any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Self::Get(found) => found.is_closed(),
            Self::Closest(reply) => reply.is_closed(),
            Self::Providers(query) => Arc::strong_count(&query.inbox) == 1,
            Self::FindPeer(reply) => reply.is_closed(),
            // What is published is published, whoever waits.
            Self::Publish(_) | Self::Background => false,
        }
    }
}
