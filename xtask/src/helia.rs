//! Helia, the IPFS node in JavaScript.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    Outcome, peers_dir,
    process::{self, Process},
    root,
};

/// The script, once what it needs is installed.
#[derive(Debug)]
pub(crate) struct Helia(PathBuf);

impl Helia {
    /// Installs Helia, if it is not there yet.
    pub(crate) fn install() -> Outcome<Self> {
        let dir = peers_dir().join("helia");
        fs::create_dir_all(&dir)?;
        for name in ["helia-node.mjs", "node20-polyfill.mjs", "package.json", ".npmrc"] {
            fs::copy(root().join("xtask/peers/helia").join(name), dir.join(name))?;
        }
        // What was added last: there may be an older installation.
        if !dir.join("node_modules/@helia/verified-fetch").exists() {
            let mut command = Command::new("npm");
            process::run(command.args(["install", "--no-audit", "--no-fund", "--silent"]).current_dir(&dir))?;
        }
        Ok(Self(dir.join("helia-node.mjs")))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("node");
        command.arg(&self.0).args(args);
        command
    }

    /// Serves `file` until the handle is dropped; its address and the file's CID.
    pub(crate) fn serve(&self, file: &Path) -> Outcome<(Process, String, String)> {
        let file = file.to_str().ok_or("the path is no text")?;
        let process = Process::spawn("Helia", &mut self.command(&["serve", file, "--profile", "v1-2025"]))?;
        let said: Value = serde_json::from_str(&process.line()?)?;
        let addr = said["multiaddrs"][0].as_str().ok_or("Helia says no address")?.to_owned();
        let cid = said["cid"].as_str().ok_or("Helia says no CID")?.to_owned();
        Ok((process, addr, cid))
    }

    /// Fetches `cid` from the node at `addr`.
    pub(crate) fn get(&self, addr: &str, cid: &str, to: &Path) -> Outcome {
        let to = to.to_str().ok_or("the path is no text")?;
        process::run(&mut self.command(&["get", addr, cid, to, "--timeout", "120"])).map(drop)
    }

    /// Fetches `path`, which begins with `/ipfs/`, by HTTP from `gateway` alone.
    pub(crate) fn verified_fetch(&self, gateway: &str, path: &str, to: &Path) -> Outcome {
        let to = to.to_str().ok_or("the path is no text")?;
        process::run(&mut self.command(&["verified-fetch", gateway, path, to])).map(drop)
    }

    /// Reads the file that a CAR holds.
    pub(crate) fn read_car(&self, car: &Path, to: &Path) -> Outcome {
        let (car, to) = (car.to_str().ok_or("the path is no text")?, to.to_str().ok_or("the path is no text")?);
        process::run(&mut self.command(&["car-import", car, to])).map(drop)
    }
}
