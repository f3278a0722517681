//! Blocks on disk: durable puts, reads, looks and reopening, beside engines that one would take otherwise.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use criterion::Throughput;
use diai::{
    blocks::{Block, RAW},
    core::{Entropy, os::OsEntropy},
};

use crate::{
    Bench, Result,
    card::{Row, short},
    contest::{self, Plan, Times, Work, now, work},
    engines::{Engine, Files, Ours, Redb},
};

/// What is measured of blocks of one size.
struct Size {
    name: &'static str,
    bytes: usize,
    /// Blocks that are put before they are made durable together.
    group: usize,
    /// Groups that are there when reads are measured.
    groups: usize,
    /// Reads in one piece of work.
    reads: usize,
}

const SIZES: [Size; 2] = [
    Size { name: "4 KiB", bytes: 4 << 10, group: 256, groups: 64, reads: 2000 },
    Size { name: "1 MiB", bytes: 1 << 20, group: 1, groups: 128, reads: 64 },
];

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    for size in &SIZES {
        let folder = tempfile::tempdir()?;
        let groups = if bench.test { 2 } else { size.groups };
        let blocks: Vec<Vec<Block>> = (0..groups).map(|_| group(size)).collect();
        put(bench, size, folder.path())?;
        let ours = Filled::<Ours>::new(folder.path(), &blocks)?;
        let redb = Filled::<Redb>::new(folder.path(), &blocks)?;
        let files = Filled::<Files>::new(folder.path(), &blocks)?;
        let blocks: Arc<Vec<Block>> = Arc::new(blocks.into_iter().flatten().collect());
        read(bench, size, &blocks, (&ours, &redb, &files));
        look(bench, size, &blocks, (&ours, &redb, &files));
        // Files need no opening; what they save here they pay with each look.
        reopen(bench, size, ours, redb);
    }
    Ok(())
}

/// New blocks of noise.
fn group(size: &Size) -> Vec<Block> {
    let one = |_| {
        let mut data = vec![0; size.bytes];
        OsEntropy.fill(&mut data);
        Block::new(RAW, data).expect("it is no larger than a block may be")
    };
    (0..size.group).map(one).collect()
}

fn put(bench: &mut Bench, size: &'static Size, folder: &Path) -> Result<()> {
    let mib = (size.bytes * size.group) as f64 / f64::from(1 << 20);
    let bytes = Throughput::Bytes((size.bytes * size.group) as u64);
    let plan = Plan { turn: 4, samples: 10, pieces: 8, throughput: Some(bytes) };
    let contenders = [putting::<Ours>(size, folder)?, putting::<Redb>(size, folder)?, putting::<Files>(size, folder)?];
    let times = contest::run(bench, &format!("store/put/{}", size.name), plan, contenders);
    let shown = |times: &Times| format!("{:.0} MiB/s", mib / times.p50().as_secs_f64().max(f64::MIN_POSITIVE));
    let what = if size.group > 1 { "durable put of 256 blocks of 4 KiB" } else { "durable put of a block of 1 MiB" };
    row(bench, what, &times, shown);
    Ok(())
}

fn putting<E: Engine>(size: &'static Size, folder: &Path) -> Result<(&'static str, Work)> {
    let folder = folder.join(format!("put {}", E::NAME));
    make(&folder)?;
    let engine = Arc::new(E::open(&folder)?);
    let one = move || {
        let engine = engine.clone();
        async move {
            let blocks = group(size);
            let start = now();
            engine.put(&blocks).expect("it takes blocks");
            start.elapsed()
        }
    };
    Ok((E::NAME, work(one)))
}

/// An engine that has all blocks.
struct Filled<E> {
    engine: Arc<E>,
    folder: PathBuf,
}

impl<E: Engine> Filled<E> {
    fn new(folder: &Path, blocks: &[Vec<Block>]) -> Result<Self> {
        let folder = folder.join(E::NAME);
        make(&folder)?;
        let engine = Arc::new(E::open(&folder)?);
        blocks.iter().try_for_each(|group| engine.put(group))?;
        Ok(Self { engine, folder })
    }

    /// So many times `one` for blocks in no order.
    fn each(&self, blocks: &Arc<Vec<Block>>, times: usize, one: fn(&E, &Block)) -> (&'static str, Work) {
        let (engine, blocks, next) = (self.engine.clone(), blocks.clone(), Arc::new(AtomicUsize::new(0)));
        let all = move || {
            let (engine, blocks, next) = (engine.clone(), blocks.clone(), next.clone());
            async move {
                // A prime: every block in its turn.
                let from = next.fetch_add(times, Ordering::Relaxed);
                let start = now();
                (from..from + times).for_each(|at| one(&engine, &blocks[at.wrapping_mul(7919) % blocks.len()]));
                start.elapsed()
            }
        };
        (E::NAME, work(all))
    }

    /// As after a kill: a copy of what the disk holds while the engine has it open, a new one each time.
    fn reopening(self) -> (&'static str, Work) {
        let one = move || {
            let (engine, folder) = (self.engine.clone(), self.folder.clone());
            async move {
                let killed = folder.with_extension("killed");
                copy(&folder, &killed).expect("it can be copied");
                let start = now();
                let reopened = E::open(&killed).expect("it opens again");
                let took = start.elapsed();
                drop((reopened, engine));
                remove(&killed).expect("it can be removed");
                took
            }
        };
        (E::NAME, work(one))
    }
}

type All<'a> = (&'a Filled<Ours>, &'a Filled<Redb>, &'a Filled<Files>);

fn read(bench: &mut Bench, size: &Size, blocks: &Arc<Vec<Block>>, (ours, redb, files): All<'_>) {
    fn one<E: Engine>(engine: &E, block: &Block) {
        let data = engine.get(&block.cid).expect("it can be read").expect("it is there");
        assert_eq!(data.len(), block.data.len());
    }
    let times = size.reads;
    let contenders = [
        ours.each(blocks, times, one::<Ours>),
        redb.each(blocks, times, one::<Redb>),
        files.each(blocks, times, one::<Files>),
    ];
    let plan = Plan { turn: 2, samples: 10, pieces: 4, throughput: None };
    let results = contest::run(bench, &format!("store/get/{}", size.name), plan, contenders);
    let what = if size.group > 1 { "get of a block of 4 KiB" } else { "get of a block of 1 MiB" };
    row(bench, what, &results, |result| short(result.p50() / times as u32));
}

fn look(bench: &mut Bench, size: &Size, blocks: &Arc<Vec<Block>>, (ours, redb, files): All<'_>) {
    fn one<E: Engine>(engine: &E, block: &Block) {
        assert!(engine.has(&block.cid).expect("it can be looked for"));
    }
    let times = size.reads;
    let contenders = [
        ours.each(blocks, times, one::<Ours>),
        redb.each(blocks, times, one::<Redb>),
        files.each(blocks, times, one::<Files>),
    ];
    let plan = Plan { turn: 2, samples: 10, pieces: 4, throughput: None };
    let results = contest::run(bench, &format!("store/has/{}", size.name), plan, contenders);
    let what = if size.group > 1 { "has of a block of 4 KiB" } else { "has of a block of 1 MiB" };
    row(bench, what, &results, |result| format!("{:.0} ns", result.p50().as_nanos() as f64 / times as f64));
}

fn reopen(bench: &mut Bench, size: &Size, ours: Filled<Ours>, redb: Filled<Redb>) {
    let plan = Plan { turn: 1, samples: 10, pieces: 1, throughput: None };
    let results =
        contest::run(bench, &format!("store/reopen/{}", size.name), plan, [ours.reopening(), redb.reopening()]);
    let what = if size.group > 1 {
        "reopen after a kill with 16,384 blocks of 4 KiB"
    } else {
        "reopen after a kill with 128 blocks of 1 MiB"
    };
    let [ours, redb] = &results;
    let ratio = ours.over(redb);
    bench.card.add(Row {
        what,
        ours: short(ours.p50()),
        bare: format!("redb {}", short(redb.p50())),
        ratio: format!("{ratio:.2}x"),
        bar: "at most 1.2x",
        met: Some(ratio <= 1.2),
    });
}

/// Ours beside the others: within a fifth of the best.
fn row(bench: &mut Bench, what: &'static str, [ours, redb, files]: &[Times; 3], shown: impl Fn(&Times) -> String) {
    let ratio = ours.over(redb).max(ours.over(files));
    bench.card.add(Row {
        what,
        ours: shown(ours),
        bare: format!("redb {}, one file a block {}", shown(redb), shown(files)),
        ratio: format!("{ratio:.2}x the time of the best"),
        bar: "at most 1.2x",
        met: Some(ratio <= 1.2),
    });
}

#[expect(clippy::disallowed_methods, reason = "the bare alternative to the World's Disk")]
fn make(folder: &Path) -> Result<()> {
    Ok(fs::create_dir_all(folder)?)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    make(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    Ok(fs::remove_dir_all(folder)?)
}
