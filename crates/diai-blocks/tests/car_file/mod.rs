//! CAR files put together by hand.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "a test may fail")]

use std::sync::Arc;

use bytes::Bytes;
use diai_blocks::{
    Block, BlockStore, Cid, MemoryStore, RAW,
    car::{self, ImportFailed, ImportOptions, Imported},
};
use diai_core::{Offload, os::ThreadPool};
use futures::executor::block_on;

pub const KUBO: &[u8] = include_bytes!("../fixtures/kubo.car");
pub const KUBO_ROOT: &str = "bafyreigjzct6ik22lkdyzosb7o6cyz3lvrsmqykcvcbatmyige7moqtxeq";
/// One more section holds an identity CID, which needs no block.
pub const KUBO_BLOCKS: u64 = 56;

pub fn pool() -> Arc<dyn Offload> {
    Arc::new(ThreadPool::new(2))
}

pub fn store() -> BlockStore {
    BlockStore::new(Arc::new(MemoryStore::new(256 << 20)), pool())
}

pub fn import(blocks: &BlockStore, file: &[u8]) -> Result<Imported, ImportFailed> {
    block_on(car::import(blocks, file, &ImportOptions::default()))
}

pub fn raw(content: impl Into<Bytes>) -> Block {
    Block::new(RAW, content.into()).unwrap()
}

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

pub fn framed(content: &[u8]) -> Vec<u8> {
    [&varint(content.len() as u64)[..], content].concat()
}

pub fn section(cid: &Cid, data: &[u8]) -> Vec<u8> {
    framed(&[&cid.to_bytes()[..], data].concat())
}

/// A header without roots.
pub fn header() -> Vec<u8> {
    framed(b"\xa2\x65roots\x80\x67version\x01")
}

pub fn file(sections: &[Vec<u8>]) -> Vec<u8> {
    [header(), sections.concat()].concat()
}
