use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
};

use diai_core::{BoxFuture, Offload, offload};

use super::{journal::Journal, store::Kept};
use crate::Parts;

/// What is held now under a key, or that nothing is.
pub(crate) type Change = (Vec<u8>, Option<Kept>);

enum State {
    Opening(BoxFuture<'static, io::Result<(Journal, Vec<Kept>)>>),
    Open(Arc<Journal>),
    /// Records live in memory only.
    Failed,
}

/// What the keeper reports.
pub(crate) enum Outcome {
    /// What earlier runs kept.
    Loaded(Vec<Kept>),
    /// Nothing can be kept.
    Failed(io::Error),
    /// What is held now under these keys could not be written.
    Unsaved(Vec<Vec<u8>>, io::Error),
    Saved,
}

/// A write under way, and under which keys.
type Saving = (Vec<Vec<u8>>, BoxFuture<'static, io::Result<()>>);

/// Keeps the journal behind the store, off the swarm's task: one write at a time.
pub(crate) struct Keeper {
    state: State,
    saving: Option<Saving>,
    pool: Arc<dyn Offload>,
}

impl Keeper {
    pub(crate) fn new(parts: &Parts) -> Self {
        let (disk, pool) = (Arc::clone(&parts.disk), Arc::clone(&parts.offload));
        let now = parts.clock.wall();
        let opening = async move {
            let opened = offload(&*pool, move || Journal::open(&*disk, now)).await;
            opened.unwrap_or_else(|error| Err(io::Error::other(error)))
        };
        Self { state: State::Opening(Box::pin(opening)), saving: None, pool: Arc::clone(&parts.offload) }
    }

    /// Whether it can take changes now; one that failed takes them too, to forget them.
    pub(crate) fn is_ready(&self) -> bool {
        self.saving.is_none() && !matches!(self.state, State::Opening(_))
    }

    /// Begins to write.
    pub(crate) fn write(&mut self, changes: Vec<Change>) {
        if let State::Open(journal) = &self.state
            && !changes.is_empty()
        {
            let keys = changes.iter().map(|(key, _)| key.clone()).collect();
            self.saving = Some((keys, Box::pin(write(Arc::clone(journal), Arc::clone(&self.pool), changes))));
        }
    }

    /// Waits for what is under way and writes `changes`; nothing is kept after that.
    pub(crate) fn finish(&mut self, changes: Vec<Change>) -> BoxFuture<'static, io::Result<()>> {
        let (saving, pool) = (self.saving.take(), Arc::clone(&self.pool));
        let state = match &self.state {
            State::Open(journal) => State::Open(Arc::clone(journal)),
            State::Opening(_) | State::Failed => std::mem::replace(&mut self.state, State::Failed),
        };
        Box::pin(async move {
            if let Some((_, saving)) = saving {
                saving.await?;
            }
            let journal = match state {
                State::Opening(opening) => Arc::new(opening.await?.0),
                State::Open(journal) => journal,
                State::Failed => return Ok(()),
            };
            write(journal, pool, changes).await
        })
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let State::Opening(opening) = &mut self.state
            && let Poll::Ready(opened) = opening.as_mut().poll(cx)
        {
            let (state, outcome) = match opened {
                Ok((journal, records)) => (State::Open(Arc::new(journal)), Outcome::Loaded(records)),
                Err(error) => (State::Failed, Outcome::Failed(error)),
            };
            self.state = state;
            return Poll::Ready(outcome);
        }
        if let Some((keys, saving)) = &mut self.saving
            && let Poll::Ready(saved) = saving.as_mut().poll(cx)
        {
            let keys = std::mem::take(keys);
            self.saving = None;
            return Poll::Ready(match saved {
                Ok(()) => Outcome::Saved,
                Err(error) => Outcome::Unsaved(keys, error),
            });
        }
        Poll::Pending
    }
}

async fn write(journal: Arc<Journal>, pool: Arc<dyn Offload>, changes: Vec<Change>) -> io::Result<()> {
    let written = offload(&*pool, move || journal.write(&changes)).await;
    written.unwrap_or_else(|error| Err(io::Error::other(error)))
}
