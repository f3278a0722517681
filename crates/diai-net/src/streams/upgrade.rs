use std::{convert::Infallible, future, sync::Arc};

use libp2p::{
    Stream, StreamProtocol,
    core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo},
};

/// Agrees on one of a list of protocols and hands out the bare stream.
#[derive(Debug, Clone)]
pub struct Protocols(pub(crate) Arc<[StreamProtocol]>);

/// A stream and what it speaks.
pub(super) type Negotiated = (Stream, StreamProtocol);

impl UpgradeInfo for Protocols {
    type Info = StreamProtocol;
    type InfoIter = Vec<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.to_vec()
    }
}

impl InboundUpgrade<Stream> for Protocols {
    type Output = Negotiated;
    type Error = Infallible;
    type Future = future::Ready<Result<Negotiated, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        future::ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Protocols {
    type Output = Negotiated;
    type Error = Infallible;
    type Future = future::Ready<Result<Negotiated, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        future::ready(Ok((stream, protocol)))
    }
}
