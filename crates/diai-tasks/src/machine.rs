//! What one search for a worker has learnt: who is left out and why, whom to try next, and what to say in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use cid::Cid;
use diai_core::AgentId;

use crate::{Bid, RunError, TaskId};

/// How many agents an error names.
const MAX_NAMED: usize = 8;
/// What a missing input, or a missing program, costs before its bytes flow.
const FETCH: Duration = Duration::from_millis(20);
/// An agent that cannot be reached is tried so often.
const MAX_TRIES: u32 = 3;
/// How long it is left alone after the first time, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// What came of asking one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Miss {
    /// It took the task and failed it, or was lost.
    Lost(String),
    /// It could not get something.
    NotFound { cid: Cid, asked: String },
    /// It may not or will not work for this agent.
    NotAllowed(String),
    /// It cannot be reached, or cannot do this.
    Unable(String),
}

/// Why an agent is asked again later.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Later {
    Busy,
    /// Something kept it from answering that may pass.
    Missed(String),
}

/// A bid and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) agent: AgentId,
    pub(crate) bid: Bid,
    pub(crate) round_trip: Duration,
}

/// The state of one search.
#[derive(Debug)]
pub(crate) struct Search {
    task: TaskId,
    max_attempts: usize,
    left_out: BTreeMap<AgentId, Miss>,
    later: BTreeMap<AgentId, (Duration, Later)>,
    /// How often each could not be asked.
    tries: BTreeMap<AgentId, u32>,
    /// They have the task, and nothing comes from them.
    silent: BTreeSet<AgentId>,
}

impl Search {
    pub(crate) fn new(task: TaskId, max_attempts: usize) -> Self {
        Self {
            task,
            max_attempts,
            left_out: BTreeMap::new(),
            later: BTreeMap::new(),
            tries: BTreeMap::new(),
            silent: BTreeSet::new(),
        }
    }

    /// Leaves `agent` out from now on.
    pub(crate) fn miss(&mut self, agent: AgentId, miss: Miss) {
        self.later.remove(&agent);
        self.silent.remove(&agent);
        self.left_out.insert(agent, miss);
    }

    /// `agent` is busy: it may be asked again.
    pub(crate) fn busy(&mut self, agent: AgentId, retry_after_ms: u64) {
        self.silent.remove(&agent);
        self.later.insert(agent, (Duration::from_millis(retry_after_ms.clamp(10, 2_000)), Later::Busy));
    }

    /// `agent` could not be asked, for a reason that may pass: it may be asked again a few times.
    pub(crate) fn postpone(&mut self, agent: AgentId, reason: String) {
        let tries = self.tries.entry(agent).or_default();
        *tries += 1;
        if *tries >= MAX_TRIES {
            return self.miss(agent, Miss::Unable(reason));
        }
        let wait = RETRY.0.saturating_mul(1 << (2 * (*tries - 1))).min(RETRY.1);
        self.silent.remove(&agent);
        self.later.insert(agent, (wait, Later::Missed(reason)));
    }

    /// `agent` has the task and is silent: it may still bring the result, but others are asked.
    pub(crate) fn suspect(&mut self, agent: AgentId) {
        self.silent.insert(agent);
    }

    /// Everybody may be asked again who was put off; when.
    pub(crate) fn next_round(&mut self) -> Option<Duration> {
        let soonest = self.later.values().map(|(wait, _)| *wait).min();
        self.later.clear();
        soonest
    }

    /// Whether `agent` may be asked now.
    pub(crate) fn is_open(&self, agent: &AgentId) -> bool {
        !self.left_out.contains_key(agent) && !self.later.contains_key(agent) && !self.silent.contains(agent)
    }

    pub(crate) fn is_left_out(&self, agent: &AgentId) -> bool {
        self.left_out.contains_key(agent)
    }

    /// Workers that failed the task.
    pub(crate) fn failed(&self) -> usize {
        self.left_out.values().filter(|miss| matches!(miss, Miss::Lost(_) | Miss::NotFound { .. })).count()
    }

    /// Whether so many failed that nobody else is tried.
    pub(crate) fn is_over(&self) -> bool {
        self.failed() >= self.max_attempts
    }

    pub(crate) fn has_busy(&self) -> bool {
        self.later.values().any(|(_, later)| *later == Later::Busy)
    }

    /// Whether somebody is to be asked again.
    pub(crate) fn has_later(&self) -> bool {
        !self.later.is_empty()
    }

    /// Who was asked, and what came of it.
    pub(crate) fn tried(&self) -> String {
        let said = self.left_out.iter().map(|(agent, miss)| match miss {
            Miss::Lost(reason) | Miss::NotAllowed(reason) | Miss::Unable(reason) => format!("{agent}: {reason}"),
            Miss::NotFound { cid, asked } => format!("{agent}: {cid} was not found ({asked})"),
        });
        let later = self.later.iter().map(|(agent, (_, later))| match later {
            Later::Busy => format!("{agent}: busy"),
            Later::Missed(reason) => format!("{agent}: {reason}"),
        });
        let silent = self.silent.iter().map(|agent| format!("{agent}: it has the task, and nothing comes from it"));
        let count = self.left_out.len() + self.later.len() + self.silent.len();
        let mut text = said.chain(later).chain(silent).take(MAX_NAMED).collect::<Vec<_>>().join("; ");
        if count == 0 {
            text.push_str("no agent offers what it needs");
        } else if count > MAX_NAMED {
            text.push_str(&format!("; and {} more", count - MAX_NAMED));
        }
        if count == 0 { text } else { format!("asked {text}") }
    }

    /// The error, when nobody is left to be asked.
    pub(crate) fn verdict(&self) -> RunError {
        let (task, tried) = (self.task, self.tried());
        let not_found = self.left_out.values().find_map(|miss| match miss {
            Miss::NotFound { cid, .. } => Some(*cid),
            _ => None,
        });
        if let Some(cid) = not_found {
            return RunError::NotFound { task, cid: Box::new(cid), asked: tried };
        }
        if self.failed() == 0 {
            if self.has_busy() {
                return RunError::Busy { task, tried };
            }
            if self.left_out.values().any(|miss| matches!(miss, Miss::NotAllowed(_))) {
                return RunError::NotAllowed { task, tried };
            }
        }
        RunError::NoWorker { task, tried }
    }

    /// The error, when the deadline passed.
    pub(crate) fn late(&self, deadline: Duration) -> RunError {
        match self.verdict() {
            // What was not found by somebody, nobody else brought in time.
            error @ RunError::NotFound { .. } => error,
            _ => RunError::Deadline {
                task: self.task,
                deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
                tried: self.tried(),
            },
        }
    }
}

/// When a bidder would have the result: its queue, the transfer of what it lacks, the run, and the way there.
pub(crate) fn estimate(offer: &Offer, inputs: usize, input_bytes: u64, bytes_per_second: u64) -> Duration {
    let bid = &offer.bid;
    let missing = u32::try_from(inputs).unwrap_or(u32::MAX).saturating_sub(bid.held_inputs);
    let missing_bytes = if missing == 0 { 0 } else { input_bytes.saturating_sub(bid.held_bytes) };
    let micros = u128::from(missing_bytes) * 1_000_000 / u128::from(bytes_per_second.max(1));
    let transfer = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
    let fetches = FETCH.saturating_mul(missing.saturating_add(u32::from(!bid.program_held)));
    [bid.start, bid.run, transfer, fetches].into_iter().fold(offer.round_trip, |sum, part| sum.saturating_add(part))
}

/// Puts the best bid first.
pub(crate) fn rank(offers: &mut [Offer], inputs: usize, input_bytes: u64, bytes_per_second: u64) {
    // Inputs whose size nobody told count as what the best holder holds.
    let input_bytes = offers.iter().map(|offer| offer.bid.held_bytes).fold(input_bytes, u64::max);
    offers.sort_by_key(|offer| (estimate(offer, inputs, input_bytes, bytes_per_second), offer.agent));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::raw_cid;

    fn agent(number: u8) -> AgentId {
        AgentId::from_bytes([number; 32])
    }

    fn search() -> Search {
        Search::new(TaskId::of(b"a task"), 3)
    }

    fn offer(number: u8, bid: Bid) -> Offer {
        Offer { agent: agent(number), bid, round_trip: Duration::from_millis(1) }
    }

    #[test]
    fn three_lost_workers_end_the_search_and_are_named() {
        let mut search = search();
        for number in 1..=3 {
            assert!(!search.is_over());
            search.miss(agent(number), Miss::Lost("gone".into()));
        }
        assert!(search.is_over());
        let RunError::NoWorker { tried, .. } = search.verdict() else { panic!("{:?}", search.verdict()) };
        assert!((1..=3).all(|number| tried.contains(&agent(number).to_string())), "{tried}");
    }

    #[test]
    fn refusals_do_not_use_up_attempts() {
        let mut search = search();
        (1..=5).for_each(|number| search.miss(agent(number), Miss::NotAllowed("no".into())));
        assert!(!search.is_over());
        assert_eq!(search.verdict().code(), "not_allowed");
    }

    #[test]
    fn the_busy_are_asked_again_after_the_shortest_wait() {
        let mut search = search();
        search.busy(agent(1), 500);
        search.busy(agent(2), 100);
        assert!(!search.is_open(&agent(1)));
        assert_eq!(search.verdict().code(), "busy");
        assert_eq!(search.next_round(), Some(Duration::from_millis(100)));
        assert!(search.is_open(&agent(1)));
    }

    #[test]
    fn who_cannot_be_reached_is_asked_three_times_with_growing_pauses() {
        let mut search = search();
        for pause in [250, 1_000] {
            assert!(search.is_open(&agent(1)));
            search.postpone(agent(1), "unreachable".into());
            assert!(!search.is_open(&agent(1)) && !search.has_busy());
            assert_eq!(search.next_round(), Some(Duration::from_millis(pause)));
        }
        search.postpone(agent(1), "unreachable".into());
        assert!(!search.has_later() && !search.is_open(&agent(1)));
        assert_eq!((search.failed(), search.verdict().code()), (0, "no_worker"));
    }

    #[test]
    fn the_silent_use_up_no_attempts_and_are_named() {
        let mut search = search();
        (1..=5).for_each(|number| search.suspect(agent(number)));
        assert!(!search.is_over() && !search.is_open(&agent(1)));
        let error = search.late(Duration::from_secs(1));
        assert!(error.to_string().contains(&agent(5).to_string()), "{error}");
        search.miss(agent(1), Miss::Lost("gone".into()));
        assert_eq!(search.failed(), 1);
    }

    #[test]
    fn what_was_not_found_is_said_even_after_the_deadline() {
        let mut search = search();
        assert_eq!(search.late(Duration::from_secs(1)).code(), "deadline");
        let cid = raw_cid(b"nowhere");
        search.miss(agent(1), Miss::NotFound { cid, asked: "two peers".into() });
        let error = search.late(Duration::from_secs(1));
        assert_eq!(error.code(), "not_found");
        assert!(error.to_string().contains(&cid.to_string()) && error.to_string().contains("two peers"), "{error}");
    }

    #[test]
    fn who_holds_the_input_is_preferred_to_who_must_fetch_it() {
        let holds = Bid { held_bytes: 10 << 20, held_inputs: 1, run: Duration::from_millis(120), ..Bid::default() };
        let lacks = Bid { run: Duration::from_millis(100), ..Bid::default() };
        let mut offers = [offer(1, lacks), offer(2, holds)];
        rank(&mut offers, 1, 0, 20 << 20);
        assert_eq!(offers[0].agent, agent(2));
    }

    #[test]
    fn a_long_queue_outweighs_a_held_input() {
        let queued = Bid { held_bytes: 1024, held_inputs: 1, start: Duration::from_secs(9), ..Bid::default() };
        let mut offers = [offer(1, queued), offer(2, Bid::default())];
        rank(&mut offers, 1, 1024, 20 << 20);
        assert_eq!(offers[0].agent, agent(2));
    }

    #[test]
    fn absurd_bids_do_not_overflow() {
        let absurd = Bid { start: Duration::MAX, run: Duration::MAX, held_bytes: u64::MAX, ..Bid::default() };
        let mut offers = [offer(1, absurd), offer(2, Bid::default())];
        rank(&mut offers, 300, u64::MAX, 1);
        assert_eq!(offers[1].agent, agent(1));
    }
}
