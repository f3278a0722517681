//! A gateway of our own.

mod answer;
mod car;
mod path;
mod served;

use std::{convert::Infallible, fmt, net::SocketAddr, sync::Arc, time::Duration};

use diai_core::{Clock, World};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use self::answer::Shop;
use super::{
    ConfigError, ServerConfig,
    pace::{Pace, Paced, WorldTimer},
    sockets::{Connection, Listen, Tcp},
};
use crate::BlockStore;

/// Of the beginning of a request.
const MAX_HEADER_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// What hyper reads and gathers at once.
const BUFFER_BYTES: usize = 32 << 10;
/// What must be read of an answer in each window of a stall.
const PACE_BYTES: u64 = 64 << 10;
/// When the operating system gives no connection, such as for want of files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A gateway that serves what is stored here, and fetches nothing for those who ask. Ends when it is dropped.
pub struct GatewayServer {
    addr: SocketAddr,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for GatewayServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayServer").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl GatewayServer {
    /// Serves `store` at the address of `config`, by TCP.
    pub async fn start(world: &World, store: BlockStore, config: ServerConfig) -> Result<Self, ConfigError> {
        let addr = config.addr;
        let listener = Tcp.listen(addr).await.map_err(|source| ConfigError::Listen { addr, source })?;
        Ok(Self::serve(world.clock.clone(), store, config, Box::new(listener)))
    }

    /// Serves `store` to whoever `listener` brings.
    pub fn serve(clock: Arc<dyn Clock>, store: BlockStore, config: ServerConfig, listener: Box<dyn Listen>) -> Self {
        let addr = listener.addr();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(clock.clone(), Arc::new(Shop::new(config, store, clock)), listener));
        Self { addr, tasks: Mutex::new(tasks) }
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends it, with all connections.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
    }
}

async fn accept(clock: Arc<dyn Clock>, shop: Arc<Shop>, listener: Box<dyn Listen>) {
    let mut connections = JoinSet::new();
    loop {
        // Whoever holds a connection and asks for nothing loses it soon, so that none waits for long.
        let full = connections.len() >= shop.config.max_connections.max(1);
        let accepted = tokio::select! {
            biased;
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if !full => accepted,
        };
        match accepted {
            Ok(connection) => drop(connections.spawn(serve(clock.clone(), shop.clone(), connection))),
            Err(error) => {
                tracing::debug!(%error, "no connection of the gateway could be accepted");
                clock.sleep_until(clock.now() + ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn serve(clock: Arc<dyn Clock>, shop: Arc<Shop>, connection: Box<dyn Connection>) {
    let pace = Pace { bytes: PACE_BYTES, window: shop.config.stall, reads: false };
    let stream = TokioIo::new(Paced::new(connection, clock.clone(), pace));
    let timeout = shop.config.header_timeout;
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let shop = shop.clone();
        async move { Ok::<_, Infallible>(shop.answer(request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(WorldTimer::new(clock)).header_read_timeout(timeout);
    builder.max_buf_size(BUFFER_BYTES).max_header_size(MAX_HEADER_BYTES).max_headers(MAX_HEADERS);
    if let Err(error) = builder.serve_connection(stream, service).await {
        tracing::debug!(%error, "a connection of the gateway ended");
    }
}
