use std::{
    collections::VecDeque,
    fmt, io,
    num::NonZeroUsize,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use diai_core::{BoxFuture, DhtError, Instant, InvalidRecord, Multiaddr, PeerId, RecordKey, offload};
use futures::{StreamExt, stream::FuturesUnordered};
use libp2p::{
    StreamProtocol,
    core::{Endpoint, transport::PortUse},
    kad::{
        self, BucketInserts, Caching, GetProvidersOk, GetRecordOk, InboundRequest, Mode, ProviderRecord, QueryId,
        QueryResult, Quorum, Record, StoreInserts, store::MemoryStore,
    },
    swarm::{
        ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};
use tokio::sync::mpsc;

use super::{
    dht::Command,
    keeper::{Keeper, Outcome},
    query::{Found, ProviderQuery, Query},
    store::{Insert, Kept, Store},
};
use crate::{Event, config::DhtConfig, streams::Shared};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/diai/kad/1");
const MAX_PACKET_BYTES: usize = 64 << 10;
/// Records from others whose validation is under way; more are refused.
const MAX_VALIDATING: usize = 64;
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
    /// What is to be announced again, because the routing table has grown.
    announce: VecDeque<Announce>,
    announced_to: usize,
    validating: FuturesUnordered<BoxFuture<'static, Validated>>,
    keeper: Keeper,
    events: VecDeque<Event>,
    tick: BoxFuture<'static, ()>,
    ticks: u32,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Driver")
    }
}

enum Announce {
    Provide(Vec<u8>),
    Put(Record),
}

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>, commands: mpsc::Receiver<Command>, config: DhtConfig, server: bool) -> Self {
        let store = Store::new(shared.local, Arc::clone(&shared.parts.clock), config.clone());
        let mut kad = Kad::with_config(shared.local, store, kad_config(&config));
        if server {
            kad.set_mode(Some(Mode::Server));
        }
        shared.dht.set_server(server);
        let keeper = Keeper::new(&shared.parts, config.records);
        let tick = next_tick(&shared);
        Self {
            kad,
            shared,
            config,
            commands,
            queries: Vec::new(),
            announce: VecDeque::new(),
            announced_to: 0,
            validating: FuturesUnordered::new(),
            keeper,
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
            Command::Put { kept, reply } => match self.publish(kept) {
                Ok(id) => self.queries.push((id, Query::Publish(reply))),
                Err(error) => drop(reply.send(Err(error))),
            },
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
            Command::Provide { key, reply } => match self.provide(key) {
                Ok(id) => self.queries.push((id, Query::Publish(reply))),
                Err(error) => drop(reply.send(Err(error))),
            },
            Command::Providers { key, inbox } => {
                let deadline = self.now() + self.config.query_timeout;
                let mut query = ProviderQuery::new(key.clone(), inbox, deadline);
                query.found(self.kad.store_mut().all_providers(&key).into_iter(), false);
                let id = self.kad.get_providers(key.into());
                self.queries.push((id, Query::Providers(query)));
            }
        }
    }

    fn publish(&mut self, kept: Kept) -> Result<QueryId, DhtError> {
        let record = Record::new(kept.key.clone(), kept.value.clone());
        let invalid = |reason: String| DhtError::Invalid(InvalidRecord::blameless(reason));
        let full = DhtError::Full { limit: self.config.records };
        match self.kad.store_mut().insert(kept) {
            Insert::Held | Insert::Same => {}
            Insert::Older(seq) => return Err(invalid(format!("a newer record, number {seq}, is held already"))),
            Insert::Unfit => return Err(invalid("it has expired or is too long".into())),
            Insert::Full => return Err(full),
        }
        self.kad.put_record(record, Quorum::Majority).map_err(|_| full)
    }

    fn provide(&mut self, key: Vec<u8>) -> Result<QueryId, DhtError> {
        let limit = self.config.provided_keys;
        self.kad.start_providing(key.into()).map_err(|_| DhtError::Full { limit })
    }

    fn on_kad_event(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest { request } => self.on_request(request),
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                if matches!(result, QueryResult::Bootstrap(_)) {
                    if step.last {
                        self.announce_again();
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

    fn on_request(&mut self, request: InboundRequest) {
        match request {
            InboundRequest::PutRecord { source, record: Some(record), .. } => self.validate(source, record),
            InboundRequest::AddProvider { record: Some(record) } => self.on_provider(record),
            _ => {}
        }
    }

    fn on_provider(&mut self, record: ProviderRecord) {
        if record.key.to_vec().len() <= RecordKey::MAX_BYTES && !self.shared.is_cut_off(&record.provider) {
            self.kad.store_mut().insert_provider(record);
        }
    }

    /// Has the validator look at a record, off this task.
    fn validate(&mut self, source: PeerId, record: Record) {
        if self.validating.len() >= MAX_VALIDATING || record.value.len() > self.config.value_bytes {
            return;
        }
        let Some(key) = RecordKey::from_bytes(record.key.to_vec().into()) else { return };
        let Some(validator) = self.shared.dht.validator(&key) else { return };
        let (pool, now) = (Arc::clone(&self.shared.parts.offload), self.shared.parts.clock.wall());
        self.validating.push(Box::pin(async move {
            let checked = offload(&*pool, move || {
                let meta = validator.validate(&key, &record.value, now).map_err(Some)?;
                Ok(Kept { key: key.as_bytes().to_vec(), value: record.value, meta, own: false })
            });
            (source, checked.await.unwrap_or(Err(None)))
        }));
    }

    fn on_validated(&mut self, (source, checked): Validated) {
        match checked {
            Ok(kept) => {
                let outcome = self.kad.store_mut().insert(kept);
                tracing::trace!(%source, ?outcome, "record from a peer");
            }
            Err(Some(error)) => {
                tracing::debug!(%source, %error, "refused a record");
                if let Some(fault) = error.fault {
                    self.shared.penalise(source, fault);
                }
            }
            // The pool is shutting down: nobody's fault.
            Err(None) => {}
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
            ) => query.found(providers.into_iter(), true),
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

    /// Devices have come since everything was announced: those now closest to our keys may know nothing of them.
    fn announce_again(&mut self) {
        let routes = self.kad.kbuckets().map(|bucket| bucket.num_entries()).sum::<usize>();
        if routes == 0 || routes < 2 * self.announced_to || !self.announce.is_empty() {
            return;
        }
        self.announced_to = routes;
        let store = self.kad.store_mut();
        let (keys, records) = (store.provided_keys(), store.own_records());
        self.announce.extend(keys.into_iter().map(Announce::Provide));
        self.announce.extend(records.into_iter().map(Announce::Put));
    }

    fn announce_next(&mut self) -> bool {
        // Half of the room is for those who wait.
        if self.queries.len() >= self.config.queries / 2 {
            return false;
        }
        let started = match self.announce.pop_front() {
            None => return false,
            // It may have been withdrawn or replaced meanwhile.
            Some(Announce::Provide(key)) if !self.kad.store_mut().provides(&key) => None,
            Some(Announce::Provide(key)) => self.kad.start_providing(key.into()).ok(),
            Some(Announce::Put(record)) => self.kad.put_record(record, Quorum::Majority).ok(),
        };
        self.queries.extend(started.map(|id| (id, Query::Background)));
        true
    }

    fn add_route(&mut self, peer: PeerId, addrs: Vec<Multiaddr>) {
        for addr in addrs {
            self.kad.add_address(&peer, addr);
        }
    }

    fn take_hints(&mut self) -> bool {
        let hints = self.shared.dht.take_hints();
        let some = !hints.routes.is_empty() || !hints.withdrawn.is_empty();
        for (peer, addrs) in hints.routes {
            match addrs {
                Some(addrs) => self.add_route(peer, addrs),
                None => drop(self.kad.remove_peer(&peer)),
            }
        }
        for key in hints.withdrawn {
            self.kad.stop_providing(&key.into());
        }
        some
    }

    fn on_tick(&mut self) {
        self.tick = next_tick(&self.shared);
        self.ticks = self.ticks.wrapping_add(1);
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
            Outcome::Failed(error) => {
                let reason = format!("records cannot be kept over a restart: {error}");
                self.events.push_back(Event::StorageFailed { reason });
            }
        }
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
        .set_provider_publication_interval(Some(config.provide_interval))
        .set_replication_interval(Some(config.replicate_interval))
        .set_publication_interval(Some(config.replicate_interval));
    kad
}

impl NetworkBehaviour for Driver {
    // The same whatever the store; named by libp2p's, so that ours stays private.
    type ConnectionHandler = <kad::Behaviour<MemoryStore> as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = Event;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.kad.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.kad.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad.handle_established_outbound_connection(id, peer, addr, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.kad.on_swarm_event(event);
        // Lookups would dial it again and again; it is back as soon as it shows itself.
        if let FromSwarm::DialFailure(DialFailure { peer_id: Some(peer), error: DialError::Transport(_), .. }) = event {
            self.kad.remove_peer(&peer);
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.kad.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        self.shared.dht.register(cx.waker());
        while self.tick.as_mut().poll(cx).is_ready() {
            self.on_tick();
        }
        while let Poll::Ready(outcome) = self.keeper.poll(cx) {
            self.on_kept(outcome);
        }
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(ToSwarm::GenerateEvent(event));
            }
            match self.kad.poll(cx) {
                Poll::Ready(ToSwarm::GenerateEvent(event)) => {
                    self.on_kad_event(event);
                    continue;
                }
                Poll::Ready(other) => return Poll::Ready(other.map_out(|_| unreachable!("events are taken above"))),
                Poll::Pending => {}
            }
            if let Poll::Ready(Some(validated)) = self.validating.poll_next_unpin(cx) {
                self.on_validated(validated);
                continue;
            }
            if self.queries.len() < self.config.queries
                && let Poll::Ready(Some(command)) = self.commands.poll_recv(cx)
            {
                self.on_command(command);
                continue;
            }
            // After the commands, so that what was provided before it was withdrawn is withdrawn.
            if !self.take_hints() && !self.announce_next() {
                return Poll::Pending;
            }
        }
    }
}
