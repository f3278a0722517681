//! The agents of the story. Each is a process of its own, with keys and data of its own.

mod analyst;
mod bystander;
mod collaborator;
mod creator;
mod modeller;
mod source;

use std::{collections::BTreeMap, error::Error, sync::Arc, time::Duration};

use clap::ValueEnum;
use diai::{Agent, AgentBuilder, AgentId, FindOptions, Preset, StreamExt, core::PeerEvent, discovery::Found};

use crate::{
    Args,
    link::{Link, Order, Tell},
};

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// How long to look for somebody before giving up.
const FIND_WITHIN: Duration = Duration::from_secs(30);
/// Between one lookup and the next.
const BETWEEN_LOOKUPS: Duration = Duration::from_millis(50);
/// One lookup; several are made while too few are found.
const LOOKUP: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    Creator,
    Modeller,
    SecondModeller,
    Analyst,
    Source,
    Bystander,
}

impl Role {
    pub(crate) const fn capabilities(self) -> &'static [&'static str] {
        match self {
            Self::Creator => &["ideas/jewelry"],
            Self::Modeller | Self::SecondModeller => &["modeling/3d/jewelry"],
            Self::Analyst => &["market/analysis"],
            Self::Source => &["market/data/diamonds"],
            Self::Bystander => &["storage/blocks"],
        }
    }
}

/// Plays one role to its end.
pub(crate) async fn play(role: Role, args: &Args) -> Outcome {
    let link = Arc::new(Link::new());
    let outcome = act(role, args, &link).await;
    if let Err(error) = &outcome {
        link.tell(Tell::Failed { error: error.to_string() });
    }
    outcome
}

async fn act(role: Role, args: &Args, link: &Arc<Link>) -> Outcome {
    let data_dir = args.data_dir.clone().ok_or("a role needs a data folder")?;
    let builder =
        Agent::builder().data_dir(&data_dir).preset(Preset::Test).serve_tasks(role != Role::Creator).register_later();
    let builder = args.contact.iter().cloned().fold(builder, AgentBuilder::contact);
    let builder = role.capabilities().iter().fold(builder, |builder, path| builder.capability(*path));
    let alone = args.contact.is_empty();
    match role {
        Role::Creator => creator::play(builder, link).await,
        Role::Modeller => modeller::play(builder, link, modeller::Pace::QUICK).await,
        Role::SecondModeller => modeller::play(builder, link, modeller::Pace::STEADY).await,
        Role::Analyst => analyst::play(builder, link, args.sources.unwrap_or(3)).await,
        Role::Source => source::play(builder, link, &data_dir, args.sources.unwrap_or(3)).await,
        Role::Bystander => bystander::play(builder, link, alone).await,
    }
}

/// Says that the agent is up, lets others find it now that its services are there, and waits until it has met somebody.
async fn enter(agent: &Agent, link: &Link, alone: bool) -> Outcome {
    let mut events = agent.world().network.events();
    let addrs = agent.status().addrs.iter().map(ToString::to_string).collect();
    link.tell(Tell::Ready { agent: agent.id().to_string(), addrs });
    agent.register().await;
    let met = || agent.world().network.peers().iter().any(|peer| peer.agent.is_some());
    while !alone && !met() {
        match events.next().await {
            Some(PeerEvent::Connected(_) | PeerEvent::Missed) => {}
            Some(_) => {}
            None => return Err("the network ended".into()),
        }
    }
    Ok(())
}

/// Looks until `wanted` agents other than this one offer `path`.
async fn find(agent: &Agent, path: &str, wanted: usize) -> Outcome<Vec<Found>> {
    let clock = &agent.world().clock;
    let deadline = clock.now() + FIND_WITHIN;
    let path = path.parse()?;
    let mut found: BTreeMap<AgentId, Found> = BTreeMap::new();
    let mut first = true;
    while found.len() < wanted {
        if !std::mem::take(&mut first) {
            // Those who are missing are only about to join.
            clock.sleep_until(clock.now() + BETWEEN_LOOKUPS).await;
        }
        if clock.now() >= deadline {
            return Err(format!("only {} of {wanted} agents offer {path} within {FIND_WITHIN:?}", found.len()).into());
        }
        let mut lookup = agent.discovery().find(&path, FindOptions::within(LOOKUP));
        while let Some(one) = lookup.next().await {
            found.insert(one.agent(), one);
            if found.len() == wanted {
                break;
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Obeys orders that need nothing but the end, until it comes.
async fn until_the_end(agent: &Agent, link: &Link) {
    while link.order().await != Order::End {}
    agent.shutdown().await;
}

/// Milliseconds since `start` by the agent's clock.
fn since_ms(agent: &Agent, start: diai::core::Instant) -> u64 {
    u64::try_from(agent.world().clock.now().since(start).as_millis()).unwrap_or(u64::MAX)
}
