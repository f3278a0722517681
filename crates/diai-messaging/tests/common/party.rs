//! Agents that negotiate.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use diai_core::{AgentId, BoxFuture, Bytes, memory::Sim};
use diai_messaging::{
    Messaging,
    negotiation::{
        Agreement, Bidder, Bidding, Call, CallForProposals, Ending, Negotiation, NegotiationId, Negotiator, Offer, When,
    },
};

use super::Agent;

/// Offers `run` seconds, or refuses.
#[derive(Default)]
pub(crate) struct Modeller {
    pub(crate) run: u64,
    pub(crate) price: u64,
    pub(crate) valid_for: Duration,
    pub(crate) refuses_award: bool,
    pub(crate) log: Mutex<Vec<String>>,
}

impl Modeller {
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

impl Bidder for Modeller {
    fn bid(&self, call: Call) -> BoxFuture<'static, Result<Offer, String>> {
        self.log.lock().unwrap().push(format!("bid {}", call.kind()));
        let offer = Offer {
            price: self.price,
            run: Duration::from_secs(self.run),
            valid_for: self.valid_for,
            ..Offer::default()
        };
        let offer = if self.run == 0 { Err("no time".to_owned()) } else { Ok(offer) };
        Box::pin(async { offer })
    }

    fn awarded(&self, agreement: Agreement) -> BoxFuture<'static, Result<(), String>> {
        self.log.lock().unwrap().push("awarded".to_owned());
        let result = if self.refuses_award { Err("busy by now".to_owned()) } else { Ok(()) };
        Box::pin(async move { agreement.verify(When::Ever).map_err(|error| error.to_string()).and(result) })
    }

    fn ended(&self, _: NegotiationId, ending: Ending) {
        self.log.lock().unwrap().push(match ending {
            Ending::Cancelled { reason } => format!("cancelled: {reason}"),
            _ => "lapsed".to_owned(),
        });
    }
}

pub(crate) struct Party {
    pub(crate) agent: Agent,
    pub(crate) messaging: Messaging,
    pub(crate) negotiator: Negotiator,
}

impl Party {
    pub(crate) fn of(agent: Agent) -> Self {
        let messaging = agent.messaging();
        let negotiator = Negotiator::new(&agent.world, Arc::new(messaging.clone()), agent.identity.clone());
        Self { agent, messaging, negotiator }
    }

    pub(crate) fn id(&self) -> AgentId {
        self.agent.identity.agent()
    }

    pub(crate) fn serve(&self, modeller: &Arc<Modeller>) -> Bidding {
        self.negotiator.serve(modeller.clone()).unwrap()
    }
}

pub(crate) async fn parties(sim: &Sim, count: u64) -> Vec<Party> {
    let parties: Vec<_> = (1..=count).map(|number| Party::of(Agent::join(sim, number))).collect();
    for other in &parties[1..] {
        parties[0].agent.world.network.connect(other.agent.peer(), vec![]).await.unwrap();
    }
    parties
}

pub(crate) fn proposal() -> CallForProposals {
    CallForProposals {
        kind: "model/1".into(),
        subject: Bytes::from("a ring"),
        bids_within: Duration::from_secs(5),
        valid_for: Duration::from_secs(60),
    }
}

pub(crate) async fn call(parties: &[Party]) -> Negotiation {
    let participants = parties[1..].iter().map(Party::id).collect();
    parties[0].negotiator.call(participants, proposal()).await.unwrap()
}

pub(crate) fn modeller(run: u64, price: u64) -> Arc<Modeller> {
    Arc::new(Modeller { run, price, ..Modeller::default() })
}
