//! A large file becomes blocks, durable at the end.

use crate::{kubo, process};

use super::{Contender, Lab, Outcome, Row, noise, settle, text, timed};

pub(super) fn run(lab: &Lab) -> Outcome<Vec<Row>> {
    let path = lab.folder("add")?.join("file.bin");
    noise(&path, 2, (lab.mib as usize) << 20)?;
    let file = text(&path)?;
    let contenders: [Contender<'_>; 5] = [
        (
            "agent",
            Box::new(|home| {
                let mut agent = lab.agent(&home.join("agent"), None)?;
                settle()?;
                timed(|| agent.add(&path, ""))
            }),
        ),
        (
            "ipfs add through its daemon",
            Box::new(|home| {
                let kubo = lab.kubo(&home.join("kubo"), None)?;
                settle()?;
                timed(|| kubo.ipfs(&["add", "-Q", file]))
            }),
        ),
        (
            "ipfs add offline",
            Box::new(|home| {
                // The daemon makes and configures the repository, and is gone again.
                drop(lab.kubo(&home.join("kubo"), None)?);
                settle()?;
                let mut add = kubo::command(&lab.ipfs, &home.join("kubo"), &["add", "-Q", file]);
                timed(|| process::run(&mut add))
            }),
        ),
        ("SHA-256 on all cores", Box::new(|_| lab.bare.hash(file))),
        (
            "durable copy",
            Box::new(|home| {
                settle()?;
                lab.bare.copy(file, text(&home.join("copy"))?)
            }),
        ),
    ];
    let [ours, daemon, offline, hash, copy] = lab.by_turns(contenders)?;
    let mib = lab.mib as f64;
    let (over_daemon, over_offline) = (ours.faster_than(&daemon), ours.faster_than(&offline));
    let slower = if hash.median() > copy.median() { &hash } else { &copy };
    Ok(vec![Row {
        what: format!("add {} MiB, durable", lab.mib),
        ours: ours.rate(mib),
        others: format!(
            "`ipfs add` through its daemon {}, offline {}; bare SHA-256 on all cores {}, bare durable copy {}",
            daemon.rate(mib),
            offline.rate(mib),
            hash.rate(mib),
            copy.rate(mib)
        ),
        ratio: format!(
            "{over_daemon:.1}x, offline {over_offline:.1}x, {:.2}x the slower bare one",
            ours.faster_than(slower)
        ),
        bar: "2x, offline 1x",
        met: over_daemon >= 2.0 && over_offline >= 1.0,
    }])
}
