//! Find agents by what they can do, without a server: signed records, spread over a DHT, checked by whoever reads them.
//!
//! # Promise
//! * An agent that registers `modeling/3d/cad` is found under it, under `modeling/3d` and under `modeling`, and by its
//!   [`AgentId`](diai_core::AgentId); one that joins late finds all that were there before.
//! * Whatever the DHT or a peer says, what comes out of [`Discovery::find`] is the record of a device of that agent,
//!   signed by it, holding now, and offering what was asked for. Forged records, expired ones and providers without a
//!   matching record are left out; who gave a forged record as its own is reported to the network.
//! * What was found once is answered from the local index at once, also after a restart. Connected devices tell each other
//!   each new record, so a withdrawn capability is gone at once between them; others ask again after
//!   [`Config::max_age`].
//!
//! # How
//! A device holds one [`AgentRecord`] in the DHT, under its PeerId, and is a provider of the hash of its agent, of each
//! capability and of each ancestor of one. A lookup asks for the providers of one hash, then for the record of each: its
//! own device if that is connected, else the DHT, else the device by dialling it.
//!
//! # Limits
//! | what | limit |
//! |---|---|
//! | signed record | [`MAX_RECORD_BYTES`], held [`MAX_LIFETIME`] at most |
//! | capability path | [`CapabilityPath::MAX_BYTES`], [`CapabilityPath::MAX_SEGMENTS`] |
//! | capabilities, attributes, addresses of a record | [`MAX_CAPABILITIES`], [`MAX_ATTRIBUTES`], [`MAX_ADDRS`] |
//! | capabilities and attributes together | [`MAX_DESCRIPTION_BYTES`] |
//! | difference of clocks | [`CLOCK_TOLERANCE`] |
//! | all else | [`Config`] |
//!
//! # Example
//! ```
//! use diai_core::{memory::{AgentSpec, Sim}, os::OsEntropy};
//! use diai_discovery::{Config, Discovery, FindOptions, Registration};
//! use diai_identity::Identity;
//!
//! let sim = Sim::new(1);
//! let join = || {
//!     let identity = Identity::generate(&OsEntropy, sim.wall());
//!     let certificate = identity.certificate().to_bytes();
//!     (sim.join(AgentSpec { agent: identity.agent(), peer: identity.peer(), certificate }), identity)
//! };
//! let ((alice, alice_identity), (bob, bob_identity)) = (join(), join());
//! let agent = alice_identity.agent();
//! let found = sim.run(async move {
//!     let alice = Discovery::start(&alice, alice_identity, Config::default()).await?;
//!     let bob = Discovery::start(&bob, bob_identity, Config::default()).await?;
//!     alice.register(Registration::of(["modeling/3d/cad".parse()?]).with("region", "eu")).await?;
//!     Ok::<_, Box<dyn std::error::Error>>(bob.find_all(&"modeling".parse()?, FindOptions::default()).await)
//! })?;
//! assert_eq!(found[0].agent(), agent);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Reading order
//! [`Discovery`], [`Registration`], [`FindOptions`], [`Found`]; then [`CapabilityPath`], [`AgentRecord`],
//! [`SignedRecord`]; `proto/discovery.proto` for the wire and [`RECORD_PROTOCOL`] for who says what.

mod attribute;
mod capability;
mod codec;
mod config;
mod error;
mod event;
mod exchange;
mod find;
mod handle;
mod index;
mod machine;
mod message;
mod record;
mod shared;
mod shell;
mod store;

pub use attribute::{
    AttributeValue, Attributes, Decimal, MAX_ATTRIBUTE_NAME_BYTES, MAX_ATTRIBUTE_TEXT_BYTES, MAX_ATTRIBUTES,
};
pub use capability::{CapabilityPath, ParseCapabilityError};
pub use config::{Config, FindOptions};
pub use error::{FindAgentError, NotPlaced, RecordError, RegisterError, StartError};
pub use event::{DiscoveryEvent, Stats};
pub use find::Found;
pub use handle::{Discovery, Registration};
pub use message::{
    AgentRecord, CLOCK_TOLERANCE, MAX_ADDR_BYTES, MAX_ADDRS, MAX_CAPABILITIES, MAX_DESCRIPTION_BYTES, MAX_LIFETIME,
    MAX_RECORD_BYTES, RECORD_NAMESPACE, RECORD_PROTOCOL, agent_key, capability_key, record_key,
};
pub use record::{AgentRecordValidator, SignedRecord};
