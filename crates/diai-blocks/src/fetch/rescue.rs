//! What a fetch does when no peer has what it wants.

use std::{collections::BTreeMap, error::Error, fmt, sync::Arc, time::Duration};

use cid::Cid;
use diai_core::Instant;
use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll},
};

use super::{FetchError, dag::Scope, dag::Walk};
use crate::{
    BlockStore, RAW, ipld, sealed,
    store::{Key, Multihash},
};

/// Blocks that one fetch asks for at a time.
const AT_A_TIME: usize = 8;
/// What did not come is asked for again after so long.
const AGAIN: Duration = Duration::from_secs(30);

/// Whoever may have what no peer has: asked last. HTTP gateways, with the feature `gateway`.
pub trait LastResort: fmt::Debug + Send + Sync + 'static {
    /// How long a fetch waits for peers before. It does not wait when those asked do not have it, and the DHTs name nobody.
    fn patience(&self) -> Duration;

    /// Whether content that is known to be sealed is asked for too.
    fn sealed(&self) -> bool;

    /// Brings `cid`, and of a `whole` DAG all below it too, into `store`: what comes is checked, put there (by
    /// [`put_fetched`](BlockStore::put_fetched)), and told. The stream ends when no more comes.
    fn bring(&self, cid: Cid, whole: bool, store: BlockStore) -> BoxStream<'static, Result<Brought, BringError>>;
}

/// Why no more came.
pub type BringError = Box<dyn Error + Send + Sync>;

type Coming = Option<Result<Brought, BringError>>;

/// What has come into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Brought {
    /// Blocks.
    pub blocks: u64,
    /// Bytes of those.
    pub bytes: u64,
}

/// The last resort of one fetch.
pub(super) struct Rescue {
    resort: Arc<dyn LastResort>,
    coming: SelectAll<BoxStream<'static, Coming>>,
    under_way: usize,
    /// Whether that is a whole DAG: nothing else is asked for meanwhile, as it may be part of it.
    whole: bool,
    /// When what was asked for may be asked for again.
    again: BTreeMap<Multihash, Instant>,
    /// Since when nothing has come from a peer.
    since: Instant,
    next: Instant,
    root_known: bool,
    failure: Option<String>,
}

impl Rescue {
    pub(super) fn new(resort: Arc<dyn LastResort>, now: Instant) -> Self {
        let (coming, again) = (SelectAll::new(), BTreeMap::new());
        Self {
            resort,
            coming,
            under_way: 0,
            whole: false,
            again,
            since: now,
            next: now,
            root_known: false,
            failure: None,
        }
    }

    /// A peer has sent something.
    pub(super) fn delivered(&mut self, now: Instant) {
        self.since = now;
    }

    /// When it is to be asked. `in_vain` says that all peers were asked in vain.
    pub(super) fn due(&self, in_vain: bool) -> Instant {
        match in_vain {
            _ if self.whole || self.under_way >= AT_A_TIME => Instant::NEVER,
            true => self.next,
            false => self.next.max(self.since + self.resort.patience()),
        }
    }

    fn ask(&mut self, now: Instant, cids: impl Iterator<Item = Cid>, scope: Scope, store: &BlockStore) {
        self.again.retain(|_, again| *again > now);
        for cid in cids {
            if self.whole || self.under_way >= AT_A_TIME {
                break;
            }
            let whole = scope == Scope::Dag && ipld::has_links(cid.codec());
            if self.again.contains_key(cid.hash()) || whole && self.under_way > 0 {
                continue;
            }
            self.whole = whole;
            self.again.insert(*cid.hash(), now + AGAIN);
            self.under_way += 1;
            let coming = self.resort.bring(cid, whole, store.clone()).map(Some);
            self.coming.push(coming.chain(futures::stream::iter([None])).boxed());
        }
        self.next = now + AGAIN / 30;
    }

    /// What has come; `None` when one of those under way has ended, or failed. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Brought> {
        match self.coming.next().await {
            Some(Some(Ok(brought))) => return Some(brought),
            Some(Some(Err(error))) => self.failure = Some(error.to_string()),
            Some(None) => {
                self.under_way -= 1;
                self.whole = false;
                self.next = Instant::default();
            }
            None => return futures::future::pending().await,
        }
        None
    }

    /// What went wrong last.
    pub(super) fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }
}

impl Walk<'_> {
    /// Asks the last resort for what is wanted, if that is due.
    pub(super) async fn call_for_rescue(&mut self, in_vain: bool) -> Result<(), FetchError> {
        let (now, store) = (self.fetcher.world.clock.now(), &self.fetcher.store);
        let Some(rescue) = self.rescue.as_mut().filter(|rescue| rescue.due(in_vain) <= now) else { return Ok(()) };
        if !rescue.root_known && store.has(&self.root) {
            rescue.root_known = true;
            // What cannot be read is not known to be sealed.
            if !rescue.resort.sealed() && sealed::is_sealed(store, self.root).await.unwrap_or(false) {
                self.rescue = None;
                return Ok(());
            }
        }
        let missing = self.missing.keys().filter_map(|hash| self.wanted.get(hash));
        let wanted = missing.chain(self.wanted.values()).filter_map(|cids| cids.first().copied());
        rescue.ask(now, wanted, self.scope, store);
        Ok(())
    }

    /// Notes what the last resort has brought: the walk finds it here, and no peer is asked for it any more. Cancel-safe.
    pub(super) async fn rescued(&mut self, brought: Option<Brought>) -> Result<(), FetchError> {
        let Some(brought) = brought else { return Ok(()) };
        self.last_block = self.fetcher.world.clock.now();
        if let Some(rescue) = &mut self.rescue {
            rescue.next = self.last_block;
        }
        self.progress.blocks += brought.blocks;
        self.progress.bytes += brought.bytes;
        self.came_whole += brought.blocks;
        self.check_bytes()?;
        let store = &self.fetcher.store;
        let here: Vec<_> = self.wanted.keys().filter(|hash| store.has(&Cid::new_v1(RAW, **hash))).copied().collect();
        let mut unwanted = Vec::new();
        for hash in here {
            self.missing.remove(&hash);
            let cids = self.wanted.remove(&hash).unwrap_or_default();
            self.wanted_nodes -= cids.iter().filter(|cid| self.is_node(cid)).count();
            // A want goes by the hash, whichever of its CIDs it came with.
            unwanted.extend(cids.first());
            for cid in cids {
                // It was seen when it was wanted, and is to be visited now.
                self.seen.remove(&(cid.codec(), Key::from(cid.hash())));
                self.frontier.push(cid);
            }
        }
        self.tell();
        if let Some(session) = self.session.as_ref().filter(|_| !unwanted.is_empty()) {
            session.unwant(unwanted).await;
        }
        Ok(())
    }
}
