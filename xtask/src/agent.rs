//! The `agent` example, spoken to in its JSON.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    Outcome,
    process::{self, Process},
    root,
};

/// A peer on loopback is met within a second.
const MEET_WITHIN: Duration = Duration::from_secs(60);

/// A running agent.
#[derive(Debug)]
pub(crate) struct Agent {
    process: Process,
    /// Events that came while something else was waited for.
    events: VecDeque<Value>,
    pub(crate) addrs: Vec<String>,
    peer: String,
    gateway: Option<String>,
}

/// Builds the program.
pub(crate) fn build() -> Outcome<PathBuf> {
    example("agent")
}

/// Builds an example.
pub(crate) fn example(name: &str) -> Outcome<PathBuf> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--release", "--example", name, "--message-format", "json"]).current_dir(root());
    let messages = String::from_utf8(process::run(&mut command)?)?;
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == name).then(|| message["executable"].as_str().map(PathBuf::from))?
    };
    messages.lines().rev().find_map(executable).ok_or_else(|| format!("cargo built no {name}").into())
}

impl Agent {
    /// An agent with its data in `home`, which dials `peers`, with `more` arguments.
    pub(crate) fn start(program: &Path, home: &Path, peers: &[&str], more: &[&str]) -> Outcome<Self> {
        let mut command = Command::new(program);
        command.arg("--data-dir").arg(home).args(["--json", "--mdns", "off"]);
        command.args([
            "--ipfs-dht",
            "on",
            "--listen",
            "/ip4/127.0.0.1/tcp/0",
            "--listen",
            "/ip4/127.0.0.1/udp/0/quic-v1",
        ]);
        command.args(peers.iter().flat_map(|peer| ["--peer", peer])).args(more).env_remove("DIAI_PASSPHRASE");
        let log = std::fs::File::create(home.with_extension("log"))?;
        let process = Process::spawn("the agent", command.stderr(log))?;
        let mut agent =
            Self { process, events: VecDeque::new(), addrs: Vec::new(), peer: String::new(), gateway: None };
        let ready = agent.next(|line| line["event"] == "ready")?;
        let addrs = ready["addrs"].as_array().ok_or("the agent says no addresses")?;
        agent.addrs = addrs.iter().filter_map(|addr| addr.as_str().map(str::to_owned)).collect();
        agent.peer = ready["peer"].as_str().ok_or("the agent does not say who it is")?.to_owned();
        agent.gateway = ready["gateway"].as_str().map(str::to_owned);
        Ok(agent)
    }

    /// Of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its peer id.
    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// Where it serves blocks by HTTP.
    pub(crate) fn gateway(&self) -> Outcome<&str> {
        self.gateway.as_deref().ok_or_else(|| "the agent serves no gateway".into())
    }

    fn next(&mut self, wanted: impl Fn(&Value) -> bool) -> Outcome<Value> {
        if let Some(index) = self.events.iter().position(&wanted) {
            return self.events.remove(index).ok_or_else(|| "it is there".into());
        }
        loop {
            let line = self.process.line()?;
            let line: Value = serde_json::from_str(&line).map_err(|error| format!("{line:?}: {error}"))?;
            if wanted(&line) {
                return Ok(line);
            }
            self.events.push_back(line);
        }
    }

    /// The first address over that transport.
    pub(crate) fn addr(&self, transport: &str) -> Outcome<&str> {
        let mut over = self.addrs.iter().filter(|addr| addr.contains(transport));
        over.next().map(String::as_str).ok_or_else(|| format!("the agent has no address over {transport}").into())
    }

    pub(crate) fn tell(&mut self, command: &str) -> Outcome {
        self.process.tell(command)
    }

    pub(crate) fn answer(&mut self) -> Outcome<Value> {
        self.next(|line| line.get("ok").is_some())
    }

    /// The answer to a command, which may be an error.
    pub(crate) fn ask(&mut self, command: &str) -> Outcome<Value> {
        self.tell(command)?;
        self.answer()
    }

    /// The answer to a command, which must succeed.
    pub(crate) fn does(&mut self, command: &str) -> Outcome<Value> {
        let answer = self.ask(command)?;
        if answer["ok"] == true { Ok(answer) } else { Err(format!("{command}: {answer}").into()) }
    }

    /// Adds what is at `path`; its CID.
    pub(crate) fn add(&mut self, path: &Path, options: &str) -> Outcome<String> {
        let answer = self.does(&format!("add '{}' {options}", path.display()))?;
        Ok(answer["cid"].as_str().ok_or("no CID")?.to_owned())
    }

    /// Waits until it is connected to `peer`: it may have been before its events began.
    pub(crate) fn meets(&mut self, peer: &str) -> Outcome {
        let until = Instant::now() + MEET_WITHIN;
        while !self.does("peers")?.to_string().contains(peer) {
            if Instant::now() >= until {
                return Err(format!("the agent does not reach {peer} within {MEET_WITHIN:?}").into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> Outcome {
        self.process.kill()
    }
}
