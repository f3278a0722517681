//! Small writes wait for a flush or for a big one.

use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::io::{AsyncRead, AsyncWrite};

/// Bytes that may wait. What does not fit goes out together with them, without being copied.
const CAPACITY: usize = 16 << 10;

/// A stream whose writes cost a record and a system call each: Yamux writes the header of a frame and its body apart,
/// and flushes when it has nothing more to send.
#[derive(Debug)]
pub(crate) struct Corked<S> {
    inner: S,
    held: Vec<u8>,
    /// How many of the held bytes are gone already.
    sent: usize,
}

impl<S> Corked<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, held: Vec::new(), sent: 0 }
    }

    #[cfg(test)]
    pub(super) fn get_ref(&self) -> &S {
        &self.inner
    }

    /// `written` of the held bytes, and then others, are gone: how many others.
    fn advance(&mut self, written: usize) -> io::Result<usize> {
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        self.sent += written;
        let others = self.sent.saturating_sub(self.held.len());
        if self.sent >= self.held.len() {
            self.held.clear();
            self.sent = 0;
        }
        Ok(others)
    }
}

impl<S: AsyncWrite + Unpin> Corked<S> {
    fn poll_uncork(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.held[self.sent..]))?;
            self.advance(written)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Corked<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            if this.held.len() + buf.len() <= CAPACITY {
                this.held.extend_from_slice(buf);
                return Poll::Ready(Ok(buf.len()));
            }
            let both = [IoSlice::new(&this.held[this.sent..]), IoSlice::new(buf)];
            let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, &both))?;
            let taken = this.advance(written)?;
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_uncork(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_uncork(cx))?;
        Pin::new(&mut this.inner).poll_close(cx)
    }
}
