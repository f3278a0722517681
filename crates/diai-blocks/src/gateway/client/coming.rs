//! A CAR file on its way.

use std::{io, sync::Arc};

use bytes::Bytes;
use cid::Cid;
use diai_core::{Offload, offload};
use futures::stream::{MapErr, TryStreamExt};
use http_body_util::{BodyDataStream, BodyExt};
use hyper::body::Incoming;
use tokio_util::{
    compat::{Compat, TokioAsyncReadCompatExt},
    io::StreamReader,
};

use super::{
    check::Check,
    link::{Answer, Lease, http},
};
use crate::{
    Block, MAX_BLOCK_BYTES,
    car::{Content, ImportError, Section, Sections},
    gateway::{ClientConfig, Query, error::Reason},
};

/// Blocks are checked in groups of about so many bytes.
const GROUP_BYTES: usize = 1 << 20;
/// And of at most so many.
const GROUP_BLOCKS: usize = 1024;

type Data = MapErr<BodyDataStream<Incoming>, fn(hyper::Error) -> io::Error>;

pub(super) struct Coming {
    sections: Sections<Compat<StreamReader<Data, Bytes>>>,
    /// On the pool while a group is checked.
    check: Option<Check>,
    cid: Cid,
    bytes: u64,
    max_bytes: u64,
    begun: bool,
    /// Whether any block came.
    any: bool,
    ended: bool,
    failed: Option<Reason>,
    lease: Option<Lease>,
}

impl Coming {
    pub(super) fn new(answer: Answer, query: &Query, config: &ClientConfig) -> Self {
        let data = answer.body.into_data_stream().map_err(io::Error::other as fn(hyper::Error) -> io::Error);
        Self {
            sections: Sections::strict(StreamReader::new(data).compat()),
            check: Some(Check::new(query, config.max_car_blocks)),
            cid: query.cid,
            bytes: 0,
            max_bytes: config.max_car_bytes,
            begun: false,
            any: false,
            ended: false,
            failed: None,
            lease: Some(answer.lease),
        }
    }

    /// The next blocks, at least one; `None` at the end, where all is well, or after an error.
    pub(super) async fn group(&mut self, pool: &Arc<dyn Offload>) -> Result<Option<Vec<Block>>, Reason> {
        while self.failed.is_none() && !self.ended {
            let sections = self.read().await;
            let mut check = self.check.take().ok_or(Reason::Closed)?;
            let checking = offload(&**pool, move || {
                let (blocks, fault) = check.take(sections);
                (check, blocks, fault)
            });
            let (check, blocks, fault) = checking.await.map_err(|_| Reason::Closed)?;
            // What came first is what is told.
            self.failed = fault.or_else(|| self.failed.take()).or_else(|| check.end().err().filter(|_| self.ended));
            self.check = Some(check);
            self.any |= !blocks.is_empty();
            if !blocks.is_empty() {
                return Ok(Some(blocks));
            }
        }
        self.ended = true;
        match (self.failed.take(), self.lease.take()) {
            // Some, such as Kubo, begin a file before they look for its root, and then say in words that they lack it.
            (Some(Reason::Http(_) | Reason::Incomplete { .. } | Reason::NoCid | Reason::Car(_)), _)
                if self.begun && !self.any =>
            {
                Err(Reason::NotFound { cid: self.cid })
            }
            (Some(reason), _) => Err(reason),
            (None, lease) => {
                lease.into_iter().for_each(Lease::finish);
                Ok(None)
            }
        }
    }

    async fn read(&mut self) -> Vec<Bytes> {
        let (mut group, mut bytes) = (Vec::new(), 0);
        while bytes < GROUP_BYTES && group.len() < GROUP_BLOCKS && !self.ended && self.failed.is_none() {
            match self.section().await {
                Ok(Some(section)) => {
                    bytes += section.len();
                    group.push(section);
                }
                Ok(None) => self.ended = true,
                Err(reason) => self.failed = Some(reason),
            }
        }
        group
    }

    async fn section(&mut self) -> Result<Option<Bytes>, Reason> {
        if !self.begun {
            self.sections.begin().await.map_err(faulty)?;
            self.begun = true;
        }
        let section = match self.sections.next().await.map_err(faulty)? {
            None => return Ok(None),
            Some(Section { content: Content::Whole(section), .. }) => section,
            Some(Section { content: Content::TooLong(..), .. }) => {
                return Err(Reason::OverLimit { what: "bytes for a block", limit: MAX_BLOCK_BYTES as u64 });
            }
        };
        self.bytes += section.len() as u64;
        if self.bytes > self.max_bytes {
            return Err(Reason::OverLimit { what: "bytes for a CAR file", limit: self.max_bytes });
        }
        Ok(Some(section))
    }
}

/// A fault of the connection is told as such.
fn faulty(error: ImportError) -> Reason {
    match error {
        ImportError::Io(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => http(error),
            Err(error) => Reason::Connect(error),
        },
        error => Reason::Car(error),
    }
}
