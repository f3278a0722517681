use diai_core::{AcceptError, AgentId, bounded::DecodeError};

use crate::{
    attribute::{MAX_ATTRIBUTE_NAME_BYTES, MAX_ATTRIBUTE_TEXT_BYTES, MAX_ATTRIBUTES},
    message::{MAX_CAPABILITIES, MAX_DESCRIPTION_BYTES, MAX_LIFETIME, MAX_RECORD_BYTES},
};

/// Why discovery could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Somebody else answers `/diai/record/1` over this World.
    #[error("discovery cannot answer other devices: {0}")]
    Accept(#[from] AcceptError),
    /// The index on disk cannot be read.
    #[error(
        "cannot open the index of agents at {path}: {reason}; it holds nothing that cannot be found again, so it may be removed"
    )]
    Store {
        /// Its path in the data folder.
        path: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The configuration contradicts itself.
    #[error("{field} of the discovery configuration {problem}")]
    Config {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Why a registration did not, or not wholly, succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Too many capabilities.
    #[error("{count} capabilities; at most {MAX_CAPABILITIES} can be registered")]
    TooManyCapabilities {
        /// How many.
        count: usize,
    },
    /// Too many attributes.
    #[error("{count} attributes; at most {MAX_ATTRIBUTES} can be registered")]
    TooManyAttributes {
        /// How many.
        count: usize,
    },
    /// The name of an attribute is not allowed.
    #[error("{name:?} cannot name an attribute: use 1 to {MAX_ATTRIBUTE_NAME_BYTES} of a-z, 0-9, '-', '_' and '.'")]
    AttributeName {
        /// The name.
        name: String,
    },
    /// The text of an attribute is too long.
    #[error("attribute {name} has a text of {bytes} bytes; at most {MAX_ATTRIBUTE_TEXT_BYTES} are allowed")]
    AttributeText {
        /// The attribute.
        name: String,
        /// How long its text is.
        bytes: usize,
    },
    /// Capabilities and attributes together are too long.
    #[error("capabilities and attributes take {bytes} bytes; a record has room for {MAX_DESCRIPTION_BYTES}")]
    TooLarge {
        /// How much they take.
        bytes: usize,
    },
    /// Some of it could not be placed in the DHT. It is tried again in the background until it can, and connected
    /// devices know it already.
    #[error("not placed in the DHT yet (it is tried again): {}", summary(failed))]
    NotPlaced {
        /// What, and why not.
        failed: Vec<NotPlaced>,
    },
    /// Discovery was closed.
    #[error("discovery is closed")]
    Closed,
}

/// Something that could not be placed in the DHT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotPlaced {
    /// What: "the record", "the agent" or a capability path.
    pub what: String,
    /// Why not.
    pub reason: String,
}

fn summary(failed: &[NotPlaced]) -> String {
    failed.iter().map(|item| format!("{}: {}", item.what, item.reason)).collect::<Vec<_>>().join("; ")
}

/// Why an agent was not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FindAgentError {
    /// Neither the local index nor the DHT knows a device of the agent.
    #[error(
        "found no device of {agent} ({candidates} candidates looked at); is it running, and are both of you connected to the same network?"
    )]
    NotFound {
        /// Who was looked for.
        agent: AgentId,
        /// How many devices claimed to be its.
        candidates: usize,
    },
    /// The lookup was not over when the time was.
    #[error("found no device of {agent} in time ({candidates} candidates looked at); try again with more time")]
    Deadline {
        /// Who was looked for.
        agent: AgentId,
        /// How many devices claimed to be its.
        candidates: usize,
    },
}

/// Why bytes are no record that holds now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The record is too long.
    #[error("a record of {bytes} bytes; at most {MAX_RECORD_BYTES} are allowed")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// The envelope is no envelope.
    #[error("the envelope of the record is malformed: {reason}")]
    Envelope {
        /// What is wrong.
        reason: String,
    },
    /// What was signed is no record.
    #[error("the record is malformed: {0}")]
    Malformed(#[from] DecodeError),
    /// The signature or the certificate does not verify.
    #[error("the record is forged: {reason}")]
    Forged {
        /// What is wrong.
        reason: String,
    },
    /// The record speaks of another device or agent than its signer, or than the one asked for.
    #[error("the record is signed by another {what} than it speaks of")]
    WrongSigner {
        /// "agent" or "device".
        what: &'static str,
    },
    /// The record claims to hold for too long.
    #[error("the record claims to hold longer than {} h", MAX_LIFETIME.as_secs() / 3600)]
    TooLongLived,
    /// The record, or its certificate, has expired.
    #[error("the record has expired")]
    Expired,
    /// The record, or its certificate, does not hold yet.
    #[error("the record does not hold yet; do the clocks differ by more than an hour?")]
    NotYetValid,
}
