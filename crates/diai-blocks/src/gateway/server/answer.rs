//! What a request is answered with.

use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use diai_core::{Clock, timeout_at};
use hyper::{
    Method, Request, Response, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    car::{Answer, Wanted},
    path::{Resolved, resolve},
    served::Served,
};
use crate::{
    BlockStore, GetError, MAX_BLOCK_BYTES, SourceError,
    car::{ExportOptions, Scope},
    gateway::{CAR_TYPE, DagScope, Format, Query, QueryError, RAW_TYPE, ServerConfig, Verdict},
    unixfs::{self, Kind, ReadError},
};

/// What is reckoned for a CAR file: four blocks read ahead, a chunk that waits, and one that is sent.
const CAR_BYTES: usize = 6 * MAX_BLOCK_BYTES;
/// Whoever comes when we are busy may come again after so long.
const RETRY_AFTER_S: u16 = 5;
const IMMUTABLE: &str = "public, max-age=29030400, immutable";

/// What requests are answered from.
pub(super) struct Shop {
    pub(super) config: ServerConfig,
    store: Served,
    clock: Arc<dyn Clock>,
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// Any other answer than a good one.
struct Refused(StatusCode, String);

impl Refused {
    fn new(status: StatusCode, text: impl ToString) -> Self {
        Self(status, text.to_string())
    }

    fn missing(cid: &Cid) -> Self {
        Self(StatusCode::NOT_FOUND, format!("{cid} is not here; nothing is fetched for others"))
    }

    fn busy() -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "busy; come again later")
    }
}

impl From<QueryError> for Refused {
    fn from(error: QueryError) -> Self {
        let status = match error {
            QueryError::Path => StatusCode::NOT_FOUND,
            QueryError::Format => StatusCode::NOT_ACCEPTABLE,
            QueryError::TooLong => StatusCode::URI_TOO_LONG,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error)
    }
}

impl From<GetError> for Refused {
    fn from(error: GetError) -> Self {
        match error {
            GetError::Damaged { cid } => Self::missing(&cid),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the store failed"),
        }
    }
}

impl From<ReadError> for Refused {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Source(SourceError::Failed { .. }) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the store failed")
            }
            ReadError::Source(SourceError::NotFound { cid, .. }) => Self::missing(&cid),
            // What a path leads through is no folder, or has no such name.
            error => Self::new(StatusCode::NOT_FOUND, error),
        }
    }
}

impl Shop {
    pub(super) fn new(config: ServerConfig, store: BlockStore, clock: Arc<dyn Clock>) -> Self {
        let requests = Arc::new(Semaphore::new(config.max_requests.clamp(1, Semaphore::MAX_PERMITS)));
        let bytes = config.max_sending_bytes.clamp(CAR_BYTES, u32::MAX as usize);
        let store = Served::new(store, &config.rule);
        Self { config, store, clock, requests, bytes: Arc::new(Semaphore::new(bytes)) }
    }

    pub(super) async fn answer<B>(&self, request: Request<B>) -> Response<Answer> {
        let head = request.method() == Method::HEAD;
        let mut response = match *request.method() {
            Method::GET | Method::HEAD => match self.good(&request, head).await {
                Ok(response) => response,
                Err(refused) => refuse(refused, head),
            },
            Method::OPTIONS => empty(StatusCode::NO_CONTENT),
            _ => refuse(Refused::new(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD are answered"), head),
        };
        open_to_pages(response.headers_mut());
        response
    }

    async fn good<B>(&self, request: &Request<B>, head: bool) -> Result<Response<Answer>, Refused> {
        let value = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let query = Query::parse(target, value(header::ACCEPT))?;
        let requests = self.turn(&self.requests, 1).await?;
        self.judge(&query.cid)?;
        self.present(&query.cid, value(header::CACHE_CONTROL))?;
        let resolved = resolve(&self.store, query.cid, &query.path).await?;
        if resolved.target != query.cid {
            self.judge(&resolved.target)?;
            self.present(&resolved.target, None)?;
        }
        let scope = match query.format {
            Format::Raw => None,
            Format::Car => Some(self.scope(&query, resolved.target).await?),
        };
        let tag = tag(&query, resolved.target);
        let known = value(header::IF_NONE_MATCH).is_some_and(|tags| {
            tags.split(',').any(|known| matches!(known.trim(), "*") || known.trim().trim_start_matches("W/") == tag)
        });
        let mut response = match scope {
            _ if known => empty(StatusCode::NOT_MODIFIED),
            None => self.raw(&query.cid, head, requests).await?,
            Some(_) if head => empty(StatusCode::OK),
            Some(scope) => self.car(&resolved, scope, requests).await?,
        };
        describe(response.headers_mut(), &query, &resolved, &tag);
        Ok(response)
    }

    fn judge(&self, cid: &Cid) -> Result<(), Refused> {
        match self.config.policy.judge(cid) {
            Verdict::Serve => Ok(()),
            Verdict::Hide => Err(Refused::missing(cid)),
            Verdict::Gone => Err(Refused::new(StatusCode::GONE, format!("{cid} is not served any more"))),
        }
    }

    fn present(&self, cid: &Cid, control: Option<&str>) -> Result<(), Refused> {
        if self.store.has(cid) {
            return Ok(());
        }
        let Refused(status, text) = Refused::missing(cid);
        let cached = control.is_some_and(|control| control.contains("only-if-cached"));
        Err(Refused(if cached { StatusCode::PRECONDITION_FAILED } else { status }, text))
    }

    /// A turn among those who wait for it: clients ask for the blocks of a file all at once.
    async fn turn(&self, turns: &Arc<Semaphore>, count: usize) -> Result<OwnedSemaphorePermit, Refused> {
        // A CAR file counts as the most.
        let count = u32::try_from(count.min(CAR_BYTES)).unwrap_or(u32::MAX);
        let deadline = self.clock.now() + self.config.max_wait;
        match timeout_at(&*self.clock, deadline, turns.clone().acquire_many_owned(count)).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Refused::busy()),
        }
    }

    async fn raw(&self, cid: &Cid, head: bool, request: OwnedSemaphorePermit) -> Result<Response<Answer>, Refused> {
        let size = self.store.size(cid).ok_or_else(|| Refused::missing(cid))?;
        let mut response = if head {
            empty(StatusCode::OK)
        } else {
            let room = self.turn(&self.bytes, size as usize).await?;
            let data = self.store.get(cid).await?.ok_or_else(|| Refused::missing(cid))?;
            Response::new(Answer::whole(data, vec![request, room]))
        };
        response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
        Ok(response)
    }

    async fn car(
        &self,
        resolved: &Resolved,
        scope: Scope,
        request: OwnedSemaphorePermit,
    ) -> Result<Response<Answer>, Refused> {
        let room = self.turn(&self.bytes, CAR_BYTES).await?;
        let options = ExportOptions {
            max_bytes: self.config.max_car_bytes,
            max_blocks: self.config.max_car_blocks,
            prefetch: 1,
            ..ExportOptions::default()
        };
        let wanted = Wanted { path: resolved.blocks.clone(), target: resolved.target, scope, options };
        Ok(Response::new(Answer::car(self.store.clone(), wanted, vec![request, room])))
    }

    async fn scope(&self, query: &Query, target: Cid) -> Result<Scope, Refused> {
        let Some(bytes) = query.bytes else {
            return Ok(match query.scope {
                DagScope::Block => Scope::Block,
                DagScope::Entity => Scope::entity(0..u64::MAX),
                DagScope::All => Scope::All,
            });
        };
        let size = match unixfs::stat(&self.store, target).await {
            Ok(stat) if stat.kind == Kind::File => stat.bytes,
            // Of what is no file the range says nothing.
            _ => return Ok(Scope::entity(0..u64::MAX)),
        };
        let range = bytes.within(size);
        match range.is_empty() {
            false => Ok(Scope::entity(range)),
            true if size == 0 => Ok(Scope::Block),
            true => Err(Refused::new(StatusCode::BAD_REQUEST, format!("the file has only {size} bytes"))),
        }
    }
}

fn tag(query: &Query, target: Cid) -> String {
    match (query.format, query.bytes) {
        (Format::Raw, _) => format!("\"{target}.raw\""),
        (Format::Car, None) => format!("\"{target}.car.{}.{}\"", query.scope, query.path.len()),
        (Format::Car, Some(bytes)) => format!("\"{target}.car.{}.{}.{bytes}\"", query.scope, query.path.len()),
    }
}

fn describe(headers: &mut HeaderMap, query: &Query, resolved: &Resolved, tag: &str) {
    let (media, ending) = match query.format {
        Format::Raw => (RAW_TYPE.to_owned(), "bin"),
        Format::Car => (format!("{CAR_TYPE}; version=1; order=dfs; dups=n"), "car"),
    };
    let target = query.target();
    let path = target.split('?').next().unwrap_or_default();
    let roots = resolved.roots.iter().map(Cid::to_string).collect::<Vec<_>>().join(",");
    let name = format!("attachment; filename=\"{}.{ending}\"", resolved.target);
    let fields = [
        (header::CONTENT_TYPE, media.as_str()),
        (header::CONTENT_DISPOSITION, name.as_str()),
        (header::ETAG, tag),
        (header::CACHE_CONTROL, IMMUTABLE),
        (header::VARY, "Accept"),
        (HeaderName::from_static("x-ipfs-path"), path),
        (HeaderName::from_static("x-ipfs-roots"), roots.as_str()),
    ];
    for (name, value) in fields {
        // All of them are ASCII: names in the path are percent-encoded.
        headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
    }
}

/// Pages of any origin may read what anybody may read.
fn open_to_pages(headers: &mut HeaderMap) {
    let fields = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Accept, Cache-Control, If-None-Match, Range"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Content-Length, ETag, X-Ipfs-Path, X-Ipfs-Roots"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    headers.extend(fields.map(|(name, value)| (name, HeaderValue::from_static(value))));
}

fn empty(status: StatusCode) -> Response<Answer> {
    let mut response = Response::new(Answer::whole(Bytes::new(), Vec::new()));
    *response.status_mut() = status;
    response
}

fn refuse(Refused(status, text): Refused, head: bool) -> Response<Answer> {
    let mut response = Response::new(Answer::whole(if head { String::new() } else { text + "\n" }, Vec::new()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // What is not here now may come.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match status {
        StatusCode::TOO_MANY_REQUESTS => drop(headers.insert(header::RETRY_AFTER, RETRY_AFTER_S.into())),
        StatusCode::METHOD_NOT_ALLOWED => {
            drop(headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS")))
        }
        _ => {}
    }
    response
}
