use cid::Cid;
use diai_core::{AgentId, RegisterError};

use crate::{InvalidSpec, TaskId};

/// How a run failed by its own doing. Another worker would see the same, so it is never retried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The program is no WASI command module that can run here.
    #[error("the program is not a WASI command module: {reason}")]
    InvalidProgram {
        /// What is wrong with it.
        reason: String,
    },
    /// The program trapped.
    #[error("the program trapped: {message}{}", stderr_note(.stderr))]
    Trap {
        /// Which trap.
        message: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// It burnt all its fuel.
    #[error("the program used up its fuel; give it more, if it is to end at all")]
    FuelExhausted,
    /// It ran longer than its time limit.
    #[error("the program ran into its time limit")]
    TimeLimit,
    /// It wanted more memory than its limit.
    #[error("the program ran into its memory limit")]
    MemoryLimit,
    /// It wrote more than its limit.
    #[error("the program ran into its output limit")]
    OutputLimit,
    /// It ended with an exit code other than zero.
    #[error("the program ended with exit code {code}{}", stderr_note(.stderr))]
    Exit {
        /// The code.
        code: i32,
        /// The end of its standard error.
        stderr: String,
    },
    /// The native service says that this task cannot be done.
    #[error("the service failed: {reason}")]
    Service {
        /// Its reason.
        reason: String,
    },
}

impl GuestError {
    /// The failure's name in programs: the codes of `run`.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidProgram { .. } => "invalid_program",
            Self::Trap { .. } | Self::Exit { .. } | Self::Service { .. } => "trap",
            Self::FuelExhausted => "fuel_exhausted",
            Self::TimeLimit => "time_limit",
            Self::MemoryLimit => "memory_limit",
            Self::OutputLimit => "output_limit",
        }
    }
}

fn stderr_note(stderr: &str) -> String {
    let text = stderr.trim();
    if text.is_empty() { String::new() } else { format!("; it wrote: {text}") }
}

/// How a worker failed a task without the task's doing. Another worker may do better.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum HostFault {
    /// The program or an input could not be had.
    #[error("{cid} was not found: {asked}")]
    NotFound {
        /// What was looked for.
        cid: Cid,
        /// Where, in words.
        asked: String,
    },
    /// The requester may not have something read for it.
    #[error("{reason}")]
    NotAllowed {
        /// What, and why not.
        reason: String,
    },
    /// The worker cannot go on.
    #[error("the worker could not: {reason}")]
    Unavailable {
        /// Why not.
        reason: String,
    },
}

/// Why an artifact cannot be had or kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// Nobody who was asked has it.
    #[error("{cid} was not found: {asked}")]
    NotFound {
        /// What was looked for.
        cid: Cid,
        /// Who was asked, in words.
        asked: String,
    },
    /// It is longer than allowed.
    #[error("{cid} is longer than {max_bytes} bytes")]
    TooLarge {
        /// What was looked for.
        cid: Cid,
        /// The cap.
        max_bytes: u64,
    },
    /// It is encrypted, and whoever asks did not show that it can open it.
    #[error(
        "{cid} is sealed, and the requester did not show that it can open it; have its owner seal it for the requester too"
    )]
    NotAllowed {
        /// What was asked for.
        cid: Cid,
    },
    /// The store failed.
    #[error("the artifact store failed: {reason}")]
    Store {
        /// How.
        reason: String,
    },
}

/// Why a native service did not do a task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskFailure {
    /// The task cannot be done: it is at fault, and no other worker is tried.
    #[error("{reason}")]
    Failed {
        /// What is wrong with it.
        reason: String,
    },
    /// This worker cannot do it now; another may.
    #[error("not here: {reason}")]
    Unavailable {
        /// Why not.
        reason: String,
    },
}

/// Why tasks cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The services of tasks are registered already.
    #[error("tasks cannot be served: {0}")]
    Register(#[from] RegisterError),
    /// A value of the configuration cannot be.
    #[error("the configuration of tasks is wrong: {field} must be {must}")]
    Config {
        /// Which.
        field: &'static str,
        /// What it must be.
        must: &'static str,
    },
}

/// Why a task brought no result. Each names the task and, where there is one, the worker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The task itself cannot be.
    #[error("not a task: {0}")]
    InvalidSpec(#[from] InvalidSpec),
    /// The task ran and failed by its own doing, on that worker's signed word.
    #[error("task {task} failed on {worker}: {error}")]
    Guest {
        /// Which task.
        task: TaskId,
        /// Who ran it.
        worker: AgentId,
        /// How it failed.
        error: GuestError,
    },
    /// The program, an input or an output could not be had by anybody.
    #[error("task {task}: {cid} was not found; {asked}")]
    NotFound {
        /// Which task.
        task: TaskId,
        /// What was looked for.
        cid: Box<Cid>,
        /// Who was asked, in words.
        asked: String,
    },
    /// Nobody can do it, or all who tried failed.
    #[error("task {task}: no worker could do it; {tried}")]
    NoWorker {
        /// Which task.
        task: TaskId,
        /// Who was asked and what came of it, in words.
        tried: String,
    },
    /// The task's deadline passed.
    #[error("task {task} had no result within its deadline of {deadline_ms} ms; {tried}")]
    Deadline {
        /// Which task.
        task: TaskId,
        /// Its deadline, milliseconds.
        deadline_ms: u64,
        /// Who was asked and what came of it, in words.
        tried: String,
    },
    /// All who could do it are busy.
    #[error("task {task}: all workers are busy, try again later; {tried}")]
    Busy {
        /// Which task.
        task: TaskId,
        /// Who was asked, in words.
        tried: String,
    },
    /// All who could do it refuse to do it for this agent.
    #[error("task {task}: no worker may do it for this agent; {tried}")]
    NotAllowed {
        /// Which task.
        task: TaskId,
        /// Who was asked and what they said, in words.
        tried: String,
    },
    /// Tasks were shut down.
    #[error("tasks have shut down; task {task} was given up")]
    Closed {
        /// Which task.
        task: TaskId,
    },
}

impl RunError {
    /// The error's name in programs: one of `invalid_program`, `trap`, `fuel_exhausted`, `time_limit`, `memory_limit`,
    /// `output_limit`, `not_found`, `no_worker`, `deadline`, `busy`, `not_allowed`.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidSpec(_) => "invalid_program",
            Self::Guest { error, .. } => error.code(),
            Self::NotFound { .. } => "not_found",
            Self::NoWorker { .. } | Self::Closed { .. } => "no_worker",
            Self::Deadline { .. } => "deadline",
            Self::Busy { .. } => "busy",
            Self::NotAllowed { .. } => "not_allowed",
        }
    }
}
