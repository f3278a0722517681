//! Agents in a `Sim` whose calls go straight to each other's handlers: what messaging does, without messaging.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::type_complexity, reason = "this is a test")]

pub mod guests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use cid::Cid;
use diai_core::{
    AgentId, BoxFuture, CallError, CallOptions, Calls, Clock, Instant, PeerId, Refusal, RegisterError, Registration,
    Reply, ReplyStream, Request, Service, WallTime, World,
    memory::{AgentSpec, Sim},
    os::{OsClock, ThreadPool},
};
use diai_identity::Identity;
use diai_tasks::{
    Access, ArtifactError, Artifacts, Candidates, Config, Content, Flow, NativeOutput, NativeTask, TaskContext,
    TaskSpec, Tasks, native_fn,
};
use futures::{FutureExt, StreamExt};
use multihash::Multihash;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

pub fn raw_cid(bytes: &[u8]) -> Cid {
    Cid::new_v1(0x55, Multihash::wrap(0x12, &Sha256::digest(bytes)).unwrap())
}

struct Post {
    peer: PeerId,
    services: BTreeMap<String, Arc<dyn Service>>,
    /// What its answers take.
    delay: Duration,
    alive: watch::Sender<bool>,
}

/// Who is there, and what they serve.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<BTreeMap<AgentId, Post>>>);

impl Board {
    /// Its calls break, and nobody reaches it any more.
    pub fn kill(&self, agent: AgentId) {
        let posts = self.0.lock().unwrap();
        posts[&agent].alive.send_replace(false);
    }

    /// It is there again, with its services.
    pub fn revive(&self, agent: AgentId) {
        self.0.lock().unwrap()[&agent].alive.send_replace(true);
    }

    /// Its answers come so much later.
    pub fn slow_down(&self, agent: AgentId, delay: Duration) {
        self.0.lock().unwrap().get_mut(&agent).unwrap().delay = delay;
    }

    fn find(
        &self,
        agent: AgentId,
        service: &str,
    ) -> Result<(Duration, Arc<dyn Service>, watch::Receiver<bool>), CallError> {
        let posts = self.0.lock().unwrap();
        let post = posts.get(&agent).filter(|post| *post.alive.borrow());
        let post = post.ok_or(CallError::Unreachable { agent, reason: "nobody there".into() })?;
        let handler = post.services.get(service).cloned();
        let handler = handler.ok_or(CallError::Refused { agent, refusal: Refusal::UnknownService })?;
        Ok((post.delay, handler, post.alive.subscribe()))
    }
}

#[derive(Clone)]
pub struct FakeCalls {
    me: AgentId,
    board: Board,
    clock: Arc<dyn Clock>,
}

impl FakeCalls {
    async fn reply(
        self,
        to: AgentId,
        service: String,
        body: Bytes,
        timeout: Duration,
    ) -> Result<(Reply, watch::Receiver<bool>), CallError> {
        self.clock.sleep_until(self.clock.now() + Duration::from_millis(1)).await;
        let (delay, handler, alive) = self.board.find(to, &service)?;
        let peer = self.board.0.lock().unwrap()[&self.me].peer;
        let deadline = self.clock.now() + timeout;
        let request = Request { from: self.me, peer, service: service.into(), body, deadline };
        let mut dead = alive.clone();
        let reply = tokio::select! {
            biased;
            reply = handler.handle(request) => reply.map_err(|refusal| CallError::Refused { agent: to, refusal })?,
            _ = dead.wait_for(|alive| !alive) => return Err(CallError::OutcomeUnknown { agent: to }),
        };
        self.clock.sleep_until(self.clock.now() + Duration::from_millis(1) + delay).await;
        Ok((reply, alive))
    }
}

impl Calls for FakeCalls {
    fn local_agent(&self) -> AgentId {
        self.me
    }

    fn call(
        &self,
        to: AgentId,
        service: &str,
        body: Bytes,
        options: CallOptions,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let reply = self.clone().reply(to, service.to_owned(), body, options.timeout);
        async move {
            match reply.await?.0 {
                Reply::Whole(bytes) => Ok(bytes),
                Reply::Parts(_) => panic!("a whole answer was asked for"),
            }
        }
        .boxed()
    }

    fn call_streaming(
        &self,
        to: AgentId,
        service: &str,
        body: Bytes,
        options: CallOptions,
    ) -> BoxFuture<'static, Result<ReplyStream, CallError>> {
        let reply = self.clone().reply(to, service.to_owned(), body, options.timeout);
        async move {
            let (reply, mut alive) = reply.await?;
            let parts = match reply {
                Reply::Whole(bytes) => futures::stream::iter([Ok(bytes)]).boxed(),
                Reply::Parts(parts) => parts,
            };
            let parts = parts.map(move |part| part.map_err(|refusal| CallError::Refused { agent: to, refusal }));
            let broken = async move { _ = alive.wait_for(|alive| !alive).await };
            let end = futures::stream::iter([Err(CallError::OutcomeUnknown { agent: to })]);
            // The end of the stream by itself must not look like a break.
            let parts = parts.map(Some).chain(futures::stream::iter([None])).take_until(broken);
            let parts = parts.map(Some).chain(end.map(|error| Some(Some(error))));
            let parts = parts
                .take_while(|part| futures::future::ready(!matches!(part, Some(None))))
                .filter_map(|part| futures::future::ready(part.flatten()));
            Ok(parts.boxed())
        }
        .boxed()
    }

    fn notify(
        &self,
        to: AgentId,
        service: &str,
        body: Bytes,
        options: CallOptions,
    ) -> BoxFuture<'static, Result<(), CallError>> {
        self.call(to, service, body, options).map(|reply| reply.map(drop)).boxed()
    }

    fn register(&self, service: &str, handler: Arc<dyn Service>) -> Result<Registration, RegisterError> {
        let mut posts = self.board.0.lock().unwrap();
        let services = &mut posts.get_mut(&self.me).unwrap().services;
        if services.contains_key(service) {
            return Err(RegisterError::Taken(service.to_owned()));
        }
        services.insert(service.to_owned(), handler);
        let (board, me, service) = (self.board.clone(), self.me, service.to_owned());
        Ok(Registration::new(move || {
            board.0.lock().unwrap().get_mut(&me).unwrap().services.remove(&service);
        }))
    }
}

/// What one agent holds; what it lacks it takes from the common pool, as if from others.
#[derive(Clone, Default)]
pub struct Store {
    own: Arc<Mutex<BTreeMap<Cid, Bytes>>>,
    pool: Arc<Mutex<BTreeMap<Cid, Bytes>>>,
    /// What counts as encrypted, and who can open it: the stores with one of these keys.
    sealed: Arc<Mutex<BTreeMap<Cid, u8>>>,
    keys: Arc<Mutex<Vec<u8>>>,
    /// For whom outputs were stored.
    readers: Arc<Mutex<BTreeMap<Cid, AgentId>>>,
}

impl Store {
    pub fn add(&self, bytes: impl Into<Bytes>) -> Cid {
        let bytes = bytes.into();
        let cid = raw_cid(&bytes);
        self.own.lock().unwrap().insert(cid, bytes.clone());
        self.pool.lock().unwrap().insert(cid, bytes);
        cid
    }

    /// The same, readable only for stores that were [`granted`](Self::grant) `key`; this one is.
    pub fn add_sealed(&self, bytes: impl Into<Bytes>, key: u8) -> Cid {
        let cid = self.add(bytes);
        self.sealed.lock().unwrap().insert(cid, key);
        self.grant(key);
        cid
    }

    pub fn grant(&self, key: u8) {
        self.keys.lock().unwrap().push(key);
    }

    fn proof(&self, cid: Cid, context: [u8; 32]) -> Option<[u8; 32]> {
        let key = self.sealed.lock().unwrap().get(&cid).copied()?;
        let granted = self.keys.lock().unwrap().contains(&key);
        granted.then(|| Sha256::new().chain_update([key]).chain_update(context).finalize().into())
    }

    pub fn reader(&self, cid: &Cid) -> Option<AgentId> {
        self.readers.lock().unwrap().get(cid).copied()
    }

    pub fn holds(&self, cid: &Cid) -> bool {
        self.own.lock().unwrap().contains_key(cid)
    }

    fn at_another(&self) -> Self {
        Self {
            own: Arc::default(),
            pool: self.pool.clone(),
            sealed: self.sealed.clone(),
            keys: Arc::default(),
            readers: Arc::default(),
        }
    }
}

impl Artifacts for Store {
    fn get(
        &self,
        cid: Cid,
        max_bytes: u64,
        access: Access,
        _: Option<AgentId>,
        _: Flow,
    ) -> BoxFuture<'static, Result<Content, ArtifactError>> {
        let store = self.clone();
        async move {
            if let Access::Task { context, proof } = access
                && store.sealed.lock().unwrap().contains_key(&cid)
                && (proof.is_none() || proof != store.proof(cid, context))
            {
                return Err(ArtifactError::NotAllowed { cid });
            }
            let found = store.pool.lock().unwrap().get(&cid).cloned();
            let bytes = found.ok_or(ArtifactError::NotFound { cid, asked: "everybody in the test".into() })?;
            if bytes.len() as u64 > max_bytes {
                return Err(ArtifactError::TooLarge { cid, max_bytes });
            }
            store.own.lock().unwrap().insert(cid, bytes.clone());
            let sealed = store.sealed.lock().unwrap().contains_key(&cid);
            Ok(Content { bytes, sealed })
        }
        .boxed()
    }

    fn prove(&self, cid: Cid, context: [u8; 32]) -> BoxFuture<'static, Option<[u8; 32]>> {
        futures::future::ready(self.proof(cid, context)).boxed()
    }

    fn put(&self, bytes: Bytes, reader: Option<AgentId>) -> BoxFuture<'static, Result<Cid, ArtifactError>> {
        let cid = self.add(bytes);
        if let Some(reader) = reader {
            self.readers.lock().unwrap().insert(cid, reader);
        }
        futures::future::ready(Ok(cid)).boxed()
    }

    fn flush(&self) -> BoxFuture<'static, Result<(), ArtifactError>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn held(&self, cid: Cid) -> BoxFuture<'static, Option<u64>> {
        let held = self.own.lock().unwrap().get(&cid).map(|bytes| bytes.len() as u64);
        futures::future::ready(held).boxed()
    }
}

#[derive(Clone, Default)]
pub struct Directory(Arc<Mutex<Vec<AgentId>>>);

impl Directory {
    pub fn add(&self, agent: AgentId) {
        self.0.lock().unwrap().push(agent);
    }
}

impl Candidates for Directory {
    fn find(&self, _: &str) -> BoxFuture<'static, Vec<AgentId>> {
        let agents = self.0.lock().unwrap().clone();
        futures::future::ready(agents).boxed()
    }
}

/// One agent of a test.
#[derive(Clone)]
pub struct Peer {
    pub agent: AgentId,
    pub peer: PeerId,
    pub world: World,
    pub identity: Identity,
    pub calls: Arc<FakeCalls>,
    pub store: Store,
    pub directory: Directory,
}

impl Peer {
    pub fn start(&self, config: Config) -> Tasks {
        if config.serve.is_some() {
            self.directory.add(self.agent);
        }
        Tasks::start(
            &self.world,
            self.identity.clone(),
            self.calls.clone(),
            Arc::new(self.store.clone()),
            Arc::new(self.directory.clone()),
            config,
        )
        .unwrap()
    }

    /// The same agent in another World.
    pub fn in_world(self, world: World) -> Self {
        let calls = FakeCalls { clock: world.clock.clone(), ..(*self.calls).clone() };
        Self { world, calls: Arc::new(calls), ..self }
    }

    /// A program made of WAT text.
    pub fn program(&self, wat: &str) -> TaskSpec {
        TaskSpec::wasm(self.store.add(wat::parse_str(wat).unwrap()))
    }
}

/// Some agents that all know each other.
pub struct Group {
    pub sim: Sim,
    pub board: Board,
    pub peers: Vec<Peer>,
}

impl Group {
    pub fn new(seed: u64, agents: usize) -> Self {
        let sim = Sim::new(seed);
        let board = Board::default();
        let store = Store::default();
        let directory = Directory::default();
        let maker = sim.join(AgentSpec::example(255));
        let peers = (0..agents).map(|_| {
            let identity = Identity::generate(&*maker.entropy, sim.wall());
            let (agent, peer) = (identity.agent(), identity.peer());
            let world = sim.join(AgentSpec { agent, peer, certificate: identity.certificate().to_bytes() });
            let post = Post { peer, services: BTreeMap::new(), delay: Duration::ZERO, alive: watch::Sender::new(true) };
            board.0.lock().unwrap().insert(agent, post);
            let calls = Arc::new(FakeCalls { me: agent, board: board.clone(), clock: world.clock.clone() });
            Peer { agent, peer, world, identity, calls, store: store.at_another(), directory: directory.clone() }
        });
        let peers = peers.collect();
        Self { sim, board, peers }
    }
}

/// Real time passes, but the calendar is that of the test.
struct Passing(OsClock, WallTime);

impl Clock for Passing {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn wall(&self) -> WallTime {
        self.1
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        self.0.sleep_until(deadline)
    }
}

/// Agents on real threads.
pub fn on_threads<const N: usize, R>(test: impl AsyncFnOnce([Peer; N]) -> R) -> R {
    let group = Group::new(1, N);
    let clock = Arc::new(Passing(OsClock::new(), group.sim.wall()));
    let peers = group.peers.into_iter().map(|peer| {
        let world = World { clock: clock.clone(), offload: Arc::new(ThreadPool::new(2)), ..peer.world.clone() };
        peer.in_world(world)
    });
    let peers = peers.collect::<Vec<_>>().try_into().ok().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(test(peers))
}

pub fn wait(clock: &Arc<dyn Clock>, ms: u64) -> BoxFuture<'static, ()> {
    clock.sleep_until(clock.now() + Duration::from_millis(ms))
}

/// A service that reports progress after 100 ms and ends after a second.
pub fn slow(peer: &Peer) -> Arc<dyn NativeTask> {
    let clock = peer.world.clock.clone();
    native_fn(move |context: TaskContext, _| {
        let clock = clock.clone();
        async move {
            wait(&clock, 100).await;
            context.progress(1, 10, "begun");
            wait(&clock, 900).await;
            Ok(NativeOutput::default())
        }
    })
}
