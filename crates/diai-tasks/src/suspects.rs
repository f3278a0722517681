//! Workers that have the task of a search and are silent: they may be slow rather than dead, so nothing is cancelled.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use diai_core::{AgentId, BoxFuture};
use tokio::sync::Notify;

use crate::attempt::Ended;

/// Whether anything comes from a worker.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    now: AtomicBool,
    fell: Notify,
}

impl Silence {
    /// Nothing comes any more.
    pub(crate) fn begin(&self) {
        self.now.store(true, Ordering::Relaxed);
        self.fell.notify_one();
    }

    /// Something came after all.
    pub(crate) fn end(&self) {
        self.now.store(false, Ordering::Relaxed);
    }

    /// Completes when it begins.
    pub(crate) async fn begun(&self) {
        self.fell.notified().await;
    }
}

/// An attempt of somebody who was silent.
pub(crate) struct Suspect<'a> {
    pub(crate) agent: AgentId,
    pub(crate) silence: Arc<Silence>,
    pub(crate) attempt: BoxFuture<'a, Ended>,
}

/// At most as many attempts as a search may fail.
pub(crate) struct Suspects<'a> {
    waiting: Vec<Suspect<'a>>,
    capacity: usize,
}

impl<'a> Suspects<'a> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { waiting: Vec::new(), capacity }
    }

    /// Goes on with an attempt; whose is given up for it, if there are too many: of those still silent the first, and of
    /// others only if there is none.
    pub(crate) fn add(&mut self, suspect: Suspect<'a>) -> Option<AgentId> {
        let given_up = (self.waiting.len() >= self.capacity).then(|| {
            let silent = self.waiting.iter().position(|suspect| suspect.silence.now.load(Ordering::Relaxed));
            self.waiting.remove(silent.unwrap_or(0)).agent
        });
        self.waiting.push(suspect);
        given_up
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next that ends, and how; `None` if there is none.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Option<(AgentId, Ended)>> {
        for index in 0..self.waiting.len() {
            if let Some(suspect) = self.waiting.get_mut(index)
                && let Poll::Ready(ended) = suspect.attempt.as_mut().poll(cx)
            {
                return Poll::Ready(Some((self.waiting.remove(index).agent, ended)));
            }
        }
        if self.waiting.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn of_too_many_the_first_that_is_still_silent_is_given_up() {
        let mut suspects = Suspects::new(2);
        let agent = |number| AgentId::from_bytes([number; 32]);
        let mut add = |number, silent: bool| {
            let silence = Arc::new(Silence::default());
            silence.begin();
            if !silent {
                silence.end();
            }
            suspects.add(Suspect { agent: agent(number), silence, attempt: std::future::pending().boxed() })
        };
        assert_eq!((add(1, false), add(2, true)), (None, None));
        assert_eq!(add(3, true), Some(agent(2)));
        assert_eq!(add(4, true), Some(agent(3)));
    }
}
