//! Agents over the in-memory World, and calls between them over its streams.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use diai_blocks::{
    Block, Cid, DAG_CBOR,
    config::{BlocksConfig, FetchConfig},
    handle::Blocks,
};
use diai_core::{
    AcceptOptions, AgentId, BoxFuture, CallError, CallOptions, Calls, Instant, PeerId, ProtocolId, RegisterError,
    Registration, Reply, ReplyStream, Request, Service, World, frame,
    memory::{AgentSpec, Sim},
};
use diai_identity::{Certificate, Identity};
use futures::{AsyncWriteExt, FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::task::JoinSet;

const CALLS: ProtocolId = ProtocolId::new("/diai/test-calls/1");
const MAX: usize = 16 << 20;

type Services = Arc<Mutex<BTreeMap<String, Arc<dyn Service>>>>;

/// Calls by one stream each: service, body, answer.
pub struct TestCalls {
    agent: AgentId,
    world: World,
    services: Services,
    _task: JoinSet<()>,
}

impl TestCalls {
    pub fn start(world: &World, agent: AgentId) -> Arc<Self> {
        let services = Services::default();
        let mut incoming = world.network.accept(&[CALLS], AcceptOptions::default()).unwrap();
        let (serving, clock) = (services.clone(), world.clock.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut running = FuturesUnordered::new();
            loop {
                tokio::select! {
                    biased;
                    Some(()) = running.next() => {}
                    Some(inbound) = incoming.next() => {
                        let (services, deadline) = (serving.clone(), clock.now() + Duration::from_secs(30));
                        running.push(async move {
                            let mut stream = inbound.stream;
                            let Ok(Some(service)) = frame::read(&mut stream, 200).await else { return };
                            let Ok(Some(body)) = frame::read(&mut stream, MAX).await else { return };
                            let service = String::from_utf8(service.to_vec()).unwrap();
                            let handler = services.lock().unwrap().get(&service).cloned();
                            let Some(handler) = handler else { return };
                            let (from, peer) = (inbound.agent.unwrap(), inbound.peer);
                            let request = Request { from, peer, service: service.into(), body, deadline };
                            if let Ok(Reply::Whole(answer)) = handler.handle(request).await {
                                let _ = frame::write(&mut stream, &answer).await;
                            }
                            let _ = stream.close().await;
                        });
                    }
                    else => return,
                }
            }
        });
        Arc::new(Self { agent, world: world.clone(), services, _task: task })
    }
}

impl Calls for TestCalls {
    fn local_agent(&self) -> AgentId {
        self.agent
    }

    fn call(
        &self,
        agent: AgentId,
        service: &str,
        body: Bytes,
        _: CallOptions,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let (network, service) = (self.world.network.clone(), service.to_owned());
        async move {
            let unreachable = |reason: String| CallError::Unreachable { agent, reason };
            let peer = network.peers().into_iter().find(|info| info.agent == Some(agent)).map(|info| info.peer);
            let peer = peer.ok_or_else(|| unreachable("not connected".into()))?;
            let mut stream = network.open(peer, &[CALLS]).await.map_err(|error| unreachable(error.to_string()))?.stream;
            let broken = |_| CallError::OutcomeUnknown { agent };
            frame::write(&mut stream, service.as_bytes()).await.map_err(broken)?;
            frame::write(&mut stream, &body).await.map_err(broken)?;
            let answer = frame::read(&mut stream, MAX).await.map_err(|_| CallError::OutcomeUnknown { agent })?;
            answer.ok_or(CallError::OutcomeUnknown { agent })
        }
        .boxed()
    }

    fn call_streaming(
        &self,
        _: AgentId,
        _: &str,
        _: Bytes,
        _: CallOptions,
    ) -> BoxFuture<'static, Result<ReplyStream, CallError>> {
        futures::future::ready(Err(CallError::Closed)).boxed()
    }

    fn notify(
        &self,
        to: AgentId,
        service: &str,
        body: Bytes,
        options: CallOptions,
    ) -> BoxFuture<'static, Result<(), CallError>> {
        self.call(to, service, body, options).map(|answer| answer.map(drop)).boxed()
    }

    fn register(&self, service: &str, handler: Arc<dyn Service>) -> Result<Registration, RegisterError> {
        self.services.lock().unwrap().insert(service.to_owned(), handler);
        let (services, service) = (self.services.clone(), service.to_owned());
        Ok(Registration::new(move || drop(services.lock().unwrap().remove(&service))))
    }
}

/// An identity that is a function of a number.
struct Seed(Mutex<u64>);

impl diai_core::Entropy for Seed {
    fn fill(&self, buffer: &mut [u8]) {
        let mut state = self.0.lock().unwrap();
        for byte in buffer {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (*state >> 56) as u8;
        }
    }
}

pub fn identity(sim: &Sim, number: u64) -> Identity {
    Identity::generate(&Seed(Mutex::new(number)), sim.wall())
}

pub fn join(sim: &Sim, identity: &Identity) -> World {
    let (agent, peer, certificate) = (identity.agent(), identity.peer(), identity.certificate().to_bytes());
    sim.join(AgentSpec { agent, peer, certificate })
}

/// A whole agent, as far as blocks go.
pub struct Agent {
    pub identity: Identity,
    pub world: World,
    pub calls: Arc<TestCalls>,
    pub blocks: Blocks,
}

impl Agent {
    pub async fn start(sim: &Sim, number: u64) -> Self {
        let identity = identity(sim, number);
        let world = join(sim, &identity);
        Self::on(world, identity).await
    }

    /// One that asks for single blocks only.
    pub async fn by_bitswap(sim: &Sim, number: u64) -> Self {
        let fetch = FetchConfig { whole_dags: false, ..FetchConfig::default() };
        Self::with(sim, number, BlocksConfig { fetch, ..BlocksConfig::default() }).await
    }

    pub async fn with(sim: &Sim, number: u64, config: BlocksConfig) -> Self {
        let identity = identity(sim, number);
        Self::configured(join(sim, &identity), identity, config).await
    }

    pub async fn on(world: World, identity: Identity) -> Self {
        let fetch = FetchConfig { whole_dags: true, ..FetchConfig::default() };
        Self::configured(world, identity, BlocksConfig { fetch, ..BlocksConfig::default() }).await
    }

    pub async fn configured(world: World, identity: Identity, config: BlocksConfig) -> Self {
        let calls = TestCalls::start(&world, identity.agent());
        let blocks = Blocks::start(&world, identity.clone(), calls.clone(), config).await.unwrap();
        Self { identity, world, calls, blocks }
    }

    pub fn agent(&self) -> AgentId {
        self.identity.agent()
    }

    pub fn peer(&self) -> PeerId {
        self.identity.peer()
    }

    pub fn certificate(&self) -> Certificate {
        self.identity.certificate()
    }

    pub fn within(&self, seconds: u64) -> Instant {
        self.world.clock.now() + Duration::from_secs(seconds)
    }

    pub async fn connect(&self, other: &Self) {
        self.world.network.connect(other.peer(), Vec::new()).await.unwrap();
    }
}

/// `bytes` bytes that are a function of `seed`, and do not compress.
pub fn noise(seed: u64, bytes: usize) -> Bytes {
    let mut noise = vec![0; bytes];
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    for chunk in noise.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    noise.into()
}

/// A dag-cbor list of links, at most 255.
pub fn cbor_list(cids: &[Cid]) -> Block {
    let mut data = match cids.len() {
        count @ 0..24 => vec![0x80 | count as u8],
        count => vec![0x98, count as u8],
    };
    for cid in cids {
        let cid = cid.to_bytes();
        data.extend([0xd8, 42, 0x58, cid.len() as u8 + 1, 0]);
        data.extend(cid);
    }
    Block::new(DAG_CBOR, data).unwrap()
}
