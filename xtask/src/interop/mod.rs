//! Our agents beside Kubo and Helia: what one adds the others fetch, with the same CIDs.

mod cars;
mod content;
mod crashes;
mod dht;
mod exchange;
mod gateway;
mod story;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use serde_json::json;

use crate::{
    Outcome, agent,
    agent::Agent,
    helia::Helia,
    kubo::{self, Kubo, Routing},
    process,
};

/// What the user asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) only: Option<String>,
    pub(crate) json: bool,
    pub(crate) kills: u32,
}

/// All that a check may use. Each makes agents of its own; the nodes of others are started once.
pub(crate) struct Lab {
    dir: PathBuf,
    agent: PathBuf,
    pub(crate) ipfs: PathBuf,
    pub(crate) kubo: Kubo,
    pub(crate) second: Kubo,
    pub(crate) helia: Helia,
    pub(crate) kills: u32,
}

/// Of the swarm; the gateway's is the second after it.
const KUBO_PORT: u16 = 24_101;

type Check = (&'static str, fn(&Lab) -> Outcome);

const CHECKS: &[&[Check]] =
    &[exchange::CHECKS, dht::CHECKS, cars::CHECKS, gateway::CHECKS, crashes::CHECKS, story::CHECKS];

/// Runs the checks; whether all passed.
pub(crate) fn run(options: &Options) -> Outcome<bool> {
    eprintln!("building the agent, installing Kubo and Helia: minutes, the first time");
    let (agent, ipfs, helia) = (agent::build()?, kubo::install()?, Helia::install()?);
    let temporary = tempfile::tempdir()?;
    let dir = temporary.path().to_owned();
    let kubo = Kubo::start(&ipfs, &dir.join("kubo"), KUBO_PORT, Routing::None)?;
    let second = Kubo::start(&ipfs, &dir.join("second"), 24_111, Routing::None)?;
    let lab = Lab { dir, agent, ipfs, kubo, second, helia, kills: options.kills };
    let mut failed = 0;
    for (name, check) in CHECKS.iter().copied().flatten() {
        if options.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let began = Instant::now();
        let ended = check(&lab).map_err(|error| error.to_string());
        failed += usize::from(ended.is_err());
        report(options, name, began.elapsed().as_secs_f64(), ended.err());
    }
    Ok(failed == 0)
}

fn report(options: &Options, name: &str, seconds: f64, error: Option<String>) {
    if options.json {
        println!("{}", json!({ "check": name, "ok": error.is_none(), "seconds": seconds, "error": error }));
        return;
    }
    match error {
        None => println!("ok      {seconds:6.1} s  {name}"),
        Some(error) => println!("FAILED  {seconds:6.1} s  {name}: {error}"),
    }
}

impl Lab {
    /// A new folder for a check.
    pub(crate) fn folder(&self, name: &str) -> Outcome<PathBuf> {
        let folder = self.dir.join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// An agent that is connected to `kubo`.
    pub(crate) fn agent_beside(&self, home: &Path, kubo: &Kubo, transport: &str) -> Outcome<Agent> {
        let addr = kubo.addrs.iter().find(|addr| addr.contains(transport)).ok_or("Kubo has no such address")?;
        let mut agent = Agent::start(&self.agent, home, &[addr], &[])?;
        agent.meets(&kubo.peer)?;
        Ok(agent)
    }

    /// An agent that dials `peers`.
    pub(crate) fn agent(&self, home: &Path, peers: &[&str]) -> Outcome<Agent> {
        Agent::start(&self.agent, home, peers, &[])
    }

    /// An agent that knows nobody, with `more` arguments.
    pub(crate) fn lonely_agent(&self, home: &Path, more: &[&str]) -> Outcome<Agent> {
        Agent::start(&self.agent, home, &[], more)
    }
}

/// Whether both files, or folders, hold the same.
pub(crate) fn same(a: &Path, b: &Path) -> Outcome {
    process::run(Command::new("diff").arg("-rq").args([a, b])).map(drop)
}

/// The path as text.
pub(crate) fn text(path: &Path) -> Outcome<&str> {
    path.to_str().ok_or_else(|| format!("{} is no text", path.display()).into())
}
