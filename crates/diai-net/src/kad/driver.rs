mod behaviour;
mod requests;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use diai_core::{BoxFuture, DhtError, Instant, InvalidRecord, Multiaddr, PeerId};
use futures::stream::FuturesUnordered;
use libp2p::{
    StreamProtocol,
    kad::{
        self, BucketInserts, Caching, GetProvidersOk, GetRecordOk, Mode, QueryId, QueryResult, Quorum, Record,
        StoreInserts,
    },
    swarm::THandlerOutEvent,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    announcer::{Announce, Announcer},
    dht::Command,
    gate::Gate,
    keeper::{Keeper, Outcome},
    query::{Found, Query},
    rates::Rates,
    store::{Insert, Kept, Store},
};
use crate::{Event, config::DhtConfig, streams::Shared};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/diai/kad/1");
const MAX_PACKET_BYTES: usize = 64 << 10;
/// How often abandoned lookups are ended and what changed is written.
const TICK: Duration = Duration::from_secs(1);
/// Every so many ticks what has expired is forgotten.
const EXPIRE_TICKS: u32 = 60;

type Kad = kad::Behaviour<Store>;
type Validated = (PeerId, Result<Kept, Option<InvalidRecord>>);

/// Runs libp2p-kad: takes commands, answers them from its events, and keeps the store.
pub struct Driver {
    kad: Kad,
    shared: Arc<Shared>,
    config: DhtConfig,
    commands: mpsc::Receiver<Command>,
    queries: Vec<(QueryId, Query)>,
    announcer: Announcer,
    gate: Gate<THandlerOutEvent<Kad>>,
    rates: Rates,
    validating: FuturesUnordered<BoxFuture<'static, Validated>>,
    /// How many of `validating` each peer sent.
    validating_of: BTreeMap<PeerId, usize>,
    keeper: Keeper,
    /// The last write failed, which is reported once; it is tried again with what changes next.
    unsaved: bool,
    events: VecDeque<Event>,
    tick: BoxFuture<'static, ()>,
    ticks: u32,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Driver")
    }
}

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>, commands: mpsc::Receiver<Command>, config: DhtConfig, server: bool) -> Self {
        let store = Store::new(shared.local, Arc::clone(&shared.parts.clock), config.clone());
        let mut kad = Kad::with_config(shared.local, store, kad_config(&config));
        if server {
            kad.set_mode(Some(Mode::Server));
        }
        shared.dht.set_server(server);
        let keeper = Keeper::new(&shared.parts);
        let tick = next_tick(&shared);
        Self {
            kad,
            announcer: Announcer::new(&config, shared.parts.clock.now()),
            gate: Gate::new(),
            rates: Rates::default(),
            shared,
            config,
            commands,
            queries: Vec::new(),
            validating: FuturesUnordered::new(),
            validating_of: BTreeMap::new(),
            keeper,
            unsaved: false,
            events: VecDeque::new(),
            tick,
            ticks: 0,
        }
    }

    /// Writes what is not written yet; to be called last.
    pub(crate) fn save(&mut self) -> BoxFuture<'static, io::Result<()>> {
        let changes = self.kad.store_mut().take_changed();
        self.keeper.finish(changes)
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Put { kept, reply } => {
                let published = self.publish(kept);
                self.on_published(published, reply);
            }
            Command::Get { key, found } => {
                let id = self.kad.get_record(key.into());
                self.queries.push((id, Query::Get(found)));
            }
            Command::Closest { key, reply } => {
                let id = self.kad.get_closest_peers(key);
                self.queries.push((id, Query::Closest(reply)));
            }
            Command::FindPeer { peer, reply } => {
                let id = self.kad.get_closest_peers(peer);
                self.queries.push((id, Query::FindPeer(reply)));
            }
            Command::Provide { key, reply } => {
                let provided = self.provide(key);
                self.on_published(provided, reply);
            }
            Command::Providers(mut query) => {
                let deadline = self.now() + self.config.query_timeout;
                query.begin(self.kad.store_mut().providers.all(&query.key), deadline);
                let id = self.kad.get_providers(query.key.clone().into());
                self.queries.push((id, Query::Providers(query)));
            }
        }
    }

    /// Holds a record of ours and begins to announce it, unless too much is being announced: then later.
    fn publish(&mut self, kept: Kept) -> Result<Option<QueryId>, DhtError> {
        let record = Record::new(kept.key.clone(), kept.value.clone());
        let invalid = |reason: String| DhtError::Invalid(InvalidRecord::blameless(reason));
        let full = DhtError::Full { limit: self.config.records };
        match self.kad.store_mut().insert(kept) {
            Insert::Held | Insert::Same => {}
            Insert::Older(seq) => return Err(invalid(format!("a newer record, number {seq}, is held already"))),
            Insert::Unfit => return Err(invalid("it has expired or is too long".into())),
            Insert::Full => return Err(full),
        }
        if !self.announcer.spend() {
            self.announcer.defer(Announce::Put(record.key.to_vec()));
            return Ok(None);
        }
        self.kad.put_record(record, Quorum::Majority).map(Some).map_err(|_| full)
    }

    fn provide(&mut self, key: Vec<u8>) -> Result<Option<QueryId>, DhtError> {
        let full = DhtError::Full { limit: self.config.provided_keys };
        if self.announcer.spend() {
            return self.kad.start_providing(key.into()).map(Some).map_err(|_| full);
        }
        if !self.kad.store_mut().providers.provide(&key) {
            return Err(full);
        }
        self.announcer.defer(Announce::Provide(key));
        Ok(None)
    }

    fn on_published(&mut self, begun: Result<Option<QueryId>, DhtError>, reply: oneshot::Sender<Result<(), DhtError>>) {
        // Whoever asked may have gone.
        match begun {
            Ok(Some(id)) => self.queries.push((id, Query::Publish(reply))),
            Ok(None) => drop(reply.send(Ok(()))),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn on_kad_event(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest { request } => self.on_request(request),
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                if matches!(result, QueryResult::Bootstrap(_)) {
                    if step.last {
                        let routes = self.kad.kbuckets().map(|bucket| bucket.num_entries()).sum();
                        self.announcer.grown(routes, self.kad.store_mut());
                    }
                } else if let Some(index) = self.queries.iter().position(|(query, _)| *query == id) {
                    self.on_progress(index, result, step.last);
                }
            }
            kad::Event::UnroutablePeer { peer } | kad::Event::RoutablePeer { peer, .. } => {
                // It speaks kad, so it is routable once it is known where, and by whose certificate.
                let (certified, addrs) = {
                    let state = self.shared.state();
                    (state.info(peer).is_some_and(|info| info.agent.is_some()), state.book.addrs(&peer))
                };
                if certified {
                    self.add_route(peer, addrs);
                }
            }
            kad::Event::ModeChanged { new_mode } => self.shared.dht.set_server(new_mode == Mode::Server),
            kad::Event::RoutingUpdated { .. } | kad::Event::PendingRoutablePeer { .. } => {}
        }
    }

    fn on_progress(&mut self, index: usize, result: QueryResult, last: bool) {
        let now = self.now();
        let (id, query) = &mut self.queries[index];
        match (&mut *query, result) {
            (Query::Get(found), QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(record)))) => {
                // A reader that is so far behind has seen enough copies.
                let _ = found.try_send(Found { from: record.peer, value: Some(record.record.value) });
            }
            (Query::Get(found), QueryResult::GetRecord(Err(kad::GetRecordError::Timeout { .. }))) => {
                let _ = found.try_send(Found { from: None, value: None });
            }
            (
                Query::Providers(query),
                QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })),
            ) => query.found(providers),
            (Query::Closest(_) | Query::FindPeer(_), QueryResult::GetClosestPeers(closest)) => {
                let (_, query) = self.queries.swap_remove(index);
                self.on_closest(query, closest);
                return;
            }
            _ => {}
        }
        if let Query::Providers(query) = query
            && last
            && query.next_round(now)
        {
            *id = self.kad.get_providers(query.key.clone().into());
        } else if last {
            if let (_, Query::Publish(reply)) = self.queries.swap_remove(index) {
                let _ = reply.send(Ok(()));
            }
        } else if query.is_abandoned() {
            self.finish(index);
        }
    }

    fn on_closest(&mut self, query: Query, closest: kad::GetClosestPeersResult) {
        let timed_out = closest.is_err();
        let peers = match closest {
            Ok(closest) => closest.peers,
            Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
        };
        let found: Vec<_> = peers.iter().map(|peer| peer.peer_id).collect();
        let mut state = self.shared.state();
        for peer in peers {
            state.book.hear(peer.peer_id, peer.addrs);
        }
        drop(state);
        // Whoever asked may have gone.
        match query {
            Query::Closest(reply) if timed_out && found.is_empty() => drop(reply.send(Err(DhtError::Timeout))),
            Query::Closest(reply) => drop(reply.send(Ok(found))),
            Query::FindPeer(reply) => drop(reply.send(())),
            _ => {}
        }
    }

    fn finish(&mut self, index: usize) {
        let (id, _) = self.queries.swap_remove(index);
        if let Some(mut query) = self.kad.query_mut(&id) {
            query.finish();
        }
    }

    fn announce_next(&mut self) -> bool {
        // Half of the room is for those who wait.
        if self.queries.len() >= self.config.queries / 2 {
            return false;
        }
        let started = match self.announcer.next() {
            None => return false,
            // It may have been withdrawn or replaced meanwhile.
            Some(Announce::Provide(key)) if !self.kad.store_mut().providers.provides(&key) => None,
            Some(Announce::Provide(key)) => self.kad.start_providing(key.into()).ok(),
            Some(Announce::Put(key)) => {
                let record = self.kad.store_mut().live(&key).cloned();
                record.and_then(|record| self.kad.put_record(record, Quorum::Majority).ok())
            }
        };
        self.queries.extend(started.map(|id| (id, Query::Background)));
        true
    }

    fn add_route(&mut self, peer: PeerId, addrs: Vec<Multiaddr>) {
        for addr in addrs {
            self.kad.add_address(&peer, addr);
        }
    }

    fn take_routes(&mut self) -> bool {
        let routes = self.shared.dht.take_routes();
        let some = !routes.is_empty();
        for (peer, addrs) in routes {
            match addrs {
                Some(addrs) => self.add_route(peer, addrs),
                None => drop(self.kad.remove_peer(&peer)),
            }
        }
        some
    }

    fn withdraw(&mut self) -> bool {
        let withdrawn = self.shared.dht.take_withdrawn();
        let some = !withdrawn.is_empty();
        for key in withdrawn {
            self.kad.stop_providing(&key.into());
        }
        some
    }

    fn on_tick(&mut self) {
        self.tick = next_tick(&self.shared);
        self.ticks = self.ticks.wrapping_add(1);
        let now = self.now();
        self.rates.expire(now);
        self.announcer.tick(now, self.kad.store_mut());
        if self.ticks.is_multiple_of(EXPIRE_TICKS) {
            self.kad.store_mut().expire();
        }
        let mut index = 0;
        while let Some((_, query)) = self.queries.get(index) {
            if query.is_abandoned() {
                self.finish(index);
            } else {
                index += 1;
            }
        }
        if self.keeper.is_ready() {
            let changes = self.kad.store_mut().take_changed();
            self.keeper.write(changes);
        }
    }

    fn on_kept(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Loaded(records) => self.kad.store_mut().load(records),
            Outcome::Failed(error) => self.on_storage_failed(&error),
            Outcome::Unsaved(keys, error) => {
                self.kad.store_mut().still_changed(keys);
                if !std::mem::replace(&mut self.unsaved, true) {
                    self.on_storage_failed(&error);
                }
            }
            Outcome::Saved => self.unsaved = false,
        }
    }

    fn on_storage_failed(&mut self, error: &io::Error) {
        let reason = format!("records cannot be kept over a restart: {error}");
        self.events.push_back(Event::StorageFailed { reason });
    }

    fn now(&self) -> Instant {
        self.shared.parts.clock.now()
    }
}

fn next_tick(shared: &Shared) -> BoxFuture<'static, ()> {
    let clock = &shared.parts.clock;
    clock.sleep_until(clock.now() + TICK)
}

fn kad_config(config: &DhtConfig) -> kad::Config {
    let mut kad = kad::Config::new(PROTOCOL);
    kad.set_max_packet_size(MAX_PACKET_BYTES)
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_kbucket_inserts(BucketInserts::Manual)
        .set_caching(Caching::Disabled)
        .set_query_timeout(config.query_timeout)
        .set_parallelism(NonZeroUsize::new(10).expect("ten is not zero"))
        .set_provider_record_ttl(Some(config.provider_ttl))
        // The announcer does this. kad's own job would remember every key that anybody puts, however long.
        .set_provider_publication_interval(None)
        .set_replication_interval(None)
        .set_publication_interval(None);
    kad
}
