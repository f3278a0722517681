//! Big reads from the socket.

use futures::io::BufReader;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};

/// Bytes read from the socket at a time, at most. Only what was ever filled takes memory.
const READ_BYTES: usize = 64 << 10;

/// A security upgrade over a socket that is read in big pieces: by itself, TLS reads 4 KiB at a time. Writes pass.
#[derive(Debug, Clone)]
pub(crate) struct Buffered<U>(pub(crate) U);

impl<U: UpgradeInfo> UpgradeInfo for Buffered<U> {
    type Info = U::Info;
    type InfoIter = U::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

impl<C: futures::AsyncRead, U: InboundConnectionUpgrade<BufReader<C>>> InboundConnectionUpgrade<C> for Buffered<U> {
    type Output = U::Output;
    type Error = U::Error;
    type Future = U::Future;

    fn upgrade_inbound(self, socket: C, info: Self::Info) -> Self::Future {
        self.0.upgrade_inbound(BufReader::with_capacity(READ_BYTES, socket), info)
    }
}

impl<C: futures::AsyncRead, U: OutboundConnectionUpgrade<BufReader<C>>> OutboundConnectionUpgrade<C> for Buffered<U> {
    type Output = U::Output;
    type Error = U::Error;
    type Future = U::Future;

    fn upgrade_outbound(self, socket: C, info: Self::Info) -> Self::Future {
        self.0.upgrade_outbound(BufReader::with_capacity(READ_BYTES, socket), info)
    }
}
