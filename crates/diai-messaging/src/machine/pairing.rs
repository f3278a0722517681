//! Which of two sessions of a pair of devices lives.

use std::cmp::Ordering;

use diai_core::PeerId;

use crate::message::Hello;

/// The session that stands when another one comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether this side opened it.
    pub opened_here: bool,
    /// Its number, among those of the side that opened it.
    pub number: u64,
    /// The other side's incarnation, if its hello has come.
    pub remote_incarnation: Option<u64>,
}

/// What becomes of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The standing session lives; the new one serves what was sent on it, then ends.
    Keep,
    /// The new one lives; the standing one finishes what was sent on it, then ends.
    Replace,
    /// The other side has lost the standing one: it is broken off, and the new one lives.
    Supersede,
}

/// Decides for `local`, which lives as `incarnation` and has `standing`, when `remote` opens another session with
/// `hello`. Of two opened at once the one opened by the lower [`PeerId`] lives, so that both sides decide alike.
pub fn decide(local: PeerId, remote: PeerId, incarnation: u64, standing: Standing, hello: &Hello) -> Verdict {
    if standing.remote_incarnation.is_some_and(|known| known != hello.incarnation) {
        return Verdict::Supersede;
    }
    if !standing.opened_here {
        // One side opens a second session only when it holds the first for lost.
        return if hello.number > standing.number { Verdict::Supersede } else { Verdict::Keep };
    }
    if hello.seen_incarnation == incarnation && hello.seen_number >= standing.number {
        return Verdict::Supersede;
    }
    match local.cmp(&remote) {
        Ordering::Less => Verdict::Keep,
        Ordering::Equal | Ordering::Greater => Verdict::Replace,
    }
}
