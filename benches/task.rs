//! A tiny WASM task on another agent, its program warm and its result inline, against a call to the same agent, and
//! against an echo on an open stream.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use diai::{Bytes, CallOptions, Calls, TaskSpec, blocks::AddOptions};

use crate::{
    Bench, Failure, Result, agents,
    bare::{self, BODY, Security},
    card::{Row, short},
    contest::{self, Plan, timed},
    round_trip::echo,
};

/// Writes two bytes to its standard output.
const TINY: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\08\00\00\00\02\00\00\00ok")
  (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))"#;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().to_owned();
    let program = wat::parse_str(TINY)?;
    let (worker, asker, program) = bench.runtime.block_on(async move {
        let worker = agents::echoing(&path, "worker").serve_tasks(true).start().await?;
        let asker = agents::agent(&path, "asker").start().await?;
        agents::connect(&asker, &worker).await?;
        let program = asker.blocks().add_bytes(program, AddOptions::default()).await?.cid;
        // The worker fetches and compiles it.
        let output = asker.tasks().run_on(TaskSpec::wasm(program), vec![worker.id()]).result().await?;
        assert_eq!(output.worker, worker.id());
        Ok::<_, Failure>((worker, asker, program))
    })?;

    let (tasks, to, number) = (asker.tasks().clone(), worker.id(), Arc::new(AtomicU64::new(0)));
    let ours = timed(move || {
        let (tasks, number) = (tasks.clone(), number.fetch_add(1, Ordering::Relaxed));
        async move {
            // A task that was done before would not be run again.
            let spec = TaskSpec::wasm(program).nonce(number);
            let output = tasks.run_on(spec, vec![to]).result().await.expect("the worker runs it");
            assert_eq!(output.worker, to);
            assert_eq!(output.stdout().inline.as_deref(), Some(&b"ok"[..]));
        }
    });
    let calls = asker.messaging().clone();
    let call = timed(move || {
        let (calls, body) = (calls.clone(), Bytes::from_static(&[7; BODY]));
        async move { drop(calls.call(to, agents::ECHO, body, CallOptions::default()).await.expect("it is served")) }
    });
    let plan = Plan { turn: 16, samples: 50, pieces: 16, throughput: None };
    let (_server, tls) = bench.on_workers(bare::pair(Security::Tls))?;
    let contenders = [("diai task", ours), ("round trip", call), ("open stream echo", echo(bench, &tls)?)];
    let [ours, call, echo] = contest::run(bench, "task", plan, contenders);
    let (ratio, over_echo) = (ours.over(&call), ours.over(&echo));
    bench.card.add(Row {
        what: "tiny WASM task on a peer, warm, result inline and signed, p50 (p99)",
        ours: format!("{} ({})", short(ours.p50()), short(ours.p99())),
        bare: format!(
            "a call to the same peer {} ({}); echo on an open libp2p stream {}",
            short(call.p50()),
            short(call.p99()),
            short(echo.p50())
        ),
        ratio: format!("{ratio:.2}x the call, {over_echo:.2}x the echo"),
        bar: "at most 3x the call",
        met: Some(ratio <= 3.0),
    });
    bench.runtime.block_on(async { futures::join!(asker.shutdown(), worker.shutdown()) });
    Ok(())
}
