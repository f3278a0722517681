//! Finding the one of twenty agents that can do something, by one who just joined: a verified record, against the bare
//! lookup of providers in the DHT, which names devices and proves nothing.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use diai::{Agent, CapabilityPath, FindOptions, StreamExt, discovery::capability_key};
use futures::{FutureExt, future::BoxFuture};

use crate::{
    Bench, Result, agents,
    card::{Row, short},
    contest::{self, Plan, Work, now, work},
};

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let size = if bench.test { 4 } else { 20 };
    let folder = tempfile::tempdir()?;
    let network = Arc::new(bench.on_workers(Network::start(folder.path().to_owned(), size))?);
    let ours = joiner(&network, |seeker, path| {
        async move {
            let mut found = seeker.discovery().find(&path, FindOptions::within(agents::PATIENCE).limit(1));
            found.next().await.expect("one of them offers it");
        }
        .boxed()
    });
    let providers = joiner(&network, |seeker, path| {
        async move {
            assert!(is_provided(&seeker, &path).await, "the DHT names who offers it");
        }
        .boxed()
    });
    let plan = Plan { turn: 1, samples: 20, pieces: 1, throughput: None };
    let contenders = [("diai find", ours), ("DHT providers", providers)];
    let [ours, providers] = contest::run(bench, "find", plan, contenders);
    bench.card.add(Row {
        what: "find by capability among 20 agents, already known, from the local index, p50 (p99)",
        ours: format!("{} ({})", short(ours.p50()), short(ours.p99())),
        bare: format!("the DHT's lookup of providers {}, unverified", short(providers.p50())),
        ratio: format!("{:.2}x the lookup, by {} agents that just joined", ours.over(&providers), ours.len()),
        bar: "none yet",
        met: None,
    });
    bench.runtime.block_on(futures::future::join_all(network.agents.iter().map(Agent::shutdown)));
    Ok(())
}

struct Network {
    folder: PathBuf,
    agents: Vec<Agent>,
    joined: AtomicUsize,
}

/// What the agent of this number offers.
fn capability(number: usize) -> CapabilityPath {
    format!("bench/part-{number}").parse().expect("a path")
}

impl Network {
    /// Starts the agents, and returns when the first of them finds all others.
    async fn start(folder: PathBuf, size: usize) -> Result<Self> {
        let first = agents::agent(&folder, "first").start().await?;
        let mut all = vec![first.clone()];
        for number in 1..size {
            let agent = agents::agent(&folder, &number.to_string()).contact(agents::addr(&first)?);
            all.push(agent.capability(capability(number).as_str()).start().await?);
        }
        let options = FindOptions::within(agents::PATIENCE).limit(size - 1);
        let found = first.discovery().find(&"bench".parse()?, options).count().await;
        if found < size - 1 {
            return Err(format!("{found} of {} agents can be found", size - 1).into());
        }
        // The registrations may still be on their way into the DHT.
        let clock = first.world().clock.clone();
        let deadline = clock.now() + agents::PATIENCE;
        for number in 1..size {
            while !is_provided(&first, &capability(number)).await {
                if clock.now() > deadline {
                    return Err(format!("the DHT does not know who offers {:?}", capability(number)).into());
                }
                clock.sleep_until(clock.now() + Duration::from_millis(50)).await;
            }
        }
        Ok(Self { folder, agents: all, joined: AtomicUsize::new(0) })
    }

    /// Lets a new agent join, and says what it shall look for: not what the agent offers through which it joins.
    async fn join(&self) -> Result<(Agent, CapabilityPath)> {
        let number = self.joined.fetch_add(1, Ordering::Relaxed);
        let seeker = agents::agent(&self.folder, &format!("seeker-{number}")).start().await?;
        let first = agents::connect(&seeker, &self.agents[0]).await?;
        // It has joined when it would ask somebody: a lookup before that asks nobody and ends.
        let (clock, dht) = (seeker.world().clock.clone(), seeker.world().dht.clone());
        while !dht.closest(capability_key(&capability(0))).await.is_ok_and(|closest| closest.contains(&first)) {
            clock.sleep_until(clock.now() + Duration::from_millis(5)).await;
        }
        Ok((seeker, capability(1 + number % (self.agents.len() - 1))))
    }
}

/// Whether a lookup in the DHT names a device that offers it.
async fn is_provided(seeker: &Agent, path: &CapabilityPath) -> bool {
    let mut batches = seeker.world().dht.providers(capability_key(path));
    while let Some(batch) = batches.next().await {
        if batch.is_ok_and(|devices| !devices.is_empty()) {
            return true;
        }
    }
    false
}

/// What `look` takes when an agent does it that just joined.
fn joiner(network: &Arc<Network>, look: fn(Agent, CapabilityPath) -> BoxFuture<'static, ()>) -> Work {
    let network = network.clone();
    work(move || {
        let network = network.clone();
        async move {
            let (seeker, path) = network.join().await.expect("the network lets it join");
            let start = now();
            look(seeker.clone(), path).await;
            let took = start.elapsed();
            seeker.shutdown().await;
            took
        }
    })
}
