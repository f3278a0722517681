//! The live account of the story: progress bars on a terminal, plain lines without one, or one JSON object per line.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// How the account is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Lines with progress bars below them, for people at a terminal (standard error).
    Terminal,
    /// A line for each event.
    Plain,
    /// A JSON object for each event, one per line.
    Json,
}

/// Something worth telling. In JSON the field `event` names the kind in snake case.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A process is up.
    Started {
        /// Name in the story, such as `modeller-1`.
        who: String,
        /// Operating-system process id.
        pid: u32,
        /// did:key.
        agent: String,
    },
    /// A step begins.
    Step {
        /// From 1.
        number: u32,
        /// A few words.
        title: String,
    },
    /// Somebody did something.
    Note {
        /// Name in the story.
        who: String,
        /// A sentence.
        text: String,
    },
    /// A task has come this far; 100 ends its bar.
    Progress {
        /// Who works.
        who: String,
        /// What on.
        task: String,
        /// 0 to 100.
        percent: u32,
    },
    /// Somebody was lost and somebody stepped in.
    Incident {
        /// Who was lost.
        who: String,
        /// What follows.
        text: String,
    },
    /// The prototype is there.
    Finished {
        /// The folder with the result.
        folder: String,
        /// The whole run, in milliseconds.
        took_ms: u64,
    },
}

#[derive(Serialize)]
struct Line<'e> {
    at_ms: u64,
    #[serde(flatten)]
    event: &'e Event,
}

/// Tells events, in order, to one writer.
pub struct Account {
    mode: Mode,
    out: Box<dyn Write + Send>,
    bars: MultiProgress,
    open: BTreeMap<(String, String), ProgressBar>,
    told: BTreeMap<(String, String), u32>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("mode", &self.mode).field("open_bars", &self.open.len()).finish_non_exhaustive()
    }
}

impl Account {
    /// Writes lines to `out`, usually standard output.
    pub fn new(mode: Mode, out: Box<dyn Write + Send>) -> Self {
        let target = if mode == Mode::Terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bars = MultiProgress::with_draw_target(target);
        Self { mode, out, bars, open: BTreeMap::new(), told: BTreeMap::new() }
    }

    /// Tells one event that happened `at_ms` milliseconds after the start.
    ///
    /// # Errors
    /// When the writer fails.
    pub fn tell(&mut self, at_ms: u64, event: &Event) -> io::Result<()> {
        if self.mode == Mode::Json {
            serde_json::to_writer(&mut self.out, &Line { at_ms, event })?;
            self.out.write_all(b"\n")?;
            return self.out.flush();
        }
        if let Event::Progress { who, task, percent } = event {
            let key = (who.clone(), task.clone());
            if self.mode == Mode::Terminal {
                self.advance(key, *percent);
                return Ok(());
            }
            // Without a terminal every quarter is enough.
            let quarter = percent / 25;
            if self.told.insert(key, quarter) == Some(quarter) {
                return Ok(());
            }
        }
        let line = line(at_ms, event);
        let out = &mut self.out;
        self.bars.suspend(|| writeln!(out, "{line}").and_then(|()| out.flush()))
    }

    fn advance(&mut self, key: (String, String), percent: u32) {
        if percent >= 100 {
            if let Some(bar) = self.open.remove(&key) {
                bar.finish_and_clear();
            }
            return;
        }
        let bars = &self.bars;
        let bar = self.open.entry(key).or_insert_with_key(|(who, task)| {
            let style = ProgressStyle::with_template("           {msg:32} {bar:32.cyan/black} {pos:>3} %");
            let bar = bars.add(ProgressBar::new(100)).with_message(format!("{who}: {task}"));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━─"));
            bar
        });
        bar.set_position(u64::from(percent));
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        for bar in self.open.values() {
            bar.finish_and_clear();
        }
    }
}

/// The plain line of an event; control characters of others cannot reach the terminal.
fn line(at_ms: u64, event: &Event) -> String {
    let text = match event {
        Event::Started { who, pid, agent } => format!("{who:<12} is up as process {pid}, {agent}"),
        Event::Step { number, title } => format!("--- {number}. {title}"),
        Event::Note { who, text } => format!("{who:<12} {text}"),
        Event::Progress { who, task, percent } => format!("{who:<12} {task}: {percent} %"),
        Event::Incident { who, text } => format!("{who:<12} !! {text}"),
        Event::Finished { folder, took_ms } => {
            format!("done in {}; the result is in {folder}; open {folder}/report.html", seconds(*took_ms))
        }
    };
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("{:>8}  {clean}", seconds(at_ms))
}

/// `3.21 s`
pub fn seconds(ms: u64) -> String {
    format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn told(mode: Mode, events: &[Event]) -> String {
        let paper = Paper::default();
        let mut account = Account::new(mode, Box::new(paper.clone()));
        for event in events {
            account.tell(3217, event).unwrap();
        }
        String::from_utf8(paper.0.lock().unwrap().clone()).unwrap()
    }

    fn progress(percent: u32) -> Event {
        Event::Progress { who: "modeller-1".into(), task: "ring".into(), percent }
    }

    #[test]
    fn json_is_one_object_a_line_whatever_the_text() {
        let text = told(Mode::Json, &[Event::Note { who: "a\nb".into(), text: "\"x\"\u{1b}[2J".into() }, progress(7)]);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (&lines[0]["event"], &lines[0]["at_ms"], &lines[0]["who"]),
            (&"note".into(), &3217.into(), &"a\nb".into())
        );
        assert_eq!((&lines[1]["event"], &lines[1]["percent"]), (&"progress".into(), &7.into()));
    }

    #[test]
    fn plain_lines_carry_no_control_characters_and_progress_only_by_quarters() {
        let text = told(Mode::Plain, &[Event::Note { who: "x".into(), text: "a\u{1b}[2J\nb".into() }]);
        assert_eq!(text, "  3.21 s  x            a [2J b\n");
        let events: Vec<Event> = (0..=100).map(progress).collect();
        assert_eq!(told(Mode::Plain, &events).lines().count(), 5);
    }
}
