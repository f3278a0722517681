//! What the fuzz targets share: keys that are the same in every run, and a door to services without a network.
//!
//! A decoder behind a signature or a cipher would see nothing of what the fuzzer makes, so such targets sign or encrypt
//! the input first, as a hostile member would.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use diai_core::{
    AgentId, BoxFuture, CallError, CallOptions, Calls, Entropy, Instant, Offload, RegisterError, Registration,
    ReplyStream, Request, Service, WallTime, World,
    memory::{AgentSpec, Sim},
};
use diai_identity::{Domain, Identity};

/// When everything here happens: the beginning of every [`Sim`].
pub static NOW: LazyLock<WallTime> = LazyLock::new(|| Sim::new(0).wall());
/// The agent that decodes.
pub static ALICE: LazyLock<Identity> = LazyLock::new(|| Identity::generate(&Counting::new(1 << 32), *NOW));
/// The agent that sends.
pub static MALLORY: LazyLock<Identity> = LazyLock::new(|| Identity::generate(&Counting::new(2 << 32), *NOW));

/// Bytes that look random and are the same in every run.
pub struct Counting(AtomicU64);

impl Counting {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
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

/// Does work where it is handed over: no thread for each input.
pub struct Inline;

impl Offload for Inline {
    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }
}

/// What Mallory sends when he signs `payload` for `domain`.
pub fn signed(domain: &'static str, payload: &[u8]) -> Bytes {
    MALLORY.sign(Domain::new(domain), Bytes::copy_from_slice(payload)).to_bytes()
}

/// Alice's World in `sim`.
pub fn alices_world(sim: &Sim) -> World {
    let certificate = ALICE.certificate().to_bytes();
    sim.join(AgentSpec { agent: ALICE.agent(), peer: ALICE.peer(), certificate })
}

/// [`Calls`] that reach nobody, and hold what is served so that a target can call it.
#[derive(Default)]
pub struct Served(Mutex<BTreeMap<String, Arc<dyn Service>>>);

impl Served {
    /// Hands `body` to `service`, as a request of Mallory's.
    pub async fn request(&self, service: &str, body: Bytes) {
        let handler = self.0.lock().unwrap_or_else(PoisonError::into_inner)[service].clone();
        let deadline = Instant::NEVER;
        let request = Request { from: MALLORY.agent(), peer: MALLORY.peer(), service: service.into(), body, deadline };
        // A refusal is as good as an answer.
        let _ = handler.handle(request).await;
    }
}

fn nobody<T: Send + 'static>(agent: AgentId) -> BoxFuture<'static, Result<T, CallError>> {
    Box::pin(async move { Err(CallError::Unreachable { agent, reason: "nobody is there".to_owned() }) })
}

impl Calls for Served {
    fn local_agent(&self) -> AgentId {
        ALICE.agent()
    }

    fn call(&self, to: AgentId, _: &str, _: Bytes, _: CallOptions) -> BoxFuture<'static, Result<Bytes, CallError>> {
        nobody(to)
    }

    fn call_streaming(
        &self,
        to: AgentId,
        _: &str,
        _: Bytes,
        _: CallOptions,
    ) -> BoxFuture<'static, Result<ReplyStream, CallError>> {
        nobody(to)
    }

    fn notify(&self, to: AgentId, _: &str, _: Bytes, _: CallOptions) -> BoxFuture<'static, Result<(), CallError>> {
        nobody(to)
    }

    fn register(&self, service: &str, handler: Arc<dyn Service>) -> Result<Registration, RegisterError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(service.to_owned(), handler);
        Ok(Registration::new(|| ()))
    }
}

/// A message with one field of bytes for each of `fields`.
pub fn message(fields: &[(u32, &[u8])]) -> Bytes {
    let mut out = Vec::new();
    for (tag, content) in fields {
        prost::encoding::encode_key(*tag, prost::encoding::WireType::LengthDelimited, &mut out);
        prost::encoding::encode_varint(content.len() as u64, &mut out);
        out.extend_from_slice(content);
    }
    out.into()
}
