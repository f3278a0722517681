//! `/tls/1.0.0` of libp2p, with the fast cipher first.
//!
//! The wire protocol, the certificate and its checks are those of libp2p-tls, whose code makes and reads the
//! certificates. Different is only what the specification leaves open: the order of the cipher suites (libp2p-tls always
//! puts ChaCha20 first), no resumption (each connection proves the keys anew, and one session cannot be told to belong
//! with another), and small writes go out with the next big one.

use std::{
    fmt, io, iter,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use futures::{
    FutureExt,
    future::BoxFuture,
    io::{AsyncRead, AsyncWrite},
};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::{
    PeerId,
    core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
    identity::Keypair,
    tls::certificate::{self, GenError, ParseError},
};
use rustls::{
    ClientConfig, CommonState, ServerConfig, SupportedCipherSuite,
    client::Resumption,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{
            self,
            cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256},
        },
    },
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use super::{corked::Corked, verifier::Verifier};

const ALPN: &[u8] = b"libp2p";

/// Why no certificate or configuration could be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error("no TLS certificate could be made for the device key")]
    Certificate(#[from] GenError),
    #[error("the TLS library refused the settings")]
    Settings(#[from] rustls::Error),
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the TLS handshake failed")]
    Failed(#[from] io::Error),
    #[error("the peer showed no certificate that proves its device key")]
    Certificate(#[from] ParseError),
    #[error("the peer showed {0} certificates instead of one")]
    Certificates(usize),
}

/// The upgrade, for both roles.
#[derive(Clone)]
pub(crate) struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// With a fresh certificate for `keypair`, and the cipher that this CPU is fast at.
    pub(crate) fn new(keypair: &Keypair) -> Result<Self, SetupError> {
        let (certificate, key) = certificate::generate(keypair)?;
        Self::with(certificate, &key, aes_in_hardware())
    }

    /// With AES first or last.
    pub(super) fn with(
        certificate: CertificateDer<'static>,
        key: &PrivateKeyDer<'_>,
        aes_first: bool,
    ) -> Result<Self, SetupError> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: cipher_suites(aes_first).to_vec(),
            ..aws_lc_rs::default_provider()
        });
        // Not `with_single_cert`, which does not read certificates with an extension that it does not know.
        let certified = CertifiedKey::new(vec![certificate], aws_lc_rs::sign::any_ecdsa_type(key)?);
        let shown = Arc::new(SingleCertAndKey::from(certified));
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier))
            .with_client_cert_resolver(shown.clone());
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(Verifier))
            .with_cert_resolver(shown);
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;
        // A dialler that puts AES first has it in hardware. A listener without it must not follow.
        server.ignore_client_order = !aes_first;
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }
}

/// All that TLS 1.3 of libp2p knows, the preferred one first.
fn cipher_suites(aes_first: bool) -> [SupportedCipherSuite; 3] {
    if aes_first {
        [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256]
    } else {
        [TLS13_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384]
    }
}

/// Whether the CPU has instructions for AES-GCM. Without them it is slow, and slower still in constant time.
fn aes_in_hardware() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// The device that `session` proved to be.
fn proven_peer(session: &CommonState) -> Result<PeerId, HandshakeError> {
    match session.peer_certificates() {
        Some([certificate]) => Ok(certificate::parse(certificate)?.peer_id()),
        others => Err(HandshakeError::Certificates(others.map_or(0, <[_]>::len))),
    }
}

impl UpgradeInfo for Tls {
    type Info = &'static str;
    type InfoIter = iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/tls/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Tls {
    type Output = (PeerId, Corked<TlsStream<C>>);
    type Error = HandshakeError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            let stream = TlsAcceptor::from(self.server).accept(socket).await?;
            Ok((proven_peer(stream.get_ref().1)?, Corked::new(stream.into())))
        }
        .boxed()
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Tls {
    type Output = (PeerId, Corked<TlsStream<C>>);
    type Error = HandshakeError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            // The specification forbids a server name; for an address, none is sent.
            let nobody = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
            let stream = TlsConnector::from(self.client).connect(nobody, socket).await?;
            Ok((proven_peer(stream.get_ref().1)?, Corked::new(stream.into())))
        }
        .boxed()
    }
}
