//! What all agents of a [`Sim`](super::Sim) share: devices, wires, the DHT's table, and the events to come.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{broadcast, mpsc};

use super::{AgentSpec, MemoryDisk, wire::Wire};
use crate::{
    AcceptOptions, Inbound, Instant, PeerEvent, PeerId, PeerInfo, ProtocolId, RecordKey, RecordMeta, WallTime,
};

/// 2026-01-01, when every simulation begins.
const EPOCH_UNIX_MS: u64 = 1_767_225_600_000;
const EVENT_BACKLOG: usize = 256;

pub(super) struct Shared(Mutex<State>);

pub(super) struct State {
    pub(super) now: Instant,
    seq: u64,
    rng: u64,
    events: BTreeMap<(Instant, u64), Event>,
    pub(super) trace: u64,
    pub(super) devices: BTreeMap<PeerId, Device>,
    pub(super) cuts: BTreeSet<(PeerId, PeerId)>,
    pub(super) wires: BTreeMap<u64, Wire>,
    pub(super) records: BTreeMap<RecordKey, (Bytes, RecordMeta)>,
    pub(super) providers: BTreeMap<RecordKey, BTreeMap<PeerId, WallTime>>,
}

pub(super) enum Event {
    /// A timer.
    Wake(Waker),
    /// Bytes arrived: wake the reader of this wire.
    Arrive(u64),
}

pub(super) struct Device {
    pub(super) spec: AgentSpec,
    pub(super) alive: bool,
    pub(super) disk: MemoryDisk,
    pub(super) connected: BTreeSet<PeerId>,
    pub(super) acceptors: BTreeMap<ProtocolId, Acceptor>,
    pub(super) events: broadcast::Sender<PeerEvent>,
    /// Penalty points, and when they were last counted.
    pub(super) points: BTreeMap<PeerId, (u32, Instant)>,
    pub(super) blocked_until: BTreeMap<PeerId, Instant>,
}

pub(super) struct Acceptor {
    pub(super) id: u64,
    pub(super) queue: mpsc::Sender<Inbound>,
    pub(super) options: AcceptOptions,
    pub(super) open: BTreeMap<PeerId, usize>,
}

impl Device {
    pub(super) fn new(spec: AgentSpec) -> Self {
        Self {
            spec,
            alive: true,
            disk: MemoryDisk::default(),
            connected: BTreeSet::new(),
            acceptors: BTreeMap::new(),
            events: broadcast::channel(EVENT_BACKLOG).0,
            points: BTreeMap::new(),
            blocked_until: BTreeMap::new(),
        }
    }

    pub(super) fn info(&self) -> PeerInfo {
        PeerInfo {
            peer: self.spec.peer,
            agent: Some(self.spec.agent),
            certificate: Some(self.spec.certificate.clone()),
            addrs: Vec::new(),
            rtt: Some(Duration::from_millis(2)),
        }
    }
}

/// The same two devices, whoever is named first.
pub(super) fn pair(one: PeerId, other: PeerId) -> (PeerId, PeerId) {
    if one < other { (one, other) } else { (other, one) }
}

impl State {
    /// A random number (splitmix64).
    pub(super) fn random(&mut self) -> u64 {
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.rng)
    }

    /// One trip over the network: 0.5 to 1.5 ms.
    pub(super) fn latency(&mut self) -> Duration {
        Duration::from_nanos(500_000 + self.random() % 1_000_000)
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// Schedules `event` and returns its key.
    pub(super) fn schedule(&mut self, at: Instant, event: Event) -> (Instant, u64) {
        let key = (at, self.next_id());
        self.events.insert(key, event);
        key
    }

    pub(super) fn unschedule(&mut self, key: (Instant, u64)) {
        self.events.remove(&key);
    }

    pub(super) fn wall(&self) -> WallTime {
        WallTime::from_unix_ms(EPOCH_UNIX_MS + self.now.as_nanos() / 1_000_000)
    }

    pub(super) fn record_trace(&mut self, values: &[u64]) {
        for &value in values {
            self.trace = mix(self.trace.rotate_left(5) ^ value);
        }
    }

    pub(super) fn reachable(&self, from: PeerId, to: PeerId) -> bool {
        let alive = |peer| self.devices.get(peer).is_some_and(|device| device.alive);
        let blocks = |one: &PeerId, other: &PeerId| {
            self.devices
                .get(one)
                .and_then(|device| device.blocked_until.get(other))
                .is_some_and(|&until| until > self.now)
        };
        from != to
            && alive(&from)
            && alive(&to)
            && !self.cuts.contains(&pair(from, to))
            && !blocks(&from, &to)
            && !blocks(&to, &from)
    }

    /// Connects two devices that can reach each other and tells both.
    pub(super) fn connect(&mut self, from: PeerId, to: PeerId) {
        for (here, there) in [(from, to), (to, from)] {
            let info = self.devices[&there].info();
            let Some(device) = self.devices.get_mut(&here) else { continue };
            if device.connected.insert(there) {
                // No subscriber is no error.
                let _ = device.events.send(PeerEvent::Connected(info));
            }
        }
    }
}

impl Shared {
    pub(super) fn new(seed: u64) -> Self {
        Self(Mutex::new(State {
            now: Instant::default(),
            seq: 0,
            rng: seed,
            events: BTreeMap::new(),
            trace: seed,
            devices: BTreeMap::new(),
            cuts: BTreeSet::new(),
            wires: BTreeMap::new(),
            records: BTreeMap::new(),
            providers: BTreeMap::new(),
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panicking test must not hide its own message behind a poisoned lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fires the earliest event; false if there is none.
    pub(super) fn fire_next(&self) -> bool {
        let waker = {
            let mut state = self.lock();
            let Some(((at, _), event)) = state.events.pop_first() else { return false };
            state.now = state.now.max(at);
            match event {
                Event::Wake(waker) => Some(waker),
                Event::Arrive(wire) => state.wires.get_mut(&wire).and_then(|wire| wire.reader.take()),
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    pub(super) fn disconnect(&self, one: PeerId, other: PeerId) {
        let mut wakers = Vec::new();
        {
            let mut state = self.lock();
            for wire in state.wires.values_mut().filter(|wire| pair(wire.from, wire.to) == pair(one, other)) {
                wire.broken = true;
                wakers.extend(wire.reader.take());
                wakers.extend(wire.writer.take());
            }
            for (here, there) in [(one, other), (other, one)] {
                let Some(device) = state.devices.get_mut(&here) else { continue };
                if device.connected.remove(&there) {
                    let _ = device.events.send(PeerEvent::Disconnected(there));
                }
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn kill(&self, peer: PeerId) {
        let connected = {
            let mut state = self.lock();
            let Some(device) = state.devices.get_mut(&peer) else { return };
            device.alive = false;
            device.acceptors.clear();
            device.connected.clone()
        };
        for other in connected {
            self.disconnect(peer, other);
        }
    }
}

pub(super) fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
