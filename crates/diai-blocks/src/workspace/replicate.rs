//! Fetching, pinning and reading the parts of members, and building the folder.

use cid::Cid;
use diai_core::{AgentId, PeerId, offload};

use super::{
    WorkspaceError, WorkspaceEvent,
    shell::Shared,
    state::{PartInfo, PartKey, pin_name, root_pin},
};
use crate::{
    Guard, PinError,
    fetch::{FetchOptions, provider_key},
    sealed::{self, OpenError},
};

/// Fetches, pins and reads a part. Gives up when no block has come for a while.
pub(super) async fn replicate(shared: &Shared, key: PartKey, root: Cid) -> Result<(), WorkspaceError> {
    let options = FetchOptions { holders: devices_of(shared, key.0), kept: true, ..FetchOptions::default() };
    shared.fetcher.dag(root, &options).await?;
    pin_part(shared, key, root).await?;
    let info = read_info(shared, key, root).await?;
    entry_added(shared, key, root, info);
    Ok(())
}

/// Pins a part, unless it was removed or replaced while it was fetched.
async fn pin_part(shared: &Shared, key: PartKey, root: Cid) -> Result<(), WorkspaceError> {
    let _one = shared.pinning.lock().await;
    let named = || shared.state().parts.get(&key).is_some_and(|part| part.entry.root == root);
    if named() {
        shared.pins.pin(&pin_name(&shared.id(), &key), root).await?;
    }
    if !named() {
        // A removal that came meanwhile has left this to be looked at.
        shared.state().unpin.insert(key);
    }
    Ok(())
}

/// Makes the pin of `key` what the heads ask for.
async fn follow_heads(shared: &Shared, key: PartKey) -> Result<(), WorkspaceError> {
    let _one = shared.pinning.lock().await;
    let name = pin_name(&shared.id(), &key);
    let part = shared.state().parts.get(&key).map(|part| (part.entry.root, part.info.is_some()));
    match part {
        // The pin of what was replaced may have come after that of what replaced it.
        Some((root, true)) if shared.pins.get(&name).await? != Some(root) => shared.pins.pin(&name, root).await?,
        Some(_) => {}
        None => drop(shared.pins.unpin(&name).await?),
    }
    Ok(())
}

/// Reads path, size and time out of a part that is here.
pub(super) async fn read_info(shared: &Shared, key: PartKey, root: Cid) -> Result<PartInfo, WorkspaceError> {
    let reader = sealed::open(&shared.fetcher.store, &shared.identity, root).await?;
    let manifest = reader.manifest();
    let [entry] = manifest.entries.as_slice() else {
        return Err(OpenError::NotSealed { root, why: "a workspace's part holds one file" }.into());
    };
    // Otherwise an owner could give another's path a new opaque name, or two parts one path.
    if shared.terms.terms.opaque(key.0, Some(&entry.path)) != key.1 || entry.folder {
        return Err(OpenError::NotSealed { root, why: "its path is not the one that its name stands for" }.into());
    }
    let seen_at = shared.world.clock.wall();
    Ok(PartInfo { path: entry.path.clone(), bytes: entry.bytes, put_at: manifest.sealed_at, seen_at })
}

/// Says that a part never will be readable, unless it was replaced meanwhile.
pub(super) fn entry_is_bad(shared: &Shared, key: PartKey, root: Cid, error: &WorkspaceError) {
    let mut state = shared.state();
    let Some(part) = state.parts.get_mut(&key).filter(|part| part.entry.root == root && !part.is_settled()) else {
        return;
    };
    part.bad = true;
    drop(state);
    shared.tell(WorkspaceEvent::Unreadable { owner: key.0, root, reason: error.to_string() });
    shared.changed();
}

/// Says that a part can be read now, unless it was replaced meanwhile.
pub(super) fn entry_added(shared: &Shared, key: PartKey, root: Cid, info: PartInfo) {
    let event = WorkspaceEvent::EntryAdded {
        path: info.path.clone(),
        owner: key.0,
        put_at: info.put_at,
        seen_at: info.seen_at,
    };
    let mut state = shared.state();
    let Some(part) = state.parts.get_mut(&key).filter(|part| part.entry.root == root) else { return };
    if part.info.replace(info).is_none() {
        drop(state);
        shared.tell(event);
        shared.changed();
    }
}

fn devices_of(shared: &Shared, agent: AgentId) -> Vec<PeerId> {
    let mut devices: Vec<_> = shared
        .world
        .network
        .peers()
        .into_iter()
        .filter(|info| info.agent == Some(agent))
        .map(|info| info.peer)
        .collect();
    let member = shared.terms.terms.members.iter().find(|certificate| certificate.agent() == agent);
    devices.extend(member.map(|certificate| certificate.peer()).filter(|peer| !devices.contains(peer)));
    devices.retain(|peer| *peer != shared.world.network.local_peer());
    devices
}

/// The folder of the heads as they are now. The guard keeps what is here of it, as long as it cannot be pinned.
pub(super) async fn build_root(shared: &Shared) -> Result<Guard, WorkspaceError> {
    let guard = shared.fetcher.store.guard();
    let (heads, terms) = (shared.state().heads.clone(), shared.terms.terms.clone());
    let known = heads.known();
    let folder = offload(&*shared.world.offload, move || heads.folder(&terms)).await;
    let folder = folder.map_err(|_| WorkspaceError::Closed)??;
    shared.fetcher.store.put_many(folder.blocks).await?;
    let kept = shared.fetcher.store.keep_root(folder.root);
    drop(guard);
    let mut state = shared.state();
    state.root = folder.root;
    state.stale = state.heads.known() != known;
    state.root_error = None;
    drop(state);
    shared.changed();
    Ok(kept)
}

/// Drops pins that nothing needs, and pins the folder when everything in it is here. Returns whether it was pinned now.
pub(super) async fn settle(shared: &Shared) -> Result<bool, WorkspaceError> {
    while let Some(key) = { shared.state().unpin.first().copied() } {
        follow_heads(shared, key).await?;
        shared.state().unpin.remove(&key);
    }
    let (root, some_bad) = {
        let state = shared.state();
        if !state.is_complete() || state.settled == Some(state.root) {
            return Ok(false);
        }
        (state.root, state.parts.values().any(|part| part.bad))
    };
    let name = root_pin(&shared.id());
    let pinned = match shared.pins.pin(&name, root).await {
        Ok(()) => true,
        // A guard keeps what makes sense, and the pins of the parts.
        Err(PinError::Incomplete { .. } | PinError::Unwalkable { .. }) if some_bad => {
            shared.pins.unpin(&name).await?;
            false
        }
        Err(error) => return Err(error.into()),
    };
    shared.state().settled = Some(root);
    shared.tell(WorkspaceEvent::Synced { root });
    shared.changed();
    Ok(pinned)
}

/// Announces the folder, so that others find it by its CID, in place of the one before. Tried again with the next root
/// if nobody answers.
pub(super) async fn announce(shared: &Shared, root: Cid, before: Option<Cid>) {
    if let Some(old) = before.as_ref().and_then(provider_key) {
        shared.world.dht.stop_providing(&old);
    }
    if let Some(key) = provider_key(&root)
        && let Err(error) = shared.world.dht.provide(key).await
    {
        tracing::debug!(%root, %error, "the workspace's root was not announced");
    }
}
