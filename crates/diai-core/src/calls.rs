use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream::BoxStream as BoxedItems;

use crate::{AgentId, BoxFuture, Instant, PeerId};

/// Calls to named services of other agents: the port by which every protocol sends its small control traffic.
/// `diai-messaging` implements it, once, over any [`Network`](crate::Network).
///
/// All futures are cancel-safe: dropping one sends a cancel, so that the other side may stop.
pub trait Calls: Send + Sync + 'static {
    /// This agent.
    fn local_agent(&self) -> AgentId;

    /// Calls `service` of `to` and waits for its whole answer.
    fn call(
        &self,
        to: AgentId,
        service: &str,
        body: Bytes,
        options: CallOptions,
    ) -> BoxFuture<'static, Result<Bytes, CallError>>;

    /// Calls `service` of `to`, whose answer comes in parts.
    fn call_streaming(
        &self,
        to: AgentId,
        service: &str,
        body: Bytes,
        options: CallOptions,
    ) -> BoxFuture<'static, Result<ReplyStream, CallError>>;

    /// Hands `body` to `service` of `to`; returns when its handler has returned.
    fn notify(
        &self,
        to: AgentId,
        service: &str,
        body: Bytes,
        options: CallOptions,
    ) -> BoxFuture<'static, Result<(), CallError>>;

    /// Serves `service`, until the [`Registration`] is dropped.
    fn register(&self, service: &str, handler: Arc<dyn Service>) -> Result<Registration, RegisterError>;
}

/// How to make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallOptions {
    /// Time for the whole call; it travels with the request. Default 30 s.
    pub timeout: Duration,
    /// The request may run twice: it is tried again when a session breaks. Default no.
    pub idempotent: bool,
    /// Which frames go first. Default [`Priority::Normal`].
    pub priority: Priority,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), idempotent: false, priority: Priority::Normal }
    }
}

impl CallOptions {
    /// The default with another time-out.
    pub fn within(timeout: Duration) -> Self {
        Self { timeout, ..Self::default() }
    }

    /// The same, but the request may run twice.
    pub fn idempotent(self) -> Self {
        Self { idempotent: true, ..self }
    }
}

/// Which frames of a session go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Before all others: keep-alives, cancels, awards.
    High,
    /// The usual.
    #[default]
    Normal,
    /// When nothing else waits: bulk.
    Low,
}

/// The parts of a streaming answer. A part counts against the caller's credit until it is taken. Dropping the stream
/// cancels the call.
pub type ReplyStream = BoxedItems<'static, Result<Bytes, CallError>>;

/// A request as the serving side sees it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The agent who calls, proven by its certificate.
    pub from: AgentId,
    /// The device it calls from.
    pub peer: PeerId,
    /// The service called.
    pub service: Arc<str>,
    /// The request's bytes.
    pub body: Bytes,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

/// What a handler answers.
pub enum Reply {
    /// A whole answer; empty for one-way requests.
    Whole(Bytes),
    /// An answer in parts, each at most 16 MiB. An error ends it.
    Parts(BoxedItems<'static, Result<Bytes, Refusal>>),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(bytes) => write!(f, "Whole({} bytes)", bytes.len()),
            Self::Parts(_) => f.write_str("Parts"),
        }
    }
}

impl<T: Into<Bytes>> From<T> for Reply {
    fn from(bytes: T) -> Self {
        Self::Whole(bytes.into())
    }
}

/// A named service. The future is dropped when the caller cancels or its deadline passes.
pub trait Service: Send + Sync + 'static {
    /// Serves one request. When it returns, the caller is told so; what that promises (for example durability) is the
    /// handler's to say.
    fn handle(&self, request: Request) -> BoxFuture<'static, Result<Reply, Refusal>>;
}

struct ServiceFn<F>(F);

impl<F, R> Service for ServiceFn<F>
where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Reply, Refusal>> + Send + 'static,
{
    fn handle(&self, request: Request) -> BoxFuture<'static, Result<Reply, Refusal>> {
        Box::pin((self.0)(request))
    }
}

/// A service made of an async closure.
pub fn service_fn<F, R>(handler: F) -> Arc<dyn Service>
where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Reply, Refusal>> + Send + 'static,
{
    Arc::new(ServiceFn(handler))
}

/// A refusal that travels: the serving side's typed no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Come back later.
    #[error("busy, try again in {retry_after_ms} ms")]
    Busy {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// Nobody serves that name here.
    #[error("no such service")]
    UnknownService,
    /// The caller may not.
    #[error("not allowed: {reason}")]
    NotAllowed {
        /// Why not.
        reason: String,
    },
    /// The request came too late.
    #[error("the deadline passed")]
    DeadlinePassed,
    /// The request makes no sense to the service.
    #[error("bad request: {reason}")]
    BadRequest {
        /// Why not.
        reason: String,
    },
    /// The service tried and failed.
    #[error("failed: {reason}")]
    Failed {
        /// What happened.
        reason: String,
    },
}

/// Why a call brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The agent is not connected and cannot be reached.
    #[error("cannot reach {agent}: {reason}")]
    Unreachable {
        /// Who was called.
        agent: AgentId,
        /// What was tried.
        reason: String,
    },
    /// The other side said no.
    #[error("{agent} refused: {refusal}")]
    Refused {
        /// Who was called.
        agent: AgentId,
        /// Its reason.
        refusal: Refusal,
    },
    /// The session broke while the request was open: it may or may not have run.
    #[error("the session with {agent} broke; whether the request ran is unknown")]
    OutcomeUnknown {
        /// Who was called.
        agent: AgentId,
    },
    /// No answer within the time-out.
    #[error("{agent} did not answer in time")]
    Deadline {
        /// Who was called.
        agent: AgentId,
    },
    /// The caller's request is over a limit.
    #[error("the request has {bytes} bytes, at most {limit} are allowed; send a CID instead")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The cap.
        limit: usize,
    },
    /// This agent has too much open towards that one.
    #[error("{limit} requests to {agent} are open already; wait for some")]
    TooMany {
        /// Who was called.
        agent: AgentId,
        /// The cap.
        limit: usize,
    },
    /// The agent is shutting down.
    #[error("messaging has shut down")]
    Closed,
}

/// A served name. Dropping it stops serving; requests being handled go on.
pub struct Registration(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Registration {
    /// Runs `unregister` when dropped.
    pub fn new(unregister: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(unregister)))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(unregister) = self.0.take() {
            unregister();
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registration")
    }
}

/// Why a name cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The name is served already.
    #[error("the service {0:?} is registered already")]
    Taken(String),
    /// The name is empty or longer than 128 bytes.
    #[error("a service name has 1 to 128 bytes, {0:?} has not")]
    Name(String),
}
