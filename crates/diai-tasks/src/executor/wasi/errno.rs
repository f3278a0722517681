//! What a host call answers.

/// WASI error numbers, those that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Errno {
    BadF = 8,
    Exist = 20,
    Fault = 21,
    FBig = 22,
    IlSeq = 25,
    Inval = 28,
    IsDir = 31,
    MFile = 33,
    NameTooLong = 37,
    NoEnt = 44,
    NoSys = 52,
    NotDir = 54,
    NotEmpty = 55,
    NotSup = 58,
    RoFs = 69,
    SPipe = 70,
    NotCapable = 76,
}

/// Why a guest is stopped from the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stop {
    #[error("the guest ended itself")]
    Exit(i32),
    #[error("the output limit is reached")]
    OutputLimit,
    #[error("the memory limit is reached")]
    MemoryLimit,
    #[error("the time limit is reached")]
    TimeLimit,
    #[error("nobody wants the result any more")]
    Cancelled,
    #[error("the machine has no memory left")]
    OutOfMemory,
}

/// Why a host call does not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The guest is told.
    Errno(Errno),
    /// The guest ends.
    Stop(Stop),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Stop> for Fault {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// The answer of a host call.
pub(crate) type Answer<T = ()> = Result<T, Fault>;
