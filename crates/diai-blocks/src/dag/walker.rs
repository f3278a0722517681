//! The sender's walk: what comes next, read from the store and framed, a batch at a time on the pool.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use cid::Cid;

use super::{
    End, EndReason, Frame, MAX_DEPTH,
    request::{Request, Scope, Skip},
};
use crate::{GetError, Store, identity_content, ipld, serve::Gate, store::Key};

/// Blocks over this length are chunks of their own, not copied.
const SMALL_BYTES: usize = 64 << 10;
/// Small blocks are gathered to chunks of so many bytes.
const CHUNK_BYTES: usize = 256 << 10;
/// Links looked at for one batch, so that one request holds no worker for long.
const BATCH_LINKS: usize = 65_536;
/// Of the leaves that were sent, so many are remembered, twice over.
const RECENT_LEAVES: usize = 16_384;

/// By codec and hash: as the same bytes may have links under one codec and none under another.
pub(super) type Place = (u64, Key);

pub(super) fn place(cid: &Cid) -> Place {
    (cid.codec(), Key::from(cid.hash()))
}

/// The latest leaves that were sent.
#[derive(Debug, Default)]
struct Recent {
    now: BTreeSet<Key>,
    before: BTreeSet<Key>,
}

impl Recent {
    fn contains(&self, key: &Key) -> bool {
        self.now.contains(key) || self.before.contains(key)
    }

    fn insert(&mut self, key: Key) {
        if self.now.len() >= RECENT_LEAVES {
            self.before = std::mem::take(&mut self.now);
        }
        self.now.insert(key);
    }
}

/// What one request may take of its sender.
#[derive(Debug, Clone, Copy)]
pub(super) struct WalkLimits {
    pub(super) batch_bytes: usize,
    pub(super) nodes: usize,
    pub(super) links: usize,
}

/// A part of the answer.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) chunks: Vec<Bytes>,
    pub(super) blocks: u64,
    pub(super) bytes: u64,
    pub(super) ended: bool,
}

pub(super) struct Walker {
    store: Arc<dyn Store>,
    gate: Gate,
    limits: WalkLimits,
    scope: Scope,
    /// The next one last, with how deep it is.
    stack: Vec<(Cid, u32)>,
    nodes: BTreeSet<Place>,
    leaves: Recent,
    skips: BTreeMap<Place, Skip>,
    left_bytes: u64,
    end: End,
}

impl Walker {
    pub(super) fn new(store: Arc<dyn Store>, gate: Gate, request: Request, limits: WalkLimits) -> Self {
        Self {
            store,
            gate,
            limits,
            scope: request.scope,
            stack: vec![(request.root, 0)],
            nodes: BTreeSet::new(),
            leaves: Recent::default(),
            skips: request.skips.into_iter().map(|skip| (place(&skip.cid), skip)).collect(),
            left_bytes: request.max_bytes,
            end: End::empty(EndReason::Complete),
        }
    }

    /// The next batch. Blocks.
    pub(super) fn batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        let (before, mut small) = ((self.end.blocks, self.end.bytes), BytesMut::new());
        let mut links = 0;
        while links < BATCH_LINKS && self.end.bytes - before.1 < self.limits.batch_bytes as u64 {
            links += 1;
            let reason = match self.stack.pop() {
                None => EndReason::Complete,
                Some((cid, depth)) => match self.visit(cid, depth, &mut small, &mut batch.chunks) {
                    Ok(()) => continue,
                    Err(reason) => reason,
                },
            };
            Frame::End(End { reason, ..self.end }).put(&mut small);
            batch.ended = true;
            break;
        }
        push_small(&mut small, &mut batch.chunks);
        (batch.blocks, batch.bytes) = (self.end.blocks - before.0, self.end.bytes - before.1);
        batch
    }

    fn visit(&mut self, cid: Cid, depth: u32, small: &mut BytesMut, chunks: &mut Vec<Bytes>) -> Result<(), EndReason> {
        let (place, node) = (place(&cid), self.scope == Scope::Dag && ipld::has_links(cid.codec()));
        if node && !self.nodes.insert(place.clone()) || !node && self.leaves.contains(&place.1) {
            return Ok(());
        }
        if self.nodes.len() > self.limits.nodes {
            return Err(EndReason::Limit);
        }
        if let Some(content) = identity_content(&cid) {
            return if node { self.follow(&cid, content, depth, None) } else { Ok(()) };
        }
        let skip = self.skips.get(&place).cloned();
        if skip.as_ref().is_some_and(|skip| skip.whole || !node) {
            self.skipped(cid, small);
            return Ok(());
        }
        let data = match self.left_bytes {
            _ if !self.gate.allows(&cid) => Ok(None),
            // Nothing is read for whoever asks only whether it is there.
            0 if self.store.has(&cid) => return Err(EndReason::Limit),
            _ => self.store.get(&cid),
        };
        let data = match data {
            Ok(Some(data)) => data,
            Ok(None) | Err(GetError::Damaged { .. }) => {
                self.end.missing += 1;
                Frame::Missing(cid).put(small);
                return Ok(());
            }
            Err(error) => {
                tracing::warn!(%cid, %error, "a block to be sent could not be read");
                return Err(EndReason::Failed);
            }
        };
        if skip.is_some() {
            self.skipped(cid, small);
        } else {
            self.left_bytes = self.left_bytes.checked_sub(data.len() as u64).ok_or(EndReason::Limit)?;
            self.end.blocks += 1;
            self.end.bytes += data.len() as u64;
            small.extend_from_slice(&Frame::head(&cid, data.len()));
            if data.len() > SMALL_BYTES {
                push_small(small, chunks);
                chunks.push(data.clone());
            } else {
                small.extend_from_slice(&data);
                if small.len() >= CHUNK_BYTES {
                    push_small(small, chunks);
                }
            }
        }
        match node {
            true => self.follow(&cid, &data, depth, skip),
            false => {
                self.leaves.insert(place.1);
                Ok(())
            }
        }
    }

    fn skipped(&mut self, cid: Cid, small: &mut BytesMut) {
        self.end.skipped += 1;
        Frame::Skipped(cid).put(small);
    }

    fn follow(&mut self, cid: &Cid, data: &[u8], depth: u32, skip: Option<Skip>) -> Result<(), EndReason> {
        // Of a malformed node the receiver can make nothing either.
        let links = ipld::links(cid, data).unwrap_or_default();
        let links = match skip {
            Some(skip) => skip.remaining(links),
            None => links,
        };
        if !links.is_empty() && (depth >= MAX_DEPTH || self.stack.len() + links.len() > self.limits.links) {
            return Err(EndReason::Limit);
        }
        self.stack.extend(links.into_iter().rev().map(|link| (link, depth + 1)));
        Ok(())
    }
}

fn push_small(small: &mut BytesMut, chunks: &mut Vec<Bytes>) {
    if !small.is_empty() {
        chunks.push(small.split().freeze());
    }
}
