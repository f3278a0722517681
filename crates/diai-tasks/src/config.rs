use std::{collections::BTreeSet, time::Duration};

use diai_core::AgentId;

use crate::{StartError, message::KEEP_ALIVE};

/// How this agent asks others to work, and how much it works for others.
#[derive(Debug, Clone)]
pub struct Config {
    /// Serve tasks of others; `None` serves nobody. Default `None`.
    pub serve: Option<Serving>,
    /// What tasks may use here, be they another's or our own.
    pub executor: ExecutorConfig,
    /// Run a task here when nobody else can. Default yes.
    pub allow_local: bool,
    /// Fetch outputs that did not travel inline before a run counts as done, so that the result outlives the worker.
    /// Default yes. Worst case: the task's output limit in memory, once per running task.
    pub fetch_outputs: bool,
    /// How many workers may fail a task before it is given up; each failed one is left out. Default 3.
    pub max_attempts: usize,
    /// How many workers are asked for bids at a time. Default 8.
    pub probe: usize,
    /// How long to wait for a bid. Default 2 s.
    pub offer_timeout: Duration,
    /// How much longer to wait for better bids after the first, or, if the task has inputs, after the first of a worker
    /// that holds them all; a quarter of a second if there is none. Default 20 ms.
    pub bid_window: Duration,
    /// For how long a worker is trusted to have the free slot that it showed, so that a task without inputs is awarded
    /// without asking. Default 2 s.
    pub fresh: Duration,
    /// From when on another worker is tried beside one that is silent, if the task is a program, or instead of it, if it
    /// is a service. Workers that run a task send something every second. Default 3 s, which also is the least.
    pub lease: Duration,
    /// An output of which nothing has come for so long counts as not found. Default 10 s.
    pub fetch_timeout: Duration,
    /// How long to keep asking when all workers are busy. Default 20 s.
    pub busy_patience: Duration,
    /// Assumed speed of a transfer, bytes per second, to compare bids. Default 20 MiB/s.
    pub transfer_bytes_per_second: u64,
    /// Tasks of one `map` that run at a time. Default 16.
    pub map_parallel: usize,
    /// Results of WebAssembly tasks that are remembered; an equal task is not run again. Default 128, each up to
    /// 1 MiB, usually below 1 KiB.
    pub max_remembered: usize,
    /// Events that a slow subscriber may lag behind before it misses some. Default 256, each below 1 KiB, but for
    /// partial results.
    pub max_events: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            serve: None,
            executor: ExecutorConfig::default(),
            allow_local: true,
            fetch_outputs: true,
            max_attempts: 3,
            probe: 8,
            offer_timeout: Duration::from_secs(2),
            bid_window: Duration::from_millis(20),
            fresh: Duration::from_secs(2),
            lease: Duration::from_secs(3),
            fetch_timeout: Duration::from_secs(10),
            busy_patience: Duration::from_secs(20),
            transfer_bytes_per_second: 20 << 20,
            map_parallel: 16,
            max_remembered: 128,
            max_events: 256,
        }
    }
}

impl Config {
    /// The default, and serving whoever is certified.
    pub fn serving() -> Self {
        Self { serve: Some(Serving::default()), ..Self::default() }
    }

    pub(crate) fn check(&self) -> Result<(), StartError> {
        let positive = [
            ("executor.max_guests", self.executor.max_guests),
            ("executor.max_modules", self.executor.max_modules),
            ("max_attempts", self.max_attempts),
            ("probe", self.probe),
            ("map_parallel", self.map_parallel),
            ("max_remembered", self.max_remembered),
            ("max_events", self.max_events),
            ("serve.max_offers", self.serve.as_ref().map_or(1, |serving| serving.max_offers)),
            ("serve.max_attempts", self.serve.as_ref().map_or(1, |serving| serving.max_attempts)),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((field, _)) => Err(StartError::Config { field, must: "at least 1" }),
            None if self.transfer_bytes_per_second == 0 => {
                Err(StartError::Config { field: "transfer_bytes_per_second", must: "at least 1" })
            }
            None if self.lease < 3 * KEEP_ALIVE => Err(StartError::Config { field: "lease", must: "at least 3 s" }),
            None => Ok(()),
        }
    }
}

/// How this agent works for others.
#[derive(Debug, Clone)]
pub struct Serving {
    /// For whom. Default all whose certificate was verified.
    pub policy: Policy,
    /// Offers answered at a time; more are told that this agent is busy. Default 32.
    pub max_offers: usize,
    /// Attempts whose answer is remembered, for a requester that asks twice. Default 128, each up to 1 MiB, usually
    /// below 1 KiB.
    pub max_attempts: usize,
    /// Outputs that together are no longer than this travel inside the result, and are not stored here. Default
    /// 1,024 bytes, at most 64 KiB.
    pub inline_bytes: usize,
}

impl Default for Serving {
    fn default() -> Self {
        Self { policy: Policy::Certified, max_offers: 32, max_attempts: 128, inline_bytes: 1024 }
    }
}

/// For whom an agent works.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// For all whose certificate was verified: for everyone who can call at all.
    Certified,
    /// For these only.
    Allow(BTreeSet<AgentId>),
}

impl Policy {
    pub(crate) fn allows(&self, agent: AgentId) -> bool {
        match self {
            Self::Certified => true,
            Self::Allow(agents) => agents.contains(&agent),
        }
    }
}

/// What tasks may use here. A task that asks for more than the maxima is refused.
///
/// Worst-case memory: `max_guests` times (`max_memory_bytes` + twice `max_output_bytes`), and `max_guests + max_queued`
/// times `max_input_bytes`, and four times `max_module_bytes`.
#[derive(Debug, Clone)]
pub struct ExecutorConfig {
    /// Guests that run at a time. Each holds a thread of the World's `Offload`, which should have more threads than that.
    /// Default 2.
    pub max_guests: usize,
    /// Tasks that may wait for a slot, their inputs being fetched meanwhile; more are refused as busy. Of these and the
    /// slots, one agent may have half, and the last is kept for this agent itself. Default 4.
    pub max_queued: usize,
    /// Largest memory limit. Default 256 MiB.
    pub max_memory_bytes: u64,
    /// Largest output limit. Default 64 MiB.
    pub max_output_bytes: u64,
    /// All inputs of one task together. Default 64 MiB.
    pub max_input_bytes: u64,
    /// Largest time limit. Default 5 min.
    pub max_time: Duration,
    /// Longest program; compiling takes about a second per MiB. Default 8 MiB.
    pub max_program_bytes: u64,
    /// Compiled programs that are kept. Default 32.
    pub max_modules: usize,
    /// Compiled programs that are kept, by the length of the programs together; the latest always is. Default 32 MiB,
    /// compiled about four times as long.
    pub max_module_bytes: u64,
    /// A program or an input of which nothing has come for so long counts as not found. Default 10 s.
    pub fetch_timeout: Duration,
}

impl Default for ExecutorConfig {
    fn default() -> Self {
        Self {
            max_guests: 2,
            max_queued: 4,
            max_memory_bytes: 256 << 20,
            max_output_bytes: 64 << 20,
            max_input_bytes: 64 << 20,
            max_time: Duration::from_secs(300),
            max_program_bytes: 8 << 20,
            max_modules: 32,
            max_module_bytes: 32 << 20,
            fetch_timeout: Duration::from_secs(10),
        }
    }
}
