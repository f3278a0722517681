use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use diai_core::{AcceptOptions, AgentId, Footprint, PeerInfo, World};
use diai_identity::Identity;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::JoinSet,
};

use crate::{
    AgentRecord, AgentRecordValidator, Attributes, CapabilityPath, Config, DiscoveryEvent, FindAgentError, FindOptions,
    Found, RECORD_PROTOCOL, RegisterError, SignedRecord, StartError, Stats, attribute,
    codec::description_bytes,
    exchange,
    find::{Lookup, Target},
    message::{CLOCK_TOLERANCE, MAX_CAPABILITIES, MAX_DESCRIPTION_BYTES, MAX_LIFETIME, RECORD_NAMESPACE},
    shared::Shared,
    shell::{
        announce::{self, Describe},
        answer, peers, upkeep,
    },
    store::Store,
};

/// Descriptions that may wait for the announcing task.
const MAX_WAITING: usize = 32;

/// What an agent is to be found for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registration {
    /// What it can do, at most [`MAX_CAPABILITIES`]; it is found under every ancestor as well.
    pub capabilities: BTreeSet<CapabilityPath>,
    /// What else it says of itself; with the capabilities at most [`MAX_DESCRIPTION_BYTES`].
    pub attributes: Attributes,
}

impl Registration {
    /// For these capabilities, without attributes.
    pub fn of(capabilities: impl IntoIterator<Item = CapabilityPath>) -> Self {
        Self { capabilities: capabilities.into_iter().collect(), attributes: Attributes::new() }
    }

    /// The same with one more attribute.
    pub fn with(mut self, name: impl Into<String>, value: impl Into<crate::AttributeValue>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }
}

/// Discovery over a World: announces this device and finds others. Clones are handles to the same; when the last one is
/// dropped, its tasks end.
#[derive(Clone)]
pub struct Discovery(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    descriptions: mpsc::Sender<Describe>,
    tasks: Mutex<JoinSet<()>>,
}

impl Discovery {
    /// Starts discovery over `world`, in the tokio runtime of the caller: loads and verifies what was known before,
    /// tells the DHT which agent records to hold, and announces this device with no capability yet.
    ///
    /// Not cancel-safe in one respect: dropped halfway, the validator stays registered, which does no harm.
    pub async fn start(world: &World, identity: Identity, config: Config) -> Result<Self, StartError> {
        check(&config)?;
        world.dht.register_validator(RECORD_NAMESPACE, Arc::new(AgentRecordValidator));
        let (store, loaded) = Store::open(world, &config).await?;
        let options = AcceptOptions { max_per_peer: answer::MAX_STREAMS_PER_PEER, ..AcceptOptions::default() };
        let incoming = world.network.accept(&[RECORD_PROTOCOL], options)?;
        let events = world.network.events();
        let shared = Arc::new(Shared::new(world.clone(), identity, config, store));
        {
            let mut index = shared.index();
            for record in loaded.records {
                world.network.add_addrs(record.record().peer, record.addrs());
                index.insert(record, None);
            }
            index.put_back(loaded.gone);
        }
        let (descriptions, described) = mpsc::channel(MAX_WAITING);
        let (growth, grown) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(announce::run(shared.clone(), loaded.seq, described, grown));
        tasks.spawn(peers::run(shared.clone(), events, growth));
        tasks.spawn(answer::run(shared.clone(), incoming));
        tasks.spawn(upkeep::run(shared.clone()));
        Ok(Self(Arc::new(Handle { shared, descriptions, tasks: Mutex::new(tasks) })))
    }

    /// Makes `registration` what this agent is found for, in place of what was registered before, and returns when the
    /// record and all provider entries were placed in the DHT. Connected devices are told at once.
    ///
    /// From then on it is kept up: refreshed before it expires, when the addresses change, and when the network grows.
    /// [`RegisterError::NotPlaced`] says what the DHT did not take yet; that is tried again in the background, with
    /// backoff.
    ///
    /// Cancel-safety: dropping the future stops the waiting; what was handed over is registered all the same.
    pub async fn register(&self, registration: Registration) -> Result<(), RegisterError> {
        let Registration { capabilities, attributes } = registration;
        if capabilities.len() > MAX_CAPABILITIES {
            return Err(RegisterError::TooManyCapabilities { count: capabilities.len() });
        }
        attribute::check(&attributes)?;
        let capabilities: Vec<_> = capabilities.into_iter().collect();
        let bytes = description_bytes(&capabilities, &attributes);
        if bytes > MAX_DESCRIPTION_BYTES {
            return Err(RegisterError::TooLarge { bytes });
        }
        let (done, placed) = oneshot::channel();
        let description = Describe { capabilities, attributes, done };
        self.0.descriptions.send(description).await.map_err(|_| RegisterError::Closed)?;
        let failed = placed.await.map_err(|_| RegisterError::Closed)?;
        if failed.is_empty() { Ok(()) } else { Err(RegisterError::NotPlaced { failed }) }
    }

    /// Withdraws all capabilities and attributes: a newer record without them is placed and told to connected devices,
    /// and provider entries are no longer refreshed. The agent itself can still be found by its id. Returns when every
    /// connected device was told, or could not be.
    ///
    /// Cancel-safety and errors as with [`Discovery::register`].
    pub async fn withdraw(&self) -> Result<(), RegisterError> {
        let withdrawn = self.register(Registration::default()).await;
        self.tell_connected().await;
        withdrawn
    }

    async fn tell_connected(&self) {
        let shared = &self.0.shared;
        let Some(own) = shared.own_record() else { return };
        let seq = own.record().seq;
        let mut untold = shared.world.network.peers();
        untold.retain(|info| info.agent.is_some() && shared.told().get(&info.peer).is_none_or(|&told| told < seq));
        let tell = |info: PeerInfo| async move {
            // What went wrong is reported there.
            let _ = exchange::ask(shared, info.peer).await;
        };
        stream::iter(untold).for_each_concurrent(shared.config.max_fetches, tell).await;
    }

    /// Looks for devices whose agents offer `path` or anything below it: what is known already at once and best first
    /// (see [`Found::rank`]), then what the DHT names, as it comes. Every record is verified and holds now; no device
    /// comes twice. Ends at the deadline, at the limit, or when nobody is left to ask.
    ///
    /// A device that is neither connected nor was confirmed within [`Config::max_age`] is asked for its newest record
    /// first; if nobody answers it comes all the same, late and marked [`Found::fresh`]` == false`.
    ///
    /// The stream works while it is polled; dropping it ends the lookup.
    pub fn find(&self, path: &CapabilityPath, options: FindOptions) -> BoxStream<'static, Found> {
        self.look_for(Target::Capability(path.clone()), options)
    }

    /// Looks for the devices of `agent`, in every respect like [`Discovery::find`].
    pub fn find_devices(&self, agent: AgentId, options: FindOptions) -> BoxStream<'static, Found> {
        self.look_for(Target::Agent(agent), options)
    }

    fn look_for(&self, target: Target, options: FindOptions) -> BoxStream<'static, Found> {
        let lookup = Lookup::new(self.0.shared.clone(), target, options);
        stream::unfold(lookup, |mut lookup| async move { lookup.next().await.map(|found| (found, lookup)) }).boxed()
    }

    /// The devices that [`Discovery::find`] finds, best first.
    ///
    /// Cancel-safe.
    pub async fn find_all(&self, path: &CapabilityPath, options: FindOptions) -> Vec<Found> {
        let mut found: Vec<_> = self.find(path, options).collect().await;
        found.sort_by_cached_key(Found::rank);
        found
    }

    /// The record of a device of `agent`: one that is known and fresh at once, else the first that the DHT names, else
    /// one that was known before but cannot be asked now.
    ///
    /// Cancel-safe.
    pub async fn find_agent(&self, agent: AgentId, within: Duration) -> Result<SignedRecord, FindAgentError> {
        let options = FindOptions::within(within).enough(1).include_self();
        let mut lookup = Lookup::new(self.0.shared.clone(), Target::Agent(agent), options);
        let mut second_best = None;
        while let Some(found) = lookup.next().await {
            if found.fresh {
                return Ok(found.record);
            }
            second_best.get_or_insert(found.record);
        }
        let candidates = lookup.candidates();
        match second_best {
            Some(record) => Ok(record),
            None if lookup.timed_out() => Err(FindAgentError::Deadline { agent, candidates }),
            None => Err(FindAgentError::NotFound { agent, candidates }),
        }
    }

    /// All records that this device knows and that hold now, by device; at most [`Config::max_records`].
    pub fn known(&self) -> Vec<AgentRecord> {
        let now = self.0.shared.wall();
        let index = self.0.shared.index();
        let holding = index.entries().filter(|entry| entry.record.expires() > now);
        holding.map(|entry| entry.record.record().clone()).collect()
    }

    /// The newest record of a device of `agent` that this device knows and that holds now, without asking anybody: of a
    /// connected device if there is one, else the one confirmed last.
    pub fn record_of(&self, agent: AgentId) -> Option<SignedRecord> {
        let shared = &self.0.shared;
        let now = shared.wall();
        let index = shared.index();
        let holding = index.of_agent(agent).filter(|entry| entry.record.expires() > now);
        let best = holding.max_by_key(|entry| {
            let peer = entry.record.record().peer;
            (shared.world.network.peer(peer).is_some(), entry.confirmed, entry.record.record().not_before)
        });
        best.map(|entry| entry.record.clone())
    }

    /// This device's own newest record; `None` in the first moments, before it was signed.
    pub fn local_record(&self) -> Option<SignedRecord> {
        self.0.shared.own_record()
    }

    /// What happens from now on. A slow subscriber gets [`DiscoveryEvent::Missed`] and goes on with what is newer. Ends
    /// when the last handle is dropped.
    pub fn events(&self) -> BoxStream<'static, DiscoveryEvent> {
        let events = self.0.shared.events.subscribe();
        stream::unfold(events, |mut events| async move {
            let event = match events.recv().await {
                Ok(event) => event,
                Err(broadcast::error::RecvError::Lagged(missed)) => DiscoveryEvent::Missed(missed),
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((event, events))
        })
        .boxed()
    }

    /// What discovery has seen so far.
    pub fn stats(&self) -> Stats {
        let counters = &self.0.shared.counters;
        let index = self.0.shared.index();
        Stats {
            known: index.len(),
            index_bytes: index.footprint_bytes(),
            forged: counters.forged.get(),
            expired: counters.expired.get(),
            unfounded: counters.unfounded.get(),
            unanswered: counters.unanswered.get(),
            refused: counters.refused.get(),
        }
    }

    /// Ends all tasks and writes what is known to disk, so that the next start knows it at once. Afterwards nothing is
    /// announced or answered any more, and [`Discovery::register`] fails.
    ///
    /// Cancel-safe: call it again. Lookups and event streams that are still held keep nothing open.
    pub async fn close(&self) {
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        upkeep::flush(&self.0.shared).await;
        self.0.shared.close_store();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close_store();
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery").field("peer", &self.0.shared.identity.peer()).finish_non_exhaustive()
    }
}

fn check(config: &Config) -> Result<(), StartError> {
    let wrong = |field, problem| Err(StartError::Config { field, problem });
    if config.record_lifetime.is_zero() || config.record_lifetime + CLOCK_TOLERANCE > MAX_LIFETIME {
        return wrong("record_lifetime", "must be more than nothing and at most five hours");
    }
    if config.address_poll.is_zero() || config.flush_interval.is_zero() || config.min_backoff.is_zero() {
        return wrong("address_poll, flush_interval or min_backoff", "must be more than nothing");
    }
    let caps = [
        config.max_placements,
        config.max_records,
        config.max_records_per_agent,
        config.max_fetches,
        config.max_candidates,
        config.max_serving,
        config.event_capacity,
    ];
    if caps.contains(&0) || config.question_burst == 0 || config.questions_per_second == 0 {
        return wrong("a cap", "must be at least one");
    }
    Ok(())
}
