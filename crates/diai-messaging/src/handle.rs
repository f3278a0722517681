use std::{
    fmt,
    sync::{Arc, Mutex, Weak},
};

use bytes::Bytes;
use diai_core::{
    AcceptOptions, AgentId, BoxFuture, CallError, CallOptions, Calls, Incoming, Instant, Refusal, RegisterError,
    Registration, Reply, ReplyStream, Request, Service, World, timeout_at,
};
use diai_identity::Identity;
use futures::{FutureExt, StreamExt, stream};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    Config, StartError, Status,
    hub::{Locate, Shared, Start, serve},
    inbox::{CancelOnDrop, Command, Handle, PartEvent, PartStream, Spec, SubmitError, Waiter, lock, parts},
    machine::Outcome,
    message::{MAX_SERVICE_BYTES, Mode, SESSION},
    shell,
};

/// Sessions that may wait for their task; more wait in turn.
const MAX_STARTS: usize = 64;
/// How often a call that was not sent tries another session.
const MAX_TRIES: usize = 4;

/// Sessions to other agents: calls out, services in. Clones are handles to the same one; when the last is dropped, all
/// sessions break off. [`Messaging::shutdown`] ends them in order.
///
/// It implements [`Calls`]; every future it returns is cancel-safe.
#[derive(Clone)]
pub struct Messaging(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Messaging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messaging").field("agent", &self.0.shared.agent).finish_non_exhaustive()
    }
}

impl Messaging {
    /// Starts to accept sessions. Must be called within a tokio runtime.
    pub fn start(
        world: &World,
        identity: &Identity,
        locate: Arc<dyn Locate>,
        config: Config,
    ) -> Result<Self, StartError> {
        config.check().map_err(StartError::Config)?;
        let (device, network) = (identity.peer(), world.network.local_peer());
        if device != network {
            return Err(StartError::OtherDevice { identity: device.to_string(), network: network.to_string() });
        }
        let options = AcceptOptions { max_per_peer: config.max_sessions_per_peer, ..AcceptOptions::default() };
        let incoming = world.network.accept(&[SESSION], options)?;
        let (starts, started) = mpsc::channel(MAX_STARTS);
        let shared = Shared::new(world.clone(), identity.agent(), locate, config, starts);
        let mut tasks = JoinSet::new();
        tasks.spawn(run(shared.clone(), incoming, started));
        Ok(Self(Arc::new(Inner { shared, tasks: Mutex::new(tasks) })))
    }

    /// What it has done and holds.
    pub fn status(&self) -> Status {
        self.0.shared.status()
    }

    /// Ends all sessions in order: no new request is made or taken, what is open has
    /// [`Config::shutdown_grace`] to finish; then it is broken off. Calling it again does no harm.
    ///
    /// Cancel-safety: dropped, it leaves sessions that end by themselves when they have nothing open.
    pub async fn shutdown(&self) {
        let shared = &self.0.shared;
        let clock = &*shared.world.clock;
        shared.close(|| Command::ShutDown);
        let grace = clock.now() + shared.config.shutdown_grace;
        if timeout_at(clock, grace, self.all_ended()).await.is_err() {
            let left = shared.close(|| Command::Break);
            tracing::warn!(sessions = left, "broke off what did not finish in time");
            self.all_ended().await;
        }
        let mut tasks = std::mem::take(&mut *lock(&self.0.tasks));
        tasks.shutdown().await;
    }

    async fn all_ended(&self) {
        let shared = &self.0.shared;
        loop {
            let mut ended = std::pin::pin!(shared.ended.notified());
            ended.as_mut().enable();
            if shared.sessions() == 0 {
                return;
            }
            ended.await;
        }
    }

    fn check(&self, agent: AgentId, service: &str, body: &Bytes) -> Result<(), CallError> {
        let limit = self.0.shared.config.max_message_bytes as usize;
        if body.len() > limit {
            return Err(CallError::TooLarge { bytes: body.len(), limit });
        }
        if service.is_empty() || service.len() > MAX_SERVICE_BYTES {
            // A name that nobody can register is a name that nobody serves.
            return Err(CallError::Refused { agent, refusal: Refusal::UnknownService });
        }
        Ok(())
    }
}

/// Takes sessions as they come, from either side, and owns their tasks.
async fn run(shared: Arc<Shared>, mut incoming: Incoming, mut starts: mpsc::Receiver<Start>) {
    let mut sessions = JoinSet::new();
    let mut accepting = true;
    loop {
        let start = tokio::select! {
            biased;
            Some(_) = sessions.join_next(), if !sessions.is_empty() => None,
            start = starts.recv() => match start {
                Some(start) => Some(start),
                None => return,
            },
            inbound = incoming.next(), if accepting => match inbound {
                // No stream of ours comes without an agent.
                Some(inbound) => inbound.agent.and_then(|agent| shared.accept(agent, inbound.peer, inbound.stream)),
                None => {
                    accepting = false;
                    None
                }
            },
        };
        if let Some(start) = start {
            sessions.spawn(shell::run(shared.clone(), start));
        }
    }
}

/// What a call that was tried on one session came to.
enum Tried<T> {
    Done(Result<T, CallError>),
    /// It was not sent: try again.
    NotSent,
    /// It was sent, and the session broke.
    Broken,
}

impl Shared {
    async fn session(self: &Arc<Self>, agent: AgentId, deadline: Instant) -> Result<Arc<Handle>, CallError> {
        if let Some(handle) = self.current(agent) {
            return Ok(handle);
        }
        if self.is_closed() {
            return Err(CallError::Closed);
        }
        match timeout_at(&*self.world.clock, deadline, self.dial(agent)).await {
            Ok(Ok(handle)) => Ok(handle),
            Ok(Err(_)) if self.is_closed() => Err(CallError::Closed),
            Ok(Err(reason)) => Err(CallError::Unreachable { agent, reason: reason.as_ref().to_owned() }),
            Err(_) => Err(CallError::Deadline { agent }),
        }
    }

    async fn submit(
        self: &Arc<Self>,
        agent: AgentId,
        spec: Spec,
        waiter: Waiter,
    ) -> Result<(Arc<Handle>, crate::machine::CallKey), Tried<std::convert::Infallible>> {
        let handle = self.session(agent, spec.deadline).await.map_err(|error| Tried::Done(Err(error)))?;
        let room = if spec.body.len() > crate::message::MAX_INLINE_BYTES {
            let room = timeout_at(&*self.world.clock, spec.deadline, handle.room_for(&spec.body)).await;
            room.map_err(|_| Tried::Done(Err(CallError::Deadline { agent })))?
        } else {
            None
        };
        match handle.submit(spec, waiter, room) {
            Ok(key) => Ok((handle, key)),
            Err(SubmitError::Closed) => Err(Tried::NotSent),
            Err(SubmitError::TooMany { limit }) => Err(Tried::Done(Err(CallError::TooMany { agent, limit }))),
        }
    }

    async fn try_call(self: &Arc<Self>, agent: AgentId, spec: Spec) -> Tried<Bytes> {
        let (waiter, outcome) = oneshot::channel();
        let bytes = spec.body.len();
        let (handle, key) = match self.submit(agent, spec, Waiter::Whole(waiter)).await {
            Ok(submitted) => submitted,
            Err(tried) => return tried.widen(),
        };
        let mut cancel = CancelOnDrop::new(handle, key);
        let outcome = outcome.await;
        cancel.disarm();
        match outcome {
            Ok(Outcome::Whole(body)) => Tried::Done(Ok(body)),
            Ok(Outcome::Done) => Tried::Done(Ok(Bytes::new())),
            Ok(other) => settle(agent, bytes, other),
            Err(_) => Tried::Done(Err(CallError::Closed)),
        }
    }

    async fn call_remote(self: Arc<Self>, agent: AgentId, spec: Spec, idempotent: bool) -> Result<Bytes, CallError> {
        let mut may_repeat = idempotent;
        for _ in 0..MAX_TRIES {
            match self.try_call(agent, spec.clone()).await {
                Tried::Done(result) => return result,
                Tried::NotSent => {}
                Tried::Broken if may_repeat => may_repeat = false,
                Tried::Broken => return Err(CallError::OutcomeUnknown { agent }),
            }
        }
        Err(keeps_ending(agent))
    }

    async fn call_local(
        self: Arc<Self>,
        service: Arc<str>,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Reply, CallError> {
        let agent = self.agent;
        if self.is_closed() {
            return Err(CallError::Closed);
        }
        let refused = |refusal| CallError::Refused { agent, refusal };
        let handler = self.service(agent, &service).map_err(refused)?;
        let peer = self.world.network.local_peer();
        let request = Request { from: agent, peer, service, body, deadline };
        let served = timeout_at(&*self.world.clock, deadline, serve(handler, request)).await;
        served.map_err(|_| CallError::Deadline { agent })?.map_err(refused)
    }
}

impl Tried<std::convert::Infallible> {
    fn widen<T>(self) -> Tried<T> {
        match self {
            Self::Done(Err(error)) => Tried::Done(Err(error)),
            Self::Done(Ok(never)) => match never {},
            Self::NotSent => Tried::NotSent,
            Self::Broken => Tried::Broken,
        }
    }
}

fn settle<T>(agent: AgentId, bytes: usize, outcome: Outcome) -> Tried<T> {
    Tried::Done(Err(match outcome {
        Outcome::NotSent => return Tried::NotSent,
        Outcome::Broken => return Tried::Broken,
        Outcome::Refused(refusal) => CallError::Refused { agent, refusal },
        Outcome::Deadline => CallError::Deadline { agent },
        Outcome::TooLarge { limit } => CallError::TooLarge { bytes, limit },
        Outcome::Whole(_) | Outcome::Done => CallError::Closed,
    }))
}

fn keeps_ending(agent: AgentId) -> CallError {
    CallError::Unreachable { agent, reason: "its sessions end as soon as they begin".to_owned() }
}

/// A streaming call, over as many sessions as it takes to get its first part.
struct Streaming {
    shared: Arc<Shared>,
    agent: AgentId,
    spec: Spec,
    may_repeat: bool,
    tries: usize,
    current: Option<PartStream>,
    begun: bool,
}

impl Streaming {
    async fn open(&mut self) -> Result<(), CallError> {
        while self.tries < MAX_TRIES {
            self.tries += 1;
            let (sender, receiver) = parts();
            match self.shared.submit(self.agent, self.spec.clone(), Waiter::Stream(sender)).await {
                Ok((handle, key)) => {
                    self.current = Some(PartStream::new(handle, key, receiver));
                    return Ok(());
                }
                Err(Tried::Done(Err(error))) => return Err(error),
                Err(_) => {}
            }
        }
        Err(keeps_ending(self.agent))
    }

    async fn next(&mut self) -> Option<Result<Bytes, CallError>> {
        loop {
            let outcome = match self.current.as_mut()?.next().await? {
                PartEvent::Part(part) => {
                    self.begun = true;
                    return Some(Ok(part));
                }
                PartEvent::End(outcome) => outcome,
            };
            self.current = None;
            let tried = match outcome {
                Some(Outcome::Done) => return None,
                Some(other) => settle(self.agent, self.spec.body.len(), other),
                None => return Some(Err(CallError::Closed)),
            };
            match tried {
                Tried::Done(result) => return Some(result),
                Tried::Broken if self.begun || !std::mem::take(&mut self.may_repeat) => {
                    return Some(Err(CallError::OutcomeUnknown { agent: self.agent }));
                }
                Tried::NotSent | Tried::Broken => {
                    if let Err(error) = self.open().await {
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}

fn local_stream(shared: Arc<Shared>, reply: Reply, deadline: Instant) -> ReplyStream {
    let agent = shared.agent;
    match reply {
        Reply::Whole(body) => stream::iter([Ok(body)]).boxed(),
        Reply::Parts(parts) => stream::unfold(Some(parts), move |parts| {
            let shared = shared.clone();
            async move {
                let mut parts = parts?;
                match timeout_at(&*shared.world.clock, deadline, parts.next()).await {
                    Ok(Some(Ok(part))) => Some((Ok(part), Some(parts))),
                    Ok(Some(Err(refusal))) => Some((Err(CallError::Refused { agent, refusal }), None)),
                    Ok(None) => None,
                    Err(_) => Some((Err(CallError::Deadline { agent }), None)),
                }
            }
        })
        .boxed(),
    }
}

impl Calls for Messaging {
    fn local_agent(&self) -> AgentId {
        self.0.shared.agent
    }

    fn call(
        &self,
        to: AgentId,
        service: &str,
        body: Bytes,
        options: CallOptions,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        self.whole(to, service, body, options, Mode::Whole)
    }

    fn notify(
        &self,
        to: AgentId,
        service: &str,
        body: Bytes,
        options: CallOptions,
    ) -> BoxFuture<'static, Result<(), CallError>> {
        let acknowledged = self.whole(to, service, body, options, Mode::OneWay);
        async move { acknowledged.await.map(drop) }.boxed()
    }

    fn call_streaming(
        &self,
        to: AgentId,
        service: &str,
        body: Bytes,
        options: CallOptions,
    ) -> BoxFuture<'static, Result<ReplyStream, CallError>> {
        let checked = self.check(to, service, &body);
        let service: Arc<str> = service.into();
        let inner = self.0.clone();
        async move {
            checked?;
            let shared = inner.shared.clone();
            let deadline = shared.world.clock.now() + options.timeout;
            if to == shared.agent {
                let reply = shared.clone().call_local(service, body, deadline).await?;
                return Ok(local_stream(shared, reply, deadline));
            }
            let spec = Spec { service, body, mode: Mode::Streaming, priority: options.priority, deadline };
            let may_repeat = options.idempotent;
            let mut call = Streaming { shared, agent: to, spec, may_repeat, tries: 0, current: None, begun: false };
            call.open().await?;
            let parts = stream::unfold(call, |mut call| async move { call.next().await.map(|part| (part, call)) });
            // Fused: after its end the stream stays ended.
            Ok(parts.fuse().boxed())
        }
        .boxed()
    }

    fn register(&self, service: &str, handler: Arc<dyn Service>) -> Result<Registration, RegisterError> {
        self.0.shared.register(service, handler)?;
        let (shared, name): (Weak<Shared>, String) = (Arc::downgrade(&self.0.shared), service.to_owned());
        Ok(Registration::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.unregister(&name);
            }
        }))
    }
}

impl Messaging {
    fn whole(
        &self,
        to: AgentId,
        service: &str,
        body: Bytes,
        options: CallOptions,
        mode: Mode,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let checked = self.check(to, service, &body);
        let service: Arc<str> = service.into();
        // The handle, not only what is shared: sessions live as long as a call is open.
        let inner = self.0.clone();
        async move {
            checked?;
            let shared = inner.shared.clone();
            let deadline = shared.world.clock.now() + options.timeout;
            if to != shared.agent {
                let spec = Spec { service, body, mode, priority: options.priority, deadline };
                return shared.call_remote(to, spec, options.idempotent).await;
            }
            match shared.call_local(service, body, deadline).await? {
                _ if mode == Mode::OneWay => Ok(Bytes::new()),
                Reply::Whole(body) => Ok(body),
                Reply::Parts(_) => {
                    let reason = "this service answers in parts; make a streaming call".to_owned();
                    Err(CallError::Refused { agent: to, refusal: Refusal::BadRequest { reason } })
                }
            }
        }
        .boxed()
    }
}
