//! What the tasks of one messaging share: services, the table of sessions, and how a session comes to be.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use diai_core::{
    AgentId, BoxFuture, BoxStream, Multiaddr, PeerId, Refusal, RegisterError, Reply, Request, Service, World,
};
use futures::{
    FutureExt,
    future::{Shared as SharedFuture, WeakShared},
};
use tokio::sync::{Notify, mpsc};

use crate::{
    Config,
    inbox::{Command, Handle, lock},
    machine::{
        SessionConfig,
        pairing::{Standing, Verdict, decide},
    },
    message::{Hello, MAX_SERVICE_BYTES, SESSION},
    metrics::{Counters, Status},
};

/// Where the devices of an agent that is not connected are: the port that discovery fills.
pub trait Locate: Send + Sync + 'static {
    /// The devices of `agent`, best first; empty if none is known. Bounded in time by the implementation; the caller's
    /// deadline holds as well.
    fn locate(&self, agent: AgentId) -> BoxFuture<'static, Vec<Device>>;
}

/// A device of an agent, and where it can be dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The device. That it belongs to the agent is proven by its certificate when it is connected.
    pub peer: PeerId,
    /// Where it listens.
    pub addrs: Vec<Multiaddr>,
}

/// A [`Locate`] that knows nobody: only agents that are connected can be called.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLocate;

impl Locate for NoLocate {
    fn locate(&self, _: AgentId) -> BoxFuture<'static, Vec<Device>> {
        Box::pin(async { Vec::new() })
    }
}

/// So many devices of one agent are tried.
const MAX_DEVICES: usize = 16;
/// So many peers' last sessions are remembered, to tell a session opened at once from one opened anew.
const MAX_SEEN: usize = 4096;

type DialResult = Result<Arc<Handle>, Arc<str>>;
type Dial = BoxFuture<'static, DialResult>;

/// A stream that becomes a session.
pub(crate) struct Start {
    pub(crate) stream: BoxStream,
    pub(crate) handle: Arc<Handle>,
    pub(crate) opened_here: bool,
    pub(crate) config: SessionConfig,
}

pub(crate) struct Shared {
    pub(crate) world: World,
    pub(crate) agent: AgentId,
    pub(crate) config: Config,
    pub(crate) counters: Counters,
    locate: Arc<dyn Locate>,
    services: RwLock<BTreeMap<String, Arc<dyn Service>>>,
    incarnation: u64,
    starts: mpsc::Sender<Start>,
    hub: Mutex<Hub>,
    /// Told whenever a session has ended.
    pub(crate) ended: Notify,
}

#[derive(Default)]
struct Hub {
    closed: bool,
    /// The session that new calls go to, per device.
    current: BTreeMap<AgentId, BTreeMap<PeerId, Current>>,
    /// All sessions, those that are ending included.
    all: BTreeMap<u64, Arc<Handle>>,
    /// The last incarnation and session number of other sides.
    seen: BTreeMap<PeerId, (u64, u64)>,
    dials: BTreeMap<AgentId, WeakShared<Dial>>,
    last_uid: u64,
    last_number: u64,
}

struct Current {
    handle: Arc<Handle>,
    standing: Standing,
}

impl Shared {
    pub(crate) fn new(
        world: World,
        agent: AgentId,
        locate: Arc<dyn Locate>,
        config: Config,
        starts: mpsc::Sender<Start>,
    ) -> Arc<Self> {
        // Zero stands for none.
        let incarnation = world.entropy.u64().max(1);
        Arc::new(Self {
            world,
            agent,
            config,
            counters: Counters::default(),
            locate,
            services: RwLock::default(),
            incarnation,
            starts,
            hub: Mutex::default(),
            ended: Notify::new(),
        })
    }

    // --- services

    pub(crate) fn register(&self, name: &str, service: Arc<dyn Service>) -> Result<(), RegisterError> {
        if name.is_empty() || name.len() > MAX_SERVICE_BYTES {
            return Err(RegisterError::Name(name.to_owned()));
        }
        let mut services = self.services.write().unwrap_or_else(PoisonError::into_inner);
        if services.contains_key(name) {
            return Err(RegisterError::Taken(name.to_owned()));
        }
        services.insert(name.to_owned(), service);
        Ok(())
    }

    pub(crate) fn unregister(&self, name: &str) {
        let removed = self.services.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        // After the lock: what a handler owns may have services of its own to take back.
        drop(removed);
    }

    /// The service for a request of `from`, if it is served and allowed.
    pub(crate) fn service(&self, from: AgentId, name: &str) -> Result<Arc<dyn Service>, Refusal> {
        let allowed = std::panic::catch_unwind(AssertUnwindSafe(|| self.config.policy.allows(from, name)));
        let result = match allowed {
            Ok(Ok(())) => {
                let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
                services.get(name).cloned().ok_or(Refusal::UnknownService)
            }
            Ok(Err(reason)) => Err(Refusal::NotAllowed { reason }),
            Err(_) => {
                tracing::error!(service = name, "the policy panicked");
                Err(Refusal::Failed { reason: "the policy panicked".to_owned() })
            }
        };
        if result.is_err() {
            self.counters.refused.add(1);
        } else {
            self.counters.served.add(1);
        }
        result
    }

    // --- sessions

    /// The session to `agent`, if there is one.
    pub(crate) fn current(&self, agent: AgentId) -> Option<Arc<Handle>> {
        let hub = lock(&self.hub);
        hub.current.get(&agent)?.first_key_value().map(|(_, current)| current.handle.clone())
    }

    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.hub).closed
    }

    /// Opens a session to `agent`; all who ask meanwhile share one attempt. It goes on while anyone waits for it.
    pub(crate) fn dial(self: &Arc<Self>, agent: AgentId) -> SharedFuture<Dial> {
        let mut hub = lock(&self.hub);
        if let Some(dial) = hub.dials.get(&agent).and_then(WeakShared::upgrade) {
            return dial;
        }
        hub.dials.retain(|_, dial| dial.upgrade().is_some());
        let dial = Self::dial_devices(self.clone(), agent).boxed().shared();
        if let Some(weak) = dial.downgrade() {
            hub.dials.insert(agent, weak);
        }
        dial
    }

    async fn dial_devices(self: Arc<Self>, agent: AgentId) -> DialResult {
        let result = self.try_devices(agent).await;
        lock(&self.hub).dials.remove(&agent);
        result.map_err(Arc::from)
    }

    async fn try_devices(&self, agent: AgentId) -> Result<Arc<Handle>, String> {
        let network = &self.world.network;
        let mut tried = Vec::new();
        for info in network.peers().into_iter().filter(|info| info.agent == Some(agent)).take(MAX_DEVICES) {
            match self.open(agent, info.peer).await {
                Ok(handle) => return Ok(handle),
                Err(reason) => tried.push(reason),
            }
        }
        for device in self.locate.locate(agent).await.into_iter().take(MAX_DEVICES) {
            if device.peer == network.local_peer() {
                continue;
            }
            let opened = match network.connect(device.peer, device.addrs).await {
                Ok(info) if info.agent == Some(agent) => self.open(agent, device.peer).await,
                Ok(_) => Err(format!("{} belongs to another agent", device.peer)),
                Err(error) => Err(error.to_string()),
            };
            match opened {
                Ok(handle) => return Ok(handle),
                Err(reason) => tried.push(reason),
            }
        }
        Err(if tried.is_empty() { "no device of it is known".to_owned() } else { tried.join("; ") })
    }

    async fn open(&self, agent: AgentId, peer: PeerId) -> Result<Arc<Handle>, String> {
        if let Some(handle) = self.current(agent) {
            return Ok(handle);
        }
        let opened = self.world.network.open(peer, &[SESSION]).await.map_err(|error| error.to_string())?;
        // First the place, so that nothing is left half done if the caller goes away.
        let place = self.starts.reserve().await.map_err(|_| "messaging has shut down".to_owned())?;
        let mut hub = lock(&self.hub);
        let devices = hub.current.get(&agent);
        if let Some(current) = devices.and_then(|devices| devices.get(&peer)) {
            // The other side was quicker; the stream is dropped before a byte went over it.
            return Ok(current.handle.clone());
        }
        let handle = self.admit(&mut hub, agent, peer)?;
        hub.last_number += 1;
        let number = hub.last_number;
        let standing = Standing { opened_here: true, number, remote_incarnation: None };
        hub.current.entry(agent).or_default().insert(peer, Current { handle: handle.clone(), standing });
        let config = self.session_config(&hub, peer, number);
        place.send(Start { stream: opened.stream, handle: handle.clone(), opened_here: true, config });
        Ok(handle)
    }

    /// A session that another device opened; it becomes current when its hello has come.
    pub(crate) fn accept(&self, agent: AgentId, peer: PeerId, stream: BoxStream) -> Option<Start> {
        let mut hub = lock(&self.hub);
        let handle = self.admit(&mut hub, agent, peer).ok()?;
        let config = self.session_config(&hub, peer, 0);
        Some(Start { stream, handle, opened_here: false, config })
    }

    fn admit(&self, hub: &mut Hub, agent: AgentId, peer: PeerId) -> Result<Arc<Handle>, String> {
        if hub.closed {
            return Err("messaging has shut down".to_owned());
        }
        if hub.all.len() >= self.config.max_sessions {
            return Err(format!("{} sessions are open already", self.config.max_sessions));
        }
        hub.last_uid += 1;
        let handle = Handle::new(hub.last_uid, agent, peer, &self.config);
        hub.all.insert(handle.uid, handle.clone());
        Ok(handle)
    }

    fn session_config(&self, hub: &Hub, peer: PeerId, number: u64) -> SessionConfig {
        let (seen_incarnation, seen_number) = hub.seen.get(&peer).copied().unwrap_or_default();
        let limits = self.config.limits();
        let hello = Hello { incarnation: self.incarnation, number, seen_incarnation, seen_number, limits };
        SessionConfig {
            hello,
            max_reply_bytes: self.config.max_reply_bytes,
            retry_after: self.config.retry_after,
            keep_alive: self.config.keep_alive,
        }
    }

    /// The other side's hello has come. False if this session is to end when what was sent on it is answered.
    pub(crate) fn said_hello(&self, handle: &Arc<Handle>, opened_here: bool, hello: &Hello) -> bool {
        let mut hub = lock(&self.hub);
        let devices = hub.current.entry(handle.agent).or_default();
        if opened_here {
            // Another may have taken its place already; then this one was told to retire.
            if let Some(current) = devices.get_mut(&handle.peer)
                && current.handle.uid == handle.uid
            {
                current.standing.remote_incarnation = Some(hello.incarnation);
            }
            return true;
        }
        let local = self.world.network.local_peer();
        let verdict = devices
            .get(&handle.peer)
            .map(|current| (current, decide(local, handle.peer, self.incarnation, current.standing, hello)));
        let lives = match verdict {
            None => true,
            Some((_, Verdict::Keep)) => false,
            Some((current, Verdict::Replace)) => {
                current.handle.command(Command::Retire);
                true
            }
            Some((current, Verdict::Supersede)) => {
                current.handle.command(Command::Break);
                true
            }
        };
        if lives {
            let (number, remote_incarnation) = (hello.number, Some(hello.incarnation));
            let standing = Standing { opened_here: false, number, remote_incarnation };
            devices.insert(handle.peer, Current { handle: handle.clone(), standing });
        }
        while hub.seen.len() >= MAX_SEEN && !hub.seen.contains_key(&handle.peer) {
            hub.seen.pop_first();
        }
        hub.seen.insert(handle.peer, (hello.incarnation, hello.number));
        lives
    }

    /// New calls no longer go to this session.
    pub(crate) fn retired(&self, handle: &Handle) {
        let mut hub = lock(&self.hub);
        if let Some(devices) = hub.current.get_mut(&handle.agent) {
            if devices.get(&handle.peer).is_some_and(|current| current.handle.uid == handle.uid) {
                devices.remove(&handle.peer);
            }
            if devices.is_empty() {
                hub.current.remove(&handle.agent);
            }
        }
    }

    /// The session's task is over.
    pub(crate) fn gone(&self, handle: &Handle) {
        self.retired(handle);
        lock(&self.hub).all.remove(&handle.uid);
        self.ended.notify_waiters();
    }

    /// No session comes any more; all that are there get `command`. Returns how many.
    pub(crate) fn close(&self, command: fn() -> Command) -> usize {
        let handles: Vec<_> = {
            let mut hub = lock(&self.hub);
            hub.closed = true;
            hub.all.values().cloned().collect()
        };
        for handle in &handles {
            handle.command(command());
        }
        handles.len()
    }

    pub(crate) fn sessions(&self) -> usize {
        lock(&self.hub).all.len()
    }

    pub(crate) fn status(&self) -> Status {
        let handles: Vec<_> = lock(&self.hub).all.values().cloned().collect();
        let (open_calls, open_requests) =
            handles.iter().map(|handle| handle.open()).fold((0, 0), |sum, open| (sum.0 + open.0, sum.1 + open.1));
        let counters = &self.counters;
        Status {
            sessions: handles.len(),
            open_calls,
            open_requests,
            calls: counters.calls.get(),
            broken_calls: counters.broken_calls.get(),
            served: counters.served.get(),
            refused: counters.refused.get(),
            violations: counters.violations.get(),
            bytes_in: counters.bytes_in.get(),
            bytes_out: counters.bytes_out.get(),
            writes: counters.writes.get(),
        }
    }
}

/// Runs a handler; a panic in it becomes a refusal, so that it ends one request and not the session.
pub(crate) async fn serve(service: Arc<dyn Service>, request: Request) -> Result<Reply, Refusal> {
    let name = request.service.clone();
    let handled = AssertUnwindSafe(async move { service.handle(request).await }).catch_unwind().await;
    handled.unwrap_or_else(|_| {
        tracing::error!(service = %name, "a service panicked");
        Err(panicked())
    })
}

pub(crate) fn panicked() -> Refusal {
    Refusal::Failed { reason: "the service panicked".to_owned() }
}
