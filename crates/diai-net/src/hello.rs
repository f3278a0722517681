//! `/diai/hello/1`: the dialler shows its certificate, the other answers with its own once it believed that, and the
//! dialler acknowledges with an empty frame once it believed this. So whoever has a certificate in hand knows that
//! the other side accepts its streams.

use std::io;

use bytes::Bytes;
use diai_core::{
    Clock, Misbehaviour, Multiaddr, PeerId, ProtocolId,
    bounded::{self, Bounds, DecodeError, Field},
    frame::{self, ReadFrameError},
};
use diai_identity::{Certificate, VerifyError};
use futures::{AsyncRead, AsyncWrite, AsyncWriteExt};
use prost::Message as _;

use crate::address_book::MAX_ADDR_BYTES;

mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/diai.hello.rs"));
}

pub(crate) const PROTOCOL: ProtocolId = ProtocolId::new("/diai/hello/1");
/// More addresses than that nobody can sensibly listen on.
pub(crate) const MAX_ADDRS: usize = 16;
const MAX_BYTES: usize = Certificate::MAX_BYTES + MAX_ADDRS * (MAX_ADDR_BYTES + 3) + 16;
const BOUNDS: Bounds = Bounds::new(
    "Hello",
    &[Field::bytes(1, 1, Certificate::MAX_BYTES), Field::bytes(2, MAX_ADDRS, MAX_ADDR_BYTES), Field::scalar(3)],
);

/// What one side shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) certificate: Certificate,
    pub(crate) addrs: Vec<Multiaddr>,
    pub(crate) dht_server: bool,
}

impl Hello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let addrs = self.addrs.iter().filter(|addr| addr.len() <= MAX_ADDR_BYTES).take(MAX_ADDRS);
        proto::Hello {
            certificate: self.certificate.to_bytes(),
            addrs: addrs.map(|addr| Bytes::copy_from_slice(addr.as_ref())).collect(),
            dht_server: self.dht_server,
        }
        .encode_to_vec()
    }

    /// Decodes without believing. Addresses that this version does not know are left out.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let hello: proto::Hello = bounded::decode(bytes, &BOUNDS)?;
        let certificate = Certificate::from_bytes(hello.certificate)
            .map_err(|_| DecodeError::Value { message: "Hello", field: "certificate" })?;
        let addrs = hello.addrs.into_iter().filter_map(|addr| Multiaddr::try_from(addr.to_vec()).ok()).collect();
        Ok(Self { certificate, addrs, dht_server: hello.dht_server })
    }
}

/// Why a hello came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
    #[error("it showed none in time")]
    Timeout,
    #[error("it does not speak /diai/hello/1")]
    Unspoken,
    #[error("it hung up during the hello ({0})")]
    Stream(#[from] io::Error),
    #[error("its hello is malformed: {0}")]
    Malformed(String),
    #[error("its certificate is of another device")]
    OtherDevice,
    #[error("{0}")]
    Verify(#[from] VerifyError),
}

impl HelloError {
    /// What the peer has to answer for, if anything: a clock that is off is no misdeed.
    pub(crate) fn misbehaviour(&self) -> Option<Misbehaviour> {
        match self {
            Self::Malformed(_) => Some(Misbehaviour::Malformed),
            Self::OtherDevice | Self::Verify(VerifyError::Root | VerifyError::Device) => Some(Misbehaviour::Forged),
            _ => None,
        }
    }
}

/// The dialler's side.
pub(crate) async fn greet(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    own: &Hello,
    peer: PeerId,
    clock: &dyn Clock,
) -> Result<Hello, HelloError> {
    frame::write(stream, &own.encode()).await?;
    let shown = read(stream, peer, clock).await?;
    frame::write(stream, &[]).await?;
    stream.close().await?;
    Ok(shown)
}

/// The listener's side, first half: whether to believe the dialler.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    peer: PeerId,
    clock: &dyn Clock,
) -> Result<Hello, HelloError> {
    let bytes = read_frame(stream, MAX_BYTES).await?;
    let hello = Hello::decode(bytes).map_err(|error| HelloError::Malformed(error.to_string()))?;
    if hello.certificate.peer() != peer {
        return Err(HelloError::OtherDevice);
    }
    hello.certificate.verify(clock.wall())?;
    Ok(hello)
}

/// The listener's side, second half: returns once the dialler believes us.
pub(crate) async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), own: &Hello) -> Result<(), HelloError> {
    frame::write(stream, &own.encode()).await?;
    read_frame(stream, 0).await?;
    Ok(())
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin), max_bytes: usize) -> Result<Bytes, HelloError> {
    match frame::read(stream, max_bytes).await {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        Err(ReadFrameError::Io(error)) => Err(error.into()),
        Err(error) => Err(HelloError::Malformed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use diai_core::os::{OsClock, OsEntropy};
    use diai_identity::Identity;
    use futures::{channel::mpsc, executor::block_on, io::Cursor};

    use super::*;

    fn hello(identity: &Identity) -> Hello {
        let addrs = vec!["/ip4/127.0.0.1/tcp/8080".parse().unwrap()];
        Hello { certificate: identity.certificate(), addrs, dht_server: true }
    }

    fn identity() -> Identity {
        Identity::generate(&OsEntropy, OsClock::new().wall())
    }

    fn shown(bytes: &[u8], peer: PeerId) -> Result<Hello, HelloError> {
        let mut wire = bytes::BytesMut::new();
        frame::put(bytes, &mut wire);
        block_on(read(&mut Cursor::new(wire.to_vec()), peer, &OsClock::new()))
    }

    #[test]
    fn a_hello_on_the_wire_is_what_it_always_was() {
        let identity = identity();
        let certificate = identity.certificate().to_bytes();
        let length = certificate.len();
        assert!((128..384).contains(&length));
        let head = [0x0a, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8];
        let tail = [0x12, 0x08, 0x04, 0x7f, 0, 0, 1, 0x06, 0x1f, 0x90, 0x18, 0x01];
        let golden = [&head[..], &certificate[..], &tail[..]].concat();
        assert_eq!(hello(&identity).encode(), golden);
        assert_eq!(Hello::decode(golden.into()), Ok(hello(&identity)));
    }

    #[test]
    fn no_cut_and_no_surplus_makes_a_hello_panic_or_pass() {
        let identity = identity();
        let bytes = hello(&identity).encode();
        // The last field may be missing, or the last two: then it is a shorter hello, but never another certificate.
        for end in 0..bytes.len() {
            if let Ok(hello) = Hello::decode(Bytes::copy_from_slice(&bytes[..end])) {
                assert_eq!(hello.certificate, identity.certificate());
            }
        }
        let many = Hello { addrs: vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap(); 40], ..hello(&identity) };
        assert_eq!(Hello::decode(many.encode().into()).unwrap().addrs.len(), MAX_ADDRS);
        let mut surplus = many.encode();
        surplus.extend_from_slice(&[0x12, 0x01, 0x00]);
        assert!(Hello::decode(surplus.into()).is_err(), "an address too many");
        assert!(matches!(shown(&vec![0; MAX_BYTES + 1], identity.peer()), Err(HelloError::Malformed(_))));
        assert!(matches!(shown(b"garbage", identity.peer()), Err(HelloError::Malformed(_))));
    }

    #[test]
    fn a_certificate_counts_only_for_its_device_whole_and_in_time() {
        let (alice, bob) = (identity(), identity());
        assert!(shown(&hello(&alice).encode(), alice.peer()).is_ok());
        let error = shown(&hello(&alice).encode(), bob.peer()).unwrap_err();
        assert_eq!(error.misbehaviour(), Some(Misbehaviour::Forged));
        let mut forged = hello(&alice).encode();
        // The certificate ends with a signature.
        let last = 3 + alice.certificate().to_bytes().len() - 1;
        forged[last] ^= 1;
        assert!(shown(&forged, alice.peer()).is_err());
        let old = Identity::generate(&OsEntropy, diai_core::WallTime::from_unix_ms(0));
        let error = shown(&hello(&old).encode(), old.peer()).unwrap_err();
        assert!(matches!(error, HelloError::Verify(VerifyError::Expired { .. })), "{error}");
        assert_eq!(error.misbehaviour(), None, "a clock may be off");
    }

    #[test]
    fn both_sides_learn_of_each_other() {
        let (alice, bob) = (identity(), identity());
        let clock = OsClock::new();
        let (mut near, mut far) = pipe();
        let (alice_hello, bob_hello) = (hello(&alice), hello(&bob));
        let dialler = greet(&mut near, &alice_hello, bob.peer(), &clock);
        let listener = async {
            let shown = read(&mut far, alice.peer(), &clock).await?;
            answer(&mut far, &bob_hello).await.map(|()| shown)
        };
        let (learnt, told) = block_on(futures::future::join(dialler, listener));
        assert_eq!((learnt.unwrap().certificate, told.unwrap().certificate), (bob.certificate(), alice.certificate()));
    }

    /// Two ends of a bounded pipe.
    fn pipe() -> (Pipe, Pipe) {
        let ((to_far, at_far), (to_near, at_near)) = (mpsc::channel(8), mpsc::channel(8));
        (Pipe::new(to_far, at_near), Pipe::new(to_near, at_far))
    }

    struct Pipe {
        send: mpsc::Sender<io::Result<Vec<u8>>>,
        receive: futures::stream::IntoAsyncRead<mpsc::Receiver<io::Result<Vec<u8>>>>,
    }

    impl Pipe {
        fn new(send: mpsc::Sender<io::Result<Vec<u8>>>, receive: mpsc::Receiver<io::Result<Vec<u8>>>) -> Self {
            Self { send, receive: futures::TryStreamExt::into_async_read(receive) }
        }
    }

    impl AsyncRead for Pipe {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.receive).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Pipe {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            std::task::ready!(self.send.poll_ready(cx)).map_err(io::Error::other)?;
            self.send.start_send(Ok(data.to_vec())).map_err(io::Error::other)?;
            Poll::Ready(Ok(data.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.send.close_channel();
            Poll::Ready(Ok(()))
        }
    }
}
