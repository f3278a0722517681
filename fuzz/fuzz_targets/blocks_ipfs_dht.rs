//! What a server of the DHT of IPFS may answer.
#![no_main]

use bytes::Bytes;
use diai_blocks::ipfs_dht::{DhtMessage, MAX_PEERS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = DhtMessage::from_bytes(Bytes::copy_from_slice(data)) {
        assert!(message.closer.len() <= MAX_PEERS && message.providers.len() <= MAX_PEERS);
        assert_eq!(DhtMessage::from_bytes(message.to_bytes().into()), Ok(message));
    }
});
