//! Agents in the in-memory World.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod pair;
pub(crate) mod party;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use diai_core::{
    Entropy, PeerId, Reply, Request, Service, WallTime, World,
    memory::{AgentSpec, Sim},
    service_fn,
};
use diai_identity::Identity;
use diai_messaging::{Config, Messaging, NoLocate};

/// Bytes that look random and are the same in every run.
pub(crate) struct Counting(AtomicU64);

impl Counting {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        for byte in buffer {
            let mut word = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            *byte = (word ^ (word >> 27)).to_le_bytes()[5];
        }
    }
}

/// A certificate of then is valid at the simulation's beginning.
fn birth(sim: &Sim) -> WallTime {
    sim.join(AgentSpec::example(255)).clock.wall()
}

pub(crate) struct Agent {
    pub(crate) world: World,
    pub(crate) identity: Identity,
}

impl Agent {
    pub(crate) fn join(sim: &Sim, number: u64) -> Self {
        let identity = Identity::generate(&Counting::new(number << 32), birth(sim));
        let (agent, peer) = (identity.agent(), identity.peer());
        let world = sim.join(AgentSpec { agent, peer, certificate: identity.certificate().to_bytes() });
        Self { world, identity }
    }

    /// Two agents, the one with the lower peer id first.
    pub(crate) fn two(sim: &Sim) -> (Self, Self) {
        let (one, other) = (Self::join(sim, 1), Self::join(sim, 2));
        if one.peer() < other.peer() { (one, other) } else { (other, one) }
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.identity.peer()
    }

    pub(crate) fn messaging(&self) -> Messaging {
        self.messaging_with(Config::default())
    }

    pub(crate) fn messaging_with(&self, config: Config) -> Messaging {
        Messaging::start(&self.world, &self.identity, Arc::new(NoLocate), config).unwrap()
    }
}

pub(crate) fn echo() -> Arc<dyn Service> {
    service_fn(|request: Request| async move { Ok(Reply::from(request.body)) })
}

/// Waits for `condition`, in virtual time, for at most a minute of it.
pub(crate) async fn until(world: &World, condition: impl Fn() -> bool) {
    for _ in 0..60_000 {
        if condition() {
            return;
        }
        let next = world.clock.now() + std::time::Duration::from_millis(1);
        world.clock.sleep_until(next).await;
    }
    panic!("it never came to that");
}
