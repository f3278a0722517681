//! Workers that have the task of a search and are silent: they may be slow rather than dead, so nothing is cancelled.

use std::task::{Context, Poll};

use diai_core::{AgentId, BoxFuture};

use crate::attempt::Ended;

/// At most as many attempts as a search may fail.
pub(crate) struct Suspects<'a> {
    waiting: Vec<(AgentId, BoxFuture<'a, Ended>)>,
    capacity: usize,
}

impl<'a> Suspects<'a> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { waiting: Vec::new(), capacity }
    }

    /// Goes on with the attempt of `agent`; whose is given up for it, if there are too many.
    pub(crate) fn add(&mut self, agent: AgentId, attempt: BoxFuture<'a, Ended>) -> Option<AgentId> {
        let oldest = (self.waiting.len() >= self.capacity).then(|| self.waiting.remove(0).0);
        self.waiting.push((agent, attempt));
        oldest
    }

    /// The next that ends, and how; `None` if there is none.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Option<(AgentId, Ended)>> {
        for index in 0..self.waiting.len() {
            if let Some((agent, attempt)) = self.waiting.get_mut(index)
                && let Poll::Ready(ended) = attempt.as_mut().poll(cx)
            {
                let agent = *agent;
                drop(self.waiting.remove(index));
                return Poll::Ready(Some((agent, ended)));
            }
        }
        if self.waiting.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    }
}
