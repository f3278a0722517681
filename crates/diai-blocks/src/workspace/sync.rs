//! The task of a workspace: exchanges heads with members, fetches parts, keeps the folder up to date.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cid::Cid;
use diai_core::{AgentId, CallError, CallOptions, Instant, Misbehaviour, PeerEvent, PeerEvents};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};

use super::{
    SERVICE,
    codec::Exchange,
    due::Fetches,
    replicate::{announce, build_root, entry_is_bad, replicate, settle},
    shell::{ReceiveError, Shared, device},
    state::{PartKey, Retry},
};
use crate::{Guard, workspace::WorkspaceError};

/// Members that are talked to at a time.
const MAX_EXCHANGES: usize = 8;
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

enum Done {
    Exchange { agent: AgentId, reached: bool },
    Part { key: PartKey, root: Cid, outcome: Result<(), WorkspaceError> },
    Root(Result<Guard, WorkspaceError>),
    Announced(Cid),
}

type Work = FuturesUnordered<BoxFuture<'static, Done>>;

/// Runs until it is dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut events = shared.world.network.events();
    let mut work: Work = FuturesUnordered::new();
    let mut running = Running::default();
    loop {
        let next = running.start(&shared, &mut work);
        tokio::select! {
            biased;
            Some(done) = work.next() => running.done(&shared, done).await,
            event = next_event(&mut events) => running.connected(&shared, event),
            () = shared.wake.notified() => {}
            () = shared.world.clock.sleep_until(next) => {}
        }
    }
}

async fn next_event(events: &mut PeerEvents) -> PeerEvent {
    match events.next().await {
        Some(event) => event,
        // The World has shut down; whoever owns this task ends it.
        None => futures::future::pending().await,
    }
}

#[derive(Default)]
struct Running {
    exchanges: usize,
    fetches: Fetches,
    building: bool,
    announcing: bool,
    announced: Option<Cid>,
    retry_root: Option<Retry>,
    /// Keeps the folder's blocks while it cannot be pinned yet.
    guard: Option<Guard>,
}

impl Running {
    /// A member that comes is talked to at once, and asked for what it has.
    fn connected(&mut self, shared: &Shared, event: PeerEvent) {
        let here = |agent: AgentId| match &event {
            PeerEvent::Connected(info) => info.agent == Some(agent),
            PeerEvent::Disconnected(_) => false,
            _ => device(&shared.world, agent).is_some(),
        };
        let mut state = shared.state();
        let came: Vec<_> = state.peers.keys().copied().filter(|agent| here(*agent)).collect();
        for agent in came {
            self.fetches.trust(&agent);
            if let Some(peer) = state.peers.get_mut(&agent) {
                peer.due = Retry::now();
                peer.push = true;
            }
            for part in state.parts.values_mut().filter(|part| !part.is_settled()) {
                part.due.at = Instant::default();
            }
        }
    }

    /// Starts what is due. Returns when to look again.
    fn start(&mut self, shared: &Arc<Shared>, work: &mut Work) -> Instant {
        let now = shared.world.clock.now();
        let mut next = Instant::NEVER;
        let mut agents = Vec::new();
        for (agent, peer) in &mut shared.state().peers {
            if peer.exchanging {
                continue;
            }
            if peer.due.at <= now && self.exchanges + agents.len() < MAX_EXCHANGES {
                peer.exchanging = true;
                peer.due.at = Instant::NEVER;
                agents.push(*agent);
            } else if peer.due.at > now {
                next = next.min(peer.due.at);
            }
        }
        for agent in agents {
            self.exchanges += 1;
            let shared = shared.clone();
            work.push(Box::pin(async move { Done::Exchange { agent, reached: exchange(&shared, agent).await } }));
        }
        let (parts, later) = self.fetches.start(now, &mut shared.state().parts);
        for (key, root) in parts {
            let shared = shared.clone();
            work.push(Box::pin(async move { Done::Part { key, root, outcome: replicate(&shared, key, root).await } }));
        }
        let retry = self.retry_root.map_or(Instant::default(), |retry| retry.at);
        if !self.building && shared.state().stale {
            if retry <= now {
                self.building = true;
                let shared = shared.clone();
                work.push(Box::pin(async move { Done::Root(build_root(&shared).await) }));
            } else {
                next = next.min(retry);
            }
        }
        let root = Some(shared.state()).filter(|state| !state.stale).map(|state| state.root);
        if let Some(root) = root.filter(|root| !self.announcing && self.announced != Some(*root)) {
            self.announcing = true;
            let (shared, before) = (shared.clone(), self.announced);
            work.push(Box::pin(async move {
                announce(&shared, root, before).await;
                Done::Announced(root)
            }));
        }
        next.min(later)
    }

    async fn done(&mut self, shared: &Arc<Shared>, done: Done) {
        let now = shared.world.clock.now();
        match done {
            Done::Exchange { agent, reached } => {
                self.exchanges -= 1;
                if let Some(peer) = shared.state().peers.get_mut(&agent) {
                    peer.exchanging = false;
                    if !reached {
                        peer.push = true;
                        // What became due meanwhile was due for the same reason.
                        peer.due.failed(now, shared.config.retry);
                    }
                }
                shared.changed();
            }
            Done::Part { key, root, outcome } => {
                let is_final = outcome.as_ref().is_err_and(WorkspaceError::is_final);
                self.fetches.ended(key.0, outcome.is_ok() || is_final);
                if let Err(error) = &outcome {
                    tracing::debug!(workspace = %shared.id(), owner = %key.0, %root, %error, "part not fetched");
                }
                if let Some(part) = shared.state().parts.get_mut(&key)
                    && part.entry.root == root
                {
                    part.fetching = false;
                    if outcome.is_err() {
                        part.failed(now, &shared.config);
                    }
                }
                if let Some(error) = outcome.err().filter(WorkspaceError::is_final) {
                    entry_is_bad(shared, key, root, &error);
                }
            }
            Done::Root(Ok(guard)) => {
                self.building = false;
                self.retry_root = None;
                self.guard = Some(guard);
            }
            Done::Root(Err(error)) => {
                self.building = false;
                tracing::warn!(workspace = %shared.id(), %error, "the workspace's folder was not built");
                self.retry_root.get_or_insert(Retry::now()).failed(now, shared.config.retry);
                shared.state().root_error = Some(Arc::new(error));
                shared.changed();
            }
            Done::Announced(root) => {
                self.announcing = false;
                self.announced = Some(root);
                return;
            }
        }
        match settle(shared).await {
            Ok(true) => self.guard = None,
            Ok(false) => {}
            Err(error) => tracing::warn!(workspace = %shared.id(), %error, "the workspace's folder was not pinned"),
        }
    }
}

/// Tells `agent` what is here, and takes in what it has. Returns whether it was reached.
async fn exchange(shared: &Shared, agent: AgentId) -> bool {
    let options = CallOptions::within(CALL_TIMEOUT).idempotent();
    // As often as heads do not fit, and once more when the answer shows that the other lacks some.
    for _ in 0..2 * shared.config.max_members.max(2) {
        let (request, more) = {
            let (known, push) = {
                let mut state = shared.state();
                let Some(peer) = state.peers.get_mut(&agent) else { return true };
                (peer.known.clone(), std::mem::take(&mut peer.push))
            };
            let (heads, more) = if push { shared.heads_for(&known) } else { (Vec::new(), false) };
            let known = shared.state().heads.known();
            (Exchange { workspace: shared.id(), known, heads, more }, more)
        };
        let answer = match shared.calls.call(agent, SERVICE, request.encode(), options).await {
            Ok(answer) => answer,
            Err(CallError::Refused { refusal, .. }) => {
                // It has not joined yet, or is busy.
                tracing::debug!(workspace = %shared.id(), %agent, %refusal, "exchange refused");
                return false;
            }
            Err(error) => {
                tracing::debug!(workspace = %shared.id(), %agent, %error, "exchange failed");
                return false;
            }
        };
        let Some(answer) = Exchange::decode(answer).ok().filter(|answer| answer.workspace == shared.id()) else {
            penalise(shared, agent, Misbehaviour::Malformed);
            return false;
        };
        if let Err(error) = receive(shared, agent, &answer).await {
            tracing::debug!(workspace = %shared.id(), %agent, %error, "heads refused");
            return false;
        }
        let lacks = !shared.heads_for(&answer.known).0.is_empty();
        if !(answer.more || more || lacks) {
            return true;
        }
        if let Some(peer) = shared.state().peers.get_mut(&agent) {
            peer.push = lacks;
        }
    }
    true
}

/// Takes in what `from` sent, and remembers what it has.
async fn receive(shared: &Shared, from: AgentId, exchange: &Exchange) -> Result<(), ReceiveError> {
    let outcome = shared.receive(exchange.heads.clone(), from).await;
    if let Err(ReceiveError::Head(_)) = &outcome {
        penalise(shared, from, Misbehaviour::Forged);
    }
    if let Some(peer) = shared.state().peers.get_mut(&from) {
        peer.known = exchange.known.clone();
    }
    outcome
}

fn penalise(shared: &Shared, agent: AgentId, misbehaviour: Misbehaviour) {
    if let Some(peer) = device(&shared.world, agent) {
        shared.world.network.penalise(peer, misbehaviour);
    }
}

/// Answers a member's exchange.
pub(super) async fn answer(shared: &Shared, from: AgentId, exchange: Exchange) -> Result<Bytes, ReceiveError> {
    receive(shared, from, &exchange).await?;
    let (heads, more) = shared.heads_for(&exchange.known);
    let known = shared.state().heads.known();
    shared.changed();
    Ok(Exchange { workspace: shared.id(), known, heads, more }.encode())
}
