//! What a model is called for with: the idea as its author signed it, and by when the model is wanted.

use std::time::Duration;

use diai::{
    AgentId, Bytes,
    core::WallTime,
    identity::{Domain, Identity, Signed},
};
use serde::{Deserialize, Serialize};

use crate::roles::Outcome;

const IDEA: Domain = Domain::new("diai-story/idea/1");
const MAX_BYTES: usize = 32 << 10;

/// The subject of the call for proposals, and so of the agreement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Brief {
    idea_signed_hex: String,
    finish_within_ms: u64,
}

/// An idea whose author is proven.
#[derive(Debug)]
pub(crate) struct Idea {
    pub(crate) author: AgentId,
    pub(crate) text: String,
}

/// The idea as it is stored.
pub(crate) fn sign(author: &Identity, idea: &str) -> Bytes {
    author.sign(IDEA, idea.to_owned()).to_bytes()
}

/// Believes a signed idea or says why not.
pub(crate) fn verify(signed: Bytes, now: WallTime) -> Outcome<Idea> {
    let idea = Signed::from_bytes(signed, MAX_BYTES)?.verify(IDEA, now)?;
    Ok(Idea { author: idea.agent, text: std::str::from_utf8(&idea.payload)?.to_owned() })
}

impl Brief {
    pub(crate) fn new(idea_signed: &[u8], finish_within: Duration) -> Self {
        let finish_within_ms = u64::try_from(finish_within.as_millis()).unwrap_or(u64::MAX);
        Self { idea_signed_hex: hex(idea_signed), finish_within_ms }
    }

    pub(crate) fn to_bytes(&self) -> Outcome<Bytes> {
        Ok(serde_json::to_vec(self)?.into())
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Outcome<Self> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// By when the model is wanted, counted from the award.
    pub(crate) fn finish_within(&self) -> Duration {
        Duration::from_millis(self.finish_within_ms)
    }

    /// The idea, if its signature holds.
    pub(crate) fn idea(&self, now: WallTime) -> Outcome<Idea> {
        let digits = self.idea_signed_hex.as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes = digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>();
        verify(bytes.ok_or("the signed idea is not hexadecimal")?.into(), now)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
