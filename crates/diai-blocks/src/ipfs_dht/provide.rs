//! What is announced, on which network it still has to be, and the tasks that see to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use diai_core::{Instant, Multiaddr, PeerEvent, World};
use tokio::sync::Notify;

use super::{
    announce::{Pending, Region, SLICE_KEYS},
    message::Key,
    network::Net,
    prefix::Prefix,
};
use crate::{
    block,
    store::{self, Multihash},
};

/// How long after a failure it is tried again, unless a peer connects before.
const RETRY: Duration = Duration::from_secs(60);
/// So many unfinished lookups in a row end an announcement for now.
const MAX_UNFINISHED: usize = 16;
/// What is provided in quick succession is announced together.
const GATHER: Duration = Duration::from_millis(50);
/// How often this device's addresses are looked at. New ones count when they are there twice in a row.
const LOOK: Duration = Duration::from_secs(15);
/// The least time between two announcements of everything because of new addresses.
const ADDRS_APART: Duration = Duration::from_secs(300);
/// The mark of what is provided for its own sake.
const FOR_ITSELF: u32 = u32::MAX;

/// The queues of a network: what comes first, and all else.
const FIRST: usize = 0;
const REST: usize = 1;
/// Those who announce on a network: one what comes first, and four all else, each from its quarter of the key space.
pub(super) const LINES: usize = 5;

#[derive(Default)]
struct Queue {
    pending: BTreeSet<Key>,
    /// What nobody took.
    failed: BTreeSet<Key>,
    /// Nothing is tried before.
    not_before: Instant,
    /// Counts what made it worth trying again at once.
    chances: u64,
}

#[derive(Default)]
struct Due {
    queues: [Queue; 2],
    /// Where this device was when all was announced.
    told_at: BTreeSet<Multiaddr>,
    seen_at: BTreeSet<Multiaddr>,
    again_after: Option<Instant>,
}

struct Wanted {
    hash: store::Key,
    /// The last round that named it.
    round: u32,
}

#[derive(Default)]
struct Plan {
    wanted: BTreeMap<Key, Wanted>,
    round: u32,
    left_out: u64,
    due: [Due; 2],
}

/// The two networks and what is announced there.
pub(super) struct Shared {
    pub(super) world: World,
    pub(super) nets: [Net; 2],
    plan: Mutex<Plan>,
    wake: [[Notify; LINES]; 2],
    max_keys: usize,
    reprovide: Duration,
}

/// How many keys wait: new ones, others, and those that nobody took.
pub(super) struct Waiting {
    pub(super) first: usize,
    pub(super) rest: usize,
    pub(super) failed: usize,
}

impl Shared {
    pub(super) fn new(world: World, nets: [Net; 2], max_keys: usize, reprovide: Duration) -> Self {
        Self { world, nets, plan: Mutex::default(), wake: Default::default(), max_keys, reprovide }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, queue: usize) {
        let lines = if queue == FIRST { 0..1 } else { 1..LINES };
        self.wake.iter().flat_map(|wake| &wake[lines.clone()]).for_each(Notify::notify_one);
    }

    pub(super) fn provide(&self, hash: &Multihash) {
        let mut plan = self.plan();
        if plan.want(hash, FOR_ITSELF, self.max_keys, FIRST) {
            drop(plan);
            self.wake(FIRST);
        }
    }

    pub(super) fn provide_many(&self, hashes: impl IntoIterator<Item = Multihash>) {
        let mut plan = self.plan();
        let round = plan.round;
        let mut any = false;
        for hash in hashes {
            any |= plan.want(&hash, round, self.max_keys, REST);
        }
        drop(plan);
        if any {
            self.wake(REST);
        }
    }

    pub(super) fn stop_providing(&self, hash: &Multihash) {
        self.plan().forget(&Key::of(&hash.to_bytes()));
    }

    /// Begins to name anew what [`provide_many`](Self::provide_many) is for.
    pub(super) fn begin_round(&self) {
        let mut plan = self.plan();
        plan.round = (plan.round + 1) % FOR_ITSELF;
    }

    /// Forgets what was provided among many and not named since the round began.
    pub(super) fn end_round(&self) {
        let mut plan = self.plan();
        let round = plan.round;
        let is_old = |wanted: &Wanted| wanted.round != FOR_ITSELF && wanted.round != round;
        let old: Vec<_> = plan.wanted.iter().filter(|(_, wanted)| is_old(wanted)).map(|(key, _)| *key).collect();
        old.iter().for_each(|key| plan.forget(key));
    }

    pub(super) fn provided(&self) -> (usize, u64) {
        let plan = self.plan();
        (plan.wanted.len(), plan.left_out)
    }

    pub(super) fn waiting(&self, net: usize) -> Waiting {
        let plan = self.plan();
        let [first, rest] = &plan.due[net].queues;
        let failed = first.failed.len() + rest.failed.len();
        Waiting { first: first.pending.len(), rest: rest.pending.len(), failed }
    }
}

impl Plan {
    /// Whether there is something to announce.
    fn want(&mut self, hash: &Multihash, round: u32, max_keys: usize, queue: usize) -> bool {
        // An identity CID holds its content itself.
        if hash.code() == block::IDENTITY {
            return false;
        }
        let key = Key::of(&hash.to_bytes());
        if let Some(wanted) = self.wanted.get_mut(&key) {
            if wanted.round == FOR_ITSELF {
                return false;
            }
            wanted.round = round;
            return queue == FIRST && self.put_first(key);
        }
        if self.wanted.len() >= max_keys {
            self.left_out += 1;
            return false;
        }
        self.wanted.insert(key, Wanted { hash: hash.into(), round });
        for due in &mut self.due {
            due.queues[queue].pending.insert(key);
        }
        true
    }

    /// Whether it was still to be announced.
    fn put_first(&mut self, key: Key) -> bool {
        let mut any = false;
        for Due { queues: [first, rest], .. } in &mut self.due {
            if rest.pending.remove(&key) {
                any = true;
                first.pending.insert(key);
            }
        }
        any
    }

    fn forget(&mut self, key: &Key) {
        self.wanted.remove(key);
        for queue in self.due.iter_mut().flat_map(|due| &mut due.queues) {
            queue.pending.remove(key);
            queue.failed.remove(key);
        }
    }

    /// All is to be announced.
    fn again(&mut self, net: usize) {
        let [first, rest] = &mut self.due[net].queues;
        rest.failed.clear();
        rest.pending = self.wanted.keys().filter(|key| !first.pending.contains(key)).copied().collect();
        rest.not_before = Instant::default();
    }

    fn retry(&mut self, net: usize) {
        for queue in &mut self.due[net].queues {
            queue.not_before = Instant::default();
            queue.chances += 1;
            queue.pending.append(&mut queue.failed);
        }
    }
}

/// One queue of one network, or a part of it.
struct Line<'a> {
    shared: &'a Shared,
    net: usize,
    queue: usize,
    part: Prefix,
    wake: &'a Notify,
}

impl Pending for Line<'_> {
    fn next(&self) -> Option<(Key, Multihash)> {
        let plan = self.shared.plan();
        let key = plan.due[self.net].queues[self.queue].pending.range(self.part.range()).next()?;
        plan.wanted.get(key).map(|wanted| (*key, wanted.hash.multihash()))
    }

    fn is_alone(&self, part: &Prefix) -> bool {
        self.shared.plan().due[self.net].queues[self.queue].pending.range(part.range()).nth(1).is_none()
    }

    fn take(&self, part: &Prefix, max: usize) -> Vec<(Key, Multihash)> {
        let mut plan = self.shared.plan();
        let pending = &mut plan.due[self.net].queues[self.queue].pending;
        let keys: Vec<_> = pending.range(part.range()).take(max).copied().collect();
        for key in &keys {
            pending.remove(key);
        }
        let hash = |key| plan.wanted.get(&key).map(|wanted| (key, wanted.hash.multihash()));
        keys.into_iter().filter_map(hash).collect()
    }
}

impl Line<'_> {
    fn net(&self) -> &Net {
        &self.shared.nets[self.net]
    }

    fn with<T>(&self, work: impl FnOnce(&mut Queue) -> T) -> T {
        work(&mut self.shared.plan().due[self.net].queues[self.queue])
    }

    fn is_empty(&self) -> bool {
        let none = |keys: &BTreeSet<Key>| keys.range(self.part.range()).next().is_none();
        self.with(|queue| none(&queue.pending) && none(&queue.failed))
    }

    /// Waits until there is something to announce, and for whom.
    async fn ready(&self) -> Vec<Multiaddr> {
        let clock = &*self.shared.world.clock;
        let mut gathered = false;
        loop {
            let now = clock.now();
            let until = match self.is_empty() {
                true => Instant::NEVER,
                false => self.with(|queue| queue.not_before),
            };
            let addrs = self.net().own_addrs();
            if until <= now && gathered && !addrs.is_empty() {
                self.with(|queue| queue.pending.append(&mut queue.failed));
                return addrs;
            }
            if until <= now && !addrs.is_empty() {
                clock.sleep_until(now + GATHER).await;
                gathered = true;
                continue;
            }
            // Without an address nobody there could reach this device.
            let until = if until <= now { now + LOOK } else { until };
            tokio::select! {
                () = self.wake.notified() => {}
                () = clock.sleep_until(until) => {}
            }
        }
    }

    /// Announces until nothing is left, or nobody answers.
    async fn drain(&self, addrs: &[Multiaddr]) {
        let chances = self.with(|queue| queue.chances);
        let mut unfinished = 0;
        while unfinished < MAX_UNFINISHED
            && let Some(region) = Region::find(self.net(), self).await
        {
            // Too many unfinished in a row: many are dead or slow now, and the rest is tried again later.
            unfinished = if region.done { 0 } else { unfinished + 1 };
            loop {
                let keys = self.take(&region.part, SLICE_KEYS);
                if keys.is_empty() {
                    break;
                }
                let (taken, _) = region.tell(self.net(), &keys, addrs).await;
                let missed = keys.into_iter().zip(taken).filter(|(_, taken)| !taken).map(|((key, _), _)| key);
                let mut plan = self.shared.plan();
                let missed: Vec<_> = missed.filter(|key| plan.wanted.contains_key(key)).collect();
                plan.due[self.net].queues[self.queue].failed.extend(missed);
            }
        }
        let (until, left) = (self.shared.world.clock.now() + RETRY, !self.is_empty());
        self.with(|queue| {
            if left && queue.chances == chances {
                queue.not_before = until;
            }
        });
    }
}

/// Announces what waits in one line of one network. The lines go on beside each other, so that nothing new waits for a
/// long announcement.
pub(super) async fn announce(shared: Arc<Shared>, net: usize, line: usize) {
    let (queue, part) = match line {
        0 => (FIRST, Prefix::of(&Key([0; 32]), 0)),
        quarter => (REST, Prefix::of(&Key([(quarter as u8 - 1) << 6; 32]), 2)),
    };
    let line = Line { shared: &shared, net, queue, part, wake: &shared.wake[net][line] };
    loop {
        let addrs = line.ready().await;
        {
            let mut plan = shared.plan();
            let told_at = &mut plan.due[net].told_at;
            if told_at.is_empty() {
                told_at.extend(addrs.iter().cloned());
            }
        }
        line.drain(&addrs).await;
    }
}

/// Sees when all is to be announced again, or what failed to be tried again.
pub(super) async fn watch(shared: Arc<Shared>) {
    let clock = shared.world.clock.clone();
    let mut peers = shared.world.network.events();
    let mut again = clock.now() + shared.reprovide;
    let mut look = clock.now() + LOOK;
    loop {
        tokio::select! {
            biased;
            Some(event) = futures::StreamExt::next(&mut peers) => {
                let PeerEvent::Connected(info) = event else { continue };
                shared.nets.iter().for_each(|net| net.forget_mute(&info.peer));
                if info.agent.is_none() {
                    (0..shared.nets.len()).for_each(|net| shared.plan().retry(net));
                }
            }
            () = clock.sleep_until(again) => {
                again = clock.now() + shared.reprovide;
                (0..shared.nets.len()).for_each(|net| shared.again(net));
            }
            () = clock.sleep_until(look) => {
                look = clock.now() + LOOK;
                (0..shared.nets.len()).for_each(|net| shared.look(net));
            }
        }
        [FIRST, REST].into_iter().for_each(|queue| shared.wake(queue));
    }
}

impl Shared {
    fn again(&self, net: usize) {
        let mut plan = self.plan();
        plan.due[net].told_at = self.nets[net].own_addrs().into_iter().collect();
        plan.again(net);
    }

    /// Has all announced again on a network in which this device has a new address.
    fn look(&self, net: usize) {
        let addrs: BTreeSet<_> = self.nets[net].own_addrs().into_iter().collect();
        let now = self.world.clock.now();
        let mut plan = self.plan();
        let due = &mut plan.due[net];
        let settled = due.seen_at == addrs;
        due.seen_at = addrs;
        let is_new = !due.told_at.is_empty() && !due.seen_at.is_subset(&due.told_at);
        if settled && is_new && due.again_after.is_none_or(|after| after <= now) {
            due.told_at = due.seen_at.clone();
            due.again_after = Some(now + ADDRS_APART);
            plan.again(net);
        }
    }
}
