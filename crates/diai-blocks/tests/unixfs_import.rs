//! What imports do with their options, and when they are given up.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use diai_blocks::{
    BlockStore, MemoryStore, SegmentStore, StoreConfig,
    unixfs::{self, ImportError, ImportOptions, Leaves, MAX_CHUNK_BYTES, Profile, Progress, ProgressFn},
};
use diai_core::{Disk, OpenMode, memory::MemoryDisk, os::ThreadPool};
use futures::{AsyncRead, AsyncReadExt, channel::oneshot, executor::block_on, future::select, io};

fn store() -> BlockStore {
    BlockStore::new(Arc::new(MemoryStore::new(1 << 30)), Arc::new(ThreadPool::new(2)))
}

/// A reader that never ends and says how much was taken.
struct Endless(Arc<AtomicU64>);

impl AsyncRead for Endless {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let taken = self.0.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        buffer.fill((taken >> 20) as u8);
        Poll::Ready(Ok(buffer.len()))
    }
}

#[test]
fn an_import_that_is_given_up_stops_and_never_held_more_than_a_few_pieces() {
    let taken = Arc::new(AtomicU64::new(0));
    let most = Arc::new(AtomicU64::new(0));
    let (enough, stop) = oneshot::channel::<()>();
    let enough = Mutex::new(Some(enough));
    let (read, held) = (taken.clone(), most.clone());
    let progress = ProgressFn::new(move |progress: Progress| {
        held.fetch_max(read.load(Ordering::Relaxed).saturating_sub(progress.bytes), Ordering::Relaxed);
        if progress.bytes >= 64 << 20 {
            drop(enough.lock().unwrap().take());
        }
    });
    let options = ImportOptions { progress: Some(progress), ..ImportOptions::default() };
    let blocks = store();
    let import = Box::pin(unixfs::import_reader(&blocks, Endless(taken.clone()), &options));
    block_on(select(stop, import));
    let at_the_end = taken.load(Ordering::Relaxed);
    assert!(most.load(Ordering::Relaxed) <= 10 << 20, "{} bytes were held", most.load(Ordering::Relaxed));
    assert!(at_the_end <= 80 << 20, "{at_the_end} bytes were taken");
}

#[test]
fn a_long_import_has_the_disk_go_ahead_before_it_ends() {
    let disk = Arc::new(MemoryDisk::new());
    let segments = SegmentStore::open(disk, "blocks", StoreConfig::default()).unwrap();
    let blocks = BlockStore::new(Arc::new(segments), Arc::new(ThreadPool::new(2)));
    let reader = Endless(Arc::default()).take(130 << 20);
    let imported = block_on(unixfs::import_reader(&blocks, reader, &ImportOptions::default())).unwrap();
    assert_eq!(imported.content_bytes(), 130 << 20);
    assert!(blocks.stats().syncs >= 1, "{:?}", blocks.stats());
}

#[test]
fn options_that_make_no_sense_are_refused_by_the_name_of_their_field() {
    let wrong = |change: fn(&mut ImportOptions), expected: &str| {
        let mut options = ImportOptions::default();
        change(&mut options);
        let refused = block_on(unixfs::import_reader(&store(), &b"x"[..], &options));
        let Err(ImportError::Options { field, .. }) = refused else { panic!("{expected}: {refused:?}") };
        assert_eq!(field, expected);
    };
    wrong(|options| options.profile.chunk_bytes = 0, "chunk_bytes");
    wrong(|options| options.profile.chunk_bytes = MAX_CHUNK_BYTES + 1, "chunk_bytes");
    wrong(|options| options.profile.width = 1, "width");
    wrong(|options| options.profile.width = 16_385, "width");
    wrong(|options| options.profile.shard_over_bytes = 63, "shard_over_bytes");
    wrong(|options| options.profile.shard_over_bytes = (1 << 20) + 1, "shard_over_bytes");
    wrong(|options| options.profile.fanout = 4, "fanout");
    wrong(|options| options.profile.fanout = 100, "fanout");
    wrong(|options| options.profile.fanout = 2048, "fanout");
    wrong(|options| options.mode = true, "leaves");
    wrong(|options| options.mtime = true, "leaves");
    assert!(Profile::NAMES.iter().all(|name| Profile::named(name).is_some()));
    assert_eq!(Profile::named("unixfs-v2"), None);
}

#[test]
fn links_stay_out_when_they_are_not_wanted() {
    let disk = MemoryDisk::new();
    disk.create_folder("in").unwrap();
    disk.open("in/small", OpenMode::CreateNew).unwrap();
    disk.create_link("in/link", "small").unwrap();
    let blocks = store();
    let options = ImportOptions { symlinks: false, ..ImportOptions::default() };
    let root = block_on(unixfs::import_path(&blocks, Arc::new(disk), "in", &options)).unwrap().root();
    let names: Vec<_> =
        block_on(unixfs::entries(&blocks, root, 9)).unwrap().into_iter().map(|found| found.name).collect();
    assert_eq!(names, ["small"]);
}

#[test]
fn leaves_of_both_forms_survive_the_largest_chunk() {
    let blocks = store();
    let content = vec![1u8; 3 << 20];
    for leaves in [Leaves::Raw, Leaves::DagPb] {
        let profile = Profile { chunk_bytes: MAX_CHUNK_BYTES, leaves, ..Profile::default() };
        let root = block_on(unixfs::import_reader(&blocks, &content[..], &ImportOptions::profile(profile))).unwrap();
        assert!(block_on(unixfs::read_all(&blocks, root.root(), 3 << 20)).unwrap() == content);
    }
}
