//! What a guest is given: its store data.

use std::collections::VecDeque;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use wasmtime::{Memory, ResourceLimiter};

use super::{
    fs::Fs,
    wasi::{
        errno::{Answer, Stop},
        fds::Fds,
    },
    wasm::Given,
};
use crate::{TaskContext, TaskSpec, message::MAX_DETAIL_BYTES};

/// The guest's name for itself, its first argument.
const PROGRAM_NAME: &str = "task";
/// Standard error is kept up to this; what is older is forgotten.
const MAX_STDERR_BYTES: usize = 64 << 10;
/// A line of standard error that reports progress is at most so long.
const MAX_REPORT_BYTES: usize = 512;
/// How far the guest's clock moves whenever it is read: it never stands still, so that no guest waits for ever.
const TICK_NS: u64 = 1_000;
/// A table entry counts so much memory.
const TABLE_ENTRY_BYTES: usize = 16;

/// The data of one guest.
pub(super) struct Guest {
    pub(super) memory: Option<Memory>,
    pub(super) limiter: Limiter,
    pub(super) args: Vec<Vec<u8>>,
    pub(super) fs: Fs,
    pub(super) fds: Fds,
    pub(super) stdin: Bytes,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Stderr,
    pub(super) clock: GuestClock,
    pub(super) random: GuestRandom,
}

impl Guest {
    pub(super) fn new(spec: &TaskSpec, Given { inputs, reports }: Given) -> Self {
        let args = std::iter::once(PROGRAM_NAME).chain(spec.args.iter().map(String::as_str));
        Self {
            memory: None,
            limiter: Limiter { used: 0, max_bytes: usize::try_from(spec.limits.memory_bytes).unwrap_or(usize::MAX) },
            args: args.map(|arg| arg.as_bytes().to_vec()).collect(),
            stdin: inputs.first().map(|(_, bytes)| bytes.clone()).unwrap_or_default(),
            fs: Fs::new(inputs, spec.limits.output_bytes),
            fds: Fds::new(),
            stdout: Vec::new(),
            stderr: Stderr { tail: VecDeque::new(), line: Vec::new(), reports },
            clock: GuestClock { start_ns: spec.clock_start.as_unix_ms().saturating_mul(1_000_000), elapsed_ns: 0 },
            random: GuestRandom { seed: spec.seed, block: 0 },
        }
    }

    pub(super) fn write_stdout(&mut self, data: &[u8]) -> Answer {
        self.fs.reserve(data.len() as u64)?;
        self.stdout.extend_from_slice(data);
        Ok(())
    }
}

/// Standard error: its end is kept for error messages, and lines such as `progress 3/10 cutting facets` are reports.
pub(super) struct Stderr {
    tail: VecDeque<u8>,
    line: Vec<u8>,
    reports: TaskContext,
}

impl Stderr {
    pub(super) fn write(&mut self, data: &[u8]) {
        let kept = &data[data.len().saturating_sub(MAX_STDERR_BYTES)..];
        let over = (self.tail.len() + kept.len()).saturating_sub(MAX_STDERR_BYTES);
        self.tail.drain(..over);
        self.tail.extend(kept);
        for &byte in kept {
            if byte == b'\n' {
                self.report();
                self.line.clear();
            } else if self.line.len() < MAX_REPORT_BYTES {
                self.line.push(byte);
            }
        }
    }

    fn report(&self) {
        let Ok(line) = std::str::from_utf8(&self.line) else { return };
        let Some(report) = line.strip_prefix("progress ") else { return };
        let (steps, note) = report.split_once(' ').unwrap_or((report, ""));
        let Some((done, total)) = steps.split_once('/') else { return };
        if let (Ok(done), Ok(total)) = (done.parse(), total.parse()) {
            self.reports.progress(done, total, note);
        }
    }

    /// Its end, as text.
    pub(super) fn text(&self) -> String {
        let start = self.tail.len().saturating_sub(MAX_DETAIL_BYTES);
        let bytes: Vec<u8> = self.tail.iter().skip(start).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The guest's clock: it begins where the task says and moves with every look at it, so that equal runs see equal times.
pub(super) struct GuestClock {
    start_ns: u64,
    elapsed_ns: u64,
}

impl GuestClock {
    pub(super) const RESOLUTION_NS: u64 = TICK_NS;

    /// Nanoseconds since the Unix epoch.
    pub(super) fn wall(&mut self) -> u64 {
        self.start_ns.saturating_add(self.monotonic())
    }

    /// Nanoseconds since the guest began.
    pub(super) fn monotonic(&mut self) -> u64 {
        self.elapsed_ns = self.elapsed_ns.saturating_add(TICK_NS);
        self.elapsed_ns
    }

    /// Sleeps, without anybody waiting.
    pub(super) fn skip(&mut self, ns: u64) {
        self.elapsed_ns = self.elapsed_ns.saturating_add(ns);
    }
}

/// The guest's random numbers: sha2-256 of the seed and a counter.
pub(super) struct GuestRandom {
    seed: u64,
    block: u64,
}

impl GuestRandom {
    pub(super) fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(32) {
            let mut hash = Sha256::new();
            hash.update(b"diai/task-random/1");
            hash.update(self.seed.to_le_bytes());
            hash.update(self.block.to_le_bytes());
            self.block += 1;
            chunk.copy_from_slice(&hash.finalize()[..chunk.len()]);
        }
    }
}

/// Sums what the guest's memories and tables take.
pub(super) struct Limiter {
    used: usize,
    max_bytes: usize,
}

impl Limiter {
    fn grow(&mut self, more: usize) -> wasmtime::Result<bool> {
        match self.used.checked_add(more) {
            Some(used) if used <= self.max_bytes => {
                self.used = used;
                Ok(true)
            }
            _ => Err(wasmtime::Error::new(Stop::MemoryLimit)),
        }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // Over the module's own maximum: the guest's affair, and known to it.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(desired.saturating_sub(current))
    }

    // What the operating system refuses must not look like a result of the guest.
    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(wasmtime::Error::new(Stop::OutOfMemory))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(desired.saturating_sub(current).saturating_mul(TABLE_ENTRY_BYTES))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(wasmtime::Error::new(Stop::OutOfMemory))
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        8
    }

    fn memories(&self) -> usize {
        1
    }
}
