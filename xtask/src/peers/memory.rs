//! How much memory a process takes for its work.

use std::fs;

use crate::Outcome;

/// What a process held before its work.
pub(super) struct Memory {
    pid: u32,
    idle_kib: u64,
}

impl Memory {
    /// From here on its peak counts.
    pub(super) fn watch(pid: u32) -> Outcome<Self> {
        // Sets the peak back to what it is now.
        fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        Ok(Self { pid, idle_kib: field(pid, "VmRSS:")? })
    }

    /// The peak above what it held before, in MiB.
    pub(super) fn mib(&self) -> Outcome<f64> {
        Ok(field(self.pid, "VmHWM:")?.saturating_sub(self.idle_kib) as f64 / 1024.0)
    }
}

fn field(pid: u32, name: &str) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such field")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
