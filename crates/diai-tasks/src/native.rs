//! Native services: code of this agent's own, through the same door as guests.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use diai_core::{AgentId, BoxFuture, RegisterError, Registration};
use tokio::sync::mpsc;

use crate::{
    Limits, Progress, TaskFailure, TaskId,
    codec::clip,
    message::{MAX_NOTE_BYTES, MAX_PARTIAL_BYTES},
    spec::MAX_NAME_BYTES,
};

/// A native service. It passes the same policy, queue, time and output limits as a guest; memory is its own affair.
///
/// The future is dropped when the requester gives up, or over the time limit. Work that burns a core belongs on
/// [`Offload`](diai_core::Offload).
pub trait NativeTask: Send + Sync + 'static {
    /// Does one task.
    fn run(
        &self,
        context: TaskContext,
        request: NativeRequest,
    ) -> BoxFuture<'static, Result<NativeOutput, TaskFailure>>;
}

struct NativeFn<F>(F);

impl<F, R> NativeTask for NativeFn<F>
where
    F: Fn(TaskContext, NativeRequest) -> R + Send + Sync + 'static,
    R: Future<Output = Result<NativeOutput, TaskFailure>> + Send + 'static,
{
    fn run(
        &self,
        context: TaskContext,
        request: NativeRequest,
    ) -> BoxFuture<'static, Result<NativeOutput, TaskFailure>> {
        Box::pin((self.0)(context, request))
    }
}

/// A native service made of an async closure.
pub fn native_fn<F, R>(run: F) -> Arc<dyn NativeTask>
where
    F: Fn(TaskContext, NativeRequest) -> R + Send + Sync + 'static,
    R: Future<Output = Result<NativeOutput, TaskFailure>> + Send + 'static,
{
    Arc::new(NativeFn(run))
}

/// What a native service is asked.
#[derive(Debug, Clone)]
pub struct NativeRequest {
    /// Which task.
    pub task: TaskId,
    /// For whom.
    pub from: AgentId,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its inputs, name and content.
    pub inputs: Vec<(String, Bytes)>,
    /// Its limits.
    pub limits: Limits,
}

/// What a native service makes.
#[derive(Debug, Clone, Default)]
pub struct NativeOutput {
    /// What stands for standard output.
    pub stdout: Bytes,
    /// Files, name and content; at most [`MAX_OUTPUT_FILES`](crate::MAX_OUTPUT_FILES), relative paths.
    pub files: Vec<(String, Bytes)>,
}

/// What happens on the way to a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Interim {
    Progress(Progress),
    Partial(Bytes),
}

/// By which a running task reports. A report that finds the queue full is dropped: reports never slow a task.
#[derive(Clone)]
pub struct TaskContext {
    reports: mpsc::Sender<Interim>,
}

impl fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TaskContext")
    }
}

impl TaskContext {
    /// A context, and the end at which its reports arrive.
    pub(crate) fn new(max_reports: usize) -> (Self, mpsc::Receiver<Interim>) {
        let (reports, receiver) = mpsc::channel(max_reports);
        (Self { reports }, receiver)
    }

    /// `done` of `total` steps are done; `total` zero if unknown. The note is cut to 256 bytes.
    pub fn progress(&self, done: u64, total: u64, note: &str) {
        let note = clip(note, MAX_NOTE_BYTES);
        // Full, or nobody listens any more: both are the reader's affair.
        let _ = self.reports.try_send(Interim::Progress(Progress { done, total, note }));
    }

    /// Hands over a part of the result, at most [`MAX_PARTIAL_BYTES`](crate::MAX_PARTIAL_BYTES); waits for room. False
    /// if it is too long or nobody listens any more.
    ///
    /// Cancel-safe: a dropped future has handed over nothing.
    pub async fn partial(&self, part: Bytes) -> bool {
        part.len() <= MAX_PARTIAL_BYTES && self.reports.send(Interim::Partial(part)).await.is_ok()
    }
}

/// The native services of this agent.
#[derive(Clone, Default)]
pub(crate) struct Services(Arc<Mutex<BTreeMap<String, Arc<dyn NativeTask>>>>);

impl Services {
    pub(crate) fn get(&self, name: &str) -> Option<Arc<dyn NativeTask>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(crate) fn register(&self, name: &str, task: Arc<dyn NativeTask>) -> Result<Registration, RegisterError> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(RegisterError::Name(name.to_owned()));
        }
        let mut services = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if services.contains_key(name) {
            return Err(RegisterError::Taken(name.to_owned()));
        }
        services.insert(name.to_owned(), task);
        let (services, name) = (self.clone(), name.to_owned());
        Ok(Registration::new(move || {
            let removed = services.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            // After the lock: what a task owns may have services of its own to take back.
            drop(removed);
        }))
    }
}
