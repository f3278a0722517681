//! One fetch: a walk over what is here and what comes, depth first.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cid::Cid;
use diai_core::{BoxFuture, Instant, PeerId};
use futures::FutureExt;

use super::{
    Asked, FetchError, FetchOptions, FetchProgress, Fetcher, Via,
    lookups::{Lookups, Named},
    rescue::{Brought, Rescue},
};
use crate::{
    Block, Guard,
    bitswap::{Delivery, Session},
    block::known_content,
    ipld,
    store::{Key, Multihash},
    unixfs,
};

/// While more links than this wait, only so many nodes with links are fetched at a time.
const LONG_FRONTIER: usize = 8192;
const NODES_WHEN_LONG: usize = 16;
/// Links that may wait; one node has at most 65,536.
const MAX_FRONTIER: usize = 1 << 20;
/// Stored bytes after which a flush goes along, so that little is left for the end.
const FLUSH_EVERY_BYTES: u64 = 32 << 20;
/// A group of blocks is stored when it has so many.
const GROUP_BLOCKS: usize = 1024;

/// How much to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// One block.
    Block,
    /// Everything below it too.
    Dag,
}

type Storing = BoxFuture<'static, Result<(), FetchError>>;

pub(super) struct Walk<'a> {
    pub(super) fetcher: &'a Fetcher,
    pub(super) root: Cid,
    pub(super) scope: Scope,
    pub(super) options: &'a FetchOptions,
    _guard: Guard,
    pub(super) session: Option<Session>,
    /// To visit, the next one last.
    pub(super) frontier: Vec<Cid>,
    /// Nodes with links that were visited, by codec and hash.
    pub(super) seen: BTreeSet<(u64, Key)>,
    pub(super) wanted: BTreeMap<Multihash, Vec<Cid>>,
    pub(super) wanted_nodes: usize,
    /// Wanted, and nobody who was asked has it.
    pub(super) missing: BTreeMap<Multihash, BTreeSet<PeerId>>,
    group: Vec<Block>,
    group_bytes: usize,
    /// Blocks of the group, and of the one being stored: not in the store yet, but not to be wanted again.
    held: BTreeMap<Multihash, Bytes>,
    held_before: BTreeMap<Multihash, Bytes>,
    storing: Option<Storing>,
    unflushed: u64,
    pub(super) progress: FetchProgress,
    pub(super) last_block: Instant,
    pub(super) lookups: Lookups,
    pub(super) deliverers: BTreeSet<PeerId>,
    /// Who was asked for the whole DAG.
    pub(super) asked_whole: BTreeSet<PeerId>,
    /// Blocks that came that way: the walk finds them here.
    pub(super) came_whole: u64,
    /// How often those were asked who came to light later.
    pub(super) asked_later: usize,
    pub(super) rescue: Option<Rescue>,
}

enum Event {
    Rescued(Option<Brought>),
    Stored(Result<(), FetchError>),
    Delivery(Option<Delivery>),
    Providers(Named),
    Time,
}

impl<'a> Walk<'a> {
    pub(super) fn new(fetcher: &'a Fetcher, root: Cid, scope: Scope, options: &'a FetchOptions) -> Self {
        let now = fetcher.world.clock.now();
        Self {
            fetcher,
            root,
            scope,
            options,
            _guard: fetcher.store.guard_root(root),
            session: None,
            frontier: vec![root],
            seen: BTreeSet::new(),
            wanted: BTreeMap::new(),
            wanted_nodes: 0,
            missing: BTreeMap::new(),
            group: Vec::new(),
            group_bytes: 0,
            held: BTreeMap::new(),
            held_before: BTreeMap::new(),
            storing: None,
            unflushed: 0,
            progress: FetchProgress::default(),
            last_block: now,
            lookups: Lookups::new(fetcher),
            deliverers: BTreeSet::new(),
            asked_whole: BTreeSet::new(),
            came_whole: 0,
            asked_later: 0,
            rescue: fetcher.last_resort.clone().map(|resort| Rescue::new(resort, now)),
        }
    }

    /// Who sent blocks.
    pub(super) fn deliverers(&self) -> Vec<PeerId> {
        self.deliverers.iter().copied().collect()
    }

    pub(super) async fn run(&mut self) -> Result<FetchProgress, FetchError> {
        let outcome = match self.whole(self.options.holders.clone()).await {
            Ok(()) => self.fetch().await,
            Err(error) => Err(error),
        };
        // What came is kept, also after an error, so that it need not come again.
        if let Some(storing) = self.storing.take() {
            storing.await?;
        }
        if let Some(last) = self.store_group() {
            last.await?;
        }
        // Also when nothing came: what is here may be another fetch's, not durable yet.
        if self.scope == Scope::Dag {
            self.fetcher.store.flush().await?;
        }
        outcome?;
        self.remember();
        self.tell();
        Ok(self.so_far())
    }

    async fn fetch(&mut self) -> Result<(), FetchError> {
        loop {
            self.fill().await?;
            if self.wanted.is_empty() && self.frontier.is_empty() {
                return Ok(());
            }
            if self.storing.is_none() && self.group_bytes >= self.fetcher.config.group_bytes
                || self.group.len() >= GROUP_BLOCKS
            {
                self.start_storing().await?;
            }
            self.call_for_rescue(self.asked_in_vain()).await?;
            match self.next_event().await {
                Event::Rescued(brought) => self.rescued(brought).await?,
                Event::Stored(stored) => {
                    self.storing = None;
                    stored?;
                }
                Event::Delivery(None) => return Err(FetchError::Closed),
                Event::Delivery(Some(delivery)) => {
                    self.delivered(delivery)?;
                    self.tell();
                }
                Event::Providers(found) => self.found(found).await?,
                Event::Time => self.time().await?,
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let clock = self.fetcher.world.clock.clone();
        let deadline = self.deadline();
        let wake = if self.missing.is_empty() { deadline } else { deadline.min(self.lookups.wake()) };
        let in_vain = self.asked_in_vain();
        let wake = self.rescue.as_ref().map_or(wake, |rescue| wake.min(rescue.due(in_vain)));
        // Two groups in memory at most: beyond, storing goes first.
        let full = self.storing.is_some() && self.group_bytes >= 2 * self.fetcher.config.group_bytes;
        let (storing, session) = (&mut self.storing, &mut self.session);
        let rescue = async {
            match &mut self.rescue {
                Some(rescue) => rescue.next().await,
                None => futures::future::pending().await,
            }
        };
        let store = async {
            match storing {
                Some(storing) => storing.await,
                None => futures::future::pending().await,
            }
        };
        let deliver = async {
            match session {
                Some(session) if !full => session.next().await,
                _ => futures::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            stored = store => Event::Stored(stored),
            delivery = deliver => Event::Delivery(delivery),
            named = self.lookups.next(self.fetcher) => Event::Providers(named),
            brought = rescue => Event::Rescued(brought),
            () = clock.sleep_until(wake) => Event::Time,
        }
    }

    /// Whether those asked do not have something, and no DHT named anybody who might.
    fn asked_in_vain(&self) -> bool {
        !self.missing.is_empty() && self.lookups.in_vain()
    }

    fn deadline(&self) -> Instant {
        self.options.deadline.unwrap_or(self.last_block + self.fetcher.config.patience)
    }

    /// Visits what is here and wants what is not, as far as there is room.
    async fn fill(&mut self) -> Result<(), FetchError> {
        let mut wants = Vec::new();
        let window = self.window();
        while self.wanted.len() < window
            && let Some(&cid) = self.frontier.last()
        {
            let node = self.is_node(&cid);
            if node && self.frontier.len() > LONG_FRONTIER && self.wanted_nodes >= NODES_WHEN_LONG {
                break;
            }
            self.frontier.pop();
            if node && !self.seen.insert((cid.codec(), Key::from(cid.hash()))) {
                continue;
            }
            if self.seen.len() > self.fetcher.config.max_nodes {
                return Err(self.over("nodes", self.fetcher.config.max_nodes as u64));
            }
            if let Some(content) = known_content(&cid) {
                let content = Bytes::copy_from_slice(content);
                self.visit(cid, &content)?;
            } else if let Some(cids) = self.wanted.get_mut(cid.hash()) {
                cids.push(cid);
                self.wanted_nodes += usize::from(node);
            } else if self.fetcher.store.touch(&cid) {
                self.progress.local_blocks += 1;
                // What came whole was found here by nobody.
                if self.options.kept || self.came_whole == 0 {
                    self.fetcher.store.found(&cid, self.options.kept);
                }
                if node && !self.visit_local(cid).await? {
                    self.note_wanted(cid, &mut wants);
                }
            } else if let Some(data) = self.held.get(cid.hash()).or_else(|| self.held_before.get(cid.hash())) {
                let data = data.clone();
                self.visit(cid, &data)?;
            } else {
                self.note_wanted(cid, &mut wants);
            }
        }
        self.progress.open_blocks = (self.wanted.len() + self.frontier.len()) as u64;
        if !wants.is_empty() {
            self.want(wants).await;
        }
        Ok(())
    }

    /// Whether links are followed out of `cid`.
    pub(super) fn is_node(&self, cid: &Cid) -> bool {
        self.scope == Scope::Dag && ipld::has_links(cid.codec())
    }

    fn note_wanted(&mut self, cid: Cid, wants: &mut Vec<Cid>) {
        self.wanted_nodes += usize::from(self.is_node(&cid));
        if !self.options.kept {
            self.fetcher.store.missed(&cid);
        }
        self.wanted.insert(*cid.hash(), vec![cid]);
        wants.push(cid);
    }

    /// Whether the stored node `cid` could be read; a damaged one is fetched anew.
    async fn visit_local(&mut self, cid: Cid) -> Result<bool, FetchError> {
        match self.fetcher.store.get(&cid).await {
            Ok(Some(data)) => self.visit(cid, &data).map(|()| true),
            Ok(None) | Err(crate::GetError::Damaged { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn want(&mut self, wants: Vec<Cid>) {
        if self.session.is_none() {
            self.recall();
        }
        let session = match &mut self.session {
            Some(session) => session,
            none => {
                let session = self.fetcher.bitswap.session().await;
                let holders: Vec<_> =
                    self.options.holders.iter().copied().chain(self.lookups.providers.iter()).collect();
                if !holders.is_empty() {
                    // The session must know of a want before holders of it mean anything to it.
                    session.want(Vec::new()).await;
                    session.holders(holders).await;
                }
                none.insert(session)
            }
        };
        session.want(wants).await;
    }

    /// Wants that may be open, by the average length of the blocks so far.
    fn window(&self) -> usize {
        let config = &self.fetcher.config;
        let average = self.progress.bytes.checked_div(self.progress.blocks).unwrap_or(1 << 20).max(1024);
        (config.max_open_bytes / average as usize).clamp(16, config.max_wants.max(16))
    }

    fn visit(&mut self, cid: Cid, data: &Bytes) -> Result<(), FetchError> {
        if self.scope == Scope::Dag {
            let links = unixfs::links(cid, data)?;
            if self.frontier.len() + links.len() > MAX_FRONTIER {
                return Err(self.over("links waiting", MAX_FRONTIER as u64));
            }
            self.frontier.extend(links.into_iter().rev());
        }
        Ok(())
    }

    fn over(&self, what: &'static str, limit: u64) -> FetchError {
        FetchError::OverLimit { root: self.root, what, limit }
    }

    fn delivered(&mut self, delivery: Delivery) -> Result<(), FetchError> {
        let mut next = Some(delivery);
        while let Some(delivery) = next {
            match delivery {
                // What the last resort brought is not wanted any more.
                Delivery::Exhausted { cid, .. } if !self.wanted.contains_key(cid.hash()) => {}
                Delivery::Exhausted { cid, asked } => {
                    self.missing.entry(*cid.hash()).or_default().extend(asked);
                }
                Delivery::Block { block, peer, .. } => self.block(block, peer)?,
            }
            // All that is there, before anybody waits again; but no more than a group.
            next = match &mut self.session {
                Some(session) if self.group_bytes < self.fetcher.config.group_bytes => session.try_next(),
                _ => None,
            };
        }
        Ok(())
    }

    fn block(&mut self, block: Block, peer: PeerId) -> Result<(), FetchError> {
        let Some(cids) = self.wanted.remove(block.cid.hash()) else { return Ok(()) };
        self.missing.remove(block.cid.hash());
        self.last_block = self.fetcher.world.clock.now();
        if let Some(rescue) = &mut self.rescue {
            rescue.delivered(self.last_block);
        }
        self.deliverers.insert(peer);
        self.options.account.note(peer, Via::Bitswap, block.data.len() as u64);
        self.progress.blocks += 1;
        self.progress.bytes += block.data.len() as u64;
        self.check_bytes()?;
        self.group_bytes += block.data.len();
        let data = block.data.clone();
        self.held.insert(*block.cid.hash(), data.clone());
        self.group.push(block);
        for cid in cids {
            self.wanted_nodes -= usize::from(self.is_node(&cid));
            self.visit(cid, &data)?;
        }
        Ok(())
    }

    pub(super) fn check_bytes(&self) -> Result<(), FetchError> {
        let limit = if self.options.max_bytes == 0 { self.fetcher.config.max_bytes } else { self.options.max_bytes };
        if self.progress.bytes > limit { Err(self.over("bytes", limit)) } else { Ok(()) }
    }

    /// The group on its way to the store; `None` if it is empty.
    fn store_group(&mut self) -> Option<Storing> {
        if self.group.is_empty() {
            return None;
        }
        let group = std::mem::take(&mut self.group);
        self.held_before = std::mem::take(&mut self.held);
        self.unflushed += std::mem::take(&mut self.group_bytes) as u64;
        let flush = self.unflushed >= FLUSH_EVERY_BYTES;
        if flush {
            self.unflushed = 0;
        }
        let (store, kept) = (self.fetcher.store.clone(), self.options.kept);
        let put = async move {
            match kept {
                true => store.put_many(group).await?,
                false => store.put_fetched(group).await?,
            }
            if flush {
                store.flush().await?;
            }
            Ok(())
        };
        Some(put.boxed())
    }

    /// Wants nothing for now, so that nothing comes twice; the session stays, with who is known to it. What was wanted is
    /// visited again.
    pub(super) async fn pause(&mut self) {
        let wanted: Vec<Cid> = std::mem::take(&mut self.wanted).into_values().flatten().collect();
        for cid in &wanted {
            self.seen.remove(&(cid.codec(), Key::from(cid.hash())));
        }
        self.wanted_nodes = 0;
        self.missing.clear();
        self.frontier.extend(&wanted);
        if let Some(session) = self.session.as_ref().filter(|_| !wanted.is_empty()) {
            session.unwant(wanted).await;
        }
    }

    async fn start_storing(&mut self) -> Result<(), FetchError> {
        if let Some(storing) = self.storing.take() {
            storing.await?;
        }
        self.storing = self.store_group();
        Ok(())
    }

    pub(super) fn tell(&self) {
        if let Some(progress) = &self.options.progress {
            (progress.0)(self.so_far());
        }
    }

    fn so_far(&self) -> FetchProgress {
        let local_blocks = self.progress.local_blocks.saturating_sub(self.came_whole);
        FetchProgress { local_blocks, ..self.progress }
    }

    async fn found(&mut self, named: Named) -> Result<(), FetchError> {
        let us = self.fetcher.world.network.local_peer();
        let useful = self.lookups.add(named, us, self.fetcher.config.max_providers);
        self.fetcher.lookups.lock().found(self.fetcher.world.clock.now(), self.root.hash(), &useful, false);
        if !self.lookups.is_running() {
            self.looked_up();
        }
        self.whole_of_providers(&useful).await?;
        if let Some(session) = self.session.as_ref().filter(|_| !useful.is_empty()) {
            session.holders(useful).await;
        }
        Ok(())
    }

    /// Gives up, or asks the DHT: for providers of the root, which are announced, then of what is missing.
    async fn time(&mut self) -> Result<(), FetchError> {
        let now = self.fetcher.world.clock.now();
        if now >= self.deadline() {
            return Err(self.not_found().await);
        }
        if now >= self.lookups.wake() {
            // Who is likely to have it may have been silent or away when it was asked.
            let likely: BTreeSet<_> = self.options.holders.iter().chain(&self.deliverers).copied().collect();
            if let Some(session) = self.session.as_ref().filter(|_| !likely.is_empty()) {
                session.holders(likely.into_iter().collect()).await;
            }
            if let Some(until) = self.unknown_until(now) {
                self.lookups.put_off(until.min(now + self.fetcher.config.provider_interval));
                return Ok(());
            }
            let missing =
                self.missing.keys().next().and_then(|hash| self.wanted.get(hash)).and_then(|cids| cids.first());
            let mut cids = vec![self.root];
            cids.extend(missing.filter(|cid| cid.hash() != self.root.hash()));
            self.lookups.start(self.fetcher, &cids);
        }
        Ok(())
    }

    async fn not_found(&mut self) -> FetchError {
        let first = self.missing.keys().next().or_else(|| self.wanted.keys().next());
        let cid =
            first.and_then(|hash| self.wanted.get(hash)).and_then(|cids| cids.first()).copied().unwrap_or(self.root);
        let mut peers = self.missing.remove(cid.hash()).unwrap_or_default();
        peers.extend(self.fetcher.bitswap.asked(cid).await);
        if self.deliverers.is_empty() {
            self.fetcher.lookups.lock().failed(self.root.hash());
        }
        let (peers, providers) = (peers.into_iter().collect(), self.lookups.providers.iter().collect());
        let asked = Asked { peers, providers, last_resort: self.rescue.as_mut().and_then(Rescue::take_failure) };
        FetchError::NotFound { cid, asked }
    }
}
