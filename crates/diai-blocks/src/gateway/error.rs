use std::{io, time::Duration};

use cid::Cid;

use crate::{BlockError, car::ImportError, ipld::LinksError};

/// Why settings of gateways make no sense.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Something is no address of a gateway.
    #[error("{url:?} is no gateway: http:// or https://, a host, perhaps a port and a path, and nothing else")]
    Url {
        /// What was given.
        url: String,
    },
    /// More gateways than make sense.
    #[error("at most {limit} gateways can be asked")]
    TooMany {
        /// The cap.
        limit: usize,
    },
    /// Nothing can be served at the address.
    #[error("cannot serve a gateway at {addr}: {source}")]
    Listen {
        /// Where.
        addr: std::net::SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Why a gateway did not give what it was asked for. What it gave before was checked, and is right.
#[derive(Debug, thiserror::Error)]
#[error("gateway {gateway}: {reason}")]
#[non_exhaustive]
pub struct GatewayError {
    /// Which gateway, as it was configured.
    pub gateway: String,
    /// Why.
    #[source]
    pub reason: Reason,
}

/// What went wrong with a gateway.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// It does not have it.
    #[error("it does not have {cid}")]
    NotFound {
        /// What was asked for.
        cid: Cid,
    },
    /// It failed or was busy before, and is left alone for a time.
    #[error("it is left alone for {wait:?} more, after a fault of its own or because it was busy")]
    LeftAlone {
        /// For how long.
        wait: Duration,
    },
    /// It cannot be reached, or not securely.
    #[error("it cannot be reached: {0}")]
    Connect(#[source] io::Error),
    /// It is busy.
    #[error("it is busy (status {status})")]
    Busy {
        /// Its status.
        status: u16,
        /// When to ask again, if it said so.
        retry_after: Option<Duration>,
    },
    /// Another status than was expected.
    #[error("it answers with status {status}")]
    Status {
        /// Which.
        status: u16,
    },
    /// What it says is no HTTP, is too long, or is cut short.
    #[error("its answer is no good: {0}")]
    Http(#[from] hyper::Error),
    /// It sends on to somewhere else than itself, or for ever.
    #[error("it sends on to {to:?}, which is not followed")]
    Redirect {
        /// Where to.
        to: String,
    },
    /// Its answer is of another type than was asked for, or compressed unasked.
    #[error("its answer is of type {found:?}, which was not asked for")]
    Type {
        /// Which type, or encoding.
        found: String,
    },
    /// It is too slow.
    #[error("it is too slow")]
    TimedOut,
    /// More than was allowed.
    #[error("it sends more than {limit} {what}")]
    OverLimit {
        /// Of what.
        what: &'static str,
        /// The cap.
        limit: u64,
    },
    /// A block is not what it says.
    #[error("what it sends is wrong: {0}")]
    Wrong(#[from] BlockError),
    /// A block that nothing before it links to.
    #[error("it sends {cid}, which is no part of what was asked for")]
    Unexpected {
        /// Which block.
        cid: Cid,
    },
    /// The links of a block cannot be told.
    #[error("{cid}, which it sends rightly, has links that cannot be told: {source}")]
    Links {
        /// Which block.
        cid: Cid,
        /// Why.
        source: LinksError,
    },
    /// It sends no CAR file, or one that is cut short.
    #[error(transparent)]
    Car(#[from] ImportError),
    /// A section of the CAR file is no block.
    #[error("a section of its CAR file begins with no CID")]
    NoCid,
    /// The CAR file ended well, and blocks are missing from it.
    #[error("it sends a CAR file that lacks {missing} blocks")]
    Incomplete {
        /// How many, at least.
        missing: usize,
    },
    /// The World is shutting down.
    #[error("the World is shutting down")]
    Closed,
}

/// No gateway gave what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("no gateway has {cid}: {}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
#[non_exhaustive]
pub struct NoGateway {
    /// What was asked for.
    pub cid: Cid,
    /// What became of each.
    pub errors: Vec<GatewayError>,
}

impl Reason {
    /// Whether the gateway lies, or fails in a way that does not pass.
    pub(super) fn is_lie(&self) -> bool {
        matches!(self, Self::Wrong(_) | Self::Unexpected { .. } | Self::Type { .. } | Self::Redirect { .. })
    }

    /// Whether the gateway is at fault at all.
    pub(super) fn is_fault(&self) -> bool {
        !matches!(self, Self::NotFound { .. } | Self::LeftAlone { .. } | Self::Links { .. } | Self::Closed)
    }
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Connect(error),
        }
    }
}
