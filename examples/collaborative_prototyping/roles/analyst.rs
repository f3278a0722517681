//! The analyst sends a program to where the data lies, merges what comes back, and puts the findings into the workspace.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use diai::{
    Agent, AgentBuilder, AgentId, Bytes, Calls, Cid, Refusal, Reply, StreamExt, TaskSpec,
    blocks::AddOptions,
    core::{BoxFuture, service_fn},
    tasks::{Artifact, RunEvent},
};
use diai_examples::guests;
use futures::future::try_join_all;
use tokio::sync::Notify;

use super::{
    Outcome,
    collaborator::{self, Membership},
    enter, find, since_ms,
    source::parts_of,
};
use crate::link::{Link, Order, Tell};

/// Analyses the market for a wish: its arguments as JSON.
pub(super) const ANALYSE: &str = "story.analyse";
const DEADLINE: Duration = Duration::from_secs(90);

pub(crate) async fn play(builder: AgentBuilder, link: &Arc<Link>, sources: usize) -> Outcome {
    let agent = builder.start().await?;
    let membership = Arc::new(Membership::open(&agent, link)?);
    let go_on = Arc::new(Notify::new());
    let analyst = Analyst {
        agent: agent.clone(),
        membership: membership.clone(),
        link: link.clone(),
        go_on: go_on.clone(),
        sources,
    };
    let analyse = service_fn(move |request| {
        let analyst = analyst.clone();
        async move {
            let analysed = analyst.analyse(request.body).await;
            analysed.map_err(|error| Refusal::Failed { reason: error.to_string() })?;
            Ok(Reply::Whole(Bytes::new()))
        }
    });
    let _analysing = agent.messaging().register(ANALYSE, analyse)?;
    enter(&agent, link, false).await?;
    link.tell(Tell::Joined);

    loop {
        match link.order().await {
            Order::GoOn => go_on.notify_one(),
            Order::Settle { entries } => {
                collaborator::settle(&agent, link, &membership.workspace().await?, entries).await?;
            }
            Order::End => break,
            _ => {}
        }
    }
    agent.shutdown().await;
    Ok(())
}

#[derive(Clone)]
struct Analyst {
    agent: Agent,
    membership: Arc<Membership>,
    link: Arc<Link>,
    go_on: Arc<Notify>,
    sources: usize,
}

impl Analyst {
    async fn analyse(self, body: Bytes) -> Outcome {
        let wish: Vec<String> = serde_json::from_slice(&body)?;
        let agent = &self.agent;
        let start = agent.world().clock.now();
        let parts = self.parts().await?;
        let holders = parts.iter().map(|(_, holders)| holders.len()).min().unwrap_or_default();
        self.link.note(format!("finds {} parts of the market, each held by {holders} sources", parts.len()));
        self.link.tell(Tell::PartsKnown);
        self.go_on.notified().await;

        let program =
            agent.blocks().add_bytes(Bytes::from_static(guests::MARKET_MAP), AddOptions::default()).await?.cid;
        let mapped = parts.into_iter().enumerate().map(|(index, (cid, holders))| {
            let spec = wish.iter().fold(TaskSpec::wasm(program), |spec, arg| spec.arg(arg));
            let spec = spec.input("part.csv", cid).deadline(DEADLINE);
            Box::pin(self.clone().map(format!("part {}", index + 1), spec, holders))
                as BoxFuture<'static, Outcome<Artifact>>
        });
        let mapped = try_join_all(mapped).await?;

        let reducing = agent.world().clock.now();
        let program = agent.blocks().add_bytes(Bytes::from_static(guests::MARKET_REDUCE), AddOptions::default());
        let mut reduce = TaskSpec::wasm(program.await?.cid).deadline(DEADLINE);
        for (index, part) in mapped.iter().enumerate() {
            reduce = reduce.input(format!("part-{index}"), part.cid);
        }
        let output = agent.tasks().run_on(reduce, vec![agent.id()]).result().await?;
        let took_ms = since_ms(agent, reducing);
        self.link.tell(Tell::Did { what: "merged the parts".into(), place: "here".into(), took_ms });
        let workspace = self.membership.workspace().await?;
        for (name, path) in [("suggestions.json", "market/suggestions.json"), ("market.svg", "market/market.svg")] {
            let artifact = output.file(name).ok_or_else(|| format!("the program made no {name}"))?;
            collaborator::put(&workspace, &self.link, path, agent.tasks().content(artifact).await?).await?;
        }
        let what = "analysed the market".to_owned();
        self.link.tell(Tell::Did { what, place: "at the sources".into(), took_ms: since_ms(agent, start) });
        Ok(())
    }

    /// The parts of the market, each with its owner first and then others who hold it.
    async fn parts(&self) -> Outcome<Vec<(Cid, Vec<AgentId>)>> {
        let sources = find(&self.agent, "market/data", self.sources).await?;
        let mut holders: BTreeMap<_, BTreeSet<AgentId>> = BTreeMap::new();
        for source in &sources {
            for part in parts_of(&self.agent, source.agent()).await? {
                holders.entry(part).or_default().insert(source.agent());
            }
        }
        let mut parts = Vec::new();
        for (part, others) in holders {
            let owner: AgentId = part.owner.parse()?;
            let ranked = std::iter::once(owner).chain(others.into_iter().filter(|&other| other != owner));
            parts.push((part.cid.parse()?, ranked.collect()));
        }
        Ok(parts)
    }

    /// Maps one part at its owner, or at another holder when he is gone.
    async fn map(self, name: String, spec: TaskSpec, holders: Vec<AgentId>) -> Outcome<Artifact> {
        let start = self.agent.world().clock.now();
        let owner = holders[0];
        let mut run = self.agent.tasks().run_on(spec, holders);
        let events = run.events();
        let watch = async {
            let Some(mut events) = events else { return };
            while let Some(event) = events.next().await {
                match event {
                    RunEvent::Progress { agent, progress } => {
                        let percent = percent(progress.done, progress.total);
                        let (task, worker) = (format!("maps {name}"), agent.to_string());
                        self.link.tell(Tell::Progress { task, worker, percent });
                    }
                    RunEvent::WorkerLost { agent, reason } => {
                        let text = format!("was lost to {name} ({reason}); another holder maps it");
                        self.link.tell(Tell::Incident { lost: agent.to_string(), text });
                    }
                    _ => {}
                }
            }
        };
        let (output, ()) = futures::join!(run.result(), watch);
        let output = output?;
        if output.worker != owner {
            self.link.note(format!("{name} was mapped by the source that holds its copy"));
        }
        let (what, took_ms) = (format!("mapped {name} of the market"), since_ms(&self.agent, start));
        self.link.tell(Tell::Did { what, place: output.worker.to_string(), took_ms });
        Ok(output.file("part.txt").ok_or("the program made no part")?.clone())
    }
}

pub(super) fn percent(done: u64, total: u64) -> u32 {
    u32::try_from(done.saturating_mul(100).checked_div(total).unwrap_or(0).min(100)).unwrap_or(100)
}
