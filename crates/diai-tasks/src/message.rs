//! What requester and worker say to each other, and the results that users see.

use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use diai_core::AgentId;
use diai_identity::{Domain, Signed};
use sha2::{Digest, Sha256};

use crate::{
    AttemptId, TaskId, TaskSpec,
    error::{GuestError, HostFault},
};

/// The service that answers an offer with a bid.
pub(crate) const OFFER_SERVICE: &str = "diai.task.offer";
/// The service that runs an awarded task and answers in parts.
pub(crate) const RUN_SERVICE: &str = "diai.task.run";
/// What a worker signs its results for.
pub(crate) const RESULT_DOMAIN: Domain = Domain::new("diai/task-result/1");

/// A worker that runs a task sends something at least this often; requesters count on it.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// A result lists at most so many files.
pub const MAX_OUTPUT_FILES: usize = 256;
/// The path of an output file below `/out` is at most so long.
pub const MAX_OUTPUT_NAME_BYTES: usize = 1024;
/// An output that travels inside a result is at most so long.
pub const MAX_INLINE_BYTES: usize = 64 << 10;
/// A note of progress is at most so long.
pub const MAX_NOTE_BYTES: usize = 256;
/// A partial result is at most so long.
pub const MAX_PARTIAL_BYTES: usize = 256 << 10;
/// The text of a failure is at most so long; so is the end of the guest's standard error in it.
pub const MAX_DETAIL_BYTES: usize = 4 << 10;

/// What a worker offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bid {
    /// Until it can start.
    pub start: Duration,
    /// How long it thinks the run takes.
    pub run: Duration,
    /// Bytes of the inputs that it holds already.
    pub held_bytes: u64,
    /// How many of the inputs it holds already.
    pub held_inputs: u32,
    /// Free slots.
    pub free_slots: u32,
    /// Whether it has the program already.
    pub program_held: bool,
}

/// An award as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Award {
    pub(crate) attempt: AttemptId,
    pub(crate) task: TaskId,
    pub(crate) spec: TaskSpec,
    /// One an input, in order; or none at all.
    pub(crate) proofs: Vec<Option<[u8; 32]>>,
}

/// What a proof of access is good for: one attempt at one task, by one worker for one requester.
pub(crate) fn proof_context(task: TaskId, attempt: AttemptId, requester: AgentId, worker: AgentId) -> [u8; 32] {
    let hash = Sha256::new().chain_update(b"diai/task-access/1").chain_update(task.digest());
    hash.chain_update(attempt.as_bytes())
        .chain_update(requester.as_bytes())
        .chain_update(worker.as_bytes())
        .finalize()
        .into()
}

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Steps done.
    pub done: u64,
    /// Steps in all; zero if unknown.
    pub total: u64,
    /// What is being done, at most [`MAX_NOTE_BYTES`] bytes.
    pub note: String,
}

/// One part of the answer to an award.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Accepted,
    KeepAlive,
    Progress(Progress),
    Partial(Bytes),
    Result(Bytes),
    Fault(HostFault),
}

/// What a run cost the worker; signed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Fuel burnt. Comparable only between equal versions of the executor.
    pub fuel: u64,
    /// Bytes of program and inputs that it had to read.
    pub bytes_in: u64,
    /// Bytes of standard output and output files.
    pub bytes_out: u64,
    /// Wall time of the run, milliseconds.
    pub wall_ms: u64,
}

/// One output: its CID, and the content itself when it is short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its content.
    pub cid: Cid,
    /// Its length.
    pub bytes: u64,
    /// The content, when it travelled with the result.
    pub inline: Option<Bytes>,
}

/// A file that the task left under `/out`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFile {
    /// Its path below `/out`, with `/` between folders; never absolute, never with `..`.
    pub name: String,
    /// Its content.
    pub artifact: Artifact,
}

/// What a task made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Produced {
    /// Standard output.
    pub stdout: Artifact,
    /// Files under `/out`, sorted by name.
    pub files: Vec<OutputFile>,
}

impl Produced {
    /// All outputs, standard output first.
    pub fn artifacts(&self) -> impl Iterator<Item = &Artifact> {
        std::iter::once(&self.stdout).chain(self.files.iter().map(|file| &file.artifact))
    }
}

/// The payload that a worker signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TaskResult {
    pub(crate) task: TaskId,
    pub(crate) attempt: AttemptId,
    pub(crate) outcome: Result<Produced, GuestError>,
    pub(crate) usage: Usage,
}

/// The verified result of a task.
#[derive(Debug, Clone)]
pub struct Output {
    /// Which task.
    pub task: TaskId,
    /// Which attempt brought the result.
    pub attempt: AttemptId,
    /// Who ran it.
    pub worker: AgentId,
    /// What it made. All of it is held here: what did not travel inline was fetched, unless
    /// [`Config::fetch_outputs`](crate::Config::fetch_outputs) is off.
    pub produced: Produced,
    /// What it cost the worker.
    pub usage: Usage,
    /// The worker's signed word for all of the above.
    pub receipt: Signed,
}

impl Output {
    /// Standard output.
    pub fn stdout(&self) -> &Artifact {
        &self.produced.stdout
    }

    /// The files under `/out`, sorted by name.
    pub fn files(&self) -> &[OutputFile] {
        &self.produced.files
    }

    /// The file `name` under `/out`.
    pub fn file(&self, name: &str) -> Option<&Artifact> {
        self.produced.files.iter().find(|file| file.name == name).map(|file| &file.artifact)
    }
}
