//! A file of 256 MiB from another agent, verified, stored and flushed, against as many bytes over a bare stream that are
//! hashed and thrown away.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use criterion::Throughput;
use diai::{
    Agent, Bytes, Cid,
    blocks::{AddOptions, FetchOptions},
};
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use crate::{
    Bench, Failure, Result, agents,
    bare::{self, PIECE, Security},
    card::Row,
    contest::{self, Plan, Times, Work, now, timed, work},
};

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let mib: usize = if bench.test { 2 } else { 256 };
    let folder = tempfile::tempdir()?;
    let path = folder.path().to_owned();
    let content = noise_like(mib << 20, &diai::core::os::OsEntropy);
    let (seeder, root) = bench.runtime.block_on(async move {
        let seeder = agents::agent(&path, "seeder").start().await?;
        let root = seeder.blocks().add_bytes(content, AddOptions::default()).await?.cid;
        Ok::<_, Failure>((seeder, root))
    })?;
    let (_tls_server, tls) = bench.on_workers(bare::pair(Security::Tls))?;
    let (_noise_server, noise) = bench.on_workers(bare::pair(Security::Noise))?;
    let ours = fetch(seeder.clone(), root, folder.path().to_owned());
    let plan = Plan { turn: 1, samples: 10, pieces: 1, throughput: Some(Throughput::Bytes((mib << 20) as u64)) };
    let contenders = [
        ("diai fetch", ours),
        ("bare stream and SHA-256", bulk(bench, &tls, mib)?),
        ("bare stream and SHA-256, Noise", bulk(bench, &noise, mib)?),
    ];
    let [ours, tls, noise] = contest::run(bench, "fetch", plan, contenders);
    let speed = |times: &Times| mib as f64 / times.p50().as_secs_f64().max(f64::MIN_POSITIVE);
    let (over_tls, over_noise) = (tls.over(&ours), noise.over(&ours));
    bench.card.add(Row {
        what: "fetch of 256 MiB, verified, stored, flushed",
        ours: format!("{:.0} MiB/s", speed(&ours)),
        bare: format!(
            "a bare libp2p stream with SHA-256 {:.0} MiB/s, with Noise {:.0} MiB/s",
            speed(&tls),
            speed(&noise)
        ),
        ratio: format!("{over_tls:.2}x, of Noise {over_noise:.2}x"),
        bar: "at least 0.5x",
        met: Some(over_tls.min(over_noise) >= 0.5),
    });
    bench.runtime.block_on(seeder.shutdown());
    Ok(())
}

fn noise_like(bytes: usize, entropy: &dyn diai::core::Entropy) -> Bytes {
    let mut content = vec![0; bytes];
    entropy.fill(&mut content);
    content.into()
}

/// Each time by a new agent, so that it has nothing of it yet.
fn fetch(seeder: Agent, root: Cid, folder: PathBuf) -> Work {
    let number = Arc::new(AtomicUsize::new(0));
    work(move || {
        let (seeder, folder, number) = (seeder.clone(), folder.clone(), number.clone());
        async move {
            let name = format!("fetcher-{}", number.fetch_add(1, Ordering::Relaxed));
            let fetcher = agents::agent(&folder, &name).start().await.expect("it starts");
            let holder = agents::connect(&fetcher, &seeder).await.expect("the seeder is there");
            let options = FetchOptions { holders: vec![holder], ..FetchOptions::default() };
            let start = now();
            fetcher.blocks().fetch(root, &options).await.expect("the seeder has it");
            fetcher.blocks().flush().await.expect("the disk takes it");
            let took = start.elapsed();
            fetcher.shutdown().await;
            // Some that lie there would fill the disk's cache.
            std::fs::remove_dir_all(folder.join(name)).expect("nobody uses it any more");
            took
        }
    })
}

fn bulk(bench: &Bench, client: &bare::Client, mib: usize) -> Result<Work> {
    let stream = Arc::new(Mutex::new(bench.runtime.block_on(client.open(bare::BULK))?));
    Ok(timed(move || {
        let stream = stream.clone();
        async move { receive(&mut *stream.lock().await, mib).await.expect("the server sends") }
    }))
}

async fn receive(stream: &mut Stream, mib: usize) -> std::io::Result<()> {
    stream.write_all(&((mib << 20) as u64).to_le_bytes()).await?;
    stream.flush().await?;
    let mut piece = vec![0; PIECE];
    for _ in 0..mib {
        stream.read_exact(&mut piece).await?;
        std::hint::black_box(Sha256::digest(&piece));
    }
    Ok(())
}
