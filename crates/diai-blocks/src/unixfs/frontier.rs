//! What is still to be read of a DAG, in order, the next blocks being fetched already.

use std::{collections::VecDeque, future::poll_fn, task::Poll};

use bytes::Bytes;
use cid::Cid;
use diai_core::BoxFuture;

use crate::{BlockSource, SourceError};

type Fetched = Result<Bytes, SourceError>;

pub(crate) struct Frontier<'a, T> {
    source: &'a dyn BlockSource,
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
        Self { source, window: window.max(1), slots: VecDeque::new(), begun: 0 }
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
        poll_fn(|cx| {
            let source = self.source;
            for (index, slot) in self.slots.iter_mut().take(self.window).enumerate() {
                if matches!(slot.state, State::Waiting) && (index == 0 || self.begun < WINDOWS * self.window) {
                    self.begun += 1;
                    slot.state = State::Fetching(source.block(slot.cid));
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
