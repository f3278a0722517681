//! Who an agent is and what it signs: root and device keys, device certificates, one signed envelope, sealing to a
//! device, and the key file.
//!
//! An agent is its Ed25519 root key, written as did:key ([`AgentId`]). It acts through devices, each with a
//! libp2p key of its own (its [`PeerId`]) and an X25519 key. A short-lived [`Certificate`] binds a device to its agent:
//! signed by the root, which may stay offline or in a KMS (see [`Signer`]), and by the device, which so consents: nobody
//! can claim the device of another as his own, and with it what that device signed.
//!
//! # Promise
//! * What [`Signed::verify`] returns was signed by a device of that agent, for that domain, under a certificate valid at
//!   that time. Signatures are checked strictly (no small-order keys, no malleable signatures) over the very bytes that
//!   were received; nothing is encoded again to verify it.
//! * Decoding is bounded and never panics, whatever the bytes.
//! * An error of [`key_file`] leaves the key file as it was. Secret keys are wiped from memory when dropped, and never
//!   appear in `Debug` output.
//!
//! # Limits
//! | what | limit |
//! |---|---|
//! | certificate | [`Certificate::MAX_BYTES`] |
//! | life of a certificate | [`Certificate::LIFE`]; a clock may lag by [`Certificate::MAX_SKEW`] |
//! | envelope | the `max_bytes` that the reader passes; [`Signed::MAX_OVERHEAD_BYTES`] more than its payload |
//! | domain | [`Domain::MAX_BYTES`] |
//! | sealed message | [`EncryptionKey::SEAL_OVERHEAD_BYTES`] more than its plaintext |
//! | key file | [`KeyFile::MAX_BYTES`](key_file::KeyFile::MAX_BYTES); Argon2id within [`Cost::MAX`](key_file::Cost::MAX) |
//!
//! # Example
//! ```
//! use diai_core::{Clock, os::{OsClock, OsEntropy}};
//! use diai_identity::{Domain, Identity, Signed};
//!
//! const GREETING: Domain = Domain::new("example/greeting/1");
//!
//! let clock = OsClock::new();
//! let alice = Identity::generate(&OsEntropy, clock.wall());
//! let wire = alice.sign(GREETING, "hello").to_bytes();
//!
//! let verified = Signed::from_bytes(wire, 4096)?.verify(GREETING, clock.wall())?;
//! assert_eq!((verified.agent, &verified.payload[..]), (alice.agent(), &b"hello"[..]));
//!
//! let sealed = verified.certificate.encryption_key().seal(&OsEntropy, b"example/reply/1", b"for your eyes only");
//! assert_eq!(alice.open_sealed(b"example/reply/1", &sealed)?, b"for your eyes only");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Reading order
//! [`Identity`], [`Certificate`], [`Domain`] and [`Signed`], [`EncryptionKey`], [`key_file`]; `proto/identity.proto` for
//! the wire.

mod certificate;
mod codec;
mod encryption;
mod envelope;
mod identity;
mod proven;
mod signature;
mod signer;

pub mod key_file;

pub use certificate::Certificate;
pub use codec::{DecodeCertificateError, DecodeSignedError};
pub use diai_core::{AgentId, PeerId};
pub use encryption::{EncryptionKey, OpenSealedError, SharedKey, WeakKeyError};
pub use envelope::{Signed, Verified};
pub use identity::{Identity, RenewError};
pub use signature::{Domain, VerifyError};
pub use signer::{LocalSigner, Signer, SignerError};
