//! What is here already of a DAG, said in few words.

use std::collections::BTreeMap;

use cid::Cid;

use super::{
    request::{MAX_SKIPS, MAX_TURNS, Skip},
    walker::{Place, place},
};
use crate::{Store, block::known_content, ipld};

/// What is here of the DAG under a root.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// All of it is.
    pub(crate) whole: bool,
    /// Nodes that are here though not all below them is, each with how many of its links lead to something that is not
    /// here at all. No more than fit a request.
    pub(crate) parts: Vec<Part>,
}

#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) skip: Skip,
    /// By place, the links that lead to a block that is not here.
    pub(crate) absent: Vec<u32>,
    /// Of its links.
    pub(crate) links: u32,
}

impl Held {
    pub(crate) fn skips(&self) -> Vec<Skip> {
        self.parts.iter().map(|part| part.skip.clone()).collect()
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
    states: Vec<State>,
}

/// Walks what `store` has of the DAG under `root`, and keeps it from a collection that runs now. Blocks. Looks at no more
/// than `max_nodes` nodes; what it does not look at counts as not here.
pub(crate) fn held(store: &dyn Store, root: Cid, max_nodes: usize) -> Held {
    let (mut known, mut levels) = (BTreeMap::<Place, State>::new(), Vec::<Level>::new());
    let (mut held, mut turns) = (Held::default(), 0);
    let mut state = look(store, root, &known, max_nodes, &mut levels);
    loop {
        match (state.take(), levels.last_mut()) {
            (Some(state), Some(level)) => level.states.push(state),
            (Some(State::Whole), None) => held.whole = true,
            _ => {}
        }
        let Some(level) = levels.last() else { return held };
        if let Some(&link) = level.links.get(level.states.len()) {
            state = look(store, link, &known, max_nodes, &mut levels);
            continue;
        }
        let Some(Level { cid, states, .. }) = levels.pop() else { return held };
        let whole = states.iter().all(|state| *state == State::Whole);
        let this = if whole { State::Whole } else { State::Part };
        if !whole {
            let skip = Skip::links(cid, states.iter().map(|state| *state == State::Whole));
            if held.parts.len() < MAX_SKIPS && turns + skip.turns.len() <= MAX_TURNS {
                turns += skip.turns.len();
                let absent = (0..).zip(&states).filter(|(_, state)| **state == State::Absent).map(|(at, _)| at);
                held.parts.push(Part { skip, absent: absent.collect(), links: states.len() as u32 });
            }
        }
        known.insert(place(&cid), this);
        if levels.is_empty() {
            held.whole = whole;
            return held;
        }
        state = Some(this);
    }
}

/// What is known of `cid` at once; otherwise its links are looked at next.
fn look(
    store: &dyn Store,
    cid: Cid,
    known: &BTreeMap<Place, State>,
    max_nodes: usize,
    levels: &mut Vec<Level>,
) -> Option<State> {
    let here = known_content(&cid).is_some() || store.touch(&cid);
    if !here || !ipld::has_links(cid.codec()) {
        return Some(if here { State::Whole } else { State::Absent });
    }
    if let Some(state) = known.get(&place(&cid)) {
        return Some(*state);
    }
    if known.len() + levels.len() >= max_nodes {
        return Some(State::Absent);
    }
    let links = match known_content(&cid) {
        Some(content) => ipld::links(&cid, content).ok(),
        None => store.get(&cid).ok().flatten().and_then(|data| ipld::links(&cid, &data).ok()),
    };
    let Some(links) = links else { return Some(State::Absent) };
    levels.push(Level { cid, links, states: Vec::new() });
    None
}
