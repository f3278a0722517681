//! How handles reach a session's task: a bounded list under a lock, and a wake-up. One hop, no task in between.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use diai_core::{AgentId, Instant, PeerId, Priority};
use futures::{Stream, task::AtomicWaker};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    machine::{CallKey, NewCall, Outcome},
    message::{MAX_INLINE_BYTES, Mode, PART_OVERHEAD_BYTES},
};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks here guard is whole after every statement; a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who waits for a call.
pub(crate) enum Waiter {
    Whole(oneshot::Sender<Outcome>),
    Stream(PartsSender),
}

pub(crate) enum Command {
    Call {
        call: NewCall,
        waiter: Waiter,
        room: Option<OwnedSemaphorePermit>,
    },
    Cancel(CallKey),
    Taken(CallKey, u32),
    Retire,
    ShutDown,
    /// End at once.
    Break,
}

/// A session as others hold it.
pub(crate) struct Handle {
    /// Unique among the sessions of this messaging.
    pub(crate) uid: u64,
    pub(crate) agent: AgentId,
    pub(crate) peer: PeerId,
    max_calls: usize,
    stream_window: u32,
    state: Mutex<State>,
    pub(crate) waker: AtomicWaker,
    /// Room for the bodies of long requests, in KiB.
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    closed: bool,
    next_key: u64,
    open_calls: usize,
    open_requests: usize,
    commands: Vec<Command>,
}

/// What a caller wants sent.
#[derive(Clone)]
pub(crate) struct Spec {
    pub(crate) service: Arc<str>,
    pub(crate) body: Bytes,
    pub(crate) mode: Mode,
    pub(crate) priority: Priority,
    pub(crate) deadline: Instant,
}

pub(crate) enum SubmitError {
    /// The session has ended: try another.
    Closed,
    TooMany {
        limit: usize,
    },
}

impl Handle {
    pub(crate) fn new(uid: u64, agent: AgentId, peer: PeerId, config: &crate::Config) -> Arc<Self> {
        Arc::new(Self {
            uid,
            agent,
            peer,
            max_calls: config.max_calls,
            stream_window: config.stream_window_bytes,
            state: Mutex::default(),
            waker: AtomicWaker::new(),
            room: Arc::new(Semaphore::new(kib(config.max_queued_bytes as usize) as usize)),
        })
    }

    /// Waits until the body fits among those in flight. Small ones always do.
    pub(crate) async fn room_for(&self, body: &Bytes) -> Option<OwnedSemaphorePermit> {
        if body.len() <= MAX_INLINE_BYTES {
            return None;
        }
        self.room.clone().acquire_many_owned(kib(body.len())).await.ok()
    }

    pub(crate) fn submit(
        &self,
        spec: Spec,
        waiter: Waiter,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<CallKey, SubmitError> {
        let Spec { service, body, mode, priority, deadline } = spec;
        let key = {
            let mut state = lock(&self.state);
            if state.closed {
                return Err(SubmitError::Closed);
            }
            if state.open_calls >= self.max_calls {
                return Err(SubmitError::TooMany { limit: self.max_calls });
            }
            state.open_calls += 1;
            state.next_key += 1;
            let key = CallKey(state.next_key);
            let call = NewCall { key, service, body, mode, priority, deadline };
            state.commands.push(Command::Call { call, waiter, room });
            key
        };
        self.waker.wake();
        Ok(key)
    }

    pub(crate) fn command(&self, command: Command) {
        {
            let mut state = lock(&self.state);
            if state.closed {
                return;
            }
            state.commands.push(command);
        }
        self.waker.wake();
    }

    /// Moves what waits into `commands`, which is empty; `ended` calls have ended since.
    pub(crate) fn drain(&self, commands: &mut Vec<Command>, ended: usize, open_requests: usize) {
        let mut state = lock(&self.state);
        state.open_calls -= ended;
        state.open_requests = open_requests;
        std::mem::swap(&mut state.commands, commands);
    }

    pub(crate) fn has_commands(&self) -> bool {
        !lock(&self.state).commands.is_empty()
    }

    /// Takes no more; what still waited is returned.
    pub(crate) fn close(&self) -> Vec<Command> {
        let mut state = lock(&self.state);
        state.closed = true;
        (state.open_calls, state.open_requests) = (0, 0);
        std::mem::take(&mut state.commands)
    }

    /// Open calls and requests.
    pub(crate) fn open(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.open_calls, state.open_requests)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("agent", &self.agent).field("peer", &self.peer).finish_non_exhaustive()
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

/// Cancels the call when dropped, unless it has ended.
pub(crate) struct CancelOnDrop {
    handle: Arc<Handle>,
    key: Option<CallKey>,
}

impl CancelOnDrop {
    pub(crate) fn new(handle: Arc<Handle>, key: CallKey) -> Self {
        Self { handle, key: Some(key) }
    }

    pub(crate) fn disarm(&mut self) {
        self.key = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.handle.command(Command::Cancel(key));
        }
    }
}

/// The parts of one streaming answer, between the session's task and the caller. Bounded by the stream's credit.
#[derive(Default)]
struct Parts {
    state: Mutex<PartsState>,
    waker: AtomicWaker,
}

#[derive(Default)]
struct PartsState {
    queue: VecDeque<Bytes>,
    /// Set once; `Some(None)` when the task vanished.
    end: Option<Option<Outcome>>,
}

/// The session's end. Dropped without an outcome, it ends the stream as closed.
pub(crate) struct PartsSender(Arc<Parts>);

impl PartsSender {
    pub(crate) fn part(&self, part: Bytes) {
        lock(&self.0.state).queue.push_back(part);
        self.0.waker.wake();
    }

    pub(crate) fn end(self, outcome: Outcome) {
        lock(&self.0.state).end = Some(Some(outcome));
    }
}

impl Drop for PartsSender {
    fn drop(&mut self) {
        lock(&self.0.state).end.get_or_insert(None);
        self.0.waker.wake();
    }
}

/// The caller's end.
pub(crate) struct PartsReceiver(Arc<Parts>);

pub(crate) fn parts() -> (PartsSender, PartsReceiver) {
    let parts = Arc::new(Parts::default());
    (PartsSender(parts.clone()), PartsReceiver(parts))
}

/// What comes out of a streaming call on one session.
pub(crate) enum PartEvent {
    Part(Bytes),
    /// The end; `None` when messaging was dropped.
    End(Option<Outcome>),
}

/// A streaming call on one session: gives credit back as parts are taken, cancels when dropped.
pub(crate) struct PartStream {
    parts: PartsReceiver,
    call: CancelOnDrop,
    key: CallKey,
    untold: usize,
}

impl PartStream {
    pub(crate) fn new(handle: Arc<Handle>, key: CallKey, parts: PartsReceiver) -> Self {
        Self { parts, call: CancelOnDrop::new(handle, key), key, untold: 0 }
    }
}

impl Stream for PartStream {
    type Item = PartEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PartEvent>> {
        let this = &mut *self;
        this.parts.0.waker.register(cx.waker());
        let mut state = lock(&this.parts.0.state);
        if let Some(part) = state.queue.pop_front() {
            drop(state);
            this.untold += part.len() + PART_OVERHEAD_BYTES;
            let handle = &this.call.handle;
            if this.untold >= handle.stream_window as usize / 4 {
                // One part of at most 16 MiB and less than a window.
                let bytes = u32::try_from(std::mem::take(&mut this.untold)).unwrap_or(u32::MAX);
                handle.command(Command::Taken(this.key, bytes));
            }
            return Poll::Ready(Some(PartEvent::Part(part)));
        }
        let Some(end) = state.end.take() else { return Poll::Pending };
        drop(state);
        this.call.disarm();
        Poll::Ready(Some(PartEvent::End(end)))
    }
}
