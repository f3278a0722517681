use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use diai_core::PeerId;

/// Senders that are told apart, each by each way; what others send is in no account.
const MAX_SENDERS: usize = 1024;

/// By what way a block came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Via {
    /// By [`bitswap`](crate::bitswap), as it was asked for.
    Bitswap,
    /// By [`dag`](crate::dag), as a part of a whole.
    WholeDag,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bitswap => "bitswap",
            Self::WholeDag => "dag",
        })
    }
}

/// What one peer sent by one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SentBy {
    /// Who.
    pub peer: PeerId,
    /// How.
    pub via: Via,
    /// Blocks that were not here.
    pub blocks: u64,
    /// Bytes of those.
    pub bytes: u64,
}

/// Who sent what. Cheap to clone; a clone is the same account, and several fetches may share one. At most 1,024 entries.
///
/// ```
/// use diai_blocks::FetchOptions;
///
/// let options = FetchOptions::default();
/// // blocks.fetch(root, &options).await
/// for sent in options.account.senders() {
///     println!("{}: {} blocks by {}", sent.peer, sent.blocks, sent.via);
/// }
/// ```
#[derive(Clone, Default)]
pub struct FetchAccount(Arc<Mutex<Entries>>);

/// Blocks and bytes.
type Entries = BTreeMap<(PeerId, Via), (u64, u64)>;

impl fmt::Debug for FetchAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FetchAccount").field(&self.senders()).finish()
    }
}

impl FetchAccount {
    /// All entries, by peer.
    pub fn senders(&self) -> Vec<SentBy> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .iter()
            .map(|((peer, via), (blocks, bytes))| SentBy { peer: *peer, via: *via, blocks: *blocks, bytes: *bytes })
            .collect()
    }

    /// A block of so many bytes came.
    pub(crate) fn note(&self, peer: PeerId, via: Via, bytes: u64) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() < MAX_SENDERS || entries.contains_key(&(peer, via)) {
            let entry = entries.entry((peer, via)).or_default();
            *entry = (entry.0 + 1, entry.1 + bytes);
        }
    }
}
