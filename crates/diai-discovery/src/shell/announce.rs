use std::sync::Arc;

use diai_core::{DhtError, Instant, Multiaddr};
use diai_identity::Signed;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    AgentRecord, Attributes, CapabilityPath, DiscoveryEvent, NotPlaced, SignedRecord,
    codec::{addr_bytes, description_bytes},
    machine::{Input, Intervals, Item, Output, Registrar},
    message::{CLOCK_TOLERANCE, MAX_ADDR_BYTES, MAX_ADDRS, MAX_RECORD_BYTES, agent_key, capability_key, record_key},
    shared::Shared,
};

/// Registrations that wait for their round at a time; further ones wait before they are looked at.
const MAX_WAITERS: usize = 64;
/// Agent, device, seq and times, with their tags.
const FIXED_BYTES: usize = 128;

/// What the agent is to be known for from now on.
pub(crate) struct Describe {
    pub(crate) capabilities: Vec<CapabilityPath>,
    pub(crate) attributes: Attributes,
    /// What of it could not be placed.
    pub(crate) done: oneshot::Sender<Vec<NotPlaced>>,
}

type Placement = BoxFuture<'static, (Item, Result<(), DhtError>)>;

struct Announcer {
    shared: Arc<Shared>,
    registrar: Registrar,
    capabilities: Vec<CapabilityPath>,
    attributes: Attributes,
    /// The highest seq ever signed.
    seq: u64,
    addrs: Vec<Multiaddr>,
    /// Why there is no record of what is described now.
    unsigned: Option<String>,
    placements: FuturesUnordered<Placement>,
    waiters: Vec<(u64, oneshot::Sender<Vec<NotPlaced>>)>,
}

/// Announces this device until nobody can describe it any more. `seq` is the highest it has signed so far.
pub(crate) async fn run(
    shared: Arc<Shared>,
    seq: u64,
    mut descriptions: mpsc::Receiver<Describe>,
    mut growth: watch::Receiver<usize>,
) {
    let config = &shared.config;
    let intervals = Intervals {
        refresh: config.record_lifetime / 4,
        min_backoff: config.min_backoff,
        max_backoff: config.max_backoff,
        max_placements: config.max_placements,
    };
    let mut announcer = Announcer {
        registrar: Registrar::new(intervals, shared.world.entropy.u64()),
        capabilities: Vec::new(),
        attributes: Attributes::new(),
        seq,
        addrs: shared.world.network.local_addrs(),
        unsigned: None,
        placements: FuturesUnordered::new(),
        waiters: Vec::new(),
        shared: shared.clone(),
    };
    let clock = shared.world.clock.clone();
    announcer.input(Input::Describe(Vec::new()));
    let mut poll_at = clock.now() + shared.config.address_poll;
    let mut growing = true;
    loop {
        announcer.act().await;
        let wake_at: Instant = announcer.registrar.poll_timeout().min(poll_at);
        tokio::select! {
            biased;
            Some((item, result)) = announcer.placements.next(), if !announcer.placements.is_empty() => {
                announcer.placed(item, result.map_err(|error| error.to_string()));
            }
            description = descriptions.recv(), if announcer.waiters.len() < MAX_WAITERS => match description {
                Some(description) => announcer.describe(description),
                None => return,
            },
            changed = growth.changed(), if growing => {
                growing = changed.is_ok();
                let count = *growth.borrow_and_update();
                announcer.input(Input::Peers(count));
            }
            () = clock.sleep_until(wake_at) => {
                if clock.now() >= poll_at {
                    poll_at = clock.now() + shared.config.address_poll;
                    announcer.look_at_addrs();
                }
                announcer.input(Input::Tick);
            }
        }
    }
}

impl Announcer {
    fn input(&mut self, input: Input) {
        self.registrar.handle(self.shared.world.clock.now(), input);
    }

    fn describe(&mut self, description: Describe) {
        let Describe { capabilities, attributes, done } = description;
        self.input(Input::Describe(capabilities.clone()));
        self.capabilities = capabilities;
        self.attributes = attributes;
        self.waiters.push((self.registrar.round(), done));
    }

    fn placed(&mut self, item: Item, result: Result<(), String>) {
        if let Err(reason) = &result {
            self.shared.emit(DiscoveryEvent::NotPlaced { what: item.to_string(), reason: reason.clone() });
        }
        self.input(Input::Done(item, result));
    }

    fn look_at_addrs(&mut self) {
        let addrs = self.shared.world.network.local_addrs();
        let sorted = |addrs: &[Multiaddr]| {
            let mut addrs = addrs.to_vec();
            addrs.sort();
            addrs
        };
        if sorted(&addrs) != sorted(&self.addrs) {
            self.addrs = addrs;
            self.input(Input::Renew);
        }
    }

    /// Does what the registrar wants.
    async fn act(&mut self) {
        while let Some(output) = self.registrar.poll_output() {
            match output {
                Output::Sign => self.sign().await,
                Output::Stop(item) => self.stop(&item),
                Output::Place(item) => self.place(item).await,
                Output::Settled { round, failed } => {
                    for (_, done) in self.waiters.extract_if(.., |(waiting, _)| *waiting <= round) {
                        // Whoever registered may have stopped waiting.
                        let _ = done.send(failed.clone());
                    }
                }
            }
        }
    }

    async fn sign(&mut self) {
        let world = &self.shared.world;
        let now = world.clock.wall();
        self.seq = (self.seq + 1).max(now.as_unix_ms());
        // Without it, a clock set back before the next start could make our records look old for a while.
        if let Some(store) = self.shared.store()
            && let Err(error) = store.set_seq(world, self.seq).await
        {
            tracing::warn!(%error, "cannot remember the seq of this device's record");
        }
        let identity = &self.shared.identity;
        let record = AgentRecord {
            agent: identity.agent(),
            peer: identity.peer(),
            seq: self.seq,
            not_before: now.minus(CLOCK_TOLERANCE),
            expires: now + self.shared.config.record_lifetime,
            addrs: self.chosen_addrs(),
            capabilities: self.capabilities.clone(),
            attributes: self.attributes.clone(),
        };
        match SignedRecord::sign(identity, &record, now) {
            Ok(record) => {
                self.unsigned = None;
                self.shared.own.send_replace(Some(record));
                self.shared.emit(DiscoveryEvent::Announced { seq: self.seq });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot sign this device's record");
                self.unsigned = Some(error.to_string());
            }
        }
    }

    /// As many addresses as a record has room for, the first first.
    fn chosen_addrs(&self) -> Vec<Multiaddr> {
        let description = description_bytes(&self.capabilities, &self.attributes);
        let mut room = MAX_RECORD_BYTES.saturating_sub(Signed::MAX_OVERHEAD_BYTES + FIXED_BYTES + description);
        let mut chosen: Vec<Multiaddr> = Vec::new();
        for addr in &self.addrs {
            let bytes = addr_bytes(addr);
            if chosen.len() < MAX_ADDRS && addr.len() <= MAX_ADDR_BYTES && bytes <= room && !chosen.contains(addr) {
                room -= bytes;
                chosen.push(addr.clone());
            }
        }
        chosen
    }

    async fn place(&mut self, item: Item) {
        let dht = self.shared.world.dht.clone();
        let placement = match &item {
            Item::Record => {
                if self.unsigned.is_some() {
                    self.sign().await;
                }
                let own = self.shared.own_record();
                match (&self.unsigned, own) {
                    (None, Some(own)) => dht.put(record_key(own.record().peer), own.to_bytes()),
                    (reason, _) => {
                        let reason = reason.clone().unwrap_or_default();
                        return self.placed(item, Err(reason));
                    }
                }
            }
            Item::Agent => dht.provide(agent_key(self.shared.identity.agent())),
            Item::Capability(path) => dht.provide(capability_key(path)),
        };
        self.placements.push(async move { (item, placement.await) }.boxed());
    }

    fn stop(&self, item: &Item) {
        let key = match item {
            // Held until it expires: there is always a record, so this is never asked for.
            Item::Record => return,
            Item::Agent => agent_key(self.shared.identity.agent()),
            Item::Capability(path) => capability_key(path),
        };
        self.shared.world.dht.stop_providing(&key);
    }
}
