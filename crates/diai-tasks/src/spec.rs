use std::{collections::BTreeSet, fmt, time::Duration};

use bytes::Bytes;
use cid::Cid;
use diai_core::{Entropy, WallTime};
use multihash::Multihash;
use sha2::{Digest, Sha256};

use crate::codec;

/// An encoded task is at most so long.
pub const MAX_SPEC_BYTES: usize = 64 << 10;
/// A task has at most so many arguments.
pub const MAX_ARGS: usize = 256;
/// A task has at most so many inputs.
pub const MAX_INPUTS: usize = 256;
/// The name of an input, a service or an output file is at most so long, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// A capability path is at most so long, in bytes.
pub const MAX_CAPABILITY_BYTES: usize = 128;

const RAW: u64 = 0x55;
const SHA2_256: u64 = 0x12;

fn cid_of_digest(digest: &[u8; 32]) -> Cid {
    Cid::new_v1(RAW, Multihash::wrap(SHA2_256, digest).expect("32 bytes fit a multihash"))
}

/// The CID (version 1, raw, sha2-256) of `bytes` as one block.
pub(crate) fn raw_cid(bytes: &[u8]) -> Cid {
    cid_of_digest(&Sha256::digest(bytes).into())
}

/// Which task: the CID of its canonical encoding. Equal tasks have equal ids, whoever asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId([u8; 32]);

impl TaskId {
    pub(crate) fn of(canonical: &[u8]) -> Self {
        Self(Sha256::digest(canonical).into())
    }

    /// The task that `cid` names, if it is of the kind that names tasks.
    pub fn from_cid(cid: &Cid) -> Option<Self> {
        let digest = cid.hash().digest().try_into().ok()?;
        (cid_of_digest(&digest) == *cid).then_some(Self(digest))
    }

    pub(crate) fn digest(&self) -> &[u8; 32] {
        &self.0
    }

    /// The id as a CID (version 1, raw, sha2-256): its block, if anybody keeps it, is the encoded task.
    pub fn cid(&self) -> Cid {
        cid_of_digest(&self.0)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.cid(), f)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.cid(), f)
    }
}

/// One award of a task to one worker: 16 random bytes. A worker answers the same attempt twice with the same result.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId([u8; 16]);

impl AttemptId {
    /// A fresh one.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self(entropy.bytes())
    }

    /// The attempt with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// A WASI (preview 1) command module, by the CID of its bytes.
    Wasm(Cid),
    /// A native service of the worker's, by its name.
    Service(String),
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wasm(cid) => write!(f, "program {cid}"),
            Self::Service(name) => write!(f, "service {name:?}"),
        }
    }
}

/// A file that the guest finds under `/in`. The first one also is its standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Its name: no separator, unique within the task, 1 to [`MAX_NAME_BYTES`] bytes.
    pub name: String,
    /// Its content.
    pub cid: Cid,
}

impl Input {
    /// The content `cid` under the name `name`.
    pub fn new(name: impl Into<String>, cid: Cid) -> Self {
        Self { name: name.into(), cid }
    }
}

/// What a task may use. Over any of them it ends with that typed failure, which is never retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// WebAssembly operations, about one each; host calls cost by the bytes they move. Default 10,000,000,000.
    pub fuel: u64,
    /// Linear memory and tables together, bytes. Default 256 MiB.
    pub memory_bytes: u64,
    /// Standard output and all files under `/out` together, bytes. Default 64 MiB.
    pub output_bytes: u64,
    /// Wall time of the run itself (neither queue nor transfer), whole milliseconds. Default 30 s.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { fuel: 10_000_000_000, memory_bytes: 256 << 20, output_bytes: 64 << 20, time: Duration::from_secs(30) }
    }
}

/// A task: what to run, on what, within which limits. Everything that can change its result stands in here.
///
/// ```
/// use diai_core::Cid;
/// use diai_tasks::{Program, TaskSpec};
/// let program: Cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy".parse()?;
/// let spec = TaskSpec::new(Program::Wasm(program)).arg("--size").arg("17").input("market.csv", program);
/// assert_eq!(spec.id(), spec.clone().id());
/// assert_ne!(spec.id(), spec.clone().seed(1).id());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSpec {
    /// What runs.
    pub program: Program,
    /// Its arguments, without its own name.
    pub args: Vec<String>,
    /// Its inputs.
    pub inputs: Vec<Input>,
    /// Its limits.
    pub limits: Limits,
    /// Seed of its random numbers. Default 0.
    pub seed: u64,
    /// Where its clock begins, whole milliseconds. Default the Unix epoch.
    pub clock_start: WallTime,
    /// How long the requester waits for a result, all retries included, whole milliseconds. Default 60 s.
    pub deadline: Duration,
    /// The capability that others must have to be asked; `None`: [`CAPABILITY`](crate::CAPABILITY).
    pub capability: Option<String>,
    /// Tells otherwise equal tasks apart, so that a known result is not used again. Default none.
    pub nonce: Option<u64>,
}

impl TaskSpec {
    /// A task that runs `program`, without arguments and inputs, with the default limits.
    pub fn new(program: Program) -> Self {
        Self {
            program,
            args: Vec::new(),
            inputs: Vec::new(),
            limits: Limits::default(),
            seed: 0,
            clock_start: WallTime::default(),
            deadline: Duration::from_secs(60),
            capability: None,
            nonce: None,
        }
    }

    /// A task that runs the WebAssembly module `cid`.
    pub fn wasm(cid: Cid) -> Self {
        Self::new(Program::Wasm(cid))
    }

    /// A task for the native service `name`.
    pub fn service(name: impl Into<String>) -> Self {
        Self::new(Program::Service(name.into()))
    }

    /// With one more argument.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// With one more input.
    pub fn input(mut self, name: impl Into<String>, cid: Cid) -> Self {
        self.inputs.push(Input::new(name, cid));
        self
    }

    /// With other limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// With another seed.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// With another start of the guest's clock.
    pub fn clock_start(mut self, start: WallTime) -> Self {
        self.clock_start = start;
        self
    }

    /// With another deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Asks only workers with the capability `path`. When none of them can, the task runs here whatever this agent is
    /// registered for, unless [`Config::allow_local`](crate::Config::allow_local) is off.
    pub fn capability(mut self, path: impl Into<String>) -> Self {
        self.capability = Some(path.into());
        self
    }

    /// With a nonce.
    pub fn nonce(mut self, nonce: u64) -> Self {
        self.nonce = Some(nonce);
        self
    }

    /// Its id.
    pub fn id(&self) -> TaskId {
        TaskId::of(&codec::encode_spec(self))
    }

    /// Checks every limit of this page, and gives the canonical bytes.
    pub(crate) fn canonical(&self) -> Result<Bytes, InvalidSpec> {
        self.check()?;
        let bytes = codec::encode_spec(self);
        if bytes.len() > MAX_SPEC_BYTES {
            return Err(InvalidSpec::TooLong { bytes: bytes.len() });
        }
        Ok(bytes)
    }

    pub(crate) fn check(&self) -> Result<(), InvalidSpec> {
        if let Program::Service(name) = &self.program
            && (name.is_empty() || name.len() > MAX_NAME_BYTES)
        {
            return Err(InvalidSpec::Name { name: name.clone() });
        }
        if self.args.len() > MAX_ARGS {
            return Err(InvalidSpec::TooMany { what: "arguments", limit: MAX_ARGS });
        }
        if self.args.iter().any(|arg| arg.contains('\0')) {
            return Err(InvalidSpec::Argument);
        }
        if self.inputs.len() > MAX_INPUTS {
            return Err(InvalidSpec::TooMany { what: "inputs", limit: MAX_INPUTS });
        }
        let mut names = BTreeSet::new();
        for input in &self.inputs {
            if !is_file_name(&input.name) || !names.insert(&input.name) {
                return Err(InvalidSpec::Name { name: input.name.clone() });
            }
        }
        match &self.capability {
            Some(path) if path.is_empty() || path.len() > MAX_CAPABILITY_BYTES => {
                Err(InvalidSpec::Name { name: path.clone() })
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

/// Why a task cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSpec {
    /// A name is empty, too long, used twice, or holds a separator.
    #[error("{name:?} cannot be a name in a task: it must be unique, without separators, of 1 to 255 bytes")]
    Name {
        /// The name.
        name: String,
    },
    /// An argument holds a zero byte.
    #[error("an argument of the task holds a zero byte")]
    Argument,
    /// Too many arguments or inputs.
    #[error("a task has at most {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The cap.
        limit: usize,
    },
    /// The encoded task is over [`MAX_SPEC_BYTES`].
    #[error("the task has {bytes} bytes, at most {MAX_SPEC_BYTES} are allowed; pass long things as inputs")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}
