//! A writer of the sealed format that shares nothing with the crate's own, from `docs/sealed.md` alone, for content of any
//! shape; and a desk to seal and open at.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test uses its part")]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, aead::Aead};
use diai_blocks::{
    Block, BlockSource, BlockStore, Cid, MemoryStore, RAW, SourceError,
    dag_pb::Link,
    sealed::{self, Keying, Keys, OpenError, SealOptions, Sealed, SealedReader, Source},
    unixfs::{self, ImportOptions, Profile},
};
use diai_core::{
    BoxFuture, Entropy, WallTime, World,
    memory::{AgentSpec, Sim},
};
use diai_identity::{EncryptionKey, Identity};
use hkdf::Hkdf;
use sha2::Sha256;

/// Root seed `number`, device seed `number + 1`, X25519 secret `number + 2`, 32 times each.
pub fn identity(number: u8) -> Identity {
    Identity::generate(&Counting(Mutex::new(number)), WallTime::from_unix_ms(1_767_225_600_000))
}

/// Fills every buffer with the next number.
pub struct Counting(pub Mutex<u8>);

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        let mut next = self.0.lock().unwrap();
        buffer.fill(*next);
        *next = next.wrapping_add(1);
    }
}

/// A store, a World to seal in, and who does it.
pub struct Desk {
    pub world: World,
    pub store: BlockStore,
    pub identity: Identity,
}

impl Desk {
    /// In a World of its own, whose randomness counts from `first` on.
    pub fn new(sim: &Sim, number: u8, first: u8) -> Self {
        let world = sim.join(AgentSpec::example(number));
        let world = World { entropy: Arc::new(Counting(Mutex::new(first))), ..world };
        let store = BlockStore::new(Arc::new(MemoryStore::new(1 << 30)), world.offload.clone());
        Self { world, store, identity: identity(number) }
    }

    pub async fn seal(&self, files: &[(&str, Bytes)], options: &SealOptions) -> Sealed {
        sealed::seal(&self.world, &self.store, &self.identity, source(files), options).await.unwrap()
    }

    pub async fn reseal(&self, previous: Cid, files: Option<&[(&str, Bytes)]>, options: &SealOptions) -> Sealed {
        let keys = &self.identity;
        sealed::reseal(&self.world, &self.store, keys, previous, files.map(source), options).await.unwrap()
    }

    pub async fn open(&self, keys: impl Into<Keys>, root: Cid) -> Result<SealedReader<'_>, OpenError> {
        sealed::open(&self.store, keys, root).await
    }

    /// All files, opened by whoever has `keys`.
    pub async fn files(&self, keys: impl Into<Keys>, root: Cid) -> Result<Vec<(String, Bytes)>, OpenError> {
        sealed::open(&self.store, keys, root).await?.read_all(1 << 30).await
    }

    /// Puts the folder of `links`.
    pub async fn folder(&self, links: &[(&str, Cid)]) -> Cid {
        let link = |(name, cid): &(&str, Cid)| Link { cid: *cid, name: (*name).to_owned(), tsize: 1 };
        let folder = unixfs::build_folder(links.iter().map(link).collect(), &Profile::UNIXFS_V1_2025).unwrap();
        self.store.put_many(folder.blocks).await.unwrap();
        folder.root
    }

    pub async fn raw(&self, data: impl Into<Bytes>) -> Cid {
        let block = Block::new(RAW, data).unwrap();
        let cid = block.cid;
        self.store.put(block).await.unwrap();
        cid
    }

    pub async fn child(&self, root: Cid, name: &str) -> Cid {
        unixfs::lookup(&self.store, root, name).await.unwrap().cid
    }

    /// The sealed chunks of `root`.
    pub async fn chunks_of(&self, root: Cid) -> Vec<Bytes> {
        let content = self.child(root, "content").await;
        let all = unixfs::read_all(&self.store, content, 1 << 30).await.unwrap();
        all.chunks(1 << 20).map(Bytes::copy_from_slice).collect()
    }

    /// A root of these sealed chunks, granted to this desk's identity as `key`.
    pub async fn root_of(&self, chunks: &[Bytes], key: &[u8; 32]) -> Cid {
        let content =
            unixfs::import_reader(&self.store, &chunks.concat()[..], &ImportOptions::default()).await.unwrap();
        let grants = grants(&[grant(&self.identity, &content.root(), key)]);
        self.folder(&[("content", content.root()), ("grants", self.raw(grants).await)]).await
    }

    /// A root of nothing new that refers to these older contents.
    pub async fn root_of_older(&self, older: &[(Cid, [u8; 32])], key: &[u8; 32]) -> Cid {
        let mut plain = head(&manifest_of_older(older));
        plain.resize(padme(plain.len()), 0);
        let root = self.root_of_plain(&plain, key).await;
        let (content, grants) = (self.child(root, "content").await, self.child(root, "grants").await);
        let names: Vec<_> = (0..older.len()).map(|number| format!("older-{number:02}")).collect();
        let links = names.iter().map(String::as_str).zip(older.iter().map(|(cid, _)| *cid));
        self.folder(&[("content", content), ("grants", grants)].into_iter().chain(links).collect::<Vec<_>>()).await
    }

    /// A root whose plaintext is `plain`, whatever that is.
    pub async fn root_of_plain(&self, plain: &[u8], key: &[u8; 32]) -> Cid {
        self.root_of(&seal_chunks(key, plain), key).await
    }
}

pub fn source(files: &[(&str, Bytes)]) -> Source {
    Source::Files(owned(files))
}

pub fn owned(files: &[(&str, Bytes)]) -> Vec<(String, Bytes)> {
    files.iter().map(|(path, data)| ((*path).to_owned(), data.clone())).collect()
}

pub fn convergent(salt: sealed::Salt) -> SealOptions {
    SealOptions { keying: Keying::Convergent(salt), ..SealOptions::default() }
}

pub fn grants(grants: &[Vec<u8>]) -> Vec<u8> {
    [b"diai/sealed/2\n".to_vec(), grants.concat()].concat()
}

pub fn grant(reader: &Identity, content: &Cid, key: &[u8; 32]) -> Vec<u8> {
    let info = [&b"diai/sealed-grant/2"[..], reader.agent().as_bytes(), &content.to_bytes()].concat();
    let key_of: EncryptionKey = reader.encryption_key();
    key_of.seal(&Counting(Mutex::new(77)), &info, key)
}

pub fn seal_chunks(key: &[u8; 32], plain: &[u8]) -> Vec<Bytes> {
    let pieces: Vec<&[u8]> = plain.chunks((1 << 20) - 48).collect();
    let count = pieces.len() as u64;
    pieces.iter().enumerate().map(|(index, piece)| seal_chunk(key, index as u64, count, piece)).collect()
}

pub fn seal_chunk(key: &[u8; 32], index: u64, count: u64, plain: &[u8]) -> Bytes {
    let info = [b"diai/sealed-chunk/2", &index.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let mut derived = [0; 64];
    Hkdf::<Sha256>::new(Some(b"diai/sealed-content/2"), key).expand(&info, &mut derived).unwrap();
    let cipher = ChaCha20Poly1305::new_from_slice(&derived[..32]).unwrap();
    let mut sealed = cipher.encrypt(&Nonce::default(), plain).unwrap();
    sealed.extend_from_slice(&derived[32..]);
    sealed.into()
}

pub fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2];
    varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

pub fn number(tag: u8, value: u64) -> Vec<u8> {
    let mut out = vec![tag << 3];
    varint(value, &mut out);
    out
}

/// A manifest of files, one extent each if they are not empty: path, place, bytes. As all writers of protobuf do, it leaves
/// out zeros.
pub fn manifest(files: &[(&str, u64, u64)]) -> Vec<u8> {
    let entries = files.iter().flat_map(|(path, _, bytes)| {
        let extents = if *bytes > 0 { number(3, 1) } else { Vec::new() };
        field(2, &[field(1, path.as_bytes()), extents].concat())
    });
    let extents = files.iter().filter(|(.., bytes)| *bytes > 0).flat_map(|(_, at, bytes)| {
        let at = if *at > 0 { number(2, *at) } else { Vec::new() };
        field(3, &[at, number(3, *bytes)].concat())
    });
    entries.chain(extents).collect()
}

/// A manifest of the single file `a`, whose first byte is in each of these older contents of 1,024 bytes.
pub fn manifest_of_older(older: &[(Cid, [u8; 32])]) -> Vec<u8> {
    let entry = [field(1, b"a"), number(3, older.len() as u64)].concat();
    let extents = (1..=older.len() as u64).flat_map(|part| field(3, &[number(1, part), number(3, 1)].concat()));
    let older = older.iter().flat_map(|(cid, key)| {
        field(4, &[field(1, &cid.to_bytes()), field(2, key), number(3, 1024), number(4, 512)].concat())
    });
    field(2, &entry).into_iter().chain(extents).chain(older).collect()
}

pub fn head(manifest: &[u8]) -> Vec<u8> {
    let mut head = (manifest.len() as u32).to_le_bytes().to_vec();
    head.extend_from_slice(manifest);
    head.resize(head.len().div_ceil(512) * 512, 0);
    head
}

/// Padmé, as its paper has it.
pub fn padme(length: usize) -> usize {
    if length <= 1024 {
        return 1024;
    }
    let exponent = length.ilog2();
    let last = exponent - (exponent.ilog2() + 1);
    length.div_ceil(1 << last) << last
}

pub fn plain(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut at = 0;
    let mut places = Vec::new();
    for (path, data) in files {
        places.push((*path, at, data.len() as u64));
        at += data.len() as u64;
    }
    let mut plain = head(&manifest(&places));
    files.iter().for_each(|(_, data)| plain.extend_from_slice(data));
    plain.resize(padme(plain.len()), 0);
    plain
}

/// A source that remembers what it was asked for.
pub struct Watched<'a> {
    pub store: &'a BlockStore,
    pub asked: Mutex<BTreeSet<Cid>>,
    pub times: Mutex<usize>,
}

impl<'a> Watched<'a> {
    pub fn new(store: &'a BlockStore) -> Self {
        Self { store, asked: Mutex::default(), times: Mutex::default() }
    }

    /// How many blocks, and forgets them.
    pub fn blocks(&self) -> usize {
        std::mem::take(&mut *self.asked.lock().unwrap()).len()
    }

    /// How often it was asked, for the same or other blocks.
    pub fn times(&self) -> usize {
        *self.times.lock().unwrap()
    }
}

impl BlockSource for Watched<'_> {
    fn block(&self, cid: Cid) -> BoxFuture<'_, Result<Bytes, SourceError>> {
        self.asked.lock().unwrap().insert(cid);
        *self.times.lock().unwrap() += 1;
        self.store.block(cid)
    }
}
