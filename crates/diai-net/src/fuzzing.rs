//! A door for the fuzz targets to what is private.

use bytes::Bytes;
use diai_identity::Certificate;

use crate::hello::{Hello, MAX_ADDRS};

/// Decodes a hello; what was decoded is bounded, and comes back equal when it is encoded again.
pub fn hello(bytes: Bytes) {
    if let Ok(hello) = Hello::decode(bytes) {
        assert!(hello.addrs.len() <= MAX_ADDRS);
        assert_eq!(Hello::decode(hello.encode().into()), Ok(hello));
    }
}

/// A hello that is well-formed.
pub fn hello_seed(certificate: Certificate) -> Vec<u8> {
    let addrs = ["/ip4/127.0.0.1/tcp/8080", "/ip6/::1/udp/4001/quic-v1"];
    let addrs = addrs.iter().filter_map(|addr| addr.parse().ok()).collect();
    Hello { certificate, addrs, dht_server: true }.encode()
}
