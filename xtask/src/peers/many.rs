//! Ten thousand small files.

use std::fs;

use super::{Contender, Lab, Outcome, Row, Times, settle, tcp, text, timed};

const FILES: usize = 10_000;
const FILE_BYTES: usize = 4096;

pub(super) fn run(lab: &Lab) -> Outcome<Vec<Row>> {
    let folder = lab.folder("many")?;
    let path = folder.join("files");
    files(&path, FILES)?;
    let [ours, kubos, iroh] = add(lab, &path)?;
    let (over, over_iroh) = (ours.faster_than(&kubos), ours.faster_than(&iroh));
    let rate = |times: &Times| format!("{:.0} files/s", FILES as f64 / times.median());
    let added = Row {
        what: format!("add {FILES} files of 4 KiB, durable"),
        ours: rate(&ours),
        others: format!("`ipfs add -r` {}, iroh-blobs {}", rate(&kubos), rate(&iroh)),
        ratio: format!("{over:.1}x, iroh-blobs {over_iroh:.1}x"),
        bar: "2x Kubo",
        met: over >= 2.0,
    };
    let [ours, kubos, iroh] = fetch(lab, &folder, &path)?;
    let (over, over_iroh) = (ours.faster_than(&kubos), ours.faster_than(&iroh));
    let fetched = Row {
        what: format!("fetch {FILES} files of 4 KiB from a peer"),
        ours: rate(&ours),
        others: format!("Kubo to Kubo {}, iroh-blobs collection {}", rate(&kubos), rate(&iroh)),
        ratio: format!("{over:.1}x, iroh-blobs {over_iroh:.1}x"),
        bar: "5x Kubo",
        met: over >= 5.0,
    };
    Ok(vec![added, fetched])
}

/// A flat folder of different files.
pub(super) fn files(path: &std::path::Path, files: usize) -> Outcome {
    fs::create_dir_all(path)?;
    let whole = path.with_extension("bin");
    super::noise(&whole, 3, files * FILE_BYTES)?;
    for (number, bytes) in fs::read(&whole)?.chunks_exact(FILE_BYTES).enumerate() {
        fs::write(path.join(format!("file {number:05}")), bytes)?;
    }
    Ok(())
}

fn add(lab: &Lab, path: &std::path::Path) -> Outcome<[Times; 3]> {
    let contenders: [Contender<'_>; 3] = [
        (
            "add, agent",
            Box::new(|home| {
                let mut agent = lab.agent(&home.join("agent"), None)?;
                settle()?;
                timed(|| agent.add(path, ""))
            }),
        ),
        (
            "add, Kubo",
            Box::new(|home| {
                let kubo = lab.kubo(&home.join("kubo"), None)?;
                settle()?;
                timed(|| kubo.ipfs(&["add", "-Q", "-r", text(path)?]))
            }),
        ),
        ("add, iroh-blobs", Box::new(|home| lab.bare.serve_blobs(path, &home.join("store"))?.seconds())),
    ];
    lab.by_turns(contenders)
}

fn fetch(lab: &Lab, folder: &std::path::Path, path: &std::path::Path) -> Outcome<[Times; 3]> {
    let mut agent = lab.agent(&folder.join("agent"), None)?;
    let cid = agent.add(path, "")?;
    let (addr, peer) = (agent.addr("/tcp/")?.to_owned(), agent.peer().to_owned());
    let kubo = lab.kubo(&folder.join("kubo"), None)?;
    let theirs = kubo.ipfs(&["add", "-Q", "-r", text(path)?])?;
    if theirs != cid {
        return Err(format!("the agent says {cid}, Kubo {theirs}").into());
    }
    let blobs = lab.bare.serve_blobs(path, &folder.join("iroh"))?;
    let contenders: [Contender<'_>; 3] = [
        (
            "fetch, agent",
            Box::new(|home| {
                let mut fetcher = lab.agent(&home.join("agent"), Some((&addr, &peer)))?;
                settle()?;
                timed(|| fetcher.does(&format!("pin {cid}")))
            }),
        ),
        (
            "fetch, Kubo",
            Box::new(|home| {
                let fetcher = lab.kubo(&home.join("kubo"), Some(tcp(&kubo.addrs)?))?;
                settle()?;
                timed(|| fetcher.ipfs(&["pin", "add", &cid]))
            }),
        ),
        (
            "fetch, iroh-blobs",
            Box::new(|home| {
                settle()?;
                lab.bare.fetch_blobs(&blobs, &home.join("store"))
            }),
        ),
    ];
    lab.by_turns(contenders)
}
