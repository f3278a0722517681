//! Finds a worker for a task and sees the task through.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    num::NonZeroUsize,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use bytes::Bytes;
use diai_core::{AgentId, CallError, Calls, Instant, Refusal, World, timeout_at};
use futures::FutureExt;
use lru::LruCache;
use tokio::task::JoinSet;

use crate::{
    Artifacts, Candidates, Config, Output, Program, RunError, RunEvent, TaskId, TaskSpec,
    attempt::{Attempt, Ended},
    bidding::{Fresh, InFlight},
    error::GuestError,
    events::{Events, RunReporter},
    machine::{Miss, Search},
    performer::Performer,
    suspects::{Silence, Suspect, Suspects},
};

/// The capability that agents have that run tasks of others; asked for when a task names none.
pub const CAPABILITY: &str = "compute/task";

/// Agents of which it is remembered that they had a free slot.
const MAX_FRESH: usize = 256;
/// Capabilities of which it is remembered who offers them.
const MAX_CAPABILITIES: usize = 64;
/// Short outputs that are being stored at a time.
const MAX_BACKGROUND: usize = 64;

pub(crate) struct Requester {
    pub(crate) world: World,
    pub(crate) calls: Arc<dyn Calls>,
    pub(crate) artifacts: Arc<dyn Artifacts>,
    candidates: Arc<dyn Candidates>,
    pub(crate) performer: Arc<Performer>,
    pub(crate) config: Config,
    pub(crate) events: Events,
    pub(crate) fresh: Mutex<LruCache<AgentId, Fresh>>,
    offering: Mutex<LruCache<String, (Instant, Vec<AgentId>)>>,
    memory: Mutex<LruCache<TaskId, Output>>,
    background: Mutex<JoinSet<()>>,
}

/// A task on its way.
pub(crate) struct Order {
    pub(crate) task: TaskId,
    pub(crate) spec: TaskSpec,
    pub(crate) spec_bytes: Bytes,
    /// Only these, if the caller named them.
    pub(crate) agents: Option<Vec<AgentId>>,
    pub(crate) deadline: Instant,
    pub(crate) reporter: RunReporter,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_out_of_time(error: &RunError) -> bool {
    matches!(error, RunError::Guest { error: GuestError::TimeLimit, .. })
}

fn capacity(entries: usize) -> NonZeroUsize {
    NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN)
}

impl Requester {
    pub(crate) fn new(
        world: World,
        calls: Arc<dyn Calls>,
        artifacts: Arc<dyn Artifacts>,
        candidates: Arc<dyn Candidates>,
        performer: Arc<Performer>,
        config: Config,
    ) -> Self {
        Self {
            world,
            calls,
            artifacts,
            candidates,
            performer,
            events: Events::new(config.max_events),
            fresh: Mutex::new(LruCache::new(capacity(MAX_FRESH))),
            offering: Mutex::new(LruCache::new(capacity(MAX_CAPABILITIES))),
            memory: Mutex::new(LruCache::new(capacity(config.max_remembered))),
            background: Mutex::new(JoinSet::new()),
            config,
        }
    }

    pub(crate) fn me(&self) -> AgentId {
        self.calls.local_agent()
    }

    /// Cancel-safe: dropping the future cancels the task wherever it runs.
    pub(crate) async fn run(&self, order: Order) -> Result<Output, RunError> {
        if let Some(output) = self.remembered(&order).await {
            order.reporter.send(RunEvent::Done { agent: output.worker, remembered: true });
            return Ok(output);
        }
        let search = Mutex::new(Search::new(order.task, self.config.max_attempts));
        let ended = timeout_at(&*self.world.clock, order.deadline, self.search(&order, &search)).await;
        let ended = ended.unwrap_or_else(|_| Err(lock(&search).late(order.spec.deadline)));
        match &ended {
            Ok(output) => {
                self.remember(&order, output);
                order.reporter.send(RunEvent::Done { agent: output.worker, remembered: false });
            }
            Err(error) => order.reporter.send(RunEvent::Failed { code: error.code() }),
        }
        ended
    }

    /// An equal task's result, if all of it is still here. Only WebAssembly gives the same twice.
    async fn remembered(&self, order: &Order) -> Option<Output> {
        let output = lock(&self.memory).get(&order.task).cloned()?;
        if order.agents.as_ref().is_some_and(|agents| !agents.contains(&output.worker)) {
            return None;
        }
        for artifact in output.produced.artifacts().filter(|artifact| artifact.inline.is_none()) {
            self.artifacts.held(artifact.cid).await?;
        }
        Some(output)
    }

    fn remember(&self, order: &Order, output: &Output) {
        if matches!(order.spec.program, Program::Wasm(_)) {
            lock(&self.memory).put(order.task, output.clone());
        }
    }

    /// Tries one worker after another, and goes on with those that fell silent beside it. The first result counts.
    async fn search(&self, order: &Order, search: &Mutex<Search>) -> Result<Output, RunError> {
        let patience = self.world.clock.now() + self.config.busy_patience;
        let suspects = Mutex::new(Suspects::new(self.config.max_attempts));
        let mut rounds = pin!(self.rounds(order, search, &suspects, patience));
        // Out of time on a busy device says little while another is at it.
        let (mut over, mut out_of_time) = (false, None);
        poll_fn(|cx| {
            loop {
                if !over && let Poll::Ready(ended) = rounds.as_mut().poll(cx) {
                    over = true;
                    match ended.transpose() {
                        Some(Err(error)) if is_out_of_time(&error) && !lock(&suspects).is_empty() => {
                            out_of_time = Some(error);
                        }
                        Some(result) => return Poll::Ready(result),
                        None => {}
                    }
                }
                // After the rounds: whom they have just given up waiting for is looked at from now on.
                let ended = lock(&suspects).poll_ended(cx);
                match ended {
                    Poll::Ready(Some((agent, ended))) => {
                        match self.settle(order, search, agent, ended).transpose() {
                            Some(Err(error)) if is_out_of_time(&error) => {
                                lock(search).miss(agent, Miss::Lost(error.to_string()));
                                out_of_time = Some(error);
                            }
                            Some(result) => return Poll::Ready(result),
                            None => {}
                        }
                        if over && out_of_time.is_none() && lock(search).has_later() {
                            rounds.set(self.rounds(order, search, &suspects, patience));
                            over = false;
                        }
                    }
                    Poll::Ready(None) if over => {
                        return Poll::Ready(Err(out_of_time.take().unwrap_or_else(|| lock(search).verdict())));
                    }
                    Poll::Ready(None) | Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// `None` if nobody is left to be asked.
    async fn rounds<'a>(
        &'a self,
        order: &'a Order,
        search: &'a Mutex<Search>,
        suspects: &Mutex<Suspects<'a>>,
        patience: Instant,
    ) -> Result<Option<Output>, RunError> {
        let mut first = true;
        loop {
            let agents = self.agents(order, first).await;
            first = false;
            if let Some(output) = self.round(order, search, suspects, agents).await? {
                return Ok(Some(output));
            }
            if let Some(output) = self.here(order, search, suspects).await? {
                return Ok(Some(output));
            }
            let now = self.world.clock.now();
            let wait = {
                let mut search = lock(search);
                if search.is_over() || !search.has_later() || now >= patience {
                    return Ok(None);
                }
                search.next_round().unwrap_or_default()
            };
            self.world.clock.sleep_until(now + wait).await;
        }
    }

    /// Who could do it, the best first.
    async fn agents(&self, order: &Order, first: bool) -> Vec<AgentId> {
        if let Some(agents) = &order.agents {
            let mut seen = BTreeSet::new();
            return agents.iter().copied().filter(|agent| seen.insert(*agent)).collect();
        }
        let path = order.spec.capability.as_deref().unwrap_or(CAPABILITY);
        let now = self.world.clock.now();
        if first
            && let Some((until, agents)) = lock(&self.offering).get(path)
            && *until > now
        {
            return agents.clone();
        }
        let mut agents = self.candidates.find(path).await;
        agents.retain(|agent| *agent != self.me());
        if !agents.is_empty() {
            lock(&self.offering).put(path.to_owned(), (now + self.config.fresh, agents.clone()));
        }
        agents
    }

    /// Asks all who may be asked, until one has done it or nobody is left.
    async fn round<'a>(
        &'a self,
        order: &'a Order,
        search: &'a Mutex<Search>,
        suspects: &Mutex<Suspects<'a>>,
        agents: Vec<AgentId>,
    ) -> Result<Option<Output>, RunError> {
        loop {
            let open: Vec<AgentId> = {
                let search = lock(search);
                if search.is_over() {
                    return Ok(None);
                }
                agents.iter().copied().filter(|agent| search.is_open(agent)).collect()
            };
            let order_of_asking = match self.at_once(order, &open) {
                Some(agent) => vec![agent],
                None if open.is_empty() => return Ok(None),
                None => self.bids(order, search, self.pick(open)).await,
            };
            for agent in order_of_asking {
                // Who was asked before it may have told something of it, such as a second word of its own.
                if !lock(search).is_open(&agent) {
                    continue;
                }
                if let Some(output) = self.try_agent(order, search, suspects, agent).await? {
                    return Ok(Some(output));
                }
                if lock(search).is_over() {
                    return Ok(None);
                }
            }
        }
    }

    pub(crate) fn penalise(&self, agent: AgentId, misbehaviour: diai_core::Misbehaviour) {
        for peer in self.world.network.peers().into_iter().filter(|peer| peer.agent == Some(agent)) {
            self.world.network.penalise(peer.peer, misbehaviour);
        }
    }

    /// Notes why `agent` did not take the task.
    pub(crate) fn refused(&self, search: &Mutex<Search>, agent: AgentId, error: &CallError) {
        let mut search = lock(search);
        match error {
            CallError::Refused { refusal: Refusal::Busy { retry_after_ms }, .. } => {
                lock(&self.fresh).pop(&agent);
                search.busy(agent, *retry_after_ms);
            }
            CallError::TooMany { .. } => search.busy(agent, 20),
            CallError::Refused { refusal: Refusal::NotAllowed { reason }, .. } => {
                search.miss(agent, Miss::NotAllowed(reason.clone()));
            }
            error @ (CallError::Refused { refusal: Refusal::UnknownService | Refusal::BadRequest { .. }, .. }
            | CallError::TooLarge { .. }
            | CallError::Closed) => search.miss(agent, Miss::Unable(error.to_string())),
            // It may be there again in a moment.
            error => search.postpone(agent, error.to_string()),
        }
    }

    /// Gives the task to `agent`; `None` if it comes to nothing, or nothing comes from it, but another may be tried.
    async fn try_agent<'a>(
        &'a self,
        order: &'a Order,
        search: &'a Mutex<Search>,
        suspects: &Mutex<Suspects<'a>>,
        agent: AgentId,
    ) -> Result<Option<Output>, RunError> {
        if agent == self.me() {
            let executor = &self.performer.executor;
            let miss = if !executor.knows(&order.spec.program) {
                Some(Miss::Unable("this agent has no such service, or runs no programs".to_owned()))
            } else {
                executor.refuses(&order.spec).map(Miss::NotAllowed)
            };
            if let Some(miss) = miss {
                lock(search).miss(agent, miss);
                return Ok(None);
            }
            let _in_flight = InFlight::new(self, agent);
            let ended = Attempt::new(self, order, agent).here().await;
            return self.settle(order, search, agent, ended);
        }
        let silence = Arc::new(Silence::default());
        let heard = silence.clone();
        let mut attempt = async move {
            let _in_flight = InFlight::new(self, agent);
            Attempt::new(self, order, agent).there(&heard).await
        }
        .boxed();
        tokio::select! {
            biased;
            ended = &mut attempt => return self.settle(order, search, agent, ended),
            () = silence.begun() => {}
        }
        tracing::debug!(task = %order.task, %agent, "a worker is silent, another is tried beside it");
        lock(&self.fresh).pop(&agent);
        lock(search).suspect(agent);
        order.reporter.send(RunEvent::WorkerSilent { agent });
        let given_up = lock(suspects).add(Suspect { agent, silence, attempt });
        if let Some(agent) = given_up {
            self.lost(order, search, agent, Miss::Lost("it stayed silent, and so did others after it".to_owned()));
        }
        Ok(None)
    }

    /// What the end of an attempt means for the search; `None` if another may be tried.
    fn settle(
        &self,
        order: &Order,
        search: &Mutex<Search>,
        agent: AgentId,
        ended: Ended,
    ) -> Result<Option<Output>, RunError> {
        match ended {
            Ended::Done(output) => {
                self.saw_slots(agent, 1);
                return Ok(Some(*output));
            }
            Ended::Guest(error) => return Err(RunError::Guest { task: order.task, worker: agent, error }),
            Ended::NotTaken(error) => self.refused(search, agent, &error),
            Ended::Missed(miss) => self.lost(order, search, agent, miss),
        }
        Ok(None)
    }

    fn lost(&self, order: &Order, search: &Mutex<Search>, agent: AgentId, miss: Miss) {
        lock(&self.fresh).pop(&agent);
        let reason = match &miss {
            Miss::Lost(reason) | Miss::NotAllowed(reason) | Miss::Unable(reason) => reason.clone(),
            Miss::NotFound { cid, asked } => format!("it did not find {cid}: {asked}"),
        };
        tracing::debug!(task = %order.task, %agent, %reason, "a worker failed a task");
        order.reporter.send(RunEvent::WorkerLost { agent, reason });
        let failed = {
            let mut search = lock(search);
            search.miss(agent, miss);
            search.failed()
        };
        order.reporter.send(RunEvent::Retrying { failed });
    }

    /// Runs the task here, when nobody else can.
    async fn here<'a>(
        &'a self,
        order: &'a Order,
        search: &'a Mutex<Search>,
        suspects: &Mutex<Suspects<'a>>,
    ) -> Result<Option<Output>, RunError> {
        let me = self.me();
        let executor = &self.performer.executor;
        let wanted = order.agents.is_none() && self.config.allow_local && !lock(search).is_left_out(&me);
        if !wanted || !executor.knows(&order.spec.program) {
            return Ok(None);
        }
        // Others are busy but would do it: wait for them rather than queue up here.
        if lock(search).has_busy() && !executor.has_free_slot() {
            return Ok(None);
        }
        self.try_agent(order, search, suspects, me).await
    }

    /// Stores short outputs that travelled with the result, without making the caller wait.
    pub(crate) async fn store_in_background(&self, content: Bytes) {
        let mut put = self.artifacts.put(content, None);
        // What the store can do at once is done before the caller sees the result.
        if futures::poll!(&mut put).is_ready() {
            return;
        }
        let full = {
            let mut background = lock(&self.background);
            while background.try_join_next().is_some() {}
            background.len() >= MAX_BACKGROUND
        };
        let finish = async move {
            if let Err(error) = put.await {
                tracing::warn!(%error, "an output that travelled with its result could not be stored");
            }
        };
        if full {
            // Too many at a time: the caller waits after all.
            finish.await;
        } else {
            lock(&self.background).spawn(finish);
        }
    }

    /// Completes when all short outputs are stored and durable.
    pub(crate) async fn stored(&self) {
        while poll_fn(|cx| lock(&self.background).poll_join_next(cx)).await.is_some() {}
        if let Err(error) = self.artifacts.flush().await {
            tracing::warn!(%error, "outputs that travelled with their results could not be made durable");
        }
    }
}
