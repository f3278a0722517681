//! What is still to be read of a DAG, in order, the next blocks being fetched already.

use std::{collections::VecDeque, future::poll_fn, sync::Arc, task::Poll};

use bytes::Bytes;
use cid::Cid;
use diai_core::BoxFuture;

use crate::{BlockSource, SourceError};

type Fetched = Result<Bytes, SourceError>;

/// Where blocks come from.
pub(crate) type Fetch<'a> = Arc<dyn Fn(Cid) -> BoxFuture<'a, Fetched> + Send + Sync + 'a>;

pub(crate) struct Frontier<'a, T> {
    fetch: Fetch<'a>,
    window: usize,
    slots: VecDeque<Slot<'a, T>>,
    /// Slots that hold a block, or will: those of the window, and those that others were put before since.
    begun: usize,
}

/// As many windows may be begun, which is enough for the levels of any honest DAG; only a deep one waits.
const WINDOWS: usize = 4;

struct Slot<'a, T> {
    cid: Cid,
    what: T,
    state: State<'a>,
}

enum State<'a> {
    Waiting,
    Fetching(BoxFuture<'a, Fetched>),
    Done(Fetched),
}

impl<'a, T> Frontier<'a, T> {
    pub(crate) fn new(source: &'a dyn BlockSource, window: usize) -> Self {
        Self::fetching(Arc::new(move |cid| source.block(cid)), window)
    }

    pub(crate) fn fetching(fetch: Fetch<'a>, window: usize) -> Self {
        Self { fetch, window: window.max(1), slots: VecDeque::new(), begun: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Puts `items` before all that is there, in their order.
    pub(crate) fn push_front(&mut self, items: impl DoubleEndedIterator<Item = (Cid, T)>) {
        for (cid, what) in items.rev() {
            self.slots.push_front(Slot { cid, what, state: State::Waiting });
        }
    }

    /// The next block, when it is there. Cancel-safe: a block that was fetched waits for the next call.
    pub(crate) async fn next(&mut self) -> Option<(Cid, T, Fetched)> {
        self.next_of(|_| true, 0).await
    }

    /// The same, where of the window only what is `needed` is fetched, and `ahead` blocks after that.
    pub(crate) async fn next_of(&mut self, needed: impl Fn(&T) -> bool, ahead: usize) -> Option<(Cid, T, Fetched)> {
        poll_fn(|cx| {
            let mut last = 0;
            for (index, slot) in self.slots.iter_mut().take(self.window).enumerate() {
                if needed(&slot.what) {
                    last = index;
                }
                let room = self.begun < WINDOWS * self.window && index <= last + ahead;
                if matches!(slot.state, State::Waiting) && (index == 0 || room) {
                    self.begun += 1;
                    slot.state = State::Fetching((self.fetch)(slot.cid));
                }
                if let State::Fetching(fetching) = &mut slot.state
                    && let Poll::Ready(fetched) = fetching.as_mut().poll(cx)
                {
                    slot.state = State::Done(fetched);
                }
            }
            match self.slots.front() {
                None => Poll::Ready(()),
                Some(Slot { state: State::Done(_), .. }) => Poll::Ready(()),
                Some(_) => Poll::Pending,
            }
        })
        .await;
        let first = self.slots.pop_front()?;
        self.begun -= 1;
        match first {
            Slot { cid, what, state: State::Done(fetched) } => Some((cid, what, fetched)),
            Slot { .. } => None,
        }
    }
}
