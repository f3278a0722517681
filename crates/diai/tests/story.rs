//! Ten agents live through the collaborative story in small, under virtual time: twice with one seed they do the very
//! same.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::{sync::Arc, thread, time::Duration};

use common::{HELLO, add, common_root, connect, find, ids, start, tree, within};
use diai::{
    Agent, AgentBuilder, AgentId, Bytes, CallOptions, Calls, Cid, Refusal, StreamExt, TaskSpec,
    blocks::{AddOptions, FetchOptions, Workspace, workspace::JoinError},
    core::{BoxFuture, Registration, memory::Sim, service_fn},
    messaging::negotiation::{
        Agreement, Bidder, Bidding, Call, CallForProposals, Ending, NegotiationId, Negotiator, Offer, When,
    },
    tasks::Input,
};

/// What a run came to: equal for all seeds but for `root`, which is a function of the keys.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    awarded: AgentId,
    model: Bytes,
    /// Each part of the market by its place, who read it, and what came of it.
    market: Vec<(usize, AgentId, Bytes)>,
    tree: Vec<(String, Bytes)>,
}

#[derive(Debug, PartialEq, Eq)]
struct Run {
    account: Account,
    root: Cid,
    trace: u64,
    ended: diai::core::Instant,
}

/// Ten agents. Who is who is settled by their numbers.
struct Cast {
    creator: Agent,
    modellers: [Agent; 2],
    analyst: Agent,
    sources: [Agent; 3],
    bystanders: [Agent; 3],
}

async fn cast(sim: &Sim) -> Cast {
    let with = |paths: &[&str]| paths.iter().fold(Agent::builder(), |builder, path| builder.capability(*path));
    let worker = |paths: &[&str]| AgentBuilder::serve_tasks(with(paths), true);
    let source = ["market/data/diamonds"];
    let cast = Cast {
        bystanders: [
            start(sim, 1, Agent::builder()).await,
            start(sim, 2, with(&["weather"])).await,
            start(sim, 3, worker(&[])).await,
        ],
        creator: start(sim, 4, Agent::builder()).await,
        modellers: [
            start(sim, 5, worker(&["modeling/3d/jewelry"])).await,
            start(sim, 6, worker(&["modeling/3d"])).await,
        ],
        analyst: start(sim, 7, worker(&["market/analysis"])).await,
        sources: [
            start(sim, 8, worker(&source)).await,
            start(sim, 9, worker(&source)).await,
            start(sim, 10, worker(&source)).await,
        ],
    };
    // Everyone joins through one of them.
    for agent in cast.everyone() {
        if agent.id() != cast.bystanders[0].id() {
            connect(agent, &cast.bystanders[0]).await;
        }
    }
    cast
}

impl Cast {
    fn everyone(&self) -> impl Iterator<Item = &Agent> {
        let (alone, some) = ([&self.creator, &self.analyst], [&self.modellers[..], &self.sources, &self.bystanders]);
        alone.into_iter().chain(some.into_iter().flatten())
    }

    async fn shutdown(self) {
        for agent in self.everyone() {
            agent.shutdown().await;
        }
    }
}

/// Offers to be done in so many seconds.
struct Modeller(u64);

impl Bidder for Modeller {
    fn bid(&self, call: Call) -> BoxFuture<'static, Result<Offer, String>> {
        let run = Duration::from_secs(self.0);
        let known = call.kind() == "model/1";
        Box::pin(async move { if known { Ok(Offer { run, ..Offer::default() }) } else { Err("no model".to_owned()) } })
    }

    fn awarded(&self, _: Agreement) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn ended(&self, _: NegotiationId, _: Ending) {}
}

fn negotiator(agent: &Agent) -> Negotiator {
    Negotiator::new(agent.world(), Arc::new(agent.messaging().clone()), agent.identity().clone())
}

/// Both modellers bid; the one that is done first is awarded, and both have signed.
async fn negotiate(cast: &Cast) -> (Agreement, Vec<Bidding>) {
    let bidding = [3, 2].into_iter().zip(&cast.modellers);
    let bidding =
        bidding.map(|(seconds, modeller)| negotiator(modeller).serve(Arc::new(Modeller(seconds))).unwrap()).collect();
    let modellers = find(&cast.creator, "modeling", 2).await;
    assert_eq!(modellers, ids(&cast.modellers));
    let proposal = CallForProposals {
        kind: "model/1".to_owned(),
        subject: Bytes::from_static(b"a ring"),
        bids_within: Duration::from_secs(2),
        valid_for: Duration::from_secs(60),
    };
    let mut negotiation = negotiator(&cast.creator).call(modellers, proposal).await.unwrap();
    let bids = negotiation.bids();
    assert_eq!(bids.len(), 2, "{:?}", negotiation.refusals());
    assert!(bids[0].finish() < bids[1].finish());
    let agreement = negotiation.award(bids[0].id()).await.unwrap();
    agreement.verify(When::At(cast.creator.world().clock.wall())).unwrap();
    negotiation.close().await;
    (agreement, bidding)
}

/// Two parts of the market lie sealed at two sources; the program goes there.
async fn ask_the_market(cast: &Cast, program: Cid) -> Vec<(usize, AgentId, Bytes)> {
    let sources = find(&cast.analyst, "market/data", 3).await;
    assert_eq!(sources, ids(&cast.sources));
    let mut inputs = Vec::new();
    for (index, source) in cast.sources[..2].iter().enumerate() {
        let readers = [&cast.analyst, &cast.sources[2]].map(|agent| agent.identity().certificate());
        let part = format!("carat,price\n0.{},{}\n", index + 3, 500 * (index + 1));
        let part = source.blocks().add_bytes(part, AddOptions::sealed_for(readers.to_vec())).await.unwrap();
        inputs.push(Input::new("part.csv", part.cid));
    }
    let mut market = Vec::new();
    let mut results = cast.analyst.tasks().map_on(TaskSpec::wasm(program).arg("market"), inputs, sources);
    while let Some((index, output)) = results.next().await {
        let output = output.unwrap();
        assert_eq!(output.worker, cast.sources[index].id(), "the program goes to who holds the part");
        market.push((index, output.worker, cast.analyst.tasks().content(output.stdout()).await.unwrap()));
    }
    market.sort();
    market
}

/// Serves invitations: whoever is invited joins.
fn accept_invitations(agent: &Agent) -> Registration {
    let blocks = agent.blocks().clone();
    let join = move |request: diai::Request| {
        let blocks = blocks.clone();
        async move {
            let joined = blocks.join_workspace(request.body).await;
            joined.map(|_| Bytes::new().into()).map_err(|error| Refusal::Failed { reason: error.to_string() })
        }
    };
    agent.messaging().register("story.invitation", service_fn(join)).unwrap()
}

/// Four share what came of it, and end with the same root and equal trees.
async fn share_results(cast: &Cast, account: &[(&str, &Bytes)]) -> (Workspace, Cid) {
    let team = [&cast.creator, &cast.modellers[1], &cast.analyst, &cast.sources[0]];
    let members = team[1..].iter().map(|agent| agent.identity().certificate()).collect();
    let first = cast.creator.blocks().create_workspace("ring-project", members).await.unwrap();
    let mut workspaces = vec![first.clone()];
    for agent in &team[1..] {
        let _accepting = accept_invitations(agent);
        let calls = cast.creator.messaging();
        calls.call(agent.id(), "story.invitation", first.invitation(), CallOptions::default()).await.unwrap();
        workspaces.push(agent.blocks().workspace(first.id()).unwrap());
    }
    for (workspace, (path, content)) in workspaces.iter().zip(account) {
        workspace.put(path, Bytes::clone(content)).await.unwrap();
    }
    let root = common_root(&team, &workspaces, account.len()).await;
    let expected = tree(&first).await;
    assert_eq!(expected.len(), account.len());
    for workspace in &workspaces {
        assert_eq!(tree(workspace).await, expected);
    }
    (first, root)
}

/// A bystander fetches the root whole, and finds neither name nor byte of the content in it.
async fn look_from_outside(eve: &Agent, workspace: &Workspace, root: Cid, secrets: &[&[u8]]) {
    eve.blocks().fetch(root, &FetchOptions::until(within(eve, 60))).await.unwrap();
    let mut blocks = 0;
    for stored in eve.blocks().store().store().list(None, 1000) {
        let block = eve.blocks().store().get(&Cid::new_v1(0x55, stored.hash)).await.unwrap().unwrap();
        blocks += 1;
        for secret in secrets {
            assert!(block.windows(secret.len()).all(|window| window != *secret), "{secret:?} can be read");
        }
    }
    assert!(blocks > 8, "four heads and four parts, at least");
    for entry in workspace.list() {
        assert!(eve.blocks().open_sealed(entry.root, 1 << 20, within(eve, 10)).await.is_err());
    }
    let error = eve.blocks().join_workspace(workspace.invitation()).await.unwrap_err();
    assert!(matches!(error, JoinError::NotForYou), "{error}");
}

/// Lives through the story once.
fn live(seed: u64) -> Run {
    let sim = Sim::new(seed);
    let (account, root) = sim.run(async {
        let cast = cast(&sim).await;
        let (agreement, bidding) = negotiate(&cast).await;
        let awarded = agreement.participant();
        let program = add(&cast.creator, HELLO).await;
        let output = cast.creator.tasks().run_on(TaskSpec::wasm(program).arg("ring"), vec![awarded]).await.unwrap();
        assert_eq!(output.worker, awarded);
        let model = cast.creator.tasks().content(output.stdout()).await.unwrap();
        let market = ask_the_market(&cast, program).await;
        let results = [
            ("idea.toml", &Bytes::from_static(b"budget = 4000")),
            ("model.stl", &model),
            ("market/report.json", &market[0].2),
            ("market/terms.txt", &market[1].2),
        ];
        let (workspace, root) = share_results(&cast, &results).await;
        let secrets: [&[u8]; 6] = [b"idea.toml", b"budget", b"ring", b"report", b"carat", b"hello"];
        look_from_outside(&cast.bystanders[1], &workspace, root, &secrets).await;
        let account = Account { awarded, model, market, tree: tree(&workspace).await };
        drop(bidding);
        cast.shutdown().await;
        (account, root)
    });
    Run { account, root, trace: sim.trace_hash(), ended: sim.now() }
}

#[test]
fn ten_agents_live_through_the_story_twice_with_one_seed_and_do_the_very_same() {
    // On threads of their own, so that neither their hash seeds nor the load of the machine are the same.
    let [first, again, other] = thread::scope(|scope| {
        let runs = [20, 20, 21].map(|seed| scope.spawn(move || live(seed)));
        runs.map(|run| run.join().unwrap())
    });
    assert_eq!(again, first);
    assert_eq!(first.account.model, "hello, ring\n");
    let parts: Vec<_> = first.account.market.iter().map(|(_, _, part)| part.clone()).collect();
    assert_eq!(parts, ["hello, market\ncarat,price\n0.3,500\n", "hello, market\ncarat,price\n0.4,1000\n"]);
    assert_eq!(other.account, first.account, "chance changes when, not what");
    assert_ne!((other.trace, other.ended), (first.trace, first.ended));
    assert_ne!(other.root, first.root, "every workspace has keys of its own");
}
