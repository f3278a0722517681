use diai_core::{Multiaddr, PeerId};

/// Why the network could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The device key does not fit the transport.
    #[error("the transport refused the device key: {reason}")]
    Key {
        /// What it said.
        reason: String,
    },
    /// The operating system's DNS settings could not be read.
    #[error("cannot read the system's DNS settings: {reason}")]
    Dns {
        /// What went wrong.
        reason: String,
    },
    /// No socket could be opened at an address of [`Config::listen`](crate::Config::listen).
    #[error("cannot listen on {addr}: {reason}; is it an address of this machine, and is the port free?")]
    Listen {
        /// The address.
        addr: Multiaddr,
        /// What the system said.
        reason: String,
    },
    /// Multicast DNS could not be started.
    #[error("cannot start multicast DNS: {reason}; switch `mdns` off")]
    Mdns {
        /// What the system said.
        reason: String,
    },
    /// [`Config::contacts`](crate::Config::contacts) is too long.
    #[error("{contacts} contacts, at most {limit} are allowed")]
    Contacts {
        /// How many there are.
        contacts: usize,
        /// The cap.
        limit: usize,
    },
}

/// A connection was refused because its host has too many already; the cause in libp2p's `ConnectionDenied`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{limit} connections of one host are open already; raise `connections_per_host` if that is one network of many"
)]
pub struct Crowded {
    /// The cap.
    pub limit: usize,
}

/// A connection was refused because the peer misbehaved; the cause in libp2p's `ConnectionDenied`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{peer} is cut off for misbehaviour")]
pub struct CutOff {
    /// Who.
    pub peer: PeerId,
}
