//! What needs programs of others beside Rust: `cargo xtask interop` and `cargo xtask peers`.
//!
//! The others (Kubo, Helia) are installed below `target/peers` when they are first needed, by the scripts in `peers/`, and run
//! on loopback only.

#![allow(clippy::disallowed_methods, reason = "it is no agent: it deals with the machine itself")]

mod agent;
mod bare;
mod helia;
mod interop;
mod kubo;
mod peers;
mod process;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::helia::Helia;

/// What a step gives, or why it failed.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Tasks of this workspace that need other programs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install Helia, without which `interop` cannot run
    InstallHelia,
    /// Exchange files, folders, DAGs and CARs with Kubo and Helia in all directions
    Interop {
        /// Only the checks whose name contains this
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
        /// Say it as JSON, one object a check
        #[arg(long)]
        json: bool,
        /// Kill and restart an agent under transfer so often
        #[arg(long, value_name = "N", default_value_t = 20)]
        kills: u32,
    },
    /// Measure agents beside Kubo, iroh-blobs and a bare libp2p stream, by turns in one run, and print the table
    Peers {
        /// Only the rows whose name contains this
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
        /// So often each does its work
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// Size of the large file
        #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=65536))]
        mib: u64,
        /// Say it as JSON, one object a row
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Args::parse().task {
        Task::InstallHelia => Helia::install().map(|_| true),
        Task::Interop { only, json, kills } => interop::run(&interop::Options { only, json, kills }),
        Task::Peers { only, rounds, mib, json } => peers::run(&peers::Options { only, rounds, mib, json }),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    // Without `..` in it: what a path is called decides whether cargo takes what lies there for fresh.
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir).to_owned()
}

/// Where other programs are installed.
pub(crate) fn peers_dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("peers")
}
