//! What the commands do.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use diai::{
    Agent, AgentId, Bytes, CallOptions, Calls, Cid, FindOptions, Multiaddr, StreamExt, TaskSpec,
    blocks::{
        fetch::FetchOptions,
        handle::{AddOptions, ContentError},
    },
    core::{CallError, os::FsDisk},
    tasks::Artifact,
};
use serde_json::{Value, json};

use crate::{
    command::{Body, Command, HELP},
    output::Failure,
};

const FIND_WITHIN: Duration = Duration::from_secs(5);
const CALL_WITHIN: Duration = Duration::from_secs(30);
const GET_WITHIN: Duration = Duration::from_secs(60);
/// The longest file that `run` and `call` read.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Standard output is shown when it is text no longer than this.
const MAX_SHOWN_BYTES: u64 = 16 << 10;

/// Carries out a command; what it gives are the fields of its answer.
pub(crate) async fn perform(agent: &Agent, command: Command) -> Result<Value, Failure> {
    match command {
        Command::Id => Ok(json!({
            "agent": agent.id().to_string(),
            "peer": agent.world().network.local_peer().to_string(),
            "addrs": addrs(&agent.world().network.local_addrs()),
        })),
        Command::Peers => Ok(json!({ "peers": peers(agent) })),
        Command::Find(path) => {
            let found = agent.discovery().find_all(&path, FindOptions::within(FIND_WITHIN)).await;
            let agents: Vec<_> = found
                .iter()
                .map(|found| {
                    let record = found.record.record();
                    json!({
                        "agent": record.agent.to_string(),
                        "addrs": addrs(&record.addrs),
                        "capabilities": record.capabilities.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    })
                })
                .collect();
            Ok(json!({ "agents": agents }))
        }
        Command::Send { to, text } => {
            let options = CallOptions::within(CALL_WITHIN);
            agent.messaging().notify(to, "text", text.into(), options).await.map_err(call_failure)?;
            Ok(json!({}))
        }
        Command::Call { to, service, body } => call(agent, to, &service, body).await,
        Command::Add { path, readers } => add(agent, &path, readers).await,
        Command::Get { cid, out } => get(agent, cid, &out).await,
        Command::Run { program, inputs, capability } => run(agent, &program, inputs, capability).await,
        Command::Status => Ok(status(agent)),
        Command::Help => Ok(json!({ "help": HELP.lines().collect::<Vec<_>>() })),
        Command::Quit => Ok(json!({})),
    }
}

pub(crate) fn addrs(addrs: &[Multiaddr]) -> Vec<String> {
    addrs.iter().map(ToString::to_string).collect()
}

fn peers(agent: &Agent) -> Vec<Value> {
    let peers = agent.world().network.peers();
    let one = |peer: &diai::core::PeerInfo| {
        json!({
            "agent": peer.agent.map(|agent| agent.to_string()),
            "peer": peer.peer.to_string(),
            "addrs": addrs(&peer.addrs),
            "rtt_ms": peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        })
    };
    peers.iter().map(one).collect()
}

fn call_failure(error: CallError) -> Failure {
    let code = match &error {
        CallError::Unreachable { .. } => "unreachable",
        CallError::Refused { .. } => "refused",
        CallError::OutcomeUnknown { .. } => "outcome_unknown",
        CallError::Deadline { .. } => "deadline",
        CallError::TooLarge { .. } => "too_large",
        CallError::TooMany { .. } => "busy",
        _ => "closed",
    };
    Failure::new(code, error)
}

async fn call(agent: &Agent, to: AgentId, service: &str, body: Body) -> Result<Value, Failure> {
    let body = match body {
        Body::Text(text) => text.into(),
        Body::File(path) => read(&path).await?,
    };
    let options = CallOptions::within(CALL_WITHIN);
    let reply = agent.messaging().call(to, service, body, options).await.map_err(call_failure)?;
    Ok(match String::from_utf8(reply.to_vec()) {
        Ok(text) => json!({ "reply": text }),
        Err(_) => json!({ "reply": null, "bytes": reply.len() }),
    })
}

async fn read(path: &Path) -> Result<Bytes, Failure> {
    let failure = |error| Failure::new("file", format!("cannot read {}: {error}", path.display()));
    let length = tokio::fs::metadata(path).await.map_err(failure)?.len();
    if length > MAX_FILE_BYTES {
        let message = format!("{} has {length} bytes, at most {MAX_FILE_BYTES} are read", path.display());
        return Err(Failure::new("file", message));
    }
    Ok(tokio::fs::read(path).await.map_err(failure)?.into())
}

/// The folder that a path lies in, as a disk, and its name there.
fn place(path: &Path) -> Result<(Arc<FsDisk>, String), Failure> {
    let failure = |error: String| Failure::new("file", format!("{}: {error}", path.display()));
    let full = std::path::absolute(path).map_err(|error| failure(error.to_string()))?;
    let name = full.file_name().and_then(|name| name.to_str()).ok_or_else(|| failure("has no name".into()))?;
    let folder = full.parent().ok_or_else(|| failure("has no folder".into()))?;
    let disk = FsDisk::open(folder).map_err(|error| failure(error.to_string()))?;
    Ok((Arc::new(disk), name.to_owned()))
}

async fn add(agent: &Agent, path: &Path, readers: Vec<AgentId>) -> Result<Value, Failure> {
    let mut certificates = Vec::new();
    for reader in readers {
        let record = agent.discovery().find_agent(reader, FIND_WITHIN).await;
        certificates.push(record.map_err(|error| Failure::new("unreachable", error))?.certificate().clone());
    }
    let options = if certificates.is_empty() { AddOptions::default() } else { AddOptions::sealed_for(certificates) };
    let (disk, name) = place(path)?;
    let added = agent.blocks().add_path(disk, &name, options).await.map_err(|error| Failure::new("store", error))?;
    Ok(json!({ "cid": added.cid.to_string(), "bytes": added.bytes }))
}

async fn get(agent: &Agent, cid: Cid, out: &Path) -> Result<Value, Failure> {
    let failure = |error: ContentError| {
        let code = match &error {
            ContentError::Fetch(_) => "not_found",
            ContentError::Open(_) => "not_allowed",
            _ => "file",
        };
        Failure::new(code, error)
    };
    let deadline = agent.world().clock.now() + GET_WITHIN;
    agent.blocks().fetch(cid, &FetchOptions::until(deadline)).await.map_err(|error| failure(error.into()))?;
    let (disk, name) = place(out)?;
    let blocks = agent.blocks();
    let bytes = if blocks.is_sealed(cid).await.map_err(failure)? {
        blocks.export_sealed(cid, disk, &name, deadline).await.map_err(failure)?
    } else {
        blocks.export(cid, disk, &name, deadline).await.map_err(failure)?
    };
    Ok(json!({ "path": out.display().to_string(), "bytes": bytes }))
}

async fn run(agent: &Agent, program: &Path, inputs: Vec<PathBuf>, capability: Option<String>) -> Result<Value, Failure> {
    let keep = async |path: &Path| {
        let bytes = read(path).await?;
        let added = agent.blocks().add_bytes(bytes, AddOptions::default()).await;
        added.map(|added| added.cid).map_err(|error| Failure::new("store", error))
    };
    let mut spec = TaskSpec::wasm(keep(program).await?);
    for path in &inputs {
        let name = path.file_name().map_or_else(|| "input".into(), |name| name.to_string_lossy().into_owned());
        spec = spec.input(name, keep(path).await?);
    }
    if let Some(capability) = capability {
        spec = spec.capability(capability);
    }
    let failure = |error: diai::tasks::RunError| Failure::new(error.code(), error);
    let output = agent.tasks().run(spec).result().await.map_err(failure)?;
    let mut answer = json!({
        "agent": output.worker.to_string(),
        "cid": output.stdout().cid.to_string(),
        "files": output.files().iter().map(|file| json!({ "name": file.name, "cid": file.artifact.cid.to_string() })).collect::<Vec<_>>(),
    });
    if let Some(text) = shown(agent, output.stdout()).await {
        answer["stdout"] = text.into();
    }
    Ok(answer)
}

async fn shown(agent: &Agent, artifact: &Artifact) -> Option<String> {
    if artifact.bytes > MAX_SHOWN_BYTES {
        return None;
    }
    String::from_utf8(agent.tasks().content(artifact).await.ok()?.to_vec()).ok()
}

fn status(agent: &Agent) -> Value {
    let status = agent.status();
    json!({
        "agent": status.agent.to_string(),
        "peers": status.connected_peers,
        "known_agents": status.known_agents,
    })
}
