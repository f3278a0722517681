//! A contract net: one agent calls for proposals, two bid, the better one is awarded, both sign the agreement.
//!
//! ```sh
//! cargo run --release --example negotiate
//! ```

use std::{error::Error, sync::Arc, time::Duration};

use diai::{
    Agent, Bytes,
    core::BoxFuture,
    messaging::negotiation::{
        Agreement, Bidder, Call, CallForProposals, Ending, NegotiationId, Negotiator, Offer, When,
    },
};
use diai_examples::{local_agent, local_agent_knowing, log_to_stderr};

/// Bids the same for everything.
struct Modeller {
    name: &'static str,
    run: Duration,
}

impl Bidder for Modeller {
    fn bid(&self, call: Call) -> BoxFuture<'static, Result<Offer, String>> {
        println!("{} is asked for {}", self.name, String::from_utf8_lossy(call.subject()));
        let offer =
            Offer { price: 10, start: Duration::ZERO, run: self.run, valid_for: Duration::ZERO, extra: Bytes::new() };
        Box::pin(async move { if call.kind() == "model/1" { Ok(offer) } else { Err("I only make models".into()) } })
    }

    fn awarded(&self, agreement: Agreement) -> BoxFuture<'static, Result<(), String>> {
        println!("{} is awarded {}", self.name, agreement.id());
        Box::pin(async { Ok(()) })
    }

    fn ended(&self, negotiation: NegotiationId, ending: Ending) {
        println!("{} is not needed for {negotiation}: {ending:?}", self.name);
    }
}

fn negotiator(agent: &Agent) -> Negotiator {
    Negotiator::new(agent.world(), Arc::new(agent.messaging().clone()), agent.identity().clone())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    log_to_stderr();
    let folder = tempfile::tempdir()?;
    let creator = local_agent(folder.path(), "creator").start().await?;
    let slow = local_agent_knowing(folder.path(), "slow", &creator).start().await?;
    let quick = local_agent_knowing(folder.path(), "quick", &creator).start().await?;
    let _slow = negotiator(&slow).serve(Arc::new(Modeller { name: "slow", run: Duration::from_secs(9) }))?;
    let _quick = negotiator(&quick).serve(Arc::new(Modeller { name: "quick", run: Duration::from_secs(3) }))?;

    let proposal = CallForProposals {
        kind: "model/1".into(),
        subject: Bytes::from("a ring"),
        bids_within: Duration::from_secs(10),
        valid_for: Duration::from_secs(60),
    };
    let mut negotiation = negotiator(&creator).call(vec![slow.id(), quick.id()], proposal).await?;
    let bids = negotiation.bids();
    for bid in &bids {
        println!("{} bids: done in {:?} for {} credits", bid.participant(), bid.finish(), bid.offer().price);
    }
    let best = bids.first().ok_or_else(|| format!("nobody bids: {:?}", negotiation.refusals()))?;
    let agreement = negotiation.award(best.id()).await?;
    assert_eq!(agreement.participant(), quick.id());

    // What both signed can be checked by anyone, later.
    let copy = Agreement::from_bytes(agreement.to_bytes(), When::Ever)?;
    println!("{} and {} agree: {}", copy.initiator(), copy.participant(), copy.id());
    negotiation.close().await;

    for agent in [slow, quick, creator] {
        agent.shutdown().await;
    }
    Ok(())
}
