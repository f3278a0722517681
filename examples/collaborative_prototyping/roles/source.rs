//! A source holds a part of the market, sealed for the other sources and the analyst, and maps programs over it. Each
//! part is also held by one other source.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use diai::{
    Agent, AgentBuilder, AgentId, CallOptions, Calls, Cid, Refusal, Reply,
    blocks::{AddOptions, Blocks, FetchOptions},
    core::{Clock, service_fn},
};
use serde::{Deserialize, Serialize};

use super::{Outcome, enter, find, since_ms, until_the_end};
use crate::link::{Link, Tell};

/// Lists the parts that a source holds.
pub(super) const PARTS: &str = "story.parts";
/// Asks a source to hold a part for another.
const HOLD: &str = "story.hold";
const WITHIN: Duration = Duration::from_secs(30);

/// A part that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) cid: String,
    pub(super) owner: String,
}

type Held = Arc<Mutex<Vec<Part>>>;

pub(crate) async fn play(builder: AgentBuilder, link: &Link, data_dir: &Path, sources: usize) -> Outcome {
    let held = Held::default();
    let list = held.clone();
    let builder = builder.service(PARTS, move |_| {
        let parts = list.lock().unwrap_or_else(PoisonError::into_inner).clone();
        async move {
            let json = serde_json::to_vec(&parts).map_err(|error| Refusal::Failed { reason: error.to_string() })?;
            Ok(Reply::Whole(json.into()))
        }
    });
    let agent = builder.start().await?;
    let hold = hold_for_others(agent.blocks().clone(), agent.world().clock.clone(), held.clone());
    let _hold = agent.messaging().register(HOLD, hold)?;
    enter(&agent, link, false).await?;

    let start = agent.world().clock.now();
    let others = find(&agent, "market/data", sources - 1).await?;
    let analyst = find(&agent, "market/analysis", 1).await?;
    let readers = others.iter().chain(&analyst).map(|found| found.record.certificate().clone()).collect();
    let csv = tokio::fs::read(data_dir.join("part.csv")).await?;
    let rows = csv.iter().filter(|&&byte| byte == b'\n').count().saturating_sub(1);
    let options = AddOptions { sealed_for: readers, private: true, ..AddOptions::default() };
    let added = agent.blocks().add_bytes(csv, options).await?;
    let part = Part { cid: added.cid.to_string(), owner: agent.id().to_string() };
    held.lock().unwrap_or_else(PoisonError::into_inner).push(part.clone());

    let neighbour = next_after(agent.id(), others.iter().map(|found| found.agent()).collect());
    if let Some(neighbour) = neighbour {
        let body = serde_json::to_vec(&part)?;
        agent.messaging().call(neighbour, HOLD, body.into(), CallOptions::within(WITHIN).idempotent()).await?;
    }
    let copy = if neighbour.is_some() { "a copy lies with a neighbour" } else { "there is no other source for a copy" };
    link.note(format!("holds {rows} prices, sealed for {} readers, and {copy}", others.len() + 1));
    let what = format!("sealed {rows} prices{}", if neighbour.is_some() { " and had them copied" } else { "" });
    link.tell(Tell::Did { what, place: "here".into(), took_ms: since_ms(&agent, start) });
    link.tell(Tell::Joined);
    until_the_end(&agent, link).await;
    Ok(())
}

/// The agent that follows `me` in a ring of all.
fn next_after(me: AgentId, mut others: Vec<AgentId>) -> Option<AgentId> {
    others.sort_unstable();
    others.iter().find(|&&other| other > me).or(others.first()).copied()
}

fn hold_for_others(blocks: Blocks, clock: Arc<dyn Clock>, held: Held) -> Arc<dyn diai::core::Service> {
    service_fn(move |request| {
        let (blocks, held, deadline) = (blocks.clone(), held.clone(), clock.now() + WITHIN);
        async move {
            let bad = |error: &dyn std::error::Error| Refusal::BadRequest { reason: error.to_string() };
            let part: Part = serde_json::from_slice(&request.body).map_err(|error| bad(&error))?;
            if part.owner != request.from.to_string() {
                return Err(Refusal::NotAllowed { reason: "a source asks for its own part only".into() });
            }
            let cid: Cid = part.cid.parse().map_err(|error| bad(&error))?;
            let failed = |error: &dyn std::error::Error| Refusal::Failed { reason: error.to_string() };
            blocks.pin(cid, &FetchOptions::until(deadline)).await.map_err(|error| failed(&error))?;
            held.lock().unwrap_or_else(PoisonError::into_inner).push(part);
            Ok(Reply::Whole(diai::Bytes::new()))
        }
    })
}

/// Parts that `source` holds.
pub(super) async fn parts_of(agent: &Agent, source: AgentId) -> Outcome<Vec<Part>> {
    let options = CallOptions::within(WITHIN).idempotent();
    let json = agent.messaging().call(source, PARTS, diai::Bytes::new(), options).await?;
    Ok(serde_json::from_slice(&json)?)
}
