//! What is here already of a DAG, said in few words.

use std::collections::BTreeMap;

use cid::Cid;

use super::{
    request::{MAX_SKIPS, MAX_TURNS, Request, Scope, Skip},
    walker::{Place, place},
};
use crate::{Store, block::known_content, ipld};

/// Links to what is not here that one look names.
const MAX_ABSENT: usize = 262_144;
/// Of a gap, so many nodes are named.
const MAX_NAMED_NODES: usize = 64;

/// What is here of what a request asks for.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// All of it is, or all but what is below nodes that nobody can read.
    pub(crate) whole: bool,
    /// It has more nodes than are allowed.
    pub(crate) over: bool,
    /// The nodes that are here though not all below them is, if they fit a request.
    pub(crate) skips: Option<Vec<Skip>>,
    /// Nodes with links to something that is not here at all.
    pub(crate) gaps: Vec<Gap>,
    /// There are more than these gaps.
    pub(crate) more: bool,
}

/// A node with links to something that is not here at all.
#[derive(Debug)]
pub(crate) struct Gap {
    pub(crate) cid: Cid,
    /// By place, these links.
    pub(crate) absent: Vec<u32>,
    /// What has links itself of that which is not here, or the first of it.
    pub(crate) nodes: Vec<Cid>,
    /// Of its links.
    pub(crate) links: u32,
}

impl Gap {
    /// A request for what is behind some of the links.
    pub(crate) fn request(&self, absent: &[u32]) -> Request {
        let mut left_out = vec![true; self.links as usize];
        for &at in absent {
            left_out[at as usize] = false;
        }
        let skips = vec![Skip::links(self.cid, left_out)];
        Request { root: self.cid, scope: Scope::Dag, skips, max_bytes: u64::MAX >> 1 }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    Part,
    Absent,
}

struct Level {
    cid: Cid,
    links: Vec<Cid>,
    /// Links that were not asked for.
    left_out: Vec<bool>,
    states: Vec<State>,
}

struct Look<'a> {
    store: &'a dyn Store,
    asked: BTreeMap<Place, &'a Skip>,
    known: BTreeMap<Place, State>,
    levels: Vec<Level>,
    max_nodes: usize,
    turns: usize,
    absent: usize,
    held: Held,
}

/// Walks what `store` has of what `request` asks for, and keeps it from a collection that runs now. Blocks. Looks at no
/// more than `max_nodes` nodes.
pub(crate) fn held(store: &dyn Store, request: &Request, max_nodes: usize) -> Held {
    let held = Held { skips: Some(Vec::new()), ..Held::default() };
    let asked = request.skips.iter().map(|skip| (place(&skip.cid), skip)).collect();
    let (known, levels) = (BTreeMap::new(), Vec::new());
    Look { store, asked, known, levels, max_nodes, turns: 0, absent: 0, held }.run(request)
}

impl Look<'_> {
    fn run(mut self, request: &Request) -> Held {
        if request.scope == Scope::Block {
            self.held.whole = known_content(&request.root).is_some() || self.store.touch(&request.root);
            return self.held;
        }
        let mut state = self.look(request.root);
        loop {
            if self.held.over {
                return self.held;
            }
            match (state.take(), self.levels.last_mut()) {
                (Some(state), Some(level)) => level.states.push(state),
                (Some(state), None) => {
                    self.held.whole = state == State::Whole;
                    return self.held;
                }
                (None, _) => {}
            }
            let Some(level) = self.levels.last_mut() else { return self.held };
            let at = level.states.len();
            state = match level.links.get(at) {
                Some(_) if level.left_out[at] => Some(State::Whole),
                Some(&link) => self.look(link),
                None => self.levels.pop().map(|level| self.looked(level)),
            };
        }
    }

    /// All links of a node were looked at.
    fn looked(&mut self, Level { cid, links, states, .. }: Level) -> State {
        let state = if states.iter().all(|state| *state == State::Whole) { State::Whole } else { State::Part };
        self.known.insert(place(&cid), state);
        if state == State::Whole {
            return state;
        }
        let skip = Skip::links(cid, states.iter().map(|state| *state == State::Whole));
        self.turns += skip.turns.len();
        if let Some(skips) = self.held.skips.take_if(|_| self.turns <= MAX_TURNS)
            && skips.len() < MAX_SKIPS
        {
            self.held.skips.insert(skips).push(skip);
        } else {
            self.held.skips = None;
        }
        let absent: Vec<u32> =
            (0..).zip(&states).filter(|(_, state)| **state == State::Absent).map(|(at, _)| at).collect();
        if absent.is_empty() {
            return state;
        }
        self.absent += absent.len();
        if self.held.gaps.len() < MAX_SKIPS && self.absent <= MAX_ABSENT {
            let nodes = absent.iter().map(|at| links[*at as usize]).filter(|cid| ipld::has_links(cid.codec()));
            let nodes = nodes.take(MAX_NAMED_NODES).collect();
            self.held.gaps.push(Gap { cid, absent, nodes, links: links.len() as u32 });
        } else {
            self.held.more = true;
        }
        state
    }

    /// What is known of `cid` at once; otherwise its links are looked at next.
    fn look(&mut self, cid: Cid) -> Option<State> {
        let here = known_content(&cid).is_some() || self.store.touch(&cid);
        if !here || !ipld::has_links(cid.codec()) {
            return Some(if here { State::Whole } else { State::Absent });
        }
        if let Some(state) = self.known.get(&place(&cid)) {
            return Some(*state);
        }
        if self.known.len() + self.levels.len() >= self.max_nodes {
            self.held.over = true;
            return Some(State::Absent);
        }
        let links = match known_content(&cid) {
            Some(content) => ipld::links(&cid, content),
            None => match self.store.get(&cid) {
                Ok(Some(data)) => ipld::links(&cid, &data),
                _ => return Some(State::Absent),
            },
        };
        // Nothing can be asked for below what nobody can read; whoever walks there says so.
        let Ok(links) = links else { return Some(State::Whole) };
        let left_out = match self.asked.get(&place(&cid)) {
            Some(skip) => skip.left_out(links.len()),
            None => vec![false; links.len()],
        };
        self.levels.push(Level { cid, links, left_out, states: Vec::new() });
        None
    }
}
