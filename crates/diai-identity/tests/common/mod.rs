//! What the tests share: known keys, a clock that stands still, and a writer of raw protobuf.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "helpers of tests, of which each uses a part")]

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use diai_core::{BoxFuture, Clock, Entropy, Instant, WallTime};
use diai_identity::{Domain, Identity};

pub const DOMAIN: Domain = Domain::new("diai/test/1");
pub const NOW: WallTime = WallTime::from_unix_ms(1_800_000_000_000);
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Fills every buffer with the next number: the first key is all ones, the second all twos.
pub struct Counting(AtomicU8);

impl Counting {
    pub fn from(first: u8) -> Self {
        Self(AtomicU8::new(first))
    }
}

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(self.0.fetch_add(1, Ordering::Relaxed));
    }
}

/// Root seed `first`, device seed `first + 1`, X25519 secret `first + 2`, 32 times each.
pub fn identity(first: u8) -> Identity {
    Identity::generate(&Counting::from(first), NOW)
}

/// A clock that stands at a time.
pub struct At(pub WallTime);

impl Clock for At {
    fn now(&self) -> Instant {
        Instant::default()
    }

    fn wall(&self) -> WallTime {
        self.0
    }

    fn sleep_until(&self, _: Instant) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A protobuf field of bytes.
pub fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag << 3 | 2][..], &varint(content.len() as u64), content].concat()
}

/// A protobuf field with a number.
pub fn number(tag: u8, value: u64) -> Vec<u8> {
    [&[tag << 3][..], &varint(value)].concat()
}

/// A certificate's body, from raw fields.
pub fn body(agent: &[u8], device: &[u8], encryption: &[u8], not_before: u64, expires: u64) -> Vec<u8> {
    let numbers = [number(4, not_before), number(5, expires), number(6, 1)].concat();
    [field(1, agent), field(2, device), field(3, encryption), numbers].concat()
}

pub fn certificate(body: &[u8], by_root: &[u8], by_device: &[u8]) -> Vec<u8> {
    [field(1, body), field(2, by_root), field(3, by_device)].concat()
}

pub fn envelope(payload: &[u8], certificate: &[u8], signature: &[u8]) -> Vec<u8> {
    [field(1, payload), field(2, certificate), field(3, signature)].concat()
}

/// What is signed.
pub fn message(domain: &str, payload: &[u8]) -> Vec<u8> {
    [&varint(domain.len() as u64)[..], domain.as_bytes(), payload].concat()
}

/// Signs as the key whose seed is 32 times `seed`.
pub fn sign(seed: u8, domain: &str, payload: &[u8]) -> [u8; 64] {
    use ed25519_dalek::Signer;
    ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).sign(&message(domain, payload)).to_bytes()
}

/// The public key whose seed is 32 times `seed`.
pub fn public(seed: u8) -> [u8; 32] {
    ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key().to_bytes()
}
