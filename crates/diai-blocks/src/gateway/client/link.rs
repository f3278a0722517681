//! One request to one gateway.

use std::{error::Error, io, sync::Arc, time::Duration};

use bytes::Bytes;
use diai_core::{Clock, Instant, timeout_at};
use http_body_util::Empty;
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{self, HeaderMap},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

use super::{
    super::{
        error::Reason,
        pace::{Pace, Paced},
        query::{CAR_TYPE, Format, Query, RAW_TYPE},
        sockets::{Connection, Dial},
    },
    origin::Origin,
};
use crate::gateway::ClientConfig;

/// Of the beginning of an answer.
const MAX_HEADER_BYTES: usize = 32 << 10;
const MAX_HEADERS: usize = 64;
/// What is read at once.
const BUFFER_BYTES: usize = 256 << 10;
/// What must come in each window of a stall.
const PACE_BYTES: u64 = 16 << 10;

type Sender = SendRequest<Empty<Bytes>>;

/// What it takes to reach gateways.
pub(super) struct Links {
    pub(super) dial: Arc<dyn Dial>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tls: TlsConnector,
    /// Connections, each driven by a task.
    tasks: Mutex<JoinSet<()>>,
}

/// A gateway, and how it has behaved.
pub(super) struct Gateway {
    pub(super) url: String,
    origin: Origin,
    slots: Arc<Semaphore>,
    idle: Mutex<Vec<Sender>>,
    standing: Mutex<Standing>,
}

#[derive(Default)]
struct Standing {
    faults: u32,
    alone_until: Instant,
}

/// An answer that has begun well.
pub(super) struct Answer {
    pub(super) body: Incoming,
    pub(super) lease: Lease,
}

/// The connection that an answer comes on.
pub(super) struct Lease {
    sender: Option<Sender>,
    gateway: Arc<Gateway>,
    _slot: OwnedSemaphorePermit,
}

impl Lease {
    /// All was read, and was right: the connection can be used again.
    pub(super) fn finish(self) {
        self.gateway.note_success();
        self.gateway.idle.lock().extend(self.sender);
    }
}

impl Gateway {
    pub(super) fn new(url: &str, config: &ClientConfig) -> Result<Self, crate::gateway::ConfigError> {
        Ok(Self {
            url: url.to_owned(),
            origin: Origin::parse(url)?,
            slots: Arc::new(Semaphore::new(config.max_requests.clamp(1, 1024))),
            idle: Mutex::default(),
            standing: Mutex::default(),
        })
    }

    /// How long it is to be left alone, if at all.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let wait = self.standing.lock().alone_until.since(now);
        (!wait.is_zero()).then_some(wait)
    }

    fn note_success(&self) {
        *self.standing.lock() = Standing::default();
    }

    pub(super) fn note_fault(&self, reason: &Reason, now: Instant, (first, longest): (Duration, Duration)) {
        let mut standing = self.standing.lock();
        standing.faults += 1;
        let doubled = first.saturating_mul(1u32.checked_shl(standing.faults - 1).unwrap_or(u32::MAX)).min(longest);
        let wait = match reason {
            Reason::Busy { retry_after: Some(after), .. } => (*after).clamp(first, longest),
            reason if reason.is_lie() => longest,
            _ => doubled,
        };
        standing.alone_until = standing.alone_until.max(now + wait);
    }
}

impl Links {
    pub(super) fn new(dial: Arc<dyn Dial>, clock: Arc<dyn Clock>, tls: TlsConnector) -> Self {
        Self { dial, clock, tls, tasks: Mutex::default() }
    }

    /// The answer of `gateway` to `query`, once it has begun. Dropping the future, or the answer, ends the connection.
    pub(super) async fn ask(
        &self,
        gateway: &Arc<Gateway>,
        query: &Query,
        config: &ClientConfig,
    ) -> Result<Answer, Reason> {
        let slot = gateway.slots.clone().acquire_owned().await.map_err(|_| Reason::Closed)?;
        let (mut origin, mut target) = (gateway.origin.clone(), gateway.origin.target(&query.target()));
        for _ in 0..=config.max_redirects {
            let (sender, response) = self.send(gateway, &origin, &target, query.accept(), config).await?;
            let (head, body) = response.into_parts();
            if head.status.is_redirection() {
                let to = text(&head.headers, header::LOCATION).unwrap_or_default();
                (origin, target) = origin.follow(to).ok_or_else(|| Reason::Redirect { to: to.to_owned() })?;
                continue;
            }
            check(head.status, &head.headers, query)?;
            let sender = (origin == gateway.origin).then_some(sender);
            return Ok(Answer { body, lease: Lease { sender, gateway: gateway.clone(), _slot: slot } });
        }
        Err(Reason::Redirect { to: target })
    }

    async fn send(
        &self,
        gateway: &Gateway,
        origin: &Origin,
        target: &str,
        accept: &str,
        config: &ClientConfig,
    ) -> Result<(Sender, Response<Incoming>), Reason> {
        let request = || {
            Request::get(target)
                .header(header::HOST, origin.authority())
                .header(header::ACCEPT, accept)
                .header(header::ACCEPT_ENCODING, "identity")
                .header(header::USER_AGENT, concat!("diai-blocks/", env!("CARGO_PKG_VERSION")))
                .body(Empty::new())
                .map_err(|_| Reason::Redirect { to: target.to_owned() })
        };
        let idle = if *origin == gateway.origin { self.idle(gateway).await } else { None };
        if let Some(mut sender) = idle {
            match sender.send_request(request()?).await {
                Ok(response) => return Ok((sender, response)),
                // Closed since it was used last: nothing was read of an answer.
                Err(error) if error.is_canceled() || error.is_incomplete_message() || error.is_closed() => {}
                Err(error) => return Err(http(error)),
            }
        }
        let mut sender = self.connect(origin, config).await?;
        let response = sender.send_request(request()?).await.map_err(http)?;
        Ok((sender, response))
    }

    async fn idle(&self, gateway: &Gateway) -> Option<Sender> {
        loop {
            let mut sender = gateway.idle.lock().pop()?;
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn connect(&self, origin: &Origin, config: &ClientConfig) -> Result<Sender, Reason> {
        let pace = Pace { bytes: PACE_BYTES, window: config.stall, reads: true };
        let connecting = async {
            let mut stream = self.dial.dial(origin.host.clone(), origin.port).await?;
            if origin.https {
                let host = origin.host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(host).map_err(io::Error::other)?;
                stream = Box::new(self.tls.connect(name, stream).await?) as Box<dyn Connection>;
            }
            Ok::<_, io::Error>(Paced::new(stream, self.clock.clone(), pace))
        };
        let deadline = self.clock.now() + config.stall;
        let stream = timeout_at(&*self.clock, deadline, connecting).await.map_err(|_| Reason::TimedOut)??;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(BUFFER_BYTES).max_header_size(MAX_HEADER_BYTES).max_headers(MAX_HEADERS);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(http)?;
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        // Its faults are told by whoever waits for the answer.
        tasks.spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

/// What hyper says, where it is the connection that was too slow.
pub(super) fn http(error: hyper::Error) -> Reason {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    if io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) { Reason::TimedOut } else { Reason::Http(error) }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn check(status: StatusCode, headers: &HeaderMap, query: &Query) -> Result<(), Reason> {
    match status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::PRECONDITION_FAILED => {
            return Err(Reason::NotFound { cid: query.cid });
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let seconds = text(headers, header::RETRY_AFTER).and_then(|text| text.trim().parse().ok());
            return Err(Reason::Busy { status: status.as_u16(), retry_after: seconds.map(Duration::from_secs) });
        }
        _ => return Err(Reason::Status { status: status.as_u16() }),
    }
    let found = |found: &str| Err(Reason::Type { found: found.chars().take(100).collect() });
    match text(headers, header::CONTENT_ENCODING) {
        None | Some("identity") => {}
        Some(encoding) => return found(encoding),
    }
    let wanted = match query.format {
        Format::Raw => RAW_TYPE,
        Format::Car => CAR_TYPE,
    };
    let media = text(headers, header::CONTENT_TYPE).unwrap_or_default();
    match media.split(';').next().map(str::trim) {
        Some(media) if media.eq_ignore_ascii_case(wanted) => Ok(()),
        _ => found(media),
    }
}
