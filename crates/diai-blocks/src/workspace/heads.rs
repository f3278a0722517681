//! The set of heads: what is believed, which of two wins, and the folder that follows from it. Sans-IO.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use diai_core::{AgentId, WallTime};
use diai_identity::{Certificate, Domain, Identity, Signed};
use sha2::{Digest, Sha256};

use super::{
    Entry, Head, WorkspaceId,
    codec::{DIGEST_BYTES, Known, Terms, hex},
};
use crate::{
    Block, RAW,
    config::WorkspaceConfig,
    dag_pb::Link,
    unixfs::{Folder, ImportError, Profile, build_folder},
};

const DOMAIN: Domain = Domain::new("diai/workspace-head/1");

/// A head whose signature was verified, with its exact signed bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignedHead {
    /// Whose it is.
    pub owner: AgentId,
    /// What it says.
    pub head: Head,
    /// The signed envelope.
    pub bytes: Bytes,
    digest: [u8; 32],
}

/// Why a head is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// The bytes are no signed head, or over a limit.
    #[error("the head is malformed")]
    Malformed,
    /// The signature or the certificate does not verify, or the head was signed outside the certificate's time.
    #[error("the head is forged")]
    Forged,
    /// Its owner is no member.
    #[error("{0} is no member of the workspace")]
    NotAMember(AgentId),
    /// It is for another workspace.
    #[error("the head is for another workspace")]
    OtherWorkspace,
}

impl SignedHead {
    /// Signs `head` as `identity`.
    pub fn sign(identity: &Identity, head: Head) -> Self {
        let bytes = identity.sign(DOMAIN, head.encode()).to_bytes();
        let digest = Sha256::digest(&bytes).into();
        Self { owner: identity.agent(), head, bytes, digest }
    }

    /// Verifies signed bytes. A head stays valid after its certificate expired, for it may be passed on late; but it
    /// must have been signed, by its own word, while the certificate was valid.
    pub fn verify(bytes: Bytes, config: &WorkspaceConfig) -> Result<Self, HeadError> {
        let signed = Signed::from_bytes(bytes.clone(), config.max_head_bytes).map_err(|_| HeadError::Malformed)?;
        // The encoding is canonical, or else one head could have several digests.
        if signed.to_bytes() != bytes {
            return Err(HeadError::Malformed);
        }
        let verified = signed.verify_ever(DOMAIN).map_err(|_| HeadError::Forged)?;
        let head = Head::decode(verified.payload).map_err(|_| HeadError::Malformed)?;
        if head.entries.len() > config.max_entries {
            return Err(HeadError::Malformed);
        }
        let certificate = verified.certificate;
        let skew = Certificate::MAX_SKEW;
        if head.signed_at + skew < certificate.not_before() || certificate.expires() + skew < head.signed_at {
            return Err(HeadError::Forged);
        }
        let digest = Sha256::digest(&bytes).into();
        Ok(Self { owner: verified.agent, head, bytes, digest })
    }

    /// The raw block of the signed bytes.
    pub fn block(&self) -> Result<Block, ImportError> {
        Ok(Block::new(RAW, self.bytes.clone())?)
    }

    fn known(&self) -> Known {
        let digest: [u8; DIGEST_BYTES] = self.digest[..DIGEST_BYTES].try_into().expect("a SHA-256 has 32 bytes");
        Known { agent: self.owner, seq: self.head.seq, digest }
    }
}

/// What became of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// It replaces what was known.
    Newer,
    /// It was known, or something newer.
    Known,
    /// Its owner signed two heads with one number and different content. `replaced` tells whether this one stays.
    Equivocation {
        /// Whether it replaced the other.
        replaced: bool,
    },
}

/// The newest head of each member.
#[derive(Debug, Clone)]
pub struct HeadSet {
    workspace: WorkspaceId,
    members: BTreeSet<AgentId>,
    heads: BTreeMap<AgentId, SignedHead>,
}

impl HeadSet {
    /// No heads yet.
    pub fn new(workspace: WorkspaceId, members: impl IntoIterator<Item = AgentId>) -> Self {
        Self { workspace, members: members.into_iter().collect(), heads: BTreeMap::new() }
    }

    /// The members, those without a head included.
    pub fn members(&self) -> &BTreeSet<AgentId> {
        &self.members
    }

    /// The head of `owner`.
    pub fn get(&self, owner: AgentId) -> Option<&SignedHead> {
        self.heads.get(&owner)
    }

    /// Every head, by owner.
    pub fn iter(&self) -> impl Iterator<Item = &SignedHead> {
        self.heads.values()
    }

    /// Whether `head` could be merged, and what would come of it. The order in which heads come makes no difference to
    /// which stays: the higher number wins, of equal numbers the greater SHA-256 of the signed bytes.
    pub fn judge(&self, head: &SignedHead) -> Result<Merged, HeadError> {
        if head.head.workspace != self.workspace {
            return Err(HeadError::OtherWorkspace);
        }
        if !self.members.contains(&head.owner) {
            return Err(HeadError::NotAMember(head.owner));
        }
        let Some(old) = self.heads.get(&head.owner) else { return Ok(Merged::Newer) };
        let newer = (head.head.seq, head.digest) > (old.head.seq, old.digest);
        Ok(match (newer, head.head.seq == old.head.seq && head.head != old.head) {
            (replaced, true) => Merged::Equivocation { replaced },
            (true, false) => Merged::Newer,
            (false, false) => Merged::Known,
        })
    }

    /// Takes `head` in if it wins.
    pub fn merge(&mut self, head: SignedHead) -> Result<Merged, HeadError> {
        let merged = self.judge(&head)?;
        if matches!(merged, Merged::Newer | Merged::Equivocation { replaced: true }) {
            self.heads.insert(head.owner, head);
        }
        Ok(merged)
    }

    pub(super) fn known(&self) -> Vec<Known> {
        self.heads.values().map(SignedHead::known).collect()
    }

    /// The heads that somebody lacks who has `known`, those of `first` before others.
    pub(super) fn lacking(&self, known: &[Known], first: AgentId) -> Vec<&SignedHead> {
        let lacks = |head: &&SignedHead| {
            let theirs = known.iter().find(|known| known.agent == head.owner);
            theirs.is_none_or(|theirs| (theirs.seq, theirs.digest) < (head.head.seq, head.known().digest))
        };
        let mut heads: Vec<_> = self.heads.values().filter(lacks).collect();
        heads.sort_by_key(|head| head.owner != first);
        heads
    }

    /// The workspace's folder, with the blocks of the heads before those of the folder itself.
    pub(super) fn folder(&self, terms: &Terms) -> Result<Folder, ImportError> {
        let mut links = Vec::new();
        let mut blocks = Vec::new();
        for head in self.heads.values() {
            let block = head.block()?;
            let name = format!("h-{}", hex(&terms.opaque(head.owner, None)));
            links.push(Link { cid: block.cid, name, tsize: block.data.len() as u64 });
            blocks.push(block);
            let link = |entry: &Entry| Link { cid: entry.root, name: hex(&entry.name), tsize: entry.tsize };
            links.extend(head.head.entries.iter().map(link));
        }
        // A member could name an entry like another's; the folder must stay a function of the set all the same.
        links.sort_by(|a, b| (&a.name, a.cid).cmp(&(&b.name, b.cid)));
        links.dedup_by(|a, b| a.name == b.name);
        let folder = build_folder(links, &Profile::UNIXFS_V1_2025)?;
        blocks.extend(folder.blocks);
        Ok(Folder { blocks, ..folder })
    }

    /// The head that follows the one of `owner` when `entries` are set and `removed` are gone.
    pub(super) fn next(&self, owner: AgentId, signed_at: WallTime, entries: Vec<Entry>, removed: &[[u8; 16]]) -> Head {
        let old = self.heads.get(&owner).map(|head| &head.head);
        let mut all: BTreeMap<_, _> =
            old.iter().flat_map(|head| &head.entries).map(|entry| (entry.name, *entry)).collect();
        for name in removed {
            all.remove(name);
        }
        all.extend(entries.into_iter().map(|entry| (entry.name, entry)));
        let seq = old.map_or(0, |head| head.seq) + 1;
        Head { workspace: self.workspace, seq, signed_at, entries: all.into_values().collect() }
    }
}

#[cfg(test)]
mod tests {
    use diai_core::os::OsEntropy;

    use super::*;

    const NOW: WallTime = WallTime::from_unix_ms(1_800_000_000_000);
    const ID: WorkspaceId = WorkspaceId([1; 32]);

    fn member() -> Identity {
        Identity::generate(&OsEntropy, NOW)
    }

    fn head(seq: u64, entries: u8) -> Head {
        let root = Block::new(RAW, &b"part"[..]).unwrap().cid;
        let entry = |name| Entry { name: [name; 16], root, tsize: 1 };
        Head { workspace: ID, seq, signed_at: NOW, entries: (0..entries).map(entry).collect() }
    }

    fn verify(bytes: Bytes) -> Result<SignedHead, HeadError> {
        SignedHead::verify(bytes, &WorkspaceConfig::default())
    }

    #[test]
    fn which_head_stays_does_not_depend_on_the_order_in_which_they_come() {
        let (one, two) = (member(), member());
        let heads = [
            SignedHead::sign(&one, head(1, 1)),
            SignedHead::sign(&one, head(2, 2)),
            SignedHead::sign(&one, head(2, 3)),
            SignedHead::sign(&two, head(1, 1)),
        ];
        let terms = Terms { name: String::new(), secret: [7; 32], members: Vec::new() };
        let mut roots = BTreeSet::new();
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]] {
            let mut set = HeadSet::new(ID, [one.agent(), two.agent()]);
            let merged: Vec<_> = order.iter().map(|index| set.merge(heads[*index].clone()).unwrap()).collect();
            assert!(merged.iter().any(|merged| matches!(merged, Merged::Equivocation { .. })));
            roots.insert(set.folder(&terms).unwrap().root);
            assert_eq!(set.merge(heads[0].clone()).unwrap(), Merged::Known);
        }
        assert_eq!(roots.len(), 1);
    }

    #[test]
    fn heads_of_strangers_of_other_workspaces_and_with_changed_bytes_are_refused() {
        let (one, stranger) = (member(), member());
        let mut set = HeadSet::new(ID, [one.agent()]);
        let by_stranger = SignedHead::sign(&stranger, head(1, 1));
        assert_eq!(set.merge(by_stranger), Err(HeadError::NotAMember(stranger.agent())));
        let other = SignedHead::sign(&one, Head { workspace: WorkspaceId([2; 32]), ..head(1, 1) });
        assert_eq!(set.merge(other), Err(HeadError::OtherWorkspace));
        let good = SignedHead::sign(&one, head(1, 1)).bytes;
        assert!(verify(good.clone()).is_ok());
        for at in 0..good.len() {
            let mut changed = good.to_vec();
            changed[at] ^= 1;
            assert!(verify(changed.into()).is_err(), "byte {at}");
        }
        for end in 0..good.len() {
            assert!(verify(good.slice(..end)).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_head_signed_outside_the_certificate_s_time_and_one_over_the_limits_are_refused() {
        let one = member();
        let late = NOW + Certificate::LIFE + Certificate::LIFE;
        let signed = SignedHead::sign(&one, Head { signed_at: late, ..head(1, 1) });
        assert_eq!(verify(signed.bytes), Err(HeadError::Forged));
        let config = WorkspaceConfig { max_entries: 2, ..WorkspaceConfig::default() };
        let many = SignedHead::sign(&one, head(1, 3)).bytes;
        assert_eq!(SignedHead::verify(many.clone(), &config), Err(HeadError::Malformed));
        let config = WorkspaceConfig { max_head_bytes: 100, ..WorkspaceConfig::default() };
        assert_eq!(SignedHead::verify(many, &config), Err(HeadError::Malformed));
    }

    #[test]
    fn what_somebody_lacks_is_what_is_newer_here() {
        let (one, two) = (member(), member());
        let mut set = HeadSet::new(ID, [one.agent(), two.agent()]);
        set.merge(SignedHead::sign(&one, head(1, 1))).unwrap();
        let known = set.known();
        set.merge(SignedHead::sign(&one, head(2, 1))).unwrap();
        set.merge(SignedHead::sign(&two, head(1, 1))).unwrap();
        let lacking: Vec<_> = set.lacking(&known, two.agent()).iter().map(|head| head.owner).collect();
        assert_eq!(lacking, [two.agent(), one.agent()]);
        assert!(set.lacking(&set.known(), two.agent()).is_empty());
    }
}
