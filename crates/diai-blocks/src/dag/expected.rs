//! The receiver's side of the walk: which block must come next.

use std::collections::{BTreeMap, BTreeSet};

use cid::Cid;

use super::{
    request::{Request, Scope, Skip},
    walker::{Place, place},
};
use crate::{identity_content, ipld};

/// Links that may wait, of 96 bytes each; one node has at most 65,536, and no sender of ours has more waiting.
const MAX_WAITING: usize = 262_144;

/// What went wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unexpected {
    /// It is not what must come.
    Frame,
    /// More nodes than are allowed.
    Nodes,
    /// More links wait than are allowed.
    Links,
}

pub(super) struct Expected {
    scope: Scope,
    /// The next one last.
    stack: Vec<Cid>,
    nodes: BTreeSet<Place>,
    skips: BTreeMap<Place, Skip>,
    max_nodes: usize,
}

impl Expected {
    pub(super) fn new(request: &Request, max_nodes: usize) -> Self {
        Self {
            scope: request.scope,
            stack: vec![request.root],
            nodes: BTreeSet::new(),
            skips: request.skips.iter().map(|skip| (place(&skip.cid), skip.clone())).collect(),
            max_nodes,
        }
    }

    /// Links waiting.
    pub(super) fn waiting(&self) -> usize {
        self.stack.len()
    }

    pub(super) fn is_node(&self, cid: &Cid) -> bool {
        self.scope == Scope::Dag && ipld::has_links(cid.codec())
    }

    /// Whether links of the node `cid` were awaited already.
    pub(super) fn knows(&self, cid: &Cid) -> bool {
        self.nodes.contains(&place(cid))
    }

    /// The frame for `cid` has come: it must be for the next block, but for those without a frame. `held` says of which
    /// leaves that came before.
    pub(super) fn meet(&mut self, cid: &Cid, held: impl Fn(&Cid) -> bool) -> Result<(), Unexpected> {
        while let Some(next) = self.stack.pop() {
            if self.passes(&next)? {
                continue;
            }
            if next == *cid {
                if self.is_node(&next) {
                    self.nodes.insert(place(&next));
                }
                return if self.nodes.len() > self.max_nodes { Err(Unexpected::Nodes) } else { Ok(()) };
            }
            if self.is_node(&next) || !held(&next) {
                break;
            }
        }
        Err(Unexpected::Frame)
    }

    /// The answer is said to be all: whether it is.
    pub(super) fn ends(&mut self, held: impl Fn(&Cid) -> bool) -> Result<(), Unexpected> {
        while let Some(next) = self.stack.pop() {
            if !self.passes(&next)? && (self.is_node(&next) || !held(&next)) {
                return Err(Unexpected::Frame);
            }
        }
        Ok(())
    }

    /// Whether there is no frame for `next`, whatever was sent.
    fn passes(&mut self, next: &Cid) -> Result<bool, Unexpected> {
        let node = self.is_node(next);
        if node && self.nodes.contains(&place(next)) {
            return Ok(true);
        }
        let Some(content) = identity_content(next) else { return Ok(false) };
        if node {
            self.nodes.insert(place(next));
            self.follow(ipld::links(next, content).unwrap_or_default())?;
        }
        Ok(true)
    }

    /// Awaits `links` of the node just met.
    pub(super) fn follow(&mut self, links: Vec<Cid>) -> Result<(), Unexpected> {
        if self.stack.len() + links.len() > MAX_WAITING {
            return Err(Unexpected::Links);
        }
        self.stack.extend(links.into_iter().rev());
        Ok(())
    }

    /// What was said about `cid` in the request.
    pub(super) fn skip(&self, cid: &Cid) -> Option<&Skip> {
        self.skips.get(&place(cid))
    }
}
