//! Asking for the whole DAG, from one sender or several, before anybody asks for single blocks.

mod crowd;
mod plan;

use std::sync::atomic::{AtomicU64, Ordering};

use diai_core::{Instant, PeerId};

use self::crowd::Crowd;
use super::{
    FetchError, FetchProgress,
    dag::{Scope, Walk},
};
use crate::{
    dag::{Receiving, Tally},
    ipld,
};

/// Peers that are asked whether they have the root, at a time.
const MAX_CANDIDATES: usize = 16;
/// How often providers that come to light later are asked, while nothing comes by single blocks.
const MAX_LATER: usize = 4;

impl Walk<'_> {
    pub(super) fn asks_whole(&self) -> bool {
        self.scope == Scope::Dag && self.fetcher.config.whole_dags && ipld::has_links(self.root.codec())
    }

    /// Asks those of `peers`, and of the connected devices of agents, that were not asked yet. What does not come, not in half
    /// the time that there is, or too slowly from all of them together, is left for others.
    pub(super) async fn whole(&mut self, peers: Vec<PeerId>) -> Result<(), FetchError> {
        if !self.asks_whole() {
            return Ok(());
        }
        let candidates = self.candidates(peers);
        if candidates.is_empty() {
            return Ok(());
        }
        let (options, config, clock) = (self.options, &self.fetcher.config, &self.fetcher.world.clock);
        let now = clock.now();
        let tally = Tally {
            blocks: self.progress.blocks.into(),
            bytes: self.progress.bytes.into(),
            max_bytes: if options.max_bytes == 0 { config.max_bytes } else { options.max_bytes },
            account: options.account.clone(),
            ..Tally::default()
        };
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let tell = |open_blocks| {
            if let Some(told) = &options.progress {
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
            deadline: options.deadline.map_or(Instant::NEVER, |deadline| now + deadline.since(now) / 2),
            asks_again,
            tell: &tell,
        };
        let (curious, plain) = (tools(true), tools(false));
        let mut crowd = Crowd::new(self.root, &curious, &plain, candidates);
        let outcome = crowd.run().await;
        let sent = std::mem::take(&mut crowd.sent);
        drop(crowd);
        let (blocks, bytes) = (load(&tally.blocks), load(&tally.bytes));
        if blocks > self.progress.blocks {
            self.last_block = clock.now();
        }
        self.came_whole += blocks - self.progress.blocks;
        (self.progress.blocks, self.progress.bytes) = (blocks, bytes);
        self.deliverers.extend(sent);
        outcome
    }

    /// Whom to ask. Those who are connected come first, so that nobody is dialled in vain meanwhile.
    fn candidates(&mut self, peers: Vec<PeerId>) -> Vec<PeerId> {
        let network = &self.fetcher.world.network;
        let connected = network.peers().into_iter().filter(|info| info.agent.is_some()).map(|info| info.peer);
        let us = network.local_peer();
        let mut candidates = Vec::new();
        for peer in peers.into_iter().chain(connected) {
            if peer != us && candidates.len() < MAX_CANDIDATES && self.asked_whole.insert(peer) {
                candidates.push(peer);
            }
        }
        candidates.sort_by_key(|peer| network.peer(*peer).is_none());
        candidates
    }

    /// Asks providers that came to light for the whole too, as long as nobody has sent a single block, so that nothing
    /// that is under way is lost.
    pub(super) async fn whole_of_providers(&mut self, providers: &[PeerId]) -> Result<(), FetchError> {
        let anybody_new = providers.iter().any(|peer| !self.asked_whole.contains(peer));
        let nothing_came_singly = self.progress.blocks == self.came_whole;
        if self.asks_whole() && anybody_new && nothing_came_singly && self.asked_later < MAX_LATER {
            self.asked_later += 1;
            self.pause().await;
            self.whole(providers.to_vec()).await?;
        }
        Ok(())
    }
}
