//! The table of the README.

use std::{fmt::Write, time::Duration};

/// The rows so far.
pub(crate) struct Scorecard {
    workers: usize,
    load: String,
    rows: Vec<Row>,
}

/// One row: ours, the bare alternatives, and what was promised.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) ours: String,
    pub(crate) bare: String,
    /// The figure that the bar is about, in words.
    pub(crate) ratio: String,
    pub(crate) bar: &'static str,
    pub(crate) met: Option<bool>,
}

impl Scorecard {
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers, load: load(), rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    #[expect(clippy::print_stdout, reason = "this is what it is for")]
    pub(crate) fn print(&self) {
        println!("\n{}", self.table());
    }

    fn table(&self) -> String {
        let mut table =
            String::from("| | diAI | bare alternative | ratio | bar | |\n| --- | --- | --- | --- | --- | --- |\n");
        for Row { what, ours, bare, ratio, bar, met } in &self.rows {
            let met = met.map_or("", |met| if met { "met" } else { "**missed**" });
            writeln!(table, "| {what} | {ours} | {bare} | {ratio} | {bar} | {met} |").expect("a String takes any text");
        }
        let machine = format!(
            "{} {}, {} runtime workers, load average {} before and {} after; both sides in one process on one \
             multi-thread tokio runtime, over loopback TCP, TLS 1.3 and Yamux, measured by turns.",
            std::env::consts::OS,
            std::env::consts::ARCH,
            self.workers,
            self.load,
            load()
        );
        table + "\n" + &machine
    }
}

/// The load average of the last minute, where the system tells.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// A duration with three digits that mean something.
pub(crate) fn short(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    match micros {
        _ if micros < 1e3 => format!("{micros:.0} us"),
        _ if micros < 1e6 => format!("{:.2} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

/// A rate with its unit.
pub(crate) fn rate(per_second: f64) -> String {
    if per_second < 1e5 { format!("{:.1} k/s", per_second / 1e3) } else { format!("{:.0} k/s", per_second / 1e3) }
}
