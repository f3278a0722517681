//! Agents on loopback, over TCP only.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use diai::{Agent, AgentBuilder, Multiaddr, PeerId, Preset, Reply};

use crate::{Failure, Result};

/// The service that sends back what it gets.
pub(crate) const ECHO: &str = "echo";
/// How long anything may take before the run is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The settings of an agent whose data is in `folder/name`.
pub(crate) fn agent(folder: &Path, name: &str) -> AgentBuilder {
    let tcp = "/ip4/127.0.0.1/tcp/0".parse().expect("an address");
    Agent::builder().data_dir(folder.join(name)).preset(Preset::Test).listen(tcp)
}

/// One that echoes.
pub(crate) fn echoing(folder: &Path, name: &str) -> AgentBuilder {
    agent(folder, name).service(ECHO, |request| async move { Ok(Reply::Whole(request.body)) })
}

/// One that echoes, and one that is connected to it.
pub(crate) async fn pair(folder: PathBuf) -> Result<(Agent, Agent)> {
    let server = echoing(&folder, "server").start().await?;
    let client = agent(&folder, "client").start().await?;
    connect(&client, &server).await?;
    Ok((server, client))
}

/// Where `agent` listens.
pub(crate) fn addr(agent: &Agent) -> Result<Multiaddr> {
    Ok(agent.status().addrs.into_iter().next().ok_or("the agent listens nowhere")?)
}

/// Connects `one` to `other` and waits until both have said hello.
pub(crate) async fn connect(one: &Agent, other: &Agent) -> Result<PeerId> {
    Ok(one.world().network.dial(addr(other)?).await?.peer)
}

/// Waits until `condition` holds.
pub(crate) async fn until(agent: &Agent, what: &str, condition: impl Fn() -> bool) -> Result<()> {
    let clock = agent.world().clock.clone();
    let deadline = clock.now() + PATIENCE;
    while !condition() {
        if clock.now() > deadline {
            return Err(Failure::from(format!("{what}: not within {PATIENCE:?}")));
        }
        clock.sleep_until(clock.now() + Duration::from_millis(20)).await;
    }
    Ok(())
}
