//! Runs tasks here, for others and for this agent itself: fetches, waits for a slot, runs, keeps to the limits.

mod admission;
#[cfg(feature = "wasm")]
mod bounds;
#[cfg(feature = "wasm")]
mod fs;
#[cfg(feature = "wasm")]
mod guest;
#[cfg(feature = "wasm")]
mod modules;
#[cfg(feature = "wasm")]
mod wasi;
#[cfg_attr(not(feature = "wasm"), path = "no_wasm.rs")]
mod wasm;

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use cid::Cid;
use diai_core::{AgentId, World, offload, timeout_at};
use lru::LruCache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

pub(crate) use self::admission::Admission;
use self::{
    admission::Admissions,
    wasm::{Compiled, Given, Wasm},
};
use crate::{
    Access, ArtifactError, Artifacts, Bid, Content, ExecutorConfig, Flow, MAX_OUTPUT_FILES, MAX_OUTPUT_NAME_BYTES,
    NativeRequest, Program, TaskContext, TaskFailure, TaskId, TaskSpec, Usage,
    codec::clip,
    error::{GuestError, HostFault},
    message::MAX_DETAIL_BYTES,
    native::Services,
    spec::is_file_name,
    transfer::while_it_flows,
};

/// Programs whose running time is remembered.
const MAX_ESTIMATES: usize = 256;
/// A program that usually takes less is tried without a change of the thread.
const QUICK: Duration = Duration::from_millis(1);
/// What a program is thought to take before it ever ran here.
const UNKNOWN_RUN: Duration = Duration::from_secs(1);

/// A task to run.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) task: TaskId,
    pub(crate) spec: TaskSpec,
    pub(crate) from: AgentId,
    pub(crate) context: TaskContext,
    /// What it may see of what this agent can open; `None`: all, because it is this agent's own.
    pub(crate) proofs: Option<Proofs>,
}

/// Of a requester, that it can open what its task reads.
#[derive(Debug, Clone)]
pub(crate) struct Proofs {
    pub(crate) context: [u8; 32],
    /// One an input, in order; or none at all.
    pub(crate) inputs: Vec<Option<[u8; 32]>>,
}

impl Job {
    /// Programs of others are never opened: what one does tells what it is.
    fn to_program(&self) -> Access {
        self.proofs.as_ref().map_or(Access::Own, |proofs| Access::Task { context: proofs.context, proof: None })
    }

    fn to_input(&self, place: usize) -> Access {
        self.proofs.as_ref().map_or(Access::Own, |proofs| Access::Task {
            context: proofs.context,
            proof: proofs.inputs.get(place).copied().flatten(),
        })
    }
}

/// What a run left, not stored yet.
#[derive(Debug)]
pub(crate) struct RawOutput {
    pub(crate) stdout: Bytes,
    /// Sorted by name.
    pub(crate) files: Vec<(String, Bytes)>,
}

impl RawOutput {
    pub(crate) fn bytes(&self) -> u64 {
        let files: usize = self.files.iter().map(|(_, bytes)| bytes.len()).sum();
        (self.stdout.len() + files) as u64
    }
}

/// A run that ended, well or badly.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) outcome: Result<RawOutput, GuestError>,
    pub(crate) usage: Usage,
    /// Something that it read was encrypted: what it wrote is as secret.
    pub(crate) sealed: bool,
}

pub(crate) struct Executor {
    world: World,
    artifacts: Arc<dyn Artifacts>,
    pub(crate) services: Services,
    /// Made when the first guest comes: an agent that runs none pays nothing.
    wasm: Arc<OnceLock<Result<Wasm, HostFault>>>,
    admissions: Admissions,
    slots: Arc<Semaphore>,
    estimates: Mutex<LruCache<Program, Duration>>,
    config: ExecutorConfig,
}

impl Executor {
    pub(crate) fn new(world: World, artifacts: Arc<dyn Artifacts>, config: ExecutorConfig) -> Self {
        Self {
            world,
            artifacts,
            services: Services::default(),
            wasm: Arc::default(),
            admissions: Admissions::new(config.max_guests + config.max_queued),
            slots: Arc::new(Semaphore::new(config.max_guests)),
            estimates: Mutex::new(LruCache::new(NonZeroUsize::new(MAX_ESTIMATES).unwrap_or(NonZeroUsize::MIN))),
            config,
        }
    }

    /// A place in the queue for a task of another agent, if there is one.
    pub(crate) fn admit(&self, from: AgentId) -> Option<Admission> {
        self.admissions.admit(from)
    }

    /// A place in the queue for a task of this agent, as soon as there is one.
    pub(crate) async fn admit_later(&self) -> Option<Admission> {
        self.admissions.admit_later().await
    }

    /// Whether a task would not have to wait.
    pub(crate) fn has_free_slot(&self) -> bool {
        self.slots.available_permits() > 0
    }

    /// Whether a task of `from` would be admitted now.
    pub(crate) fn has_room(&self, from: AgentId) -> bool {
        self.admissions.has_room(from)
    }

    /// When a busy worker had better be asked again, milliseconds.
    pub(crate) fn retry_after_ms(&self) -> u64 {
        u64::try_from((self.usual_run(None) / 2).as_millis()).unwrap_or(u64::MAX).clamp(20, 1_000)
    }

    /// Completes when nothing runs or waits any more; nothing is admitted while the answer is held.
    pub(crate) async fn drained(&self) -> Option<SemaphorePermit<'_>> {
        self.admissions.all().await
    }

    /// Begins nothing any more.
    pub(crate) fn close(&self) {
        self.admissions.close();
        self.slots.close();
    }

    /// What of the task's limits is over what is allowed here.
    pub(crate) fn refuses(&self, spec: &TaskSpec) -> Option<String> {
        let (limits, max) = (&spec.limits, &self.config);
        if limits.memory_bytes > max.max_memory_bytes {
            Some(format!("{} bytes of memory asked, at most {} here", limits.memory_bytes, max.max_memory_bytes))
        } else if limits.output_bytes > max.max_output_bytes {
            Some(format!("{} bytes of output asked, at most {} here", limits.output_bytes, max.max_output_bytes))
        } else if limits.time > max.max_time {
            Some(format!("{:?} of time asked, at most {:?} here", limits.time, max.max_time))
        } else {
            None
        }
    }

    /// Whether the named service is there; programs always are, if this build can run them.
    pub(crate) fn knows(&self, program: &Program) -> bool {
        match program {
            Program::Wasm(_) => cfg!(feature = "wasm"),
            Program::Service(name) => self.services.get(name).is_some(),
        }
    }

    /// How long `program` usually takes here; `None`: any.
    fn usual_run(&self, program: Option<&Program>) -> Duration {
        let estimates = self.estimates.lock().unwrap_or_else(PoisonError::into_inner);
        match program {
            Some(program) => estimates.peek(program).copied(),
            None => estimates.peek_mru().map(|(_, run)| *run),
        }
        .unwrap_or(UNKNOWN_RUN)
    }

    fn learn(&self, program: Program, run: Duration) {
        let mut estimates = self.estimates.lock().unwrap_or_else(PoisonError::into_inner);
        let usual = estimates.get(&program).map_or(run, |old| (*old * 3 + run) / 4);
        estimates.put(program, usual);
    }

    /// What this agent would bid for the task.
    pub(crate) async fn bid(&self, spec: &TaskSpec) -> Bid {
        let free = self.slots.available_permits();
        let queued = self.admissions.taken();
        let start = if free > 0 {
            Duration::ZERO
        } else {
            let rounds = queued.div_ceil(self.config.max_guests);
            self.usual_run(None).saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
        };
        let mut bid = Bid {
            start,
            run: self.usual_run(Some(&spec.program)),
            free_slots: u32::try_from(free).unwrap_or(u32::MAX),
            program_held: match &spec.program {
                Program::Wasm(cid) => self.is_compiled(cid) || self.artifacts.held(*cid).await.is_some(),
                Program::Service(_) => true,
            },
            ..Bid::default()
        };
        for input in &spec.inputs {
            if let Some(bytes) = self.artifacts.held(input.cid).await {
                bid.held_bytes = bid.held_bytes.saturating_add(bytes);
                bid.held_inputs += 1;
            }
        }
        bid
    }

    /// Whether the task is likely to end at once, without waiting for anything.
    pub(crate) fn is_quick(&self, spec: &TaskSpec) -> bool {
        let ready = matches!(&spec.program, Program::Wasm(cid) if self.is_compiled(cid));
        ready && spec.inputs.is_empty() && self.usual_run(Some(&spec.program)) < QUICK
    }

    fn is_compiled(&self, program: &Cid) -> bool {
        self.wasm.get().and_then(|wasm| wasm.as_ref().ok()?.known(program)).is_some()
    }

    fn wasm(&self) -> Result<&Wasm, HostFault> {
        self.wasm.get_or_init(|| Wasm::new(&self.world, &self.config)).as_ref().map_err(Clone::clone)
    }

    /// Fetches what the task needs, waits for a slot and runs it.
    ///
    /// Cancel-safe: dropping the future stops all of it.
    pub(crate) async fn execute(&self, job: Job, admission: Admission) -> Result<Ran, HostFault> {
        let mut bytes_in = 0;
        let program = match &job.spec.program {
            Program::Wasm(cid) => match self.program(*cid, &job, &mut bytes_in, &admission).await? {
                Ok(compiled) => Some(compiled),
                Err(error) => {
                    let usage = Usage { bytes_in, ..Usage::default() };
                    return Ok(Ran { outcome: Err(error), usage, sealed: false });
                }
            },
            Program::Service(_) => None,
        };
        let (inputs, sealed) = self.inputs(&job, &mut bytes_in).await?;
        let slot = self.slots.clone().acquire_owned().await.map_err(|_| closed())?;
        let began = self.world.clock.now();
        let name = job.spec.program.clone();
        let mut misjudged = false;
        let (outcome, fuel) = match program {
            Some(compiled) => {
                let given = Given { inputs, reports: job.context.clone() };
                let quick = self.usual_run(Some(&name)) < QUICK;
                let ended = self.wasm()?.run(compiled, &job.spec, given, slot, quick).await?;
                misjudged = ended.misjudged;
                (ended.outcome, ended.fuel)
            }
            None => (self.native(job, inputs, slot).await?, 0),
        };
        let run = self.world.clock.now().since(began);
        // Whoever was quick and no longer is has to be quick a few times to be believed again.
        self.learn(name, if misjudged { run.max(QUICK * 5) } else { run });
        let bytes_out = outcome.as_ref().map_or(0, RawOutput::bytes);
        let wall_ms = u64::try_from(run.as_millis()).unwrap_or(u64::MAX);
        Ok(Ran { outcome, usage: Usage { fuel, bytes_in, bytes_out, wall_ms }, sealed })
    }

    /// Whoever gives the task has what it needs, or knows who.
    async fn fetch(&self, cid: Cid, max_bytes: u64, access: Access, from: AgentId) -> Result<Content, ArtifactError> {
        let (flow, patience) = (Flow::default(), self.config.fetch_timeout);
        let get = self.artifacts.get(cid, max_bytes, access, Some(from), flow.clone());
        let got = while_it_flows(&*self.world.clock, &flow, patience, || (), get).await;
        got.unwrap_or_else(|| Err(ArtifactError::NotFound { cid, asked: format!("nothing came for {patience:?}") }))
    }

    async fn program(
        &self,
        cid: Cid,
        job: &Job,
        bytes_in: &mut u64,
        admission: &Admission,
    ) -> Result<Result<Compiled, GuestError>, HostFault> {
        if self.wasm.get().is_none() {
            // The first engine takes a while: not on the thread that says to requesters that this agent lives.
            let (cell, world, config) = (self.wasm.clone(), self.world.clone(), self.config.clone());
            let make = move || {
                cell.get_or_init(|| Wasm::new(&world, &config));
            };
            offload(&*self.world.offload, make).await.map_err(|_| closed())?;
        }
        let (wasm, access) = (self.wasm()?, job.to_program());
        if let Some(known) = wasm.known(&cid)
            && (known.open || access == Access::Own)
        {
            return Ok(known.compiled);
        }
        let bytes = match self.fetch(cid, self.config.max_program_bytes, access, job.from).await {
            Ok(content) => content.bytes,
            Err(error @ ArtifactError::TooLarge { .. }) => {
                return Ok(Err(GuestError::InvalidProgram { reason: error.to_string() }));
            }
            Err(error) => return Err(not_had(error)),
        };
        *bytes_in += bytes.len() as u64;
        // What was got for another agent is open to all.
        wasm.compile(cid, bytes, access != Access::Own, admission.clone()).await
    }

    /// The inputs, and whether one of them was encrypted.
    async fn inputs(&self, job: &Job, bytes_in: &mut u64) -> Result<(Vec<(String, Bytes)>, bool), HostFault> {
        let mut any_sealed = false;
        let mut inputs = Vec::with_capacity(job.spec.inputs.len());
        let mut room = self.config.max_input_bytes;
        for (place, input) in job.spec.inputs.iter().enumerate() {
            let got = self.fetch(input.cid, room, job.to_input(place), job.from).await;
            let Content { bytes, sealed } = got.map_err(not_had)?;
            any_sealed |= sealed;
            room = room.saturating_sub(bytes.len() as u64);
            *bytes_in += bytes.len() as u64;
            inputs.push((input.name.clone(), bytes));
        }
        Ok((inputs, any_sealed))
    }

    async fn native(
        &self,
        job: Job,
        inputs: Vec<(String, Bytes)>,
        _slot: OwnedSemaphorePermit,
    ) -> Result<Result<RawOutput, GuestError>, HostFault> {
        let Program::Service(name) = &job.spec.program else { return Err(closed()) };
        let Some(service) = self.services.get(name) else {
            return Err(HostFault::Unavailable { reason: format!("the service {name:?} is not offered any more") });
        };
        let limits = job.spec.limits;
        let request = NativeRequest { task: job.task, from: job.from, args: job.spec.args, inputs, limits };
        let deadline = self.world.clock.now() + limits.time;
        let ended = timeout_at(&*self.world.clock, deadline, service.run(job.context, request)).await;
        Ok(match ended {
            Err(_) => Err(GuestError::TimeLimit),
            Ok(Err(TaskFailure::Unavailable { reason })) => return Err(HostFault::Unavailable { reason }),
            Ok(Err(TaskFailure::Failed { reason })) => {
                Err(GuestError::Service { reason: clip(&reason, MAX_DETAIL_BYTES) })
            }
            Ok(Ok(output)) => {
                let mut files = output.files;
                files.sort_by(|a, b| a.0.cmp(&b.0));
                files.dedup_by(|b, a| a.0 == b.0);
                let named = files
                    .iter()
                    .all(|(name, _)| name.len() <= MAX_OUTPUT_NAME_BYTES && name.split('/').all(is_file_name));
                let output = RawOutput { stdout: output.stdout, files };
                if !named {
                    Err(GuestError::Service { reason: "an output has a name that cannot be a path".to_owned() })
                } else if output.bytes() > limits.output_bytes || output.files.len() > MAX_OUTPUT_FILES {
                    Err(GuestError::OutputLimit)
                } else {
                    Ok(output)
                }
            }
        })
    }
}

/// Nobody is at fault for what is too large here: another may allow more.
fn not_had(error: ArtifactError) -> HostFault {
    match error {
        ArtifactError::NotFound { cid, asked } => HostFault::NotFound { cid, asked },
        ArtifactError::NotAllowed { .. } | ArtifactError::TooLarge { .. } => {
            HostFault::NotAllowed { reason: error.to_string() }
        }
        ArtifactError::Store { .. } => HostFault::Unavailable { reason: error.to_string() },
    }
}

fn closed() -> HostFault {
    HostFault::Unavailable { reason: "the executor is shutting down".to_owned() }
}
