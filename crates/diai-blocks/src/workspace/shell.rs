use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use cid::Cid;
use diai_core::{AgentId, Calls, Disk, Instant, PeerId, World, offload, timeout_at, write_atomically};
use diai_identity::{Certificate, EncryptionKey, Identity};
use futures::{Stream, stream};
use tokio::sync::{Notify, broadcast, watch};

use super::{
    Entry, HeadError, HeadSet, Merged, SignedHead, WorkspaceEntry, WorkspaceError, WorkspaceEvent, WorkspaceId,
    codec::hex,
    invitation::SignedTerms,
    replicate::{entry_added, read_info},
    state::{Part, PartInfo, Peer, Retry, State, pin_name, pin_prefix, root_pin},
};
use crate::{
    Pins,
    config::WorkspaceConfig,
    fetch::{FetchOptions, Fetcher},
    sealed::{self, Source},
};

/// Events that a slow subscriber may lag behind.
const EVENT_QUEUE: usize = 1024;
/// Exchanges carry at most about this many bytes of heads.
const EXCHANGE_BYTES: usize = 8 << 20;

/// What all parts of a workspace share.
pub(crate) struct Shared {
    pub(super) world: World,
    pub(super) identity: Identity,
    pub(super) calls: Arc<dyn Calls>,
    pub(super) fetcher: Fetcher,
    pub(super) pins: Pins,
    pub(super) config: WorkspaceConfig,
    pub(super) terms: SignedTerms,
    state: Mutex<State>,
    events: broadcast::Sender<WorkspaceEvent>,
    changes: watch::Sender<u64>,
    pub(super) wake: Notify,
    /// One at a time takes heads in, so that what is on disk is what is in memory.
    merging: tokio::sync::Mutex<()>,
    /// One at a time pins and unpins parts, so that the pins follow the heads.
    pub(super) pinning: tokio::sync::Mutex<()>,
}

/// What a [`Shared`] is made of.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) world: World,
    pub(crate) identity: Identity,
    pub(crate) calls: Arc<dyn Calls>,
    pub(crate) fetcher: Fetcher,
    pub(crate) pins: Pins,
    pub(crate) config: WorkspaceConfig,
}

impl Shared {
    /// The workspace as its files on disk say.
    pub(super) async fn open(parts: Parts, terms: SignedTerms) -> Result<Arc<Self>, WorkspaceError> {
        let Parts { world, identity, calls, fetcher, pins, config } = parts;
        let us = identity.agent();
        let members: Vec<_> = terms.terms.members.iter().map(Certificate::agent).collect();
        let others = members.iter().filter(|agent| **agent != us);
        let peer = Peer { due: Retry::now(), exchanging: false, known: Vec::new(), push: true };
        let state = State {
            peers: others.map(|agent| (*agent, peer.clone())).collect(),
            heads: HeadSet::new(terms.id, members),
            parts: BTreeMap::new(),
            root: Cid::default(),
            stale: true,
            root_error: None,
            settled: None,
            unpin: BTreeSet::new(),
        };
        let (events, changes) = (broadcast::channel(EVENT_QUEUE).0, watch::channel(0).0);
        let (state, wake) = (Mutex::new(state), Notify::new());
        let (merging, pinning) = Default::default();
        let shared = Self {
            world,
            identity,
            calls,
            fetcher,
            pins,
            config,
            terms,
            state,
            events,
            changes,
            wake,
            merging,
            pinning,
        };
        shared.load().await?;
        Ok(Arc::new(shared))
    }

    async fn load(&self) -> Result<(), WorkspaceError> {
        let (disk, folder) = (self.world.disk.clone(), folder(&self.id()));
        let max = self.config.max_head_bytes;
        let read = move || read_heads(&*disk, &folder, max);
        let heads = offload(&*self.world.offload, read).await.map_err(|_| WorkspaceError::Closed)??;
        let mut damaged = false;
        for bytes in heads {
            match SignedHead::verify(bytes, &self.config) {
                Ok(head) => drop(self.take(head)),
                // Other members have it too, and the exchange brings it back.
                Err(error) => {
                    damaged = true;
                    tracing::warn!(workspace = %self.id(), %error, "a stored head is damaged and was left out")
                }
            }
        }
        let parts: Vec<_> = self.state().parts.iter().map(|(key, part)| (*key, part.entry.root)).collect();
        for (key, root) in parts {
            if self.pins.get(&pin_name(&self.id(), &key)).await? == Some(root)
                && let Ok(info) = read_info(self, key, root).await
                && let Some(part) = self.state().parts.get_mut(&key)
            {
                part.info = Some(info);
            }
        }
        // What a head that cannot be read named must not be given up.
        if damaged { Ok(()) } else { self.unpin_orphans().await }
    }

    /// Drops the pins of this workspace that no head names: of parts removed shortly before it was closed.
    async fn unpin_orphans(&self) -> Result<(), WorkspaceError> {
        let mut named: BTreeSet<_> = self.state().parts.keys().map(|key| pin_name(&self.id(), key)).collect();
        named.insert(root_pin(&self.id()));
        let prefix = pin_prefix(&self.id());
        for pin in self.pins.pins().await? {
            if pin.name.starts_with(&prefix) && !named.contains(&pin.name) {
                self.pins.unpin(&pin.name).await?;
            }
        }
        Ok(())
    }

    pub(super) fn id(&self) -> WorkspaceId {
        self.terms.id
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, event: WorkspaceEvent) {
        // Nobody may listen.
        let _ = self.events.send(event);
    }

    pub(super) fn changed(&self) {
        self.changes.send_modify(|version| *version += 1);
        self.wake.notify_one();
    }

    /// Merges a verified head and takes over what it says.
    fn take(&self, head: SignedHead) -> Result<Merged, HeadError> {
        let (owner, seq) = (head.owner, head.head.seq);
        let mut state = self.state();
        let merged = state.heads.merge(head.clone())?;
        let gone = match merged {
            Merged::Newer | Merged::Equivocation { replaced: true } => state.apply(&head),
            _ => Vec::new(),
        };
        drop(state);
        if matches!(merged, Merged::Equivocation { .. }) {
            tracing::warn!(workspace = %self.id(), %owner, seq, "a member signed two heads with one number");
            self.tell(WorkspaceEvent::Equivocation { owner, seq });
        }
        if matches!(merged, Merged::Newer) && owner != self.identity.agent() {
            self.tell(WorkspaceEvent::HeadReceived { owner, seq });
        }
        gone.into_iter().for_each(|path| self.tell(WorkspaceEvent::EntryRemoved { path, owner }));
        Ok(merged)
    }

    /// Takes in heads that `from` sent. What is new is on disk before it counts.
    pub(super) async fn receive(&self, heads: Vec<Bytes>, from: AgentId) -> Result<(), ReceiveError> {
        for bytes in heads {
            let head = SignedHead::verify(bytes, &self.config)?;
            let _one = self.merging.lock().await;
            let judged = self.state().heads.judge(&head)?;
            if !matches!(judged, Merged::Newer | Merged::Equivocation { replaced: true }) {
                self.take(head)?;
                continue;
            }
            self.keep(&head).await?;
            let owner = head.owner;
            self.take(head)?;
            let later = self.world.clock.now() + self.config.gossip_delay;
            let mut state = self.state();
            for (agent, peer) in &mut state.peers {
                if *agent != from && *agent != owner {
                    peer.due.at = peer.due.at.min(later);
                }
            }
            drop(state);
            self.changed();
        }
        Ok(())
    }

    /// Writes a head to disk, durably.
    async fn keep(&self, head: &SignedHead) -> Result<(), WorkspaceError> {
        let path = format!("{}/head-{}", folder(&self.id()), hex(head.owner.as_bytes()));
        let (disk, bytes) = (self.world.disk.clone(), head.bytes.clone());
        let write = move || write_atomically(&*disk, &path, &bytes);
        Ok(offload(&*self.world.offload, write).await.map_err(|_| WorkspaceError::Closed)??)
    }

    /// Heads for somebody who has `known`, and whether there are more.
    pub(super) fn heads_for(&self, known: &[super::codec::Known]) -> (Vec<Bytes>, bool) {
        let state = self.state();
        let lacking = state.heads.lacking(known, self.identity.agent());
        let (mut heads, mut bytes) = (Vec::new(), 0);
        for head in &lacking {
            if !heads.is_empty() && bytes + head.bytes.len() > EXCHANGE_BYTES {
                break;
            }
            bytes += head.bytes.len();
            heads.push(head.bytes.clone());
        }
        let more = heads.len() < lacking.len();
        (heads, more)
    }

    /// Signs and keeps a new head of this agent, and has it pushed.
    async fn advance(&self, entries: Vec<Entry>, removed: &[[u8; 16]]) -> Result<(), WorkspaceError> {
        let _one = self.merging.lock().await;
        let next = self.state().heads.next(self.identity.agent(), self.world.clock.wall(), entries, removed);
        let limit = self.config.max_entries;
        if next.entries.len() > limit {
            return Err(WorkspaceError::TooManyEntries { limit });
        }
        let head = SignedHead::sign(&self.identity, next);
        if head.bytes.len() > self.config.max_head_bytes {
            return Err(WorkspaceError::TooManyEntries { limit: head.head.entries.len() - 1 });
        }
        self.keep(&head).await?;
        self.take(head).map_err(|error| std::io::Error::other(error.to_string()))?;
        for peer in self.state().peers.values_mut() {
            peer.due = Retry::now();
            peer.push = true;
        }
        self.changed();
        Ok(())
    }
}

/// Why heads were not taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error(transparent)]
    Local(#[from] WorkspaceError),
}

/// Where a workspace's files are.
pub(super) fn folder(id: &WorkspaceId) -> String {
    format!("workspaces/{id}")
}

fn read_heads(disk: &dyn Disk, folder: &str, max: usize) -> std::io::Result<Vec<Bytes>> {
    let mut heads = Vec::new();
    for entry in disk.list(folder)? {
        if entry.name.starts_with("head-") && !entry.name.contains('.') && entry.bytes <= max as u64 {
            let path = format!("{folder}/{}", entry.name);
            let mut bytes = vec![0; entry.bytes as usize];
            disk.open(&path, diai_core::OpenMode::Read)?.read_exact_at(0, &mut bytes)?;
            heads.push(bytes.into());
        }
    }
    Ok(heads)
}

/// A workspace that this agent is in. Cheap to clone; it goes on being synchronised while the
/// [`Blocks`](crate::handle::Blocks) it came from lives.
#[derive(Clone)]
pub struct Workspace(pub(super) Arc<Shared>);

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workspace").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Workspace {
    /// Which workspace.
    pub fn id(&self) -> WorkspaceId {
        self.0.id()
    }

    /// What its creator called it.
    pub fn name(&self) -> &str {
        &self.0.terms.terms.name
    }

    /// Who created it.
    pub fn creator(&self) -> AgentId {
        self.0.terms.creator
    }

    /// The members, sorted.
    pub fn members(&self) -> Vec<AgentId> {
        self.0.state().heads.members().iter().copied().collect()
    }

    /// The invitation, which any member may hand to any other, over any channel: only members can read it.
    pub fn invitation(&self) -> Bytes {
        self.0.terms.seal(&*self.0.world.entropy)
    }

    /// Puts a file. When it returns the file is sealed, pinned and durable here, and the members are being told.
    ///
    /// Cancel-safety: dropping the future leaves the file put or not put.
    pub async fn put(&self, path: &str, bytes: impl Into<Bytes>) -> Result<(), WorkspaceError> {
        self.put_files(vec![(path.to_owned(), bytes.into())]).await
    }

    /// Puts several files in one step. As [`put`](Self::put).
    pub async fn put_files(&self, files: Vec<(String, Bytes)>) -> Result<(), WorkspaceError> {
        let shared = &*self.0;
        let us = shared.identity.agent();
        for (path, _) in &files {
            let check = sealed::check_path(path);
            check.map_err(|why| WorkspaceError::Path { path: path.clone(), why })?;
        }
        let recipients = self.recipients();
        let (mut entries, mut added, mut guards) = (Vec::new(), Vec::new(), Vec::new());
        for (path, bytes) in files {
            let size = bytes.len() as u64;
            let source = Source::Files(vec![(path.clone(), bytes)]);
            let (world, store) = (&shared.world, &shared.fetcher.store);
            let part = sealed::seal_to(world, store, &shared.identity, source, recipients.clone()).await?;
            let name = shared.terms.terms.opaque(us, Some(&path));
            let put_at = part.manifest.sealed_at;
            let info = PartInfo { path, bytes: size, put_at, seen_at: shared.world.clock.wall() };
            entries.push(Entry { name, root: part.root, tsize: part.tsize });
            added.push(((us, name), part.root, info));
            guards.push(part);
        }
        let pinning = shared.pinning.lock().await;
        for (key, root, _) in &added {
            shared.pins.pin(&pin_name(&self.id(), key), *root).await?;
        }
        // Of two files with one path the last counts.
        shared.advance(entries, &[]).await?;
        drop(pinning);
        added.into_iter().for_each(|(key, root, info)| entry_added(shared, key, root, info));
        Ok(())
    }

    /// The members' keys: of the certificates shown on a connection, or else of those in the terms. One that has
    /// expired still names the device that the member had, and without it the member could never read the part.
    fn recipients(&self) -> Vec<(AgentId, EncryptionKey)> {
        let shown = self.0.world.network.peers().into_iter().filter_map(|info| info.certificate);
        let shown: Vec<_> = shown.filter_map(|bytes| Certificate::from_bytes(bytes).ok()).collect();
        let key = |member: &Certificate| {
            let current = shown.iter().find(|certificate| certificate.agent() == member.agent());
            let newest = current.filter(|certificate| certificate.expires() > member.expires()).unwrap_or(member);
            (member.agent(), newest.encryption_key())
        };
        self.0.terms.terms.members.iter().map(key).collect()
    }

    /// Removes what this agent put at `path`. What others put there stays, and can then be read.
    ///
    /// Cancel-safety: dropping the future leaves it removed or not removed.
    pub async fn remove(&self, path: &str) -> Result<(), WorkspaceError> {
        let us = self.0.identity.agent();
        let name = self.0.terms.terms.opaque(us, Some(path));
        if !self.0.state().parts.contains_key(&(us, name)) {
            return Err(WorkspaceError::NoEntry { path: path.to_owned() });
        }
        self.0.advance(Vec::new(), &[name]).await
    }

    /// The CID of the folder: the same for all members who have the same heads. Builds it if need be; fails if that failed
    /// when it was last tried. Cancel-safe.
    pub async fn root(&self) -> Result<Cid, WorkspaceError> {
        let mut changes = self.0.changes.subscribe();
        loop {
            {
                let state = self.0.state();
                if !state.stale {
                    return Ok(state.root);
                }
                if let Some(error) = &state.root_error {
                    return Err(WorkspaceError::Root(error.clone()));
                }
            }
            self.0.wake.notify_one();
            changes.changed().await.map_err(|_| WorkspaceError::Closed)?;
        }
    }

    /// What can be read now, by path, of one path the newest first.
    pub fn list(&self) -> Vec<WorkspaceEntry> {
        self.0.state().list()
    }

    /// The file at `path`: of several owners' the one put last. Cancel-safe.
    pub async fn read(&self, path: &str) -> Result<Bytes, WorkspaceError> {
        let entry = self.list().into_iter().find(|entry| entry.path == path && entry.current);
        self.read_entry(&entry.ok_or_else(|| WorkspaceError::NoEntry { path: path.to_owned() })?).await
    }

    /// The file of one entry of [`list`](Self::list). Cancel-safe.
    pub async fn read_entry(&self, entry: &WorkspaceEntry) -> Result<Bytes, WorkspaceError> {
        let source = self.0.fetcher.source(FetchOptions { kept: true, ..FetchOptions::default() });
        let reader = sealed::open(&source, &self.0.identity, entry.root).await?;
        let files = reader.read_all(entry.bytes).await?;
        let file = files.into_iter().next().map(|(_, bytes)| bytes);
        file.ok_or_else(|| WorkspaceError::NoEntry { path: entry.path.clone() })
    }

    /// Writes the current file of each path below `target` of `disk`. Nothing that exists is replaced. Returns the
    /// bytes written.
    ///
    /// Cancel-safety: dropping the future stops it; what was written until then stays.
    pub async fn export(&self, disk: Arc<dyn Disk>, target: &str) -> Result<u64, WorkspaceError> {
        let mut written = 0;
        for entry in self.list().into_iter().filter(|entry| entry.current) {
            let source = self.0.fetcher.source(FetchOptions { kept: true, ..FetchOptions::default() });
            let reader = sealed::open(&source, &self.0.identity, entry.root).await?;
            written += reader.export(disk.clone(), target, &self.0.world.offload).await?;
        }
        Ok(written)
    }

    /// What happens from now on. A subscriber that lags far behind gets [`WorkspaceEvent::Missed`].
    pub fn events(&self) -> impl Stream<Item = WorkspaceEvent> + Send + Unpin + 'static {
        let events = self.0.events.subscribe();
        Box::pin(stream::unfold(events, |mut events| async move {
            match events.recv().await {
                Ok(event) => Some((event, events)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((WorkspaceEvent::Missed, events)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        }))
    }

    /// The members who had the same heads as this agent when last heard of.
    pub fn synced_with(&self) -> Vec<AgentId> {
        let state = self.0.state();
        let ours = state.heads.known();
        state.peers.iter().filter(|(_, peer)| peer.known == ours).map(|(agent, _)| *agent).collect()
    }

    /// Waits until at least `entries` entries can be read and nothing that the heads name is missing, but for
    /// [unreadable](WorkspaceEvent::Unreadable) parts, and returns the root then. Cancel-safe.
    pub async fn wait_for_entries(&self, entries: usize, deadline: Instant) -> Result<Cid, WorkspaceError> {
        let mut changes = self.0.changes.subscribe();
        let wait = async {
            loop {
                let root = self.root().await?;
                {
                    let state = self.0.state();
                    if state.is_complete() && state.root == root && state.readable() >= entries {
                        return Ok(root);
                    }
                }
                changes.changed().await.map_err(|_| WorkspaceError::Closed)?;
            }
        };
        let clock = self.0.world.clock.clone();
        match timeout_at(&*clock, deadline, wait).await {
            Ok(outcome) => outcome,
            Err(_) => Err(WorkspaceError::Deadline { have: self.list().len(), wanted: entries }),
        }
    }
}

/// The device that `agent` calls from, if it is connected.
pub(super) fn device(world: &World, agent: AgentId) -> Option<PeerId> {
    world.network.peers().into_iter().find(|info| info.agent == Some(agent)).map(|info| info.peer)
}

impl Part {
    pub(super) fn failed(&mut self, now: Instant, config: &WorkspaceConfig) {
        self.fetching = false;
        self.due.failed(now, config.retry);
    }
}
