//! A connection that is cut when its other side stops, or trickles.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use diai_core::{BoxFuture, Clock, Instant};
use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::sockets::Connection;

/// How slow the other side may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// While something waits to be read or written, this many bytes must pass in each `window`.
    pub(super) bytes: u64,
    pub(super) window: Duration,
    /// Whether reading counts too, and not only writing.
    pub(super) reads: bool,
}

/// The connection, which fails with [`io::ErrorKind::TimedOut`] when it falls below its pace.
pub(super) struct Paced {
    inner: Box<dyn Connection>,
    clock: Arc<dyn Clock>,
    reading: Option<Watch>,
    writing: Watch,
}

/// The pace of one direction.
struct Watch {
    pace: Pace,
    passed: u64,
    /// Under way while something waits.
    window: Option<BoxFuture<'static, ()>>,
}

impl Watch {
    fn new(pace: Pace) -> Self {
        Self { pace, passed: 0, window: None }
    }

    /// Notes what came of one try.
    fn note(
        &mut self,
        clock: &dyn Clock,
        cx: &mut Context<'_>,
        done: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match done {
            Poll::Ready(Ok(bytes)) => {
                self.passed += bytes as u64;
                if self.passed >= self.pace.bytes {
                    self.passed = 0;
                    self.window = None;
                }
                done
            }
            Poll::Ready(Err(_)) => done,
            Poll::Pending => {
                let begin = || clock.sleep_until(clock.now() + self.pace.window);
                ready!(self.window.get_or_insert_with(begin).as_mut().poll(cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the other side is too slow")))
            }
        }
    }

    /// Nothing waits any more.
    fn rest(&mut self) {
        self.passed = 0;
        self.window = None;
    }
}

impl Paced {
    pub(super) fn new(inner: Box<dyn Connection>, clock: Arc<dyn Clock>, pace: Pace) -> Self {
        let reading = pace.reads.then(|| Watch::new(pace));
        Self { inner, clock, reading, writing: Watch::new(pace) }
    }
}

impl AsyncRead for Paced {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buffer).map_ok(|()| buffer.filled().len() - before);
        match &mut this.reading {
            Some(watch) => watch.note(&*this.clock, cx, read).map_ok(drop),
            None => read.map_ok(drop),
        }
    }
}

impl AsyncWrite for Paced {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, data);
        this.writing.note(&*this.clock, cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        if flushed.is_ready() {
            this.writing.rest();
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// The World's clock as hyper has it.
#[derive(Clone)]
pub(super) struct WorldTimer {
    clock: Arc<dyn Clock>,
    /// The same moment on both clocks.
    began: (std::time::Instant, Instant),
}

impl WorldTimer {
    #[expect(
        clippy::disallowed_methods,
        reason = "hyper counts from some instant of std; no time passes on that clock"
    )]
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let began = (std::time::Instant::now(), clock.now());
        Self { clock, began }
    }
}

struct Sleeping(Mutex<BoxFuture<'static, ()>>);

impl Future for Sleeping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.get_mut().as_mut().poll(cx)
    }
}

impl Sleep for Sleeping {}

impl Timer for WorldTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Sleeping(Mutex::new(self.clock.sleep_until(self.clock.now() + duration))))
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }

    fn now(&self) -> std::time::Instant {
        self.began.0 + self.clock.now().since(self.began.1)
    }
}
