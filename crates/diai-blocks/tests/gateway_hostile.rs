//! Gateways that lie, stall and flood, and clients of ours that do.

#![cfg(feature = "gateway")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail, and has real sockets")]

mod common;
mod web;

use std::time::Duration;

use common::{cbor_list, noise};
use diai_blocks::{
    Block, MAX_BLOCK_BYTES, RAW,
    gateway::{ClientConfig, DagScope, Query, Reason, ServerConfig},
    unixfs,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use web::{Scripted, Then, any_port, ask, car, car_file, client, config, head, reason, serve, store};

const RAW_HEAD: &str = "Content-Type: application/vnd.ipld.raw\r\n";
const CAR_HEAD: &str = "Content-Type: application/vnd.ipld.car; version=1\r\n";

fn block(data: &[u8]) -> Block {
    Block::new(RAW, data.to_vec()).unwrap()
}

/// What becomes of asking a gateway for a block that answers so.
async fn block_from(gateway: &Scripted) -> Reason {
    reason(client(config(&[gateway.addr])).block(block(b"wanted").cid).await.unwrap_err())
}

#[tokio::test]
async fn a_wrong_block_is_refused_and_the_liar_is_left_alone() {
    let liar = Scripted::answering(200, RAW_HEAD, b"Wanted").await;
    let honest = Scripted::answering(200, RAW_HEAD, b"wanted").await;
    let client = client(config(&[liar.addr, honest.addr]));
    let wanted = block(b"wanted");
    for _ in 0..3 {
        assert_eq!(client.block(wanted.cid).await.unwrap(), wanted);
    }
    assert_eq!((liar.requests().len(), honest.requests().len()), (1, 3));
}

#[tokio::test]
async fn a_request_has_no_cookie_and_takes_no_encoding() {
    let fields = format!("{RAW_HEAD}Set-Cookie: who=you\r\n");
    let gateway = Scripted::answering(200, &fields, b"wanted").await;
    let client = client(config(&[gateway.addr]));
    for _ in 0..2 {
        client.block(block(b"wanted").cid).await.unwrap();
    }
    for request in gateway.requests() {
        let request = request.to_ascii_lowercase();
        assert!(request.contains("accept: application/vnd.ipld.raw\r\n"), "{request}");
        assert!(request.contains("accept-encoding: identity\r\n") && !request.contains("cookie"), "{request}");
    }
}

#[tokio::test]
async fn answers_of_another_type_or_compressed_unasked_are_refused() {
    for fields in ["", "Content-Type: text/html\r\n", &format!("{RAW_HEAD}Content-Encoding: gzip\r\n")] {
        let gateway = Scripted::answering(200, fields, b"wanted").await;
        assert!(matches!(block_from(&gateway).await, Reason::Type { .. }), "{fields}");
    }
}

#[tokio::test]
async fn a_header_without_end_is_cut_off() {
    let fields = b"X-More: and more\r\n".repeat(16).to_vec();
    let gateway = Scripted::new(vec![b"HTTP/1.1 200 OK\r\n".to_vec(), fields], Then::Forever).await;
    assert!(matches!(block_from(&gateway).await, Reason::Http(_)));
    let gateway = Scripted::new(vec![b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 4096]], Then::Forever).await;
    assert!(matches!(block_from(&gateway).await, Reason::Http(_)));
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let gateway = Scripted::new(vec![head(200, RAW_HEAD, None), vec![0; 65536]], Then::Forever).await;
    assert!(matches!(block_from(&gateway).await, Reason::OverLimit { .. }));
    let gateway = Scripted::new(vec![head(200, RAW_HEAD, Some(MAX_BLOCK_BYTES + 1))], Then::Silence).await;
    assert!(matches!(block_from(&gateway).await, Reason::OverLimit { .. }));
}

#[tokio::test]
async fn a_car_file_without_end_is_cut_off() {
    // The same block again and again, and an endless section.
    let wanted = cbor_list(&[block(b"leaf").cid]);
    let again = car_file(wanted.cid, &[(wanted.cid, &wanted.data)]);
    let once = car_file(wanted.cid, &[]).len();
    let gateway =
        Scripted::new(vec![head(200, CAR_HEAD, None), again.clone(), again[once..].to_vec()], Then::Forever).await;
    let client = client(config(&[gateway.addr]));
    let (blocks, failed) = car(&client, Query::car(wanted.cid, DagScope::All)).await;
    assert!(matches!(reason(failed.unwrap()), Reason::Unexpected { .. }));
    assert_eq!(blocks, std::slice::from_ref(&wanted));

    let endless = [&again[..], b"\xff\xff\xff\xff\x7f", &wanted.cid.to_bytes()].concat();
    let gateway = Scripted::new(vec![head(200, CAR_HEAD, None), endless, vec![7; 65536]], Then::Forever).await;
    let config = ClientConfig { max_car_bytes: 1 << 20, ..config(&[gateway.addr]) };
    let (_, failed) = car(&web::client(config), Query::car(wanted.cid, DagScope::All)).await;
    assert!(matches!(reason(failed.unwrap()), Reason::OverLimit { .. }));
}

#[tokio::test]
async fn a_block_that_is_no_part_of_the_dag_ends_a_car_file_and_what_came_before_is_kept() {
    let [first, second, foreign] = [&b"first"[..], b"second", b"foreign"].map(block);
    let root = cbor_list(&[first.cid, second.cid]);
    for (bad, is_expected) in [((foreign.cid, &foreign.data[..]), false), ((second.cid, &b"wrong"[..]), true)] {
        let file = car_file(root.cid, &[(root.cid, &root.data), (first.cid, &first.data), bad]);
        let gateway = Scripted::answering(200, CAR_HEAD, &file).await;
        let client = client(config(&[gateway.addr]));
        let (blocks, failed) = car(&client, Query::car(root.cid, DagScope::All)).await;
        assert_eq!(blocks, [root.clone(), first.clone()]);
        match reason(failed.unwrap()) {
            Reason::Wrong(_) => assert!(is_expected),
            Reason::Unexpected { cid } => assert_eq!((cid, is_expected), (foreign.cid, false)),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_car_file_that_ends_early_is_told_from_a_whole_one() {
    let [first, second] = [&b"first"[..], b"second"].map(block);
    let root = cbor_list(&[first.cid, second.cid]);
    let file = car_file(root.cid, &[(root.cid, &root.data), (first.cid, &first.data), (second.cid, &second.data)]);
    let cut_at_a_block = car_file(root.cid, &[(root.cid, &root.data), (first.cid, &first.data)]).len();
    for cut in [cut_at_a_block, cut_at_a_block + 20, 9] {
        // With a length that is right for what comes, so that only the file tells.
        let gateway = Scripted::answering(200, CAR_HEAD, &file[..cut]).await;
        let client = client(config(&[gateway.addr]));
        let (blocks, failed) = car(&client, Query::car(root.cid, DagScope::All)).await;
        assert_eq!(blocks.len(), if cut == 9 { 0 } else { 2 });
        match reason(failed.unwrap()) {
            Reason::Incomplete { missing } => assert_eq!((missing, cut), (1, cut_at_a_block)),
            Reason::Car(_) => assert_ne!(cut, cut_at_a_block),
            other => panic!("{other}"),
        }
    }
    let gateway =
        Scripted::new(vec![head(200, CAR_HEAD, Some(file.len())), file[..cut_at_a_block].to_vec()], Then::Close).await;
    let (_, failed) = car(&client(config(&[gateway.addr])), Query::car(root.cid, DagScope::All)).await;
    assert!(matches!(reason(failed.unwrap()), Reason::Http(_)));
}

#[tokio::test]
async fn redirects_end_and_lead_nowhere_else() {
    let round = Scripted::answering(302, "Location: /ipfs/elsewhere\r\n", b"").await;
    assert!(matches!(block_from(&round).await, Reason::Redirect { .. }));
    assert_eq!(round.requests().len(), 4);
    let honest = Scripted::answering(200, RAW_HEAD, b"wanted").await;
    let away = Scripted::answering(301, &format!("Location: http://{}/\r\n", honest.addr), b"").await;
    assert!(matches!(block_from(&away).await, Reason::Redirect { .. }));
    assert_eq!(honest.requests().len(), 0);
}

#[tokio::test]
async fn a_busy_gateway_is_left_alone_for_as_long_as_it_says() {
    for (status, fields) in [(429, "Retry-After: 120\r\n"), (503, "Retry-After: 99999999999\r\n")] {
        let busy = Scripted::answering(status, fields, b"later").await;
        let client = client(config(&[busy.addr]));
        let wanted = block(b"wanted").cid;
        assert!(matches!(reason(client.block(wanted).await.unwrap_err()), Reason::Busy { .. }));
        let failed = client.block(wanted).await.unwrap_err();
        assert!(failed.to_string().contains(&busy.addr.to_string()), "{failed}");
        let Reason::LeftAlone { wait } = reason(failed) else { panic!("it was asked again") };
        assert!(wait > Duration::from_secs(60) && wait <= Duration::from_secs(600), "{wait:?}");
        assert_eq!(busy.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_gateway_that_says_nothing_or_trickles_is_left() {
    let impatient = |gateway: &Scripted| ClientConfig { stall: Duration::from_millis(50), ..config(&[gateway.addr]) };
    let wanted = block(b"wanted").cid;
    for pieces in
        [vec![], vec![head(200, RAW_HEAD, None), b"wan".to_vec()], vec![head(200, CAR_HEAD, None), b"\x3a".to_vec()]]
    {
        let silent = Scripted::new(pieces, Then::Silence).await;
        let failed = client(impatient(&silent)).block(wanted).await.unwrap_err();
        assert!(matches!(reason(failed), Reason::TimedOut | Reason::Type { .. }));
        let (_, failed) = car(&client(impatient(&silent)), Query::car(wanted, DagScope::All)).await;
        assert!(matches!(reason(failed.unwrap()), Reason::TimedOut | Reason::Type { .. }));
    }
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_told() {
    let addr = Scripted::answering(200, "", b"").await.addr;
    let failed = client(config(&[addr])).block(block(b"wanted").cid).await.unwrap_err();
    assert!(matches!(reason(failed), Reason::Connect(_)));
}

/// Reads until the server closes the connection.
async fn closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // It may be reset.
    let _ = stream.read_to_end(&mut rest).await;
}

#[tokio::test]
async fn who_sends_a_request_slowly_or_none_is_cut() {
    let config = ServerConfig { header_timeout: Duration::from_millis(50), ..any_port() };
    let server = serve(&store(), config).await;
    closed(TcpStream::connect(server.addr()).await.unwrap()).await;
    let mut slow = TcpStream::connect(server.addr()).await.unwrap();
    // Until it is cut.
    while slow.write_all(b"GET /ipfs/bafkqaaa?format=raw HTTP/1.1\r\nX: y").await.is_ok() {
        tokio::task::yield_now().await;
        if slow.try_read(&mut [0]).is_ok() {
            break;
        }
    }
    assert_eq!(ask(server.addr(), "GET /ipfs/bafkqaaa?format=raw HTTP/1.1").await.status, 200);
}

#[tokio::test]
async fn who_does_not_read_is_cut() {
    let store = store();
    let root = unixfs::import_reader(&store, &noise(1, 48 << 20)[..], &Default::default()).await.unwrap().root();
    let config =
        ServerConfig { stall: Duration::from_millis(50), max_requests: 1, max_wait: Duration::ZERO, ..any_port() };
    let server = serve(&store, config).await;
    let mut lazy = TcpStream::connect(server.addr()).await.unwrap();
    let request = format!("GET /ipfs/{root}?format=car HTTP/1.1\r\nHost: x\r\n\r\n");
    lazy.write_all(request.as_bytes()).await.unwrap();
    lazy.readable().await.unwrap();
    // The only place is free once it was cut.
    while ask(server.addr(), "GET /ipfs/bafkqaaa?format=raw HTTP/1.1").await.status == 429 {
        tokio::task::yield_now().await;
    }
    let mut rest = Vec::new();
    let _ = lazy.read_to_end(&mut rest).await;
    assert!(rest.len() < 48 << 20);
}

#[tokio::test]
async fn a_huge_header_is_refused() {
    let server = serve(&store(), any_port()).await;
    let huge = format!("GET /ipfs/bafkqaaa?format=raw HTTP/1.1\r\nX: {}", "x".repeat(20_000));
    assert_eq!(ask(server.addr(), &huge).await.status, 431);
    let many = format!("GET /ipfs/bafkqaaa?format=raw HTTP/1.1{}", "\r\nX: y".repeat(100));
    assert_eq!(ask(server.addr(), &many).await.status, 431);
}

#[tokio::test]
async fn a_thousand_connections_that_ask_for_nothing_do_not_keep_others_out() {
    let config = ServerConfig { max_connections: 64, header_timeout: Duration::from_millis(20), ..any_port() };
    let server = serve(&store(), config).await;
    let mut held = Vec::new();
    for _ in 0..1000 {
        held.push(TcpStream::connect(server.addr()).await.unwrap());
    }
    assert_eq!(ask(server.addr(), "GET /ipfs/bafkqaaa?format=raw HTTP/1.1").await.status, 200);
    for stream in held {
        closed(stream).await;
    }
}

#[tokio::test]
async fn a_thousand_requests_at_once_are_answered_in_turn() {
    let store = store();
    let wanted = Block::new(RAW, noise(2, 100_000)).unwrap();
    store.put(wanted.clone()).await.unwrap();
    let server = serve(&store, ServerConfig { max_requests: 4, max_connections: 100, ..any_port() }).await;
    let request = format!("GET /ipfs/{}?format=raw HTTP/1.1", wanted.cid);
    let answers = futures::future::join_all((0..1000).map(|_| ask(server.addr(), &request))).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.body == wanted.data));
}
