//! What needs programs of others beside Rust: `cargo xtask interop`.
//!
//! The others (Kubo, Helia) are installed below `target/peers` when they are first needed, by the scripts in `peers/`, and run
//! on loopback only.

#![allow(clippy::disallowed_methods, reason = "it is no agent: it deals with the machine itself")]

mod agent;
mod helia;
mod interop;
mod kubo;
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
}

fn main() -> ExitCode {
    let outcome = match Args::parse().task {
        Task::InstallHelia => Helia::install().map(|_| true),
        Task::Interop { only, json, kills } => interop::run(&interop::Options { only, json, kills }),
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
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where other programs are installed.
pub(crate) fn peers_dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("peers")
}
