//! The benches: what the network does, beside the bare alternative, measured by turns in the same run.
//!
//! `cargo bench -p diai-benches` measures everything and prints the table of the README; a word after `--`, such as
//! `cargo bench -p diai-benches -- fetch`, picks the rows whose name has it. Both sides of each row live in one process,
//! on one tokio runtime with a worker for each core, and speak over loopback with the transport that an agent prefers:
//! TCP, TLS 1.3, Yamux. The bare side is stock libp2p, with the cipher that it picks; its server and its client share
//! the cores just as the two agents do.
//!
//! Reading order: `contest.rs` (how sides take turns), `bare.rs` (the other side), `agents.rs`, then a file for each row.

mod agents;
mod bare;
mod cache;
mod card;
mod contest;
mod engines;
mod fetch;
mod find;
mod idle;
mod pipe;
mod providers;
mod round_trip;
mod store;
mod task;
mod throughput;

use std::{env, error::Error, future::Future, time::Duration};

use criterion::Criterion;
use tokio::runtime::Runtime;

use crate::card::Scorecard;

/// Any error ends the run.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// What all rows share.
pub(crate) struct Bench {
    pub(crate) criterion: Criterion,
    pub(crate) runtime: Runtime,
    pub(crate) card: Scorecard,
    /// Each thing once, and small: as a test.
    pub(crate) test: bool,
}

impl Bench {
    /// Runs `future` on the runtime's workers, as everything that is measured.
    pub(crate) fn on_workers<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime.block_on(self.runtime.spawn(future)).expect("the task does not panic")
    }
}

/// Measures what the command line asks for and prints the table. In the process of an idle agent: is one.
///
/// # Panics
/// If an agent does not start or does not do what is measured.
pub fn main() {
    let runtime = Runtime::new().expect("a tokio runtime can be made");
    if let Some(role) = env::var_os(idle::ROLE) {
        runtime.block_on(idle::child(&role.to_string_lossy())).expect("the idle process runs");
        return;
    }
    let args: Vec<String> = env::args().skip(1).collect();
    // `cargo bench` adds `--bench`; everything else runs each thing once.
    let test = !args.iter().any(|arg| arg == "--bench") || args.iter().any(|arg| arg == "--test" || arg == "--list");
    let filter = args.iter().find(|arg| !arg.starts_with('-')).cloned().unwrap_or_default();
    let card = Scorecard::new(runtime.metrics().num_workers());
    let mut bench = Bench { criterion: Criterion::default().configure_from_args(), runtime, card, test };
    type Row = fn(&mut Bench) -> Result<()>;
    let rows: [(&str, Row); 10] = [
        ("pipe", pipe::run),
        ("round_trip", round_trip::run),
        ("throughput", throughput::run),
        ("find", find::run),
        ("fetch", fetch::run),
        ("providers", providers::run),
        ("cache", cache::run),
        ("store", store::run),
        ("task", task::run),
        ("idle", idle::run),
    ];
    for (name, row) in rows {
        if name.contains(&filter) || filter.starts_with(name) {
            row(&mut bench).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
    bench.criterion.final_summary();
    if !test {
        bench.card.print();
    }
    bench.runtime.shutdown_timeout(Duration::from_secs(1));
}
