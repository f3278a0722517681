//! The bytes on the wire, which must never change for version 1.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Seeded, path};
use diai_core::{AgentId, WallTime};
use diai_discovery::{AgentRecord, Attributes, Decimal, SignedRecord, agent_key, capability_key, record_key};
use diai_identity::Identity;

const NOW: WallTime = WallTime::from_unix_ms(1_800_000_000_000);

fn record(identity: &Identity) -> AgentRecord {
    AgentRecord {
        agent: identity.agent(),
        peer: identity.peer(),
        seq: 300,
        not_before: NOW,
        expires: NOW + Duration::from_secs(3600),
        addrs: vec!["/ip4/10.0.0.1/udp/4001/quic-v1".parse().unwrap()],
        capabilities: vec![path("market/data"), path("modeling/3d")],
        attributes: Attributes::from([
            ("flag".to_owned(), true.into()),
            ("price".to_owned(), Decimal::new(-1250, 3).unwrap().into()),
            ("region".to_owned(), "eu".into()),
            ("slots".to_owned(), (-4).into()),
        ]),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Bytes {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[test]
fn a_record_is_written_as_ever() {
    let record = record(&Identity::generate(&Seeded::new(1), NOW));
    assert_eq!(hex(&record.to_bytes()), RECORD);
    assert_eq!(AgentRecord::from_bytes(bytes(RECORD)), Ok(record));
}

#[test]
fn a_signed_record_of_old_still_verifies() {
    let signed = SignedRecord::verify(bytes(SIGNED), NOW).unwrap();
    assert_eq!(*signed.record(), record(&Identity::generate(&Seeded::new(1), NOW)));
}

#[test]
fn the_keys_of_the_dht_are_as_ever() {
    let key = capability_key(&path("modeling/3d"));
    assert!(key.as_bytes().starts_with(b"/diai-capability/"));
    assert_eq!(hex(key.name()), CAPABILITY_KEY);
    let key = agent_key(AgentId::from_bytes([1; 32]));
    assert!(key.as_bytes().starts_with(b"/diai-device/"));
    assert_eq!(hex(key.name()), AGENT_KEY);
    let peer = Identity::generate(&Seeded::new(1), NOW).peer();
    assert_eq!(record_key(peer).as_bytes(), [b"/diai-agent/".as_slice(), &peer.to_bytes()].concat());
}

const RECORD: &str = "\
    0a20d3f7a9301c1db3fb1a74f935d95bb60e725a3c354eab639bcb0829c7cb5da6a71226002408011220def01cae322f05ec\
    bca1a886e02b089612c2505f10bc21b022dde5e68342fcac18ac022080a0f1c2b1342880fdccc4b134320b040a0000019102\
    0fa1cd033a0b6d61726b65742f646174613a0b6d6f64656c696e672f336442080a04666c61672801420e0a05707269636522\
    0508f9011002420c0a06726567696f6e1202657542090a05736c6f74731807";
const SIGNED: &str = "\
    0ab5010a20d3f7a9301c1db3fb1a74f935d95bb60e725a3c354eab639bcb0829c7cb5da6a71226002408011220def01cae32\
    2f05ecbca1a886e02b089612c2505f10bc21b022dde5e68342fcac18ac022080a0f1c2b1342880fdccc4b134320b040a0000\
    0191020fa1cd033a0b6d61726b65742f646174613a0b6d6f64656c696e672f336442080a04666c61672801420e0a05707269\
    6365220508f9011002420c0a06726567696f6e1202657542090a05736c6f747318071281020a7b0a20d3f7a9301c1db3fb1a\
    74f935d95bb60e725a3c354eab639bcb0829c7cb5da6a71220def01cae322f05ecbca1a886e02b089612c2505f10bc21b022\
    dde5e68342fcac1a20eda83384838822f1897f4152f90a59753a28009ba502b5ffbef8a82f73959b612080a0f1c2b1342880\
    b0ec96bb343080a0f1c2b13412403fa0f8fe7129660d647f5009ae4c6f39ccf849437d14bb2280a9e7c2f5cb2c86d8fff106\
    0a6830228b2e3623ac96b092b407b05489e4575b21c0782fa0d292021a40dd205e8fe3433cafe1af229987db661ac22c0a16\
    b2a85ae7196dc13358cceaa0be2be2b92f9ee93ba40639742fb328c473fe3b20e18f4b23da164f02cde42f0a1a40b0b35b44\
    da9e452332e017783f6100187ac4da1ddcc6c88fecd28b9810b5695f7c7c091a01877d7303e76f690bc4cb25021ee36fbd03\
    44161887ff32c1a6950f";
const CAPABILITY_KEY: &str = "9791febc0db1ec89f5afc7304d04e74a791580af62383862d5debb1cb7f8f9f6";
const AGENT_KEY: &str = "e644ffad413b3bc50ddf1a7739319ccb6a97ab68e95adcebda5f53a5b7fcadab";
