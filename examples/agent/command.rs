//! The commands, as they are typed.

use std::path::PathBuf;

use diai::{AgentId, CapabilityPath, Cid};

pub(crate) const HELP: &str = "\
id                                        who this agent is, and where it can be dialled
peers                                     connected devices
find PATH                                 agents with a capability, or one below it
send AGENT TEXT                           send a text
call AGENT SERVICE TEXT|@FILE             call a service and show its answer
add PATH [--for AGENT]...                 add a file or folder; encrypted if it is for somebody
get CID OUT                               fetch content, decrypted if it is for this agent, to a file or folder
run PROGRAM.wasm [--input FILE]... [--capability PATH]
                                          run a program on the best agent, or here
status                                    what this agent has and does
help                                      this list
quit                                      end gracefully (so does the end of input)";

#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Id,
    Peers,
    Find(CapabilityPath),
    Send { to: AgentId, text: String },
    Call { to: AgentId, service: String, body: Body },
    Add { path: PathBuf, readers: Vec<AgentId> },
    Get { cid: Cid, out: PathBuf },
    Run { program: PathBuf, inputs: Vec<PathBuf>, capability: Option<String> },
    Status,
    Help,
    Quit,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Body {
    Text(String),
    File(PathBuf),
}

impl Command {
    /// Reads one line. Words may be quoted as in a shell; the text of `send` and `call` is the rest of the line as it is.
    pub(crate) fn parse(line: &str) -> Result<Self, String> {
        let line = line.trim();
        let (name, rest) = split(line);
        match name {
            "id" => Self::alone(Self::Id, name, rest),
            "peers" => Self::alone(Self::Peers, name, rest),
            "status" => Self::alone(Self::Status, name, rest),
            "help" => Self::alone(Self::Help, name, rest),
            "quit" => Self::alone(Self::Quit, name, rest),
            "find" => Ok(Self::Find(rest.parse().map_err(|error| format!("{rest:?} is no capability: {error}"))?)),
            "send" => {
                let (to, text) = split(rest);
                Ok(Self::Send { to: agent(to)?, text: text.to_owned() })
            }
            "call" => {
                let (to, rest) = split(rest);
                let (service, text) = split(rest);
                if service.is_empty() {
                    return Err("call needs an agent, a service, and a text or @FILE".into());
                }
                let file = |file: &str| Body::File(file.into());
                let body = text.strip_prefix('@').map_or_else(|| Body::Text(text.to_owned()), file);
                Ok(Self::Call { to: agent(to)?, service: service.to_owned(), body })
            }
            "add" => Self::add(words(rest)?),
            "get" => match &words(rest)?[..] {
                [cid, out] => {
                    let cid = cid.parse().map_err(|error| format!("{cid:?} is no CID: {error}"))?;
                    Ok(Self::Get { cid, out: out.into() })
                }
                _ => Err("get needs a CID and where to write it".into()),
            },
            "run" => Self::run(words(rest)?),
            _ => Err(format!("{name:?} is no command; help lists them")),
        }
    }

    fn alone(command: Self, name: &str, rest: &str) -> Result<Self, String> {
        if rest.is_empty() { Ok(command) } else { Err(format!("{name} takes nothing after it")) }
    }

    fn add(words: Vec<String>) -> Result<Self, String> {
        let (mut path, mut readers) = (None, Vec::new());
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--for" => readers.push(agent(&words.next().ok_or("--for needs an agent")?)?),
                _ if path.is_none() => path = Some(word.into()),
                _ => return Err(format!("add takes one path; what is {word:?}?")),
            }
        }
        Ok(Self::Add { path: path.ok_or("add needs a path")?, readers })
    }

    fn run(words: Vec<String>) -> Result<Self, String> {
        let (mut program, mut inputs, mut capability) = (None, Vec::new(), None);
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--input" => inputs.push(words.next().ok_or("--input needs a file")?.into()),
                "--capability" => capability = Some(words.next().ok_or("--capability needs a path")?),
                _ if program.is_none() => program = Some(word.into()),
                _ => return Err(format!("run takes one program; what is {word:?}?")),
            }
        }
        Ok(Self::Run { program: program.ok_or("run needs a program")?, inputs, capability })
    }
}

fn split(text: &str) -> (&str, &str) {
    text.split_once(char::is_whitespace).map_or((text, ""), |(word, rest)| (word, rest.trim_start()))
}

fn words(text: &str) -> Result<Vec<String>, String> {
    shlex::split(text).ok_or_else(|| "a quote is not closed".to_owned())
}

fn agent(text: &str) -> Result<AgentId, String> {
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}
