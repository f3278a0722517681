//! The gateway of a real Kubo serves our client, and ours serves what Kubo's does, byte for byte where that is specified.
//! Runs where the variable `DIAI_KUBO` names a Kubo binary (0.43 or later); says that it was skipped elsewhere.

#![cfg(feature = "gateway")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail, and has real sockets")]

mod common;
mod web;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use common::noise;
use diai_blocks::{
    Block, BlockStore, Cid, RAW,
    dag_pb::Link,
    gateway::{DagScope, EntityBytes, Query, Reason},
    unixfs,
};
use futures::StreamExt;
use tokio::net::TcpStream;
use web::{any_port, ask, car, client, config, file, reason, serve, store};

const PORT: u16 = 4291;

/// A daemon without a network, that serves a store of ours.
struct Kubo {
    child: Child,
    folder: PathBuf,
    addr: SocketAddr,
}

impl Kubo {
    async fn start() -> Option<Self> {
        let Some(binary) = std::env::var_os("DIAI_KUBO").map(PathBuf::from) else {
            println!("skipped: name a Kubo binary in DIAI_KUBO to compare with it");
            return None;
        };
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubo-gateway");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let run = |arguments: &[&str]| {
            let mut command = Command::new(&binary);
            let done = command.env("IPFS_PATH", &folder).args(arguments).stdout(Stdio::null()).status().unwrap();
            assert!(done.success(), "{arguments:?}");
        };
        run(&["init", "--profile=test"]);
        for (key, value) in [
            ("Addresses.Gateway", format!("\"/ip4/127.0.0.1/tcp/{PORT}\"")),
            ("Addresses.API", format!("\"/ip4/127.0.0.1/tcp/{}\"", PORT + 1)),
            ("Addresses.Swarm", "[]".into()),
            ("Gateway.NoFetch", "true".into()),
        ] {
            run(&["config", "--json", key, &value]);
        }
        let mut command = Command::new(&binary);
        command.env("IPFS_PATH", &folder).args(["daemon", "--offline"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], PORT));
        while TcpStream::connect(addr).await.is_err() {
            assert!(child.try_wait().unwrap().is_none(), "Kubo ended");
            tokio::task::yield_now().await;
        }
        Some(Self { child, folder, addr })
    }

    async fn import(&self, store: &BlockStore, root: Cid) {
        let mut file = Vec::new();
        diai_blocks::car::export(store, &[root], &mut file, &Default::default()).await.unwrap();
        let path = self.folder.join("in.car");
        fs::write(&path, file).unwrap();
        let mut command = Command::new(std::env::var_os("DIAI_KUBO").unwrap());
        command.env("IPFS_PATH", &self.folder).args(["dag", "import", "--pin-roots=false"]).arg(&path);
        assert!(command.stdout(Stdio::null()).status().unwrap().success());
    }
}

impl Drop for Kubo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A folder with a file of many blocks, a sharded folder, and a file in both.
async fn tree(store: &BlockStore) -> (Cid, Cid) {
    let big = file(store, &noise(1, 700_000)).await;
    let small = file(store, b"small").await;
    let link = |name: String, cid| Link { cid, name, tsize: 5 };
    let mut links: Vec<_> = (0..6000).map(|n| link(format!("{n:05}-{}", "x".repeat(50)), small)).collect();
    links.push(link("big".into(), big));
    let shards = unixfs::build_folder(links, &Default::default()).unwrap();
    let links = vec![link("shards".into(), shards.root), link("big file".into(), big)];
    let folder = unixfs::build_folder(links, &Default::default()).unwrap();
    store.put_many(shards.blocks).await.unwrap();
    store.put_many(folder.blocks).await.unwrap();
    (folder.root, big)
}

#[tokio::test(flavor = "multi_thread")]
async fn kubo_serves_our_client_and_our_gateway_answers_as_kubo_does() {
    let Some(kubo) = Kubo::start().await else { return };
    let store = store();
    let (root, big) = tree(&store).await;
    kubo.import(&store, root).await;
    let ours = serve(&store, any_port()).await;
    same_blocks(&kubo, ours.addr(), root, big).await;
    same_heads(&kubo, ours.addr(), root, big).await;
}

async fn same_blocks(kubo: &Kubo, ours: SocketAddr, root: Cid, big: Cid) {
    let (from_kubo, from_us) = (client(config(&[kubo.addr])), client(config(&[ours])));

    let block = from_kubo.block(root).await.unwrap();
    assert_eq!(block, from_us.block(root).await.unwrap());
    let absent = Block::new(RAW, &b"absent"[..]).unwrap().cid;
    assert!(matches!(reason(from_kubo.block(absent).await.unwrap_err()), Reason::NotFound { .. }));

    // Kubo begins a file of what it does not have.
    let (_, failed) = car(&from_kubo, Query::car(absent, DagScope::All)).await;
    let failed = reason(failed.unwrap());
    assert!(matches!(failed, Reason::NotFound { .. }), "{failed:?}");

    let path = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let range = |from, to| Some(EntityBytes { from, to });
    let mut queries = Vec::new();
    for scope in [DagScope::Block, DagScope::Entity, DagScope::All] {
        queries.push(Query::car(root, scope));
        for names in [&["big file"][..], &["shards"], &["shards", "big"]] {
            queries.push(Query { path: path(names), ..Query::car(root, scope) });
        }
    }
    for bytes in
        [range(0, Some(0)), range(300_000, Some(420_000)), range(-1500, None), range(1023, Some(-1000)), range(9, None)]
    {
        queries.push(Query { bytes, ..Query::car(big, DagScope::Entity) });
        queries.push(Query { bytes, path: path(&["shards", "big"]), ..Query::car(root, DagScope::Entity) });
    }
    for query in queries {
        let (theirs, failed) = car(&from_kubo, query.clone()).await;
        assert!(failed.is_none(), "{query:?}: {failed:?}");
        let (own, failed) = car(&from_us, query.clone()).await;
        assert!(failed.is_none(), "{query:?}: {failed:?}");
        assert_eq!(own.len(), theirs.len(), "{query:?}");
        assert!(own == theirs, "{query:?}: the same blocks in another order");
    }
    let there = store();
    let mut groups = from_kubo.car(Query::car(big, DagScope::All));
    while let Some(group) = groups.next().await {
        there.put_many(group.unwrap()).await.unwrap();
    }
    assert_eq!(unixfs::read_all(&there, big, 1 << 20).await.unwrap(), noise(1, 700_000));
}

async fn same_heads(kubo: &Kubo, ours: SocketAddr, root: Cid, big: Cid) {
    let absent = Block::new(RAW, &b"absent"[..]).unwrap().cid;
    for request in [
        format!("GET /ipfs/{big}?format=raw"),
        format!("HEAD /ipfs/{big}?format=raw"),
        format!("GET /ipfs/{root}/shards/big?format=car&dag-scope=entity&entity-bytes=0:9"),
        format!("HEAD /ipfs/{root}/shards?format=car"),
        "GET /ipfs/bafkqaaa?format=raw".into(),
        format!("GET /ipfs/{absent}?format=raw"),
        "GET /ipfs/nonsense?format=raw".into(),
        format!("GET /ipfs/{big}?format=car&dag-scope=nonsense"),
        format!("GET /ipfs/{big}?format=car&entity-bytes=nonsense"),
    ] {
        let accept = "Accept: application/vnd.ipld.car; version=1; order=dfs; dups=n";
        let request = format!(
            "{request} HTTP/1.1\r\n{}",
            if request.contains("car") { accept } else { "Accept: application/vnd.ipld.raw" }
        );
        let (theirs, own) = (ask(kubo.addr, &request).await, ask(ours, &request).await);
        assert_eq!(own.status, theirs.status, "{request}: {}", theirs.head);
        if own.status != 200 {
            continue;
        }
        for name in [
            "Content-Type",
            "X-Content-Type-Options",
            "X-Ipfs-Path",
            "X-Ipfs-Roots",
            "Cache-Control",
            "Content-Length",
            "Access-Control-Allow-Origin",
        ] {
            assert_eq!(own.header(name), theirs.header(name), "{request}: {name}");
        }
    }
}
