//! Finding each other by the DHT of IPFS alone.

use std::{fs, path::Path, thread, time::Duration};

use super::{Check, Lab, content, same, text};
use crate::{
    Outcome,
    kubo::{Kubo, Routing},
};

pub(super) const CHECKS: &[Check] = &[("by the DHT alone Kubo finds and pins our root, and we find Kubo's", by_dht)];

/// Nobody is connected to anybody but the server in the middle.
fn by_dht(lab: &Lab) -> Outcome {
    let folder = lab.folder("DHT")?;
    let node = |name: &str, port| Kubo::start(&lab.ipfs, &folder.join(name), port, Routing::Dht);
    let (middle, far) = (node("middle", 24_121)?, node("far", 24_131)?);
    far.ipfs(&["swarm", "connect", &middle.addrs[0]])?;
    let mut agent = lab.agent_beside(&folder.join("agent"), &middle, "/tcp/")?;
    let ours = folder.join("ours.bin");
    fs::write(&ours, content::bytes(31, 3_000_000))?;
    let cid = agent.add(&ours, "")?;
    wait_for_provider(&middle, &cid, agent.peer())?;
    far.ipfs(&["pin", "add", &cid])?;
    far.ipfs(&["get", "-o", text(&folder.join("at Kubo"))?, &cid])?;
    same(&ours, &folder.join("at Kubo"))?;
    drop(agent);

    let theirs = folder.join("theirs.bin");
    fs::write(&theirs, content::bytes(32, 3_000_000))?;
    let cid = far.ipfs(&["add", "-Q", text(&theirs)?])?;
    far.ipfs(&["routing", "provide", &cid])?;
    wait_for_provider(&middle, &cid, &far.peer)?;
    let mut agent = lab.agent_beside(&folder.join("second agent"), &middle, "/tcp/")?;
    fetch(&mut agent, &cid, &folder.join("at the agent"))?;
    same(&theirs, &folder.join("at the agent"))
}

fn fetch(agent: &mut crate::agent::Agent, cid: &str, to: &Path) -> Outcome {
    agent.does(&format!("get {cid} '{}' --within 60", to.display())).map(drop)
}

/// Until the server in the middle knows that `peer` provides `cid`.
fn wait_for_provider(server: &Kubo, cid: &str, peer: &str) -> Outcome {
    for _ in 0..200 {
        if server.ipfs(&["routing", "findprovs", "--num-providers=1", cid])?.contains(peer) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    Err(format!("{peer} is not announced as a provider of {cid}").into())
}
