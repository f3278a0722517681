//! How what is left of a DAG is shared.

use std::collections::BTreeSet;

use cid::Cid;
use diai_core::PeerId;

use crate::dag::{Held, Request, Scope};

/// Links of one piece, so that naming the others always fits a request.
const MAX_PIECE_LINKS: usize = 8192;
/// Pieces at a time; what is left is shared when these are done.
const MAX_PIECES: usize = 4096;

/// A request that somebody is to be asked.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) request: Request,
    /// Who has not got all of it, or was too slow with it.
    pub(super) not_by: BTreeSet<PeerId>,
}

impl Job {
    fn new(request: Request) -> Self {
        Self { request, not_by: BTreeSet::new() }
    }

    pub(super) fn dag(root: Cid) -> Self {
        Self::new(Request { root, scope: Scope::Dag, skips: Vec::new(), max_bytes: u64::MAX >> 1 })
    }

    pub(super) fn block(root: Cid) -> Self {
        Self::new(Request { root, scope: Scope::Block, skips: Vec::new(), max_bytes: u64::MAX >> 1 })
    }
}

/// What to ask for, and whether to look again when all of it has come.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) jobs: Vec<Job>,
    pub(super) look_again: bool,
}

/// Shares what is left of `request`, of which `held` is here, in about `pieces`; so that there is something to share, single
/// blocks are asked for first, while `single_blocks` allows it.
pub(super) fn plan(request: &Request, held: &Held, pieces: usize, single_blocks: bool) -> Plan {
    if held.whole || held.over {
        return Plan::default();
    }
    if held.gaps.is_empty() {
        // Its root is not here.
        let splits = pieces > 1 && single_blocks && request.scope == Scope::Dag;
        let job = if splits { Job::block(request.root) } else { Job::new(request.clone()) };
        return Plan { jobs: vec![job], look_again: splits };
    }
    // Many gaps are one request, rather than a request each.
    if let Some(skips) = held.skips.as_ref().filter(|_| pieces == 1 || held.gaps.len() > pieces) {
        let jobs = vec![Job::new(Request { skips: skips.clone(), ..request.clone() })];
        return Plan { jobs, look_again: false };
    }
    let absent: usize = held.gaps.iter().map(|gap| gap.absent.len()).sum();
    let nodes: BTreeSet<_> = held.gaps.iter().flat_map(|gap| &gap.nodes).copied().collect();
    if absent < pieces && single_blocks && !nodes.is_empty() {
        return Plan { jobs: nodes.into_iter().map(Job::block).collect(), look_again: true };
    }
    let length = absent.div_ceil(pieces).clamp(1, MAX_PIECE_LINKS);
    let all = held.gaps.iter().flat_map(|gap| gap.absent.chunks(length).map(|piece| Job::new(gap.request(piece))));
    let jobs: Vec<_> = all.take(MAX_PIECES).collect();
    Plan { look_again: held.more || held.skips.is_none() || jobs.len() == MAX_PIECES, jobs }
}
