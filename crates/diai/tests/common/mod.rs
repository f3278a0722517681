//! Whole agents over the in-memory World, under virtual time.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{sync::Mutex, time::Duration};

use diai::{
    Agent, AgentBuilder, AgentId, Bytes, CallError, CallOptions, Calls, Cid, FindOptions, Identity, PeerId, World,
    blocks::{AddOptions, Workspace},
    core::{
        Entropy, Instant,
        memory::{AgentSpec, Sim},
    },
};

/// The program that the story runs.
pub const HELLO: &[u8] = include_bytes!("../../../../examples/guests/hello.wasm");

/// Numbers that are a function of a seed.
struct Seeded(Mutex<u64>);

impl Entropy for Seeded {
    fn fill(&self, buffer: &mut [u8]) {
        let mut state = self.0.lock().unwrap();
        for byte in buffer {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (*state >> 56) as u8;
        }
    }
}

/// The agent with this number; always the same.
pub fn identity(sim: &Sim, number: u64) -> Identity {
    Identity::generate(&Seeded(Mutex::new(number)), sim.wall())
}

/// A place in the network for `identity`.
pub fn enter(sim: &Sim, identity: &Identity) -> World {
    let (agent, peer, certificate) = (identity.agent(), identity.peer(), identity.certificate().to_bytes());
    sim.join(AgentSpec { agent, peer, certificate })
}

/// Starts agent `number` as `builder` says.
pub async fn start(sim: &Sim, number: u64, builder: AgentBuilder) -> Agent {
    let identity = identity(sim, number);
    builder.start_in(enter(sim, &identity), identity).await.unwrap()
}

/// Starts as many agents, which do nothing in particular but answer `echo`.
pub async fn neighbours(sim: &Sim, agents: u64) -> Vec<Agent> {
    let mut all = Vec::new();
    for number in 1..=agents {
        all.push(start(sim, number, echoing()).await);
    }
    all
}

pub fn echoing() -> AgentBuilder {
    Agent::builder().service("echo", |request| async move { Ok(request.body.into()) })
}

/// The power is cut; what the disk holds stays.
pub fn kill(sim: &Sim, agent: Agent) -> (PeerId, Identity) {
    let (peer, identity) = (agent.status().peer, agent.identity().clone());
    sim.kill(peer);
    drop(agent);
    (peer, identity)
}

/// Starts again on the same disk.
pub async fn restart(sim: &Sim, (peer, identity): (PeerId, Identity), builder: AgentBuilder) -> Agent {
    builder.start_in(sim.rejoin(peer), identity).await.unwrap()
}

pub fn within(agent: &Agent, seconds: u64) -> Instant {
    agent.world().clock.now() + Duration::from_secs(seconds)
}

/// Lets virtual time pass until `condition` holds.
pub async fn until(agent: &Agent, what: &str, mut condition: impl FnMut() -> bool) {
    let clock = &agent.world().clock;
    let deadline = within(agent, 300);
    while !condition() {
        assert!(clock.now() < deadline, "in vain: {what}");
        clock.sleep_until(clock.now() + Duration::from_millis(50)).await;
    }
}

pub async fn connect(one: &Agent, other: &Agent) {
    one.world().network.connect(other.status().peer, Vec::new()).await.unwrap();
}

/// Who offers `path`, sorted, once there are so many.
pub async fn find(agent: &Agent, path: &str, enough: usize) -> Vec<AgentId> {
    let (path, deadline) = (path.parse().unwrap(), within(agent, 60));
    loop {
        let found = agent.discovery().find_all(&path, FindOptions::default()).await;
        let mut agents: Vec<_> = found.iter().map(diai::discovery::Found::agent).collect();
        agents.sort();
        if agents.len() >= enough {
            return agents;
        }
        let clock = &agent.world().clock;
        assert!(clock.now() < deadline, "{} of {enough} found under {path}", agents.len());
        clock.sleep_until(clock.now() + Duration::from_millis(100)).await;
    }
}

pub fn ids<'a>(agents: impl IntoIterator<Item = &'a Agent>) -> Vec<AgentId> {
    let mut ids: Vec<_> = agents.into_iter().map(Agent::id).collect();
    ids.sort();
    ids
}

pub async fn echo(from: &Agent, to: AgentId) -> Result<Bytes, CallError> {
    from.messaging().call(to, "echo", Bytes::from_static(b"still here"), CallOptions::default()).await
}

pub async fn add(agent: &Agent, bytes: impl Into<Bytes>) -> Cid {
    agent.blocks().add_bytes(bytes, AddOptions::default()).await.unwrap().cid
}

/// A workspace that the first of `agents` created, as each of them sees it.
pub async fn share(agents: &[&Agent]) -> Vec<Workspace> {
    let members = agents[1..].iter().map(|agent| agent.identity().certificate()).collect();
    let mut all = vec![agents[0].blocks().create_workspace("ring", members).await.unwrap()];
    for agent in &agents[1..] {
        let invitation = all[0].invitation();
        all.push(agent.blocks().join_workspace(invitation).await.unwrap());
    }
    all
}

/// The root that all members come to, once each can read so many entries.
pub async fn common_root(agents: &[&Agent], workspaces: &[Workspace], entries: usize) -> Cid {
    let deadline = within(agents[0], 300);
    loop {
        let mut roots = Vec::new();
        for workspace in workspaces {
            roots.push(workspace.wait_for_entries(entries, deadline).await.unwrap());
        }
        if roots.iter().all(|root| *root == roots[0]) {
            return roots[0];
        }
        let clock = &agents[0].world().clock;
        assert!(clock.now() < deadline, "the members do not converge: {roots:?}");
        clock.sleep_until(clock.now() + Duration::from_millis(50)).await;
    }
}

/// Path and content of everything in a workspace, as one member reads it.
pub async fn tree(workspace: &Workspace) -> Vec<(String, Bytes)> {
    let mut tree = Vec::new();
    for entry in workspace.list() {
        tree.push((entry.path.clone(), workspace.read_entry(&entry).await.unwrap()));
    }
    tree
}
