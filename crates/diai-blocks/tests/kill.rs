//! A process that is killed at any moment loses nothing that it was told is durable.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
#![allow(clippy::disallowed_methods, reason = "a test of whole processes has no World to take files from")]

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
};

use diai_blocks::{
    Block, BlockStore, Cid, PinKind, PinState, Pins, RAW, SegmentStore, StoreConfig,
    unixfs::{self, ImportOptions, Profile},
};
use diai_core::os::{FsDisk, ThreadPool};
use futures::executor::block_on;

const FOLDER: &str = "DIAI_TEST_KILL_FOLDER";
const ROUNDS: u64 = 12;

fn open(folder: &str) -> (BlockStore, Pins) {
    let disk = Arc::new(FsDisk::open(folder).unwrap());
    let config = StoreConfig { segment_bytes: 4 << 20, ..StoreConfig::default() };
    let store = SegmentStore::open(disk.clone(), "blocks", config).unwrap();
    let blocks = BlockStore::new(Arc::new(store), Arc::new(ThreadPool::new(2)));
    let pins = Pins::open(blocks.clone(), &*disk, "pins.redb").unwrap();
    (blocks, pins)
}

fn block(number: u64) -> Block {
    let data: Vec<u8> = number.to_le_bytes().into_iter().cycle().take(2000 + (number % 7 * 900) as usize).collect();
    Block::new(RAW, data).unwrap()
}

fn content(number: u64) -> Vec<u8> {
    (0..50u64).flat_map(|at| [number.to_le_bytes(), at.to_le_bytes()].concat().repeat(200)).collect()
}

async fn import(blocks: &BlockStore, number: u64) -> unixfs::Imported {
    let profile = Profile { chunk_bytes: 3200, width: 8, ..Profile::default() };
    let options = ImportOptions { profile, ..ImportOptions::default() };
    unixfs::import_reader(blocks, &content(number)[..], &options).await.unwrap()
}

/// The child: puts, pins, unpins and collects until it is killed, and says what is durable. Blocks of numbers with a pin
/// are kept; without one they may go.
#[test]
fn child() {
    let Ok(folder) = env::var(FOLDER) else { return };
    let from: u64 = env::var("DIAI_TEST_KILL_FROM").unwrap().parse().unwrap();
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "@{line}").unwrap();
        out.flush().unwrap();
    };
    let (blocks, pins) = open(&folder);
    block_on(async {
        for number in from.. {
            let some: Vec<_> = (0..20).map(|at| block(number * 20 + at)).collect();
            let guard = blocks.guard();
            blocks.put_many(some.clone()).await.unwrap();
            let first = some[0].cid;
            pins.pin_with(&format!("block/{number}"), first, PinKind::Direct, |_| {}).await.unwrap();
            say(format!("block {number}"));
            drop(guard);
            let imported = import(&blocks, number).await;
            pins.begin(&format!("file/{number}"), imported.root(), PinKind::Recursive).await.unwrap();
            say(format!("begun {number}"));
            pins.pin(&format!("file/{number}"), imported.root()).await.unwrap();
            say(format!("file {number}"));
            drop(imported);
            if number % 3 == 2 {
                say(format!("unpinning {}", number - 2));
                pins.unpin(&format!("file/{}", number - 2)).await.unwrap();
                pins.gc().await.unwrap();
            }
        }
    });
}

struct Running(Child, BufReader<ChildStdout>);

impl Running {
    fn start(folder: &str, from: u64) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--test-threads=1"])
            .envs([(FOLDER, folder), ("DIAI_TEST_KILL_FROM", &from.to_string())])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self(child, output)
    }

    /// The next thing it says; `None` when it is dead and all was read.
    fn says(&mut self) -> Option<(String, u64)> {
        loop {
            let mut line = String::new();
            if self.1.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            let Some((what, number)) = line.trim().strip_prefix('@').and_then(|said| said.split_once(' ')) else {
                continue;
            };
            return Some((what.to_owned(), number.parse().unwrap()));
        }
    }
}

#[test]
fn nothing_that_was_durable_is_lost_when_a_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let (mut blocks_said, mut files_said, mut given_up) = (Vec::new(), Vec::new(), Vec::new());
    let mut from = 0;
    for round in 0..ROUNDS {
        let mut running = Running::start(folder, from);
        // Somewhere in its work, that is another place each time.
        let mut left = 3 + round * 5 % 11;
        let mut begun = None;
        while let Some((what, number)) = running.says() {
            from = number + 1;
            match &what[..] {
                "block" => blocks_said.push(number),
                "begun" => begun = Some(number),
                "file" => {
                    files_said.push(number);
                    begun = None;
                }
                _ => given_up.push(number),
            }
            left = left.saturating_sub(1);
            if left == 0 {
                running.0.kill().unwrap();
            }
        }
        running.0.wait().unwrap();
        let (blocks, pins) = open(folder);
        block_on(async {
            for number in &blocks_said {
                let block = block(number * 20);
                assert_eq!(blocks.get(&block.cid).await.unwrap(), Some(block.data), "round {round}, block {number}");
            }
            for number in files_said.iter().filter(|number| !given_up.contains(number)) {
                let root: Cid = pins.get(&format!("file/{number}")).await.unwrap().unwrap();
                assert_eq!(unixfs::read_all(&blocks, root, 1 << 20).await.unwrap(), content(*number), "round {round}");
            }
            // What was being pinned is pending still, unless it was just completed.
            if let Some(number) = begun {
                let name = format!("file/{number}");
                let pin = pins.pins().await.unwrap().into_iter().find(|pin| pin.name == name).unwrap();
                pins.gc().await.unwrap();
                if pin.state == PinState::Pending {
                    drop(import(&blocks, number).await);
                    pins.pin(&name, pin.root).await.unwrap();
                }
                files_said.push(number);
            }
            let found = pins.verify(None).await.unwrap();
            assert!(found.damaged.is_empty() && found.missing.is_empty(), "round {round}: {found:?}");
        });
    }
    assert!(files_said.len() as u64 >= ROUNDS / 2 && !given_up.is_empty());
}
