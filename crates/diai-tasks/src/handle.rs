use std::{
    fmt,
    future::IntoFuture,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use diai_core::{AgentId, BoxFuture, Calls, RegisterError, Registration, World, timeout_at};
use diai_identity::Identity;
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use tokio::{sync::mpsc, task::JoinSet};
use tracing::Instrument;

use crate::{
    Access, Artifact, ArtifactError, Artifacts, Candidates, Config, Flow, Input, NativeTask, Output, RunError,
    RunEvents, Serving, StartError, TaskEvents, TaskId, TaskSpec,
    events::RunReporter,
    executor::Executor,
    performer::Performer,
    requester::{Order, Requester},
    worker::Worker,
};

/// Events of one run that wait for a slow reader; more are left out.
const MAX_RUN_EVENTS: usize = 64;

/// What outputs have at least to be stored in at the end, whatever else took how long.
const STORE_GRACE: Duration = Duration::from_secs(2);

/// Tasks of this agent: gives tasks to others, and works for others if so configured. Cheap to clone; when the last
/// clone is gone, nothing is served any more.
#[derive(Clone)]
pub struct Tasks(Arc<Inner>);

struct Inner {
    requester: Arc<Requester>,
    registrations: Mutex<Vec<Registration>>,
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("agent", &self.0.requester.me()).finish_non_exhaustive()
    }
}

impl Tasks {
    /// Starts; serves from now on, if [`Config::serve`] says so.
    pub fn start(
        world: &World,
        identity: Identity,
        calls: Arc<dyn Calls>,
        artifacts: Arc<dyn Artifacts>,
        candidates: Arc<dyn Candidates>,
        config: Config,
    ) -> Result<Self, StartError> {
        config.check()?;
        let inline_bytes =
            config.serve.as_ref().map_or(Serving::default().inline_bytes, |serving| serving.inline_bytes);
        let executor = Executor::new(world.clone(), artifacts.clone(), config.executor.clone());
        let performer = Arc::new(Performer::new(executor, artifacts.clone(), identity, inline_bytes));
        let serving = config.serve.clone();
        let requester = Requester::new(world.clone(), calls.clone(), artifacts, candidates, performer.clone(), config);
        let mut registrations = Vec::new();
        if let Some(serving) = serving {
            let worker = Worker::new(world.clone(), performer, serving, requester.events.clone());
            registrations.extend(worker.serve(&*calls)?);
        }
        let requester = Arc::new(requester);
        Ok(Self(Arc::new(Inner { requester, registrations: Mutex::new(registrations) })))
    }

    /// Runs `task` for whoever asks for the service `name` (and may), until the registration is dropped. For others
    /// only while this agent serves; for this agent itself always.
    pub fn register(&self, name: &str, task: Arc<dyn NativeTask>) -> Result<Registration, RegisterError> {
        self.0.requester.performer.executor.services.register(name, task)
    }

    /// Has a task done by the best of those who can; here, if nobody else can.
    ///
    /// The task runs on while the handle is held, whether or not it is awaited; dropping the handle cancels it. To be
    /// called within a tokio runtime.
    pub fn run(&self, spec: TaskSpec) -> RunHandle {
        self.begin(spec, None)
    }

    /// The same, but only by one of `agents`; this agent itself may be among them.
    pub fn run_on(&self, spec: TaskSpec, agents: Vec<AgentId>) -> RunHandle {
        self.begin(spec, Some(agents))
    }

    fn begin(&self, spec: TaskSpec, agents: Option<Vec<AgentId>>) -> RunHandle {
        let requester = self.0.requester.clone();
        let (run, events) = mpsc::channel(MAX_RUN_EVENTS);
        let spec_bytes = spec.canonical();
        let task = spec_bytes.as_ref().map_or_else(|_| spec.id(), |bytes| TaskId::of(bytes));
        let span = tracing::debug_span!("task", %task);
        let mut work = JoinSet::new();
        work.spawn(
            async move {
                let deadline = requester.world.clock.now() + spec.deadline;
                let reporter = RunReporter { task, events: requester.events.clone(), run };
                requester.run(Order { task, spec_bytes: spec_bytes?, spec, agents, deadline, reporter }).await
            }
            .instrument(span),
        );
        RunHandle { task, events: Some(RunEvents::new(events)), work }
    }

    /// Runs `template` once for each of `inputs`, with that input before its own, and yields the results as they come,
    /// each with its input's place. At most [`Config::map_parallel`] run at a time, each by an agent that holds the
    /// input, if there is one with room. Dropping the stream cancels what is left.
    pub fn map(&self, template: TaskSpec, inputs: Vec<Input>) -> MapResults {
        self.map_among(template, inputs, None)
    }

    /// The same, but only by `agents`; this agent itself may be among them.
    pub fn map_on(&self, template: TaskSpec, inputs: Vec<Input>, agents: Vec<AgentId>) -> MapResults {
        self.map_among(template, inputs, Some(agents))
    }

    fn map_among(&self, template: TaskSpec, inputs: Vec<Input>, agents: Option<Vec<AgentId>>) -> MapResults {
        let tasks = self.clone();
        let parallel = self.0.requester.config.map_parallel;
        let results = stream::iter(inputs.into_iter().enumerate())
            .map(move |(index, input)| {
                let mut spec = template.clone();
                spec.inputs.insert(0, input);
                let handle = tasks.begin(spec, agents.clone());
                async move { (index, handle.result().await) }
            })
            .buffer_unordered(parallel);
        MapResults(Box::pin(results))
    }

    /// The content of an output: what travelled with the result, or from the store.
    pub async fn content(&self, artifact: &Artifact) -> Result<Bytes, ArtifactError> {
        match &artifact.inline {
            Some(content) => Ok(content.clone()),
            None => {
                let got =
                    self.0.requester.artifacts.get(artifact.cid, artifact.bytes, Access::Own, None, Flow::default());
                got.await.map(|content| content.bytes)
            }
        }
    }

    /// Events of all tasks, given and taken, from now on.
    pub fn events(&self) -> TaskEvents {
        self.0.requester.events.subscribe()
    }

    /// Stops serving, lets what runs here come to its end for at most `grace`, and waits for outputs to be stored
    /// (for two seconds even if nothing of `grace` is left).
    /// True if all of that ended in time. Nothing is begun here afterwards; what still runs ends at the latest with the
    /// session to its requester.
    ///
    /// Cancel-safe: dropping the future leaves the shutdown where it is; call it again.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        self.0.registrations.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let requester = &self.0.requester;
        let clock = &*requester.world.clock;
        let until = clock.now() + grace;
        let executor = &requester.performer.executor;
        let drained = timeout_at(clock, until, executor.drained()).await;
        // Before the places are given back: a task that waits for one must not slip in.
        executor.close();
        // What callers were told is held here is not lost because a guest used up the time.
        let until = until.max(clock.now() + STORE_GRACE);
        timeout_at(clock, until, requester.stored()).await.is_ok() && drained.is_ok()
    }
}

/// A task that was given away. Await it, or [`result`](Self::result), for what came of it; dropping it cancels the
/// task wherever it runs.
#[derive(Debug)]
pub struct RunHandle {
    task: TaskId,
    events: Option<RunEvents>,
    work: JoinSet<Result<Output, RunError>>,
}

impl RunHandle {
    /// Which task.
    pub fn task(&self) -> TaskId {
        self.task
    }

    /// Its events; the first call gives them, later ones give `None`. Up to 64 wait for the reader.
    pub fn events(&mut self) -> Option<RunEvents> {
        self.events.take()
    }

    /// Waits for the result. Not cancel-safe: dropping the future cancels the task.
    pub async fn result(mut self) -> Result<Output, RunError> {
        match self.work.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(_)) | None => Err(RunError::Closed { task: self.task }),
        }
    }
}

impl IntoFuture for RunHandle {
    type Output = Result<Output, RunError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.result())
    }
}

/// The results of a `map`, as they come. Dropping it cancels what is left.
pub struct MapResults(BoxStream<'static, (usize, Result<Output, RunError>)>);

impl fmt::Debug for MapResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MapResults")
    }
}

impl Stream for MapResults {
    type Item = (usize, Result<Output, RunError>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}
