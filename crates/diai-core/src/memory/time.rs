//! Virtual time and seeded randomness.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use super::state::{Event, Shared, mix};
use crate::{BoxFuture, Clock, Entropy, Instant, WallTime};

pub(super) struct VirtualClock(pub(super) Arc<Shared>);

impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        self.0.lock().now
    }

    fn wall(&self) -> WallTime {
        self.0.lock().wall()
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(Sleep { shared: self.0.clone(), deadline, scheduled: None })
    }
}

/// A timer. An instant that never comes is not scheduled, so that it does not keep a stuck run alive.
pub(super) struct Sleep {
    pub(super) shared: Arc<Shared>,
    pub(super) deadline: Instant,
    pub(super) scheduled: Option<(Instant, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut state = this.shared.lock();
        if let Some(key) = this.scheduled.take() {
            state.unschedule(key);
        }
        if state.now >= this.deadline {
            return Poll::Ready(());
        }
        if this.deadline != Instant::NEVER {
            this.scheduled = Some(state.schedule(this.deadline, Event::Wake(cx.waker().clone())));
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.scheduled {
            self.shared.lock().unschedule(key);
        }
    }
}

/// A stream of numbers from a seed (splitmix64): for simulation only.
pub(super) struct SeededEntropy(Mutex<u64>);

impl SeededEntropy {
    pub(super) fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in buffer.chunks_mut(8) {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            chunk.copy_from_slice(&mix(*state).to_le_bytes()[..chunk.len()]);
        }
    }
}
