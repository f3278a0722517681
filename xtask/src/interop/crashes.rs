//! `kill -9` while blocks come in.

use std::{fs, thread, time::Duration};

use super::{Check, Lab, content, same, text};
use crate::Outcome;

pub(super) const CHECKS: &[Check] = &[("an agent killed again and again under transfer loses no block", killed)];

fn killed(lab: &Lab) -> Outcome {
    let folder = lab.folder("killed")?;
    let source = folder.join("source.bin");
    fs::write(&source, content::bytes(21, 200_000_000))?;
    let cid = lab.kubo.ipfs(&["add", "-Q", text(&source)?])?;
    let (home, to) = (folder.join("agent"), folder.join("got"));
    for round in 0..lab.kills {
        let mut agent = lab.agent_beside(&home, &lab.kubo, "/tcp/")?;
        let answer = agent.does("verify")?;
        if answer["damaged"] != serde_json::json!([]) {
            return Err(format!("after {round} kills: {answer}").into());
        }
        agent.tell(&format!("get {cid} '{}'", to.display()))?;
        // Somewhere within the transfer: where does not matter.
        thread::sleep(Duration::from_millis(40 + u64::from(round) * 23 % 300));
        agent.kill()?;
        // It was about to write it.
        let _ = fs::remove_file(&to);
    }
    let mut agent = lab.agent_beside(&home, &lab.kubo, "/tcp/")?;
    agent.does(&format!("get {cid} '{}'", to.display()))?;
    same(&source, &to)
}
