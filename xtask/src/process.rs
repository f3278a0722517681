//! A child process that is spoken to in lines, and ends with its handle.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use crate::Outcome;

/// Nothing here takes so long, unless it never ends.
pub(crate) const HANG: Duration = Duration::from_secs(150);

/// A process whose output is read line by line.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Outcome<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{name} does not start: {error}"))?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let (line, lines) = sync_channel(1024);
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|text| line.send(text)));
        let input = child.stdin.take();
        Ok(Self { name: name.to_owned(), child, input, lines })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn tell(&mut self, line: &str) -> Outcome {
        let input = self.input.as_mut().ok_or("its input is closed")?;
        writeln!(input, "{line}").map_err(|error| format!("{} does not listen: {error}", self.name).into())
    }

    /// The next line that it prints.
    pub(crate) fn line(&self) -> Outcome<String> {
        self.line_within(HANG)
    }

    pub(crate) fn line_within(&self, within: Duration) -> Outcome<String> {
        self.lines.recv_timeout(within).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("{} said nothing for {within:?}", self.name).into(),
            RecvTimeoutError::Disconnected => format!("{} ended", self.name).into(),
        })
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    /// First as its user would end it, so that it ends what it started itself.
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let until = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end; its output.
pub(crate) fn run(command: &mut Command) -> Outcome<Vec<u8>> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() {
        return Ok(stdout);
    }
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    Err(format!("{command:?} failed with {status}: {} {}", stdout.trim(), stderr.trim()).into())
}
