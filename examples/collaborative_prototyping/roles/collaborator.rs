//! What all collaborators do: join the workspace, tell what they see in it, and say at the end what they have.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use diai::{
    Agent, AgentId, Bytes, CallOptions, Calls, Refusal, Reply, StreamExt,
    blocks::{Workspace, WorkspaceEvent},
    core::{BoxFuture, Registration, service_fn},
    discovery::Found,
};
use sha2::{Digest, Sha256};
use tokio::{sync::watch, task::JoinSet};

use super::Outcome;
use crate::{
    brief,
    link::{Link, Order, Tell},
};

const INVITE: &str = "story.invite";
const WITHIN: Duration = Duration::from_secs(30);

/// The workspace, once joined. Dropping it takes no more invitations.
pub(super) struct Membership {
    joined: watch::Receiver<Option<Workspace>>,
    _served: Registration,
    /// Watches the workspace.
    _tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Membership {
    /// Takes invitations from now on, and tells of what comes into the workspace from its first entry on.
    pub(super) fn open(agent: &Agent, link: &Arc<Link>) -> Outcome<Self> {
        let tasks = Arc::new(Mutex::new(JoinSet::new()));
        let (me, told, watching) = (agent.id(), link.clone(), tasks.clone());
        let (joined, receiver) = watch::channel(None);
        let (blocks, joined) = (agent.blocks().clone(), Arc::new(joined));
        let join = service_fn(move |request| {
            let (blocks, joined) = (blocks.clone(), joined.clone());
            let (told, watching) = (told.clone(), watching.clone());
            async move {
                let refused = |error: diai::blocks::workspace::JoinError| Refusal::Failed { reason: error.to_string() };
                let workspace = blocks.join_workspace(request.body).await.map_err(refused)?;
                // Before the creator hears that it may go on.
                watch(&workspace, me, &told, &mut watching.lock().unwrap_or_else(PoisonError::into_inner));
                joined.send_replace(Some(workspace));
                Ok(Reply::Whole(Bytes::new()))
            }
        });
        Ok(Self { joined: receiver, _served: agent.messaging().register(INVITE, join)?, _tasks: tasks })
    }

    /// The workspace; waits for the invitation.
    pub(super) async fn workspace(&self) -> Outcome<Workspace> {
        let mut joined = self.joined.clone();
        loop {
            let workspace = joined.borrow_and_update().clone();
            if let Some(workspace) = workspace {
                return Ok(workspace);
            }
            joined.changed().await?;
        }
    }
}

/// Invites `others` to `workspace`.
pub(super) async fn invite(agent: &Agent, workspace: &Workspace, others: &[Found]) -> Outcome {
    for other in others {
        let options = CallOptions::within(WITHIN).idempotent();
        agent.messaging().call(other.agent(), INVITE, workspace.invitation(), options).await?;
    }
    Ok(())
}

/// Puts a file and tells so.
pub(super) fn put(
    workspace: &Workspace,
    link: &Arc<Link>,
    path: impl Into<String>,
    content: Bytes,
) -> BoxFuture<'static, Outcome> {
    let (workspace, link, path, bytes) = (workspace.clone(), link.clone(), path.into(), content.len() as u64);
    Box::pin(async move {
        workspace.put(&path, content).await?;
        link.tell(Tell::Put { path, bytes });
        Ok(())
    })
}

/// Tells of entries of others as they come.
pub(super) fn watch(workspace: &Workspace, me: AgentId, link: &Arc<Link>, tasks: &mut JoinSet<()>) {
    let (mut events, link) = (workspace.events(), link.clone());
    tasks.spawn(async move {
        while let Some(event) = events.next().await {
            if let WorkspaceEvent::EntryAdded { path, owner, put_at, seen_at } = event
                && owner != me
            {
                let delay_ms = u64::try_from(seen_at.since(put_at).as_millis()).unwrap_or(u64::MAX);
                link.tell(Tell::Seen { path, delay_ms });
            }
        }
    });
}

/// Obeys orders until the end.
pub(super) async fn until_the_end(agent: &Agent, link: &Link, membership: &Membership) -> Outcome {
    loop {
        match link.order().await {
            Order::Settle { entries } => settle(agent, link, &membership.workspace().await?, entries).await?,
            Order::End => break,
            _ => {}
        }
    }
    agent.shutdown().await;
    Ok(())
}

/// Waits until all entries are here, and tells the root and a hash over all that can be read.
pub(super) async fn settle(agent: &Agent, link: &Link, workspace: &Workspace, entries: usize) -> Outcome {
    let deadline = agent.world().clock.now() + WITHIN;
    let root = workspace.wait_for_entries(entries, deadline).await?;
    let mut tree = BTreeMap::new();
    for entry in workspace.list() {
        tree.insert(entry.path.clone(), workspace.read_entry(&entry).await?);
    }
    // Whoever put it there: an idea is its author's by his signature alone.
    let idea = tree.get("idea.signed").ok_or("the workspace holds no idea")?;
    brief::verify(idea.clone(), agent.world().clock.wall())?;
    let mut hash = Sha256::new();
    for (path, content) in &tree {
        hash.update((path.len() as u64).to_le_bytes());
        hash.update(path);
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    let tree = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    link.tell(Tell::Synced { root: root.to_string(), tree });
    Ok(())
}
