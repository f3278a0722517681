//! Sealing, groups, and reading parts of sealed content.

use std::ops::Range;

use bytes::Bytes;
use cid::Cid;
use diai_core::Instant;
use diai_identity::Certificate;

use super::{AddError, AddOptions, Added, Blocks, ContentError};
use crate::{
    fetch::FetchOptions,
    sealed::{self, Group, Keys, SealOptions, Source},
};

/// Groups whose keys are known at a time; of more the first are forgotten.
pub const MAX_GROUPS: usize = 64;

impl Blocks {
    pub(super) async fn add_sealed(&self, source: Source, options: AddOptions) -> Result<Added, AddError> {
        self.seal(Some(source), &options).await
    }

    /// Makes a version of the sealed content that `options` replaces for the readers that they name, with the same
    /// content: so a reader is added, or taken out of all versions to come. Nothing but names and sizes is sealed anew.
    ///
    /// Cancel-safety: dropping the future stops it; blocks put until then are garbage.
    pub async fn regrant(&self, previous: Cid, options: AddOptions) -> Result<Added, AddError> {
        self.seal(None, &AddOptions { replaces: Some(previous), ..options }).await
    }

    async fn seal(&self, source: Option<Source>, options: &AddOptions) -> Result<Added, AddError> {
        let (world, store) = (&self.0.world, self.store());
        let sealing = SealOptions {
            recipients: options.sealed_for.clone(),
            groups: options.sealed_for_groups.iter().map(|group| self.newest(group)).collect(),
            keying: options.keying.clone(),
        };
        // The new version has chunks of the previous one, which must stay until it is pinned.
        let _guard = options.replaces.map(|previous| store.guard_root(previous));
        let sealed = match (options.replaces, source) {
            (Some(previous), source) => {
                let fetch = FetchOptions { kept: true, ..FetchOptions::default() };
                self.0.fetcher.for_sealed().dag(previous, &fetch).await?;
                sealed::reseal(world, store, self.keys(), previous, source, &sealing).await?
            }
            (None, source) => {
                let source = source.unwrap_or(Source::Files(Vec::new()));
                sealed::seal(world, store, &self.0.identity, source, &sealing).await?
            }
        };
        self.keep(sealed.root, sealed.manifest.content_bytes(), options).await
    }

    /// This agent's keys and those of its groups.
    pub(super) fn keys(&self) -> Keys {
        Keys::new(self.0.identity.clone(), self.0.groups.read().clone())
    }

    /// Hands `group`, which this agent owns, to `members`: sealed for them, pinned, and being announced in the background
    /// when it returns. They [`join_group`](Self::join_group) by the CID.
    pub async fn add_group(&self, group: &Group, members: &[Certificate]) -> Result<Added, AddError> {
        let (world, identity) = (&self.0.world, &self.0.identity);
        let sealed = group.seal_for(world, self.store(), identity, members).await?;
        let added = self.keep(sealed.root, sealed.manifest.content_bytes(), &AddOptions::default()).await?;
        self.learn(group.clone());
        Ok(added)
    }

    /// Fetches the group that was handed out as `root`. What is sealed for it can be opened from now on, until this process
    /// ends or [`MAX_GROUPS`] others were joined. If a newer state of it is known already, that is what it returns.
    /// Cancel-safe.
    pub async fn join_group(&self, root: Cid, deadline: Instant) -> Result<Group, ContentError> {
        let _guard = self.store().guard_root(root);
        let source = self.0.fetcher.for_sealed().source(FetchOptions::until(deadline));
        let group = Group::open(&source, &self.0.identity, root).await?;
        self.learn(group.clone());
        Ok(self.newest(&group))
    }

    /// Keeps the keys of all states of the group that were seen, as an owner may leave out those of before.
    fn learn(&self, group: Group) {
        let mut groups = self.0.groups.write();
        match groups.iter_mut().find(|known| known.id() == group.id()) {
            Some(known) if known.epoch() <= group.epoch() => *known = group.merged(known),
            Some(known) => *known = known.clone().merged(&group),
            None => groups.push(group),
        }
        let too_many = groups.len().saturating_sub(MAX_GROUPS);
        groups.drain(..too_many);
    }

    /// The group as it is known here, if `group` is an older state: of an epoch whose key somebody may have who left.
    fn newest(&self, group: &Group) -> Group {
        let groups = self.0.groups.read();
        let known = groups.iter().find(|known| known.id() == group.id() && known.epoch() > group.epoch());
        known.unwrap_or(group).clone()
    }

    /// The bytes `range` of the file at `path` in the sealed content `cid`; of what is not here only the chunks in which
    /// they are, and what leads to them, are fetched. Cancel-safe.
    pub async fn read_sealed_range(
        &self,
        cid: Cid,
        path: &str,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Bytes, ContentError> {
        let _guard = self.store().guard_root(cid);
        let source = self.0.fetcher.for_sealed().source(FetchOptions::until(deadline));
        Ok(sealed::open(&source, self.keys(), cid).await?.read_range(path, range).await?)
    }
}
