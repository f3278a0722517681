//! Asks workers what they bid, and remembers which of them had room.

use std::{sync::Mutex, time::Duration};

use diai_core::{AgentId, CallError, CallOptions, Instant, Refusal, timeout_at};
use futures::{StreamExt, stream::FuturesUnordered};

use crate::{
    RunEvent, codec,
    machine::{Offer, Search, rank},
    message::OFFER_SERVICE,
    requester::{Order, Requester, lock},
};

/// How long to wait for bids on a task with inputs, if nobody who bids holds them all.
const HOLDERS_WINDOW: Duration = Duration::from_millis(250);

/// A worker that lately showed a free slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fresh {
    until: Instant,
    slots: u32,
    in_flight: u32,
}

impl Requester {
    /// Whom to ask for bids: half of them the best known, the others by chance, so that not all requesters crowd on the
    /// same few.
    pub(crate) fn pick(&self, mut open: Vec<AgentId>) -> Vec<AgentId> {
        let probe = self.config.probe;
        for index in probe.div_ceil(2)..probe.min(open.len()) {
            let rest = (open.len() - index) as u64;
            let other = index + usize::try_from(self.world.entropy.below(rest)).unwrap_or(0);
            open.swap(index, other);
        }
        open.truncate(probe);
        open
    }

    /// The worker to which the task is given without asking for bids: the only one, or one that lately had a free slot
    /// if no inputs make a difference.
    pub(crate) fn at_once(&self, order: &Order, open: &[AgentId]) -> Option<AgentId> {
        if let [agent] = open {
            return Some(*agent);
        }
        if !order.spec.inputs.is_empty() {
            return None;
        }
        let now = self.world.clock.now();
        let fresh = lock(&self.fresh);
        let free = open.iter().filter_map(|agent| {
            let known = fresh.peek(agent).filter(|known| known.until > now && known.in_flight < known.slots)?;
            Some((known.in_flight, agent))
        });
        free.min_by_key(|(in_flight, _)| *in_flight).map(|(_, agent)| *agent)
    }

    /// Asks `agents` for bids; those that bid, the best first.
    pub(crate) async fn bids(&self, order: &Order, search: &Mutex<Search>, agents: Vec<AgentId>) -> Vec<AgentId> {
        order.reporter.send(RunEvent::Offered { agents: agents.clone() });
        let began = self.world.clock.now();
        let mut asked: FuturesUnordered<_> =
            agents.clone().into_iter().map(|agent| async move { (agent, self.ask(order, agent).await) }).collect();
        let mut until = began + self.config.offer_timeout;
        let mut offers = Vec::new();
        let mut silent = agents;
        while let Ok(Some((agent, reply))) = timeout_at(&*self.world.clock, until, asked.next()).await {
            silent.retain(|other| *other != agent);
            let now = self.world.clock.now();
            match reply {
                Ok(offer) => {
                    order.reporter.send(RunEvent::Bid { agent, bid: offer.bid });
                    self.saw_slots(agent, offer.bid.free_slots);
                    // Who holds the inputs may be slower to say so than who does not.
                    let holds = offer.bid.held_inputs as usize >= order.spec.inputs.len();
                    if holds {
                        until = until.min(now + self.config.bid_window);
                    } else if offers.is_empty() {
                        until = until.min(now + self.config.bid_window.max(HOLDERS_WINDOW));
                    }
                    offers.push(offer);
                }
                Err(error) => self.refused(search, agent, &error),
            }
        }
        if offers.is_empty() {
            let reason = "it did not answer the offer in time";
            silent.into_iter().for_each(|agent| lock(search).postpone(agent, reason.to_owned()));
        }
        let mut input_bytes = 0u64;
        for input in &order.spec.inputs {
            input_bytes = input_bytes.saturating_add(self.artifacts.held(input.cid).await.unwrap_or(0));
        }
        rank(&mut offers, order.spec.inputs.len(), input_bytes, self.config.transfer_bytes_per_second);
        offers.into_iter().map(|offer| offer.agent).collect()
    }

    async fn ask(&self, order: &Order, agent: AgentId) -> Result<Offer, CallError> {
        let began = self.world.clock.now();
        if agent == self.me() {
            let bid = self.performer.executor.bid(&order.spec).await;
            return Ok(Offer { agent, bid, round_trip: Duration::ZERO });
        }
        let options = CallOptions::within(self.config.offer_timeout).idempotent();
        let body = codec::encode_offer(order.spec_bytes.clone());
        let reply = self.calls.call(agent, OFFER_SERVICE, body, options).await?;
        let bid = codec::decode_bid(reply).map_err(|error| {
            self.penalise(agent, diai_core::Misbehaviour::Malformed);
            CallError::Refused { agent, refusal: Refusal::Failed { reason: error.to_string() } }
        })?;
        Ok(Offer { agent, bid, round_trip: self.world.clock.now().since(began) })
    }

    pub(crate) fn saw_slots(&self, agent: AgentId, slots: u32) {
        let until = self.world.clock.now() + self.config.fresh;
        let mut fresh = lock(&self.fresh);
        let (known, in_flight) = fresh.get(&agent).map_or((0, 0), |known| (known.slots, known.in_flight));
        // Who has just finished has at least that slot; a bid says how many there are.
        fresh.put(agent, Fresh { until, slots: known.max(slots), in_flight });
    }
}

/// Counts an own task against the slots of a worker while it runs there.
pub(crate) struct InFlight<'a> {
    requester: &'a Requester,
    agent: AgentId,
}

impl<'a> InFlight<'a> {
    pub(crate) fn new(requester: &'a Requester, agent: AgentId) -> Self {
        if let Some(known) = lock(&requester.fresh).get_mut(&agent) {
            known.in_flight += 1;
        }
        Self { requester, agent }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(known) = lock(&self.requester.fresh).get_mut(&self.agent) {
            known.in_flight = known.in_flight.saturating_sub(1);
        }
    }
}
