//! A long thin link: 50 ms there and back, 100 Mbit/s, made of the loopback of a network namespace of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Contender, Lab, Outcome, Row, noise, tcp, text, timed};
use crate::process;

const RTT_MS: u32 = 50;
const MBIT_S: u32 = 100;
const MIB: usize = 64;

/// A namespace that ends with it.
struct Link {
    name: String,
}

impl Link {
    fn new() -> Outcome<Self> {
        let name = format!("diai-peers-{}", std::process::id());
        ip(&["netns", "add", &name])?;
        let link = Self { name };
        ip(&["-n", &link.name, "link", "set", "lo", "up", "mtu", "1500"])?;
        let (delay, rate) = (format!("{}ms", RTT_MS / 2), format!("{MBIT_S}mbit"));
        let netem = ["qdisc", "add", "dev", "lo", "root", "netem", "delay", &delay, "rate", &rate, "limit", "10000"];
        process::run(Command::new("tc").args(["-n", &link.name]).args(netem))?;
        Ok(link)
    }

    /// A lab whose programs run behind the link.
    fn lab(&self, lab: &Lab, folder: &Path) -> Outcome<Lab> {
        let behind = |name: &str, program: &Path| -> Outcome<PathBuf> {
            let script = folder.join(name);
            fs::write(&script, format!("#!/bin/sh\nexec ip netns exec {} '{}' \"$@\"\n", self.name, text(program)?))?;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
            Ok(script)
        };
        Ok(Lab { agent: behind("run-agent", &lab.agent)?, ipfs: behind("run-ipfs", &lab.ipfs)?, ..lab.clone() })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

fn ip(args: &[&str]) -> Outcome {
    process::run(Command::new("ip").args(args)).map(drop)
}

pub(super) fn run(lab: &Lab) -> Outcome<Vec<Row>> {
    let link = match Link::new() {
        Ok(link) => link,
        Err(error) => {
            eprintln!("  left out, for it needs root and a kernel with netem: {error}");
            return Ok(Vec::new());
        }
    };
    let folder = lab.folder("link")?;
    let lab = link.lab(lab, &folder)?;
    let path = folder.join("file.bin");
    noise(&path, 4, MIB << 20)?;
    let mut agent = lab.agent(&folder.join("agent"), None)?;
    let cid = agent.add(&path, "")?;
    let (addr, peer) = (agent.addr("/tcp/")?.to_owned(), agent.peer().to_owned());
    let quic = agent.addr("/quic-v1")?.to_owned();
    let kubo = lab.kubo(&folder.join("kubo"), None)?;
    kubo.ipfs(&["add", "-Q", text(&path)?])?;
    let fetch = |home: &Path, addr: &str| {
        let mut fetcher = lab.agent(&home.join("agent"), Some((addr, &peer)))?;
        timed(|| fetcher.does(&format!("pin {cid}")))
    };
    let contenders: [Contender<'_>; 3] = [
        ("agent over TCP", Box::new(|home| fetch(home, &addr))),
        ("agent over QUIC", Box::new(|home| fetch(home, &quic))),
        (
            "Kubo over TCP",
            Box::new(|home| {
                let fetcher = lab.kubo(&home.join("kubo"), Some(tcp(&kubo.addrs)?))?;
                timed(|| fetcher.ipfs(&["pin", "add", &cid]))
            }),
        ),
    ];
    let [over_tcp, over_quic, kubos] = lab.by_turns(contenders)?;
    let mbit_s = |times: &super::Times| (MIB << 23) as f64 / 1e6 / times.median();
    let share = mbit_s(&over_tcp).max(mbit_s(&over_quic)) / f64::from(MBIT_S);
    Ok(vec![Row {
        what: format!("{MIB} MiB over a link of {RTT_MS} ms and {MBIT_S} Mbit/s"),
        ours: format!("TCP {:.1} Mbit/s, QUIC {:.1} Mbit/s", mbit_s(&over_tcp), mbit_s(&over_quic)),
        others: format!("Kubo over TCP {:.1} Mbit/s", mbit_s(&kubos)),
        ratio: format!("{:.0} % of the link", share * 100.0),
        bar: "90 % of the link",
        met: share >= 0.9,
    }])
}
