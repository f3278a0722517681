//! Fetching, pinning and reading the parts of members, and building the folder.

use cid::Cid;
use diai_core::{AgentId, Instant, PeerId, offload};

use super::{
    WorkspaceError, WorkspaceEvent,
    shell::Shared,
    state::{PartInfo, PartKey, pin_name, root_pin},
};
use crate::{
    Guard,
    fetch::{FetchOptions, provider_key},
    sealed::{self, OpenError},
};

/// Fetches, pins and reads a part. A part that makes no sense is not tried again until its owner puts another.
pub(super) async fn replicate(shared: &Shared, key: PartKey, root: Cid) -> Result<(), WorkspaceError> {
    let deadline = shared.world.clock.now() + shared.config.fetch_timeout;
    let options = FetchOptions { holders: devices_of(shared, key.0), ..FetchOptions::until(deadline) };
    shared.fetcher.dag(root, &options).await?;
    shared.pins.pin(&pin_name(&shared.id(), &key), root).await?;
    let info = read_info(shared, key, root).await?;
    entry_added(shared, key, root, info);
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

/// The folder of the heads as they are now. The guard keeps its blocks until they are pinned.
pub(super) async fn build_root(shared: &Shared) -> Result<Guard, WorkspaceError> {
    let guard = shared.fetcher.store.guard();
    let (heads, terms) = (shared.state().heads.clone(), shared.terms.terms.clone());
    let known = heads.known();
    let folder = offload(&*shared.world.offload, move || heads.folder(&terms)).await;
    let folder = folder.map_err(|_| WorkspaceError::Closed)??;
    let cids = folder.blocks.iter().map(|block| block.cid).collect();
    shared.fetcher.store.put_many(folder.blocks).await?;
    shared.fetcher.bitswap.added(cids).await;
    let mut state = shared.state();
    state.root = folder.root;
    state.stale = state.heads.known() != known;
    drop(state);
    shared.changed();
    Ok(guard)
}

/// Pins the folder when everything in it is here, announces it, and drops pins that nothing needs. Returns whether it
/// was pinned.
pub(super) async fn settle(shared: &Shared) -> Result<bool, WorkspaceError> {
    let (root, complete, before, unpin) = {
        let mut state = shared.state();
        (state.root, state.is_complete(), state.pinned, std::mem::take(&mut state.unpin))
    };
    for name in unpin {
        shared.pins.unpin(&name).await?;
    }
    if !complete || before == Some(root) {
        return Ok(false);
    }
    shared.pins.pin(&root_pin(&shared.id()), root).await?;
    shared.state().pinned = Some(root);
    if let Some(old) = before.as_ref().and_then(provider_key) {
        shared.world.dht.stop_providing(&old);
    }
    shared.tell(WorkspaceEvent::Synced { root });
    shared.changed();
    Ok(true)
}

/// Announces the folder, so that others find it by its CID. Tried again with the next root if nobody answers.
pub(super) async fn announce(shared: &Shared, root: Cid) {
    if let Some(key) = provider_key(&root)
        && let Err(error) = shared.world.dht.provide(key).await
    {
        tracing::debug!(%root, %error, "the workspace's root was not announced");
    }
}

/// The next time that some part is to be fetched, and those that are due at `now`.
pub(super) fn due_parts(shared: &Shared, now: Instant, room: usize) -> (Vec<(PartKey, Cid)>, Instant) {
    let mut state = shared.state();
    let mut due = Vec::new();
    let mut next = Instant::NEVER;
    for (key, part) in &mut state.parts {
        if part.info.is_some() || part.fetching {
            continue;
        }
        if part.due.at <= now && due.len() < room {
            part.fetching = true;
            due.push((*key, part.entry.root));
        } else if part.due.at > now {
            next = next.min(part.due.at);
        }
    }
    (due, next)
}
