//! The full agent as a program, driven by commands on standard input.
//!
//! ```sh
//! cargo run --release --example agent -- --data-dir ./alice --mdns off
//! cargo run --release --example agent -- --data-dir ./bob --mdns off --peer ADDR_THAT_ALICE_PRINTED
//! ```
//! `help` lists the commands. With `--json` each command answers with one line, in order; events are lines of their
//! own; logs go to standard error.

mod args;
mod car;
mod command;
mod content;
mod input;
mod keep;
mod output;
mod perform;

use std::{
    env::VarError,
    io::{IsTerminal, stdin},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use diai::{
    Agent, Event, Events, Preset, StartError, StreamExt,
    blocks::{BlocksConfig, IpfsDhtConfig, config::FetchConfig, gateway},
    core::PeerEvent,
    identity::key_file::{KeyFile, KeyFileError},
};
use serde_json::json;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use args::{Args, Switch};
use command::{Command, HELP};
use output::{Failure, Output};

/// The longest text that is shown.
const MAX_TEXT_BYTES: usize = 64 << 10;
/// What is printed may wait so long for its reader once the agent has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    diai_examples::log_to_stderr();
    let (end, ending) = watch::channel(false);
    let (output, printed) = Output::new(args.json, ending.clone());
    let code = match run(args, output.clone(), end, ending).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if output.json {
                output.answer(Err(failure)).await;
            } else {
                eprintln!("error ({}): {}", failure.code, failure.message);
            }
            ExitCode::FAILURE
        }
    };
    drop(output);
    // The reader may have stopped reading.
    let _ = printed.recv_timeout(LAST_WORDS);
    code
}

async fn run(
    args: Args,
    output: Output,
    end: watch::Sender<bool>,
    mut ending: watch::Receiver<bool>,
) -> Result<(), Failure> {
    // Asked for while Ctrl-C still ends the program by itself.
    let passphrase = passphrase(&args.data_dir)?;
    let interrupted = Interrupted::new().map_err(|error| Failure::new("start", error))?;
    let mut watching = JoinSet::new();
    watching.spawn(interrupted.watch(end));
    let serves_tasks = args.serve_tasks == Switch::On;
    let (ready, is_ready) = watch::channel(false);
    let agent = start(args, passphrase, &output, is_ready).await?;
    let mut events = agent.events();
    output.event("ready", perform::id(&agent)).await;
    if serves_tasks && !output.json {
        output
            .text("  it runs WASM programs of any agent that can reach it; --serve-tasks off runs none".to_owned())
            .await;
    }
    ready.send_replace(true);
    let mut lines = input::lines();
    loop {
        tokio::select! {
            biased;
            () = told(&mut ending) => break,
            Some(event) = events.next() => show(&agent, &output, event),
            line = lines.recv() => {
                let Some(line) = line else { break };
                if !obey(&agent, &output, line, &mut events, &mut ending).await {
                    break;
                }
            }
        }
    }
    agent.shutdown().await;
    output.event("stopped", json!({})).await;
    Ok(())
}

/// Carries out one command and answers it, showing events meanwhile. False when the agent is to end.
async fn obey(
    agent: &Agent,
    output: &Output,
    line: Result<String, String>,
    events: &mut Events,
    ending: &mut watch::Receiver<bool>,
) -> bool {
    let command = match line.and_then(|line| Command::parse(&line)) {
        Ok(command) => command,
        Err(message) => {
            output.answer(Err(Failure::new("usage", message))).await;
            return true;
        }
    };
    match command {
        Command::Quit => {
            output.answer(Ok(json!({}))).await;
            return false;
        }
        Command::Help if !output.json => {
            output.text(HELP.to_owned()).await;
            return true;
        }
        _ => {}
    }
    let mut performing = std::pin::pin!(perform::perform(agent, command));
    loop {
        tokio::select! {
            biased;
            () = told(ending) => {
                output.answer(Err(Failure::new("interrupted", "the agent is ending"))).await;
                return false;
            }
            answer = &mut performing => {
                output.answer(answer).await;
                return true;
            }
            Some(event) = events.next() => show(agent, output, event),
        }
    }
}

/// Texts are shown from when `ready` is true, so that nothing comes before the event of that name.
async fn start(
    args: Args,
    passphrase: Option<String>,
    output: &Output,
    ready: watch::Receiver<bool>,
) -> Result<Agent, Failure> {
    let (plain, output) = (passphrase.is_none(), output.clone());
    let show = move |request: diai::Request| {
        let (output, mut ready) = (output.clone(), ready.clone());
        async move {
            if request.body.len() > MAX_TEXT_BYTES {
                let reason = format!("a text has at most {MAX_TEXT_BYTES} bytes");
                return Err(diai::Refusal::BadRequest { reason });
            }
            told(&mut ready).await;
            let text = String::from_utf8_lossy(&request.body).into_owned();
            output.event("message", json!({ "from": request.from.to_string(), "text": text })).await;
            Ok(diai::Reply::Whole(diai::Bytes::new()))
        }
    };
    let mut builder = Agent::builder()
        .data_dir(&args.data_dir)
        .preset(Preset::Lan)
        .mdns(args.mdns == Switch::On)
        .serve_tasks(args.serve_tasks == Switch::On)
        .service("echo", |request| async move { Ok(request.body.into()) })
        .service("text", show);
    let server = args.serve_gateway.map(|addr| gateway::ServerConfig { addr, ..gateway::ServerConfig::default() });
    let client = gateway::ClientConfig { urls: args.gateway, ..gateway::ClientConfig::default() };
    builder = builder.blocks(BlocksConfig {
        fetch: FetchConfig { whole_dags: args.whole_dags == Switch::On, ..FetchConfig::default() },
        ipfs_dht: (args.ipfs_dht == Switch::On).then(IpfsDhtConfig::default),
        provide: args.provide.into(),
        gateway: gateway::GatewayConfig { client, server },
        ..BlocksConfig::default()
    });
    builder = args.listen.into_iter().fold(builder, |builder, addr| builder.listen(addr));
    builder = args.peer.into_iter().fold(builder, |builder, addr| builder.contact(addr));
    builder = args.capability.into_iter().fold(builder, |builder, path| builder.capability(path.as_str()));
    if let Some(passphrase) = passphrase {
        builder = builder.passphrase(passphrase);
    }
    let agent = builder.start().await.map_err(|error| Failure::new(start_code(&error), error))?;
    if plain {
        let folder = args.data_dir.display();
        eprintln!("warning: the key file in {folder} is not encrypted; DIAI_PASSPHRASE protects that of a new agent");
    }
    Ok(agent)
}

fn start_code(error: &StartError) -> &'static str {
    match error {
        StartError::KeyFile(KeyFileError::Locked) => "in_use",
        StartError::KeyFile(KeyFileError::PassphraseNeeded) => "passphrase_needed",
        StartError::KeyFile(KeyFileError::WrongPassphrase) => "wrong_passphrase",
        StartError::KeyFile(KeyFileError::NotEncrypted) => "not_encrypted",
        StartError::KeyFile(KeyFileError::Damaged { .. } | KeyFileError::UnknownFormat { .. }) => "damaged",
        _ => "start",
    }
}

/// The passphrase from the environment, or from a prompt on a terminal: asked for twice when the key file is new.
fn passphrase(data_dir: &Path) -> Result<Option<String>, Failure> {
    match std::env::var("DIAI_PASSPHRASE") {
        Ok(passphrase) => return Ok(Some(passphrase).filter(|passphrase| !passphrase.is_empty())),
        // To go on without would write a plain key file.
        Err(VarError::NotUnicode(_)) => return Err(Failure::new("start", "DIAI_PASSPHRASE is not UTF-8 text")),
        Err(VarError::NotPresent) => {}
    }
    if !stdin().is_terminal() {
        return Ok(None);
    }
    let fresh = !data_dir.join(KeyFile::PATH).exists();
    let ask = |prompt: String| rpassword::prompt_password(prompt).map_err(|error| Failure::new("start", error));
    let first = ask(format!("Passphrase of {} (empty for none): ", data_dir.display()))?;
    if fresh && !first.is_empty() && ask("The same again: ".into())? != first {
        return Err(Failure::new("start", "the two passphrases differ"));
    }
    Ok(Some(first).filter(|passphrase| !passphrase.is_empty()))
}

fn show(agent: &Agent, output: &Output, event: Event) {
    match event {
        Event::Peer(PeerEvent::Connected(peer)) => {
            let agent = peer.agent.map(|agent| agent.to_string());
            output.hint("connected", json!({ "peer": peer.peer.to_string(), "agent": agent }));
        }
        Event::Peer(PeerEvent::Disconnected(peer)) => {
            let agent = agent.discovery().known().into_iter().find(|record| record.peer == peer);
            let agent = agent.map(|record| record.agent.to_string());
            output.hint("disconnected", json!({ "peer": peer.to_string(), "agent": agent }));
        }
        other => tracing::debug!(?other, "event"),
    }
}

/// Waits until it is true, or never will be.
async fn told(flag: &mut watch::Receiver<bool>) {
    // An error says that whoever would have told it is gone.
    let _ = flag.wait_for(|flag| *flag).await;
}

/// Ctrl-C and SIGTERM.
struct Interrupted {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupted {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The first lets the agent end gracefully, the second ends the program at once.
    async fn watch(mut self, end: watch::Sender<bool>) {
        self.next().await;
        end.send_replace(true);
        self.next().await;
        eprintln!("ended at once; what was not durable yet may be lost");
        std::process::exit(130);
    }

    async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
