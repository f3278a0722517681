//! The full agent as a program, driven by commands on standard input.
//!
//! ```sh
//! cargo run --release --example agent -- --data-dir ./alice --mdns off
//! cargo run --release --example agent -- --data-dir ./bob --mdns off --peer ADDR_THAT_ALICE_PRINTED
//! ```
//! `help` lists the commands. With `--json` each command answers with one line, in order; events are lines of their
//! own; logs go to standard error.

mod args;
mod command;
mod input;
mod output;
mod perform;

use std::{
    io::{IsTerminal, stdin},
    path::Path,
    process::ExitCode,
};

use clap::Parser;
use diai::{
    Agent, Event, Events, Preset, StartError, StreamExt,
    core::PeerEvent,
    identity::key_file::{KeyFile, KeyFileError},
};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use args::{Args, Switch};
use command::{Command, HELP};
use output::{Failure, Output};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    diai_examples::log_to_stderr();
    let output = Output { json: args.json };
    match run(args, output).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.answer(Err(failure));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args, output: Output) -> Result<(), Failure> {
    // Asked for while Ctrl-C still ends the program by itself.
    let passphrase = passphrase(&args.data_dir)?;
    let mut interrupted = Interrupted::new().map_err(|error| Failure::new("start", error))?;
    let agent = start(args, passphrase, output).await?;
    let mut events = agent.events();
    let ready = json!({
        "agent": agent.id().to_string(),
        "peer": agent.world().network.local_peer().to_string(),
        "addrs": perform::addrs(&agent.world().network.local_addrs()),
    });
    output.event("ready", ready);
    let mut lines = input::lines();
    loop {
        tokio::select! {
            biased;
            () = interrupted.next() => break,
            Some(event) = events.next() => show(output, event),
            line = lines.recv() => {
                let Some(line) = line else { break };
                if !obey(&agent, output, line, &mut events, &mut interrupted).await {
                    break;
                }
            }
        }
    }
    agent.shutdown().await;
    output.event("stopped", json!({}));
    Ok(())
}

/// Carries out one command and answers it, showing events meanwhile. False when the agent is to end.
async fn obey(
    agent: &Agent,
    output: Output,
    line: Result<String, String>,
    events: &mut Events,
    interrupted: &mut Interrupted,
) -> bool {
    let command = match line.and_then(|line| Command::parse(&line)) {
        Ok(command) => command,
        Err(message) => {
            output.answer(Err(Failure::new("usage", message)));
            return true;
        }
    };
    match command {
        Command::Quit => {
            output.answer(Ok(json!({})));
            return false;
        }
        Command::Help if !output.json => {
            output.text(HELP);
            return true;
        }
        _ => {}
    }
    let mut performing = std::pin::pin!(perform::perform(agent, command));
    loop {
        tokio::select! {
            biased;
            () = interrupted.next() => {
                output.answer(Err(Failure::new("interrupted", "the agent is ending")));
                return false;
            }
            answer = &mut performing => {
                output.answer(answer);
                return true;
            }
            Some(event) = events.next() => show(output, event),
        }
    }
}

async fn start(args: Args, passphrase: Option<String>, output: Output) -> Result<Agent, Failure> {
    let plain = passphrase.is_none();
    let mut builder = Agent::builder()
        .data_dir(&args.data_dir)
        .preset(Preset::Lan)
        .mdns(args.mdns == Switch::On)
        .serve_tasks(true)
        .service("echo", |request| async move { Ok(request.body.into()) })
        .service("text", move |request| async move {
            let text = String::from_utf8_lossy(&request.body).into_owned();
            output.event("message", json!({ "from": request.from.to_string(), "text": text }));
            Ok(diai::Reply::Whole(diai::Bytes::new()))
        });
    builder = args.listen.into_iter().fold(builder, |builder, addr| builder.listen(addr));
    builder = args.peer.into_iter().fold(builder, |builder, addr| builder.contact(addr));
    builder = args.capability.into_iter().fold(builder, |builder, path| builder.capability(path));
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
    if let Ok(passphrase) = std::env::var("DIAI_PASSPHRASE") {
        return Ok(Some(passphrase).filter(|passphrase| !passphrase.is_empty()));
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

fn show(output: Output, event: Event) {
    match event {
        Event::Peer(PeerEvent::Connected(peer)) => {
            let agent = peer.agent.map(|agent| agent.to_string());
            output.event("connected", json!({ "peer": peer.peer.to_string(), "agent": agent }));
        }
        Event::Peer(PeerEvent::Disconnected(peer)) => output.event("disconnected", json!({ "peer": peer.to_string() })),
        other => tracing::debug!(?other, "event"),
    }
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

    async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
