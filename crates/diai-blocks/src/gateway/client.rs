//! Asking gateways.

mod check;
mod coming;
mod link;
mod origin;
mod resort;

use std::{fmt, sync::Arc};

use cid::Cid;
use diai_core::{Clock, Offload, offload, timeout_at};
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use http_body_util::BodyExt;
use hyper::body::Body;
use rustls::{ClientConfig as TlsConfig, RootCertStore, crypto::aws_lc_rs};
use tokio_rustls::TlsConnector;

use self::{
    coming::Coming,
    link::{Answer, Gateway, Links, http},
};
use super::{ClientConfig, ConfigError, GatewayError, NoGateway, Query, error::Reason, sockets::Dial};
use crate::{Block, MAX_BLOCK_BYTES, block::known_content};

/// Gateways that can be asked at all.
const MAX_GATEWAYS: usize = 16;
/// Asks gateways for blocks and CAR files, one after the other, and believes none of them. Cheap to clone; connections end
/// with the last clone.
#[derive(Clone)]
pub struct GatewayClient(Arc<Inner>);

struct Inner {
    config: ClientConfig,
    gateways: Vec<Arc<Gateway>>,
    links: Links,
    pool: Arc<dyn Offload>,
}

impl fmt::Debug for GatewayClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayClient").field("urls", &self.0.config.urls).finish_non_exhaustive()
    }
}

impl GatewayClient {
    /// Asks the gateways of `config`, reached by `dial`; blocks are hashed on `pool`. Certificates of gateways are checked
    /// against the roots that Mozilla trusts.
    pub fn new(
        config: ClientConfig,
        dial: Arc<dyn Dial>,
        clock: Arc<dyn Clock>,
        pool: Arc<dyn Offload>,
    ) -> Result<Self, ConfigError> {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let tls = TlsConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider speaks TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self::with_tls(config, dial, clock, pool, tls)
    }

    /// The same with other trust in certificates.
    pub fn with_tls(
        config: ClientConfig,
        dial: Arc<dyn Dial>,
        clock: Arc<dyn Clock>,
        pool: Arc<dyn Offload>,
        mut tls: TlsConfig,
    ) -> Result<Self, ConfigError> {
        if config.urls.len() > MAX_GATEWAYS {
            return Err(ConfigError::TooMany { limit: MAX_GATEWAYS });
        }
        let gateways =
            config.urls.iter().map(|url| Gateway::new(url, &config).map(Arc::new)).collect::<Result<_, _>>()?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let links = Links::new(dial, clock, TlsConnector::from(Arc::new(tls)));
        Ok(Self(Arc::new(Inner { config, gateways, links, pool })))
    }

    /// The block `cid` from the first gateway that has it.
    ///
    /// Cancel-safety: dropping the future ends the request.
    pub async fn block(&self, cid: Cid) -> Result<Block, NoGateway> {
        if let Some(content) = known_content(&cid) {
            return Ok(Block { cid, data: bytes::Bytes::copy_from_slice(content) });
        }
        let query = Query::raw(cid);
        let mut errors = Vec::new();
        for gateway in &self.0.gateways {
            let deadline = self.0.links.clock.now() + self.0.config.block_timeout;
            let asking = timeout_at(&*self.0.links.clock, deadline, self.0.raw(gateway, &query));
            match asking.await.unwrap_or(Err(Reason::TimedOut)) {
                Ok(block) => return Ok(block),
                Err(reason) => errors.push(self.0.fault(gateway, reason)),
            }
        }
        Err(NoGateway { cid, errors })
    }

    /// The blocks of the CAR file that `query` asks for, from the first gateway that begins to send one, in groups: each
    /// block checked, parents before children, each once. An error ends it; what came before is right.
    ///
    /// That a file or folder is complete is told by the stream's end only if all of a DAG was asked for.
    ///
    /// Cancel-safety: dropping the stream ends the request.
    pub fn car(&self, query: Query) -> BoxStream<'static, Result<Vec<Block>, NoGateway>> {
        let inner = self.0.clone();
        let opening = async move {
            match inner.open(&query).await {
                Ok((gateway, answer)) => inner.groups(gateway, answer, &query).left_stream(),
                Err(failed) => stream::iter([Err(failed)]).right_stream(),
            }
        };
        stream::once(opening).flatten().boxed()
    }
}

impl Inner {
    fn fault(&self, gateway: &Gateway, reason: Reason) -> GatewayError {
        if reason.is_fault() {
            tracing::debug!(gateway = gateway.url, %reason, "a gateway failed");
            gateway.note_fault(&reason, self.links.clock.now(), self.config.back_off);
        }
        GatewayError { gateway: gateway.url.clone(), reason }
    }

    async fn ask(&self, gateway: &Arc<Gateway>, query: &Query) -> Result<Answer, Reason> {
        match gateway.wait(self.links.clock.now()) {
            Some(wait) => Err(Reason::LeftAlone { wait }),
            None => self.links.ask(gateway, query, &self.config).await,
        }
    }

    async fn raw(&self, gateway: &Arc<Gateway>, query: &Query) -> Result<Block, Reason> {
        let mut answer = self.ask(gateway, query).await?;
        let over = || Reason::OverLimit { what: "bytes for a block", limit: MAX_BLOCK_BYTES as u64 };
        if answer.body.size_hint().lower() > MAX_BLOCK_BYTES as u64 {
            return Err(over());
        }
        let mut data = Vec::new();
        while let Some(frame) = answer.body.frame().await {
            let Ok(part) = frame.map_err(http)?.into_data() else { continue };
            if data.len() + part.len() > MAX_BLOCK_BYTES {
                return Err(over());
            }
            data.extend_from_slice(&part);
        }
        let cid = query.cid;
        let block = offload(&*self.pool, move || Block::verified(cid, data)).await.map_err(|_| Reason::Closed)??;
        answer.lease.finish();
        Ok(block)
    }

    async fn open(&self, query: &Query) -> Result<(Arc<Gateway>, Answer), NoGateway> {
        let mut errors = Vec::new();
        for gateway in &self.gateways {
            match self.ask(gateway, query).await {
                Ok(answer) => return Ok((gateway.clone(), answer)),
                Err(reason) => errors.push(self.fault(gateway, reason)),
            }
        }
        Err(NoGateway { cid: query.cid, errors })
    }

    fn groups(
        self: Arc<Self>,
        gateway: Arc<Gateway>,
        answer: Answer,
        query: &Query,
    ) -> impl Stream<Item = Result<Vec<Block>, NoGateway>> + Send + use<> {
        let (cid, coming) = (query.cid, Coming::new(answer, query, &self.config));
        stream::unfold((self, gateway, coming), move |(inner, gateway, mut coming)| async move {
            let group = coming.group(&inner.pool).await.transpose()?;
            let group = group.map_err(|reason| NoGateway { cid, errors: vec![inner.fault(&gateway, reason)] });
            Some((group, (inner, gateway, coming)))
        })
    }
}
