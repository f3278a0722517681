use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use diai_core::{Instant, OpenError, PeerEvent, PeerEvents, PeerId};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::watch;

use crate::{
    exchange::{self, ExchangeError},
    shared::Shared,
};

/// Connected devices are told of our new record at most this often.
const PUSH_INTERVAL: Duration = Duration::from_millis(500);
/// The wait before those are tried again who could not be told.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// A device that fails so often is left alone until it connects again, or asks.
const MAX_FAILURES: u32 = 3;

type Exchange = BoxFuture<'static, (PeerId, Result<(), ExchangeError>)>;

struct Peers {
    shared: Arc<Shared>,
    /// Certified devices that are connected, and their failures in a row.
    connected: BTreeMap<PeerId, u32>,
    queue: BTreeSet<PeerId>,
    exchanges: FuturesUnordered<Exchange>,
    /// When those are tried again who could not be told.
    retry_at: Instant,
    growth: watch::Sender<usize>,
}

/// Exchanges records with every certified device that connects, and tells all that are connected when ours is new.
/// Ends with the World.
pub(crate) async fn run(shared: Arc<Shared>, mut events: PeerEvents, growth: watch::Sender<usize>) {
    let mut own = shared.own.subscribe();
    let clock = shared.world.clock.clone();
    let mut peers = Peers {
        shared,
        connected: BTreeMap::new(),
        queue: BTreeSet::new(),
        exchanges: FuturesUnordered::new(),
        retry_at: Instant::NEVER,
        growth,
    };
    peers.look_again();
    let mut push_at = Instant::NEVER;
    let mut pushed_at: Option<Instant> = None;
    loop {
        peers.start_exchanges();
        tokio::select! {
            biased;
            Some((peer, result)) = peers.exchanges.next(), if !peers.exchanges.is_empty() => peers.exchanged(peer, &result),
            event = events.next() => match event {
                Some(event) => peers.event(event),
                None => return,
            },
            // The sender lives in `shared`.
            Ok(()) = own.changed() => {
                let now = clock.now();
                push_at = push_at.min(pushed_at.map_or(now, |last| now.max(last + PUSH_INTERVAL)));
            }
            () = clock.sleep_until(push_at.min(peers.retry_at)) => {
                pushed_at = Some(clock.now());
                push_at = Instant::NEVER;
                peers.retry_at = Instant::NEVER;
                peers.queue_untold();
            }
        }
    }
}

impl Peers {
    fn event(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Connected(info) if info.agent.is_some() => self.connected(info.peer),
            PeerEvent::Disconnected(peer) => {
                self.connected.remove(&peer);
                self.queue.remove(&peer);
                self.shared.told().remove(&peer);
                self.publish_count();
            }
            PeerEvent::Missed => self.look_again(),
            _ => {}
        }
    }

    fn connected(&mut self, peer: PeerId) {
        self.connected.insert(peer, 0);
        self.queue.insert(peer);
        self.publish_count();
    }

    fn publish_count(&self) {
        let count = self.connected.len();
        self.growth.send_if_modified(|known| std::mem::replace(known, count) != count);
    }

    /// Looks who is connected, as when events were missed.
    fn look_again(&mut self) {
        let now: Vec<_> = self.shared.world.network.peers();
        let now: BTreeSet<_> = now.into_iter().filter(|info| info.agent.is_some()).map(|info| info.peer).collect();
        let known = std::mem::take(&mut self.connected);
        self.queue.extend(now.iter().filter(|peer| !known.contains_key(*peer)));
        self.connected = now.iter().map(|peer| (*peer, known.get(peer).copied().unwrap_or_default())).collect();
        self.queue.retain(|peer| now.contains(peer));
        self.shared.told().retain(|peer, _| now.contains(peer));
        self.publish_count();
    }

    /// Whoever is connected and does not have our newest record, unless it failed too often.
    fn queue_untold(&mut self) {
        let Some(own) = self.shared.own_record() else { return };
        let told = self.shared.told();
        let untold = self.connected.iter().filter(|&(peer, &failures)| {
            failures < MAX_FAILURES && told.get(peer).is_none_or(|&seq| seq < own.record().seq)
        });
        self.queue.extend(untold.map(|(peer, _)| *peer));
    }

    fn start_exchanges(&mut self) {
        while self.exchanges.len() < self.shared.config.max_fetches
            && let Some(peer) = self.queue.pop_first()
        {
            if self.is_done(peer) {
                continue;
            }
            let shared = self.shared.clone();
            let exchange = async move { (peer, exchange::ask(&shared, peer).await.map(|_| ())) };
            self.exchanges.push(exchange.boxed());
        }
    }

    /// Whether each side knows the other's record already, because the other asked first.
    fn is_done(&self, peer: PeerId) -> bool {
        let Some(own) = self.shared.own_record() else { return false };
        let told = self.shared.told().get(&peer).is_some_and(|&seq| seq >= own.record().seq);
        told && self.shared.index().get(peer).is_some_and(|entry| entry.confirmed.is_some())
    }

    fn exchanged(&mut self, peer: PeerId, result: &Result<(), ExchangeError>) {
        let Some(failures) = self.connected.get_mut(&peer) else {
            // It left while we asked.
            self.shared.told().remove(&peer);
            return;
        };
        *failures = match result {
            Ok(()) => 0,
            Err(ExchangeError::Open(OpenError::Unsupported { .. })) => MAX_FAILURES,
            Err(_) => *failures + 1,
        };
        if (1..MAX_FAILURES).contains(failures) {
            let at = self.shared.world.clock.now() + RETRY_INTERVAL;
            self.retry_at = self.retry_at.min(at);
        }
    }
}
