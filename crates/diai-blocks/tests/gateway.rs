//! Our gateway and our client of gateways, over sockets.

#![cfg(feature = "gateway")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail, and has real sockets")]

mod common;
mod web;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use common::{cbor_list, noise};
use diai_blocks::{
    Block, Cid, MAX_BLOCK_BYTES, RAW,
    dag_pb::Link,
    gateway::{CAR_TYPE, DagScope, EntityBytes, Policy, Query, Reason, ServerConfig, Verdict},
    serve::{Asker, ServeRule},
    unixfs,
};
use futures::StreamExt;
use web::{any_port, ask, car, client, config, file, reason, serve, store};

#[tokio::test]
async fn a_block_comes_from_a_gateway_and_one_that_is_not_there_does_not() {
    let store = store();
    let block = Block::new(RAW, noise(1, MAX_BLOCK_BYTES)).unwrap();
    store.put(block.clone()).await.unwrap();
    let server = serve(&store, any_port()).await;
    let client = client(config(&[server.addr()]));
    for _ in 0..3 {
        assert_eq!(client.block(block.cid).await.unwrap(), block);
    }
    let other = Block::new(RAW, &b"other"[..]).unwrap().cid;
    assert!(matches!(reason(client.block(other).await.unwrap_err()), Reason::NotFound { cid } if cid == other));
    assert_eq!(client.block(block.cid).await.unwrap(), block, "not to have something is no fault");
}

#[tokio::test]
async fn a_whole_dag_comes_as_a_car_file() {
    let store = store();
    let content = noise(2, 900_000);
    let root = file(&store, &content).await;
    let server = serve(&store, any_port()).await;
    let (blocks, failed) = car(&client(config(&[server.addr()])), Query::car(root, DagScope::All)).await;
    assert!(failed.is_none(), "{failed:?}");
    let there = web::store();
    assert_eq!(blocks[0].cid, root);
    there.put_many(blocks).await.unwrap();
    assert_eq!(unixfs::read_all(&there, root, 1 << 20).await.unwrap(), content);
}

/// The CIDs below a query.
async fn cids(addr: std::net::SocketAddr, query: Query) -> BTreeSet<Cid> {
    let (blocks, failed) = car(&client(config(&[addr])), query).await;
    assert!(failed.is_none(), "{failed:?}");
    let cids: BTreeSet<_> = blocks.iter().map(|block| block.cid).collect();
    assert_eq!(cids.len(), blocks.len(), "nothing comes twice");
    cids
}

#[tokio::test]
async fn of_a_path_come_its_blocks_and_what_the_scope_says() {
    let store = store();
    let leaf = file(&store, &noise(3, 5000)).await;
    let inner =
        unixfs::build_folder(vec![Link { cid: leaf, name: "a file".into(), tsize: 0 }], &Default::default()).unwrap();
    let small = Link { cid: file(&store, b"small").await, name: "small".into(), tsize: 0 };
    let links = vec![Link { cid: inner.root, name: "ключ".into(), tsize: 0 }, small.clone()];
    let outer = unixfs::build_folder(links, &Default::default()).unwrap();
    let (folder, root) = (inner.root, outer.root);
    store.put_many(inner.blocks).await.unwrap();
    store.put_many(outer.blocks).await.unwrap();
    let addr = serve(&store, any_port()).await;
    let addr = addr.addr();

    let path = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let all = cids(addr, Query::car(root, DagScope::All)).await;
    let file_blocks = cids(addr, Query::car(leaf, DagScope::All)).await;
    assert_eq!((file_blocks.len(), all.len()), (6, 9));
    let block = Query { path: path(&["ключ", "a file"]), ..Query::car(root, DagScope::Block) };
    assert_eq!(cids(addr, block.clone()).await, BTreeSet::from([root, folder, leaf]));
    let entity = Query { scope: DagScope::Entity, ..block.clone() };
    assert_eq!(cids(addr, entity).await.len(), 8);
    let listing = Query { path: path(&["ключ"]), ..Query::car(root, DagScope::Entity) };
    assert_eq!(cids(addr, listing.clone()).await, BTreeSet::from([root, folder]));
    assert_eq!(cids(addr, Query { scope: DagScope::All, ..listing }).await.len(), 8);
    let nowhere = Query { path: path(&["nowhere"]), ..Query::car(root, DagScope::All) };
    let (blocks, failed) = car(&client(config(&[addr])), nowhere).await;
    assert!(blocks.is_empty() && matches!(reason(failed.unwrap()), Reason::NotFound { .. }));
    let within = Query { path: path(&["small", "x"]), ..Query::car(root, DagScope::All) };
    assert!(matches!(reason(car(&client(config(&[addr])), within).await.1.unwrap()), Reason::NotFound { .. }));
}

#[tokio::test]
async fn of_a_sharded_folder_come_its_shards_without_its_entries() {
    let store = store();
    let leaf = file(&store, b"leaf").await;
    let links = (0..5000).map(|n| Link { cid: leaf, name: format!("{n:05}-{}", "x".repeat(50)), tsize: 4 }).collect();
    let folder = unixfs::build_folder(links, &Default::default()).unwrap();
    let (root, shards) = (folder.root, folder.blocks.len());
    assert!(shards > 100);
    store.put_many(folder.blocks).await.unwrap();
    let server = serve(&store, any_port()).await;
    assert_eq!(cids(server.addr(), Query::car(root, DagScope::Entity)).await.len(), shards);
    assert_eq!(cids(server.addr(), Query::car(root, DagScope::All)).await.len(), shards + 1);
}

#[tokio::test]
async fn of_a_range_come_the_blocks_that_hold_it() {
    let store = store();
    let content = noise(4, 500_000);
    let root = file(&store, &content).await;
    let server = serve(&store, any_port()).await;
    for (from, to, range) in [
        (0, Some(0), 0..1),
        (1023, Some(1024), 1023..1025),
        (300_000, Some(420_000), 300_000..420_001),
        (-1500, None, 498_500..500_000),
        (400_000, Some(-1000), 400_000..499_001),
    ] {
        let query = Query { bytes: Some(EntityBytes { from, to }), ..Query::car(root, DagScope::Entity) };
        let (blocks, failed) = car(&client(config(&[server.addr()])), query).await;
        assert!(failed.is_none(), "{failed:?}");
        let leaves = blocks.iter().filter(|block| block.cid.codec() == RAW).count();
        assert_eq!(leaves, (range.end - 1) / 1024 - range.start / 1024 + 1, "{range:?}");
        let there = web::store();
        there.put_many(blocks).await.unwrap();
        let parts = unixfs::read_range(&there, root, range.start as u64..range.end as u64);
        let parts: Vec<_> = parts.map(Result::unwrap).collect().await;
        assert_eq!(parts.concat(), content[range]);
    }
    let outside = Query { bytes: Some(EntityBytes { from: 500_000, to: None }), ..Query::car(root, DagScope::Entity) };
    let (_, failed) = car(&client(config(&[server.addr()])), outside).await;
    assert!(matches!(reason(failed.unwrap()), Reason::Status { status: 400 }));
}

#[tokio::test]
async fn a_part_of_a_file_that_stands_at_several_places_comes_whole_where_it_is_needed_whole() {
    let store = store();
    // The same 174 KiB three times: the inner node of each third is the same.
    let third = noise(5, 174 * 1024);
    let root = file(&store, &third.repeat(3)).await;
    let server = serve(&store, any_port()).await;
    let bytes = Some(EntityBytes { from: 170 * 1024, to: Some(3 * 174 * 1024 - 1) });
    let (blocks, failed) =
        car(&client(config(&[server.addr()])), Query { bytes, ..Query::car(root, DagScope::Entity) }).await;
    assert!(failed.is_none(), "{failed:?}");
    let there = web::store();
    there.put_many(blocks).await.unwrap();
    let parts = unixfs::read_range(&there, root, 170 * 1024..3 * 174 * 1024);
    let parts: Vec<_> = parts.map(Result::unwrap).collect().await;
    assert_eq!(parts.concat(), third.repeat(3)[170 * 1024..]);
}

#[tokio::test]
async fn answers_say_what_they_are() {
    let store = store();
    let root = file(&store, &noise(6, 3000)).await;
    let leaf = Block::new(RAW, &b"leaf"[..]).unwrap();
    store.put(leaf.clone()).await.unwrap();
    let server = serve(&store, any_port()).await;
    let addr = server.addr();

    let raw = ask(addr, &format!("GET /ipfs/{}?format=raw HTTP/1.1", leaf.cid)).await;
    assert_eq!((raw.status, &raw.body[..]), (200, &b"leaf"[..]));
    for (name, value) in [
        ("Content-Type", "application/vnd.ipld.raw"),
        ("Content-Length", "4"),
        ("Content-Disposition", &format!("attachment; filename=\"{}.bin\"", leaf.cid)),
        ("Cache-Control", "public, max-age=29030400, immutable"),
        ("X-Content-Type-Options", "nosniff"),
        ("ETag", &format!("\"{}.raw\"", leaf.cid)),
        ("Access-Control-Allow-Origin", "*"),
        ("X-Ipfs-Path", &format!("/ipfs/{}", leaf.cid)),
        ("X-Ipfs-Roots", &leaf.cid.to_string()),
    ] {
        assert_eq!(raw.header(name), Some(value), "{name}");
    }
    let head = ask(addr, &format!("HEAD /ipfs/{}?format=raw HTTP/1.1", leaf.cid)).await;
    assert_eq!((head.status, head.header("Content-Length"), head.body.len()), (200, Some("4"), 0));
    let head = ask(addr, &format!("HEAD /ipfs/{root} HTTP/1.1\r\nAccept: {CAR_TYPE}")).await;
    assert_eq!((head.status, head.header("Content-Length"), head.body.len()), (200, None, 0));
    let kind = head.header("Content-Type");
    assert_eq!(kind, Some("application/vnd.ipld.car; version=1; order=dfs; dups=n"));
    let tag = head.header("ETag").unwrap().to_owned();
    let known = ask(addr, &format!("GET /ipfs/{root}?format=car HTTP/1.1\r\nIf-None-Match: W/{tag}")).await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    let scoped = ask(addr, &format!("HEAD /ipfs/{root}?format=car&dag-scope=block HTTP/1.1")).await;
    assert_ne!(scoped.header("ETag"), Some(&*tag));

    // What gateways are tried with.
    let probe = ask(addr, "GET /ipfs/bafkqaaa?format=raw HTTP/1.1").await;
    assert_eq!((probe.status, probe.body.len()), (200, 0));
    let probe = ask(addr, "HEAD /ipfs/bafkqaaa?format=raw HTTP/1.1").await;
    assert_eq!(probe.status, 200);
}

#[tokio::test]
async fn what_is_not_served_is_refused_with_a_reason() {
    let store = store();
    let blocks: Vec<_> = (0..3u8).map(|n| Block::new(RAW, vec![n; 10]).unwrap()).collect();
    let [served, hidden, gone] = [blocks[0].cid, blocks[1].cid, blocks[2].cid];
    store.put_many(blocks).await.unwrap();
    let policy = Policy::new(move |cid| match cid {
        _ if *cid == hidden => Verdict::Hide,
        _ if *cid == gone => Verdict::Gone,
        _ => Verdict::Serve,
    });
    let server = serve(&store, ServerConfig { policy, ..any_port() }).await;
    let absent = Block::new(RAW, &b"absent"[..]).unwrap().cid;
    for (request, status) in [
        (format!("GET /ipfs/{absent}?format=raw"), 404),
        (format!("HEAD /ipfs/{absent}?format=car"), 404),
        (format!("GET /ipfs/{hidden}?format=raw"), 404),
        (format!("GET /ipfs/{gone}?format=raw"), 410),
        (format!("GET /ipfs/{served}"), 400),
        (format!("GET /ipfs/{served}?format=tar"), 406),
        (format!("GET /ipfs/{served}/x?format=raw"), 400),
        (format!("GET /ipfs/{served}?format=car&dag-scope=x"), 400),
        ("GET /ipfs/x?format=raw".into(), 400),
        ("GET /ipns/example.org?format=raw".into(), 404),
        (format!("POST /ipfs/{served}?format=raw"), 405),
        (format!("OPTIONS /ipfs/{served}?format=raw"), 204),
        (format!("GET /ipfs/{served}?format=car&{}", "x".repeat(9000)), 414),
    ] {
        let answer = ask(server.addr(), &format!("{request} HTTP/1.1")).await;
        assert_eq!(answer.status, status, "{request}");
        assert_eq!(answer.header("Access-Control-Allow-Origin"), Some("*"));
        assert_eq!(answer.body.is_empty(), status == 204 || request.starts_with("HEAD"), "{request}: {answer:?}");
    }
    let cached = format!("GET /ipfs/{absent}?format=raw HTTP/1.1\r\nCache-Control: only-if-cached");
    assert_eq!(ask(server.addr(), &cached).await.status, 412);
}

#[tokio::test]
async fn what_the_rule_denies_to_strangers_is_as_if_it_were_not_here() {
    let store = store();
    let [open, denied] = [b"open", b"shut"].map(|data| Block::new(RAW, &data[..]).unwrap());
    let folder = |cid| {
        let links = vec![Link { cid, name: "x".into(), tsize: 0 }];
        unixfs::build_folder(links, &Default::default()).unwrap()
    };
    let (inner, plain) = (folder(denied.cid), folder(open.cid));
    let outer = folder(inner.root);
    let (hidden, way, shut) = (outer.root, *inner.root.hash(), *denied.cid.hash());
    let (root, inner) = (plain.root, inner.root);
    store.put_many(vec![open.clone(), denied.clone()]).await.unwrap();
    for folder in [folder(denied.cid), plain, outer] {
        store.put_many(folder.blocks).await.unwrap();
    }
    let rule = ServeRule::new(move |asker: &Asker, cid: &Cid| {
        assert_eq!((asker.peer, asker.agent), (None, None));
        *cid.hash() != shut
    });
    let server = serve(&store, ServerConfig { rule, ..any_port() }).await;
    // By another codec it is the same block.
    let other = Cid::new_v1(0x71, shut);
    for (request, status) in [
        (format!("GET /ipfs/{}?format=raw", denied.cid), 404),
        (format!("HEAD /ipfs/{}?format=raw", denied.cid), 404),
        (format!("GET /ipfs/{other}?format=raw"), 404),
        (format!("GET /ipfs/{inner}/x?format=car"), 404),
        (format!("GET /ipfs/{hidden}/x/x?format=car"), 404),
        (format!("GET /ipfs/{inner}?format=raw"), 200),
        (format!("GET /ipfs/{root}/x?format=car"), 200),
    ] {
        assert_eq!(ask(server.addr(), &format!("{request} HTTP/1.1")).await.status, status, "{request}");
    }
    let (blocks, failed) = car(&client(config(&[server.addr()])), Query::car(hidden, DagScope::All)).await;
    assert!(failed.is_some() && blocks.iter().all(|block| block.cid != denied.cid));
    let rule = ServeRule::new(move |_: &Asker, cid: &Cid| *cid.hash() != way);
    let server = serve(&store, ServerConfig { rule, ..any_port() }).await;
    let through = format!("GET /ipfs/{hidden}/x/x?format=car HTTP/1.1");
    assert_eq!(ask(server.addr(), &through).await.status, 404);
}

#[tokio::test]
async fn a_car_file_that_cannot_be_made_whole_ends_as_an_error() {
    let store = store();
    let [here, missing] = [b"here", b"lost"].map(|data| Block::new(RAW, &data[..]).unwrap());
    let root = cbor_list(&[here.cid, missing.cid]);
    store.put_many(vec![root.clone(), here.clone()]).await.unwrap();
    let server = serve(&store, any_port()).await;
    let (blocks, failed) = car(&client(config(&[server.addr()])), Query::car(root.cid, DagScope::All)).await;
    assert!(matches!(reason(failed.unwrap()), Reason::Http(_)));
    assert!(blocks.len() <= 2);
}

#[tokio::test]
async fn what_is_over_the_limit_of_answers_is_told_to_come_again() {
    let store = store();
    // More than sockets hold.
    let root = unixfs::import_reader(&store, &noise(7, 48 << 20)[..], &Default::default()).await.unwrap().root();
    // Room for one CAR file.
    let server = serve(&store, ServerConfig { max_sending_bytes: 0, max_wait: Duration::ZERO, ..any_port() }).await;
    let slow = client(config(&[server.addr()]));
    let mut held = slow.car(Query::car(root, DagScope::All));
    held.next().await.unwrap().unwrap();
    let answer = ask(server.addr(), &format!("GET /ipfs/{root}?format=car HTTP/1.1")).await;
    assert_eq!((answer.status, answer.header("Retry-After")), (429, Some("5")));
    // To read on makes room.
    assert!(held.all(|group| std::future::ready(group.is_ok())).await);
    let answer = ask(server.addr(), &format!("GET /ipfs/{root}?format=car HTTP/1.1")).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_gateway_that_is_stopped_is_gone_at_once() {
    let store = store();
    let server = serve(&store, any_port()).await;
    let addr = server.addr();
    assert_eq!(ask(addr, "GET /ipfs/bafkqaaa?format=raw HTTP/1.1").await.status, 200);
    server.stop().await;
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_gateway_is_reached_by_tls_only_if_its_certificate_is_trusted() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.key_pair.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = &[&rustls::version::TLS13];
    let server =
        rustls::ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let block = Block::new(RAW, &b"by TLS"[..]).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let answer =
                b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.ipld.raw\r\nContent-Length: 6\r\n\r\nby TLS";
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    let config = diai_blocks::gateway::ClientConfig { urls: vec![url], ..Default::default() };
    let failed = client(config.clone()).block(block.cid).await.unwrap_err();
    assert!(matches!(reason(failed), Reason::Connect(_)));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let tls = tls.with_root_certificates(roots).with_no_client_auth();
    let (clock, pool) = (Arc::new(diai_core::os::OsClock::new()), web::pool());
    let dial = Arc::new(diai_blocks::gateway::Tcp);
    let client = diai_blocks::gateway::GatewayClient::with_tls(config, dial, clock, pool, tls).unwrap();
    assert_eq!(client.block(block.cid).await.unwrap(), block);
}
