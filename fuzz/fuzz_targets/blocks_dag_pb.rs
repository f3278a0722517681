#![no_main]

use diai_blocks::dag_pb::Node;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(node) = Node::decode(data) {
        let again = node.encode();
        assert_eq!(again.len(), node.encoded_bytes());
        assert_eq!(Node::decode(&again), Ok(node));
    }
});
