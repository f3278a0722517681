use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use diai_core::{PeerId, ProtocolId, World};
use futures::Stream;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use super::{
    announce::{Pending, Region, SLICE_KEYS},
    lookup::REPLICATION,
    message::{Key, Kind},
    network::{Counters, Net, Reach},
    prefix::Prefix,
    provide::{LINES, Shared, announce, watch},
};
use crate::store::Multihash;

const PUBLIC: ProtocolId = ProtocolId::new("/ipfs/kad/1.0.0");
const PRIVATE: ProtocolId = ProtocolId::new("/ipfs/lan/kad/1.0.0");
/// Answers that wait for whoever looks for providers; more are dropped.
const MAX_ANSWERS: usize = 64;
/// Providers that one lookup tells of.
const MAX_PROVIDERS: usize = 1024;
/// So many unfinished lookups in a row end an announcement.
const MAX_UNFINISHED: usize = 16;

/// How this device takes part in the DHT of IPFS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpfsDhtConfig {
    /// Servers remembered of each network. Default 2,048, about 150 bytes each.
    pub max_servers: usize,
    /// Lookups at a time on each network; more wait. Default 16.
    pub max_lookups: usize,
    /// How often all is announced again. Default 22 h; others forget it after 48 h.
    pub reprovide: Duration,
    /// Keys that are announced; more are left out, and counted. Default 1,000,000; memory about 200 bytes each.
    pub max_keys: usize,
}

impl Default for IpfsDhtConfig {
    fn default() -> Self {
        Self { max_servers: 2_048, max_lookups: 16, reprovide: Duration::from_secs(22 * 3600), max_keys: 1_000_000 }
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

/// How far one of the two networks is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IpfsNetworkStatus {
    /// Servers that answered last time.
    pub servers: usize,
    /// Keys provided one by one that are still to be announced.
    pub waiting_first: usize,
    /// Keys of a long announcement that are still to be announced: of [`IpfsDhtStatus::keys`], while all are announced again.
    pub waiting: usize,
    /// Keys that nobody took; they are tried again.
    pub failed: usize,
    /// Lookups so far, for announcements and for providers.
    pub lookups: u64,
    /// Questions asked by those.
    pub questions: u64,
    /// Streams of announcements opened.
    pub batches: u64,
    /// Announcements sent on those, of one key to one server each.
    pub records: u64,
}

/// Figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IpfsDhtStatus {
    /// Keys that are announced, or to be.
    pub keys: usize,
    /// Keys left out so far, beyond [`IpfsDhtConfig::max_keys`].
    pub left_out: u64,
    /// `/ipfs/kad/1.0.0`.
    pub public: IpfsNetworkStatus,
    /// `/ipfs/lan/kad/1.0.0`.
    pub private: IpfsNetworkStatus,
}

/// Who provides something, by one server's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedProviders {
    /// Who says it.
    pub server: PeerId,
    /// Whom it names: at most four, none of whom was named before.
    pub providers: Vec<PeerId>,
}

/// The DHT of IPFS. Cheap to clone; with the last clone what it does in the background ends.
#[derive(Clone)]
pub struct IpfsDht(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
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
        let nets = [net(PUBLIC, Reach::Public), net(PRIVATE, Reach::Private)];
        let shared = Arc::new(Shared::new(world.clone(), nets, config.max_keys, config.reprovide));
        let mut tasks = JoinSet::new();
        tasks.spawn(watch(shared.clone()));
        for (net, line) in (0..shared.nets.len()).flat_map(|net| (0..LINES).map(move |line| (net, line))) {
            tasks.spawn(announce(shared.clone(), net, line));
        }
        Self(Arc::new(Inner { shared, tasks: Mutex::new(tasks) }))
    }

    /// Servers that answered last time, of both networks.
    pub fn servers(&self) -> usize {
        self.0.shared.nets.iter().map(Net::alive).sum()
    }

    /// Figures, and how far announcements are.
    pub fn status(&self) -> IpfsDhtStatus {
        let shared = &self.0.shared;
        let network = |at: usize| {
            let (net, waiting) = (&shared.nets[at], shared.waiting(at));
            let Counters { lookups, questions, batches, records } = &net.counters;
            IpfsNetworkStatus {
                servers: net.alive(),
                waiting_first: waiting.first,
                waiting: waiting.rest,
                failed: waiting.failed,
                lookups: Counters::load(lookups),
                questions: Counters::load(questions),
                batches: Counters::load(batches),
                records: Counters::load(records),
            }
        };
        let (keys, left_out) = shared.provided();
        IpfsDhtStatus { keys, left_out, public: network(0), private: network(1) }
    }

    /// Looks for those who provide `hash`, in the background, however slowly the stream is read. It ends when the lookup
    /// is done; dropping it stops the lookup. Where they are is told to the [`Network`](diai_core::Network), so that they
    /// can be dialled.
    pub fn providers(&self, hash: Multihash) -> ProviderAnswers {
        let (told, answers) = mpsc::channel(MAX_ANSWERS);
        let shared = self.0.shared.clone();
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        let task = tasks.spawn(async move {
            let (bytes, seen) = (hash.to_bytes(), Mutex::new(BTreeSet::new()));
            let key = Key::of(&bytes);
            let named = |server: PeerId, mut providers: Vec<PeerId>| {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                providers.retain(|peer| seen.len() < MAX_PROVIDERS && seen.insert(*peer));
                if providers.is_empty() {
                    return !told.is_closed();
                }
                // Who reads so slowly has enough.
                let told = told.try_send(NamedProviders { server, providers });
                !matches!(told, Err(mpsc::error::TrySendError::Closed(_)))
            };
            let lookups = shared
                .nets
                .iter()
                .map(|net| net.lookup(Kind::GetProviders, bytes.clone().into(), key, REPLICATION, named));
            futures::future::join_all(lookups).await;
        });
        ProviderAnswers { answers, task }
    }

    /// Announces `hash` soon, before all that is [provided in bulk](Self::provide_many), and again before others forget it,
    /// until [`stop_providing`](Self::stop_providing).
    pub fn provide(&self, hash: Multihash) {
        self.0.shared.provide(&hash);
    }

    /// The same for many, region by region. A few thousand at a time are a good measure.
    pub fn provide_many(&self, hashes: impl IntoIterator<Item = Multihash>) {
        self.0.shared.provide_many(hashes);
    }

    /// Announces `hash` no longer. What others hold expires by itself.
    pub fn stop_providing(&self, hash: &Multihash) {
        self.0.shared.stop_providing(hash);
    }

    /// Begins to name anew all that is to be [provided in bulk](Self::provide_many).
    pub(crate) fn begin_round(&self) {
        self.0.shared.begin_round();
    }

    /// Ends that: what was not named is announced no longer.
    pub(crate) fn end_round(&self) {
        self.0.shared.end_round();
    }

    /// Announces `hashes` once, region by region, and waits for it.
    ///
    /// Cancel-safe: dropping the future stops it; what was announced by then stays.
    pub async fn announce(&self, hashes: Vec<Multihash>) -> Announced {
        let shared = &self.0.shared;
        let before = self.status();
        let once = futures::future::join_all(shared.nets.iter().map(|net| announce_once(net, &hashes))).await;
        let taken: BTreeSet<_> = once.iter().flat_map(|(taken, _)| taken).copied().collect();
        let lookups = |status: IpfsDhtStatus| (status.public.lookups + status.private.lookups) as usize;
        Announced {
            keys: taken.len(),
            failed: hashes.iter().filter(|hash| !taken.contains(hash)).count(),
            lookups: lookups(self.status()) - lookups(before),
            servers: once.iter().map(|(_, servers)| servers).sum(),
        }
    }

    /// Ends what runs in the background.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}

/// The answers of a lookup. Dropping it stops the lookup.
pub struct ProviderAnswers {
    answers: mpsc::Receiver<NamedProviders>,
    task: AbortHandle,
}

impl fmt::Debug for ProviderAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProviderAnswers")
    }
}

impl Stream for ProviderAnswers {
    type Item = NamedProviders;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<NamedProviders>> {
        self.answers.poll_recv(cx)
    }
}

impl Drop for ProviderAnswers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is still to be announced once.
struct Once(Mutex<BTreeMap<Key, Multihash>>);

impl Pending for Once {
    fn next(&self) -> Option<(Key, Multihash)> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.first_key_value().map(|(key, hash)| (*key, *hash))
    }

    fn is_alone(&self, part: &Prefix) -> bool {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.range(part.range()).nth(1).is_none()
    }

    fn take(&self, part: &Prefix, max: usize) -> Vec<(Key, Multihash)> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: Vec<_> = keys.range(part.range()).take(max).map(|(key, hash)| (*key, *hash)).collect();
        for (key, _) in &taken {
            keys.remove(key);
        }
        taken
    }
}

/// What somebody took, and how many servers were told.
async fn announce_once(net: &Net, hashes: &[Multihash]) -> (BTreeSet<Multihash>, usize) {
    let (mut taken, mut servers, mut unfinished) = (BTreeSet::new(), 0, 0);
    let addrs = net.own_addrs();
    if addrs.is_empty() {
        // Nobody there could reach this device.
        return (taken, 0);
    }
    let pending = Once(Mutex::new(hashes.iter().map(|hash| (Key::of(&hash.to_bytes()), *hash)).collect()));
    while unfinished < MAX_UNFINISHED
        && let Some(region) = Region::find(net, &pending).await
    {
        unfinished = if region.done { 0 } else { unfinished + 1 };
        loop {
            let keys = pending.take(&region.part, SLICE_KEYS);
            if keys.is_empty() {
                break;
            }
            let (took, told) = region.tell(net, &keys, &addrs).await;
            servers += told;
            taken.extend(keys.into_iter().zip(took).filter(|(_, took)| *took).map(|((_, hash), _)| hash));
        }
    }
    (taken, servers)
}
