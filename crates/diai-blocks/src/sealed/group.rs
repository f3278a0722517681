//! Groups: keys that members hold together, so that content is granted once to all of them.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use cid::Cid;
use diai_core::{
    AgentId, Entropy, World,
    bounded::{Bounds, Field, decode},
};
use diai_identity::{Certificate, Domain, Identity, SharedKey, Signed};
use prost::Message;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    Keys, MAX_EPOCHS, OpenError, SealError, SealOptions, Sealed, Source, grants::Reader, manifest::proto, open, seal,
};
use crate::{BlockSource, BlockStore};

const DOMAIN: Domain = Domain::new("diai/sealed-group/2");
const MAX_SIGNED_BYTES: usize = 16 << 10;
const GROUP: Bounds =
    Bounds::new("group", &[Field::bytes(1, 1, 32), Field::scalar(2), Field::bytes(3, MAX_EPOCHS, 32)]);

/// Which group: a hash of its owner and a random number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId([u8; 32]);

impl GroupId {
    fn new(owner: AgentId, nonce: &[u8; 32]) -> Self {
        let id =
            Sha256::new().chain_update(b"diai/sealed-group-id/2").chain_update(owner.as_bytes()).chain_update(nonce);
        Self(id.finalize().into())
    }

    /// Its 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupId(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// A group as its members know it: one key for each epoch. Only its owner begins epochs and hands the keys out; any member
/// seals for it, and opens what is sealed for an epoch whose key it has.
///
/// It travels as sealed content, granted to each member ([`seal_for`](Self::seal_for), [`open`](Self::open)).
#[derive(Clone)]
pub struct Group {
    owner: AgentId,
    nonce: [u8; 32],
    /// By epoch, never empty.
    keys: BTreeMap<u64, SharedKey>,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("id", &self.id())
            .field("owner", &self.owner)
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}

impl Group {
    /// A new group of `owner`, in its first epoch.
    pub fn create(owner: AgentId, entropy: &dyn Entropy) -> Self {
        Self { owner, nonce: entropy.bytes(), keys: BTreeMap::from([(0, SharedKey::generate(entropy))]) }
    }

    /// Which group.
    pub fn id(&self) -> GroupId {
        GroupId::new(self.owner, &self.nonce)
    }

    /// Who says who is a member.
    pub fn owner(&self) -> AgentId {
        self.owner
    }

    /// Counted from zero. Of two states of a group the one with the greater number is the newer.
    pub fn epoch(&self) -> u64 {
        self.last().0
    }

    /// Begins an epoch: to be done when a member has left, before what is left is sealed for the others. Keys of the last
    /// [`MAX_EPOCHS`] epochs are kept.
    pub fn advance(&mut self, entropy: &dyn Entropy) {
        self.keys.insert(self.epoch().saturating_add(1), SharedKey::generate(entropy));
        self.keep_few();
    }

    /// This state with the keys of `other`, another of the same group: that of each epoch which either has, as an owner may
    /// have left out old ones. Where both have one, that of `self` counts.
    #[must_use]
    pub(crate) fn merged(mut self, other: &Self) -> Self {
        if self.id() == other.id() {
            for (epoch, key) in &other.keys {
                self.keys.entry(*epoch).or_insert_with(|| key.clone());
            }
            self.keep_few();
        }
        self
    }

    fn keep_few(&mut self) {
        while self.keys.len() > MAX_EPOCHS {
            self.keys.pop_first();
        }
    }

    /// Forgets the keys of all epochs but the current one: what new members are not to read.
    #[must_use]
    pub fn without_past(&self) -> Self {
        Self { keys: BTreeMap::from([(self.epoch(), self.current().clone())]), ..self.clone() }
    }

    /// Seals the group for `members`, who can [`open`](Self::open) it by the root. `identity` must be the owner's, as it
    /// signs. Readable when it returns; keep it pinned.
    ///
    /// Cancel-safety: as [`seal`](seal()).
    pub async fn seal_for(
        &self,
        world: &World,
        store: &BlockStore,
        identity: &Identity,
        members: &[Certificate],
    ) -> Result<Sealed, SealError> {
        if identity.agent() != self.owner {
            return Err(SealError::NotOwner { owner: self.owner });
        }
        let file = Source::Files(vec![(String::new(), identity.sign(DOMAIN, self.encode()).to_bytes())]);
        seal(world, store, identity, file, &SealOptions::readers(members.to_vec())).await
    }

    /// The group that was sealed as `root`, for whoever is a member. That its owner made it is checked; whether there is a
    /// newer one is not. Cancel-safe.
    pub async fn open(source: &dyn BlockSource, identity: &Identity, root: Cid) -> Result<Self, OpenError> {
        let reader = open(source, Keys::from(identity), root).await?;
        let not_a_group = OpenError::NotAGroup { root };
        let mut files = reader.read_all(MAX_SIGNED_BYTES as u64).await?;
        let Some((_, signed)) = files.pop().filter(|_| files.is_empty()) else { return Err(not_a_group) };
        Self::from_signed(signed).ok_or(not_a_group)
    }

    /// Decodes what its owner signed. `None` if that is no group.
    pub fn from_signed(bytes: Bytes) -> Option<Self> {
        let verified = Signed::from_bytes(bytes, MAX_SIGNED_BYTES).ok()?.verify_ever(DOMAIN).ok()?;
        Self::decode(verified.agent, verified.payload)
    }

    /// Decodes the payload that `owner` signed.
    pub fn decode(owner: AgentId, payload: Bytes) -> Option<Self> {
        let group: proto::Group = decode(payload, &GROUP).ok()?;
        let key = |key: &Bytes| Some(SharedKey::from_bytes(Zeroizing::new(key.as_ref().try_into().ok()?)));
        let keys: Vec<_> = group.keys.iter().map(key).collect::<Option<_>>()?;
        let first = group.epoch.checked_sub((keys.len() as u64).checked_sub(1)?)?;
        let nonce = group.nonce.as_ref().try_into().ok()?;
        Some(Self { owner, nonce, keys: (first..=group.epoch).zip(keys).collect() })
    }

    fn encode(&self) -> Vec<u8> {
        // Those up to the last without a gap, as none is numbered.
        let numbered = self.keys.iter().rev().zip((0..=self.epoch()).rev());
        let last = numbered.take_while(|((epoch, _), expected)| *epoch == expected);
        let mut keys: Vec<_> = last.map(|((_, key), _)| Bytes::copy_from_slice(key.as_bytes())).collect();
        keys.reverse();
        proto::Group { nonce: Bytes::copy_from_slice(&self.nonce), epoch: self.epoch(), keys }.encode_to_vec()
    }

    pub(super) fn current(&self) -> &SharedKey {
        self.last().1
    }

    fn last(&self) -> (u64, &SharedKey) {
        let (epoch, key) = self.keys.last_key_value().expect("it has a key from the beginning and keeps the last");
        (*epoch, key)
    }

    /// Newest first.
    pub(super) fn keys(&self) -> impl Iterator<Item = &SharedKey> {
        self.keys.values().rev()
    }

    pub(super) fn reader(&self) -> Reader {
        let shared = self.current();
        Reader { id: self.id().0, key: shared.encryption_key(), shared: Some(shared.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use diai_core::memory::{AgentSpec, Sim};

    use super::*;

    fn secrets(group: &Group) -> Vec<(u64, [u8; 32])> {
        group.keys.iter().map(|(epoch, key)| (*epoch, *key.as_bytes())).collect()
    }

    #[test]
    fn two_states_of_a_group_have_the_keys_of_both_and_the_epoch_of_the_newer() {
        let entropy = Sim::new(1).join(AgentSpec::example(1)).entropy;
        let owner = AgentId::from_bytes([1; 32]);
        let old = Group::create(owner, &*entropy);
        let mut full = old.clone();
        (0..3).for_each(|_| full.advance(&*entropy));
        let new = full.without_past();
        for merged in [new.clone().merged(&old), old.clone().merged(&new)] {
            assert_eq!(merged.epoch(), 3);
            assert_eq!(secrets(&merged), [secrets(&old), secrets(&new)].concat());
            // What is handed on has no gap.
            let handed = Group::decode(owner, merged.encode().into()).unwrap();
            assert_eq!(secrets(&handed), secrets(&new));
        }
        assert_eq!(secrets(&Group::decode(owner, full.encode().into()).unwrap()), secrets(&full));
        let other = Group::create(owner, &*entropy);
        assert_eq!(secrets(&new.clone().merged(&other)), secrets(&new));
        (0..2 * MAX_EPOCHS).for_each(|_| full.advance(&*entropy));
        assert_eq!(secrets(&full.clone().merged(&old)), secrets(&full));
        assert_eq!(full.keys.len(), MAX_EPOCHS);
    }

    #[test]
    fn more_keys_than_epochs_are_no_group() {
        let owner = AgentId::from_bytes([1; 32]);
        let of = |epoch, keys: usize| {
            let keys = vec![Bytes::from_static(&[7; 32]); keys];
            let group = proto::Group { nonce: Bytes::from_static(&[5; 32]), epoch, keys };
            Group::decode(owner, group.encode_to_vec().into()).map(|group| group.epoch())
        };
        assert_eq!([of(0, 0), of(0, 2), of(1, 3)], [None; 3]);
        assert_eq!([of(0, 1), of(1, 2), of(u64::MAX, 2)], [Some(0), Some(1), Some(u64::MAX)]);
    }
}
