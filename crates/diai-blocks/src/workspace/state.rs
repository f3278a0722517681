//! What a workspace knows now.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use cid::Cid;
use diai_core::{AgentId, Instant, WallTime};

use super::{
    Entry, HeadSet, SignedHead, WorkspaceError,
    codec::{Known, WorkspaceId, hex},
};

/// One entry whose part is here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkspaceEntry {
    /// Its path, decrypted.
    pub path: String,
    /// Who put it.
    pub owner: AgentId,
    /// Bytes of its content.
    pub bytes: u64,
    /// When it was put, by its owner's clock.
    pub put_at: WallTime,
    /// When it was first read here; after a restart, when the workspace was opened.
    pub seen_at: WallTime,
    /// The sealed part.
    pub root: Cid,
    /// Whether it is what [`Workspace::read`](super::Workspace::read) reads; another's may be newer.
    pub current: bool,
}

/// What happens in a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkspaceEvent {
    /// A member's new head came.
    HeadReceived {
        /// Whose.
        owner: AgentId,
        /// Its number.
        seq: u64,
    },
    /// A part came, or was put here, and can be read.
    EntryAdded {
        /// Its path.
        path: String,
        /// Who put it.
        owner: AgentId,
        /// When, by its owner's clock.
        put_at: WallTime,
        /// When it could be read here.
        seen_at: WallTime,
    },
    /// An owner removed an entry.
    EntryRemoved {
        /// Its path.
        path: String,
        /// Who had put it.
        owner: AgentId,
    },
    /// A part makes no sense: it is not sealed for this agent, or is no content at all. It is left out until its owner
    /// puts another, or this agent restarts.
    Unreadable {
        /// Who put it.
        owner: AgentId,
        /// The part.
        root: Cid,
        /// What is wrong with it.
        reason: String,
    },
    /// Everything that the heads name is here and kept under this root, but for parts that are
    /// [unreadable](WorkspaceEvent::Unreadable).
    Synced {
        /// The workspace's folder.
        root: Cid,
    },
    /// A member signed two heads with one number.
    Equivocation {
        /// Who.
        owner: AgentId,
        /// The number.
        seq: u64,
    },
    /// The subscriber was too slow: look at the list again.
    Missed,
}

pub(super) type PartKey = (AgentId, [u8; 16]);

/// One entry of somebody's head.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) entry: Entry,
    pub(super) info: Option<PartInfo>,
    /// It makes no sense, and will not if it is fetched again.
    pub(super) bad: bool,
    /// When it is to be fetched next, and how long to wait after that.
    pub(super) due: Retry,
    pub(super) fetching: bool,
}

impl Part {
    /// Whether nothing is to be fetched any more.
    pub(super) fn is_settled(&self) -> bool {
        self.info.is_some() || self.bad
    }
}

#[derive(Debug, Clone)]
pub(super) struct PartInfo {
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) put_at: WallTime,
    pub(super) seen_at: WallTime,
}

/// When to try again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retry {
    pub(super) at: Instant,
    pub(super) wait: Duration,
}

impl Retry {
    pub(super) fn now() -> Self {
        Self { at: Instant::default(), wait: Duration::ZERO }
    }

    pub(super) fn failed(&mut self, now: Instant, (first, longest): (Duration, Duration)) {
        self.wait = (self.wait * 2).clamp(first, longest);
        self.at = now + self.wait;
    }
}

/// What is to be exchanged with a member.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// When; `NEVER` if nothing is to be said.
    pub(super) due: Retry,
    pub(super) exchanging: bool,
    /// What it had when last heard of.
    pub(super) known: Vec<Known>,
    /// Send heads along, not only ask.
    pub(super) push: bool,
}

pub(super) struct State {
    pub(super) heads: HeadSet,
    pub(super) parts: BTreeMap<PartKey, Part>,
    pub(super) peers: BTreeMap<AgentId, Peer>,
    pub(super) root: Cid,
    /// The folder is not that of the heads any more.
    pub(super) stale: bool,
    /// Why the folder of these heads cannot be built.
    pub(super) root_error: Option<Arc<WorkspaceError>>,
    /// The root that everything was last here of.
    pub(super) settled: Option<Cid>,
    /// Parts that may still be pinned though no entry names them.
    pub(super) unpin: BTreeSet<PartKey>,
}

impl State {
    /// Takes over what `head`, which was just merged, says. Returns the paths that are gone.
    pub(super) fn apply(&mut self, head: &SignedHead) -> Vec<String> {
        let mut gone = Vec::new();
        let owner = head.owner;
        let named = |name: &[u8; 16]| head.head.entries.binary_search_by(|entry| entry.name.cmp(name)).is_ok();
        let removed: Vec<_> = self
            .parts
            .range((owner, [0; 16])..=(owner, [255; 16]))
            .map(|(key, _)| *key)
            .filter(|key| !named(&key.1))
            .collect();
        for key in removed {
            let part = self.parts.remove(&key);
            gone.extend(part.and_then(|part| part.info).map(|info| info.path));
            self.unpin.insert(key);
        }
        for entry in &head.head.entries {
            let key = (owner, entry.name);
            if self.parts.get(&key).is_none_or(|part| part.entry != *entry) {
                let part = Part { entry: *entry, info: None, bad: false, due: Retry::now(), fetching: false };
                self.parts.insert(key, part);
            }
        }
        self.stale = true;
        self.root_error = None;
        gone
    }

    pub(super) fn is_complete(&self) -> bool {
        !self.stale && self.parts.values().all(Part::is_settled)
    }

    /// Parts that can be read.
    pub(super) fn readable(&self) -> usize {
        self.parts.values().filter(|part| part.info.is_some()).count()
    }

    /// Everything that can be read, by path; of each path the winner is marked.
    pub(super) fn list(&self) -> Vec<WorkspaceEntry> {
        let entry = |(key, part): (&PartKey, &Part)| {
            let info = part.info.as_ref()?;
            Some(WorkspaceEntry {
                path: info.path.clone(),
                owner: key.0,
                bytes: info.bytes,
                put_at: info.put_at,
                seen_at: info.seen_at,
                root: part.entry.root,
                current: false,
            })
        };
        let mut entries: Vec<_> = self.parts.iter().filter_map(entry).collect();
        entries.sort_by(|a, b| (&a.path, b.put_at, b.owner).cmp(&(&b.path, a.put_at, a.owner)));
        let mut before: Option<String> = None;
        for entry in &mut entries {
            entry.current = before.as_ref() != Some(&entry.path);
            before = Some(entry.path.clone());
        }
        entries
    }
}

/// What the names of a workspace's pins begin with.
pub(super) fn pin_prefix(workspace: &WorkspaceId) -> String {
    format!("workspace/{workspace}/")
}

/// The pin that keeps a part.
pub(super) fn pin_name(workspace: &WorkspaceId, key: &PartKey) -> String {
    format!("{}{}-{}", pin_prefix(workspace), hex(&key.0.as_bytes()[..8]), hex(&key.1))
}

/// The pin that keeps the folder.
pub(super) fn root_pin(workspace: &WorkspaceId) -> String {
    format!("{}root", pin_prefix(workspace))
}
