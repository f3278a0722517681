//! Works for others: answers offers with bids, and awards with results.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use diai_core::{
    AgentId, BoxFuture, Calls, Clock, Misbehaviour, Refusal, Registration, Reply, Request, World, service_fn,
    timeout_at,
};
use futures::{FutureExt, poll, stream};
use lru::LruCache;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};
use tracing::Instrument;

use crate::{
    AttemptId, Serving, StartError, TaskContext, TaskEvent, TaskId, TaskSpec, codec,
    error::HostFault,
    events::Events,
    executor::{Job, Proofs},
    message::{Award, KEEP_ALIVE, OFFER_SERVICE, Part, RUN_SERVICE, proof_context},
    native::Interim,
    performer::Performer,
};

/// A run that is over sooner is answered by its result alone.
const ACCEPT_AFTER: Duration = Duration::from_millis(20);
/// Reports of a running task that may wait to be sent.
const MAX_REPORTS: usize = 16;

/// What is known of an attempt: its task, and the answer as soon as there is one.
#[derive(Clone)]
struct Known {
    task: TaskId,
    answer: watch::Receiver<Option<Bytes>>,
}

pub(crate) struct Worker {
    world: World,
    performer: Arc<Performer>,
    serving: Serving,
    events: Events,
    offers: Semaphore,
    attempts: Mutex<LruCache<(AgentId, AttemptId), Known>>,
}

impl Worker {
    pub(crate) fn new(world: World, performer: Arc<Performer>, serving: Serving, events: Events) -> Arc<Self> {
        let capacity = NonZeroUsize::new(serving.max_attempts).unwrap_or(NonZeroUsize::MIN);
        Arc::new(Self {
            world,
            performer,
            events,
            offers: Semaphore::new(serving.max_offers),
            attempts: Mutex::new(LruCache::new(capacity)),
            serving,
        })
    }

    /// Serves until the registrations are dropped.
    pub(crate) fn serve(self: &Arc<Self>, calls: &dyn Calls) -> Result<[Registration; 2], StartError> {
        let (offers, runs) = (self.clone(), self.clone());
        let offer = service_fn(move |request| {
            let worker = offers.clone();
            async move { worker.offer(request).await }
        });
        let run = service_fn(move |request| {
            let worker = runs.clone();
            async move { worker.award(request).await }
        });
        Ok([calls.register(OFFER_SERVICE, offer)?, calls.register(RUN_SERVICE, run)?])
    }

    /// Whether this agent works for that one at all.
    fn policy(&self, from: AgentId) -> Result<(), Refusal> {
        if self.serving.policy.allows(from) {
            Ok(())
        } else {
            Err(Refusal::NotAllowed { reason: "this agent does not work for yours".to_owned() })
        }
    }

    fn acceptable(&self, spec: &TaskSpec) -> Result<(), Refusal> {
        let executor = &self.performer.executor;
        if let Some(reason) = executor.refuses(spec) {
            return Err(Refusal::NotAllowed { reason });
        }
        if executor.knows(&spec.program) { Ok(()) } else { Err(Refusal::UnknownService) }
    }

    fn busy(&self) -> Refusal {
        Refusal::Busy { retry_after_ms: self.performer.executor.retry_after_ms() }
    }

    fn malformed(&self, request: &Request, error: &dyn std::error::Error) -> Refusal {
        self.world.network.penalise(request.peer, Misbehaviour::Malformed);
        Refusal::BadRequest { reason: error.to_string() }
    }

    async fn offer(&self, request: Request) -> Result<Reply, Refusal> {
        self.policy(request.from)?;
        // Before anything is decoded: a flood of offers costs next to nothing.
        let Ok(_turn) = self.offers.try_acquire() else { return Err(self.busy()) };
        let (_, spec) = codec::decode_offer(request.body.clone()).map_err(|error| self.malformed(&request, &error))?;
        self.acceptable(&spec)?;
        if !self.performer.executor.has_room(request.from) {
            return Err(self.busy());
        }
        let bid = self.performer.executor.bid(&spec).await;
        Ok(codec::encode_bid(&bid).into())
    }

    async fn award(self: Arc<Self>, request: Request) -> Result<Reply, Refusal> {
        self.policy(request.from)?;
        let award = codec::decode_award(request.body.clone()).map_err(|error| self.malformed(&request, &error))?;
        self.acceptable(&award.spec)?;
        let (mut run, reports) = match self.known(request.from, &award) {
            Some(known) if known.task == award.task => (wait(known.answer).boxed(), None),
            Some(_) => {
                self.world.network.penalise(request.peer, Misbehaviour::Violation);
                return Err(Refusal::BadRequest { reason: "this attempt was for another task".to_owned() });
            }
            None => self.clone().begin(&request, award)?,
        };
        // What is over at once is one answer, and nobody has to be told afterwards that it has ended.
        let last = match poll!(&mut run) {
            Poll::Ready(last) if reports.as_ref().is_none_or(mpsc::Receiver::is_empty) => return Ok(last.into()),
            Poll::Ready(last) => Some(last),
            Poll::Pending => None,
        };
        let parts = Parts {
            run: last.is_none().then_some(run),
            last,
            reports,
            next_alive: self.world.clock.sleep_until(self.world.clock.now() + ACCEPT_AFTER),
            clock: self.world.clock.clone(),
            accepted: false,
        };
        let parts = stream::unfold(parts, |parts| parts.next().map(|next| next.map(|(part, rest)| (Ok(part), rest))));
        Ok(Reply::Parts(Box::pin(parts)))
    }

    fn known(&self, from: AgentId, award: &Award) -> Option<Known> {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = attempts.get(&(from, award.attempt))?;
        // Given up before it had an answer: as if it had never been.
        let given_up = known.answer.has_changed().is_err() && known.answer.borrow().is_none();
        if given_up { None } else { Some(known.clone()) }
    }

    #[allow(clippy::type_complexity, reason = "a future and where its reports arrive")]
    fn begin(
        self: Arc<Self>,
        request: &Request,
        award: Award,
    ) -> Result<(BoxFuture<'static, Bytes>, Option<mpsc::Receiver<Interim>>), Refusal> {
        let Some(admission) = self.performer.executor.admit(request.from) else { return Err(self.busy()) };
        let (context, reports) = TaskContext::new(MAX_REPORTS);
        let (answered, answer) = watch::channel(None);
        let (task, from, deadline) = (award.task, request.from, request.deadline);
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).put((from, award.attempt), Known { task, answer });
        let served = Served { events: self.events.clone(), task, from, answered: false };
        self.events.send(TaskEvent::Serving { task, from });
        let quick = self.performer.executor.is_quick(&award.spec);
        let run = async move {
            let mut served = served;
            let worker = self.performer.agent();
            let proofs = Proofs { context: proof_context(task, award.attempt, from, worker), inputs: award.proofs };
            let job = Job { task, spec: award.spec, from, context, proofs: Some(proofs) };
            let perform = self.performer.perform(job, award.attempt, admission);
            let ended = match timeout_at(&*self.world.clock, deadline, perform).await {
                Ok(ended) => ended,
                Err(_) => Err(HostFault::Unavailable { reason: "the requester's deadline passed".to_owned() }),
            };
            match ended {
                Ok(signed) => {
                    let part = codec::encode_part(&Part::Result(signed.to_bytes()));
                    answered.send_replace(Some(part.clone()));
                    served.answered = true;
                    part
                }
                // Not remembered: the next try may go better.
                Err(fault) => codec::encode_part(&Part::Fault(fault)),
            }
        };
        // The session waits for whatever runs where the award came in: signs of life too.
        Ok((if quick { run.boxed() } else { apart(run).boxed() }, Some(reports)))
    }
}

/// Tells how a task of another agent ended, also when it was cancelled.
struct Served {
    events: Events,
    task: TaskId,
    from: AgentId,
    answered: bool,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.events.send(TaskEvent::Served { task: self.task, from: self.from, answered: self.answered });
    }
}

/// Runs in a task of its own, which ends when this is dropped.
async fn apart(run: impl Future<Output = Bytes> + Send + 'static) -> Bytes {
    let mut task = JoinSet::new();
    task.spawn(run.in_current_span());
    match task.join_next().await {
        Some(Ok(part)) => part,
        Some(Err(_)) | None => {
            codec::encode_part(&Part::Fault(HostFault::Unavailable { reason: "the run broke down".to_owned() }))
        }
    }
}

/// Waits for the answer of an attempt that runs already.
async fn wait(mut answer: watch::Receiver<Option<Bytes>>) -> Bytes {
    match answer.wait_for(Option::is_some).await.map(|answer| answer.clone()) {
        Ok(Some(part)) => part,
        Ok(None) | Err(_) => {
            codec::encode_part(&Part::Fault(HostFault::Unavailable { reason: "the attempt was given up".to_owned() }))
        }
    }
}

/// The parts of an answer: signs of life and reports until the run has ended. Dropping it stops the run.
struct Parts {
    /// Gives the last part.
    run: Option<BoxFuture<'static, Bytes>>,
    /// The last part, while reports from before it are still to be sent.
    last: Option<Bytes>,
    reports: Option<mpsc::Receiver<Interim>>,
    next_alive: BoxFuture<'static, ()>,
    clock: Arc<dyn Clock>,
    accepted: bool,
}

impl Parts {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        let part = match &mut self.run {
            None => None,
            Some(run) => tokio::select! {
                biased;
                last = run => {
                    self.run = None;
                    self.last = Some(last);
                    None
                }
                Some(report) = next_report(&mut self.reports) => Some(report_part(report)),
                () = &mut self.next_alive => {
                    Some(if self.accepted { Part::KeepAlive } else { Part::Accepted })
                }
            },
        };
        let waiting = || self.reports.as_mut().and_then(|reports| reports.try_recv().ok()).map(report_part);
        let Some(part) = part.or_else(waiting) else {
            return self.last.take().map(|last| (last, self));
        };
        self.accepted = true;
        // Whatever was sent is a sign of life.
        self.next_alive = self.clock.sleep_until(self.clock.now() + KEEP_ALIVE);
        Some((codec::encode_part(&part), self))
    }
}

async fn next_report(reports: &mut Option<mpsc::Receiver<Interim>>) -> Option<Interim> {
    reports.as_mut()?.recv().await
}

fn report_part(report: Interim) -> Part {
    match report {
        Interim::Progress(progress) => Part::Progress(progress),
        Interim::Partial(part) => Part::Partial(part),
    }
}
