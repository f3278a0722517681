//! Commands from standard input.

use std::{
    io::{BufRead, Read, stdin},
    thread,
};

use tokio::sync::mpsc;

/// A longer command line is refused.
const MAX_LINE_BYTES: usize = 1 << 20;

/// The lines of standard input that are not empty, or why one cannot be a command.
///
/// A thread of its own reads them, one ahead of the agent: a read cannot be given up, and one of the runtime's own
/// would keep the program from ending until the next line came.
pub(crate) fn lines() -> mpsc::Receiver<Result<String, String>> {
    let (lines, received) = mpsc::channel(1);
    thread::spawn(move || {
        let mut input = stdin().lock();
        while let Some(line) = next(&mut input) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    received
}

/// `None` at the end of the input, and when it cannot be read.
fn next(input: &mut impl BufRead) -> Option<Result<String, String>> {
    loop {
        let mut line = Vec::new();
        input.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line).ok()?;
        if line.is_empty() {
            return None;
        }
        if line.len() > MAX_LINE_BYTES {
            if !line.ends_with(b"\n") {
                input.skip_until(b'\n').ok()?;
            }
            return Some(Err(format!("a command has at most {MAX_LINE_BYTES} bytes")));
        }
        match String::from_utf8(line) {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => return Some(Ok(line)),
            Err(_) => return Some(Err("a command is UTF-8 text".to_owned())),
        }
    }
}
