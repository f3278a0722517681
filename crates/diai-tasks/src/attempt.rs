//! One award of a task to one worker, from the call to the verified result.

use std::{future::Future, pin::pin, time::Duration};

use bytes::Bytes;
use diai_core::{AgentId, CallError, CallOptions, Clock, Misbehaviour, Priority, Refusal, timeout_at};
use diai_identity::Signed;
use futures::{StreamExt, future::join_all, poll};

use crate::{
    Access, Artifact, ArtifactError, AttemptId, Flow, Input, Output, Program, RunEvent, TaskContext, codec,
    codec::MAX_RESULT_BYTES,
    error::{GuestError, HostFault},
    executor::Job,
    machine::Miss,
    message::{Part, RESULT_DOMAIN, RUN_SERVICE, TaskResult, proof_context},
    native::Interim,
    requester::{Order, Requester},
    suspects::Silence,
    transfer::while_it_flows,
};

/// A lease is counted in so many parts.
const SLICES: u32 = 6;
/// Reports of a task running here that may wait to be looked at.
const MAX_REPORTS: usize = 16;

/// How an attempt ended.
pub(crate) enum Ended {
    Done(Box<Output>),
    /// The task failed by its own doing, on the worker's signed word.
    Guest(GuestError),
    /// The worker did not take it.
    NotTaken(CallError),
    Missed(Miss),
}

/// A result that is not what was asked for.
struct Dishonest(Misbehaviour, String);

pub(crate) struct Attempt<'a> {
    requester: &'a Requester,
    order: &'a Order,
    agent: AgentId,
    id: AttemptId,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(requester: &'a Requester, order: &'a Order, agent: AgentId) -> Self {
        let id = AttemptId::generate(&*requester.world.entropy);
        order.reporter.send(RunEvent::Awarded { agent, attempt: id });
        Self { requester, order, agent, id }
    }

    fn report(&self, report: Interim) {
        let agent = self.agent;
        self.order.reporter.send(match report {
            Interim::Progress(progress) => RunEvent::Progress { agent, progress },
            Interim::Partial(part) => RunEvent::Partial { agent, part },
        });
    }

    /// Runs the task on this agent itself.
    pub(crate) async fn here(self) -> Ended {
        let performer = &self.requester.performer;
        let Some(admission) = performer.executor.admit_later().await else {
            return Ended::NotTaken(CallError::Closed);
        };
        let (context, mut reports) = TaskContext::new(MAX_REPORTS);
        let job = Job { task: self.order.task, spec: self.order.spec.clone(), from: self.agent, context, proofs: None };
        let mut run = pin!(performer.perform(job, self.id, admission));
        let ended = loop {
            tokio::select! {
                biased;
                ended = &mut run => break ended,
                Some(report) = reports.recv() => self.report(report),
            }
        };
        while let Ok(report) = reports.try_recv() {
            self.report(report);
        }
        match ended {
            Ok(signed) => self.conclude(signed, &Silence::default()).await,
            Err(fault) => Ended::Missed(miss(fault)),
        }
    }

    /// Runs the task on another agent. One from which nothing comes for the length of the lease may be slow rather than
    /// dead: if the task is a program, `silence` begins, so that another is tried beside it, and the attempt goes on. A
    /// service must not run twice at a time, so there the attempt ends.
    pub(crate) async fn there(self, silence: &Silence) -> Ended {
        let clock = &*self.requester.world.clock;
        let options = CallOptions {
            timeout: self.order.deadline.since(clock.now()),
            idempotent: false,
            priority: Priority::High,
        };
        let body = codec::encode_award(self.id, self.order.spec_bytes.clone(), &self.proofs().await);
        let open = self.requester.calls.call_streaming(self.agent, RUN_SERVICE, body, options);
        // What a service is not told of yet needs no lease: the way to its agent has time-outs of its own.
        let opened = if self.may_run_twice() { self.heard(silence, open).await } else { Some(open.await) };
        let mut parts = match opened {
            Some(Ok(parts)) => parts,
            Some(Err(error)) => return not_taken(error),
            None => return self.gone(),
        };
        let mut accepted = false;
        loop {
            let part = match self.heard(silence, parts.next()).await {
                None => return self.gone(),
                Some(None) => return lost("it ended its answer without a result"),
                Some(Some(Err(error))) if accepted => return lost(&error.to_string()),
                Some(Some(Err(error))) => return not_taken(error),
                Some(Some(Ok(part))) => part,
            };
            accepted = true;
            match codec::decode_part(part) {
                Ok(Part::Accepted | Part::KeepAlive) => {}
                Ok(Part::Progress(progress)) => self.report(Interim::Progress(progress)),
                Ok(Part::Partial(part)) => self.report(Interim::Partial(part)),
                Ok(Part::Fault(fault)) => return Ended::Missed(miss(fault)),
                Ok(Part::Result(bytes)) => {
                    // If the end has come with it, the worker need not be told that nothing more is wanted.
                    let _ = poll!(parts.next());
                    return self.result(bytes, silence).await;
                }
                Err(error) => return self.dishonest(Dishonest(Misbehaviour::Malformed, error.to_string())),
            }
        }
    }

    /// A program has no effects but its outputs.
    fn may_run_twice(&self) -> bool {
        matches!(self.order.spec.program, Program::Wasm(_))
    }

    /// What `work`, which waits for the worker, gives; `None` if the lease ran out and the worker is to be given up.
    async fn heard<T>(&self, silence: &Silence, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let heard = within(&*self.requester.world.clock, self.requester.config.lease, work.as_mut()).await;
        if heard.is_some() || !self.may_run_twice() {
            return heard;
        }
        silence.begin();
        let heard = work.await;
        silence.end();
        Some(heard)
    }

    fn gone(&self) -> Ended {
        lost(&format!("nothing came from it for {:?}", self.requester.config.lease))
    }

    /// That this agent can open those of the inputs that are encrypted.
    async fn proofs(&self) -> Vec<Option<[u8; 32]>> {
        let Self { requester, order, agent, id } = self;
        if order.spec.inputs.is_empty() {
            return Vec::new();
        }
        let clock = &*requester.world.clock;
        let until = clock.now() + requester.config.offer_timeout;
        let context = proof_context(order.task, *id, requester.me(), *agent);
        let prove = |input: &Input| timeout_at(clock, until, requester.artifacts.prove(input.cid, context));
        let proofs = join_all(order.spec.inputs.iter().map(prove)).await;
        // What took too long is left out: the worker says so if it is needed.
        proofs.into_iter().map(|proof| proof.ok().flatten()).collect()
    }

    async fn result(self, bytes: Bytes, silence: &Silence) -> Ended {
        match Signed::from_bytes(bytes, MAX_RESULT_BYTES) {
            Ok(signed) => self.conclude(signed, silence).await,
            Err(error) => self.dishonest(Dishonest(Misbehaviour::Malformed, error.to_string())),
        }
    }

    fn dishonest(&self, Dishonest(misbehaviour, reason): Dishonest) -> Ended {
        self.requester.penalise(self.agent, misbehaviour);
        lost(&format!("its result is not to be believed: {reason}"))
    }

    /// Checks whose word the result is, and that it answers this very attempt.
    fn verify(&self, signed: &Signed) -> Result<TaskResult, Dishonest> {
        let forged = |reason: String| Dishonest(Misbehaviour::Forged, reason);
        let verified = signed
            .verify(RESULT_DOMAIN, self.requester.world.clock.wall())
            .map_err(|error| forged(error.to_string()))?;
        if verified.agent != self.agent {
            return Err(forged(format!("it is signed by {}", verified.agent)));
        }
        let result = codec::decode_result(verified.payload)
            .map_err(|error| Dishonest(Misbehaviour::Malformed, error.to_string()))?;
        if result.task != self.order.task || result.attempt != self.id {
            return Err(forged("it is for another task or attempt".to_owned()));
        }
        let limits = &self.order.spec.limits;
        let bytes_out = result
            .outcome
            .as_ref()
            .map_or(0, |produced| produced.artifacts().fold(0u64, |sum, artifact| sum.saturating_add(artifact.bytes)));
        if bytes_out > limits.output_bytes || result.usage.fuel > limits.fuel {
            return Err(Dishonest(Misbehaviour::Violation, "it is over the limits of the task".to_owned()));
        }
        Ok(result)
    }

    async fn conclude(self, signed: Signed, silence: &Silence) -> Ended {
        let TaskResult { task, attempt, outcome, usage } = match self.verify(&signed) {
            Ok(result) => result,
            Err(dishonest) => return self.dishonest(dishonest),
        };
        let produced = match outcome {
            Ok(produced) => produced,
            Err(error) => return Ended::Guest(error),
        };
        for artifact in produced.artifacts() {
            if let Err(error) = self.take(artifact, silence).await {
                return lost(&format!("its outputs could not be had: {error}"));
            }
        }
        Ended::Done(Box::new(Output { task, attempt, worker: self.agent, produced, usage, receipt: signed }))
    }

    /// Brings an output here, so that it outlives the worker; whoever fell silent over it is told of as well.
    async fn take(&self, artifact: &Artifact, silence: &Silence) -> Result<(), ArtifactError> {
        let requester = self.requester;
        if let Some(content) = &artifact.inline {
            if !content.is_empty() {
                requester.store_in_background(content.clone()).await;
            }
            return Ok(());
        }
        if !requester.config.fetch_outputs || self.agent == requester.me() {
            return Ok(());
        }
        let (cid, flow, patience) = (artifact.cid, Flow::default(), requester.config.fetch_timeout);
        let get = requester.artifacts.get(cid, artifact.bytes, Access::Own, Some(self.agent), flow.clone());
        let quiet = || {
            if self.may_run_twice() {
                silence.begin();
            }
        };
        let got = while_it_flows(&*requester.world.clock, &flow, patience, quiet, get).await;
        silence.end();
        match got {
            Some(Ok(content)) if content.bytes.len() as u64 == artifact.bytes => Ok(()),
            Some(Ok(content)) => Err(ArtifactError::Store {
                reason: format!("{cid} has {} bytes, its result says {}", content.bytes.len(), artifact.bytes),
            }),
            Some(Err(error)) => Err(error),
            None => Err(ArtifactError::NotFound { cid, asked: format!("nothing came for {patience:?}") }),
        }
    }
}

/// What `work` gives within `lease`, or `None`. The lease is counted in slices, and one that ends late is not counted at
/// all: then it was this side that stood still, and what the worker sent meanwhile may only be waiting to be read.
async fn within<T>(clock: &dyn Clock, lease: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let slice = lease / SLICES;
    let mut passed = 0;
    while passed < SLICES {
        let due = clock.now() + slice;
        if let Ok(done) = timeout_at(clock, due, work.as_mut()).await {
            return Some(done);
        }
        passed += u32::from(clock.now().since(due) < slice);
    }
    None
}

fn lost(reason: &str) -> Ended {
    Ended::Missed(Miss::Lost(reason.to_owned()))
}

/// Errors before the worker took the task; those after which it may have taken it count as a failed attempt.
fn not_taken(error: CallError) -> Ended {
    match error {
        CallError::OutcomeUnknown { .. }
        | CallError::Deadline { .. }
        | CallError::Refused { refusal: Refusal::Failed { .. } | Refusal::DeadlinePassed, .. } => {
            lost(&error.to_string())
        }
        error => Ended::NotTaken(error),
    }
}

fn miss(fault: HostFault) -> Miss {
    match fault {
        HostFault::NotFound { cid, asked } => Miss::NotFound { cid, asked },
        HostFault::NotAllowed { reason } => Miss::NotAllowed(reason),
        HostFault::Unavailable { reason } => Miss::Lost(reason),
    }
}

#[cfg(test)]
mod tests {
    use diai_core::{
        WallTime,
        memory::{AgentSpec, Sim},
    };

    use super::*;

    /// Stands still for `stall` whenever it is asked to sleep for the first time.
    struct Stalling {
        clock: std::sync::Arc<dyn Clock>,
        stall: std::sync::Mutex<Option<Duration>>,
    }

    impl Clock for Stalling {
        fn now(&self) -> diai_core::Instant {
            self.clock.now()
        }

        fn wall(&self) -> WallTime {
            self.clock.wall()
        }

        fn sleep_until(&self, until: diai_core::Instant) -> diai_core::BoxFuture<'static, ()> {
            let stall = self.stall.lock().unwrap().take().unwrap_or_default();
            self.clock.sleep_until(until + stall)
        }
    }

    #[test]
    fn a_lease_runs_out_but_not_by_a_stall_of_this_side() {
        const LEASE: Duration = Duration::from_secs(3);
        let sim = Sim::new(1);
        let world = sim.join(AgentSpec::example(1));
        let late = world.clock.clone();
        let clock = |stall| Stalling { clock: world.clock.clone(), stall: std::sync::Mutex::new(stall) };
        let (punctual, stalling) = (clock(None), clock(Some(Duration::from_secs(60))));
        sim.run(async move {
            let began = punctual.now();
            assert_eq!(within(&punctual, LEASE, std::future::pending::<()>()).await, None);
            assert_eq!(punctual.now().since(began), LEASE);
            let due = late.now() + Duration::from_secs(61);
            let word = async {
                late.sleep_until(due).await;
                "alive"
            };
            assert_eq!(within(&stalling, LEASE, word).await, Some("alive"));
        });
    }
}
