//! What the commands do.

use std::{collections::BTreeSet, io::ErrorKind, path::Path, sync::Arc, time::Duration};

use diai::{
    Agent, AgentId, Bytes, CallOptions, Calls, Cid, FindOptions, Multiaddr, Refusal, TaskSpec,
    blocks::{
        AddOptions, ContentError, FetchError, FetchOptions,
        sealed::{Keying, OpenError, Salt},
        unixfs::ImportOptions,
    },
    core::{CallError, Disk, OpenMode, offload, os::FsDisk},
    tasks::{Artifact, RunError},
};
use serde_json::{Value, json};

use crate::{
    car,
    command::{Add, Body, Command, HELP, Run},
    content, keep,
    output::Failure,
};

const FIND_WITHIN: Duration = Duration::from_secs(5);
const CALL_WITHIN: Duration = Duration::from_secs(30);
/// What `run` allows for all but the running itself.
const AROUND_A_RUN: Duration = Duration::from_secs(60);
/// The longest file that `run` and `call` read.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Standard output is shown when it is text no longer than this.
const MAX_SHOWN_BYTES: u64 = 16 << 10;

/// Carries out a command; what it gives are the fields of its answer.
pub(crate) async fn perform(agent: &Agent, command: Command) -> Result<Value, Failure> {
    match command {
        Command::Id => Ok(id(agent)),
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
                        "connected": agent.world().network.peer(record.peer).is_some(),
                        "fresh": found.fresh,
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
        Command::Add(command) => add(agent, command).await,
        Command::Stat { cid, within } => content::stat(agent, cid, within).await,
        Command::Ls { cid, within } => content::ls(agent, cid, within).await,
        Command::Cat { cid, offset, length, within } => content::cat(agent, cid, offset, length, within).await,
        Command::Get { cid, out, within } => get(agent, cid, &out, within).await,
        Command::Export { cid, out, within } => car::export(agent, cid, &out, within).await,
        Command::Import { path } => car::import(agent, &path).await,
        Command::Keep(command) => keep::perform(agent, command).await,
        Command::Run(command) => run(agent, command).await,
        Command::Status => status(agent).await,
        Command::Help => Ok(json!({ "help": HELP.lines().collect::<Vec<_>>() })),
        Command::Quit => Ok(json!({})),
    }
}

/// Who the agent is, and where it can be dialled.
pub(crate) fn id(agent: &Agent) -> Value {
    json!({
        "agent": agent.id().to_string(),
        "peer": agent.world().network.local_peer().to_string(),
        "addrs": addrs(&agent.world().network.local_addrs()),
        "gateway": agent.blocks().gateway_addr().map(|addr| format!("http://{addr}")),
    })
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
            "rtt_ms": peer.rtt.map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
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
        Body::File(path) => read(agent, &path).await?,
    };
    let options = CallOptions::within(CALL_WITHIN);
    let reply = agent.messaging().call(to, service, body, options).await;
    let reply = reply.map_err(|error| match &error {
        CallError::Refused { agent, refusal: Refusal::UnknownService } => {
            Failure::new("refused", format!("{agent} refused: it has no service {service:?}"))
        }
        _ => call_failure(error),
    })?;
    Ok(match String::from_utf8(reply.to_vec()) {
        Ok(text) => json!({ "reply": text }),
        Err(_) => json!({ "reply": null, "bytes": reply.len() }),
    })
}

/// All of a file that is there.
async fn read(agent: &Agent, path: &Path) -> Result<Bytes, Failure> {
    let (disk, name) = source(path)?;
    let read = move || {
        let file = disk.open(&name, OpenMode::Read)?;
        let length = file.len()?;
        let long = || std::io::Error::other(format!("it has {length} bytes, at most {MAX_FILE_BYTES} are read"));
        let fits = usize::try_from(length).ok().filter(|_| length <= MAX_FILE_BYTES);
        let mut bytes = vec![0; fits.ok_or_else(long)?];
        file.read_exact_at(0, &mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let failure = |error: &dyn std::fmt::Display| file_failure(path, error);
    let bytes = offload(&*agent.world().offload, read).await.map_err(|error| failure(&error))?;
    bytes.map(Bytes::from).map_err(|error| failure(&error))
}

pub(crate) fn file_failure(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new("file", format!("{}: {error}", path.display()))
}

/// The folder that something lies in, as a disk, and its name there. Links on the way are followed.
pub(crate) fn source(path: &Path) -> Result<(Arc<FsDisk>, String), Failure> {
    place(&path.canonicalize().map_err(|error| file_failure(path, &error))?)
}

/// The same for something to be written into a folder that is there.
pub(crate) fn place(path: &Path) -> Result<(Arc<FsDisk>, String), Failure> {
    let failure = |error: &dyn std::fmt::Display| file_failure(path, error);
    let full = std::path::absolute(path).map_err(|error| failure(&error))?;
    let name = full.file_name().and_then(|name| name.to_str()).ok_or_else(|| failure(&"this is no name of a file"))?;
    let folder = full.parent().ok_or_else(|| failure(&"this is no name of a file"))?;
    if !folder.is_dir() {
        return Err(failure(&format!("the folder {} is not there; make it first", folder.display())));
    }
    let disk = FsDisk::open(folder).map_err(|error| failure(&error))?;
    Ok((Arc::new(disk), name.to_owned()))
}

async fn add(agent: &Agent, command: Add) -> Result<Value, Failure> {
    let mut certificates = Vec::new();
    for reader in &command.readers {
        let record = agent.discovery().find_agent(*reader, FIND_WITHIN).await;
        certificates.push(record.map_err(|error| Failure::new("unreachable", error))?.certificate().clone());
    }
    let (disk, name) = source(&command.path)?;
    let options = if command.seals() {
        let salt = || Salt::of_device(agent.identity(), 0);
        let keying = if command.convergent { Keying::Convergent(salt()) } else { Keying::Random };
        AddOptions { keying, replaces: command.replaces, ..AddOptions::sealed_for(certificates) }
    } else {
        AddOptions { import: ImportOptions::profile(command.profile), ..AddOptions::default() }
    };
    let added = agent.blocks().add_path(disk, &name, options).await.map_err(|error| Failure::new("store", error))?;
    Ok(json!({ "cid": added.cid.to_string(), "bytes": added.bytes }))
}

async fn get(agent: &Agent, cid: Cid, out: &Path, within: Duration) -> Result<Value, Failure> {
    let failure = |error: ContentError| {
        let code = match &error {
            ContentError::Fetch(FetchError::NotFound { .. }) => "not_found",
            ContentError::Open(OpenError::NotForYou { .. }) => "not_allowed",
            ContentError::Export(_) | ContentError::Open(OpenError::Io { .. } | OpenError::UnsafeName { .. }) => "file",
            _ => "store",
        };
        Failure::new(code, error)
    };
    let (disk, name) = place(out)?;
    if out.symlink_metadata().is_ok() {
        return Err(file_failure(out, &"it exists; choose another target"));
    }
    let deadline = agent.world().clock.now() + within;
    let blocks = agent.blocks();
    // What comes is cached only, and read afterwards.
    let _guard = blocks.store().guard_root(cid);
    let options = FetchOptions::until(deadline);
    blocks.fetch(cid, &options).await.map_err(|error| failure(error.into()))?;
    let bytes = if blocks.is_sealed(cid).await.map_err(failure)? {
        blocks.export_sealed(cid, disk, &name, deadline).await.map_err(failure)?
    } else {
        blocks.export(cid, disk, &name, deadline).await.map_err(failure)?
    };
    let from = options.account.senders().into_iter().map(|sent| {
        json!({
            "peer": sent.peer.to_string(),
            "via": sent.via.to_string(),
            "blocks": sent.blocks,
            "bytes": sent.bytes,
        })
    });
    Ok(json!({ "path": out.display().to_string(), "bytes": bytes, "from": from.collect::<Vec<_>>() }))
}

async fn run(agent: &Agent, command: Run) -> Result<Value, Failure> {
    let keep = async |path: &Path, otherwise: &'static str| {
        let bytes = read(agent, path).await.map_err(|failure| Failure { code: unread(path, otherwise), ..failure })?;
        let added = agent.blocks().add_bytes(bytes, AddOptions::default()).await;
        added.map(|added| added.cid).map_err(|error| Failure::new("store", error))
    };
    let program = keep(&command.program, "invalid_program").await?;
    // The limit is the program's own; finding a worker, fetching and compiling come on top.
    let deadline = AROUND_A_RUN + command.limits.time;
    let mut spec = TaskSpec::wasm(program).limits(command.limits).deadline(deadline);
    let mut names = BTreeSet::new();
    for path in &command.inputs {
        let name = input_name(path, &mut names);
        spec = spec.input(name, keep(path, "not_found").await?);
    }
    if let Some(capability) = command.capability {
        spec = spec.capability(capability.as_str());
    }
    let failure = |error: RunError| Failure::new(error.code(), error);
    let output = agent.tasks().run(spec).result().await.map_err(failure)?;
    let files = output.files().iter().map(|file| json!({ "name": file.name, "cid": file.artifact.cid.to_string() }));
    let mut answer = json!({
        "agent": output.worker.to_string(),
        "here": output.worker == agent.id(),
        "cid": output.stdout().cid.to_string(),
        "files": files.collect::<Vec<_>>(),
    });
    if let Some(text) = shown(agent, output.stdout()).await {
        answer["stdout"] = text.into();
    }
    Ok(answer)
}

/// The code for a file of `run` that could not be read.
fn unread(path: &Path, otherwise: &'static str) -> &'static str {
    match path.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => "not_found",
        Err(error) if error.kind() == ErrorKind::PermissionDenied => "not_allowed",
        _ => otherwise,
    }
}

/// What the guest finds the file under: its own name, with a number if another has it already.
fn input_name(path: &Path, taken: &mut BTreeSet<String>) -> String {
    let own = path.file_name().map_or_else(|| "input".into(), |name| name.to_string_lossy().replace('\\', "_"));
    let numbered = (2u64..).map(|number| format!("{number}-{own}"));
    let free = std::iter::once(own.clone()).chain(numbered).find(|name| !taken.contains(name)).unwrap_or(own);
    taken.insert(free.clone());
    free
}

async fn shown(agent: &Agent, artifact: &Artifact) -> Option<String> {
    if artifact.bytes > MAX_SHOWN_BYTES {
        return None;
    }
    String::from_utf8(agent.tasks().content(artifact).await.ok()?.to_vec()).ok()
}

async fn status(agent: &Agent) -> Result<Value, Failure> {
    let status = agent.status();
    let blocks = agent.blocks().status().await.map_err(|error| Failure::new("store", error))?;
    Ok(json!({
        "agent": status.agent.to_string(),
        "peer": status.peer.to_string(),
        "addrs": addrs(&status.addrs),
        "peers": status.connected_peers,
        "known_agents": status.known_agents,
        "blocks": blocks.store.blocks,
        "bytes": blocks.store.data_bytes,
        "pins": blocks.pins,
    }))
}
