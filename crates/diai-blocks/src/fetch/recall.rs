//! What is remembered of the DHT's words from one fetch to the next.

use diai_core::{Instant, PeerId};

use super::{
    dag::{Scope, Walk},
    lookups::Named,
};

impl Walk<'_> {
    /// Providers of the root that are known from before, asked as if the DHT had named them again.
    pub(super) fn recall(&mut self) {
        let now = self.fetcher.world.clock.now();
        let known = self.fetcher.lookups.lock().providers(now, self.root.hash());
        let us = self.fetcher.world.network.local_peer();
        let known = Named { providers: known, ..Named::default() };
        self.lookups.providers.add(known, us, self.fetcher.config.max_providers);
    }

    /// Who delivered is asked first the next time. Of single blocks only those that somebody had to be found for are worth it.
    pub(super) fn remember(&self) {
        if self.scope == Scope::Dag || self.lookups.found {
            let (now, deliverers) = (self.fetcher.world.clock.now(), self.deliverers());
            self.fetcher.lookups.lock().found(now, self.root.hash(), &deliverers, true);
        }
    }

    /// The lookups have ended. One that failed says nothing of who provides what.
    pub(super) fn looked_up(&self) {
        if !self.lookups.found && self.lookups.answered() {
            let now = self.fetcher.world.clock.now();
            self.fetcher.lookups.lock().nobody(now, self.root.hash(), self.connected());
        }
    }

    /// Until when the DHT need not be asked, since it has just known nobody.
    pub(super) fn unknown_until(&self, now: Instant) -> Option<Instant> {
        self.fetcher.lookups.lock().unknown_until(now, self.root.hash(), self.connected())
    }

    fn connected(&self) -> impl Iterator<Item = PeerId> + use<> {
        self.fetcher.world.network.peers().into_iter().map(|info| info.peer)
    }
}
