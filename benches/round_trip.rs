//! A request of 64 bytes and its answer: a call, against an echo on an open stream, and against request-response.

use std::sync::Arc;

use diai::{Bytes, CallOptions, Calls};
use futures::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;

use crate::{
    Bench, Result, agents,
    bare::{self, BODY, Security},
    card::{Row, short},
    contest::{self, Plan, timed},
};

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, client) = bench.on_workers(agents::pair(folder.path().to_owned()))?;
    let (_tls_server, tls) = bench.on_workers(bare::pair(Security::Tls))?;
    let (_noise_server, noise) = bench.on_workers(bare::pair(Security::Noise))?;

    let (calls, to) = (client.messaging().clone(), server.id());
    let ours = timed(move || {
        let (calls, body) = (calls.clone(), Bytes::from_static(&[7; BODY]));
        async move {
            let answer = calls.call(to, agents::ECHO, body, CallOptions::default()).await.expect("it is served");
            assert_eq!(answer.len(), BODY);
        }
    });
    let caller = tls.caller();
    let request_response = timed(move || {
        let caller = caller.clone();
        async move { assert_eq!(caller.call([7; BODY]).await, [7; BODY]) }
    });
    let plan = Plan { turn: 64, samples: 50, pieces: 100, throughput: None };
    let contenders = [
        ("diai call", ours),
        ("open stream echo", echo(bench, &tls)?),
        ("open stream echo, Noise", echo(bench, &noise)?),
        ("request-response", request_response),
    ];
    let [ours, echo, noise, request_response] = contest::run(bench, "round_trip", plan, contenders);
    let ratio = ours.over(&echo);
    bench.card.add(Row {
        what: "round trip of a 64 B request, p50 (p99)",
        ours: format!("{} ({})", short(ours.p50()), short(ours.p99())),
        bare: format!(
            "echo on an open libp2p stream {} ({}), with Noise {}; libp2p request-response {} ({})",
            short(echo.p50()),
            short(echo.p99()),
            short(noise.p50()),
            short(request_response.p50()),
            short(request_response.p99())
        ),
        ratio: format!("{ratio:.2}x the echo"),
        bar: "at most 1.4x",
        met: Some(ratio <= 1.4),
    });
    bench.runtime.block_on(async { futures::join!(client.shutdown(), server.shutdown()) });
    Ok(())
}

pub(crate) fn echo(bench: &Bench, client: &bare::Client) -> Result<contest::Work> {
    let stream = Arc::new(Mutex::new(bench.runtime.block_on(client.open(bare::ECHO))?));
    Ok(timed(move || {
        let stream = stream.clone();
        async move {
            let (mut stream, mut body) = (stream.lock().await, [7; BODY]);
            stream.write_all(&body).await.expect("the stream is open");
            stream.flush().await.expect("the stream is open");
            stream.read_exact(&mut body).await.expect("the server echoes");
        }
    }))
}
