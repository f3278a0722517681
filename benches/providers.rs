//! A file that four providers have: one is honest, one honest and slow, one dies without a word, one lies. What comes a second
//! against what the honest ones could send together, and the longest time in which nothing came.

#![expect(clippy::disallowed_methods, reason = "the wires and the spoilt disk are those of the bench, not of an agent")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use criterion::Throughput;
use diai::{
    Agent, Bytes, Cid, Multiaddr, PeerId,
    blocks::{AddOptions, BlocksConfig, FetchOptions, StoreConfig, fetch::FetchProgressFn},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, sleep_until},
};

use crate::{
    Bench, Failure, Result, agents,
    card::Row,
    contest::{self, Plan, Work, now, work},
};

/// What the wires carry, in bytes a second.
const FAST: u64 = 40 << 20;
const SLOW: u64 = 4 << 20;
/// After so many bytes the one that dies is dead.
const LIFE_BYTES: u64 = 8 << 20;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let mib: usize = if bench.test { 2 } else { 128 };
    let folder = tempfile::tempdir()?;
    let stalls = Arc::new(Mutex::new(Vec::new()));
    let place = Place { folder: folder.path().to_owned(), mib, stalls: stalls.clone() };
    let plan = Plan { turn: 1, samples: 10, pieces: 1, throughput: Some(Throughput::Bytes((mib << 20) as u64)) };
    let [ours] = contest::run(bench, "providers", plan, [("four providers", fetches(place))]);
    let rate = mib as f64 / ours.p50().as_secs_f64().max(f64::MIN_POSITIVE);
    let sum = (FAST + SLOW) as f64 / f64::from(1 << 20);
    let mut stalls = std::mem::take(&mut *stalls.lock().unwrap_or_else(PoisonError::into_inner));
    stalls.sort_unstable();
    let longest = stalls.last().copied().unwrap_or_default();
    bench.card.add(Row {
        what: "fetch from four providers: one honest, one slow, one that dies, one that lies",
        ours: format!("{rate:.1} MiB/s, longest time without a block {:.2} s", longest.as_secs_f64()),
        bare: format!("the wires of the two honest ones together {sum:.0} MiB/s"),
        ratio: format!("{:.2}x", rate / sum),
        bar: "at least 0.9x, no stall over 1 s",
        met: Some(rate / sum >= 0.9 && longest <= Duration::from_secs(1)),
    });
    Ok(())
}

/// Where the agents live, and what they saw.
#[derive(Clone)]
struct Place {
    folder: PathBuf,
    mib: usize,
    stalls: Arc<Mutex<Vec<Duration>>>,
}

/// Each time by new agents.
fn fetches(place: Place) -> Work {
    let number = Arc::new(AtomicUsize::new(0));
    work(move || {
        let (place, number) = (place.clone(), number.fetch_add(1, Ordering::Relaxed));
        async move {
            let folder = place.folder.join(number.to_string());
            let (took, stall) = fetch(&folder, place.mib).await.expect("the honest ones have it");
            place.stalls.lock().unwrap_or_else(PoisonError::into_inner).push(stall);
            fs::remove_dir_all(folder).expect("nobody uses it any more");
            took
        }
    })
}

async fn fetch(folder: &Path, mib: usize) -> Result<(Duration, Duration)> {
    let content = content(mib << 20);
    let mut providers = Vec::new();
    let mut wires = JoinSet::new();
    let mut holders = Vec::new();
    let fetcher = agents::agent(folder, "fetcher").start().await?;
    let mut root = None;
    for (name, wire) in [
        ("honest", Wire { rate: FAST, life_bytes: None }),
        ("slow", Wire { rate: SLOW, life_bytes: None }),
        ("mortal", Wire { rate: FAST, life_bytes: Some(LIFE_BYTES) }),
        ("liar", Wire { rate: FAST, life_bytes: None }),
    ] {
        let provider = provider(folder, name).start().await?;
        root = Some(provider.blocks().add_bytes(content.clone(), AddOptions::default()).await?.cid);
        if name == "liar" {
            provider.blocks().flush().await?;
            spoil(&folder.join(name))?;
        }
        let addr = wire.lay(&provider, &mut wires).await?;
        holders.push(connect(&fetcher, addr).await?);
        providers.push(provider);
    }
    let outcome = timed(&fetcher, root.ok_or("nothing was added")?, holders).await;
    for agent in providers.into_iter().chain([fetcher]) {
        agent.shutdown().await;
    }
    outcome
}

/// How long all takes, and the longest time without a block.
async fn timed(fetcher: &Agent, root: Cid, holders: Vec<PeerId>) -> Result<(Duration, Duration)> {
    let start = now();
    let longest = Arc::new(Mutex::new((start, Duration::ZERO)));
    let seen = longest.clone();
    let progress = FetchProgressFn::new(move |_| {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, stall) = *seen;
        *seen = (now(), stall.max(last.elapsed()));
    });
    let options = FetchOptions { holders, progress: Some(progress), ..FetchOptions::default() };
    fetcher.blocks().fetch(root, &options).await?;
    let (last, stall) = *longest.lock().unwrap_or_else(PoisonError::into_inner);
    fetcher.blocks().flush().await?;
    Ok((start.elapsed(), stall.max(last.elapsed())))
}

fn provider(folder: &Path, name: &str) -> diai::AgentBuilder {
    let store = StoreConfig { verify_reads: name != "liar", ..StoreConfig::default() };
    agents::agent(folder, name).blocks(BlocksConfig { store, ..BlocksConfig::default() })
}

fn content(bytes: usize) -> Bytes {
    use diai::core::Entropy;
    let mut content = vec![0; bytes];
    diai::core::os::OsEntropy.fill(&mut content);
    content.into()
}

/// Turns a byte in every tenth of a MiB of what lies on the disk of an agent that trusts its disk.
fn spoil(folder: &Path) -> Result<()> {
    use std::os::unix::fs::FileExt;
    for path in files(folder)? {
        let file = fs::File::options().read(true).write(true).open(path)?;
        for at in (64 << 10..file.metadata()?.len()).step_by(100 << 10) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at)?;
            file.write_all_at(&[!byte[0]], at)?;
        }
    }
    Ok(())
}

/// The large files below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.metadata()?.len() > 1 << 20 => files.push(path),
                false => {}
            }
        }
    }
    Ok(files)
}

/// Over the wire at that address; it is the only way that the fetcher knows when it begins.
async fn connect(fetcher: &Agent, addr: Multiaddr) -> Result<PeerId> {
    Ok(fetcher.world().network.dial(addr).await?.peer)
}

/// What lies between the fetcher and a provider.
#[derive(Clone, Copy)]
struct Wire {
    rate: u64,
    /// After so many bytes nothing comes any more, and nobody says why.
    life_bytes: Option<u64>,
}

impl Wire {
    /// Listens in front of `provider`.
    async fn lay(self, provider: &Agent, wires: &mut JoinSet<()>) -> Result<Multiaddr> {
        let behind = socket(&agents::addr(provider)?)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let mortal = self.life_bytes.map(|_| provider.clone());
        wires.spawn(async move {
            // Those who dial a second time find nobody.
            if let Ok((stream, _)) = listener.accept().await {
                drop(listener);
                // Either end may go at any time.
                let _ = self.carry(stream, behind, mortal).await;
            }
        });
        Ok(format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", provider.status().peer).parse()?)
    }

    async fn carry(self, stream: TcpStream, behind: String, mortal: Option<Agent>) -> Result<()> {
        let provider = TcpStream::connect(behind).await?;
        // What lies in buffers is not under way.
        let (mut from, mut to) = provider.into_split();
        let (mut asks, mut answers) = stream.into_split();
        let up = async move { Ok::<_, Failure>(copy(&mut asks, &mut to).await.map(drop)?) };
        let down = async move {
            let (mut piece, mut sent, start) = (vec![0; 32 << 10], 0u64, now());
            loop {
                let bytes = from.read(&mut piece).await?;
                if bytes == 0 {
                    return Ok::<_, Failure>(());
                }
                if self.life_bytes.is_some_and(|life_bytes| sent > life_bytes) {
                    if let Some(agent) = mortal {
                        agent.shutdown().await;
                    }
                    // Its peer hears nothing of that.
                    sleep(agents::PATIENCE).await;
                    return Ok(());
                }
                answers.write_all(&piece[..bytes]).await?;
                sent += bytes as u64;
                let due: Instant = start + Duration::from_secs_f64(sent as f64 / self.rate as f64);
                sleep_until(due.into()).await;
            }
        };
        tokio::try_join!(up, down).map(drop)
    }
}

/// The socket's address in `addr`, which is one of TCP on loopback.
fn socket(addr: &Multiaddr) -> Result<String> {
    let text = addr.to_string();
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        ["", "ip4", ip, "tcp", port, ..] => Ok(format!("{ip}:{port}")),
        _ => Err(Failure::from(format!("{addr} is no address over TCP"))),
    }
}
