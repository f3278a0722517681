//! What passes the bounds stays within them once it is decoded, and prost agrees that it is a message.
#![no_main]

use bytes::Bytes;
use diai_core::bounded::{Bounds, Field, MAX_DEPTH, check, decode};
use libfuzzer_sys::fuzz_target;
use prost::Message;

static TREE: Bounds =
    Bounds::new("tree", &[Field::message(1, 4, &TREE), Field::bytes(2, 2, 32), Field::scalars(3, 8), Field::scalar(4)]);

#[derive(Clone, PartialEq, Message)]
struct Tree {
    #[prost(message, repeated, tag = "1")]
    children: Vec<Tree>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    texts: Vec<Bytes>,
    #[prost(uint64, repeated, tag = "3")]
    numbers: Vec<u64>,
    #[prost(uint64, tag = "4")]
    number: u64,
}

fn stays_within(tree: &Tree, depth: usize) {
    assert!(depth <= MAX_DEPTH + 1);
    assert!(tree.children.len() <= 4 && tree.texts.len() <= 2 && tree.numbers.len() <= 8);
    assert!(tree.texts.iter().all(|text| text.len() <= 32));
    tree.children.iter().for_each(|child| stays_within(child, depth + 1));
}

fuzz_target!(|data: &[u8]| {
    if let Ok(tree) = decode::<Tree>(Bytes::copy_from_slice(data), &TREE) {
        stays_within(&tree, 1);
        assert!(check(&tree.encode_to_vec(), &TREE).is_ok());
    }
});
