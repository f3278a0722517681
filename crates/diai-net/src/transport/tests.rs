use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use diai_core::{Clock, os::OsClock, timeout_at};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder,
    core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade},
    identity::Keypair,
    noise,
    swarm::{DialError, SwarmEvent},
    tcp, tls, yamux,
};
use libp2p_stream::Behaviour;
use rustls::{
    CipherSuite,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{io::DuplexStream, net::TcpStream, task::JoinSet};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::{corked::Corked, tls::Tls};
use crate::Config;

const ECHO: StreamProtocol = StreamProtocol::new("/test/echo/1");

/// No test hangs.
async fn within<T>(work: impl Future<Output = T>) -> T {
    let clock = OsClock::new();
    timeout_at(&clock, clock.now() + Duration::from_secs(30), work).await.expect("it takes too long")
}

fn ours() -> Swarm<Behaviour> {
    super::swarm(Keypair::generate_ed25519(), Behaviour::new(), &Config::test()).unwrap()
}

fn stock_tls() -> Swarm<Behaviour> {
    let tcp = SwarmBuilder::with_new_identity().with_tokio().with_tcp(
        tcp::Config::default(),
        tls::Config::new,
        yamux::Config::default,
    );
    tcp.unwrap().with_behaviour(|_| Behaviour::new()).unwrap().build()
}

fn stock_noise() -> Swarm<Behaviour> {
    let tcp = SwarmBuilder::with_new_identity().with_tokio().with_tcp(
        tcp::Config::default(),
        noise::Config::new,
        yamux::Config::default,
    );
    tcp.unwrap().with_behaviour(|_| Behaviour::new()).unwrap().build()
}

async fn listen(swarm: &mut Swarm<Behaviour>) -> Multiaddr {
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return address;
        }
    }
}

async fn drive(mut swarm: Swarm<Behaviour>) {
    loop {
        swarm.select_next_some().await;
    }
}

/// `dialler` sends a message, then more than the windows and buffers hold, and gets all of it back.
async fn exchange(mut dialler: Swarm<Behaviour>, mut listener: Swarm<Behaviour>) {
    let (peer, mut tasks) = (*listener.local_peer_id(), JoinSet::new());
    let mut incoming = listener.behaviour().new_control().accept(ECHO).unwrap();
    let mut control = dialler.behaviour().new_control();
    let addr = listen(&mut listener).await;
    tasks.spawn(async move {
        while let Some((_, stream)) = incoming.next().await {
            let (mut reader, mut writer) = stream.split();
            futures::io::copy(&mut reader, &mut writer).await.unwrap();
            writer.close().await.unwrap();
        }
    });
    dialler.dial(addr.with_p2p(peer).unwrap()).unwrap();
    tasks.spawn(drive(dialler));
    tasks.spawn(drive(listener));
    within(async move {
        let mut stream = control.open_stream(peer, ECHO).await.unwrap();
        let mut answer = [0; 5];
        stream.write_all(b"hello").await.unwrap();
        stream.flush().await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");
        let sent: Vec<u8> = (0..3_000_001_u32).map(|at| (at % 251) as u8).collect();
        let (mut reader, mut writer) = stream.split();
        let send = async {
            writer.write_all(&sent).await.unwrap();
            writer.close().await.unwrap();
        };
        let mut back = Vec::new();
        let receive = async { reader.read_to_end(&mut back).await.unwrap() };
        futures::join!(send, receive);
        assert!(back == sent);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_us_exchange_bytes() {
    exchange(ours(), ours()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_dial_a_libp2p_that_speaks_only_tls() {
    exchange(ours(), stock_tls()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_libp2p_that_speaks_only_tls_dials_us() {
    exchange(stock_tls(), ours()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_dial_a_libp2p_that_speaks_only_noise() {
    exchange(ours(), stock_noise()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_libp2p_that_speaks_only_noise_dials_us() {
    exchange(stock_noise(), ours()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_peer_than_the_one_dialled_is_refused() {
    for mut listener in [ours(), stock_tls(), stock_noise()] {
        let (mut dialler, mut tasks) = (ours(), JoinSet::new());
        let wrong = PeerId::random();
        let right = *listener.local_peer_id();
        let addr = listen(&mut listener).await;
        tasks.spawn(drive(listener));
        dialler.dial(addr.with_p2p(wrong).unwrap()).unwrap();
        let refused = within(async {
            loop {
                match dialler.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { .. } => panic!("it is somebody else"),
                    SwarmEvent::OutgoingConnectionError { error, .. } => return error,
                    _ => {}
                }
            }
        });
        assert!(matches!(refused.await, DialError::WrongPeerId { obtained, .. } if obtained == right));
    }
}

/// What our listener says about somebody who sends `bytes` and then nothing.
async fn refusal(bytes: &[u8], handshake_timeout: Duration) -> String {
    let config = Config { handshake_timeout, ..Config::test() };
    let mut listener = super::swarm(Keypair::generate_ed25519(), Behaviour::new(), &config).unwrap();
    let addr = listen(&mut listener).await.to_string();
    let port = addr.rsplit('/').next().unwrap().parse().unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut stream = stream.compat();
    // It may hang up before it has read all of it.
    let send = async {
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        futures::future::pending::<()>().await;
    };
    let refused = async {
        loop {
            match listener.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => panic!("nobody proved anything"),
                SwarmEvent::IncomingConnectionError { error, .. } => return format!("{error:?}"),
                _ => {}
            }
        }
    };
    tokio::select! {
        () = send => unreachable!(),
        error = within(refused) => error,
    }
}

/// Agrees on the security protocol called `name`.
fn agreed(name: &str) -> Vec<u8> {
    let mut bytes = b"\x13/multistream/1.0.0\n".to_vec();
    bytes.push(u8::try_from(name.len()).unwrap() + 1);
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(b'\n');
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialler_that_says_nothing_or_half_is_cut_off_at_the_timeout() {
    let tls = agreed("/tls/1.0.0");
    // A record of which half is missing.
    let half = [&tls[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"].concat();
    // A Noise message of 32 bytes of which 3 come.
    let noise = [&agreed("/noise")[..], b"\x00\x20abc"].concat();
    for silent in [&b""[..], b"\x13/multi", &tls, &half, &noise] {
        let error = refusal(silent, Duration::from_millis(50)).await;
        assert!(error.contains("Timeout"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_instead_of_a_handshake_is_refused_at_once() {
    let tls = agreed("/tls/1.0.0");
    let garbage = [&tls[..], &[0xAB; 4096]].concat();
    // The longest length of a record, and a handshake message that claims 16 MiB.
    let long_record = [&tls[..], b"\x16\x03\x01\xff\xff", &[1; 70_000]].concat();
    let long_message = [&tls[..], b"\x16\x03\x01\x40\x00\x01\xff\xff\xff", &[3; 16_380]].concat();
    // Shorter than the key that it must carry.
    let noise = [&agreed("/noise")[..], b"\x00\x05", &[7; 5]].concat();
    for bad in [&[b'G'; 100][..], &garbage, &long_record, &long_message, &noise] {
        let error = refusal(bad, Duration::from_secs(60)).await;
        assert!(!error.contains("Timeout"), "{error}");
    }
}

type Pipe = Compat<DuplexStream>;

fn pipe() -> (Pipe, Pipe) {
    let (one, other) = tokio::io::duplex(64 << 10);
    (one.compat(), other.compat())
}

/// Both roles' outcomes of a handshake.
async fn handshake<D, L>(dialler: D, listener: L) -> (Result<D::Output, D::Error>, Result<L::Output, L::Error>)
where
    D: OutboundConnectionUpgrade<Pipe, Info = &'static str>,
    L: InboundConnectionUpgrade<Pipe, Info = &'static str>,
{
    let (one, other) = pipe();
    let dial = dialler.upgrade_outbound(one, "/tls/1.0.0");
    let listen = listener.upgrade_inbound(other, "/tls/1.0.0");
    within(async { futures::join!(dial, listen) }).await
}

fn ordered(aes_first: bool) -> Tls {
    let (certificate, key) = tls::certificate::generate(&Keypair::generate_ed25519()).unwrap();
    Tls::with(certificate, &key, aes_first).unwrap()
}

async fn suite(dialler_aes: bool, listener_aes: bool) -> CipherSuite {
    let (dialled, listened) = handshake(ordered(dialler_aes), ordered(listener_aes)).await;
    let (dialled, listened) = (dialled.unwrap().1, listened.unwrap().1);
    let suite = dialled.get_ref().get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(listened.get_ref().get_ref().1.negotiated_cipher_suite().unwrap().suite(), suite);
    suite
}

#[tokio::test]
async fn aes_is_agreed_on_only_where_both_have_it_in_hardware() {
    assert_eq!(suite(true, true).await, CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(suite(true, false).await, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    assert_eq!(suite(false, true).await, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    assert_eq!(suite(false, false).await, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
}

#[tokio::test]
async fn each_side_learns_whom_the_other_proved_to_be() {
    let (one, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    let (dialled, listened) = handshake(Tls::new(&one).unwrap(), Tls::new(&other).unwrap()).await;
    assert_eq!(dialled.unwrap().0, other.public().to_peer_id());
    assert_eq!(listened.unwrap().0, one.public().to_peer_id());
    let (dialled, listened) = handshake(Tls::new(&one).unwrap(), tls::Config::new(&other).unwrap()).await;
    assert_eq!(dialled.unwrap().0, other.public().to_peer_id());
    assert_eq!(listened.unwrap().0, one.public().to_peer_id());
    let (dialled, listened) = handshake(tls::Config::new(&one).unwrap(), Tls::new(&other).unwrap()).await;
    assert_eq!(dialled.unwrap().0, other.public().to_peer_id());
    assert_eq!(listened.unwrap().0, one.public().to_peer_id());
}

/// A certificate for a fresh device key with what `spoil` does to it, and its key. The second key is the one whose
/// proof the certificate carries.
fn certificate(
    spoil: impl FnOnce(&mut rcgen::CertificateParams, &rcgen::KeyPair),
) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.custom_extensions.push(extension(&Keypair::generate_ed25519(), &key.public_key_der()));
    spoil(&mut params, &key);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.into(), PrivatePkcs8KeyDer::from(key.serialize_der()).into())
}

/// `SignedKey ::= SEQUENCE { publicKey OCTET STRING, signature OCTET STRING }`
fn extension(device: &Keypair, signed: &[u8]) -> rcgen::CustomExtension {
    let public = device.public().encode_protobuf();
    let signature = device.sign(&[b"libp2p-tls-handshake:", signed].concat()).unwrap();
    let mut fields = vec![4, u8::try_from(public.len()).unwrap()];
    fields.extend(public);
    fields.extend([4, u8::try_from(signature.len()).unwrap()]);
    fields.extend(signature);
    let content = [&[0x30, u8::try_from(fields.len()).unwrap()], &fields[..]].concat();
    rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 53594, 1, 1], content)
}

fn unknown_extension(critical: bool) -> rcgen::CustomExtension {
    let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    extension.set_criticality(critical);
    extension
}

/// Somebody who shows `certificate`: dials us, is dialled by us, and the same with libp2p's own TLS: whether each took
/// it.
async fn taken((certificate, key): (CertificateDer<'static>, PrivateKeyDer<'static>)) -> [bool; 4] {
    let shower = Tls::with(certificate, &key, true).unwrap();
    let honest = Keypair::generate_ed25519();
    let (we, stock) = (Tls::new(&honest).unwrap(), tls::Config::new(&honest).unwrap());
    [
        handshake(shower.clone(), we.clone()).await.1.is_ok(),
        handshake(we, shower.clone()).await.0.is_ok(),
        handshake(shower.clone(), stock.clone()).await.1.is_ok(),
        handshake(stock, shower).await.0.is_ok(),
    ]
}

#[tokio::test]
async fn a_certificate_with_an_extension_that_may_be_ignored_is_taken() {
    assert_eq!(taken(certificate(|_, _| {})).await, [true; 4]);
    let ignorable = certificate(|params, _| params.custom_extensions.push(unknown_extension(false)));
    assert_eq!(taken(ignorable).await, [true; 4]);
}

#[tokio::test]
async fn an_unknown_critical_extension_is_refused() {
    let critical = certificate(|params, _| params.custom_extensions.push(unknown_extension(true)));
    assert_eq!(taken(critical).await, [false; 4]);
}

#[tokio::test]
async fn a_certificate_that_expired_or_is_not_valid_yet_is_refused() {
    let expired = certificate(|params, _| params.not_after = rcgen::date_time_ymd(1999, 1, 1));
    assert_eq!(taken(expired).await, [false; 4]);
    let early = certificate(|params, _| params.not_before = rcgen::date_time_ymd(4000, 1, 1));
    assert_eq!(taken(early).await, [false; 4]);
}

#[tokio::test]
async fn a_certificate_without_proof_or_with_that_of_another_or_with_two_is_refused() {
    let without = certificate(|params, _| params.custom_extensions.clear());
    assert_eq!(taken(without).await, [false; 4]);
    let of_another = certificate(|params, _| {
        params.custom_extensions = vec![extension(&Keypair::generate_ed25519(), b"another key")];
    });
    assert_eq!(taken(of_another).await, [false; 4]);
    let two = certificate(|params, key| {
        params.custom_extensions.push(extension(&Keypair::generate_ed25519(), &key.public_key_der()));
    });
    assert_eq!(taken(two).await, [false; 4]);
    let garbled = certificate(|params, _| {
        let oid = [1, 3, 6, 1, 4, 1, 53594, 1, 1];
        params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&oid, vec![0x30, 0x7f, 4])];
    });
    assert_eq!(taken(garbled).await, [false; 4]);
}

#[tokio::test]
async fn a_certificate_that_another_key_signed_or_that_is_cut_is_refused() {
    let (whole, key) = certificate(|_, _| {});
    let mut forged = whole.to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(taken((forged.into(), key.clone_key())).await, [false; 4]);
    let cut = whole[..whole.len() / 2].to_vec();
    assert_eq!(taken((cut.into(), key)).await, [false; 4]);
    // The certificate is somebody's, but the handshake is signed by another.
    let (of_another, _) = certificate(|_, _| {});
    let (_, mine) = certificate(|_, _| {});
    assert_eq!(taken((of_another, mine)).await, [false; 4]);
}

/// Takes a few bytes of each write, refuses every third time, and notes how many bytes each write offered.
#[derive(Default)]
struct Grudging {
    taken: Vec<u8>,
    offered: Vec<usize>,
    calls: usize,
    at_once: usize,
    flushed: bool,
}

impl AsyncWrite for Grudging {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.calls += 1;
        if self.calls.is_multiple_of(3) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.offered.push(bufs.iter().map(|buf| buf.len()).sum());
        let before = self.taken.len();
        for buf in bufs {
            let bytes = buf.len().min(before + self.at_once - self.taken.len());
            self.taken.extend_from_slice(&buf[..bytes]);
        }
        Poll::Ready(Ok(self.taken.len() - before))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushed = true;
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Grudging {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(0))
    }
}

#[tokio::test]
async fn small_writes_wait_for_a_flush_which_sends_them_all() {
    let mut corked = Corked::new(Grudging { at_once: 1 << 20, ..Grudging::default() });
    corked.write_all(b"head").await.unwrap();
    corked.write_all(b"body").await.unwrap();
    assert!(corked.get_ref().offered.is_empty());
    corked.flush().await.unwrap();
    assert_eq!(corked.get_ref().taken, b"headbody");
    assert_eq!(corked.get_ref().offered, [8]);
    assert!(corked.get_ref().flushed);
}

#[tokio::test]
async fn a_big_write_goes_out_together_with_what_waits() {
    let mut corked = Corked::new(Grudging { at_once: 1 << 20, ..Grudging::default() });
    corked.write_all(&[1; 12]).await.unwrap();
    corked.write_all(&[2; 64 << 10]).await.unwrap();
    assert_eq!(corked.get_ref().offered, [12 + (64 << 10)]);
}

#[tokio::test]
async fn bytes_keep_their_order_however_few_are_taken_at_a_time() {
    for at_once in [1, 7, 12, 13, 5000, 20_000] {
        let mut corked = Corked::new(Grudging { at_once, ..Grudging::default() });
        let mut expected = Vec::new();
        for (round, length) in [12, 30_000, 12, 100, 16_372, 1, 16_384, 16_385, 0, 12].into_iter().enumerate() {
            let piece: Vec<u8> = (0..length).map(|at| (at + round) as u8).collect();
            corked.write_all(&piece).await.unwrap();
            expected.extend(piece);
        }
        corked.close().await.unwrap();
        assert!(corked.get_ref().taken == expected, "{at_once}");
    }
}

#[tokio::test]
async fn a_stream_that_takes_nothing_more_is_an_error() {
    let mut corked = Corked::new(Grudging::default());
    corked.write_all(b"some").await.unwrap();
    assert_eq!(corked.flush().await.unwrap_err().kind(), io::ErrorKind::WriteZero);
}
