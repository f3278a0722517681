//! WebAssembly guests: compiling, keeping what was compiled, running.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cid::Cid;
use diai_core::{Clock, Instant, Offload, World, offload};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, InstancePre, Linker, Module, OptLevel, PoolingAllocationConfig, Store,
    Trap, UpdateDeadline,
};

use super::{
    Admission, RawOutput,
    bounds::over_bounds,
    guest::Guest,
    modules::{Known, Modules},
    wasi::{self, errno::Stop},
};
use crate::{
    ExecutorConfig, Limits, MAX_OUTPUT_FILES, TaskContext, TaskSpec,
    codec::clip,
    error::{GuestError, HostFault},
    message::MAX_DETAIL_BYTES,
};

/// How often a guest is looked at for its time limit.
const EPOCH: Duration = Duration::from_millis(10);
/// What a guest may use where the award came in: some tens of microseconds.
const QUICK_FUEL: u64 = 100_000;
/// Memory of a slot that is kept between guests instead of being given back to the system.
const KEPT_BYTES: usize = 128 << 10;
/// Entries of a guest's largest table.
const MAX_TABLE_ENTRIES: usize = 100_000;

/// A compiled program, its imports found.
pub(super) type Compiled = Arc<InstancePre<Guest>>;

/// What a run is given beside its spec.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) inputs: Vec<(String, Bytes)>,
    pub(super) reports: TaskContext,
}

/// The engine and what was compiled for it.
pub(super) struct Wasm {
    engine: Engine,
    linker: Linker<Guest>,
    modules: Arc<Mutex<Modules>>,
    /// One program is compiled at a time, so that the pool stays free for guests.
    compiling: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
    offload: Arc<dyn Offload>,
}

/// How a run of a guest ended.
pub(super) struct Ended {
    pub(super) outcome: Result<RawOutput, GuestError>,
    pub(super) fuel: u64,
    /// It was begun where it was thought to end at once, and had to be begun anew.
    pub(super) misjudged: bool,
}

impl Wasm {
    pub(super) fn new(world: &World, config: &ExecutorConfig) -> Result<Self, HostFault> {
        let engine = engine(config).map_err(|error| unavailable(&error))?;
        let mut linker = Linker::new(&engine);
        wasi::link(&mut linker).map_err(|error| unavailable(&error))?;
        Ok(Self {
            engine,
            linker,
            modules: Arc::new(Mutex::new(Modules::new(config))),
            compiling: Arc::new(Semaphore::new(1)),
            clock: world.clock.clone(),
            offload: world.offload.clone(),
        })
    }

    /// What was compiled of `program`, if it was.
    pub(super) fn known(&self, program: &Cid) -> Option<Known> {
        self.modules.lock().unwrap_or_else(PoisonError::into_inner).get(program)
    }

    /// Compiles `bytes`, the content of `program`, and keeps what comes of it. `admission` is held until that is done.
    ///
    /// Cancel-safe: what has begun is compiled to its end and kept, and counts as a task for so long.
    pub(super) async fn compile(
        &self,
        program: Cid,
        bytes: Bytes,
        open: bool,
        admission: Admission,
    ) -> Result<Result<Compiled, GuestError>, HostFault> {
        let turn = self.compiling.clone().acquire_owned().await.map_err(|_| shutting_down())?;
        if let Some(known) = self.known(&program) {
            if open {
                self.modules.lock().unwrap_or_else(PoisonError::into_inner).open(&program);
            }
            return Ok(known.compiled);
        }
        let (engine, linker, modules) = (self.engine.clone(), self.linker.clone(), self.modules.clone());
        let compile = move || {
            let compiled = compile(&engine, &linker, &bytes)
                .map_err(|error| GuestError::InvalidProgram { reason: clip(&format!("{error:#}"), MAX_DETAIL_BYTES) });
            let bytes = if compiled.is_ok() { bytes.len() } else { 0 };
            let known = Known { compiled: compiled.clone(), open, bytes };
            modules.lock().unwrap_or_else(PoisonError::into_inner).put(program, known);
            drop((turn, admission));
            compiled
        };
        offload(&*self.offload, compile).await.map_err(|_| shutting_down())
    }

    /// Runs a guest on a thread of the pool, or, if it is thought to be `quick`, first right here, with fuel for a
    /// fraction of a millisecond: two changes of the thread take longer than it does. A guest has no effects but its
    /// outputs, so that one that needs more is simply begun anew. The slot is given back when the guest has really ended.
    ///
    /// Cancel-safe: dropping the future stops the guest within its next few thousand operations.
    pub(super) async fn run(
        &self,
        compiled: Compiled,
        spec: &TaskSpec,
        given: Given,
        slot: OwnedSemaphorePermit,
        quick: bool,
    ) -> Result<Ended, HostFault> {
        if quick && let Some(ended) = self.at_once(&compiled, spec, Guest::new(spec, given.clone())) {
            return Ok(ended);
        }
        let guest = Guest::new(spec, given);
        let cancelled = Arc::new(AtomicBool::new(false));
        let _stop_on_drop = StopOnDrop { cancelled: cancelled.clone(), engine: self.engine.clone() };
        let run = Run {
            clock: self.clock.clone(),
            deadline: self.clock.now() + spec.limits.time,
            time: spec.limits.time,
            fuel: spec.limits.fuel,
            cancelled,
        };
        let run = offload(&*self.offload, move || {
            let ended = run.guest(&compiled, guest);
            drop(slot);
            ended
        });
        tokio::select! {
            biased;
            ended = run => Ok(Ended { misjudged: quick, ..ended.map_err(|_| shutting_down())?? }),
            () = self.tick() => Err(shutting_down()),
        }
    }

    /// `None` if it did not come to its end with as little fuel.
    fn at_once(&self, compiled: &InstancePre<Guest>, spec: &TaskSpec, guest: Guest) -> Option<Ended> {
        let Limits { fuel, time, .. } = spec.limits;
        let run = Run {
            clock: self.clock.clone(),
            deadline: self.clock.now() + time,
            time,
            fuel: fuel.min(QUICK_FUEL),
            cancelled: Arc::default(),
        };
        let ended = run.guest(compiled, guest).ok()?;
        let cut = fuel > QUICK_FUEL && matches!(ended.outcome, Err(GuestError::FuelExhausted));
        (!cut).then_some(ended)
    }

    /// Moves the engine's epoch, so that guests look at the clock; never ends.
    async fn tick(&self) {
        loop {
            self.clock.sleep_until(self.clock.now() + EPOCH).await;
            self.engine.increment_epoch();
        }
    }
}

struct StopOnDrop {
    cancelled: Arc<AtomicBool>,
    engine: Engine,
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.engine.increment_epoch();
    }
}

struct Run {
    clock: Arc<dyn Clock>,
    deadline: Instant,
    time: Duration,
    fuel: u64,
    cancelled: Arc<AtomicBool>,
}

impl Run {
    fn guest(mut self, compiled: &InstancePre<Guest>, guest: Guest) -> Result<Ended, HostFault> {
        // The wait for a thread is not the guest's.
        self.deadline = self.deadline.max(self.clock.now() + self.time);
        let mut store = Store::new(compiled.module().engine(), guest);
        store.limiter(|guest| &mut guest.limiter);
        store.set_fuel(self.fuel).map_err(|error| unavailable(&error))?;
        store.set_epoch_deadline(1);
        let (clock, deadline, cancelled) = (self.clock, self.deadline, self.cancelled.clone());
        store.epoch_deadline_callback(move |_| {
            if cancelled.load(Ordering::SeqCst) {
                Err(wasmtime::Error::new(Stop::Cancelled))
            } else if clock.now() >= deadline {
                Err(wasmtime::Error::new(Stop::TimeLimit))
            } else {
                Ok(UpdateDeadline::Continue(1))
            }
        });
        // After the epoch's deadline was set: a cancel before it is seen here, one after it by the callback.
        if self.cancelled.load(Ordering::SeqCst) {
            return Err(HostFault::Unavailable { reason: Stop::Cancelled.to_string() });
        }
        let ended = start(&mut store, compiled);
        let fuel = self.fuel.saturating_sub(store.get_fuel().unwrap_or(0));
        let guest = store.into_data();
        let outcome = match ended {
            Ok(()) => outputs(guest),
            Err(error) if error.downcast_ref() == Some(&Stop::Exit(0)) => outputs(guest),
            Err(error) => Err(failure(&error, &guest)?),
        };
        Ok(Ended { outcome, fuel, misjudged: false })
    }
}

fn compile(engine: &Engine, linker: &Linker<Guest>, bytes: &[u8]) -> wasmtime::Result<Compiled> {
    if let Some(reason) = over_bounds(bytes) {
        return Err(wasmtime::Error::msg(reason));
    }
    let module = Module::from_binary(engine, bytes)?;
    let pre = linker.instantiate_pre(&module)?;
    match module.get_export("_start") {
        Some(wasmtime::ExternType::Func(start)) if start.params().len() + start.results().len() == 0 => {
            Ok(Arc::new(pre))
        }
        _ => Err(wasmtime::Error::msg("it has no function _start without parameters and results")),
    }
}

fn start(store: &mut Store<Guest>, compiled: &InstancePre<Guest>) -> wasmtime::Result<()> {
    let instance = compiled.instantiate(&mut *store)?;
    let memory = instance.get_memory(&mut *store, "memory");
    store.data_mut().memory = memory;
    let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
    start.call(&mut *store, ())
}

fn outputs(guest: Guest) -> Result<RawOutput, GuestError> {
    let files = guest.fs.into_outputs().ok_or(GuestError::OutputLimit)?;
    if files.len() > MAX_OUTPUT_FILES {
        return Err(GuestError::OutputLimit);
    }
    Ok(RawOutput { stdout: Bytes::from(guest.stdout), files })
}

/// Whose fault it was that a guest ended early.
fn failure(error: &wasmtime::Error, guest: &Guest) -> Result<GuestError, HostFault> {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return match stop {
            Stop::Exit(code) => Ok(GuestError::Exit { code: *code, stderr: guest.stderr.text() }),
            Stop::OutputLimit => Ok(GuestError::OutputLimit),
            Stop::MemoryLimit => Ok(GuestError::MemoryLimit),
            Stop::TimeLimit => Ok(GuestError::TimeLimit),
            Stop::Cancelled | Stop::OutOfMemory => Err(HostFault::Unavailable { reason: stop.to_string() }),
        };
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Ok(GuestError::FuelExhausted),
        Some(trap) => Ok(GuestError::Trap { message: trap.to_string(), stderr: guest.stderr.text() }),
        // No place in the pool, or no memory: this machine's trouble.
        None => Err(unavailable(error)),
    }
}

fn unavailable(error: &wasmtime::Error) -> HostFault {
    HostFault::Unavailable { reason: clip(&format!("{error:#}"), MAX_DETAIL_BYTES) }
}

fn shutting_down() -> HostFault {
    HostFault::Unavailable { reason: "the executor is shutting down".to_owned() }
}

/// An engine with pooled instances, or one without where the system does not give the address space.
fn engine(config: &ExecutorConfig) -> wasmtime::Result<Engine> {
    // A guest that was cancelled may hold its place for a moment longer.
    let slots = u32::try_from(config.max_guests).unwrap_or(u32::MAX).saturating_add(2);
    let mut pool = PoolingAllocationConfig::default();
    pool.total_core_instances(slots)
        .total_memories(slots)
        .total_tables(slots.saturating_mul(4))
        .max_tables_per_module(4)
        .table_elements(MAX_TABLE_ENTRIES)
        .linear_memory_keep_resident(KEPT_BYTES)
        .table_keep_resident(KEPT_BYTES);
    let mut pooled = base_config();
    pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&pooled).or_else(|error| {
        tracing::debug!(%error, "no pool for guests, their memory is allocated on demand");
        Engine::new(&base_config())
    })
}

/// What every guest sees is the same on every machine: no threads, no relaxed operations, one form of NaN.
fn base_config() -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .cranelift_opt_level(OptLevel::Speed)
        .wasm_relaxed_simd(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .parallel_compilation(false)
        .wasm_backtrace_max_frames(None);
    config
}
