//! An `agent` process, and what a user does with it.

use std::{
    collections::VecDeque,
    env,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Nothing here takes so long, unless it never ends.
const HANG: Duration = Duration::from_secs(90);

pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    log: Option<JoinHandle<String>>,
    /// Events that nobody asked for yet.
    events: VecDeque<Value>,
    pub(crate) ready: Value,
}

impl Process {
    /// An agent on loopback whose data lies in `home`; it is ready when this returns.
    pub(crate) fn start(home: &Path, args: &[&str]) -> Self {
        Self::start_with(home, args, None)
    }

    pub(crate) fn start_with(home: &Path, args: &[&str], passphrase: Option<&str>) -> Self {
        let mut process = Self::spawn(home, args, passphrase);
        process.ready = process.event("ready");
        process
    }

    fn spawn(home: &Path, args: &[&str], passphrase: Option<&str>) -> Self {
        let mut command = Command::new(program());
        command.arg("--data-dir").arg(home);
        command.args(["--json", "--mdns", "off", "--listen", "/ip4/127.0.0.1/tcp/0"]).args(args);
        command.env_remove("DIAI_PASSPHRASE").envs(passphrase.map(|passphrase| ("DIAI_PASSPHRASE", passphrase)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut errors = child.stderr.take().unwrap();
        let (line, lines) = sync_channel(1024);
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|text| line.send(text)));
        let log = thread::spawn(move || {
            let mut log = Vec::new();
            let _ = errors.read_to_end(&mut log);
            String::from_utf8_lossy(&log).into_owned()
        });
        let input = child.stdin.take();
        Self { child, input, lines, log: Some(log), events: VecDeque::new(), ready: Value::Null }
    }

    pub(crate) fn id(&self) -> &str {
        self.ready["agent"].as_str().unwrap()
    }

    pub(crate) fn peer(&self) -> &str {
        self.ready["peer"].as_str().unwrap()
    }

    /// An address that others can dial.
    pub(crate) fn addr(&self) -> String {
        texts(&self.ready["addrs"])[0].clone()
    }

    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.input.as_mut().unwrap(), "{command}").unwrap();
    }

    /// The answer to a command.
    pub(crate) fn ask(&mut self, command: &str) -> Value {
        self.tell(command);
        self.answer()
    }

    /// The same for a command that must succeed.
    pub(crate) fn does(&mut self, command: &str) -> Value {
        let answer = self.ask(command);
        assert_eq!(answer["ok"], true, "{command}: {answer}");
        answer
    }

    pub(crate) fn answer(&mut self) -> Value {
        loop {
            match self.next("an answer") {
                line if line.get("ok").is_some() => return line,
                event => self.events.push_back(event),
            }
        }
    }

    /// The first event of that name that was not asked for yet.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        if let Some(index) = self.events.iter().position(|event| event["event"] == name) {
            return self.events.remove(index).unwrap();
        }
        loop {
            match self.next(name) {
                line if line["event"] == name => return line,
                line if line.get("ok").is_some() => panic!("{line} came instead of the event {name}; {}", self.log()),
                other => self.events.push_back(other),
            }
        }
    }

    fn next(&mut self, what: &str) -> Value {
        match self.lines.recv_timeout(HANG) {
            Ok(line) => serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?} is no line of JSON")),
            Err(RecvTimeoutError::Timeout) => panic!("{what} did not come; {}", self.log()),
            Err(RecvTimeoutError::Disconnected) => panic!("the agent ended before {what} came; {}", self.log()),
        }
    }

    /// Looks for `path` until `other`, as it is now, is among the answers.
    pub(crate) fn finds(&mut self, path: &str, other: &Self) {
        let begun = Instant::now();
        loop {
            let found = self.does(&format!("find {path}"));
            let is_other = |found: &Value| {
                found["agent"] == other.ready["agent"] && texts(&found["addrs"]).contains(&other.addr())
            };
            if found["agents"].as_array().unwrap().iter().any(is_other) {
                return;
            }
            assert!(begun.elapsed() < HANG, "{} is not found by {path}: {found}; {}", other.id(), self.log());
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// `kill`.
    pub(crate) fn terminate(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits for the last event and for exit code 0.
    pub(crate) fn ends_gracefully(&mut self) {
        self.event("stopped");
        assert_eq!(self.exit_code(), Some(0), "{}", self.log());
    }

    fn exit_code(&mut self) -> Option<i32> {
        match self.lines.recv_timeout(HANG) {
            Err(RecvTimeoutError::Disconnected) => self.child.wait().unwrap().code(),
            Err(RecvTimeoutError::Timeout) => panic!("the agent does not end; {}", self.log()),
            Ok(line) => panic!("{line} came after the end; {}", self.log()),
        }
    }

    /// What it logged; ends it.
    fn log(&mut self) -> String {
        // It may have ended by itself.
        let _ = self.child.kill();
        let log = self.log.take().and_then(|log| log.join().ok());
        format!("its log: {}", log.unwrap_or_default())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts an agent that must not start; its error code.
pub(crate) fn fails(home: &Path, passphrase: Option<&str>) -> String {
    let mut process = Process::spawn(home, &[], passphrase);
    let answer = process.answer();
    assert_eq!(process.exit_code(), Some(1));
    code(&answer).to_owned()
}

/// The error code of an answer.
pub(crate) fn code(answer: &Value) -> &str {
    assert_eq!(answer["ok"], false, "{answer}");
    answer["error"]["code"].as_str().unwrap()
}

pub(crate) fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// The committed WASM program of that name.
pub(crate) fn guest(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("guests/{name}.wasm"));
    path.to_str().unwrap().to_owned()
}

/// `cargo test` builds the examples too, in `examples/` next to this executable's `deps/`; with `--test` it does not.
fn program() -> PathBuf {
    let test = env::current_exe().unwrap();
    let program = test.parent().unwrap().with_file_name("examples").join("agent");
    assert!(program.exists(), "{} is missing; run `cargo test -p diai-examples`, which builds it", program.display());
    program
}
