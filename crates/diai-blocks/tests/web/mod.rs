//! Gateways, honest and scripted, and HTTP by hand, over sockets of this machine.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail, and has real sockets")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use diai_blocks::{
    Block, BlockStore, Cid, MemoryStore,
    gateway::{ClientConfig, GatewayClient, GatewayServer, NoGateway, Query, Reason, ServerConfig, Tcp},
    unixfs,
};
use diai_core::{
    Offload,
    os::{OsClock, ThreadPool},
};
use futures::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

pub fn pool() -> Arc<dyn Offload> {
    Arc::new(ThreadPool::new(2))
}

pub fn store() -> BlockStore {
    BlockStore::new(Arc::new(MemoryStore::new(1 << 30)), pool())
}

/// A file in chunks of 1 KiB, so that small files have many blocks.
pub async fn file(store: &BlockStore, content: &[u8]) -> Cid {
    let profile = unixfs::Profile { chunk_bytes: 1024, ..unixfs::Profile::default() };
    let options = unixfs::ImportOptions { profile, ..unixfs::ImportOptions::default() };
    unixfs::import_reader(store, content, &options).await.unwrap().root()
}

pub fn any_port() -> ServerConfig {
    ServerConfig { addr: SocketAddr::from(([127, 0, 0, 1], 0)), ..ServerConfig::default() }
}

pub async fn serve(store: &BlockStore, config: ServerConfig) -> GatewayServer {
    let listener = Tcp.listen(config.addr).await.unwrap();
    GatewayServer::serve(Arc::new(OsClock::new()), store.clone(), config, Box::new(listener))
}

pub fn config(gateways: &[SocketAddr]) -> ClientConfig {
    let urls = gateways.iter().map(|addr| format!("http://{addr}")).collect();
    ClientConfig { urls, ..ClientConfig::default() }
}

pub fn client(config: ClientConfig) -> GatewayClient {
    GatewayClient::new(config, Arc::new(Tcp), Arc::new(OsClock::new()), pool()).unwrap()
}

/// The blocks that came, and what ended the answer if it was an error.
pub async fn car(client: &GatewayClient, query: Query) -> (Vec<Block>, Option<NoGateway>) {
    let (mut blocks, mut failed) = (Vec::new(), None);
    let mut groups = client.car(query);
    while let Some(group) = groups.next().await {
        match group {
            Ok(group) => blocks.extend(group),
            Err(error) => failed = Some(error),
        }
    }
    (blocks, failed)
}

/// Why the only gateway gave nothing.
pub fn reason(failed: NoGateway) -> Reason {
    let [error] = <[_; 1]>::try_from(failed.errors).unwrap();
    error.reason
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&str| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
        self.head.lines().find(named).and_then(|line| line.split_once(": ")).map(|(_, value)| value)
    }
}

/// What `addr` answers to `request`, whose head lacks only its end. The connection is closed by the server.
pub async fn ask(addr: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("{request}\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: answer[end + 4..].to_vec() }
}

/// A gateway that gives one answer to whatever is asked, one request a connection.
pub struct Scripted {
    pub addr: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    _task: JoinSet<()>,
}

/// What a scripted gateway sends: pieces, and how it goes on.
#[derive(Clone)]
pub enum Then {
    Close,
    /// The last piece again and again.
    Forever,
    /// Nothing more, and the connection stays.
    Silence,
}

impl Scripted {
    pub async fn new(pieces: Vec<Vec<u8>>, then: Then) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (mut task, asked) = (JoinSet::new(), requests.clone());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (pieces, then, asked) = (pieces.clone(), then.clone(), asked.clone());
                connections.spawn(async move { drop(answer(stream, pieces, then, asked).await) });
            }
        });
        Self { addr, requests, _task: task }
    }

    /// One that answers with `status`, `fields` and `body`, whose length it tells.
    pub async fn answering(status: u16, fields: &str, body: &[u8]) -> Self {
        Self::new(vec![head(status, fields, Some(body.len())), body.to_vec()], Then::Close).await
    }

    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

pub fn head(status: u16, fields: &str, length: Option<usize>) -> Vec<u8> {
    let length = length.map(|length| format!("Content-Length: {length}\r\n")).unwrap_or_default();
    format!("HTTP/1.1 {status} Such\r\n{length}{fields}\r\n").into_bytes()
}

async fn answer(
    mut stream: TcpStream,
    pieces: Vec<Vec<u8>>,
    then: Then,
    asked: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    asked.lock().unwrap().push(String::from_utf8(request).unwrap());
    for piece in &pieces {
        stream.write_all(piece).await?;
    }
    match then {
        Then::Close => stream.shutdown().await,
        Then::Silence => stream.read_u8().await.map(drop),
        Then::Forever => loop {
            stream.write_all(pieces.last().unwrap()).await?;
        },
    }
}

/// A CAR file with `blocks` as its sections, whatever they are.
pub fn car_file(root: Cid, blocks: &[(Cid, &[u8])]) -> Vec<u8> {
    let link = [&[0], &root.to_bytes()[..]].concat();
    let header = [b"\xa2\x65roots\x81\xd8\x2a\x58", &[link.len() as u8][..], &link, b"\x67version\x01"].concat();
    let mut file = Vec::new();
    section(&mut file, &header);
    for (cid, data) in blocks {
        section(&mut file, &[&cid.to_bytes()[..], data].concat());
    }
    file
}

fn section(file: &mut Vec<u8>, content: &[u8]) {
    let mut length = content.len();
    while length >= 0x80 {
        file.push(length as u8 | 0x80);
        length >>= 7;
    }
    file.push(length as u8);
    file.extend_from_slice(content);
}
