//! One large file from a peer: verified, stored, durable at the end.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
};

use super::{Contender, Lab, Outcome, Row, Times, memory::Memory, noise, settle, tcp, text, timed};
use crate::{agent::Agent, bare::Served, kubo::Kubo};

/// Those who have the file.
struct Holders {
    cid: String,
    agent: Agent,
    addr: String,
    kubo: Kubo,
    blobs: Served,
    stream: Served,
}

/// The highest peaks of memory above idle, in MiB.
#[derive(Default)]
struct Peaks {
    receiving: Cell<f64>,
    sending: Cell<f64>,
    kubo: Cell<f64>,
}

impl Holders {
    fn start(lab: &Lab, path: &Path, folder: &Path) -> Outcome<Self> {
        let mut agent = lab.agent(&folder.join("agent"), None)?;
        let cid = agent.add(path, "")?;
        let addr = agent.addr("/tcp/")?.to_owned();
        let kubo = lab.kubo(&folder.join("kubo"), None)?;
        let theirs = kubo.ipfs(&["add", "-Q", text(path)?])?;
        if theirs != cid {
            return Err(format!("the agent says {cid}, Kubo {theirs}").into());
        }
        let blobs = lab.bare.serve_blobs(path, &folder.join("iroh"))?;
        Ok(Self { cid, agent, addr, kubo, blobs, stream: lab.bare.serve_stream()? })
    }

    /// Into a new agent, and the peaks of it and of who sends.
    fn by_agent(&self, lab: &Lab, home: &Path, from: (&str, &str), sender: u32) -> Outcome<(f64, f64, f64)> {
        let mut fetcher = lab.agent(&home.join("agent"), Some(from))?;
        settle()?;
        let (receiver, sender) = (Memory::watch(fetcher.pid())?, Memory::watch(sender)?);
        let seconds = timed(|| fetcher.does(&format!("pin {}", self.cid)))?;
        Ok((seconds, receiver.mib()?, sender.mib()?))
    }

    /// Into a new Kubo, and its peak.
    fn by_kubo(&self, lab: &Lab, home: &Path, from: &str) -> Outcome<(f64, f64)> {
        let fetcher = lab.kubo(&home.join("kubo"), Some(from))?;
        settle()?;
        let receiver = Memory::watch(fetcher.pid)?;
        let seconds = timed(|| fetcher.ipfs(&["pin", "add", &self.cid]))?;
        Ok((seconds, receiver.mib()?))
    }
}

fn raise(peak: &Cell<f64>, mib: f64) {
    peak.set(peak.get().max(mib));
}

pub(super) fn run(lab: &Lab) -> Outcome<Vec<Row>> {
    let folder = lab.folder("bulk")?;
    let path: PathBuf = folder.join("file.bin");
    noise(&path, 1, (lab.mib as usize) << 20)?;
    let from = Holders::start(lab, &path, &folder)?;
    let peaks = Peaks::default();
    let contenders: [Contender<'_>; 6] = [
        (
            "agent to agent",
            Box::new(|home| {
                let agent = &from.agent;
                let (seconds, receiving, sending) =
                    from.by_agent(lab, home, (&from.addr, agent.peer()), agent.pid())?;
                raise(&peaks.receiving, receiving);
                raise(&peaks.sending, sending);
                Ok(seconds)
            }),
        ),
        (
            "Kubo to Kubo",
            Box::new(|home| {
                let (seconds, receiving) = from.by_kubo(lab, home, tcp(&from.kubo.addrs)?)?;
                raise(&peaks.kubo, receiving);
                Ok(seconds)
            }),
        ),
        (
            "Kubo to agent",
            Box::new(|home| {
                let kubo = &from.kubo;
                let (seconds, receiving, _) = from.by_agent(lab, home, (tcp(&kubo.addrs)?, &kubo.peer), kubo.pid)?;
                raise(&peaks.receiving, receiving);
                Ok(seconds)
            }),
        ),
        (
            "agent to Kubo",
            Box::new(|home| {
                let sender = Memory::watch(from.agent.pid())?;
                let (seconds, _) = from.by_kubo(lab, home, &from.addr)?;
                raise(&peaks.sending, sender.mib()?);
                Ok(seconds)
            }),
        ),
        (
            "iroh-blobs",
            Box::new(|home| {
                settle()?;
                lab.bare.fetch_blobs(&from.blobs, &home.join("store"))
            }),
        ),
        ("bare libp2p stream", Box::new(|_| lab.bare.fetch_stream(&from.stream, lab.mib))),
    ];
    let times = lab.by_turns(contenders)?;
    Ok(rows(lab.mib, &times, &peaks))
}

fn rows(mib: u64, [ours, kubos, from_kubo, into_kubo, iroh, stream]: &[Times; 6], peaks: &Peaks) -> Vec<Row> {
    let (over_kubo, over_iroh, over_stream) =
        (ours.faster_than(kubos), ours.faster_than(iroh), ours.faster_than(stream));
    let rate = |times: &Times| times.rate(mib as f64);
    let kubo_to_kubo = format!("Kubo to Kubo {}", rate(kubos));
    let against_kubo = |what: &str, times: &Times, bar, least| Row {
        what: what.into(),
        ours: rate(times),
        others: kubo_to_kubo.clone(),
        ratio: format!("{:.2}x", times.faster_than(kubos)),
        bar,
        met: times.faster_than(kubos) >= least,
    };
    let (receiving, sending) = (peaks.receiving.get(), peaks.sending.get());
    vec![
        Row {
            what: format!("{mib} MiB file, agent to agent, verified, stored, durable"),
            ours: rate(ours),
            others: format!(
                "{kubo_to_kubo}, iroh-blobs {}, a bare libp2p stream (TCP, Noise) with SHA-256, not stored {}",
                rate(iroh),
                rate(stream)
            ),
            ratio: format!("{over_kubo:.1}x Kubo, {over_iroh:.2}x iroh-blobs, {over_stream:.2}x the stream"),
            bar: "2.4x Kubo, 1.25x iroh-blobs, 0.8x the stream",
            met: over_kubo >= 2.4 && over_iroh >= 1.25 && over_stream >= 0.8,
        },
        against_kubo("the same from Kubo into an agent, by Bitswap", from_kubo, "1.5x", 1.5),
        against_kubo("the same from an agent into Kubo, by Bitswap", into_kubo, "1x", 1.0),
        Row {
            what: "peak memory above idle in these".into(),
            ours: format!("receiving {receiving:.0} MiB, sending {sending:.0} MiB"),
            others: format!("Kubo receiving {:.0} MiB", peaks.kubo.get()),
            ratio: String::new(),
            bar: "64 MiB",
            met: receiving.max(sending) <= 64.0,
        },
    ]
}
