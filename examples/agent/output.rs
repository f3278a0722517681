//! What the program prints: for people, or one JSON object a line.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Map, Value};

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

#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// The answer to a command: exactly one line of JSON.
    pub(crate) fn answer(self, answer: Result<Value, Failure>) {
        match (self.json, answer) {
            (true, Ok(fields)) => self.line(&Line::Done { ok: true, fields }),
            (true, Err(error)) => self.line(&Line::Failed { ok: false, error }),
            (false, Ok(fields)) => self.text(&readable(&fields)),
            (false, Err(Failure { code, message })) => self.text(&format!("error ({code}): {message}")),
        }
    }

    /// Something that happened by itself.
    pub(crate) fn event(self, event: &str, fields: Value) {
        if self.json {
            self.line(&Line::Event { event, fields });
        } else {
            self.text(&format!("* {event}\n{}", readable(&fields)));
        }
    }

    fn line(self, line: &Line<'_>) {
        self.text(&serde_json::to_string(line).expect("strings, numbers and lists can be written as JSON"));
    }

    pub(crate) fn text(self, text: &str) {
        let mut out = io::stdout().lock();
        // Whoever read the output is gone: there is nobody to tell.
        let _ = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
    }
}

/// Fields as lines, lists as indented lines.
fn readable(fields: &Value) -> String {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
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
