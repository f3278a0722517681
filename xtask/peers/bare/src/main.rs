//! Peers that `cargo xtask peers` measures beside the agent: each serves until it is ended, or fetches and says in one line of JSON
//! how many seconds that took, without the time to connect.

mod blobs;
mod disk;
mod stream;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Any error ends the program.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Debug, Parser)]
#[command(about = "iroh-blobs, and a bare libp2p stream, on loopback")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Put a file, or each file of a flat folder, into an iroh-blobs store and serve it; prints how long that took and where it is
    BlobsServe { path: PathBuf, store: PathBuf },
    /// Fetch what `blobs-serve` prints into a new store
    BlobsFetch { peer: String, addr: SocketAddr, hash: String, store: PathBuf },
    /// Fetch each file of a collection by itself, one after the other, and say the median
    BlobsEach { peer: String, addr: SocketAddr, hash: String, store: PathBuf },
    /// Serve a TCP, Noise, Yamux stream of bytes
    StreamServe,
    /// Read that many MiB from the stream at this address and hash them with SHA-256
    StreamFetch { addr: String, mib: u64 },
    /// Read a file and hash each MiB of it with SHA-256, on all cores
    Hash { path: PathBuf },
    /// Copy a file and make the copy durable
    Copy { path: PathBuf, to: PathBuf },
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Args::parse().task {
        Task::BlobsServe { path, store } => blobs::serve(&path, &store).await,
        Task::BlobsFetch { peer, addr, hash, store } => blobs::fetch(&peer, addr, &hash, &store).await,
        Task::BlobsEach { peer, addr, hash, store } => blobs::each(&peer, addr, &hash, &store).await,
        Task::StreamServe => stream::serve().await,
        Task::StreamFetch { addr, mib } => stream::fetch(&addr, mib).await,
        Task::Hash { path } => disk::hash(&path),
        Task::Copy { path, to } => disk::copy(&path, &to),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
