use cid::Cid;
use diai_core::{AgentId, World, offload};
use diai_identity::{Certificate, EncryptionKey, Identity};

use super::{
    CONTENT, GRANTS, Group, Keying, MAX_GRANTS, MAX_MANIFEST_BYTES, Manifest, ManifestEntry, SealError, Source,
    grants::{self, Reader},
    keys::ContentKey,
    manifest::Extent,
    plan::{Planned, plan},
    stream::{self, Piece, Plain},
};
use crate::{
    BlockStore, Guard,
    dag_pb::Link,
    unixfs::{self, ImportError, Profile},
};

/// For whom to seal, and how.
#[derive(Debug, Clone, Default)]
pub struct SealOptions {
    /// Agents that can open it, beside the one that seals.
    pub recipients: Vec<Certificate>,
    /// Groups whose members can open it: those who have the key of its current epoch.
    pub groups: Vec<Group>,
    /// Where the key comes from. Default random.
    pub keying: Keying,
}

impl SealOptions {
    /// For `recipients`, under a random key.
    pub fn readers(recipients: Vec<Certificate>) -> Self {
        Self { recipients, ..Self::default() }
    }
}

/// What was sealed. Keep it until its root is pinned: while it lives, its blocks are not collected.
#[derive(Debug)]
#[non_exhaustive]
pub struct Sealed {
    /// The CID that opens it.
    pub root: Cid,
    /// Bytes of all blocks, for the link of a folder around it.
    pub tsize: u64,
    /// What it holds.
    pub manifest: Manifest,
    /// Bytes of content that were sealed before and are only referred to.
    pub reused_bytes: u64,
    _guard: Guard,
}

/// Seals `source` for the readers of `options` and for `identity` itself. Readable when it returns, durable after
/// [`BlockStore::flush`]. Memory: some chunks of 1 MiB, and the manifest; if convergent, 32 bytes for each chunk, and the
/// source is read twice.
///
/// Cancel-safety: dropping the future stops it; blocks put until then are garbage.
pub async fn seal(
    world: &World,
    store: &BlockStore,
    identity: &Identity,
    source: Source,
    options: &SealOptions,
) -> Result<Sealed, SealError> {
    let readers = readers(world, identity, options)?;
    seal_new(world, store, source, &readers, &options.keying).await
}

/// The same for keys whose certificates the caller has judged.
pub(crate) async fn seal_to(
    world: &World,
    store: &BlockStore,
    identity: &Identity,
    source: Source,
    recipients: Vec<(AgentId, EncryptionKey)>,
) -> Result<Sealed, SealError> {
    let recipients = recipients.into_iter().map(|(agent, key)| Reader::agent(agent, key));
    let readers = distinct(identity, recipients)?;
    seal_new(world, store, source, &readers, &Keying::Random).await
}

async fn seal_new(
    world: &World,
    store: &BlockStore,
    source: Source,
    readers: &[Reader],
    keying: &Keying,
) -> Result<Sealed, SealError> {
    let planned = offload(&*world.offload, move || plan(source)).await.map_err(|_| SealError::Closed)??;
    let draft = Draft::whole(planned);
    draft.seal(world, store, readers, keying, store.guard()).await
}

/// This agent's key and those of `options`, each once.
pub(super) fn readers(world: &World, identity: &Identity, options: &SealOptions) -> Result<Vec<Reader>, SealError> {
    for certificate in &options.recipients {
        let agent = certificate.agent();
        certificate.verify(world.clock.wall()).map_err(|reason| SealError::Recipient { agent, reason })?;
    }
    let agents = options.recipients.iter();
    let agents = agents.map(|reader| Reader::agent(reader.agent(), reader.encryption_key()));
    distinct(identity, agents.chain(options.groups.iter().map(Group::reader)))
}

fn distinct(identity: &Identity, others: impl Iterator<Item = Reader>) -> Result<Vec<Reader>, SealError> {
    let mut readers = vec![Reader::agent(identity.agent(), identity.encryption_key())];
    for reader in others {
        if !readers.iter().any(|known| known.is(&reader)) {
            readers.push(reader);
        }
    }
    if readers.len() > MAX_GRANTS {
        return Err(SealError::TooManyRecipients { recipients: readers.len(), limit: MAX_GRANTS });
    }
    Ok(readers)
}

/// A manifest whose new contents are known but not sealed.
pub(super) struct Draft {
    /// Its time is set when it is sealed.
    pub(super) manifest: Manifest,
    /// What is to be sealed, in the order of the extents of part zero.
    pub(super) pieces: Vec<Piece>,
    /// Bytes of all blocks of each older content.
    pub(super) older_tsizes: Vec<u64>,
}

impl Draft {
    /// All of it new.
    fn whole(planned: Vec<Planned>) -> Self {
        let (mut entries, mut pieces, mut at) = (Vec::new(), Vec::new(), 0u64);
        for Planned { path, folder, content } in planned {
            let bytes = content.bytes();
            let mut extents = Vec::new();
            if bytes > 0 {
                extents.push(Extent { part: 0, at, bytes });
                pieces.push(Piece { content, at: 0, bytes });
            }
            at = at.saturating_add(bytes);
            entries.push(ManifestEntry { path, bytes, folder, extents });
        }
        let manifest = Manifest { sealed_at: diai_core::WallTime::default(), entries, older: Vec::new() };
        Self { manifest, pieces, older_tsizes: Vec::new() }
    }

    pub(super) async fn seal(
        self,
        world: &World,
        store: &BlockStore,
        readers: &[Reader],
        keying: &Keying,
        guard: Guard,
    ) -> Result<Sealed, SealError> {
        let Self { mut manifest, pieces, older_tsizes } = self;
        if matches!(keying, Keying::Random) {
            manifest.sealed_at = world.clock.wall();
        }
        let head = manifest.head().ok_or(SealError::ManifestTooLarge { limit: MAX_MANIFEST_BYTES })?;
        let plain_bytes = manifest.plain_bytes(head.len() as u64);
        let plain = Plain::new(head, pieces, plain_bytes);
        let pool = &world.offload;
        let (key, hashes) = match keying {
            Keying::Random => (ContentKey::random(&*world.entropy), None),
            Keying::Convergent(salt) => {
                let (key, hashes) = stream::convergent_key(pool, salt, &plain).await?;
                (key, Some(hashes))
            }
        };
        let content = stream::import(store, pool, plain, &key, hashes).await?;
        let grants =
            grants::make(&*world.entropy, keying, readers, &content.root(), &key).map_err(ImportError::from)?;
        let link = |cid, name: &str, tsize| Link { cid, name: name.to_owned(), tsize };
        let mut links =
            vec![link(content.root(), CONTENT, content.tsize()), link(grants.cid, GRANTS, grants.data.len() as u64)];
        for (number, (older, tsize)) in manifest.older.iter().zip(older_tsizes).enumerate() {
            links.push(link(older.cid, &super::open::older_name(number), tsize));
        }
        let folder = unixfs::build_folder(links, &Profile::UNIXFS_V1_2025)?;
        let blocks = [grants].into_iter().chain(folder.blocks).collect();
        store.put_many(blocks).await?;
        let reused_bytes = manifest.content_bytes() - manifest.bytes_in(0);
        Ok(Sealed { root: folder.root, tsize: folder.tsize, manifest, reused_bytes, _guard: guard })
    }
}
