//! Finds a worker for a task and sees the task through.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use diai_core::{AgentId, CallError, CallOptions, Calls, Instant, Refusal, World, timeout_at};
use futures::{StreamExt, stream::FuturesUnordered};
use lru::LruCache;
use tokio::task::JoinSet;

use crate::{
    Artifacts, Candidates, Config, Output, Program, RunError, RunEvent, TaskId, TaskSpec,
    attempt::{Attempt, Ended},
    codec,
    events::{Events, RunReporter},
    machine::{Miss, Offer, Search, rank},
    message::OFFER_SERVICE,
    performer::Performer,
};

/// The capability that agents have that run tasks of others; asked for when a task names none.
pub const CAPABILITY: &str = "compute/task";

/// Agents of which it is remembered that they had a free slot.
const MAX_FRESH: usize = 256;
/// Capabilities of which it is remembered who offers them.
const MAX_CAPABILITIES: usize = 64;
/// Short outputs that are being stored at a time.
const MAX_BACKGROUND: usize = 64;

/// A worker that lately showed a free slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fresh {
    until: Instant,
    slots: u32,
    in_flight: u32,
}

pub(crate) struct Requester {
    pub(crate) world: World,
    pub(crate) calls: Arc<dyn Calls>,
    pub(crate) artifacts: Arc<dyn Artifacts>,
    candidates: Arc<dyn Candidates>,
    pub(crate) performer: Arc<Performer>,
    pub(crate) config: Config,
    pub(crate) events: Events,
    fresh: Mutex<LruCache<AgentId, Fresh>>,
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    async fn search(&self, order: &Order, search: &Mutex<Search>) -> Result<Output, RunError> {
        let patience = self.world.clock.now() + self.config.busy_patience;
        let mut first = true;
        loop {
            let agents = self.agents(order, first).await;
            first = false;
            if let Some(output) = self.round(order, search, agents).await? {
                return Ok(output);
            }
            if lock(search).is_over() {
                return Err(lock(search).verdict());
            }
            if let Some(output) = self.here(order, search).await? {
                return Ok(output);
            }
            let now = self.world.clock.now();
            if !lock(search).has_busy() || now >= patience {
                return Err(lock(search).verdict());
            }
            let wait = lock(search).next_round().unwrap_or_default();
            self.world.clock.sleep_until(now + wait).await;
        }
    }

    /// Who could do it, the best first.
    async fn agents(&self, order: &Order, first: bool) -> Vec<AgentId> {
        if let Some(agents) = &order.agents {
            return agents.clone();
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
    async fn round(
        &self,
        order: &Order,
        search: &Mutex<Search>,
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
                if let Some(output) = self.try_agent(order, search, agent).await? {
                    return Ok(Some(output));
                }
                if lock(search).is_over() {
                    return Ok(None);
                }
            }
        }
    }

    /// Whom to ask for bids: half of them the best known, the others by chance, so that not all requesters crowd on the
    /// same few.
    fn pick(&self, mut open: Vec<AgentId>) -> Vec<AgentId> {
        let probe = self.config.probe;
        for index in probe.div_ceil(2)..probe.min(open.len()) {
            let rest = (open.len() - index) as u64;
            let other = index + usize::try_from(self.world.entropy.below(rest)).unwrap_or(0);
            open.swap(index, other);
        }
        open.truncate(probe);
        open
    }

    /// The worker to which the task is given without asking for bids: the only one, or one that lately had a free slot
    /// if no inputs make a difference.
    fn at_once(&self, order: &Order, open: &[AgentId]) -> Option<AgentId> {
        if let [agent] = open {
            return Some(*agent);
        }
        if !order.spec.inputs.is_empty() {
            return None;
        }
        let now = self.world.clock.now();
        let fresh = lock(&self.fresh);
        let free = open.iter().filter_map(|agent| {
            let known = fresh.peek(agent).filter(|known| known.until > now && known.in_flight < known.slots)?;
            Some((known.in_flight, agent))
        });
        free.min_by_key(|(in_flight, _)| *in_flight).map(|(_, agent)| *agent)
    }

    /// Asks `agents` for bids; those that bid, the best first.
    async fn bids(&self, order: &Order, search: &Mutex<Search>, agents: Vec<AgentId>) -> Vec<AgentId> {
        order.reporter.send(RunEvent::Offered { agents: agents.clone() });
        let began = self.world.clock.now();
        let mut asked: FuturesUnordered<_> =
            agents.clone().into_iter().map(|agent| async move { (agent, self.ask(order, agent).await) }).collect();
        let mut until = began + self.config.offer_timeout;
        let mut offers = Vec::new();
        let mut silent = agents;
        while let Ok(Some((agent, reply))) = timeout_at(&*self.world.clock, until, asked.next()).await {
            silent.retain(|other| *other != agent);
            let now = self.world.clock.now();
            match reply {
                Ok(offer) => {
                    order.reporter.send(RunEvent::Bid { agent, bid: offer.bid });
                    self.saw_slots(agent, offer.bid.free_slots);
                    if offers.is_empty() {
                        until = until.min(now + self.config.bid_window);
                    }
                    offers.push(offer);
                }
                Err(error) => self.refused(search, agent, &error),
            }
        }
        if offers.is_empty() {
            let reason = "it did not answer the offer in time";
            silent.into_iter().for_each(|agent| lock(search).miss(agent, Miss::Unable(reason.to_owned())));
        }
        let mut input_bytes = 0u64;
        for input in &order.spec.inputs {
            input_bytes = input_bytes.saturating_add(self.artifacts.held(input.cid).await.unwrap_or(0));
        }
        rank(&mut offers, order.spec.inputs.len(), input_bytes, self.config.transfer_bytes_per_second);
        offers.into_iter().map(|offer| offer.agent).collect()
    }

    async fn ask(&self, order: &Order, agent: AgentId) -> Result<Offer, CallError> {
        let began = self.world.clock.now();
        if agent == self.me() {
            let bid = self.performer.executor.bid(&order.spec).await;
            return Ok(Offer { agent, bid, round_trip: Duration::ZERO });
        }
        let options = CallOptions::within(self.config.offer_timeout).idempotent();
        let body = codec::encode_offer(order.spec_bytes.clone());
        let reply = self.calls.call(agent, OFFER_SERVICE, body, options).await?;
        let bid = codec::decode_bid(reply).map_err(|error| {
            self.penalise(agent, diai_core::Misbehaviour::Malformed);
            CallError::Refused { agent, refusal: Refusal::Failed { reason: error.to_string() } }
        })?;
        Ok(Offer { agent, bid, round_trip: self.world.clock.now().since(began) })
    }

    pub(crate) fn penalise(&self, agent: AgentId, misbehaviour: diai_core::Misbehaviour) {
        for peer in self.world.network.peers().into_iter().filter(|peer| peer.agent == Some(agent)) {
            self.world.network.penalise(peer.peer, misbehaviour);
        }
    }

    /// Notes why `agent` did not take the task.
    fn refused(&self, search: &Mutex<Search>, agent: AgentId, error: &CallError) {
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
            error => search.miss(agent, Miss::Unable(error.to_string())),
        }
    }

    /// Gives the task to `agent`; `None` if it comes to nothing but another may be tried.
    async fn try_agent(
        &self,
        order: &Order,
        search: &Mutex<Search>,
        agent: AgentId,
    ) -> Result<Option<Output>, RunError> {
        let _in_flight = InFlight::new(self, agent);
        let ended = if agent == self.me() {
            if !self.performer.executor.knows(&order.spec.program) {
                lock(search).miss(agent, Miss::Unable("this agent has no such service".to_owned()));
                return Ok(None);
            }
            Attempt::new(self, order, agent).here().await
        } else {
            Attempt::new(self, order, agent).there().await
        };
        let miss = match ended {
            Ended::Done(output) => {
                self.saw_slots(agent, 1);
                return Ok(Some(*output));
            }
            Ended::Guest(error) => return Err(RunError::Guest { task: order.task, worker: agent, error }),
            Ended::NotTaken(error) => {
                self.refused(search, agent, &error);
                return Ok(None);
            }
            Ended::Missed(miss) => miss,
        };
        lock(&self.fresh).pop(&agent);
        let reason = match &miss {
            Miss::Lost(reason) | Miss::NotAllowed(reason) | Miss::Unable(reason) => reason.clone(),
            Miss::NotFound { cid, asked } => format!("it did not find {cid}: {asked}"),
        };
        tracing::debug!(task = %order.task, %agent, %reason, "a worker failed a task");
        order.reporter.send(RunEvent::WorkerLost { agent, reason });
        lock(search).miss(agent, miss);
        order.reporter.send(RunEvent::Retrying { failed: lock(search).failed() });
        Ok(None)
    }

    /// Runs the task here, when nobody else can.
    async fn here(&self, order: &Order, search: &Mutex<Search>) -> Result<Option<Output>, RunError> {
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
        if let Some(reason) = executor.refuses(&order.spec) {
            lock(search).miss(me, Miss::Unable(reason));
            return Ok(None);
        }
        self.try_agent(order, search, me).await
    }

    fn saw_slots(&self, agent: AgentId, slots: u32) {
        let until = self.world.clock.now() + self.config.fresh;
        let mut fresh = lock(&self.fresh);
        let (known, in_flight) = fresh.get(&agent).map_or((0, 0), |known| (known.slots, known.in_flight));
        // Who has just finished has at least that slot; a bid says how many there are.
        fresh.put(agent, Fresh { until, slots: known.max(slots), in_flight });
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
        let mut background = std::mem::take(&mut *lock(&self.background));
        while background.join_next().await.is_some() {}
        if let Err(error) = self.artifacts.flush().await {
            tracing::warn!(%error, "outputs that travelled with their results could not be made durable");
        }
    }
}

/// Counts an own task against the slots of a worker while it runs there.
struct InFlight<'a> {
    requester: &'a Requester,
    agent: AgentId,
}

impl<'a> InFlight<'a> {
    fn new(requester: &'a Requester, agent: AgentId) -> Self {
        if let Some(known) = lock(&requester.fresh).get_mut(&agent) {
            known.in_flight += 1;
        }
        Self { requester, agent }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(known) = lock(&self.requester.fresh).get_mut(&self.agent) {
            known.in_flight = known.in_flight.saturating_sub(1);
        }
    }
}
