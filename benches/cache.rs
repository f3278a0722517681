//! Blocks of another agent, some asked for more often than others: what the cache keeps of them, against an LRU of as many
//! bytes over the same store. Each side asks the same server for the same trace, by turns; what it has not got it fetches.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use diai::{
    Agent, Cid,
    blocks::{Block, BlocksConfig, RAW, config::CacheConfig},
    core::{Entropy, os::OsEntropy},
};
use lru::LruCache;

use crate::{
    Bench, Failure, Result, agents,
    card::{Row, short},
    contest::{self, Plan, Work, now, work},
};

const BLOCK_BYTES: usize = 16 << 10;
/// Of what is asked for more than once, a tenth fits.
const SHARE: usize = 10;
const SEED: u64 = 7;

/// What is asked for.
struct Trace {
    what: &'static str,
    name: &'static str,
    skew: f64,
    /// Each question of the trace comes after so many of a scan.
    scan: usize,
}

const TRACES: [Trace; 4] = [
    Trace { what: "cache, Zipf 0.9", name: "zipf-0.9", skew: 0.9, scan: 0 },
    Trace { what: "cache, Zipf 0.9, after each question one of a scan", name: "zipf-0.9-scan", skew: 0.9, scan: 1 },
    Trace { what: "cache, Zipf 1.1", name: "zipf-1.1", skew: 1.1, scan: 0 },
    Trace { what: "cache, Zipf 1.1, after each question one of a scan", name: "zipf-1.1-scan", skew: 1.1, scan: 1 },
];

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (keys, asks) = if bench.test { (100, 50) } else { (4000, 1000) };
    let path = folder.path().to_owned();
    let (server, cids) = bench.on_workers(async move {
        let server = agents::agent(&path, "server").start().await?;
        let mut cids = Vec::new();
        for _ in 0..2 * keys {
            let mut data = vec![0; BLOCK_BYTES];
            OsEntropy.fill(&mut data);
            let block = Block::new(RAW, data)?;
            cids.push(block.cid);
            server.blocks().put_block(block).await?;
        }
        Ok::<_, Failure>((server, Arc::new(cids)))
    })?;
    for trace in &TRACES {
        measure(bench, trace, &server, &cids, (keys, asks), folder.path())?;
    }
    bench.runtime.block_on(server.shutdown());
    Ok(())
}

fn measure(
    bench: &mut Bench,
    trace: &'static Trace,
    server: &Agent,
    cids: &Arc<Vec<Cid>>,
    (keys, asks): (usize, usize),
    folder: &Path,
) -> Result<()> {
    let budget = keys / SHARE;
    let start = |name: &str, max_bytes: u64| {
        let cache = CacheConfig { max_bytes, ..CacheConfig::default() };
        let builder = agents::agent(folder, &format!("{name} {}", trace.name));
        builder.blocks(BlocksConfig { cache, ..BlocksConfig::default() }).start()
    };
    let (ours, other) = (start("ours", (budget * BLOCK_BYTES) as u64), start("lru", u64::MAX));
    let (agent, plain) = (bench.on_workers(ours)?, bench.on_workers(other)?);
    let connected = (agent.clone(), plain.clone(), server.clone());
    bench.on_workers(async move {
        let (one, other, server) = connected;
        agents::connect(&one, &server).await?;
        agents::connect(&other, &server).await
    })?;
    let sides = [Side::new(&agent, None), Side::new(&plain, Some(budget))].map(Arc::new);
    let asking = |side: &Arc<Side>| asking(side.clone(), Questions::new(trace, cids.clone(), keys), asks);
    let contenders = [("W-TinyLFU", asking(&sides[0])), ("LRU", asking(&sides[1]))];
    let plan = Plan { turn: 1, samples: 10, pieces: 1, throughput: None };
    contest::run(bench, &format!("cache/{}", trace.name), plan, contenders);
    let [ours, lru] = sides.each_ref().map(|side| side.tally());
    let missing = (ours.missing + lru.missing) / 2;
    let saved = |tally: &Tally| 100.0 * (1.0 - tally.mean.as_secs_f64() / missing.as_secs_f64().max(f64::MIN_POSITIVE));
    bench.card.add(Row {
        what: trace.what,
        ours: format!("{:.1} % hits, {} each", ours.hits, short(ours.mean)),
        bare: format!("LRU {:.1} % hits, {}; without a cache {}", lru.hits, short(lru.mean), short(missing)),
        ratio: format!("{:.0} % of the time saved, LRU {:.0} %", saved(&ours), saved(&lru)),
        bar: "more hits than an LRU",
        met: Some(ours.hits > lru.hits),
    });
    bench.runtime.block_on(async {
        agent.shutdown().await;
        plain.shutdown().await;
    });
    Ok(())
}

/// One of the two, and what became of its questions.
struct Side {
    agent: Agent,
    /// For the plain alternative: what it holds.
    lru: Option<Mutex<LruCache<Cid, ()>>>,
    asked: Mutex<Vec<(bool, Duration)>>,
}

/// Figures without those of the first third, in which the caches fill.
struct Tally {
    /// Percent.
    hits: f64,
    mean: Duration,
    missing: Duration,
}

impl Side {
    fn new(agent: &Agent, lru: Option<usize>) -> Self {
        let lru = lru.and_then(std::num::NonZeroUsize::new).map(|blocks| Mutex::new(LruCache::new(blocks)));
        Self { agent: agent.clone(), lru, asked: Mutex::default() }
    }

    /// Asks for `cid`, and says how long it took. Questions of a scan do not count.
    async fn ask(&self, cid: Cid, counts: bool) -> Result<Duration> {
        let blocks = self.agent.blocks();
        let hit = blocks.has(&cid);
        let start = now();
        blocks.get_block(cid, self.agent.world().clock.now() + agents::PATIENCE).await?;
        let took = start.elapsed();
        if counts {
            self.asked.lock().expect("not poisoned").push((hit, took));
        }
        let gone = self.lru.as_ref().and_then(|lru| lru.lock().expect("not poisoned").push(cid, ()));
        if let Some((gone, ())) = gone.filter(|(gone, ())| *gone != cid) {
            blocks.store().remove(vec![gone]).await?;
        }
        Ok(took)
    }

    fn tally(&self) -> Tally {
        let asked = self.asked.lock().expect("not poisoned");
        let counted = &asked[asked.len() / 3..];
        let mean = |which: &dyn Fn(bool) -> bool| {
            let times: Vec<_> = counted.iter().filter(|(hit, _)| which(*hit)).map(|(_, took)| *took).collect();
            times.iter().sum::<Duration>() / times.len().max(1) as u32
        };
        let hits = counted.iter().filter(|(hit, _)| *hit).count();
        let hits = 100.0 * hits as f64 / counted.len().max(1) as f64;
        Tally { hits, mean: mean(&|_| true), missing: mean(&|hit| !hit) }
    }
}

fn asking(side: Arc<Side>, questions: Questions, asks: usize) -> Work {
    let questions = Arc::new(Mutex::new(questions));
    work(move || {
        let (side, questions) = (side.clone(), questions.clone());
        async move {
            let mut took = Duration::ZERO;
            for _ in 0..asks {
                let (scanned, cid) = questions.lock().expect("not poisoned").next();
                for cid in scanned {
                    side.ask(cid, false).await.expect("the server has it");
                }
                took += side.ask(cid, true).await.expect("the server has it");
            }
            took / asks as u32
        }
    })
}

/// The same for both sides.
struct Questions {
    cids: Arc<Vec<Cid>>,
    /// Sums of the weights of the keys, in the order of their ranks.
    upto: Vec<f64>,
    state: u64,
    scan: usize,
    scanned: usize,
}

impl Questions {
    fn new(trace: &Trace, cids: Arc<Vec<Cid>>, keys: usize) -> Self {
        let mut sum = 0.0;
        let weights = (1..=keys).map(|rank| {
            sum += (rank as f64).powf(-trace.skew);
            sum
        });
        Self { cids, upto: weights.collect(), state: SEED, scan: trace.scan, scanned: 0 }
    }

    /// What is scanned first, and what is asked for then.
    fn next(&mut self) -> (Vec<Cid>, Cid) {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let sum = self.upto.last().copied().unwrap_or_default();
        let at = (self.state >> 11) as f64 / (1u64 << 53) as f64 * sum;
        let key = self.upto.partition_point(|upto| *upto < at).min(self.upto.len() - 1);
        let keys = self.upto.len();
        let scanned = (self.scanned..self.scanned + self.scan).map(|at| self.cids[keys + at % keys]).collect();
        self.scanned += self.scan;
        (scanned, self.cids[key])
    }
}
