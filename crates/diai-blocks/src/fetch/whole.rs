//! Asking for the whole DAG, from one sender or several, before anybody asks for single blocks.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::atomic::Ordering,
    time::Duration,
};

use cid::Cid;
use diai_core::{BoxFuture, Instant, PeerId, offload};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::sync::oneshot;

use super::{
    FetchError, FetchProgress,
    dag::{Scope, Walk},
};
use crate::dag::{self, Ended, Held, Receiving, Request, Skip, Tally, held, probe, receive};

/// Peers that are asked whether they have the root.
const MAX_CANDIDATES: usize = 16;
/// The children of a DAG are shared in so many pieces for each candidate.
const PIECES_PER_CANDIDATE: usize = 8;
/// Rounds in which new senders or limits of senders make it worth asking again.
const MAX_ROUNDS: usize = 256;
/// How often an answer is given up because much of what follows is here already.
const MAX_ASKED_AGAIN: usize = 4;
/// Pieces that one sender sends at a time: the second begins without a round trip when the first ends.
const PIECES_AT_A_TIME: usize = 2;
/// Who has nothing to do for so long takes over what others are slow with.
const PATIENCE: Duration = Duration::from_secs(1);

type Ran = (PeerId, Result<(Ended, u64), FetchError>);

/// What is shared, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// One request for all that is left.
    Whole,
    /// One block, so that there is something to share.
    Block,
    /// Pieces.
    Pieces,
}

impl Walk<'_> {
    pub(super) fn asks_whole(&self) -> bool {
        self.scope == Scope::Dag && self.fetcher.config.whole_dags
    }

    /// Asks those of `peers`, and of the connected devices of agents, that were not asked yet. What does not come is left
    /// for others.
    pub(super) async fn whole(&mut self, peers: Vec<PeerId>) -> Result<(), FetchError> {
        if !self.asks_whole() {
            return Ok(());
        }
        let network = &self.fetcher.world.network;
        let connected = network.peers().into_iter().filter(|info| info.agent.is_some()).map(|info| info.peer);
        let us = network.local_peer();
        let mut candidates = Vec::new();
        for peer in peers.into_iter().chain(connected) {
            if peer != us && candidates.len() < MAX_CANDIDATES && self.asked_whole.insert(peer) {
                candidates.push(peer);
            }
        }
        if candidates.is_empty() {
            return Ok(());
        }
        let (options, config) = (self.options, &self.fetcher.config);
        let tally = Tally {
            blocks: self.progress.blocks.into(),
            bytes: self.progress.bytes.into(),
            max_bytes: if options.max_bytes == 0 { config.max_bytes } else { options.max_bytes },
            ..Tally::default()
        };
        let tell = |open_blocks| {
            if let Some(told) = &options.progress {
                let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
                let (blocks, bytes) = (load(&tally.blocks), load(&tally.bytes));
                (told.0)(FetchProgress { blocks, bytes, open_blocks, ..FetchProgress::default() });
            }
        };
        let tools = |asks_again| Receiving {
            world: &self.fetcher.world,
            store: &self.fetcher.store,
            config,
            tally: &tally,
            kept: options.kept,
            deadline: options.deadline.unwrap_or(Instant::NEVER),
            asks_again,
            tell: &tell,
        };
        let (curious, plain) = (tools(true), tools(false));
        let mut crowd = Crowd::new(self.root, &curious, &plain, candidates);
        let outcome = crowd.run().await;
        let sent = std::mem::take(&mut crowd.sent);
        drop(crowd);
        let (blocks, bytes) = (tally.blocks.load(Ordering::Relaxed), tally.bytes.load(Ordering::Relaxed));
        self.came_whole += blocks - self.progress.blocks;
        (self.progress.blocks, self.progress.bytes) = (blocks, bytes);
        self.deliverers.extend(sent.into_iter().filter(|(_, bytes)| *bytes > 0).map(|(peer, _)| peer));
        self.last_block = self.fetcher.world.clock.now();
        outcome
    }
}

/// Those who send parts of a DAG at the same time.
struct Crowd<'a> {
    root: Cid,
    curious: &'a Receiving<'a>,
    plain: &'a Receiving<'a>,
    candidates: usize,
    asking: FuturesUnordered<BoxFuture<'a, (PeerId, bool)>>,
    /// Who has the root, with the pieces each has under way.
    senders: BTreeMap<PeerId, usize>,
    running: FuturesUnordered<BoxFuture<'a, Ran>>,
    stops: Vec<oneshot::Sender<()>>,
    sent: BTreeMap<PeerId, u64>,
    asked_again: usize,
}

impl<'a> Crowd<'a> {
    fn new(root: Cid, curious: &'a Receiving<'a>, plain: &'a Receiving<'a>, candidates: Vec<PeerId>) -> Self {
        let (mut senders, mut asking) = (BTreeMap::new(), FuturesUnordered::new());
        let count = candidates.len();
        match candidates[..] {
            // With one alone nothing is gained by asking first.
            [only] => drop(senders.insert(only, 0)),
            _ => asking.extend(
                candidates.into_iter().map(|peer| probe(plain, peer, root).map(move |has| (peer, has)).boxed()),
            ),
        }
        Self {
            root,
            curious,
            plain,
            candidates: count,
            asking,
            senders,
            running: FuturesUnordered::new(),
            stops: Vec::new(),
            sent: BTreeMap::new(),
            asked_again: 0,
        }
    }

    async fn run(&mut self) -> Result<(), FetchError> {
        for _ in 0..MAX_ROUNDS {
            let before = self.plain.tally.blocks.load(Ordering::Relaxed);
            let here = self.held().await?;
            if here.whole {
                return Ok(());
            }
            let (shape, jobs) = self.plan(&here);
            let again = self.round(shape, jobs).await?;
            let idle = self.plain.tally.blocks.load(Ordering::Relaxed) == before;
            if !again || idle || self.plain.world.clock.now() >= self.plain.deadline {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn held(&mut self) -> Result<Held, FetchError> {
        let (tools, root) = (self.plain, self.root);
        if !tools.store.has(&root) {
            return Ok(Held::default());
        }
        let (store, max_nodes) = (tools.store.store().clone(), tools.config.max_nodes);
        offload(&*tools.world.offload, move || held(&*store, root, max_nodes)).await.map_err(|_| FetchError::Closed)
    }

    fn request(root: Cid, scope: dag::Scope, skips: Vec<Skip>) -> Request {
        Request { root, scope, skips, max_bytes: u64::MAX >> 1 }
    }

    fn plan(&self, here: &Held) -> (Shape, VecDeque<Request>) {
        let whole = || (Shape::Whole, VecDeque::from([Self::request(self.root, dag::Scope::Dag, here.skips())]));
        let block = |cid| (Shape::Block, VecDeque::from([Self::request(cid, dag::Scope::Block, Vec::new())]));
        if self.candidates == 1 {
            return whole();
        }
        if here.parts.is_empty() {
            return block(self.root);
        }
        let absent: usize = here.parts.iter().map(|part| part.absent.len()).sum();
        let pieces = PIECES_PER_CANDIDATE * self.candidates;
        // Many gaps are one request, rather than a request each.
        if absent == 0 || here.parts.len() > pieces {
            return whole();
        }
        let length = absent.div_ceil(pieces);
        let mut jobs = VecDeque::new();
        for part in &here.parts {
            for piece in part.absent.chunks(length) {
                let piece: BTreeSet<u32> = piece.iter().copied().collect();
                let left_out = (0..part.links).map(|at| !piece.contains(&at));
                let skip = Skip::links(part.skip.cid, left_out);
                jobs.push_back(Self::request(part.skip.cid, dag::Scope::Dag, vec![skip]));
            }
        }
        (Shape::Pieces, jobs)
    }

    /// Whether it is worth going on.
    async fn round(&mut self, shape: Shape, mut jobs: VecDeque<Request>) -> Result<bool, FetchError> {
        let clock = &*self.plain.world.clock;
        let (mut again, mut idle_since) = (shape != Shape::Whole, None);
        self.stops.clear();
        loop {
            self.start(shape, &mut jobs);
            let waiting = self.running.is_empty();
            if waiting && (jobs.is_empty() || self.asking.is_empty()) {
                return Ok(again && !self.senders.is_empty());
            }
            let idle = jobs.is_empty() && self.senders.values().any(|pieces| *pieces == 0);
            idle_since = idle.then(|| idle_since.unwrap_or_else(|| clock.now()));
            let takes_over = idle_since.map_or(Instant::NEVER, |since| since + PATIENCE);
            tokio::select! {
                biased;
                Some((peer, ran)) = self.running.next() => again |= self.ran(peer, ran?),
                Some((peer, has)) = self.asking.next() => {
                    if has && self.senders.len() < self.plain.config.max_senders {
                        self.senders.insert(peer, 0);
                    }
                }
                () = clock.sleep_until(takes_over), if shape == Shape::Pieces => {
                    self.take_over().await?;
                    return Ok(true);
                }
            }
        }
    }

    fn start(&mut self, shape: Shape, jobs: &mut VecDeque<Request>) {
        let most = if shape == Shape::Pieces { PIECES_AT_A_TIME } else { 1 };
        while !jobs.is_empty() {
            let free = self.senders.iter_mut().filter(|(_, pieces)| **pieces < most).min_by_key(|(_, pieces)| **pieces);
            let Some((&peer, pieces)) = free else { return };
            let Some(request) = jobs.pop_front() else { return };
            *pieces += 1;
            let (stop, stopped) = oneshot::channel();
            self.stops.push(stop);
            let curious = shape == Shape::Whole && self.asked_again < MAX_ASKED_AGAIN;
            let tools = if curious { self.curious } else { self.plain };
            self.running.push(
                async move {
                    let ran = receive(tools, peer, &request, stopped).await;
                    (peer, ran)
                }
                .boxed(),
            );
        }
    }

    /// Whether what is left may be asked for again.
    fn ran(&mut self, peer: PeerId, (ended, bytes): (Ended, u64)) -> bool {
        *self.sent.entry(peer).or_default() += bytes;
        if let Some(pieces) = self.senders.get_mut(&peer) {
            *pieces -= 1;
        }
        match ended {
            Ended::Complete { missing: 0 } => false,
            Ended::Again => {
                self.asked_again += 1;
                true
            }
            // What it has not got others may have.
            Ended::Complete { .. } | Ended::Stopped | Ended::Left => {
                self.senders.remove(&peer);
                true
            }
        }
    }

    /// Stops what is under way, so that it is shared anew, without those who are much slower than others.
    async fn take_over(&mut self) -> Result<(), FetchError> {
        let busy: Vec<_> = self.senders.iter().filter(|(_, pieces)| **pieces > 0).map(|(peer, _)| *peer).collect();
        for stop in self.stops.drain(..) {
            // Some have ended already.
            let _ = stop.send(());
        }
        while let Some((peer, ran)) = self.running.next().await {
            let (_, bytes) = ran?;
            *self.sent.entry(peer).or_default() += bytes;
        }
        self.senders.values_mut().for_each(|pieces| *pieces = 0);
        let most = self.sent.values().copied().max().unwrap_or(0);
        for peer in busy {
            if self.sent.get(&peer).copied().unwrap_or(0) < most / 2 && self.senders.len() > 1 {
                self.senders.remove(&peer);
            }
        }
        Ok(())
    }
}
