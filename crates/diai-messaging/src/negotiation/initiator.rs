//! The initiator's side, without IO.

use std::collections::{BTreeMap, VecDeque};

use diai_core::{AgentId, WallTime};

use super::message::{Agreement, Bid, BidId, Call};

/// What the initiator's side is told.
#[derive(Debug, Clone)]
pub enum InitiatorInput {
    /// A participant bids.
    Bid(Box<Bid>),
    /// A participant refuses, or could not be asked.
    Refused(AgentId, String),
    /// The user awards a bid.
    Award(BidId),
    /// The awarded participant has countersigned.
    Accepted(Box<Agreement>),
    /// The awarded participant refuses, or could not be asked; it may have taken the award all the same.
    AwardFailed(AgentId, String),
    /// The user gives an agreement up: another bid may be awarded.
    Failed,
    /// The user is done: with an agreement the other bidders are let go, without one the call is cancelled.
    Close,
    /// [`Initiator::poll_timeout`] has passed.
    Timeout,
}

/// What it wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitiatorOutput {
    /// Send the call to this participant.
    Ask(AgentId),
    /// No more bids come.
    BidsClosed,
    /// Send an award of this bid.
    Award(Box<Bid>),
    /// Both have signed.
    Agreed(Box<Agreement>),
    /// Tell this participant that it is not needed, or not any more.
    Cancel(AgentId, &'static str),
    /// The validity of the call has ended without an agreement.
    Expired,
}

/// Why a step of the user's is not possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// No such bid is there, or it has failed already.
    #[error("no such bid can be awarded")]
    UnknownBid,
    /// The bid's validity has ended.
    #[error("the bid of {participant} has lapsed")]
    Lapsed {
        /// Whose.
        participant: AgentId,
    },
    /// A bid is awarded already; give that agreement up first.
    #[error("{participant} has the award already")]
    Awarded {
        /// Who.
        participant: AgentId,
    },
    /// The call is over.
    #[error("the call has ended")]
    Ended,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Collecting,
    Open,
    Awarding(BidId, AgentId),
    Agreed(AgentId),
    Ended,
}

/// The state of one call at its initiator.
#[derive(Debug)]
pub struct Initiator {
    call: Call,
    phase: Phase,
    /// Who was asked and has not answered.
    asked: Vec<AgentId>,
    /// Bids that can be awarded, one a participant.
    bids: BTreeMap<AgentId, Bid>,
    refusals: BTreeMap<AgentId, String>,
    outputs: VecDeque<InitiatorOutput>,
}

impl Initiator {
    /// Opens `call` to `participants`; of equal ones one is asked.
    pub fn new(call: Call, mut participants: Vec<AgentId>) -> Self {
        participants.sort_unstable();
        participants.dedup();
        let mut outputs: VecDeque<_> = participants.iter().map(|&agent| InitiatorOutput::Ask(agent)).collect();
        let mut phase = Phase::Collecting;
        if participants.is_empty() {
            phase = Phase::Open;
            outputs.push_back(InitiatorOutput::BidsClosed);
        }
        let (bids, refusals) = (BTreeMap::new(), BTreeMap::new());
        Self { call, phase, asked: participants, bids, refusals, outputs }
    }

    /// Takes one input. Only the user's own steps can fail; answers that come too late are dropped.
    pub fn handle(&mut self, now: WallTime, input: InitiatorInput) -> Result<(), StepError> {
        match input {
            InitiatorInput::Bid(bid) => self.bid(now, *bid),
            InitiatorInput::Refused(agent, reason) => {
                if self.answered(agent) {
                    self.refusals.insert(agent, reason);
                }
            }
            InitiatorInput::Award(id) => return self.award(now, id),
            InitiatorInput::Accepted(agreement) => {
                if self.phase == Phase::Awarding(agreement.bid.id, agreement.participant()) {
                    self.phase = Phase::Agreed(agreement.participant());
                    self.outputs.push_back(InitiatorOutput::Agreed(agreement));
                }
            }
            InitiatorInput::AwardFailed(agent, reason) => {
                if matches!(self.phase, Phase::Awarding(_, awarded) if awarded == agent) {
                    self.give_up(agent, reason);
                }
            }
            InitiatorInput::Failed => match self.phase {
                // An award whose answer nobody waited for may have been taken.
                Phase::Agreed(agent) | Phase::Awarding(_, agent) => self.give_up(agent, "failed".to_owned()),
                Phase::Ended => return Err(StepError::Ended),
                _ => return Err(StepError::UnknownBid),
            },
            InitiatorInput::Close => self.close("not needed"),
            InitiatorInput::Timeout => self.timeout(now),
        }
        self.close_bids();
        Ok(())
    }

    fn answered(&mut self, agent: AgentId) -> bool {
        let before = self.asked.len();
        self.asked.retain(|&other| other != agent);
        self.phase == Phase::Collecting && self.asked.len() < before
    }

    fn bid(&mut self, now: WallTime, bid: Bid) {
        let agent = bid.participant;
        if bid.negotiation == self.call.id && bid.valid_until > now && self.answered(agent) {
            self.bids.insert(agent, bid);
        }
    }

    fn close_bids(&mut self) {
        if self.phase == Phase::Collecting && self.asked.is_empty() {
            self.phase = Phase::Open;
            self.outputs.push_back(InitiatorOutput::BidsClosed);
        }
    }

    fn award(&mut self, now: WallTime, id: BidId) -> Result<(), StepError> {
        match self.phase {
            Phase::Ended => return Err(StepError::Ended),
            Phase::Awarding(_, participant) | Phase::Agreed(participant) => {
                return Err(StepError::Awarded { participant });
            }
            Phase::Collecting | Phase::Open => {}
        }
        if now >= self.call.valid_until {
            self.bids.clear();
            return Err(StepError::Ended);
        }
        let bid = self.bids.values().find(|bid| bid.id == id).ok_or(StepError::UnknownBid)?;
        if bid.valid_until <= now {
            let participant = bid.participant;
            self.bids.remove(&participant);
            self.refusals.insert(participant, "its bid lapsed".to_owned());
            return Err(StepError::Lapsed { participant });
        }
        self.outputs.push_back(InitiatorOutput::Award(Box::new(bid.clone())));
        self.phase = Phase::Awarding(id, bid.participant);
        self.asked.clear();
        Ok(())
    }

    fn give_up(&mut self, agent: AgentId, reason: String) {
        self.bids.remove(&agent);
        self.refusals.insert(agent, reason);
        self.outputs.push_back(InitiatorOutput::Cancel(agent, "the award was given up"));
        self.phase = Phase::Open;
    }

    fn close(&mut self, reason: &'static str) {
        let agreed = match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Ended => return,
            Phase::Agreed(agent) => Some(agent),
            _ => None,
        };
        // Who was asked and has not answered may have bid by now.
        let asked = std::mem::take(&mut self.asked);
        for agent in self.bids.keys().copied().chain(asked).filter(|&agent| Some(agent) != agreed) {
            self.outputs.push_back(InitiatorOutput::Cancel(agent, reason));
        }
        self.bids.clear();
    }

    fn timeout(&mut self, now: WallTime) {
        if self.phase == Phase::Collecting && now >= self.call.bids_until {
            self.asked.clear();
        }
        if now >= self.call.valid_until && !matches!(self.phase, Phase::Agreed(_) | Phase::Ended) {
            self.close("the call has expired");
            self.outputs.push_back(InitiatorOutput::Expired);
        }
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<InitiatorOutput> {
        self.outputs.pop_front()
    }

    /// When [`InitiatorInput::Timeout`] is due, if ever.
    pub fn poll_timeout(&self) -> Option<WallTime> {
        match self.phase {
            Phase::Collecting => Some(self.call.bids_until.min(self.call.valid_until)),
            Phase::Open | Phase::Awarding(..) => Some(self.call.valid_until),
            Phase::Agreed(_) | Phase::Ended => None,
        }
    }

    /// The call.
    pub fn call(&self) -> &Call {
        &self.call
    }

    /// The bids that can still be awarded, the soonest finished first, then the cheapest.
    pub fn bids(&self) -> Vec<Bid> {
        let mut bids: Vec<Bid> = self.bids.values().cloned().collect();
        bids.sort_by_key(|bid| (bid.finish(), bid.offer.price, bid.participant));
        bids
    }

    /// Who refused, failed or could not be asked, and why.
    pub fn refusals(&self) -> &BTreeMap<AgentId, String> {
        &self.refusals
    }
}
