//! What the story leaves behind is IPFS content like any other.

use std::{fs, process::Command};

use serde_json::Value;

use super::{Check, Lab, text};
use crate::{Outcome, agent, process};

pub(super) const CHECKS: &[Check] = &[("the story's workspace opens in Kubo, as what it is: opaque", workspace)];

fn workspace(lab: &Lab) -> Outcome {
    let folder = lab.folder("story")?;
    let keep = folder.join("agents");
    let mut story = Command::new(agent::example("collaborative_prototyping")?);
    story.args(["--json", "--keep", text(&keep)?, "--out", text(&folder.join("prototype"))?]);
    let told = String::from_utf8(process::run(&mut story)?)?;
    let root = told.lines().find_map(root).ok_or("the story names no root")?;
    let _agent = lab.agent_beside(&keep.join("creator"), &lab.kubo, "/tcp/")?;
    let got = folder.join("at Kubo");
    lab.kubo.ipfs(&["get", "-o", text(&got)?, &root])?;
    let entries: Vec<_> = fs::read_dir(&got)?.collect::<Result<_, _>>()?;
    if entries.is_empty() {
        return Err("the workspace has no entries".into());
    }
    // A name that tells would be one that people use.
    let names = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
    match names.into_iter().find(|name| name.contains("model") || name.contains("market") || name.contains('.')) {
        Some(name) => Err(format!("an entry is called {name}").into()),
        None => Ok(()),
    }
}

/// The root in a line of the story, if that is where it is said.
fn root(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let said = line.to_string();
    let after = said.split_once("the same root ")?.1;
    after.split_whitespace().next().map(str::to_owned)
}
