use std::{net::SocketAddr, sync::Arc};

use diai_core::World;

use super::Blocks;
use crate::{
    fetch::{Fetcher, LastResort},
    gateway::{ConfigError, GatewayClient, GatewayConfig, GatewayServer, Tcp},
    serve::ServeRule,
};

/// `fetcher`, with the gateways that are asked last behind it, and our own, which keeps to `rule` if it has none itself.
pub(super) async fn start(
    world: &World,
    fetcher: Fetcher,
    config: GatewayConfig,
    rule: ServeRule,
) -> Result<(Fetcher, Option<GatewayServer>), ConfigError> {
    let mut resort: Option<Arc<dyn LastResort>> = None;
    if !config.client.urls.is_empty() {
        let (clock, pool) = (world.clock.clone(), world.offload.clone());
        resort = Some(Arc::new(GatewayClient::new(config.client, Arc::new(Tcp), clock, pool)?));
    }
    let server = match config.server {
        Some(mut server) => {
            if server.rule == ServeRule::default() {
                server.rule = rule;
            }
            Some(GatewayServer::start(world, fetcher.store.clone(), server).await?)
        }
        None => None,
    };
    Ok((fetcher.with_last_resort(resort), server))
}

impl Blocks {
    /// Where blocks are served over HTTP, if they are.
    pub fn gateway_addr(&self) -> Option<SocketAddr> {
        self.0.gateway.as_ref().map(GatewayServer::addr)
    }
}
