//! iroh-blobs and the bare libp2p stream: a program of its own workspace, see `peers/bare`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    Outcome, peers_dir,
    process::{self, Process},
    root,
};

/// The program.
#[derive(Debug, Clone)]
pub(crate) struct Bare(PathBuf);

/// Something that is served until it is dropped.
#[derive(Debug)]
pub(crate) struct Served {
    _process: Process,
    said: Value,
}

impl Bare {
    /// Builds the program, if that was not done yet.
    pub(crate) fn install() -> Outcome<Self> {
        let target = peers_dir().join("bare");
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--release", "--locked"]).current_dir(root().join("xtask/peers/bare"));
        process::run(command.env("CARGO_TARGET_DIR", &target))?;
        Ok(Self(target.join("release/bare-peers")))
    }

    fn serve(&self, args: &[&Path]) -> Outcome<Served> {
        let process = Process::spawn("bare-peers", Command::new(&self.0).args(args))?;
        let said = serde_json::from_str(&process.line()?)?;
        Ok(Served { _process: process, said })
    }

    /// Puts what is at `path` into an iroh-blobs store and serves it.
    pub(crate) fn serve_blobs(&self, path: &Path, store: &Path) -> Outcome<Served> {
        self.serve(&[Path::new("blobs-serve"), path, store])
    }

    /// Serves a libp2p stream.
    pub(crate) fn serve_stream(&self) -> Outcome<Served> {
        self.serve(&[Path::new("stream-serve")])
    }

    fn seconds(&self, args: &[&str]) -> Outcome<f64> {
        let said: Value = serde_json::from_slice(&process::run(Command::new(&self.0).args(args))?)?;
        said["seconds"].as_f64().ok_or_else(|| "it does not say how long it took".into())
    }

    /// Fetches what is served into a new store, durably; seconds.
    pub(crate) fn fetch_blobs(&self, from: &Served, store: &Path) -> Outcome<f64> {
        self.blobs("blobs-fetch", from, store)
    }

    /// Fetches every file of what is served by itself; the median of the seconds.
    pub(crate) fn fetch_each_blob(&self, from: &Served, store: &Path) -> Outcome<f64> {
        self.blobs("blobs-each", from, store)
    }

    fn blobs(&self, command: &str, from: &Served, store: &Path) -> Outcome<f64> {
        let store = store.to_str().ok_or("the path is no text")?;
        self.seconds(&[command, from.text("peer")?, from.text("addr")?, from.text("hash")?, store])
    }

    /// Reads that much from the stream and hashes it; seconds.
    pub(crate) fn fetch_stream(&self, from: &Served, mib: u64) -> Outcome<f64> {
        self.seconds(&["stream-fetch", from.text("addr")?, &mib.to_string()])
    }

    /// Hashes the file on all cores; seconds.
    pub(crate) fn hash(&self, path: &str) -> Outcome<f64> {
        self.seconds(&["hash", path])
    }

    /// Copies the file durably; seconds.
    pub(crate) fn copy(&self, path: &str, to: &str) -> Outcome<f64> {
        self.seconds(&["copy", path, to])
    }
}

impl Served {
    fn text(&self, field: &str) -> Outcome<&str> {
        self.said[field].as_str().ok_or_else(|| format!("it does not say its {field}").into())
    }

    /// How long it took to make it servable.
    pub(crate) fn seconds(&self) -> Outcome<f64> {
        self.said["seconds"].as_f64().ok_or_else(|| "it does not say how long it took".into())
    }
}
