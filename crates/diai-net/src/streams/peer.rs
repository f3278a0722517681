use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use diai_core::Bytes;
use libp2p::swarm::ConnectionId;
use tokio::sync::{Semaphore, mpsc};

use super::handler::OpenRequest;
use crate::hello::Hello;

/// A connected peer.
pub(super) struct Peer {
    /// The newest last.
    pub(super) connections: Vec<Connection>,
    /// Permits for the streams that we open.
    pub(super) streams: Arc<Semaphore>,
    pub(super) rtt: Option<Duration>,
    /// The number of our newest certificate that it has seen.
    pub(super) told: Option<u64>,
    /// The certificate with which its coming was announced, if it was announced.
    pub(super) announced: Option<Option<Bytes>>,
}

pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) opener: mpsc::Sender<OpenRequest>,
    pub(super) route: Route,
    pub(super) keep: Arc<AtomicBool>,
    pub(super) hello: HelloState,
}

/// How a connection came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// This device dialled.
    pub(crate) dialled: bool,
    /// Another device passes it on.
    pub(crate) relayed: bool,
}

pub(super) enum HelloState {
    Pending,
    Certified(Hello),
    Uncertified(String),
}

impl Connection {
    /// The hello has ended, one way or the other.
    pub(super) fn is_settled(&self) -> bool {
        !matches!(self.hello, HelloState::Pending)
    }
}

impl Peer {
    pub(super) fn is_dialled(&self) -> bool {
        self.connections.iter().any(|connection| connection.route.dialled)
    }

    pub(super) fn is_kept(&self) -> bool {
        self.connections.iter().any(|connection| connection.keep.load(Ordering::Relaxed))
    }

    /// The certified connection to use: direct before relayed, then the newest.
    pub(super) fn best(&self) -> Option<(ConnectionId, &Connection, &Hello)> {
        let certified = self.connections.iter().filter_map(|connection| match &connection.hello {
            HelloState::Certified(shown) => Some((connection.id, connection, shown)),
            _ => None,
        });
        certified.max_by_key(|(id, connection, _)| (!connection.route.relayed, *id))
    }
}
