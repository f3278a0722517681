//! The state of messaging, without IO: no clock, no randomness, no waiting inside.
//!
//! [`Session`] is one side of a session between two devices; feed it frames, commands and the time through
//! [`Session::handle`], take what to do from [`Session::poll_output`], bytes to send from [`Session::encode`], and come
//! back at [`Session::poll_timeout`]. [`pairing`] decides which of two sessions of a pair lives. The negotiation's two
//! sides are in [`crate::negotiation`].

mod assembly;
mod calling;
mod outbound;
pub mod pairing;
mod serving;
mod session;
mod violation;
mod window;

pub use session::{Answer, CallKey, Input, NewCall, Outcome, Output, Session, SessionConfig};
pub use violation::Violation;
