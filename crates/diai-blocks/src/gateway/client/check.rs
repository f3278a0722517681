//! Whether the blocks of a CAR file are those that were asked for.

use std::collections::BTreeSet;

use bytes::Bytes;
use cid::Cid;

use super::super::{
    error::Reason,
    query::{DagScope, Query},
};
use crate::{Block, block::known_content, dag_pb::MAX_CID_BYTES, identity_content, ipld, store::Key};

/// Links that may wait; one node has at most 65,536.
const MAX_AWAITED: usize = 1 << 20;
/// Blocks that may come twice, beside as many as came once.
const MAX_AGAIN: usize = 1024;

type Place = (u64, Key);

fn place(cid: &Cid) -> Place {
    (cid.codec(), Key::from(cid.hash()))
}

/// What may come next, given what came. In whatever order: but a block comes after one that links to it.
pub(super) struct Check {
    awaited: BTreeSet<Place>,
    seen: BTreeSet<Place>,
    again: usize,
    max_blocks: usize,
    /// Whether all that is linked to must come.
    all: bool,
}

impl Check {
    pub(super) fn new(query: &Query, max_blocks: usize) -> Self {
        let all = query.scope == DagScope::All && query.path.is_empty();
        let mut check = Self { awaited: BTreeSet::new(), seen: BTreeSet::new(), again: 0, max_blocks, all };
        // One link is within any limit, unless it holds its own.
        check.expect(vec![query.cid]).unwrap_or_default();
        check
    }

    /// The blocks that `sections` are, up to the first that is not right, and what is wrong with it. Hashes.
    pub(super) fn take(&mut self, sections: Vec<Bytes>) -> (Vec<Block>, Option<Reason>) {
        let mut blocks = Vec::with_capacity(sections.len());
        for section in sections {
            match self.section(section) {
                Ok(block) => blocks.extend(block),
                Err(reason) => return (blocks, Some(reason)),
            }
        }
        (blocks, None)
    }

    fn section(&mut self, section: Bytes) -> Result<Option<Block>, Reason> {
        let mut rest = &section[..];
        let cid = Cid::read_bytes(&mut rest).ok().filter(|_| section.len() - rest.len() <= MAX_CID_BYTES);
        let cid = cid.ok_or(Reason::NoCid)?;
        let place = place(&cid);
        if !self.awaited.remove(&place) {
            let known = self.seen.contains(&place) || identity_content(&cid).is_some();
            self.again += 1;
            let few = self.again <= self.seen.len() + MAX_AGAIN;
            return if known && few { Ok(None) } else { Err(Reason::Unexpected { cid }) };
        }
        let block = Block::verified(cid, section.slice(section.len() - rest.len()..))?;
        self.seen.insert(place);
        if self.seen.len() > self.max_blocks {
            return Err(Reason::OverLimit { what: "blocks", limit: self.max_blocks as u64 });
        }
        self.follow(&cid, &block.data)?;
        Ok(Some(block))
    }

    fn follow(&mut self, cid: &Cid, data: &[u8]) -> Result<(), Reason> {
        let links = ipld::links(cid, data).map_err(|source| Reason::Links { cid: *cid, source })?;
        self.expect(links)
    }

    fn expect(&mut self, mut links: Vec<Cid>) -> Result<(), Reason> {
        while let Some(cid) = links.pop() {
            let place = place(&cid);
            if self.seen.contains(&place) {
                continue;
            }
            match identity_content(&cid) {
                Some(content) => {
                    self.seen.insert(place);
                    links.extend(ipld::links(&cid, content).unwrap_or_default());
                }
                None => drop(self.awaited.insert(place)),
            }
            if self.awaited.len() > MAX_AWAITED {
                return Err(Reason::OverLimit { what: "links waiting", limit: MAX_AWAITED as u64 });
            }
        }
        Ok(())
    }

    /// The file has ended well: whether anything is missing.
    pub(super) fn end(&self) -> Result<(), Reason> {
        let known = |(codec, key): &&Place| known_content(&Cid::new_v1(*codec, key.multihash())).is_none();
        match self.awaited.iter().filter(known).count() {
            missing @ 1.. if self.all => Err(Reason::Incomplete { missing }),
            _ => Ok(()),
        }
    }
}
