//! What the program prints: for people, or one JSON object a line.

use std::{
    io::{self, Write},
    sync::mpsc::{Receiver, channel},
    thread,
};

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};

/// Lines that may wait for whoever reads them.
const MAX_WAITING: usize = 64;

/// A command that failed: a name for programs, a text for people.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: &'static str, message: impl ToString) -> Self {
        Self { code, message: message.to_string() }
    }
}

/// A line of JSON. What tells it from the others comes first.
#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Done {
        ok: bool,
        #[serde(flatten)]
        fields: Value,
    },
    Failed {
        ok: bool,
        error: Failure,
    },
    Event {
        event: &'a str,
        #[serde(flatten)]
        fields: Value,
    },
}

/// Prints in a thread of its own: a reader that is slow, or reads no more, keeps nothing else from its work.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) json: bool,
    lines: mpsc::Sender<String>,
    /// Nothing waits for the reader any more once this is true.
    ending: watch::Receiver<bool>,
}

impl Output {
    /// The receiver hears when all clones are gone and everything is printed.
    pub(crate) fn new(json: bool, ending: watch::Receiver<bool>) -> (Self, Receiver<()>) {
        let (lines, mut waiting) = mpsc::channel::<String>(MAX_WAITING);
        let (printed, is_printed) = channel();
        thread::spawn(move || {
            while let Some(text) = waiting.blocking_recv() {
                let mut out = io::stdout().lock();
                // Whoever read the output is gone: there is nobody to tell.
                let _ = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
            }
            // Nobody may be waiting.
            let _ = printed.send(());
        });
        (Self { json, lines, ending }, is_printed)
    }

    /// The answer to a command: exactly one line of JSON.
    pub(crate) async fn answer(&self, answer: Result<Value, Failure>) {
        self.text(match (self.json, answer) {
            (true, Ok(fields)) => line(&Line::Done { ok: true, fields }),
            (true, Err(error)) => line(&Line::Failed { ok: false, error }),
            (false, Ok(fields)) if fields.as_object().is_some_and(Map::is_empty) => "ok".to_owned(),
            (false, Ok(fields)) => readable(&fields),
            (false, Err(Failure { code, message })) => format!("error ({code}): {message}"),
        })
        .await;
    }

    /// Something that happened by itself, and must be told.
    pub(crate) async fn event(&self, event: &str, fields: Value) {
        self.text(self.happened(event, fields)).await;
    }

    /// The same, but left out if the reader is far behind.
    pub(crate) fn hint(&self, event: &str, fields: Value) {
        if self.lines.try_send(self.happened(event, fields)).is_err() {
            tracing::debug!(event, "left out: too much waits to be read");
        }
    }

    fn happened(&self, event: &str, fields: Value) -> String {
        if self.json { line(&Line::Event { event, fields }) } else { format!("* {event}\n{}", readable(&fields)) }
    }

    pub(crate) async fn text(&self, text: String) {
        let mut ending = self.ending.clone();
        tokio::select! {
            biased;
            room = self.lines.reserve() => if let Ok(room) = room { room.send(text) },
            _ = ending.wait_for(|ending| *ending) => drop(self.lines.try_send(text)),
        }
    }
}

fn line(line: &Line<'_>) -> String {
    serde_json::to_string(line).expect("strings, numbers and lists can be written as JSON")
}

/// Fields as lines, lists as indented lines.
fn readable(fields: &Value) -> String {
    // What others wrote must not steer the terminal.
    let tame = |text: &str| {
        text.chars()
            .map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c })
            .collect::<String>()
    };
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), tame);
    let object = |fields: &Map<String, Value>, indent: &str| {
        let mut text = String::new();
        for (name, value) in fields {
            match value {
                Value::Array(items) if items.is_empty() => text += &format!("{indent}{name}: none\n"),
                Value::Array(items) => {
                    text += &format!("{indent}{name}:\n");
                    for item in items {
                        let item = match item {
                            Value::Object(fields) => {
                                let fields: Vec<_> =
                                    fields.iter().map(|(name, value)| format!("{name}: {}", plain(value))).collect();
                                fields.join(", ")
                            }
                            other => plain(other),
                        };
                        text += &format!("{indent}  {item}\n");
                    }
                }
                value => text += &format!("{indent}{name}: {}\n", plain(value)),
            }
        }
        text
    };
    fields.as_object().map_or_else(|| plain(fields), |fields| object(fields, "  "))
}
