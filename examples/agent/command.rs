//! The commands, as they are typed.

use std::{path::PathBuf, time::Duration};

use diai::{AgentId, CapabilityPath, Cid, blocks::unixfs::Profile, tasks::Limits};

use crate::keep::Keep;

pub(crate) const HELP: &str = "\
id                                        who this agent is, and where it can be dialled
peers                                     connected devices
find PATH                                 agents with a capability, or one below it
send AGENT TEXT                           send a text
call AGENT SERVICE TEXT|@FILE             call a service and show its answer (every `agent` serves echo and text)
add PATH [--profile NAME]                 add a file or folder and pin it, as IPFS nodes do under unixfs-v1-2025 or
                                          unixfs-v0-2015
add PATH --for AGENT... [--convergent] [--replaces CID]
                                          the same, encrypted for agents and this one (--convergent alone: for this one);
                                          convergent: the same gets the same CID, for all to see; replaces: a newer
                                          version of something encrypted, of which what has not changed is used again
stat CID [--within SECONDS]               what it is, its bytes, blocks and links
ls CID [--within SECONDS]                 the entries of a folder
cat CID [--offset N] [--length N] [--within SECONDS]
                                          bytes of a file; no more of it is fetched than they lie in
get CID OUT [--within SECONDS]            fetch content, decrypted if it is for this agent, to a file or folder
export CID FILE.car [--within SECONDS]    write all blocks of a DAG that can be had to a new CAR file
import FILE.car                           add the blocks of a CAR file, and pin its roots
pin CID [NAME] [--within SECONDS]         fetch what is missing of something, keep it, and say that it is here
unpin CID                                 keep something no more
pins                                      what is kept
gc                                        remove what is not kept
verify                                    hash every block, and look whether all that is kept is here
providers CID                             who says to have something
run PROGRAM.wasm [--input FILE]... [--capability PATH] [--fuel N] [--time-limit-s N] [--memory-limit-mib N]
    [--output-limit-mib N]                run a program on the best agent, or here
                                          (--within: 60 s if it is left out, and 600 s for pin)
status                                    what this agent has and does
help                                      this list
quit                                      end gracefully (so does the end of input)";

/// How long the commands that fetch look, if they are not told.
const FETCH_WITHIN: Duration = Duration::from_secs(60);
/// What `cat` shows at most.
const MAX_SHOWN_BYTES: u64 = 1 << 20;

#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Id,
    Peers,
    Find(CapabilityPath),
    Send { to: AgentId, text: String },
    Call { to: AgentId, service: String, body: Body },
    Add(Add),
    Stat { cid: Cid, within: Duration },
    Ls { cid: Cid, within: Duration },
    Cat { cid: Cid, offset: u64, length: u64, within: Duration },
    Get { cid: Cid, out: PathBuf, within: Duration },
    Export { cid: Cid, out: PathBuf, within: Duration },
    Import { path: PathBuf },
    Keep(Keep),
    Run(Run),
    Status,
    Help,
    Quit,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Add {
    pub(crate) path: PathBuf,
    pub(crate) profile: Profile,
    /// For whom to encrypt it, beside this agent.
    pub(crate) readers: Vec<AgentId>,
    pub(crate) convergent: bool,
    pub(crate) replaces: Option<Cid>,
}

impl Add {
    pub(crate) fn seals(&self) -> bool {
        !self.readers.is_empty() || self.convergent || self.replaces.is_some()
    }
}

#[derive(Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) program: PathBuf,
    pub(crate) inputs: Vec<PathBuf>,
    pub(crate) capability: Option<CapabilityPath>,
    pub(crate) limits: Limits,
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
            "find" => Ok(Self::Find(capability(rest)?)),
            "send" => {
                let (to, text) = split(rest);
                if text.is_empty() {
                    return Err("send needs an agent and a text".into());
                }
                Ok(Self::Send { to: agent(to)?, text: text.to_owned() })
            }
            "call" => {
                let (to, rest) = split(rest);
                let (service, text) = split(rest);
                if service.is_empty() {
                    return Err("call needs an agent, a service, and a text or @FILE".into());
                }
                if text == "@" {
                    return Err("@ needs a file name".into());
                }
                let file = |file: &str| Body::File(file.into());
                let body = text.strip_prefix('@').map_or_else(|| Body::Text(text.to_owned()), file);
                Ok(Self::Call { to: agent(to)?, service: service.to_owned(), body })
            }
            "add" => Self::add(words(rest)?),
            "stat" => {
                let (cid, within) = looked_at(name, &words(rest)?)?;
                Ok(Self::Stat { cid, within })
            }
            "ls" => {
                let (cid, within) = looked_at(name, &words(rest)?)?;
                Ok(Self::Ls { cid, within })
            }
            "cat" => Self::cat(words(rest)?),
            "get" => {
                let (cid, out, within) = from_to(name, &words(rest)?)?;
                Ok(Self::Get { cid, out, within })
            }
            "export" => {
                let (cid, out, within) = from_to(name, &words(rest)?)?;
                Ok(Self::Export { cid, out, within })
            }
            "import" => match &words(rest)?[..] {
                [path] => Ok(Self::Import { path: path.into() }),
                _ => Err("import needs one CAR file".into()),
            },
            "pin" | "unpin" | "pins" | "gc" | "verify" | "providers" => {
                Keep::parse(name, &words(rest)?).map(Self::Keep)
            }
            "run" => Self::run(words(rest)?),
            _ => Err(format!("{name:?} is no command; help lists them")),
        }
    }

    fn alone(command: Self, name: &str, rest: &str) -> Result<Self, String> {
        if rest.is_empty() { Ok(command) } else { Err(format!("{name} takes nothing after it")) }
    }

    fn add(words: Vec<String>) -> Result<Self, String> {
        let (mut path, mut profile) = (None, None);
        let (mut readers, mut convergent, mut replaces) = (Vec::new(), false, None);
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--for" => readers.push(agent(&words.next().ok_or("--for needs an agent")?)?),
                "--convergent" => convergent = true,
                "--replaces" => {
                    let cid = words.next().and_then(|cid| cid.parse().ok());
                    replaces = Some(cid.ok_or("--replaces needs a CID")?);
                }
                "--profile" => {
                    let known = || format!("--profile needs one of {}", Profile::NAMES.join(", "));
                    profile = Some(words.next().and_then(|name| Profile::named(&name)).ok_or_else(known)?);
                }
                _ if path.is_none() => path = Some(word.into()),
                _ => return Err(format!("add takes one path; what is {word:?}?")),
            }
        }
        let (path, plain) = (path.ok_or("add needs a path")?, profile.is_some());
        let add = Add { path, profile: profile.unwrap_or_default(), readers, convergent, replaces };
        if plain && add.seals() {
            return Err("--profile is for content that is not encrypted: leave it out, or the other options".into());
        }
        Ok(Self::Add(add))
    }

    fn cat(words: Vec<String>) -> Result<Self, String> {
        let (mut file, mut offset, mut length, mut within) = (None, 0, MAX_SHOWN_BYTES, FETCH_WITHIN);
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--offset" => offset = number(&word, words.next())?,
                "--length" => length = number(&word, words.next())?.min(MAX_SHOWN_BYTES),
                "--within" => within = seconds(&word, words.next())?,
                _ if file.is_none() => file = Some(cid(&word)?),
                _ => {
                    return Err(format!(
                        "cat takes one CID, --offset N, --length N and --within SECONDS; what is {word:?}?"
                    ));
                }
            }
        }
        Ok(Self::Cat { cid: file.ok_or("cat needs a CID")?, offset, length, within })
    }

    fn run(words: Vec<String>) -> Result<Self, String> {
        let (mut program, mut inputs, mut path, mut limits) = (None, Vec::new(), None, Limits::default());
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--input" => inputs.push(words.next().ok_or("--input needs a file")?.into()),
                "--capability" => path = Some(capability(&words.next().ok_or("--capability needs a path")?)?),
                "--fuel" => limits.fuel = number(&word, words.next())?,
                "--time-limit-s" => match seconds(&word, words.next())? {
                    Duration::ZERO => return Err("--time-limit-s needs at least 1".into()),
                    time => limits.time = time,
                },
                "--memory-limit-mib" => limits.memory_bytes = mebibytes(&word, words.next())?,
                "--output-limit-mib" => limits.output_bytes = mebibytes(&word, words.next())?,
                _ if program.is_none() && !word.starts_with("--") => program = Some(word.into()),
                _ => return Err(format!("run takes one program and options that help lists; what is {word:?}?")),
            }
        }
        let program = program.ok_or("run needs a program")?;
        Ok(Self::Run(Run { program, inputs, capability: path, limits }))
    }
}

fn split(text: &str) -> (&str, &str) {
    text.split_once(char::is_whitespace).map_or((text, ""), |(word, rest)| (word, rest.trim_start()))
}

fn words(text: &str) -> Result<Vec<String>, String> {
    shlex::split(text).ok_or_else(|| "a quote is not closed".to_owned())
}

/// What `get` and `export` take.
fn from_to(name: &str, words: &[String]) -> Result<(Cid, PathBuf, Duration), String> {
    let (cid, out, within) = match words {
        [cid, out] => (cid, out, FETCH_WITHIN),
        [cid, out, option, within] if option == "--within" => (cid, out, seconds(option, Some(within.clone()))?),
        _ => return Err(format!("{name} needs a CID and where to write it, and may have --within SECONDS")),
    };
    Ok((self::cid(cid)?, out.into(), within))
}

/// What `stat` and `ls` take.
fn looked_at(name: &str, words: &[String]) -> Result<(Cid, Duration), String> {
    match words {
        [word] => Ok((cid(word)?, FETCH_WITHIN)),
        [word, option, within] if option == "--within" => Ok((cid(word)?, seconds(option, Some(within.clone()))?)),
        _ => Err(format!("{name} needs a CID, and may have --within SECONDS")),
    }
}

fn agent(text: &str) -> Result<AgentId, String> {
    if text.is_empty() {
        return Err("an agent is needed, as its did:key; peers and find show those that are known".into());
    }
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}

pub(crate) fn cid(text: &str) -> Result<Cid, String> {
    text.parse().map_err(|error| format!("{text:?} is no CID, which looks like bafy... or Qm...: {error}"))
}

fn capability(text: &str) -> Result<CapabilityPath, String> {
    if text.is_empty() {
        return Err("a capability path is needed, such as modeling/3d".into());
    }
    text.parse().map_err(|error| format!("{text:?} is no capability: {error}"))
}

fn number(option: &str, value: Option<String>) -> Result<u64, String> {
    let number = value.and_then(|value| value.parse().ok());
    number.ok_or_else(|| format!("{option} needs a whole number"))
}

/// At most a day.
pub(crate) fn seconds(option: &str, value: Option<String>) -> Result<Duration, String> {
    Ok(Duration::from_secs(number(option, value)?.min(86_400)))
}

fn mebibytes(option: &str, value: Option<String>) -> Result<u64, String> {
    Ok(number(option, value)?.saturating_mul(1 << 20))
}
