//! The operating system as a World: its clock, its entropy, a folder of its file system, a pool of threads.
//!
//! What `diai-net` adds to these is the network. They are here, without libp2p, for tools and tests that need only
//! files.
#![allow(clippy::disallowed_methods, reason = "this is where the World touches the operating system")]

mod disk;
mod pool;

use std::time::{Duration, SystemTime};

pub use disk::FsDisk;
pub use pool::ThreadPool;

use crate::{BoxFuture, Clock, Entropy, Instant, WallTime};

/// The operating system's clocks. Waiting needs a tokio runtime with time enabled.
#[derive(Debug, Clone, Copy)]
pub struct OsClock {
    began: std::time::Instant,
}

impl OsClock {
    /// A clock whose [`Instant`] zero is now.
    pub fn new() -> Self {
        Self { began: std::time::Instant::now() }
    }
}

impl Default for OsClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for OsClock {
    fn now(&self) -> Instant {
        Instant::default() + self.began.elapsed()
    }

    fn wall(&self) -> WallTime {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        WallTime::default() + since_epoch
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let began = self.began;
        Box::pin(async move {
            match began.checked_add(Duration::from_nanos(deadline.as_nanos())) {
                Some(deadline) if deadline > std::time::Instant::now() => {
                    tokio::time::sleep_until(deadline.into()).await
                }
                Some(_) => {}
                None => std::future::pending().await,
            }
        })
    }
}

/// The operating system's random bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    /// # Panics
    /// If the operating system gives none: no key made without it would be one.
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("the operating system gives random bytes");
    }
}
