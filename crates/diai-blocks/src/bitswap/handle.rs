//! The handles to the exchange.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use cid::Cid;
use diai_core::{AcceptError, AcceptOptions, PeerId, World};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
};

use super::{client::ClientInput, message::Version, shell::Loop, streams::Tools};
use crate::{
    Block, BlockStore,
    config::{ClientConfig, ServerConfig},
};

/// Commands and reports that may wait for the loop.
const QUEUE: usize = 256;
/// Deliveries and notices that may wait for a session; it asks for less at a time.
const SESSION_QUEUE: usize = 4096;

/// What a [`Session`] gets.
#[derive(Debug)]
#[non_exhaustive]
pub enum Delivery {
    /// A block that was asked for, verified.
    Block {
        /// The block.
        block: Block,
        /// Who sent it.
        peer: PeerId,
        /// Counts against [`ClientConfig::max_received_bytes`] until dropped.
        #[doc(hidden)]
        permit: Option<Arc<OwnedSemaphorePermit>>,
    },
    /// Nobody who is connected has this block. It stays wanted.
    Exhausted {
        /// Which block.
        cid: Cid,
        /// Who was asked.
        asked: Vec<PeerId>,
    },
}

#[derive(Debug)]
pub(super) enum Command {
    Open { session: u64, deliveries: mpsc::Sender<Delivery> },
    Client(ClientInput),
    Added(Vec<Cid>),
    Asked { cid: Cid, reply: oneshot::Sender<Vec<PeerId>> },
    Status(oneshot::Sender<BitswapStatus>),
    Stop,
}

/// Figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BitswapStatus {
    /// Blocks wanted now.
    pub wants: usize,
    /// Blocks that came though they had come before.
    pub duplicates: u64,
    /// Blocks that were asked of a second peer because the first was silent for long.
    pub hedges: u64,
    /// Those of them that the second sent first.
    pub hedges_won: u64,
    /// Wants that were not sent to a peer that had just said no to them.
    pub wants_spared: u64,
    /// Peers that want something of us.
    pub clients: usize,
    /// Blocks received that were wanted.
    pub blocks_received: u64,
    /// Bytes of those.
    pub bytes_received: u64,
    /// Blocks sent.
    pub blocks_sent: u64,
    /// Bytes of those.
    pub bytes_sent: u64,
}

/// The exchange of blocks with other peers. Cheap to clone; its tasks end with the last clone.
#[derive(Clone)]
pub struct Bitswap(Arc<Inner>);

struct Inner {
    commands: mpsc::Sender<Command>,
    next_session: AtomicU64,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Bitswap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bitswap")
    }
}

impl Bitswap {
    /// Serves the blocks of `store` to everybody, at once when they are put, and asks for blocks in the name of sessions.
    pub fn start(
        world: &World,
        store: BlockStore,
        client: ClientConfig,
        server: ServerConfig,
    ) -> Result<Self, AcceptError> {
        let options = AcceptOptions { max_per_peer: server.max_streams_per_peer, max_waiting: 512, uncertified: true };
        let incoming = world.network.accept(&Version::PROTOCOLS, options)?;
        let (commands, from_handles) = mpsc::channel(QUEUE);
        let (reports, from_tasks) = mpsc::channel(QUEUE);
        let added = commands.clone();
        store.observe(move |cids| {
            let added = added.clone();
            Box::pin(async move {
                // After shutdown nobody waits any more.
                let _ = added.send(Command::Added(cids)).await;
            })
        });
        let received_bytes = client.max_received_bytes.clamp(super::MAX_MESSAGE_BYTES, 1 << 30);
        let reading_bytes = server.max_reading_bytes.clamp(4 * super::MAX_MESSAGE_BYTES, 1 << 30);
        let tools = Tools {
            world: world.clone(),
            store,
            rule: server.rule.clone(),
            reports,
            received: Arc::new(Semaphore::new(received_bytes)),
            received_bytes,
            reading: Arc::new(Semaphore::new(reading_bytes)),
        };
        let events = world.network.events();
        let mut shell = Loop::new(tools, client, server, reading_bytes / 4);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { shell.run(incoming, events, from_handles, from_tasks).await });
        let inner = Inner { commands, next_session: AtomicU64::new(1), tasks: Mutex::new(tasks) };
        Ok(Self(Arc::new(inner)))
    }

    /// A session: wants that belong together, so that who delivered one is asked for the next.
    ///
    /// Cancel-safe.
    pub async fn session(&self) -> Session {
        let session = self.0.next_session.fetch_add(1, Ordering::Relaxed);
        let (sender, deliveries) = mpsc::channel(SESSION_QUEUE);
        // After shutdown the sender is dropped with the command, and the session ends at once.
        let _ = self.0.commands.send(Command::Open { session, deliveries: sender }).await;
        Session { session, commands: self.0.commands.clone(), deliveries }
    }

    /// Who was asked for `cid`, which is wanted now, and has not delivered. Cancel-safe.
    pub async fn asked(&self, cid: Cid) -> Vec<PeerId> {
        let (reply, asked) = oneshot::channel();
        let _ = self.0.commands.send(Command::Asked { cid, reply }).await;
        asked.await.unwrap_or_default()
    }

    /// Figures; zeros after shutdown. Cancel-safe.
    pub async fn status(&self) -> BitswapStatus {
        let (sender, status) = oneshot::channel();
        let _ = self.0.commands.send(Command::Status(sender)).await;
        status.await.unwrap_or_default()
    }

    /// Stops serving and asking; all tasks have ended when it returns.
    pub async fn stop(&self) {
        // If the queue is closed the loop has ended already.
        let _ = self.0.commands.send(Command::Stop).await;
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
    }
}

/// Wants that belong together. Dropping it ends them.
pub struct Session {
    session: u64,
    commands: mpsc::Sender<Command>,
    deliveries: mpsc::Receiver<Delivery>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("session", &self.session).finish_non_exhaustive()
    }
}

impl Session {
    /// Asks for blocks. Keep the open wants of a session to at most 1,024. Cancel-safe.
    pub async fn want(&self, cids: Vec<Cid>) {
        self.send(ClientInput::Want { session: self.session, cids }).await;
    }

    /// Asks for these no longer: they came by another way. Cancel-safe.
    pub(crate) async fn unwant(&self, cids: Vec<Cid>) {
        self.send(ClientInput::Unwant { session: self.session, cids }).await;
    }

    /// Names peers that are likely to hold what is wanted; they are dialled when asked. Cancel-safe.
    pub async fn holders(&self, peers: Vec<PeerId>) {
        self.send(ClientInput::Holders { session: self.session, peers }).await;
    }

    async fn send(&self, input: ClientInput) {
        // After shutdown `next` says so.
        let _ = self.commands.send(Command::Client(input)).await;
    }

    /// The next block, or notice that nobody has one; `None` after shutdown. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.deliveries.recv().await
    }

    /// What has come already, without waiting.
    pub fn try_next(&mut self) -> Option<Delivery> {
        self.deliveries.try_recv().ok()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // If the queue is full the loop finds the closed channel.
        let _ = self.commands.try_send(Command::Client(ClientInput::End(self.session)));
    }
}
