//! Workspaces: a folder that collaborators share, sealed to them, synchronised without a server.
//!
//! # How it works
//! - A workspace has **members** (their device certificates), a name and a secret: the **terms**, signed by who created
//!   it. An [`Invitation`](Workspace::invitation) carries the terms, readable by members only.
//! - Each put is **sealed once** for all members ([`sealed`](crate::sealed)): one part for each file.
//! - Each member has one signed **head** (domain `diai/workspace-head/1`): `{workspace, seq, signed at, entries}`, each
//!   entry an opaque name, the part's CID and its size. The newest `seq` wins.
//! - Heads spread by the service `diai.workspace` ([`Calls`](diai_core::Calls)): pushed on change, exchanged when a
//!   member connects, tried again when one cannot be reached, and passed on for members that never meet.
//! - The **root** is a plain UnixFS folder and a pure function of the set of signed heads: for each head its opaque name,
//!   leading to the signed head as a raw block, and for each entry its opaque name, leading to the sealed part. So all who
//!   have the same heads have the same root CID, and anybody may fetch it.
//! - Parts of other members are fetched and pinned, so that each member holds everything. A part that makes no sense is
//!   left out, with a [`WorkspaceEvent::Unreadable`]. The root is announced as soon as it is known.
//!
//! Opaque names are the first 16 bytes of `SHA-256("diai/workspace-name/1" || secret || kind || agent id || path)`, kind
//! `h` for a head (no path) and `e` for an entry; in the folder they are hex, a head's after `h-`.
//!
//! **Conflicts.** Two members may put the same path: both parts are kept and listed. [`Workspace::read`] takes the one
//! put later by its owner's clock, of equal times the one with the greater agent id: every member the same. Nobody can
//! change or remove another's entry.
//!
//! **Equivocation.** Two heads of one member with the same `seq` and different content are evidence of two devices at
//! work, a restored backup, or malice. Every member keeps the one whose signed bytes have the greater SHA-256, and says
//! so in a [`WorkspaceEvent::Equivocation`].
//!
//! **What a bystander learns** who fetches the root: the agent ids of the members that put something, how many parts
//! there are, their size classes, and when each head was signed. No name and no content.
//!
//! One device a member for now: two devices of one agent would overwrite each other's head.

mod codec;
mod due;
mod error;
mod heads;
mod invitation;
mod replicate;
mod shell;
mod state;
mod sync;
mod workspaces;

pub use codec::{Entry, Head, WorkspaceId};
pub use error::{JoinError, WorkspaceError};
pub use heads::{HeadError, HeadSet, Merged, SignedHead};
pub(crate) use shell::Parts;
pub use shell::Workspace;
pub use state::{WorkspaceEntry, WorkspaceEvent};
pub(crate) use workspaces::{StartWorkspacesError, Workspaces};

/// The service by which heads spread.
pub const SERVICE: &str = "diai.workspace";
