use std::io;

use diai_core::AgentId;

use super::WorkspaceId;
use crate::{
    FlushError, PinError, PutError,
    fetch::FetchError,
    sealed::{OpenError, SealError},
    unixfs::{ImportError, ReadError},
};

/// Why a workspace operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkspaceError {
    /// The path is no path.
    #[error("the path {path:?} cannot be put: {why}")]
    Path {
        /// Which.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Nobody has put that path.
    #[error("{path:?} is not in the workspace, or its part has not arrived yet")]
    NoEntry {
        /// Which.
        path: String,
    },
    /// This member has the most entries that are allowed, or its head would be too long.
    #[error("this agent has {limit} entries already; remove some")]
    TooManyEntries {
        /// The cap.
        limit: usize,
    },
    /// Members or workspaces over the cap.
    #[error("more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The cap.
        limit: usize,
    },
    /// A member's certificate does not verify.
    #[error("the certificate of {agent} is not valid: {reason}")]
    Member {
        /// Whose.
        agent: AgentId,
        /// What is wrong.
        reason: diai_identity::VerifyError,
    },
    /// What was waited for did not come in time.
    #[error("the workspace has {have} entries, waited for {wanted}")]
    Deadline {
        /// Entries that are here.
        have: usize,
        /// Entries that were waited for.
        wanted: usize,
    },
    /// A part could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A part could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A part could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The folder could not be built.
    #[error(transparent)]
    Folder(#[from] ImportError),
    /// The folder of the heads as they are could not be built; it is tried again, and when a member changes something.
    #[error("the workspace's folder cannot be built: {0}")]
    Root(std::sync::Arc<WorkspaceError>),
    /// Blocks could not be stored.
    #[error(transparent)]
    Put(#[from] PutError),
    /// Blocks could not be made durable.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// A part could not be pinned.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The disk failed.
    #[error("cannot keep the workspace on disk: {0}")]
    Io(#[from] io::Error),
    /// The World is shutting down.
    #[error("the workspace has shut down")]
    Closed,
}

impl WorkspaceError {
    /// Whether a part that could not be taken in for this reason never can: its owner made it so.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Fetch(FetchError::Read(error)) | Self::Pin(PinError::Unwalkable { reason: error, .. }) => {
                !matches!(error, ReadError::Source(_))
            }
            Self::Fetch(FetchError::OverLimit { .. }) => true,
            Self::Open(OpenError::Read(error)) => !matches!(error, ReadError::Source(_)),
            Self::Open(error) => !matches!(error, OpenError::Io { .. } | OpenError::Closed),
            _ => false,
        }
    }
}

/// Why an invitation was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The bytes are no invitation.
    #[error("these bytes are no invitation to a workspace; ask for it again")]
    Malformed,
    /// It is for others.
    #[error("the invitation is not for this agent, or not for this device of it; ask its maker to add you")]
    NotForYou,
    /// Its signature or a member's certificate does not verify, or its maker is no member.
    #[error("the invitation is forged: {why}")]
    Forged {
        /// What is wrong.
        why: String,
    },
    /// The workspace is joined already.
    #[error("workspace {id} is joined already")]
    Joined {
        /// Which.
        id: WorkspaceId,
    },
    /// It could not be kept.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
}
