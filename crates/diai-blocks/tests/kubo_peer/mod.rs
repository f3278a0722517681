//! A Kubo that is called command by command, without a daemon and without a network.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use diai_blocks::{Block, BlockStore, Cid, unixfs};
use diai_core::os::FsDisk;
use futures::{StreamExt, executor::block_on};

/// One repository of it.
pub(crate) struct Kubo {
    binary: PathBuf,
    folder: PathBuf,
    scratches: AtomicU64,
}

impl Kubo {
    /// One to write, under the profile that `name` begins with, and one to read; `None` if there is no Kubo.
    pub(crate) fn pair(name: &str) -> Option<(Self, Self)> {
        let Some(binary) = std::env::var_os("DIAI_KUBO").map(PathBuf::from) else {
            println!("skipped: name a Kubo binary in DIAI_KUBO to compare with it");
            return None;
        };
        let one = |role: &str| {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kubo-{name}-{role}"));
            let _ = fs::remove_dir_all(&folder);
            FsDisk::open(&folder).unwrap();
            let kubo = Self { binary: binary.clone(), folder, scratches: AtomicU64::new(0) };
            kubo.run(&["init", "--profile=test"], b"");
            kubo.run(&["config", "profile", "apply", &name[.."unixfs-v0-2015".len()]], b"");
            kubo
        };
        Some((one("writer"), one("reader")))
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new(&self.binary);
        command.env("IPFS_PATH", self.folder.join("repo")).args(["--offline"]).args(arguments);
        let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = streams.spawn().expect("DIAI_KUBO names no program that can be run");
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            // It may end without having read all.
            scope.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().unwrap()
        });
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// An empty folder.
    pub(crate) fn scratch(&self) -> FsDisk {
        let folder = self.folder.join("scratch");
        let _ = fs::remove_dir_all(&folder);
        FsDisk::open(folder.join(self.scratches.fetch_add(1, Ordering::Relaxed).to_string())).unwrap()
    }

    pub(crate) fn add(&self, path: &Path, flags: &[&str]) -> Cid {
        let mut arguments = vec!["add", "--recursive", "--quieter", "--pin=false"];
        arguments.extend_from_slice(flags);
        arguments.push(path.to_str().unwrap());
        String::from_utf8(self.run(&arguments, b"")).unwrap().trim().parse().unwrap()
    }

    /// All blocks below `root`, which hash to their CIDs.
    pub(crate) fn export(&self, root: Cid) -> Vec<Block> {
        let car = self.run(&["dag", "export", "--progress=false", &root.to_string()], b"");
        let mut rest = &car[..];
        let mut blocks = Vec::new();
        let header = frame(&mut rest);
        assert!(header.windows(7).any(|window| window == b"version"));
        while !rest.is_empty() {
            let mut frame = frame(&mut rest);
            let cid = Cid::read_bytes(&mut frame).unwrap();
            blocks.push(Block::verified(cid, frame.to_vec()).unwrap());
        }
        blocks
    }

    /// Takes all blocks below `root` of `blocks`.
    pub(crate) fn import(&self, root: Cid, blocks: &BlockStore) {
        // {"roots": [root], "version": 1} in DAG-CBOR.
        let link = [&[0], &root.to_bytes()[..]].concat();
        let header = [b"\xa2\x65roots\x81\xd8\x2a\x58", &[link.len() as u8][..], &link, b"\x67version\x01"].concat();
        let mut car = Vec::new();
        put_frame(&mut car, &header);
        let options = unixfs::WalkOptions { leaves: true, ..unixfs::WalkOptions::default() };
        for visited in block_on(unixfs::walk(blocks, root, &options).collect::<Vec<_>>()) {
            let visited = visited.unwrap();
            put_frame(&mut car, &[&visited.cid.to_bytes()[..], &visited.data.unwrap()].concat());
        }
        self.run(&["dag", "import", "--pin-roots=false"], &car);
    }

    pub(crate) fn get(&self, root: Cid, target: &Path) {
        self.run(&["get", "--progress=false", "--output", target.to_str().unwrap(), &root.to_string()], b"");
    }
}

impl Drop for Kubo {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn frame<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = rest[0];
        *rest = &rest[1..];
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let (frame, after) = rest.split_at(length);
    *rest = after;
    frame
}

fn put_frame(car: &mut Vec<u8>, frame: &[u8]) {
    let mut length = frame.len();
    while length >= 0x80 {
        car.push(length as u8 | 0x80);
        length >>= 7;
    }
    car.push(length as u8);
    car.extend_from_slice(frame);
}
