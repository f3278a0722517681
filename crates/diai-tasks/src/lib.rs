//! Has tasks done by the best of the agents that can do them, and does tasks of others within strict limits.
//!
//! # Promise
//! - A task is a [`TaskSpec`]; its [`TaskId`] is the CID of its canonical bytes. Everything that can change the result of
//!   a WebAssembly task stands in there: its clock and random numbers too. It sees no network, no real file, no time.
//! - A task survives its worker: whoever dies, falls silent for [`Config::lease`], or brings a result that is not
//!   signed for this very attempt is left out, and another one is tried.
//! - What a task does wrong itself (a trap, an exceeded limit) comes back as its own [`GuestError`], signed by the
//!   worker, and is never retried.
//! - Nobody works for others unless [`Config::serve`] says so.
//!
//! # What a guest sees
//! A WASI preview 1 command module (`_start`): arguments (`task` first); the inputs as files in `/in`, read-only, the
//! first also on standard input; `/out` to leave files in; standard output, which is the first result. Standard error
//! is kept for error messages; lines such as `progress 3/10 cutting facets` in it are reports of progress. An exit
//! code other than zero is a failure. A clock that starts where the task says and moves a microsecond with every
//! look; sleeping takes no time. No environment, sockets, links or file times.
//!
//! # Limits
//! | what | limit |
//! |---|---|
//! | an encoded task | [`MAX_SPEC_BYTES`]; [`MAX_ARGS`] arguments, [`MAX_INPUTS`] inputs |
//! | a guest | [`Limits`], within [`ExecutorConfig`]; 4,096 files, 256 descriptors, 64 KiB of standard error |
//! | a result | 1 MiB: [`MAX_OUTPUT_FILES`] files, names of [`MAX_OUTPUT_NAME_BYTES`], inline content of [`MAX_INLINE_BYTES`] |
//! | a native service | the same time and output limits; its memory is not limited |
//!
//! # Example
//! ```
//! use diai_core::Cid;
//! use diai_tasks::{Input, RunError, TaskSpec, Tasks};
//! use futures::StreamExt;
//!
//! async fn count_words(tasks: &Tasks, program: Cid, books: Vec<Input>) -> Result<(), RunError> {
//!     let mut counts = tasks.map(TaskSpec::wasm(program).arg("--words"), books);
//!     while let Some((book, output)) = counts.next().await {
//!         let output = output?;
//!         println!("book {book}: {} by {}", output.stdout().cid, output.worker);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Reading order
//! [`TaskSpec`], [`Tasks`], [`RunHandle`], [`Output`] (how to ask); [`Config`] (what it costs); [`NativeTask`] (how to
//! offer code of one's own); [`Artifacts`] and [`Candidates`] (what it needs); then `requester`, `attempt`, `machine`
//! (asking), `worker` (serving) and `executor` (running) in the source.

mod attempt;
mod bidding;
mod codec;
mod config;
mod error;
mod events;
mod executor;
#[cfg(feature = "__fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod machine;
mod message;
mod native;
mod performer;
mod ports;
mod requester;
mod spec;
mod suspects;
mod transfer;
mod worker;

pub use config::{Config, ExecutorConfig, Policy, Serving};
pub use error::{ArtifactError, GuestError, RunError, StartError, TaskFailure};
pub use events::{RunEvent, RunEvents, TaskEvent, TaskEvents};
pub use handle::{MapResults, RunHandle, Tasks};
pub use message::{
    Artifact, Bid, MAX_DETAIL_BYTES, MAX_INLINE_BYTES, MAX_NOTE_BYTES, MAX_OUTPUT_FILES, MAX_OUTPUT_NAME_BYTES,
    MAX_PARTIAL_BYTES, Output, OutputFile, Produced, Progress, Usage,
};
pub use native::{NativeOutput, NativeRequest, NativeTask, TaskContext, native_fn};
pub use ports::{Access, Artifacts, Candidates, Content, Flow};
pub use requester::CAPABILITY;
pub use spec::{
    AttemptId, Input, InvalidSpec, Limits, MAX_ARGS, MAX_CAPABILITY_BYTES, MAX_INPUTS, MAX_NAME_BYTES, MAX_SPEC_BYTES,
    Program, TaskId, TaskSpec,
};
