//! The participant's side, without IO.

use std::{collections::BTreeMap, time::Duration};

use diai_core::{AgentId, WallTime};

use super::message::{Agreement, Bid, Call, NegotiationId};

/// Negotiations that one participant holds at a time; further calls are refused.
pub const MAX_NEGOTIATIONS: usize = 1024;
/// Of one initiator, agreements not counted.
pub const MAX_PER_INITIATOR: usize = 64;
/// Agreements with one initiator that are remembered at a time; beyond, those whose call has ended go first.
pub(super) const MAX_AGREED_PER_INITIATOR: usize = 256;
/// Calls that are valid for longer than a day are refused: each holds a place for so long.
pub(crate) const MAX_VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);
/// A call's times are by its initiator's clock, which may be so far behind or ahead of ours.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// What to do with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallStep {
    /// Ask the bidder, and tell with [`Participant::decided`].
    Consider,
    /// The same bid as before.
    Again(Box<Bid>),
    /// No.
    Refuse(&'static str),
}

/// What to do with an award.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AwardStep {
    /// Verify and countersign it for this call and bid, and tell with [`Participant::agreed`].
    Accept(Box<(Call, Bid)>),
    /// There is an agreement already: answer with it if the award is the same.
    Again(Box<Agreement>),
    /// No.
    Refuse(&'static str),
}

#[derive(Debug)]
struct Entry {
    call: Call,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// So many askings wait for the bidder.
    Considering(usize),
    Bid(Box<Bid>),
    /// The bidder is being told of the award.
    Accepting(Box<Agreement>),
    /// Kept until then: so long the initiator may ask for it again, or give it up.
    Agreed(Box<Agreement>, WallTime),
}

/// All negotiations of one participant.
#[derive(Debug, Default)]
pub struct Participant {
    entries: BTreeMap<NegotiationId, Entry>,
}

impl Participant {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A verified call has come.
    pub fn called(&mut self, now: WallTime, call: &Call) -> CallStep {
        // Until when bids are taken is for the initiator to say, whose clock it is by.
        if now >= call.valid_until + CLOCK_TOLERANCE {
            return CallStep::Refuse("too late to bid");
        }
        if call.valid_until.since(now) > MAX_VALIDITY + CLOCK_TOLERANCE {
            return CallStep::Refuse("valid for more than a day");
        }
        match self.entries.get_mut(&call.id).map(|entry| &mut entry.phase) {
            Some(Phase::Bid(bid)) => return CallStep::Again(bid.clone()),
            Some(Phase::Accepting(_) | Phase::Agreed(..)) => return CallStep::Refuse("agreed already"),
            // The first asking may have been given up: ask again.
            Some(Phase::Considering(askings)) => {
                *askings += 1;
                return CallStep::Consider;
            }
            None => {}
        }
        let of_initiator = self.entries.values().filter(|entry| entry.call.initiator == call.initiator);
        let (agreed, open): (Vec<_>, Vec<_>) = of_initiator.partition(|entry| entry.is_agreed());
        if open.len() >= MAX_PER_INITIATOR {
            return CallStep::Refuse("too many negotiations at a time");
        }
        if agreed.len() >= MAX_AGREED_PER_INITIATOR && !self.forget_agreed(now, Some(call.initiator))
            || self.entries.len() >= MAX_NEGOTIATIONS && !self.forget_agreed(now, None)
        {
            return CallStep::Refuse("too many agreements at a time");
        }
        self.entries.insert(call.id, Entry { call: call.clone(), phase: Phase::Considering(1) });
        CallStep::Consider
    }

    /// Forgets the agreement (with `initiator`) whose call ended first: nobody asks for it any more.
    fn forget_agreed(&mut self, now: WallTime, initiator: Option<AgentId>) -> bool {
        let ended = self.entries.iter().filter(|(_, entry)| {
            let of = initiator.is_none_or(|initiator| entry.call.initiator == initiator);
            of && entry.is_agreed() && entry.call.valid_until + CLOCK_TOLERANCE <= now
        });
        let first = ended.min_by_key(|(_, entry)| entry.call.valid_until).map(|(id, _)| *id);
        first.is_some_and(|id| self.entries.remove(&id).is_some())
    }

    /// The bidder has decided; `None` refuses. Returns the bid that stands: the first one, if it was asked twice.
    pub fn decided(&mut self, id: NegotiationId, bid: Option<Bid>) -> Option<Bid> {
        let entry = self.entries.get_mut(&id)?;
        match (&entry.phase, bid) {
            (Phase::Considering(_), Some(bid)) => {
                entry.phase = Phase::Bid(Box::new(bid.clone()));
                Some(bid)
            }
            (Phase::Considering(_), None) => {
                self.entries.remove(&id);
                None
            }
            (Phase::Bid(standing), _) => Some(Bid::clone(standing)),
            (Phase::Accepting(_) | Phase::Agreed(..), _) => None,
        }
    }

    /// An asking was given up before the bidder had decided.
    pub fn undecided(&mut self, id: NegotiationId) {
        let Some(Entry { phase: Phase::Considering(askings), .. }) = self.entries.get_mut(&id) else { return };
        *askings -= 1;
        if *askings == 0 {
            self.entries.remove(&id);
        }
    }

    /// An award has come, of a negotiation of `from`.
    pub fn awarded(&self, now: WallTime, from: AgentId, id: NegotiationId) -> AwardStep {
        let Some(entry) = self.entries.get(&id).filter(|entry| entry.call.initiator == from) else {
            return AwardStep::Refuse("no offer stands");
        };
        match &entry.phase {
            Phase::Considering(_) => AwardStep::Refuse("no offer stands"),
            Phase::Bid(_) if entry.until() <= now => AwardStep::Refuse("the offer has lapsed"),
            Phase::Bid(bid) => AwardStep::Accept(Box::new((entry.call.clone(), Bid::clone(bid)))),
            Phase::Accepting(agreement) => AwardStep::Accept(Box::new((entry.call.clone(), agreement.bid.clone()))),
            Phase::Agreed(agreement, _) => AwardStep::Again(agreement.clone()),
        }
    }

    /// The award is good: this is what would be agreed. Returns what the bidder is to be asked about, which is the first
    /// one if the same award comes twice; `None` if another award is being taken, or no offer stands any more.
    pub fn accepting(&mut self, agreement: Agreement) -> Option<Agreement> {
        let entry = self.entries.get_mut(&agreement.call.id)?;
        match &entry.phase {
            Phase::Bid(bid) if bid.id == agreement.bid.id => {
                entry.phase = Phase::Accepting(Box::new(agreement.clone()));
                Some(agreement)
            }
            Phase::Accepting(first) if first.award == agreement.award => Some(Agreement::clone(first)),
            _ => None,
        }
    }

    /// The bidder has taken the award. False if the negotiation was cancelled meanwhile.
    pub fn agreed(&mut self, now: WallTime, agreement: &Agreement) -> bool {
        let Some(entry) = self.entries.get_mut(&agreement.call.id) else { return false };
        match &entry.phase {
            Phase::Accepting(first) if **first == *agreement => {
                let finish = now + agreement.bid.finish().min(MAX_VALIDITY);
                let until = finish.max(agreement.call.valid_until) + CLOCK_TOLERANCE;
                entry.phase = Phase::Agreed(Box::new(agreement.clone()), until);
                true
            }
            Phase::Agreed(first, _) => **first == *agreement,
            _ => false,
        }
    }

    /// The initiator `from` cancels, or the bidder takes its offer back. True if an offer or agreement stood.
    pub fn cancelled(&mut self, from: AgentId, id: NegotiationId) -> bool {
        if self.entries.get(&id).is_none_or(|entry| entry.call.initiator != from) {
            return false;
        }
        self.entries.remove(&id).is_some_and(|entry| !matches!(entry.phase, Phase::Considering(_)))
    }

    /// Lets go what has ended by `now`; the offers that lapsed are returned. Agreements are kept until what they are about
    /// was to be finished, for a day at most.
    pub fn expire(&mut self, now: WallTime) -> Vec<NegotiationId> {
        let mut lapsed = Vec::new();
        self.entries.retain(|&id, entry| {
            let keep = entry.until() > now;
            if !keep && matches!(entry.phase, Phase::Bid(_) | Phase::Accepting(_)) {
                lapsed.push(id);
            }
            keep
        });
        lapsed
    }

    /// When [`Participant::expire`] is due, if ever.
    pub fn poll_timeout(&self) -> Option<WallTime> {
        self.entries.values().map(Entry::until).min()
    }
}

impl Entry {
    fn is_agreed(&self) -> bool {
        matches!(self.phase, Phase::Agreed(..))
    }

    fn until(&self) -> WallTime {
        match &self.phase {
            // By our own clock, if it was for us to say.
            Phase::Bid(bid) if bid.valid_until < self.call.valid_until => bid.valid_until,
            Phase::Bid(_) | Phase::Considering(_) | Phase::Accepting(_) => self.call.valid_until + CLOCK_TOLERANCE,
            Phase::Agreed(_, until) => *until,
        }
    }
}
