//! What is kept: pins, the collection of all else, the check of everything, and who else has it.

use std::time::Duration;

use diai::{
    Agent, Cid, StreamExt,
    blocks::{FetchError, FetchOptions, PinContentError, PinError, PinKind, PinOptions, PinState, fetch::provider_key},
};
use serde_json::{Value, json};

use crate::{
    command::{cid, seconds},
    output::Failure,
};

/// How long `pin` waits for what is missing, if it is not told.
const PIN_WITHIN: Duration = Duration::from_secs(600);
const PROVIDERS_WITHIN: Duration = Duration::from_secs(20);
/// Providers that are shown.
const MAX_PROVIDERS: usize = 100;

#[derive(Debug, PartialEq)]
pub(crate) enum Keep {
    Pin { cid: Cid, name: Option<String>, within: Duration },
    Unpin(Cid),
    Pins,
    Gc,
    Verify,
    Providers(Cid),
}

impl Keep {
    pub(crate) fn parse(name: &str, words: &[String]) -> Result<Self, String> {
        match (name, words) {
            ("pin", [pinned @ .., option, within]) if option == "--within" && !pinned.is_empty() => {
                Self::pin(pinned, seconds(option, Some(within.clone()))?)
            }
            ("pin", pinned) => Self::pin(pinned, PIN_WITHIN),
            ("unpin", [root]) => Ok(Self::Unpin(cid(root)?)),
            ("providers", [root]) => Ok(Self::Providers(cid(root)?)),
            ("unpin" | "providers", _) => Err(format!("{name} needs a CID")),
            ("pins", []) => Ok(Self::Pins),
            ("gc", []) => Ok(Self::Gc),
            ("verify", []) => Ok(Self::Verify),
            _ => Err(format!("{name} takes nothing after it")),
        }
    }

    fn pin(words: &[String], within: Duration) -> Result<Self, String> {
        match words {
            [root] => Ok(Self::Pin { cid: cid(root)?, name: None, within }),
            [root, name] => Ok(Self::Pin { cid: cid(root)?, name: Some(name.clone()), within }),
            _ => Err("pin needs a CID, and may have a name and --within SECONDS".into()),
        }
    }
}

pub(crate) async fn perform(agent: &Agent, command: Keep) -> Result<Value, Failure> {
    match command {
        Keep::Pin { cid, name, within } => pin(agent, cid, name, within).await,
        Keep::Unpin(cid) => {
            let unpinned = agent.blocks().unpin(cid).await.map_err(store)?;
            if unpinned { Ok(json!({ "cid": cid.to_string() })) } else { Err(not_pinned(cid)) }
        }
        Keep::Pins => pins(agent).await,
        Keep::Gc => {
            let collected = agent.blocks().gc().await.map_err(store)?;
            Ok(json!({ "blocks": collected.blocks, "bytes": collected.bytes, "kept": collected.kept }))
        }
        Keep::Verify => {
            let found = agent.blocks().verify(None).await.map_err(store)?;
            let missing =
                found.missing.iter().map(|missing| json!({ "cid": missing.cid.to_string(), "pin": missing.pin }));
            Ok(json!({
                "blocks": found.blocks,
                "bytes": found.bytes,
                "pins": found.pins,
                "damaged": found.damaged.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "missing": missing.collect::<Vec<_>>(),
            }))
        }
        Keep::Providers(cid) => providers(agent, cid).await,
    }
}

fn store(error: impl ToString) -> Failure {
    Failure::new("store", error)
}

fn not_pinned(cid: Cid) -> Failure {
    Failure::new("not_found", format!("{cid} is not pinned; pins lists what is"))
}

async fn pin(agent: &Agent, cid: Cid, name: Option<String>, within: Duration) -> Result<Value, Failure> {
    let options = PinOptions { name, ..PinOptions::default() };
    let fetch = FetchOptions::until(agent.world().clock.now() + within);
    agent.blocks().pin_with(cid, &options, &fetch).await.map_err(|error| {
        let code = match &error {
            PinContentError::Fetch(FetchError::NotFound { .. }) => "not_found",
            PinContentError::Pin(PinError::Name { .. }) => "usage",
            _ => "store",
        };
        Failure::new(code, error)
    })?;
    Ok(json!({ "cid": cid.to_string(), "name": options.name }))
}

async fn pins(agent: &Agent) -> Result<Value, Failure> {
    let pins = agent.blocks().pins().await.map_err(store)?;
    let pins = pins.iter().map(|pin| {
        json!({
            "cid": pin.root.to_string(),
            // Pins of workspaces go by the names that those gave them.
            "name": pin.given_name().or((!pin.is_user_set()).then_some(&pin.name)),
            "kind": if pin.kind == PinKind::Direct { "direct" } else { "recursive" },
            "state": if pin.state == PinState::Pending { "pending" } else { "complete" },
        })
    });
    Ok(json!({ "pins": pins.collect::<Vec<_>>() }))
}

async fn providers(agent: &Agent, cid: Cid) -> Result<Value, Failure> {
    let world = agent.world();
    let key = provider_key(&cid).ok_or_else(|| Failure::new("usage", format!("{cid} has too long a hash")))?;
    let mut lookup = world.dht.providers(key);
    let deadline = world.clock.now() + PROVIDERS_WITHIN;
    let (mut found, mut failed) = (Vec::new(), None);
    loop {
        tokio::select! {
            biased;
            some = lookup.next() => match some {
                Some(Ok(peers)) => found.extend(peers),
                Some(Err(error)) => failed = Some(error),
                None => break,
            },
            () = world.clock.sleep_until(deadline) => break,
        }
        if found.len() >= MAX_PROVIDERS {
            break;
        }
    }
    if let Some(error) = failed.filter(|_| found.is_empty()) {
        return Err(Failure::new("unreachable", error));
    }
    found.sort_unstable();
    found.dedup();
    let connected = world.network.peers();
    let providers = found.iter().take(MAX_PROVIDERS).map(|peer| {
        let known = connected.iter().find(|info| info.peer == *peer).and_then(|info| info.agent);
        let agent = if *peer == world.network.local_peer() { Some(agent.id()) } else { known };
        json!({ "agent": agent.map(|agent| agent.to_string()), "peer": peer.to_string() })
    });
    Ok(json!({ "cid": cid.to_string(), "providers": providers.collect::<Vec<_>>() }))
}
