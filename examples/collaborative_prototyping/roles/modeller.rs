//! A modeller bids for ideas, models what he is awarded with a program of his own, and delivers into the workspace.

use std::{sync::Arc, time::Duration};

use diai::{
    Agent, AgentBuilder, Bytes, Calls, Cid, Refusal, Reply,
    blocks::AddOptions,
    core::{BoxFuture, service_fn},
    messaging::negotiation::{Agreement, Bidder, Call, Ending, NegotiationId, Negotiator, Offer},
};
use diai_examples::guests;
use serde::{Deserialize, Serialize};

use super::{
    Outcome,
    collaborator::{self, Membership},
    enter,
};
use crate::link::{Link, Tell};

/// What a modeller bids for.
pub(super) const KIND: &str = "model/ring/1";
/// Puts outputs of a task into the workspace.
pub(super) const DELIVER: &str = "story.deliver";
const WITHIN: Duration = Duration::from_secs(30);
const MAX_BYTES: u64 = 64 << 20;

/// What to deliver: paths in the workspace, and the outputs that belong there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Delivery {
    pub(super) files: Vec<(String, String)>,
}

/// How a modeller bids.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    run: Duration,
    price: u64,
}

impl Pace {
    pub(super) const QUICK: Self = Self { run: Duration::from_secs(8), price: 12 };
    pub(super) const STEADY: Self = Self { run: Duration::from_secs(14), price: 9 };
}

struct Modeller {
    pace: Pace,
    program: Cid,
    link: Arc<Link>,
}

impl Bidder for Modeller {
    fn bid(&self, call: Call) -> BoxFuture<'static, Result<Offer, String>> {
        let extra = Bytes::from(self.program.to_string());
        let Pace { run, price } = self.pace;
        let offer = Offer { price, start: Duration::from_millis(100), run, valid_for: Duration::ZERO, extra };
        self.link.note(format!("bids: starts in 0.1 s, runs {:.1} s, {price} credits", run.as_secs_f64()));
        Box::pin(async move { if call.kind() == KIND { Ok(offer) } else { Err("I only model rings".into()) } })
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
    let _bidding = negotiator.serve(Arc::new(Modeller { pace, program, link: link.clone() }))?;
    let _delivering = agent.messaging().register(DELIVER, delivering(&agent, &membership, link))?;
    enter(&agent, link, false).await?;
    link.tell(Tell::Joined);

    collaborator::until_the_end(&agent, link, &membership).await
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
