//! The pipe under everything: 256 MiB one way, and 64 bytes there and back, over an open stream of two agents, against
//! stock libp2p with TLS and with Noise.

use std::sync::Arc;

use criterion::Throughput;
use diai::{
    Agent,
    core::{AcceptOptions, BoxStream, ProtocolId},
};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use tokio::{sync::Mutex, task::JoinSet};

use crate::{
    Bench, Result, agents,
    bare::{self, BODY, PIECE, Security},
    card::{Row, short},
    contest::{self, Plan, Times, Work, timed},
};

const ECHO: ProtocolId = ProtocolId::new("/bench/pipe-echo/1");
const BULK: ProtocolId = ProtocolId::new("/bench/pipe-bulk/1");

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let mib: usize = if bench.test { 2 } else { 256 };
    let folder = tempfile::tempdir()?;
    let (server, client) = bench.on_workers(agents::pair(folder.path().to_owned()))?;
    let _served = bench.runtime.block_on(serve(&server))?;
    let (_tls_server, tls) = bench.on_workers(bare::pair(Security::Tls))?;
    let (_noise_server, noise) = bench.on_workers(bare::pair(Security::Noise))?;
    let block_on = |future| bench.runtime.block_on(future);
    let contenders = [
        ("diai", bulk(block_on(open(&client, &server, BULK))?, mib)),
        ("libp2p with TLS", bulk(bench.runtime.block_on(tls.open(bare::BULK))?, mib)),
        ("libp2p with Noise", bulk(bench.runtime.block_on(noise.open(bare::BULK))?, mib)),
    ];
    let echoes = [
        ("diai", echo(block_on(open(&client, &server, ECHO))?)),
        ("libp2p with TLS", echo(bench.runtime.block_on(tls.open(bare::ECHO))?)),
        ("libp2p with Noise", echo(bench.runtime.block_on(noise.open(bare::ECHO))?)),
    ];
    let plan = Plan { turn: 1, samples: 15, pieces: 1, throughput: Some(Throughput::Bytes((mib << 20) as u64)) };
    let [ours, by_tls, by_noise] = contest::run(bench, "pipe", plan, contenders);
    let speed = |times: &Times| mib as f64 / times.p50().as_secs_f64().max(f64::MIN_POSITIVE);
    let (over_tls, over_noise) = (by_tls.over(&ours), by_noise.over(&ours));
    bench.card.add(Row {
        what: "256 MiB over an open stream",
        ours: format!("{:.0} MiB/s", speed(&ours)),
        bare: format!("libp2p with TLS {:.0} MiB/s, with Noise {:.0} MiB/s", speed(&by_tls), speed(&by_noise)),
        ratio: format!("{over_tls:.2}x, of Noise {over_noise:.2}x"),
        bar: "at least 1.25x",
        met: Some(over_tls.min(over_noise) >= 1.25),
    });
    let plan = Plan { turn: 200, samples: 20, pieces: 200, throughput: None };
    let [ours, by_tls, by_noise] = contest::run(bench, "pipe echo", plan, echoes);
    let (of_tls, of_noise) = (ours.over(&by_tls), ours.over(&by_noise));
    let both = |times: &Times| format!("{} ({})", short(times.p50()), short(times.p99()));
    bench.card.add(Row {
        what: "echo of 64 B on an open stream, p50 (p99)",
        ours: both(&ours),
        bare: format!("libp2p with TLS {}, with Noise {}", both(&by_tls), both(&by_noise)),
        ratio: format!("{of_tls:.2}x, of Noise {of_noise:.2}x"),
        bar: "at most 1x that with TLS",
        met: Some(of_tls <= 1.0),
    });
    bench.runtime.block_on(async { futures::join!(client.shutdown(), server.shutdown()) });
    Ok(())
}

/// Serves both protocols as long as what it returns lives.
async fn serve(agent: &Agent) -> Result<JoinSet<()>> {
    let mut incoming = agent.world().network.accept(&[ECHO, BULK], AcceptOptions::default())?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut streams = JoinSet::new();
        while let Some(inbound) = incoming.next().await {
            streams.spawn(async move {
                // The client may go at any time.
                drop(match inbound.protocol {
                    ECHO => bare::send_back(inbound.stream).await,
                    _ => bare::send_bulk(inbound.stream).await,
                });
            });
        }
    });
    Ok(tasks)
}

async fn open(client: &Agent, server: &Agent, protocol: ProtocolId) -> Result<BoxStream> {
    let peer = agents::connect(client, server).await?;
    Ok(client.world().network.open(peer, &[protocol]).await?.stream)
}

fn bulk(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, mib: usize) -> Work {
    let stream = Arc::new(Mutex::new(stream));
    timed(move || {
        let stream = stream.clone();
        async move {
            let mut stream = stream.lock().await;
            stream.write_all(&((mib << 20) as u64).to_le_bytes()).await.expect("the server listens");
            stream.flush().await.expect("the server listens");
            let mut piece = vec![0; PIECE];
            for _ in 0..mib {
                stream.read_exact(&mut piece).await.expect("the server sends");
            }
        }
    })
}

fn echo(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Work {
    let stream = Arc::new(Mutex::new(stream));
    timed(move || {
        let stream = stream.clone();
        async move {
            let (mut stream, mut body) = (stream.lock().await, [7; BODY]);
            stream.write_all(&body).await.expect("the server listens");
            stream.flush().await.expect("the server listens");
            stream.read_exact(&mut body).await.expect("the server echoes");
        }
    })
}
