//! Agents beside the programs of others, by turns in the same run: each round lets every one do its work from nothing, so that
//! whatever else the machine does meets all.

mod add;
mod bulk;
mod link;
mod many;
mod memory;
mod proxy;
mod single;
mod table;

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use crate::{
    Outcome,
    agent::{self, Agent},
    bare::Bare,
    kubo::{self, Kubo, Routing},
    peers::table::{Row, Table},
    process,
};

/// What the user asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) only: Option<String>,
    pub(crate) rounds: u32,
    pub(crate) mib: u64,
    pub(crate) json: bool,
}

/// All that a row may use.
#[derive(Clone)]
struct Lab {
    dir: PathBuf,
    agent: PathBuf,
    ipfs: PathBuf,
    bare: Bare,
    rounds: u32,
    mib: u64,
    next_port: Cell<u16>,
}

type Measure = fn(&Lab) -> Outcome<Vec<Row>>;

const ROWS: &[(&str, Measure)] =
    &[("bulk", bulk::run), ("add", add::run), ("many", many::run), ("single", single::run), ("link", link::run)];

/// Measures and prints; whether every bar was met.
pub(crate) fn run(options: &Options) -> Outcome<bool> {
    eprintln!("building the agent, iroh-blobs and Kubo: a quarter of an hour, the first time");
    let (agent, ipfs, bare) = (agent::build()?, kubo::install()?, Bare::install()?);
    let temporary = tempfile::tempdir()?;
    let dir = temporary.path().to_owned();
    let (rounds, mib) = (options.rounds, options.mib);
    let lab = Lab { dir, agent, ipfs, bare, rounds, mib, next_port: Cell::new(24_201) };
    let mut table = Table::new(options.json);
    for (name, measure) in ROWS {
        if options.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            eprintln!("{name}:");
            for row in measure(&lab).map_err(|error| format!("{name}: {error}"))? {
                table.add(row);
            }
        }
    }
    Ok(table.finish())
}

/// One that does its work in the folder it is given, from nothing, and says how many seconds it took.
type Contender<'a> = (&'static str, Box<dyn FnMut(&Path) -> Outcome<f64> + 'a>);

impl Lab {
    /// The seconds that each contender took, sorted.
    fn by_turns<const N: usize>(&self, mut contenders: [Contender<'_>; N]) -> Outcome<[Times; N]> {
        let mut all = [const { Vec::new() }; N];
        for round in 1..=self.rounds {
            for ((name, work), times) in contenders.iter_mut().zip(&mut all) {
                let folder = tempfile::tempdir_in(&self.dir)?;
                let seconds = work(folder.path()).map_err(|error| format!("{name}: {error}"))?;
                eprintln!("  round {round} of {}: {name}: {seconds:.4} s", self.rounds);
                times.push(seconds);
            }
        }
        Ok(all.map(|mut seconds| {
            seconds.sort_by(f64::total_cmp);
            Times(seconds)
        }))
    }

    fn folder(&self, name: &str) -> Outcome<PathBuf> {
        let folder = self.dir.join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// A new agent, connected to the peer at that address.
    fn agent(&self, home: &Path, to: Option<(&str, &str)>) -> Outcome<Agent> {
        let addrs: Vec<&str> = to.iter().map(|(addr, _)| *addr).collect();
        let mut agent = Agent::start(&self.agent, home, &addrs, &[])?;
        if let Some((_, peer)) = to {
            agent.meets(peer)?;
        }
        Ok(agent)
    }

    /// A new node, connected to the peer at that address.
    fn kubo(&self, home: &Path, to: Option<&str>) -> Outcome<Kubo> {
        let port = self.next_port.get();
        // Those of the rounds before may still be on their way out.
        self.next_port.set(24_201 + (port - 24_201 + 3) % 3_000);
        let kubo = Kubo::start(&self.ipfs, home, port, Routing::None)?;
        if let Some(addr) = to {
            kubo.ipfs(&["swarm", "connect", addr])?;
        }
        Ok(kubo)
    }
}

/// The seconds of one contender.
struct Times(Vec<f64>);

impl Times {
    fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    /// How many times as fast as `other` it is.
    fn faster_than(&self, other: &Self) -> f64 {
        other.median() / self.median()
    }

    /// The rate at which it moved `mib`.
    fn rate(&self, mib: f64) -> String {
        format!("{:.0} MiB/s", mib / self.median())
    }
}

/// How long `work` takes in seconds.
fn timed<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<f64> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed().as_secs_f64())
}

/// The first address over TCP.
fn tcp(addrs: &[String]) -> Outcome<&str> {
    addrs.iter().map(String::as_str).find(|addr| addr.contains("/tcp/")).ok_or_else(|| "no address over TCP".into())
}

fn text(path: &Path) -> Outcome<&str> {
    path.to_str().ok_or_else(|| format!("{} is no text", path.display()).into())
}

/// What lies dirty in memory would be written in somebody's turn.
fn settle() -> Outcome {
    process::run(&mut Command::new("sync")).map(drop)
}

/// Writes bytes that no two seeds share.
fn noise(path: &Path, seed: u64, bytes: usize) -> Outcome {
    use std::io::Write;
    let mut file = fs::File::create(path)?;
    let (mut state, mut left) = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, bytes);
    let mut piece = vec![0u8; 1 << 20];
    while left > 0 {
        for word in piece.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let now = left.min(piece.len());
        file.write_all(&piece[..now])?;
        left -= now;
    }
    file.sync_all()?;
    Ok(())
}
