use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use diai_core::{AgentId, BoxFuture, Instant, PeerId, PeerInfo, ProviderStream};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};

use crate::{
    AgentRecord, CapabilityPath, FindOptions, SignedRecord,
    index::Entry,
    message::{agent_key, capability_key},
    shared::Shared,
};

/// A device that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its verified record.
    pub record: SignedRecord,
    /// The latest round-trip time, if the device is connected and it was measured.
    pub rtt: Option<Duration>,
    /// Whether the device or the DHT confirmed the record within [`Config::max_age`](crate::Config::max_age), or the
    /// device is connected. If not, neither could be reached: the device may have changed or gone.
    pub fresh: bool,
}

impl Found {
    /// The agent.
    pub fn agent(&self) -> AgentId {
        self.record.record().agent
    }

    /// Its device.
    pub fn peer(&self) -> PeerId {
        self.record.record().peer
    }

    /// Best first: fresh before not, then the lowest round-trip time (unknown last), then by agent and device.
    pub fn rank(&self) -> impl Ord + use<> {
        (Reverse(self.fresh), self.rtt.unwrap_or(Duration::MAX), self.agent(), self.peer())
    }
}

/// Who is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Capability(CapabilityPath),
    Agent(AgentId),
}

impl Target {
    fn matches(&self, record: &AgentRecord) -> bool {
        match self {
            Self::Capability(path) => record.offers(path),
            Self::Agent(agent) => record.agent == *agent,
        }
    }
}

/// Which of a lookup's queues.
const KNOWN: usize = 0;
const UNKNOWN: usize = 1;

/// One lookup: the local index first, then the providers that the DHT names, each by its verified record.
pub(crate) struct Lookup {
    shared: Arc<Shared>,
    target: Target,
    options: FindOptions,
    ready: VecDeque<Found>,
    yielded: BTreeSet<PeerId>,
    /// Devices that were, or are to be, looked at.
    candidates: BTreeSet<PeerId>,
    /// Candidates that are connected or known, and others: made-up ones do not hold up the former.
    queues: [VecDeque<PeerId>; 2],
    fetching: [usize; 2],
    /// What the index knows of candidates, but not freshly.
    stale: BTreeMap<PeerId, SignedRecord>,
    fetches: FuturesUnordered<BoxFuture<'static, (PeerId, usize, Option<SignedRecord>)>>,
    providers: Option<ProviderStream>,
    deadline: BoxFuture<'static, ()>,
    over: bool,
}

impl Lookup {
    pub(crate) fn new(shared: Arc<Shared>, target: Target, options: FindOptions) -> Self {
        let clock = &shared.world.clock;
        let mut lookup = Self {
            deadline: clock.sleep_until(clock.now() + options.within),
            target,
            options,
            ready: VecDeque::new(),
            yielded: BTreeSet::new(),
            candidates: BTreeSet::new(),
            queues: Default::default(),
            fetching: [0; 2],
            stale: BTreeMap::new(),
            fetches: FuturesUnordered::new(),
            providers: None,
            over: false,
            shared,
        };
        lookup.look_at_index();
        if lookup.ready.len() < lookup.options.enough.min(lookup.options.limit) {
            let key = match &lookup.target {
                Target::Capability(path) => capability_key(path),
                Target::Agent(agent) => agent_key(*agent),
            };
            lookup.providers = Some(lookup.shared.world.dht.providers(key));
        }
        lookup
    }

    /// Whether the deadline ended it.
    pub(crate) fn timed_out(&self) -> bool {
        self.over
    }

    /// How many devices were looked at.
    pub(crate) fn candidates(&self) -> usize {
        self.candidates.len()
    }

    fn look_at_index(&mut self) {
        let (now, wall) = (self.shared.world.clock.now(), self.shared.wall());
        let connected: BTreeMap<PeerId, PeerInfo> =
            self.shared.world.network.peers().into_iter().map(|info| (info.peer, info)).collect();
        let shared = self.shared.clone();
        let index = shared.index();
        let matching: Box<dyn Iterator<Item = &Entry> + '_> = match &self.target {
            Target::Capability(path) => Box::new(index.within(path)),
            Target::Agent(agent) => Box::new(index.of_agent(*agent)),
        };
        let mut fresh = Vec::new();
        let mut stale = Vec::new();
        for entry in matching.filter(|entry| entry.record.expires() > wall) {
            let info = connected.get(&entry.record.record().peer);
            let found = Found {
                record: entry.record.clone(),
                rtt: info.and_then(|info| info.rtt),
                fresh: info.is_some() || is_recent(entry, now, shared.config.max_age),
            };
            if found.fresh { fresh.push(found) } else { stale.push(found) }
        }
        drop(index);
        if self.options.include_self
            && let Some(own) = shared.own_record()
            && self.target.matches(own.record())
        {
            fresh.push(Found { record: own, rtt: Some(Duration::ZERO), fresh: true });
        }
        fresh.sort_by_cached_key(Found::rank);
        stale.sort_by_cached_key(Found::rank);
        self.candidates.extend(fresh.iter().map(Found::peer));
        self.ready = fresh.into();
        for found in stale.into_iter().take(shared.config.max_candidates) {
            self.candidates.insert(found.peer());
            self.queues[KNOWN].push_back(found.peer());
            self.stale.insert(found.peer(), found.record);
        }
    }

    /// The next device; `None` at the end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Found> {
        loop {
            if self.yielded.len() >= self.options.limit {
                return None;
            }
            if let Some(found) = self.ready.pop_front() {
                if self.yielded.insert(found.peer()) {
                    return Some(found);
                }
                continue;
            }
            self.start_fetches();
            if self.fetches.is_empty() && self.providers.is_none() {
                return None;
            }
            tokio::select! {
                biased;
                Some((peer, queue, record)) = self.fetches.next(), if !self.fetches.is_empty() => {
                    self.fetching[queue] -= 1;
                    self.fetched(peer, record);
                }
                batch = next_batch(&mut self.providers), if self.providers.is_some() => match batch {
                    Some(peers) => peers.into_iter().for_each(|peer| self.candidate(peer)),
                    None => self.providers = None,
                },
                () = &mut self.deadline => self.end(),
            }
        }
    }

    fn start_fetches(&mut self) {
        for queue in [KNOWN, UNKNOWN] {
            while self.fetching[queue] < self.shared.config.max_fetches
                && let Some(peer) = self.queues[queue].pop_front()
            {
                self.fetching[queue] += 1;
                let fetch = self.shared.fetch(peer);
                self.fetches.push(async move { (peer, queue, fetch.await) }.boxed());
            }
        }
    }

    /// The DHT says that `peer` is a provider.
    fn candidate(&mut self, peer: PeerId) {
        if peer == self.shared.identity.peer()
            || self.candidates.len() >= self.shared.config.max_candidates
            || !self.candidates.insert(peer)
        {
            return;
        }
        let now = self.shared.world.clock.now();
        let known = self.shared.index().get(peer).cloned();
        let queue = if known.is_some() || self.shared.world.network.peer(peer).is_some() { KNOWN } else { UNKNOWN };
        match known.filter(|entry| is_recent(entry, now, self.shared.config.max_age)) {
            // Learned since this lookup began.
            Some(entry) if self.target.matches(entry.record.record()) => self.offer(entry.record),
            // What is known may be older than the announcement.
            _ => self.queues[queue].push_back(peer),
        }
    }

    fn fetched(&mut self, peer: PeerId, record: Option<SignedRecord>) {
        let stale = self.stale.remove(&peer);
        match (record, stale) {
            (Some(record), _) => self.offer(record),
            (None, Some(record)) => self.fall_back(record),
            (None, None) => self.shared.counters.unanswered.add(),
        }
    }

    fn offer(&mut self, record: SignedRecord) {
        if !self.target.matches(record.record()) {
            self.shared.counters.unfounded.add();
            return;
        }
        let rtt = self.shared.world.network.peer(record.record().peer).and_then(|info| info.rtt);
        self.ready.push_back(Found { record, rtt, fresh: true });
    }

    /// Nobody could be asked: what the index knows is better than nothing.
    fn fall_back(&mut self, record: SignedRecord) {
        if record.expires() > self.shared.wall() {
            self.ready.push_back(Found { record, rtt: None, fresh: false });
        }
    }

    fn end(&mut self) {
        self.over = true;
        self.providers = None;
        self.fetches.clear();
        (self.queues, self.fetching) = Default::default();
        for record in std::mem::take(&mut self.stale).into_values() {
            self.fall_back(record);
        }
    }
}

fn is_recent(entry: &Entry, now: Instant, max_age: Duration) -> bool {
    entry.confirmed.is_some_and(|confirmed| now.since(confirmed) <= max_age)
}

async fn next_batch(providers: &mut Option<ProviderStream>) -> Option<Vec<PeerId>> {
    match providers.as_mut()?.next().await? {
        Ok(peers) => Some(peers),
        Err(error) => {
            tracing::debug!(%error, "the DHT was of no help");
            None
        }
    }
}
