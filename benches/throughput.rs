//! Requests per second with 64 in flight: calls, against frames on one bare stream, as many in one write as there are,
//! and against request-response.

use std::sync::Arc;

use criterion::Throughput;
use diai::{Bytes, CallOptions, Calls, StreamExt};
use futures::{AsyncReadExt, AsyncWriteExt, stream};
use libp2p::Stream;
use tokio::sync::Mutex;

use crate::{
    Bench, Result, agents,
    bare::{self, BODY, Security},
    card::{Row, rate},
    contest::{self, Plan, Times, timed},
};

const IN_FLIGHT: usize = 64;
/// Requests that are timed together.
const BURST: usize = 4096;
/// A length and a body.
const FRAME: usize = 4 + BODY;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, client) = bench.on_workers(agents::pair(folder.path().to_owned()))?;
    let (_bare_server, bare) = bench.on_workers(bare::pair(Security::Tls))?;
    let burst = if bench.test { IN_FLIGHT } else { BURST };

    let (calls, to) = (client.messaging().clone(), server.id());
    let ours = timed(move || {
        let calls = calls.clone();
        async move {
            let body = Bytes::from_static(&[7; BODY]);
            let call = |_| calls.call(to, agents::ECHO, body.clone(), CallOptions::default());
            let answers = stream::iter(0..burst).map(call).buffer_unordered(IN_FLIGHT);
            let served = answers.filter(|answer| std::future::ready(answer.is_ok())).count().await;
            assert_eq!(served, burst);
        }
    });
    let caller = bare.caller();
    let request_response = timed(move || {
        let caller = caller.clone();
        async move {
            let answers = stream::iter(0..burst).map(|_| caller.call([7; BODY])).buffer_unordered(IN_FLIGHT);
            assert_eq!(answers.count().await, burst);
        }
    });
    let open = Arc::new(Mutex::new(bench.runtime.block_on(bare.open(bare::ECHO))?));
    let frames = timed(move || {
        let open = open.clone();
        async move { coalesced(&mut *open.lock().await, burst).await.expect("the server echoes") }
    });
    let throughput = Some(Throughput::Elements(burst as u64));
    let plan = Plan { turn: 1, samples: 20, pieces: 1, throughput };
    let contenders = [("diai calls", ours), ("coalesced frames", frames), ("request-response", request_response)];
    let [ours, frames, request_response] = contest::run(bench, "throughput", plan, contenders);
    let per_second = |times: &Times| burst as f64 / times.p50().as_secs_f64().max(f64::MIN_POSITIVE);
    let ratio = frames.over(&ours);
    bench.card.add(Row {
        what: "requests of 64 B with 64 in flight",
        ours: rate(per_second(&ours)),
        bare: format!(
            "coalesced frames on an open libp2p stream {}; libp2p request-response {}",
            rate(per_second(&frames)),
            rate(per_second(&request_response))
        ),
        ratio: format!("{ratio:.2}x the frames"),
        bar: "at least 0.25x",
        met: Some(ratio >= 0.25),
    });
    bench.runtime.block_on(async { futures::join!(client.shutdown(), server.shutdown()) });
    Ok(())
}

/// Sends `frames` frames, never more than 64 ahead of the echo, all that may go in one write.
async fn coalesced(stream: &mut Stream, frames: usize) -> std::io::Result<()> {
    let (block, mut buffer) = ([7; IN_FLIGHT * FRAME], vec![0; 64 << 10]);
    let (mut sent, mut back) = (0, 0);
    while back < frames * FRAME {
        let room = (IN_FLIGHT - (sent - back / FRAME)).min(frames - sent);
        if room > 0 {
            stream.write_all(&block[..room * FRAME]).await?;
            stream.flush().await?;
            sent += room;
        }
        match stream.read(&mut buffer).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            bytes => back += bytes,
        }
    }
    Ok(())
}
