//! Looking for providers: in the DHT of the agents and in that of IPFS, side by side, so that neither waits for the other.

use std::collections::BTreeMap;

use cid::Cid;
use diai_core::{Instant, PeerId};
use futures::{StreamExt, future, stream, stream::BoxStream};

use super::{Fetcher, provider_key};
use crate::ipfs_dht::NamedProviders;

/// Who is said to provide something, and by whom, where that is known.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) server: Option<PeerId>,
    pub(super) providers: Vec<PeerId>,
    /// The lookup ended with an error instead.
    pub(super) failed: bool,
}

/// The lookups of one DHT.
struct Slot {
    running: Option<BoxStream<'static, Named>>,
    next: Instant,
}

impl Slot {
    async fn next(&mut self) -> Option<Named> {
        match &mut self.running {
            Some(running) => running.next().await,
            None => future::pending().await,
        }
    }
}

/// The lookups of one fetch, and whom they brought to light.
pub(super) struct Lookups {
    slots: [Slot; 2],
    pub(super) providers: Providers,
    /// Whether those that run, or ended last, have brought anybody to light.
    pub(super) found: bool,
    /// Whether all that ran have ended once, or were known to be in vain.
    ended: bool,
    /// Lookups in the DHT of the agents that began last, and those that failed.
    asked: usize,
    failed: usize,
}

impl Lookups {
    pub(super) fn new(fetcher: &Fetcher) -> Self {
        let now = fetcher.world.clock.now();
        let ipfs = if fetcher.ipfs_dht.is_some() { now } else { Instant::NEVER };
        let slots = [now, ipfs].map(|next| Slot { running: None, next });
        Self { slots, providers: Providers::default(), found: false, ended: false, asked: 0, failed: 0 }
    }

    pub(super) fn is_running(&self) -> bool {
        self.slots.iter().any(|slot| slot.running.is_some())
    }

    /// Whether nobody is known and nobody is being looked for.
    pub(super) fn in_vain(&self) -> bool {
        self.ended && !self.is_running() && self.providers.0.is_empty()
    }

    /// Whether a lookup in the DHT of the agents has ended without an error: that of IPFS tells of none, so what it did not
    /// name may be there.
    pub(super) fn answered(&self) -> bool {
        self.failed < self.asked
    }

    /// Nothing that does not run begins before `until`.
    pub(super) fn put_off(&mut self, until: Instant) {
        self.ended = true;
        for slot in self.slots.iter_mut().filter(|slot| slot.running.is_none()) {
            slot.next = slot.next.max(until);
        }
    }

    /// Those of `named` that are worth naming to the session.
    pub(super) fn add(&mut self, named: Named, us: PeerId, cap: usize) -> Vec<PeerId> {
        let useful = self.providers.add(named, us, cap);
        self.found |= !useful.is_empty();
        useful
    }

    /// When there is something to look up next.
    pub(super) fn wake(&self) -> Instant {
        let idle = self.slots.iter().filter(|slot| slot.running.is_none());
        idle.map(|slot| slot.next).min().unwrap_or(Instant::NEVER)
    }

    /// Begins with `cids` where nothing runs.
    pub(super) fn start(&mut self, fetcher: &Fetcher, cids: &[Cid]) {
        let now = fetcher.world.clock.now();
        self.found &= self.is_running();
        let [agents, ipfs] = &mut self.slots;
        let is_due = |slot: &Slot| slot.running.is_none() && slot.next <= now;
        if is_due(agents) {
            let keys: Vec<_> = cids.iter().filter_map(provider_key).collect();
            (self.asked, self.failed) = (keys.len(), 0);
            let dht = fetcher.world.dht.clone();
            let found = stream::iter(keys).map(move |key| dht.providers(key)).flatten();
            // It is tried again, like one that named nobody; but nothing follows from it.
            let named = |found: Result<Vec<PeerId>, _>| Named {
                server: None,
                failed: found.is_err(),
                providers: found.unwrap_or_default(),
            };
            agents.running = Some(found.map(named).boxed());
        }
        if let Some(dht) = fetcher.ipfs_dht.as_ref().filter(|_| is_due(ipfs)) {
            let found = stream::select_all(cids.iter().map(|cid| dht.providers(*cid.hash())));
            let named = |NamedProviders { server, providers }| Named { server: Some(server), providers, failed: false };
            ipfs.running = Some(found.map(named).boxed());
        }
    }

    /// The next answer of any; an end is one that names nobody. What has ended is left alone until the fetch's interval
    /// is over.
    pub(super) async fn next(&mut self, fetcher: &Fetcher) -> Named {
        let [agents, ipfs] = &mut self.slots;
        let (named, slot) = tokio::select! {
            biased;
            named = agents.next() => (named, agents),
            named = ipfs.next() => (named, ipfs),
        };
        self.failed += usize::from(named.as_ref().is_some_and(|named| named.failed));
        named.unwrap_or_else(|| {
            *slot = Slot { running: None, next: fetcher.world.clock.now() + fetcher.config.provider_interval };
            self.ended = true;
            Named::default()
        })
    }
}

/// Providers that came to light, each once, with whose word it was, up to a cap that is shared fairly between those who
/// said it: so many false ones as one server may name, honest ones have room beside them.
#[derive(Debug, Default)]
pub(super) struct Providers(BTreeMap<PeerId, Option<PeerId>>);

impl Providers {
    pub(super) fn iter(&self) -> impl Iterator<Item = PeerId> {
        self.0.keys().copied()
    }

    /// Those of `named` that are worth naming to the session.
    pub(super) fn add(&mut self, named: Named, us: PeerId, cap: usize) -> Vec<PeerId> {
        let Named { server, providers, .. } = named;
        let mut useful = Vec::new();
        for peer in providers.into_iter().filter(|peer| *peer != us) {
            if self.0.contains_key(&peer) || self.0.len() < cap || self.make_room(server) {
                self.0.entry(peer).or_insert(server);
                useful.push(peer);
            }
        }
        useful
    }

    /// Forgets one that came by the word of who named most, if that is more than `server` would have then.
    fn make_room(&mut self, server: Option<PeerId>) -> bool {
        let mut shares = BTreeMap::<_, usize>::new();
        self.0.values().for_each(|server| *shares.entry(*server).or_default() += 1);
        let mine = shares.get(&server).copied().unwrap_or_default();
        let Some((most, share)) = shares.into_iter().max_by_key(|(_, share)| *share) else { return false };
        let last = self.0.iter().rev().find(|(_, server)| **server == most).map(|(peer, _)| *peer);
        share > mine + 1 && last.is_some_and(|peer| self.0.remove(&peer).is_some())
    }
}

#[cfg(test)]
mod tests {
    use diai_core::memory::AgentSpec;

    use super::*;

    fn peer(number: u8) -> PeerId {
        AgentSpec::example(number).peer
    }

    fn say(server: u8, providers: std::ops::Range<u8>) -> Named {
        Named { server: Some(peer(server)), providers: providers.map(peer).collect(), failed: false }
    }

    #[test]
    fn one_server_that_names_many_leaves_room_for_what_others_name() {
        let mut providers = Providers::default();
        let us = peer(250);
        for first in (100..140).step_by(4) {
            providers.add(say(1, first..first + 4), us, 20);
        }
        assert_eq!(providers.0.len(), 20);
        for server in 2..7 {
            let first = 10 * server;
            assert_eq!(providers.add(say(server, first..first + 3), us, 20).len(), 3, "server {server}");
        }
        assert_eq!(providers.0.len(), 20);
        assert!(providers.0.values().filter(|server| **server == Some(peer(1))).count() <= 5);
        // Who has the largest share gains nothing by saying more.
        assert_eq!(providers.add(say(1, 200..204), us, 20).len(), 0);
    }

    #[test]
    fn displacing_ends_whatever_is_said() {
        let (mut providers, mut useful) = (Providers::default(), 0);
        for round in 0..1_000u32 {
            let (server, first) = ((round % 7) as u8, 100 + (round * 4 % 120) as u8);
            let before: Vec<_> = providers.iter().collect();
            let named = providers.add(say(server, first..first + 4), peer(250), 20);
            useful += named.iter().filter(|peer| !before.contains(peer)).count();
        }
        assert!(useful <= 60, "{useful} were dialled");
    }
}
