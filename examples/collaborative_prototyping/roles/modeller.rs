//! A modeller bids for ideas, models what he is awarded with a program of his own, and delivers into the workspace.

use std::{sync::Arc, time::Duration};

use diai::{
    Agent, AgentBuilder, Bytes, Calls, Cid, Refusal, Reply, TaskSpec,
    blocks::AddOptions,
    core::{BoxFuture, service_fn},
    messaging::negotiation::{Agreement, Bidder, Call, Ending, NegotiationId, Negotiator, Offer},
    tasks::{GuestError, Limits, RunError},
};
use diai_examples::{collaborative_prototyping::idea::Idea, guests};
use serde::{Deserialize, Serialize};

use super::{
    Outcome,
    collaborator::{self, Membership},
    enter,
};
use crate::{
    brief::Brief,
    link::{Link, Tell},
};

/// What a modeller bids for.
pub(super) const KIND: &str = "model/ring/1";
/// Puts outputs of a task into the workspace.
pub(super) const DELIVER: &str = "story.deliver";
const WITHIN: Duration = Duration::from_secs(30);
/// From an award to the first step of the program.
const START: Duration = Duration::from_millis(100);
/// What a ring costs, within a few percent.
const RING_FUEL: u64 = 13_000_000_000;
/// What of it is run to see how fast this device is.
const TRIAL_FUEL: u64 = 200_000_000;
const MAX_BYTES: u64 = 64 << 20;

/// What to deliver: paths in the workspace, and the outputs that belong there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Delivery {
    pub(super) files: Vec<(String, String)>,
}

/// How a modeller bids: what it promises is what it measured, times its margin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    margin: f64,
    price: u64,
}

impl Pace {
    pub(super) const QUICK: Self = Self { margin: 1.5, price: 12 };
    pub(super) const STEADY: Self = Self { margin: 3.0, price: 9 };
}

struct Modeller {
    agent: Agent,
    /// How long a ring takes here, with the margin.
    run: Duration,
    price: u64,
    program: Cid,
    link: Arc<Link>,
}

impl Modeller {
    fn offer(&self, call: &Call) -> Outcome<Offer> {
        if call.kind() != KIND {
            return Err("I only model rings".into());
        }
        let brief = Brief::from_bytes(call.subject())?;
        if brief.idea(self.agent.world().clock.wall())?.author != call.initiator() {
            return Err("the idea is another agent's".into());
        }
        if START + self.run > brief.finish_within() {
            return Err(format!("a ring takes {:.1} s here", self.run.as_secs_f64()).into());
        }
        let extra = Bytes::from(self.program.to_string());
        Ok(Offer { price: self.price, start: START, run: self.run, valid_for: Duration::ZERO, extra })
    }
}

impl Bidder for Modeller {
    fn bid(&self, call: Call) -> BoxFuture<'static, Result<Offer, String>> {
        let offer = self.offer(&call).map_err(|error| error.to_string());
        match &offer {
            Ok(offer) => self.link.note(format!(
                "bids: starts in {:.1} s, runs {:.1} s, {} credits",
                offer.start.as_secs_f64(),
                offer.run.as_secs_f64(),
                offer.price
            )),
            Err(reason) => self.link.note(format!("does not bid: {reason}")),
        }
        Box::pin(async move { offer })
    }

    fn awarded(&self, agreement: Agreement) -> BoxFuture<'static, Result<(), String>> {
        self.link.note(format!("signs the agreement {:.8}", agreement.id().to_string()));
        Box::pin(async { Ok(()) })
    }

    fn ended(&self, _: NegotiationId, ending: Ending) {
        tracing::debug!(?ending, "a negotiation ended");
    }
}

pub(crate) async fn play(builder: AgentBuilder, link: &Arc<Link>, pace: Pace) -> Outcome {
    let agent = builder.start().await?;
    let membership = Arc::new(Membership::open(&agent, link)?);
    let program = agent.blocks().add_bytes(Bytes::from_static(guests::RING), AddOptions::default()).await?.cid;
    let calls = Arc::new(agent.messaging().clone());
    let negotiator = Negotiator::new(agent.world(), calls, agent.identity().clone());
    let run = time_of_a_ring(&agent, program).await?.mul_f64(pace.margin);
    let modeller = Modeller { agent: agent.clone(), run, price: pace.price, program, link: link.clone() };
    let _bidding = negotiator.serve(Arc::new(modeller))?;
    let _delivering = agent.messaging().register(DELIVER, delivering(&agent, &membership, link))?;
    enter(&agent, link, false).await?;
    link.tell(Tell::Joined);

    collaborator::until_the_end(&agent, link, &membership).await
}

/// Runs the program on a ring of its own until some fuel is used up, and concludes from that how long a whole one takes.
async fn time_of_a_ring(agent: &Agent, program: Cid) -> Outcome<Duration> {
    let idea = Idea::parse("idea.toml", include_str!("../idea.toml"))?.canonical();
    let idea = agent.blocks().add_bytes(Bytes::from(idea), AddOptions::default()).await?.cid;
    let limits = Limits { fuel: TRIAL_FUEL, ..Limits::default() };
    let mut took = Duration::ZERO;
    // The first run compiles the program; a seed of its own makes the second another task.
    for seed in 0..2 {
        let spec = TaskSpec::wasm(program).input("idea", idea).limits(limits).seed(seed);
        let start = agent.world().clock.now();
        match agent.tasks().run_on(spec, vec![agent.id()]).result().await {
            Ok(_) | Err(RunError::Guest { error: GuestError::FuelExhausted, .. }) => {}
            Err(error) => return Err(error.into()),
        }
        took = agent.world().clock.now().since(start);
    }
    Ok(took.mul_f64(RING_FUEL as f64 / TRIAL_FUEL as f64))
}

fn delivering(agent: &Agent, membership: &Arc<Membership>, link: &Arc<Link>) -> Arc<dyn diai::core::Service> {
    let (agent, membership, link) = (agent.clone(), membership.clone(), link.clone());
    service_fn(move |request| {
        let (agent, membership, link) = (agent.clone(), membership.clone(), link.clone());
        async move {
            let delivered = deliver(agent, membership, link, request.body).await;
            delivered.map_err(|error| Refusal::Failed { reason: error.to_string() })?;
            Ok(Reply::Whole(Bytes::new()))
        }
    })
}

async fn deliver(agent: Agent, membership: Arc<Membership>, link: Arc<Link>, body: Bytes) -> Outcome {
    let delivery: Delivery = serde_json::from_slice(&body)?;
    let workspace = membership.workspace().await?;
    for (path, cid) in delivery.files {
        let deadline = agent.world().clock.now() + WITHIN;
        // Made of a sealed idea, it is sealed for the creator and this agent.
        let files = agent.blocks().open_sealed(cid.parse()?, MAX_BYTES, deadline).await?;
        let (_, content) = files.into_iter().next().ok_or("the output is empty")?;
        collaborator::put(&workspace, &link, path, content).await?;
    }
    Ok(())
}
