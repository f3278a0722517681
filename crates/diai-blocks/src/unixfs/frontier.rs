//! What is still to be read of a DAG, in order, the next blocks being fetched already.

use std::{collections::VecDeque, future::poll_fn, task::Poll};

use bytes::Bytes;
use cid::Cid;
use diai_core::BoxFuture;

use crate::{BlockSource, SourceError};

type Fetched = Result<Bytes, SourceError>;

pub(super) struct Frontier<'a, T> {
    source: &'a dyn BlockSource,
    window: usize,
    slots: VecDeque<Slot<'a, T>>,
}

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
    pub(super) fn new(source: &'a dyn BlockSource, window: usize) -> Self {
        Self { source, window: window.max(1), slots: VecDeque::new() }
    }

    /// Puts `items` before all that is there, in their order.
    pub(super) fn push_front(&mut self, items: impl DoubleEndedIterator<Item = (Cid, T)>) {
        for (cid, what) in items.rev() {
            self.slots.push_front(Slot { cid, what, state: State::Waiting });
        }
    }

    /// The next block, when it is there. Cancel-safe: a block that was fetched waits for the next call.
    pub(super) async fn next(&mut self) -> Option<(Cid, T, Fetched)> {
        poll_fn(|cx| {
            let source = self.source;
            for slot in self.slots.iter_mut().take(self.window) {
                if matches!(slot.state, State::Waiting) {
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
        match self.slots.pop_front()? {
            Slot { cid, what, state: State::Done(fetched) } => Some((cid, what, fetched)),
            Slot { .. } => None,
        }
    }
}
