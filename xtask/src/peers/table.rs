//! The table of the README.

use serde_json::json;

/// One row: ours, the others', and what was promised.
pub(super) struct Row {
    pub(super) what: String,
    pub(super) ours: String,
    pub(super) others: String,
    /// The figure that the bar is about, in words.
    pub(super) ratio: String,
    pub(super) bar: &'static str,
    pub(super) met: bool,
}

pub(super) struct Table {
    json: bool,
    rows: Vec<Row>,
    load: String,
}

impl Table {
    pub(super) fn new(json: bool) -> Self {
        Self { json, rows: Vec::new(), load: load() }
    }

    pub(super) fn add(&mut self, row: Row) {
        if self.json {
            let Row { what, ours, others, ratio, bar, met } = &row;
            println!(
                "{}",
                json!({ "what": what, "ours": ours, "others": others, "ratio": ratio, "bar": bar, "met": met })
            );
        }
        self.rows.push(row);
    }

    /// Prints it; whether every bar was met.
    pub(super) fn finish(&self) -> bool {
        if !self.json {
            println!("| | diAI | others | ratio | bar | |\n| --- | --- | --- | --- | --- | --- |");
            for Row { what, ours, others, ratio, bar, met } in &self.rows {
                let met = if *met { "met" } else { "**missed**" };
                println!("| {what} | {ours} | {others} | {ratio} | {bar} | {met} |");
            }
            println!("\nload average {} before and {} after", self.load, load());
        }
        self.rows.iter().all(|row| row.met)
    }
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}
