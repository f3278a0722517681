use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use diai_blocks::ProvideEvent;
use diai_core::PeerEvent;
use diai_discovery::DiscoveryEvent;
use futures::{Stream, stream::BoxStream};

/// What happens to an agent, in one stream. Each protocol has more in its own.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A device came or went.
    Peer(PeerEvent),
    /// Agents were found or forgotten, the registration was placed or not.
    Discovery(DiscoveryEvent),
    /// Content was announced, or could not be.
    Blocks(ProvideEvent),
}

/// A subscription to [`Event`]s, from the moment of the call on. It is bounded: a slow subscriber misses events, and
/// each source says so in its own way. Ends when the agent shuts down.
pub struct Events(pub(crate) BoxStream<'static, Event>);

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.as_mut().poll_next(cx)
    }
}
