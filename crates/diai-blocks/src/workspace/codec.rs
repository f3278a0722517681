use std::fmt;

use bytes::Bytes;
use cid::Cid;
use diai_core::{
    AgentId, WallTime,
    bounded::{Bounds, DecodeError, Field, decode},
};
use diai_identity::{Certificate, Signed};
use prost::Message;
use sha2::{Digest, Sha256};

pub(super) mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
    include!(concat!(env!("OUT_DIR"), "/diai.workspace.v1.rs"));
}

/// What the fixed bounds allow; the configuration may allow less.
const MOST_ENTRIES: usize = 65_536;
const MOST_MEMBERS: usize = 255;
const MAX_CID_BYTES: usize = 100;
const MAX_NAME_BYTES: usize = 256;
const MOST_HEAD_BYTES: usize = 2 << 20;
pub(super) const DIGEST_BYTES: usize = 8;

const ENTRY: Bounds =
    Bounds::new("workspace entry", &[Field::bytes(1, 1, 16), Field::bytes(2, 1, MAX_CID_BYTES), Field::scalar(3)]);
const HEAD: Bounds = Bounds::new(
    "workspace head",
    &[Field::bytes(1, 1, 32), Field::scalar(2), Field::scalar(3), Field::message(4, MOST_ENTRIES, &ENTRY)],
);
const TERMS: Bounds = Bounds::new(
    "workspace terms",
    &[
        Field::bytes(1, 1, MAX_NAME_BYTES),
        Field::bytes(2, 1, 32),
        Field::bytes(3, MOST_MEMBERS, Certificate::MAX_BYTES),
    ],
);
const INVITATION: Bounds =
    Bounds::new("workspace invitation", &[Field::bytes(1, MOST_MEMBERS, 80), Field::bytes(2, 1, 512 << 10)]);
const KNOWN: Bounds =
    Bounds::new("known head", &[Field::bytes(1, 1, 32), Field::scalar(2), Field::bytes(3, 1, DIGEST_BYTES)]);
const EXCHANGE: Bounds = Bounds::new(
    "workspace exchange",
    &[
        Field::bytes(1, 1, 32),
        Field::message(2, MOST_MEMBERS, &KNOWN),
        Field::bytes(3, MOST_MEMBERS, MOST_HEAD_BYTES + Signed::MAX_OVERHEAD_BYTES),
        Field::scalar(4),
    ],
);

/// Which workspace: the hash of its terms.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspaceId(pub(super) [u8; 32]);

impl WorkspaceId {
    pub(super) fn of_terms(terms: &[u8]) -> Self {
        Self(Sha256::new().chain_update(b"diai/workspace-id/1").chain_update(terms).finalize().into())
    }

    /// Its 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes any text");
        text
    })
}

/// What a member has put into a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Which workspace.
    pub workspace: WorkspaceId,
    /// Of two heads of one member, the higher wins.
    pub seq: u64,
    /// When it was signed, by the member's clock.
    pub signed_at: WallTime,
    /// Sorted by name, each name once.
    pub entries: Vec<Entry>,
}

/// One part of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Says nothing to those without the workspace's secret.
    pub name: [u8; 16],
    /// The sealed part.
    pub root: Cid,
    /// Bytes of all its blocks.
    pub tsize: u64,
}

impl Head {
    /// The payload to be signed.
    pub fn encode(&self) -> Vec<u8> {
        let entry = |entry: &Entry| proto::Entry {
            name: Bytes::copy_from_slice(&entry.name),
            root: entry.root.to_bytes().into(),
            tsize: entry.tsize,
        };
        proto::Head {
            workspace: Bytes::copy_from_slice(&self.workspace.0),
            seq: self.seq,
            signed_at_ms: self.signed_at.as_unix_ms(),
            entries: self.entries.iter().map(entry).collect(),
        }
        .encode_to_vec()
    }

    /// Reads a payload. Entries must be sorted, each name once.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let value = |field| DecodeError::Value { message: "workspace head", field };
        let head: proto::Head = decode(bytes, &HEAD)?;
        let entry = |entry: proto::Entry| {
            Some(Entry {
                name: entry.name.as_ref().try_into().ok()?,
                root: Cid::try_from(entry.root.as_ref()).ok()?,
                tsize: entry.tsize,
            })
        };
        let entries: Option<Vec<_>> = head.entries.into_iter().map(entry).collect();
        let entries = entries.ok_or_else(|| value("entries"))?;
        if entries.array_windows().any(|[a, b]: &[Entry; 2]| a.name >= b.name) {
            return Err(value("order of entries"));
        }
        let workspace = head.workspace.as_ref().try_into().map_err(|_| value("workspace"))?;
        let signed_at = WallTime::from_unix_ms(head.signed_at_ms);
        Ok(Self { workspace: WorkspaceId(workspace), seq: head.seq, signed_at, entries })
    }
}

/// What a member needs to know of a workspace.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) name: String,
    pub(super) secret: [u8; 32],
    pub(super) members: Vec<Certificate>,
}

impl Terms {
    pub(super) fn encode(&self) -> Vec<u8> {
        proto::Terms {
            name: self.name.clone(),
            secret: Bytes::copy_from_slice(&self.secret),
            certificates: self.members.iter().map(Certificate::to_bytes).collect(),
        }
        .encode_to_vec()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let value = |field| DecodeError::Value { message: "workspace terms", field };
        let terms: proto::Terms = decode(bytes, &TERMS)?;
        let members: Result<_, _> = terms.certificates.into_iter().map(Certificate::from_bytes).collect();
        Ok(Self {
            name: terms.name,
            secret: terms.secret.as_ref().try_into().map_err(|_| value("secret"))?,
            members: members.map_err(|_| value("certificates"))?,
        })
    }

    /// The opaque name of a member's head, or of its entry at `path`.
    pub(super) fn opaque(&self, owner: AgentId, path: Option<&str>) -> [u8; 16] {
        let mut hash = Sha256::new().chain_update(b"diai/workspace-name/1").chain_update(self.secret);
        hash.update(if path.is_some() { b"e" } else { b"h" });
        hash.update(owner.as_bytes());
        hash.update(path.unwrap_or("").as_bytes());
        let digest = hash.finalize();
        digest[..16].try_into().expect("a SHA-256 has 32 bytes")
    }
}

/// Terms that only members can read.
pub(super) struct InvitationBytes {
    pub(super) sealed_keys: Vec<Bytes>,
    pub(super) ciphertext: Bytes,
}

impl InvitationBytes {
    pub(super) fn encode(self) -> Bytes {
        proto::Invitation { sealed_keys: self.sealed_keys, ciphertext: self.ciphertext }.encode_to_vec().into()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let proto::Invitation { sealed_keys, ciphertext } = decode(bytes, &INVITATION)?;
        Ok(Self { sealed_keys, ciphertext })
    }
}

/// What a member has of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Known {
    pub(super) agent: AgentId,
    pub(super) seq: u64,
    pub(super) digest: [u8; DIGEST_BYTES],
}

/// One exchange between two members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) workspace: WorkspaceId,
    pub(super) known: Vec<Known>,
    pub(super) heads: Vec<Bytes>,
    pub(super) more: bool,
}

impl Exchange {
    pub(super) fn encode(self) -> Bytes {
        let known = |known: Known| proto::Known {
            agent: Bytes::copy_from_slice(known.agent.as_bytes()),
            seq: known.seq,
            digest: Bytes::copy_from_slice(&known.digest),
        };
        proto::Exchange {
            workspace: Bytes::copy_from_slice(&self.workspace.0),
            known: self.known.into_iter().map(known).collect(),
            heads: self.heads,
            more: self.more,
        }
        .encode_to_vec()
        .into()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let value = |field| DecodeError::Value { message: "workspace exchange", field };
        let exchange: proto::Exchange = decode(bytes, &EXCHANGE)?;
        let known = |known: proto::Known| {
            Some(Known {
                agent: AgentId::try_from(known.agent.as_ref()).ok()?,
                seq: known.seq,
                digest: known.digest.as_ref().try_into().ok()?,
            })
        };
        let known: Option<Vec<_>> = exchange.known.into_iter().map(known).collect();
        Ok(Self {
            workspace: WorkspaceId(exchange.workspace.as_ref().try_into().map_err(|_| value("workspace"))?),
            known: known.ok_or_else(|| value("known"))?,
            heads: exchange.heads,
            more: exchange.more,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let root = Cid::try_from("bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq").unwrap();
        Head {
            workspace: WorkspaceId([1; 32]),
            seq: 3,
            signed_at: WallTime::from_unix_ms(1_700_000_000_000),
            entries: vec![Entry { name: [2; 16], root, tsize: 99 }, Entry { name: [3; 16], root, tsize: 1 }],
        }
    }

    #[test]
    fn a_head_has_the_bytes_of_the_format() {
        let root = "015512202cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let entry = |name: &str, tsize| format!("223a 0a10{} 1224{root} 18{tsize}", name.repeat(16));
        let entries = entry("02", "63") + &entry("03", "01");
        let golden = format!("0a20{} 1003 1880d095ffbc31 {entries}", "01".repeat(32));
        assert_eq!(hex(&head().encode()), golden.replace(' ', ""));
        assert_eq!(Head::decode(head().encode().into()).unwrap(), head());
    }

    #[test]
    fn heads_out_of_order_with_doubles_or_cut_short_are_refused() {
        let mut swapped = head();
        swapped.entries.swap(0, 1);
        assert!(Head::decode(swapped.encode().into()).is_err());
        let mut double = head();
        double.entries[1].name = [2; 16];
        assert!(Head::decode(double.encode().into()).is_err());
        let whole = Bytes::from(head().encode());
        // Fields of proto3 may be left out, so a cut between two fields is another message, and not this one.
        for end in 0..whole.len() {
            assert_ne!(Head::decode(whole.slice(..end)).ok(), Some(head()), "cut at {end}");
        }
    }

    #[test]
    fn an_exchange_comes_back_as_it_was_and_garbage_is_refused() {
        let known = Known { agent: AgentId::from_bytes([4; 32]), seq: 7, digest: [5; 8] };
        let exchange = Exchange {
            workspace: WorkspaceId([1; 32]),
            known: vec![known],
            heads: vec![Bytes::from_static(b"head")],
            more: true,
        };
        let known = format!("122e 0a20{} 1007 1a08{}", "04".repeat(32), "05".repeat(8));
        let golden = format!("0a20{} {known} 1a0468656164 2001", "01".repeat(32));
        assert_eq!(hex(&exchange.clone().encode()), golden.replace(' ', ""));
        assert_eq!(Exchange::decode(exchange.clone().encode()).unwrap(), exchange);
        assert!(Exchange::decode(Bytes::from_static(b"\x0a\x01\x01")).is_err());
        assert!(Exchange::decode(Bytes::from_static(b"\xff\xff")).is_err());
    }

    #[test]
    fn opaque_names_differ_by_secret_owner_kind_and_path() {
        let terms = |secret| Terms { name: "ring".into(), secret: [secret; 32], members: Vec::new() };
        let (one, two) = (AgentId::from_bytes([1; 32]), AgentId::from_bytes([2; 32]));
        let name = terms(9).opaque(one, Some("a"));
        assert_eq!(name, terms(9).opaque(one, Some("a")));
        for other in [
            terms(8).opaque(one, Some("a")),
            terms(9).opaque(two, Some("a")),
            terms(9).opaque(one, Some("b")),
            terms(9).opaque(one, None),
        ] {
            assert_ne!(name, other);
        }
    }
}
