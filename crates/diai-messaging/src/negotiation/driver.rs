//! Both sides over [`Calls`].

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use diai_core::{
    AgentId, BoxFuture, CallError, CallOptions, Calls, Clock, Entropy, Instant, Refusal, RegisterError, Registration,
    Reply, Request, Service, WallTime, World, timeout_at,
};
use diai_identity::{Identity, Signed};
use futures::{FutureExt, StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::{sync::Notify, task::JoinSet};

use super::{
    MAX_PARTICIPANTS, NegotiationError,
    codec::{ToInitiator, ToParticipant, award_of, open_cancel, sign_award, sign_cancel},
    initiator::{Initiator, InitiatorInput, InitiatorOutput, StepError},
    message::{Agreement, Bid, BidId, Bidder, Call, Ending, NegotiationId, SERVICE, When},
    participant::{AwardStep, CallStep, Participant},
};
use crate::inbox::lock;

/// Time for one award.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Who is told that he is not needed may be dead: his offer lapses by itself, and nobody waits long to tell him.
const COURTESY_TIMEOUT: Duration = Duration::from_secs(2);

/// Negotiates for one agent. Cheap to clone.
#[derive(Clone)]
pub struct Negotiator {
    calls: Arc<dyn Calls>,
    identity: Identity,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl fmt::Debug for Negotiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Negotiator").field("agent", &self.calls.local_agent()).finish_non_exhaustive()
    }
}

/// What to call for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallForProposals {
    /// What the subject is, such as `task/1`; at most 128 bytes.
    pub kind: String,
    /// What it is about, at most 64 KiB.
    pub subject: Bytes,
    /// How long bids are waited for.
    pub bids_within: Duration,
    /// How long bids can be awarded, counted from now; at least `bids_within`.
    pub valid_for: Duration,
}

/// Why a call for proposals cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenCallError {
    /// Too many agents.
    #[error("{participants} participants, at most {MAX_PARTICIPANTS} can be asked at once")]
    TooManyParticipants {
        /// How many.
        participants: usize,
    },
    /// The content is over a limit.
    #[error("the call cannot be made: {0}")]
    Content(NegotiationError),
}

/// Why an award brought no agreement. The call stays open: another bid can be awarded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AwardError {
    /// The step is not possible now.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The participant took its offer back.
    #[error("{participant} refuses the award: {reason}")]
    Refused {
        /// Who.
        participant: AgentId,
        /// In its words.
        reason: String,
    },
    /// The participant could not be asked.
    #[error("the award did not reach the participant: {0}")]
    Call(#[from] CallError),
    /// What came back is no acceptance of this award.
    #[error("{participant} answered the award with something else: {source}")]
    Answer {
        /// Who.
        participant: AgentId,
        /// What was wrong.
        source: NegotiationError,
    },
}

impl Negotiator {
    /// Negotiates as `identity` over `calls`.
    pub fn new(world: &World, calls: Arc<dyn Calls>, identity: Identity) -> Self {
        Self { calls, identity, clock: world.clock.clone(), entropy: world.entropy.clone() }
    }

    /// Calls for proposals and waits until all participants have answered or `bids_within` has passed. Who cannot be
    /// reached is among [`Negotiation::refusals`]; without any bid the negotiation is there all the same.
    ///
    /// Cancel-safety: dropping the future gives the call up; bids that were made lapse by themselves.
    pub async fn call(
        &self,
        participants: Vec<AgentId>,
        proposal: CallForProposals,
    ) -> Result<Negotiation, OpenCallError> {
        if participants.len() > MAX_PARTICIPANTS {
            return Err(OpenCallError::TooManyParticipants { participants: participants.len() });
        }
        let now = self.clock.wall();
        let CallForProposals { kind, subject, bids_within, valid_for } = proposal;
        let (bids_until, valid_until) = (now + bids_within, now + valid_for.max(bids_within));
        let call = Call::sign(&self.identity, &*self.entropy, &kind, subject, bids_until, valid_until)
            .map_err(OpenCallError::Content)?;
        let body = ToParticipant::Call(call.signed.clone()).to_bytes();
        let mut machine = Initiator::new(call, participants);
        let mut asking = FuturesUnordered::new();
        let deadline = self.clock.now() + bids_within;
        loop {
            let mut closed = false;
            while let Some(output) = machine.poll_output() {
                match output {
                    InitiatorOutput::Ask(agent) => asking.push(self.ask(agent, body.clone(), bids_within)),
                    InitiatorOutput::BidsClosed | InitiatorOutput::Expired => closed = true,
                    // Nothing else happens before the user's first step.
                    _ => {}
                }
            }
            if closed {
                break;
            }
            let input = match timeout_at(&*self.clock, deadline, asking.next()).await {
                Ok(Some((agent, answer))) => self.bid_of(machine.call(), agent, answer),
                Ok(None) | Err(_) => InitiatorInput::Timeout,
            };
            // Wall clocks jump; what was promised is a time span.
            let now = if matches!(input, InitiatorInput::Timeout) { bids_until } else { self.clock.wall() };
            // Only the user's own steps can fail.
            let _ = machine.handle(now, input);
        }
        drop(asking);
        Ok(Negotiation { negotiator: self.clone(), machine, telling: JoinSet::new() })
    }

    async fn ask(&self, agent: AgentId, body: Bytes, within: Duration) -> (AgentId, Result<Bytes, CallError>) {
        let options = CallOptions::within(within).idempotent();
        (agent, self.calls.call(agent, SERVICE, body, options).await)
    }

    fn bid_of(&self, call: &Call, agent: AgentId, answer: Result<Bytes, CallError>) -> InitiatorInput {
        let refused = |reason: String| InitiatorInput::Refused(agent, reason);
        let answer = match answer {
            Ok(bytes) => ToInitiator::from_bytes(bytes),
            Err(error) => return refused(error.to_string()),
        };
        match answer {
            Ok(ToInitiator::Bid(signed)) => match Bid::of(signed, When::At(self.clock.wall()), call) {
                Ok(bid) if bid.participant == agent => InitiatorInput::Bid(Box::new(bid)),
                Ok(bid) => refused(format!("sent a bid of {}", bid.participant)),
                Err(error) => refused(error.to_string()),
            },
            Ok(ToInitiator::Refusal(reason)) => refused(reason),
            Ok(_) => refused("sent no bid".to_owned()),
            Err(error) => refused(error.to_string()),
        }
    }

    async fn cancel(&self, call: NegotiationId, cancels: Vec<(AgentId, &'static str)>) {
        let notes = cancels.into_iter().map(|(agent, reason)| {
            let body = ToParticipant::Cancel(sign_cancel(&self.identity, call, reason)).to_bytes();
            self.calls.call(agent, SERVICE, body, CallOptions::within(COURTESY_TIMEOUT).idempotent())
        });
        for result in join_all(notes).await {
            if let Err(error) = result {
                // Its offer lapses by itself.
                tracing::debug!(%error, "a participant was not told of a cancel");
            }
        }
    }

    /// Serves negotiations with `bidder`, until the [`Bidding`] is dropped. Must be called within a tokio runtime.
    pub fn serve(&self, bidder: Arc<dyn Bidder>) -> Result<Bidding, RegisterError> {
        let desk = Arc::new(Desk {
            identity: self.identity.clone(),
            clock: self.clock.clone(),
            bidder,
            participant: Mutex::new(Participant::new()),
            changed: Notify::new(),
        });
        let registration = self.calls.register(SERVICE, Arc::new(DeskService(desk.clone())))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(expire(desk));
        Ok(Bidding { _registration: registration, _tasks: tasks })
    }
}

/// A call for proposals with its bids. Dropped, its bids lapse by themselves; [`Negotiation::close`] tells the bidders.
/// To be used within a tokio runtime.
pub struct Negotiation {
    negotiator: Negotiator,
    machine: Initiator,
    /// Those that are told that they are not needed: the next step does not wait for who may be dead.
    telling: JoinSet<()>,
}

impl fmt::Debug for Negotiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Negotiation").field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl Negotiation {
    /// The call.
    pub fn call(&self) -> &Call {
        self.machine.call()
    }

    /// The bids that can still be awarded, the soonest finished first, then the cheapest.
    pub fn bids(&self) -> Vec<Bid> {
        self.machine.bids()
    }

    /// Who refused, failed or could not be asked, and why.
    pub fn refusals(&self) -> &BTreeMap<AgentId, String> {
        self.machine.refusals()
    }

    /// Awards a bid and waits for the countersignature. On an error another bid can be awarded.
    ///
    /// Cancel-safety: dropping the future leaves the bid awarded; give it up with [`Negotiation::failed`] or close.
    pub async fn award(&mut self, bid: BidId) -> Result<Agreement, AwardError> {
        let Self { negotiator, machine, .. } = self;
        let clock = negotiator.clock.clone();
        machine.handle(clock.wall(), InitiatorInput::Award(bid))?;
        let bid = loop {
            match machine.poll_output() {
                Some(InitiatorOutput::Award(bid)) => break bid,
                Some(_) => {}
                None => return Err(StepError::UnknownBid.into()),
            }
        };
        let award = sign_award(&negotiator.identity, clock.wall(), &bid);
        let participant = bid.participant;
        let body = ToParticipant::Award(award.clone()).to_bytes();
        let options = CallOptions::within(STEP_TIMEOUT).idempotent();
        let answer = negotiator.calls.call(participant, SERVICE, body, options).await;
        let result = accepted(machine.call(), &bid, award, answer, clock.wall());
        let input = match &result {
            Ok(agreement) => InitiatorInput::Accepted(Box::new(agreement.clone())),
            Err(error) => InitiatorInput::AwardFailed(participant, error.to_string()),
        };
        machine.handle(clock.wall(), input)?;
        self.tell_cancelled();
        result
    }

    /// Gives the agreement up, or an award that nobody waited for: its participant is told in the background, and another
    /// bid can be awarded. Must be called within a tokio runtime.
    pub fn failed(&mut self) -> Result<(), StepError> {
        self.machine.handle(self.negotiator.clock.wall(), InitiatorInput::Failed)?;
        self.tell_cancelled();
        Ok(())
    }

    /// Ends the negotiation: bidders without an agreement are told that they are not needed. An agreement stands.
    pub async fn close(mut self) {
        // Closing cannot fail.
        let _ = self.machine.handle(self.negotiator.clock.wall(), InitiatorInput::Close);
        self.tell_cancelled();
        while self.telling.join_next().await.is_some() {}
    }

    fn tell_cancelled(&mut self) {
        let mut cancels = Vec::new();
        while let Some(output) = self.machine.poll_output() {
            if let InitiatorOutput::Cancel(agent, reason) = output {
                cancels.push((agent, reason));
            }
        }
        if !cancels.is_empty() {
            let (negotiator, call) = (self.negotiator.clone(), self.machine.call().id);
            self.telling.spawn(async move { negotiator.cancel(call, cancels).await });
        }
    }
}

fn accepted(
    call: &Call,
    bid: &Bid,
    award: Signed,
    answer: Result<Bytes, CallError>,
    now: WallTime,
) -> Result<Agreement, AwardError> {
    let participant = bid.participant;
    let wrong = |source| AwardError::Answer { participant, source };
    match ToInitiator::from_bytes(answer?).map_err(wrong)? {
        ToInitiator::Acceptance(acceptance) => {
            Agreement::of(call.clone(), bid.clone(), award, acceptance, When::At(now)).map_err(wrong)
        }
        ToInitiator::Refusal(reason) => Err(AwardError::Refused { participant, reason }),
        ToInitiator::Bid(_) | ToInitiator::Noted => Err(wrong(NegotiationError::WrongReference { step: "answer" })),
    }
}

/// A served [`Bidder`]. Dropping it stops serving. It does not keep the [`Calls`] alive that it is served on.
#[derive(Debug)]
pub struct Bidding {
    _registration: Registration,
    _tasks: JoinSet<()>,
}

struct Desk {
    identity: Identity,
    clock: Arc<dyn Clock>,
    bidder: Arc<dyn Bidder>,
    participant: Mutex<Participant>,
    /// There is something to expire.
    changed: Notify,
}

/// Lets lapsed offers go.
async fn expire(desk: Arc<Desk>) {
    loop {
        let lapsed = lock(&desk.participant).expire(desk.clock.wall());
        for id in lapsed {
            desk.bidder.ended(id, Ending::Lapsed);
        }
        let next = lock(&desk.participant).poll_timeout();
        let due = next.map_or(Instant::NEVER, |at| desk.clock.now() + at.since(desk.clock.wall()));
        // Either way: look again.
        let _ = timeout_at(&*desk.clock, due, desk.changed.notified()).await;
    }
}

struct DeskService(Arc<Desk>);

impl Service for DeskService {
    fn handle(&self, request: Request) -> BoxFuture<'static, Result<Reply, Refusal>> {
        let desk = self.0.clone();
        async move {
            let bad = |error: NegotiationError| Refusal::BadRequest { reason: error.to_string() };
            let answer = match ToParticipant::from_bytes(request.body).map_err(bad)? {
                ToParticipant::Call(signed) => desk.call(request.from, signed).await.map_err(bad)?,
                ToParticipant::Award(award) => desk.award(request.from, award).await.map_err(bad)?,
                ToParticipant::Cancel(cancel) => desk.cancel(request.from, &cancel).map_err(bad)?,
            };
            Ok(answer.to_bytes().into())
        }
        .boxed()
    }
}

/// An asking of the bidder that may be given up.
struct Undecided<'a> {
    desk: &'a Desk,
    id: NegotiationId,
}

impl Drop for Undecided<'_> {
    fn drop(&mut self) {
        lock(&self.desk.participant).undecided(self.id);
    }
}

fn refusal(reason: &str) -> ToInitiator {
    ToInitiator::Refusal(reason.to_owned())
}

impl Desk {
    async fn call(&self, from: AgentId, signed: Signed) -> Result<ToInitiator, NegotiationError> {
        let now = self.clock.wall();
        let call = Call::of(signed, When::At(now))?;
        if call.initiator != from {
            let (step, signer) = ("call", call.initiator);
            return Err(NegotiationError::WrongSigner { step, signer, expected: from });
        }
        let step = {
            let mut participant = lock(&self.participant);
            participant.called(now, &call)
        };
        match step {
            CallStep::Refuse(reason) => Ok(refusal(reason)),
            CallStep::Again(bid) => Ok(ToInitiator::Bid(bid.signed)),
            CallStep::Consider => {
                self.changed.notify_one();
                let undecided = Undecided { desk: self, id: call.id };
                let decision = self.bidder.bid(call.clone()).await;
                std::mem::forget(undecided);
                let offer = match decision {
                    Ok(offer) => offer,
                    Err(reason) => {
                        lock(&self.participant).decided(call.id, None);
                        return Ok(refusal(&reason));
                    }
                };
                let bid = Bid::sign(&self.identity, self.clock.wall(), &call, offer);
                let Ok(bid) = bid.inspect_err(|error| tracing::error!(%error, "an offer cannot be sent")) else {
                    lock(&self.participant).decided(call.id, None);
                    return Ok(refusal("no offer"));
                };
                let standing = lock(&self.participant).decided(call.id, Some(bid));
                self.changed.notify_one();
                Ok(standing.map_or_else(|| refusal("the call has ended"), |bid| ToInitiator::Bid(bid.signed)))
            }
        }
    }

    async fn award(&self, from: AgentId, award: Signed) -> Result<ToInitiator, NegotiationError> {
        let id = award_of(&award)?;
        let now = self.clock.wall();
        let step = lock(&self.participant).awarded(now, from, id);
        let (call, bid) = match step {
            AwardStep::Refuse(reason) => return Ok(refusal(reason)),
            AwardStep::Again(agreement) if agreement.award == award => {
                return Ok(ToInitiator::Acceptance(agreement.acceptance));
            }
            AwardStep::Again(_) => return Ok(refusal("agreed already")),
            AwardStep::Accept(both) => *both,
        };
        let agreement = Agreement::accept(&self.identity, now, call, bid, award)?;
        let Some(agreement) = lock(&self.participant).accepting(agreement) else {
            return Ok(refusal("another award is being taken"));
        };
        if let Err(reason) = self.bidder.awarded(agreement.clone()).await {
            lock(&self.participant).cancelled(from, id);
            return Ok(refusal(&reason));
        }
        let acceptance = agreement.acceptance.clone();
        let stands = lock(&self.participant).agreed(self.clock.wall(), &agreement);
        if !stands {
            let reason = "cancelled meanwhile".to_owned();
            self.bidder.ended(id, Ending::Cancelled { reason });
            return Ok(refusal("cancelled"));
        }
        self.changed.notify_one();
        Ok(ToInitiator::Acceptance(acceptance))
    }

    fn cancel(&self, from: AgentId, cancel: &Signed) -> Result<ToInitiator, NegotiationError> {
        let (signer, id, reason) = open_cancel(cancel, self.clock.wall())?;
        if signer != from {
            return Err(NegotiationError::WrongSigner { step: "cancel", signer, expected: from });
        }
        let stood = lock(&self.participant).cancelled(from, id);
        if stood {
            self.bidder.ended(id, Ending::Cancelled { reason });
        }
        Ok(ToInitiator::Noted)
    }
}
