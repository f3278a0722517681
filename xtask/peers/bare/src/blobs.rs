//! iroh-blobs 0.104 over iroh: no relay, no lookup, an address on loopback.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use iroh::{
    Endpoint, EndpointAddr, RelayMode,
    endpoint::{Connection, PortmapperConfig, presets},
    protocol::Router,
};
use iroh_blobs::{
    ALPN, BlobFormat, BlobsProtocol, HashAndFormat, format::collection::Collection, hashseq::HashSeq,
    store::fs::FsStore,
};
use serde_json::json;

use crate::Outcome;

async fn endpoint() -> Outcome<Endpoint> {
    let builder = Endpoint::builder(presets::Minimal).relay_mode(RelayMode::Disabled).clear_address_lookup();
    let builder = builder.portmapper_config(PortmapperConfig::Disabled).clear_ip_transports();
    Ok(builder.bind_addr("127.0.0.1:0")?.bind().await?)
}

pub(crate) async fn serve(path: &Path, store: &Path) -> Outcome {
    let store = FsStore::load(store).await?;
    let began = Instant::now();
    let content = if path.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        let batch = store.blobs().batch().await?;
        let (mut items, mut tags) = (Vec::new(), Vec::new());
        for entry in entries {
            let tag = batch.add_bytes(fs::read(entry.path())?).await?;
            items.push((entry.file_name().to_string_lossy().into_owned(), tag.hash()));
            tags.push(tag);
        }
        let collection = Collection::from_iter(items).store(&store).await?;
        store.tags().create(collection.hash_and_format()).await?;
        HashAndFormat::new(collection.hash(), BlobFormat::HashSeq)
    } else {
        HashAndFormat::new(store.blobs().add_path(std::path::absolute(path)?).await?.hash, BlobFormat::Raw)
    };
    let seconds = began.elapsed().as_secs_f64();
    let endpoint = endpoint().await?;
    let (peer, addr) = (endpoint.id(), endpoint.bound_sockets()[0]);
    let _router = Router::builder(endpoint).accept(ALPN, BlobsProtocol::new(&store, None)).spawn();
    println!("{}", json!({ "peer": peer.to_string(), "addr": addr, "hash": content.to_string(), "seconds": seconds }));
    tokio::signal::ctrl_c().await?;
    Ok(())
}

async fn connect(peer: &str, addr: SocketAddr) -> Outcome<(Endpoint, Connection)> {
    let endpoint = endpoint().await?;
    let connection = endpoint.connect(EndpointAddr::new(peer.parse()?).with_ip_addr(addr), ALPN).await?;
    Ok((endpoint, connection))
}

pub(crate) async fn fetch(peer: &str, addr: SocketAddr, hash: &str, store: &Path) -> Outcome {
    let store = FsStore::load(store).await?;
    let (_endpoint, connection) = connect(peer, addr).await?;
    let began = Instant::now();
    store.remote().fetch(connection, hash.parse::<HashAndFormat>()?).complete().await?;
    // Its store commits in its own time; this makes what came durable, as the others' is.
    store.sync_db().await?;
    println!("{}", json!({ "seconds": began.elapsed().as_secs_f64() }));
    store.shutdown().await?;
    Ok(())
}

pub(crate) async fn each(peer: &str, addr: SocketAddr, hash: &str, store: &Path) -> Outcome {
    let store = FsStore::load(store).await?;
    let (_endpoint, connection) = connect(peer, addr).await?;
    let root = hash.parse::<HashAndFormat>()?.hash;
    store.remote().fetch(connection.clone(), root).complete().await?;
    let listed = HashSeq::try_from(store.blobs().get_bytes(root).await?)?;
    let mut took: Vec<Duration> = Vec::new();
    // The first is the list of names.
    for hash in listed.into_iter().skip(1) {
        let began = Instant::now();
        store.remote().fetch(connection.clone(), hash).complete().await?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    println!("{}", json!({ "seconds": took[took.len() / 2].as_secs_f64() }));
    store.shutdown().await?;
    Ok(())
}
