use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use diai_core::{Instant, PeerEvent, PeerId, ProtocolId, World};
use futures::{FutureExt, StreamExt, stream, stream::BoxStream};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
};

use super::{
    announce::{Todo, region_bits},
    lookup::REPLICATION,
    message::{Key, Kind},
    network::{Net, Reach},
};
use crate::store::Multihash;

const PUBLIC: ProtocolId = ProtocolId::new("/ipfs/kad/1.0.0");
const PRIVATE: ProtocolId = ProtocolId::new("/ipfs/lan/kad/1.0.0");
/// Batches of providers that wait for whoever looks for them.
const MAX_BATCHES: usize = 16;
/// How long after a failure it is tried again, unless a peer connects before.
const RETRY: Duration = Duration::from_secs(60);
/// So many unfinished lookups in a row end an announcement for now.
const MAX_UNFINISHED: usize = 16;
/// What is provided in quick succession is announced together.
const GATHER: Duration = Duration::from_millis(50);

/// How this device takes part in the DHT of IPFS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpfsDhtConfig {
    /// Servers remembered of each network. Default 2,048, about 150 bytes each.
    pub max_servers: usize,
    /// Lookups at a time on each network; more wait. Default 16.
    pub max_lookups: usize,
    /// How often all is announced again. Default 22 h; others forget it after 48 h.
    pub reprovide: Duration,
}

impl Default for IpfsDhtConfig {
    fn default() -> Self {
        Self { max_servers: 2_048, max_lookups: 16, reprovide: Duration::from_secs(22 * 3600) }
    }
}

/// What came of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Announced {
    /// Keys that at least one server took.
    pub keys: usize,
    /// Keys that nobody took.
    pub failed: usize,
    /// Lookups that it cost.
    pub lookups: usize,
    /// Servers that were told something.
    pub servers: usize,
}

/// The DHT of IPFS. Cheap to clone; with the last clone what it does in the background ends.
#[derive(Clone)]
pub struct IpfsDht(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

struct Shared {
    world: World,
    nets: [Net; 2],
    provided: Mutex<Provided>,
    wake: Notify,
    reprovide: Duration,
}

#[derive(Default)]
struct Provided {
    wanted: BTreeSet<Multihash>,
    todo: BTreeSet<Multihash>,
}

impl fmt::Debug for IpfsDht {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IpfsDht").field("servers", &self.servers()).finish_non_exhaustive()
    }
}

impl IpfsDht {
    /// Starts; to be called within a tokio runtime. Servers are found among the peers that this device is connected to.
    pub fn start(world: &World, config: &IpfsDhtConfig) -> Self {
        let net = |protocol, reach| Net::new(world.clone(), protocol, reach, config.max_servers, config.max_lookups);
        let shared = Arc::new(Shared {
            world: world.clone(),
            nets: [net(PUBLIC, Reach::Public), net(PRIVATE, Reach::Private)],
            provided: Mutex::default(),
            wake: Notify::new(),
            reprovide: config.reprovide,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(run(shared.clone()));
        Self(Arc::new(Inner { shared, tasks: Mutex::new(tasks) }))
    }

    /// Servers that answered last time, of both networks.
    pub fn servers(&self) -> usize {
        self.0.shared.nets.iter().map(Net::alive).sum()
    }

    /// Looks for those who provide `hash`. Ends when the lookup is done; dropping it stops the lookup. Where they are is
    /// told to the [`Network`](diai_core::Network), so that they can be dialled.
    pub fn providers(&self, hash: Multihash) -> BoxStream<'static, Vec<PeerId>> {
        let shared = self.0.shared.clone();
        let (told, mut batches) = mpsc::channel(MAX_BATCHES);
        let mut lookups = async move {
            let bytes = hash.to_bytes();
            let (key, told) = (Key::of(&bytes), &told);
            let lookups = shared.nets.iter().map(|net| {
                net.lookup(Kind::GetProviders, bytes.clone().into(), key, REPLICATION, Some(told)).map(drop)
            });
            futures::future::join_all(lookups).await;
        }
        .boxed()
        .fuse();
        let mut seen = BTreeSet::new();
        let batches = stream::poll_fn(move |cx| {
            let _ = lookups.poll_unpin(cx);
            batches.poll_recv(cx)
        });
        let fresh = batches.map(move |peers| peers.into_iter().filter(|peer| seen.insert(*peer)).collect::<Vec<_>>());
        fresh.filter(|peers| std::future::ready(!peers.is_empty())).boxed()
    }

    /// Announces `hash` soon, and again before others forget it, until [`stop_providing`](Self::stop_providing).
    pub fn provide(&self, hash: Multihash) {
        let mut provided = self.0.shared.provided();
        if provided.wanted.insert(hash) {
            provided.todo.insert(hash);
            self.0.shared.wake.notify_one();
        }
    }

    /// Announces `hash` no longer. What others hold expires by itself.
    pub fn stop_providing(&self, hash: &Multihash) {
        let mut provided = self.0.shared.provided();
        provided.wanted.remove(hash);
        provided.todo.remove(hash);
    }

    /// Announces `hashes` once, region by region, and waits for it.
    ///
    /// Cancel-safe: dropping the future stops it; what was announced by then stays.
    pub async fn announce(&self, hashes: Vec<Multihash>) -> Announced {
        self.0.shared.announce(hashes).await.0
    }

    /// Ends what runs in the background.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}

impl Shared {
    fn provided(&self) -> MutexGuard<'_, Provided> {
        self.provided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came of it, and what nobody took.
    async fn announce(&self, hashes: Vec<Multihash>) -> (Announced, Vec<Multihash>) {
        let mut taken = BTreeSet::new();
        let mut announced = Announced::default();
        for net in &self.nets {
            let addrs = net.own_addrs();
            if addrs.is_empty() {
                // Nobody there could reach this device.
                continue;
            }
            let (mut todo, mut unfinished) = (Todo::new(hashes.iter().copied()), 0);
            while let Some(target) = todo.next() {
                let Some((mut around, done)) = around(net, &todo, &target, &mut announced).await else { break };
                // Servers name the twenty closest: the half of the region that the target is not in is looked at apart.
                // Of an unfinished lookup nothing is known but for the target itself.
                let mut bits = if done { region_bits(&target, &around) } else { u32::MAX };
                if done
                    && let Some(sibling) = todo.sibling(&target, bits)
                    && let Some((others, true)) = self::around(net, &todo, &sibling, &mut announced).await
                {
                    bits += u32::from(region_bits(&sibling, &others) > bits);
                    around.extend(others);
                }
                let batches = todo.take_region(&target, bits, around.into_iter().collect());
                announced.servers += batches.len();
                let tell = batches.into_iter().map(|(peer, hashes)| {
                    let addrs = &addrs;
                    async move { if net.tell(peer, &hashes, addrs).await { hashes } else { Vec::new() } }
                });
                let told: Vec<_> = stream::iter(tell).buffer_unordered(REPLICATION).collect().await;
                taken.extend(told.into_iter().flatten());
                unfinished = if done { 0 } else { unfinished + 1 };
                if unfinished == MAX_UNFINISHED {
                    // Too many are dead or slow now: the rest is tried again later.
                    break;
                }
            }
        }
        let failed: Vec<_> = hashes.into_iter().filter(|hash| !taken.contains(hash)).collect();
        (Announced { keys: taken.len(), failed: failed.len(), ..announced }, failed)
    }
}

/// The peers around `target`, the closest first, and whether all that matter have answered; `None` if nobody did.
async fn around(net: &Net, todo: &Todo, target: &Key, announced: &mut Announced) -> Option<(Vec<PeerId>, bool)> {
    let found = net.lookup(Kind::FindNode, todo.bytes(target)?.into(), *target, REPLICATION, None).await;
    announced.lookups += 1;
    let around: Vec<_> = found.closest().collect();
    (!around.is_empty()).then_some((around, found.is_done()))
}

/// Announces what is provided, and again when it is due.
async fn run(shared: Arc<Shared>) {
    let clock = shared.world.clock.clone();
    let mut peers = shared.world.network.events();
    let mut again = clock.now() + shared.reprovide;
    let mut failed: Vec<Multihash> = Vec::new();
    let mut retry = Instant::NEVER;
    loop {
        tokio::select! {
            biased;
            () = shared.wake.notified() => clock.sleep_until(clock.now() + GATHER).await,
            Some(event) = peers.next() => {
                let PeerEvent::Connected(info) = event else { continue };
                shared.nets.iter().for_each(|net| net.forget_mute(&info.peer));
                if failed.is_empty() || info.agent.is_some() {
                    continue;
                }
                shared.provided().retry(&mut failed);
            }
            () = clock.sleep_until(retry) => shared.provided().retry(&mut failed),
            () = clock.sleep_until(again) => {
                again = clock.now() + shared.reprovide;
                let mut provided = shared.provided();
                provided.todo = provided.wanted.clone();
            }
        }
        let todo = std::mem::take(&mut shared.provided().todo);
        if todo.is_empty() {
            continue;
        }
        let (announced, missed) = shared.announce(todo.into_iter().collect()).await;
        tracing::debug!(?announced, "announced in the DHT of IPFS");
        failed.extend(missed);
        retry = if failed.is_empty() { Instant::NEVER } else { clock.now() + RETRY };
    }
}

impl Provided {
    fn retry(&mut self, failed: &mut Vec<Multihash>) {
        let wanted = &self.wanted;
        self.todo.extend(failed.drain(..).filter(|hash| wanted.contains(hash)));
    }
}
