//! A long thin link: 50 ms there and back, 100 Mbit/s, made of the loopback of a network namespace of its own, or of a proxy
//! where that cannot be.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{Contender, Lab, Outcome, Row, Times, noise, proxy, tcp, text, timed};
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

/// How others reach what listens at an address.
enum Way {
    Namespace,
    Proxy,
}

impl Way {
    fn to(&self, addr: &str) -> Outcome<String> {
        if matches!(self, Self::Namespace) {
            return Ok(addr.to_owned());
        }
        let (before, after) = addr.split_once("/tcp/").ok_or("no address over TCP")?;
        let (port, after) = after.split_once('/').ok_or("the address names no peer")?;
        let rate = f64::from(MBIT_S) * 1e6 / 8.0;
        let port = proxy::lay(format!("127.0.0.1:{port}"), Duration::from_millis(u64::from(RTT_MS / 2)), rate)?;
        Ok(format!("{before}/tcp/{port}/{after}"))
    }
}

pub(super) fn run(lab: &Lab) -> Outcome<Vec<Row>> {
    let folder = lab.folder("link")?;
    match Link::new() {
        Ok(link) => measure(&link.lab(lab, &folder)?, &folder, &Way::Namespace),
        Err(error) => {
            eprintln!("  by a proxy, for a namespace needs root and a kernel with netem: {error}");
            measure(lab, &folder, &Way::Proxy)
        }
    }
}

fn measure(lab: &Lab, folder: &Path, way: &Way) -> Outcome<Vec<Row>> {
    let path = folder.join("file.bin");
    noise(&path, 4, MIB << 20)?;
    let mut agent = lab.agent(&folder.join("agent"), None)?;
    let cid = agent.add(&path, "")?;
    let (addr, peer) = (way.to(agent.addr("/tcp/")?)?, agent.peer().to_owned());
    let kubo = lab.kubo(&folder.join("kubo"), None)?;
    kubo.ipfs(&["add", "-Q", text(&path)?])?;
    let kubo_addr = way.to(tcp(&kubo.addrs)?)?;
    let contenders: [Contender<'_>; 2] = [
        (
            "agent",
            Box::new(|home| {
                let mut fetcher = lab.agent(&home.join("agent"), Some((&addr, &peer)))?;
                timed(|| fetcher.does(&format!("pin {cid}")))
            }),
        ),
        (
            "Kubo",
            Box::new(|home| {
                let fetcher = lab.kubo(&home.join("kubo"), Some(&kubo_addr))?;
                timed(|| fetcher.ipfs(&["pin", "add", &cid]))
            }),
        ),
    ];
    let [ours, kubos] = lab.by_turns(contenders)?;
    let mbit_s = |times: &Times| (MIB << 23) as f64 / 1e6 / times.median();
    let share = mbit_s(&ours) / f64::from(MBIT_S);
    let made_of = if matches!(way, Way::Namespace) { "netem" } else { "a TCP proxy" };
    Ok(vec![Row {
        what: format!("{MIB} MiB over a link of {RTT_MS} ms and {MBIT_S} Mbit/s, made of {made_of}, over TCP"),
        ours: format!("{:.1} Mbit/s", mbit_s(&ours)),
        others: format!("Kubo to Kubo {:.1} Mbit/s", mbit_s(&kubos)),
        ratio: format!("{:.0} % of the link", share * 100.0),
        bar: "90 % of the link",
        met: share >= 0.9,
    }])
}
