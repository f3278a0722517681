//! Agents and gateways: what no peer has comes from one, and what an agent has is served by its own.

#![cfg(feature = "gateway")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail, and has real sockets")]

mod common;
mod web;

use std::{sync::Arc, time::Duration};

use common::{TestCalls, identity, join, noise};
use diai_blocks::{
    Blocks, BlocksConfig, Cid,
    fetch::FetchOptions,
    gateway::{ClientConfig, ConfigError, GatewayConfig},
    handle::{AddOptions, StartError},
    serve::Asker,
};
use diai_core::{World, memory::Sim, os::OsClock};
use web::{Scripted, any_port, ask, pool};

/// An agent without peers, whose time and threads are those of this machine, as its sockets are.
async fn lonely(sim: &Sim, number: u64, gateway: GatewayConfig) -> Result<(World, Blocks), StartError> {
    let identity = identity(sim, number);
    let world = World { clock: Arc::new(OsClock::new()), offload: pool(), ..join(sim, &identity) };
    let calls = TestCalls::start(&world, identity.agent());
    let blocks = Blocks::start(&world, identity, calls, BlocksConfig { gateway, ..BlocksConfig::default() }).await?;
    Ok((world, blocks))
}

fn asking(urls: Vec<String>) -> GatewayConfig {
    GatewayConfig { client: ClientConfig { urls, patience: Duration::ZERO, ..ClientConfig::default() }, server: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_agent_serves_comes_to_another_that_no_peer_connects_to_it() {
    let serving = GatewayConfig { server: Some(any_port()), ..GatewayConfig::default() };
    let (_, alice) = lonely(&Sim::new(1), 1, serving).await.unwrap();
    let files: Vec<_> = (0..300).map(|n| (format!("file-{n:03}"), noise(n, 2000 * n as usize))).collect();
    let added = alice.add_files(files, AddOptions::default()).await.unwrap();
    let useless = Scripted::answering(404, "", b"").await;
    let urls = vec![format!("http://{}", useless.addr), format!("http://{}", alice.gateway_addr().unwrap())];
    let (world, bob) = lonely(&Sim::new(2), 2, asking(urls)).await.unwrap();
    let options = FetchOptions::until(world.clock.now() + Duration::from_secs(120));
    let got = bob.fetch(added.cid, &options).await.unwrap();
    assert!(got.blocks > 300 && got.bytes > added.bytes, "{got:?}");
    bob.fetch(added.cid, &options).await.unwrap();
    assert_eq!(bob.status().await.unwrap().store.blocks, alice.status().await.unwrap().store.blocks);
    assert_eq!(useless.requests().len(), 1);
    alice.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_make_no_sense_are_told_at_the_start() {
    let started = lonely(&Sim::new(3), 1, asking(vec!["ftp://example.org".into()])).await;
    assert!(matches!(started, Err(StartError::Gateway(ConfigError::Url { .. }))));
    let (_, first) =
        lonely(&Sim::new(4), 2, GatewayConfig { server: Some(any_port()), ..Default::default() }).await.unwrap();
    let taken = diai_blocks::gateway::ServerConfig { addr: first.gateway_addr().unwrap(), ..Default::default() };
    let started = lonely(&Sim::new(5), 3, GatewayConfig { server: Some(taken), ..Default::default() }).await;
    assert!(matches!(started, Err(StartError::Gateway(ConfigError::Listen { .. }))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_fetched_by_nobody_else_is_not_served_over_http() {
    let (sim, identity) = (Sim::new(3), identity(&Sim::new(3), 3));
    let world = World { clock: Arc::new(OsClock::new()), offload: pool(), ..join(&sim, &identity) };
    let calls = TestCalls::start(&world, identity.agent());
    let gateway = GatewayConfig { server: Some(any_port()), ..GatewayConfig::default() };
    let policy = |asker: &Asker, _: &Cid| asker.agent.is_some();
    let config = BlocksConfig { gateway, ..BlocksConfig::default().serving(policy) };
    let blocks = Blocks::start(&world, identity, calls, config).await.unwrap();
    let cid = blocks.add_bytes(noise(1, 100), AddOptions::default()).await.unwrap().cid;
    let answer = ask(blocks.gateway_addr().unwrap(), &format!("GET /ipfs/{cid}?format=raw HTTP/1.1")).await;
    assert_eq!(answer.status, 404);
}
