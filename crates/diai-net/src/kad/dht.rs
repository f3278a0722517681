use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
};

use diai_core::{
    BoxFuture, Bytes, Clock, Dht, DhtError, InvalidRecord, Multiaddr, PeerId, ProviderStream, RecordKey, RecordMeta,
    RecordValidator,
};
use futures::{FutureExt, StreamExt, stream, task::AtomicWaker};
use tokio::sync::{mpsc, oneshot};

use super::{
    query::{Found, Inbox, ProviderQuery},
    store::Kept,
};

/// Commands that may wait for the swarm; further callers wait.
const MAX_COMMANDS: usize = 256;
/// Records found that may wait to be looked at.
const MAX_FOUND: usize = 64;
/// So many devices with the same newest record end a lookup.
const AGREEING: usize = 3;

/// What the handles ask of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Put { kept: Kept, reply: oneshot::Sender<Result<(), DhtError>> },
    Get { key: Vec<u8>, found: mpsc::Sender<Found> },
    Closest { key: Vec<u8>, reply: oneshot::Sender<Result<Vec<PeerId>, DhtError>> },
    Provide { key: Vec<u8>, reply: oneshot::Sender<Result<(), DhtError>> },
    Providers(ProviderQuery),
    FindPeer { peer: PeerId, reply: oneshot::Sender<()> },
}

/// What the driver, the streams and the handles share.
pub(crate) struct DhtShared {
    /// `None` once the driver is gone.
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    validators: RwLock<BTreeMap<&'static str, Arc<dyn RecordValidator>>>,
    hints: Mutex<Hints>,
    server: AtomicBool,
    waker: AtomicWaker,
}

/// What the driver is told without waiting; each is held once.
#[derive(Default)]
struct Hints {
    /// Devices that serve the DHT and where, or `None` for those that are to leave the routing table.
    routes: BTreeMap<PeerId, Option<Vec<Multiaddr>>>,
    /// Keys that are provided no longer, unless they are provided again after that.
    withdrawn: BTreeSet<Vec<u8>>,
}

impl DhtShared {
    pub(crate) fn new() -> (Arc<Self>, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
        let shared = Self {
            commands: Mutex::new(Some(commands)),
            validators: RwLock::default(),
            hints: Mutex::default(),
            server: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        };
        (Arc::new(shared), receiver)
    }

    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    pub(crate) fn is_server(&self) -> bool {
        self.server.load(Ordering::Relaxed)
    }

    pub(crate) fn set_server(&self, server: bool) {
        self.server.store(server, Ordering::Relaxed);
    }

    fn hints(&self) -> MutexGuard<'_, Hints> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_routes(&self) -> BTreeMap<PeerId, Option<Vec<Multiaddr>>> {
        std::mem::take(&mut self.hints().routes)
    }

    pub(crate) fn take_withdrawn(&self) -> BTreeSet<Vec<u8>> {
        std::mem::take(&mut self.hints().withdrawn)
    }

    /// A hello is over: what waited for it may go on.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// A device that serves the DHT showed itself.
    pub(crate) fn route(&self, peer: PeerId, addrs: Vec<Multiaddr>) {
        self.hints().routes.insert(peer, Some(addrs));
        self.waker.wake();
    }

    /// A device is cut off.
    pub(crate) fn forget(&self, peer: PeerId) {
        self.hints().routes.insert(peer, None);
        self.waker.wake();
    }

    pub(crate) fn close(&self) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn is_closed(&self) -> bool {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    async fn send(&self, command: Command) -> Result<(), DhtError> {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner).clone();
        commands.ok_or(DhtError::Closed)?.send(command).await.map_err(|_| DhtError::Closed)
    }

    /// Looks for `peer`, which connects to it on the way if it is found.
    pub(crate) async fn find_peer(&self, peer: PeerId) {
        let (reply, told) = oneshot::channel();
        if self.send(Command::FindPeer { peer, reply }).await.is_ok() {
            // However it ended, what was found is in the address book.
            let _ = told.await;
        }
    }

    /// The validator for `key`.
    pub(crate) fn validator(&self, key: &RecordKey) -> Option<Arc<dyn RecordValidator>> {
        let validators = self.validators.read().unwrap_or_else(PoisonError::into_inner);
        validators.get(key.namespace()?).cloned()
    }

    fn validator_or_error(&self, key: &RecordKey) -> Result<Arc<dyn RecordValidator>, DhtError> {
        self.validator(key).ok_or_else(|| {
            let namespace = key.namespace().unwrap_or_default();
            DhtError::Invalid(InvalidRecord::blameless(format!("no validator is registered for /{namespace}/")))
        })
    }
}

/// The World's DHT.
#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) shared: Arc<DhtShared>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) max_value_bytes: usize,
}

impl Table {
    async fn do_put(self, key: RecordKey, value: Bytes) -> Result<(), DhtError> {
        let meta = self.shared.validator_or_error(&key)?.validate(&key, &value, self.clock.wall())?;
        if value.len() > self.max_value_bytes {
            let reason = format!("{} bytes, at most {} are held", value.len(), self.max_value_bytes);
            return Err(DhtError::Invalid(InvalidRecord::blameless(reason)));
        }
        let (reply, told) = oneshot::channel();
        let kept = Kept { key: key.as_bytes().to_vec(), value: value.to_vec(), meta, own: true };
        self.shared.send(Command::Put { kept, reply }).await?;
        told.await.unwrap_or(Err(DhtError::Closed))
    }

    async fn do_get(self, key: RecordKey) -> Result<Option<Bytes>, DhtError> {
        let validator = self.shared.validator_or_error(&key)?;
        let (sender, mut found) = mpsc::channel(MAX_FOUND);
        self.shared.send(Command::Get { key: key.as_bytes().to_vec(), found: sender }).await?;
        let mut newest = Newest::default();
        while let Some(Found { from, value }) = found.recv().await {
            let Some(value) = value else {
                return if newest.best.is_some() { Ok(newest.value()) } else { Err(DhtError::Timeout) };
            };
            if newest.add(from, value, |value| validator.validate(&key, value, self.clock.wall()).ok()) >= AGREEING {
                break;
            }
        }
        // The lookup of a driver that is gone ends as well.
        if newest.best.is_none() && self.shared.is_closed() { Err(DhtError::Closed) } else { Ok(newest.value()) }
    }
}

/// The newest of the records found.
#[derive(Default)]
struct Newest {
    best: Option<(u64, Vec<u8>)>,
    /// Devices that named it.
    agreeing: usize,
}

impl Newest {
    /// Takes a record in; how many devices named the newest so far.
    fn add(
        &mut self,
        from: Option<PeerId>,
        value: Vec<u8>,
        validate: impl FnOnce(&[u8]) -> Option<RecordMeta>,
    ) -> usize {
        let vote = usize::from(from.is_some());
        match &self.best {
            Some((_, best)) if *best == value => self.agreeing += vote,
            best => {
                // Of two with one number the greater bytes, as the stores choose.
                if let Some(meta) = validate(&value)
                    && best.as_ref().is_none_or(|(seq, best)| (meta.seq, &value) > (*seq, best))
                {
                    (self.best, self.agreeing) = (Some((meta.seq, value)), vote);
                }
            }
        }
        self.agreeing
    }

    fn value(self) -> Option<Bytes> {
        self.best.map(|(_, value)| value.into())
    }
}

impl Dht for Table {
    fn closest(&self, key: RecordKey) -> BoxFuture<'static, Result<Vec<PeerId>, DhtError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let (reply, told) = oneshot::channel();
            shared.send(Command::Closest { key: key.as_bytes().to_vec(), reply }).await?;
            told.await.unwrap_or(Err(DhtError::Closed))
        })
    }

    fn put(&self, key: RecordKey, value: Bytes) -> BoxFuture<'static, Result<(), DhtError>> {
        Box::pin(self.clone().do_put(key, value))
    }

    fn get(&self, key: RecordKey) -> BoxFuture<'static, Result<Option<Bytes>, DhtError>> {
        Box::pin(self.clone().do_get(key))
    }

    fn provide(&self, key: RecordKey) -> BoxFuture<'static, Result<(), DhtError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let (reply, told) = oneshot::channel();
            shared.hints().withdrawn.remove(key.as_bytes());
            shared.send(Command::Provide { key: key.as_bytes().to_vec(), reply }).await?;
            told.await.unwrap_or(Err(DhtError::Closed))
        })
    }

    fn stop_providing(&self, key: &RecordKey) {
        self.shared.hints().withdrawn.insert(key.as_bytes().to_vec());
        self.shared.waker.wake();
    }

    fn providers(&self, key: RecordKey) -> ProviderStream {
        let shared = Arc::clone(&self.shared);
        let lookup = async move {
            let inbox = Arc::new(Inbox::default());
            let query = ProviderQuery::new(key.as_bytes().to_vec(), Arc::clone(&inbox));
            match shared.send(Command::Providers(query)).await {
                Ok(()) => stream::poll_fn(move |cx| inbox.poll(cx)).boxed(),
                Err(error) => stream::once(std::future::ready(Err(error))).boxed(),
            }
        };
        lookup.flatten_stream().boxed()
    }

    fn register_validator(&self, namespace: &'static str, validator: Arc<dyn RecordValidator>) {
        self.shared.validators.write().unwrap_or_else(PoisonError::into_inner).insert(namespace, validator);
    }
}

/// What an inbox yields.
pub(crate) type Batch = Poll<Option<Result<Vec<PeerId>, DhtError>>>;
