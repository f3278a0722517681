//! The creator has an idea, finds those who can do something with it, and agrees with them.

use std::{path::Path, sync::Arc, time::Duration};

use diai::{
    Agent, AgentBuilder, AgentId, CallOptions, Calls, StreamExt, TaskSpec,
    blocks::{AddOptions, Workspace},
    discovery::Found,
    messaging::negotiation::{Agreement, Bid, CallForProposals, Negotiation, Negotiator},
    tasks::{Limits, Output, RunEvent},
};
use diai_examples::collaborative_prototyping::stl;
use tokio::task::JoinSet;

use super::{
    Outcome,
    analyst::{ANALYSE, percent},
    collaborator, enter, find,
    modeller::{DELIVER, Delivery, KIND},
    since_ms,
};
use crate::{
    agreement::{self, Record},
    brief::{self, Brief},
    link::{Link, Order, Tell},
};

/// By when a model is wanted, counted from the award.
const MODEL_WITHIN: Duration = Duration::from_secs(90);
/// What every ring may cost.
const MODEL_FUEL: u64 = 20_000_000_000;
const BIDS_WITHIN: Duration = Duration::from_secs(5);
const VALID_FOR: Duration = Duration::from_secs(300);
/// The files that the workspace holds at the end.
const ENTRIES: [(&str, &str); 6] = [
    ("idea.signed", "idea.signed"),
    ("agreement.json", "agreement.json"),
    ("model/model.stl", "model.stl"),
    ("model/model.png", "model.png"),
    ("market/suggestions.json", "suggestions.json"),
    ("market/market.svg", "market.svg"),
];

pub(crate) async fn play(builder: AgentBuilder, link: &Arc<Link>) -> Outcome {
    let agent = builder.start().await?;
    enter(&agent, link, false).await?;
    link.tell(Tell::Joined);
    let mut tasks = JoinSet::new();
    let mut workspace = None;
    loop {
        match link.order().await {
            Order::Begin { idea, market_args, out } => {
                let creator = Creator { agent: &agent, link };
                workspace = Some(creator.create(&idea, &market_args, Path::new(&out), &mut tasks).await?);
            }
            Order::Settle { entries } => {
                let workspace = workspace.as_ref().ok_or("there is no workspace yet")?;
                collaborator::settle(&agent, link, workspace, entries).await?;
            }
            Order::End => break,
            _ => {}
        }
    }
    agent.shutdown().await;
    Ok(())
}

struct Creator<'a> {
    agent: &'a Agent,
    link: &'a Arc<Link>,
}

impl Creator<'_> {
    async fn create(&self, idea: &str, market: &[String], out: &Path, tasks: &mut JoinSet<()>) -> Outcome<Workspace> {
        let Self { agent, link } = *self;
        let signed = brief::sign(agent.identity(), idea);
        let start = agent.world().clock.now();
        let modellers = find(agent, "modeling", 2).await?;
        let analysts = find(agent, "market/analysis", 1).await?;
        let took_ms = since_ms(agent, start);
        link.note(format!("finds two modellers by \"modeling\" and an analyst by \"market/analysis\" in its index, which the DHT filled, in {took_ms} ms"));
        link.tell(Tell::Did {
            what: "found the expertise".into(),
            place: "in its index, which the DHT filled".into(),
            took_ms,
        });

        let (mut negotiation, bid) = self.negotiate(&signed, &modellers).await?;
        let members: Vec<_> = modellers.iter().chain(&analysts).cloned().collect();
        let certificates: Vec<_> = members.iter().map(|found| found.record.certificate().clone()).collect();
        let workspace = agent.blocks().create_workspace("prototype", certificates.clone()).await?;
        collaborator::watch(&workspace, agent.id(), link, tasks);
        collaborator::invite(agent, &workspace, &members).await?;
        link.note(format!("opens a workspace for {} collaborators and invites them", members.len() + 1));
        collaborator::put(&workspace, link, "idea.signed", signed).await?;

        let sealed = agent.blocks().add_bytes(idea.to_owned(), AddOptions::sealed_for(certificates)).await?.cid;
        let spec = TaskSpec::wasm(bid_program(&bid)?).input("idea", sealed).deadline(MODEL_WITHIN).limits(Limits {
            fuel: MODEL_FUEL,
            time: MODEL_WITHIN,
            ..Limits::default()
        });
        let model = self.model(spec, &mut negotiation, bid);
        let analysis = self.analyse(analysts[0].agent(), market);
        let ((records, facts), ()) = futures::try_join!(model, analysis)?;
        collaborator::put(&workspace, link, "agreement.json", agreement::to_json(&records).into()).await?;
        negotiation.close().await;

        let deadline = agent.world().clock.now() + Duration::from_secs(30);
        workspace.wait_for_entries(ENTRIES.len(), deadline).await?;
        for (path, name) in ENTRIES {
            tokio::fs::write(out.join(name), workspace.read(path).await?).await?;
        }
        link.tell(Tell::Complete { entries: ENTRIES.len(), model: facts });
        Ok(workspace)
    }

    /// Calls for proposals; returns the bids and the best of them.
    async fn negotiate(&self, idea_signed: &[u8], modellers: &[Found]) -> Outcome<(Negotiation, Bid)> {
        let Self { agent, link } = *self;
        let calls = Arc::new(agent.messaging().clone());
        let negotiator = Negotiator::new(agent.world(), calls, agent.identity().clone());
        let proposal = CallForProposals {
            kind: KIND.into(),
            subject: Brief::new(idea_signed, MODEL_WITHIN).to_bytes()?,
            bids_within: BIDS_WITHIN,
            valid_for: VALID_FOR,
        };
        let start = agent.world().clock.now();
        let asked = modellers.iter().map(Found::agent).collect();
        let negotiation = negotiator.call(asked, proposal).await?;
        let best = in_time(&negotiation);
        let best = best.ok_or_else(|| format!("nobody bids to be in time: {:?}", negotiation.refusals()))?;
        let took_ms = since_ms(agent, start);
        link.note(format!(
            "gets {} bids; the best finishes in {:.1} s",
            negotiation.bids().len(),
            best.finish().as_secs_f64()
        ));
        link.tell(Tell::Did { what: "called for proposals".into(), place: "two modellers".into(), took_ms });
        Ok((negotiation, best))
    }

    /// Has the ring modelled: by the best bidder, and when he fails by the next, under a new agreement.
    async fn model(
        &self,
        spec: TaskSpec,
        negotiation: &mut Negotiation,
        first: Bid,
    ) -> Outcome<(Vec<Record>, Vec<(String, String)>)> {
        let mut records: Vec<Record> = Vec::new();
        let mut next = Some(first);
        while let Some(bid) = next {
            let agreement = match negotiation.award(bid.id()).await {
                Ok(agreement) => agreement,
                Err(error) => {
                    let (lost, text) = (bid.participant().to_string(), format!("does not sign: {error}"));
                    self.link.tell(Tell::Incident { lost, text });
                    next = in_time(negotiation);
                    continue;
                }
            };
            self.agreed(&agreement, "signed", false);
            let start = self.agent.world().clock.now();
            let result = self
                .run(
                    TaskSpec { program: diai::tasks::Program::Wasm(bid_program(&bid)?), ..spec.clone() },
                    bid.participant(),
                )
                .await;
            // A model that is not right, or not delivered, is none.
            let accepted = match result {
                Ok(output) => {
                    let (what, took_ms) = ("modelled the ring".to_owned(), since_ms(self.agent, start));
                    self.link.tell(Tell::Did { what, place: output.worker.to_string(), took_ms });
                    self.accept(&output).await
                }
                Err(error) => Err(error),
            };
            match accepted {
                Ok(facts) => {
                    self.agreed(&agreement, "fulfilled", false);
                    records.push(Record { agreement, state: "fulfilled", reason: None });
                    return Ok((records, facts));
                }
                Err(error) => {
                    negotiation.failed()?;
                    self.agreed(&agreement, "failed", true);
                    records.push(Record { agreement, state: "failed", reason: Some(error.to_string()) });
                    next = in_time(negotiation);
                    if let Some(next) = &next {
                        let text = "is lost; the second bid gets an agreement of its own".to_owned();
                        self.link.tell(Tell::Incident { lost: bid.participant().to_string(), text });
                        tracing::debug!(next = %next.participant(), "next bid");
                    }
                }
            }
        }
        Err("no bidder brought a model".into())
    }

    fn agreed(&self, agreement: &Agreement, state: &str, failed: bool) {
        let (with, terms) = (agreement.participant().to_string(), agreement::terms(agreement));
        self.link.tell(Tell::Agreed { with, terms, state: state.to_owned(), failed });
    }

    async fn run(&self, spec: TaskSpec, worker: AgentId) -> Outcome<Output> {
        let mut run = self.agent.tasks().run_on(spec, vec![worker]);
        let events = run.events();
        let watch = async {
            let Some(mut events) = events else { return };
            while let Some(event) = events.next().await {
                if let RunEvent::Progress { agent, progress } = event {
                    let percent = percent(progress.done, progress.total);
                    let (task, worker) = ("models the ring".to_owned(), agent.to_string());
                    self.link.tell(Tell::Progress { task, worker, percent });
                }
            }
        };
        let (output, ()) = futures::join!(run.result(), watch);
        Ok(output?)
    }

    /// Checks the model and has the modeller deliver it.
    async fn accept(&self, output: &Output) -> Outcome<Vec<(String, String)>> {
        let agent = self.agent;
        let file = |name: &str| output.file(name).ok_or_else(|| format!("the modeller's program made no {name}"));
        let model = agent.tasks().content(file("model.stl")?).await?;
        let facts = stl::check(&model)?;
        let files = [("model/model.stl", "model.stl"), ("model/model.png", "model.png")];
        let files = files.map(|(path, name)| Ok::<_, String>((path.to_owned(), file(name)?.cid.to_string())));
        let delivery = Delivery { files: files.into_iter().collect::<Result<_, _>>()? };
        let body = serde_json::to_vec(&delivery)?;
        let options = CallOptions::within(Duration::from_secs(30)).idempotent();
        agent.messaging().call(output.worker, DELIVER, body.into(), options).await?;
        let [x, y, z] = facts.size_mm;
        Ok(vec![
            ("Triangles".into(), facts.triangles.to_string()),
            ("Closed bodies".into(), facts.shells.to_string()),
            ("Size".into(), format!("{x:.1} x {y:.1} x {z:.1} mm")),
            ("Watertight".into(), "yes: every edge is shared by exactly two triangles".into()),
            (
                "Work".into(),
                format!(
                    "{:.1} s, {:.1} billion operations, signed by the worker",
                    output.usage.wall_ms as f64 / 1000.0,
                    output.usage.fuel as f64 / 1e9
                ),
            ),
        ])
    }

    async fn analyse(&self, analyst: AgentId, market: &[String]) -> Outcome {
        let body = serde_json::to_vec(market)?;
        let options = CallOptions::within(Duration::from_secs(100));
        self.agent.messaging().call(analyst, ANALYSE, body.into(), options).await?;
        Ok(())
    }
}

/// The bid that finishes first, if that is by the deadline.
fn in_time(negotiation: &Negotiation) -> Option<Bid> {
    negotiation.bids().into_iter().next().filter(|bid| bid.finish() <= MODEL_WITHIN)
}

/// The program that a bidder offers to run.
fn bid_program(bid: &Bid) -> Outcome<diai::Cid> {
    Ok(std::str::from_utf8(&bid.offer().extra)?.parse()?)
}
