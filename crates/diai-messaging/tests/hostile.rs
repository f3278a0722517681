//! A peer that does what no honest one does. It loses its session; others are served.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Agent, echo, until};
use diai_core::{
    AcceptOptions, BoxStream, Bytes, CallOptions, Calls, Priority, Refusal, Reply, memory::Sim, service_fn, timeout_at,
};
use diai_messaging::{
    Config, Messaging, codec,
    message::{Frame, Hello, Limits, MAX_MESSAGE_BYTES, Mode, SESSION},
};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt, stream};

/// A peer that speaks frames by hand.
struct Raw(BoxStream);

fn limits() -> Limits {
    Limits {
        max_requests: 256,
        max_message_bytes: 1 << 20,
        request_window_bytes: 2 << 20,
        reply_window_bytes: 2 << 20,
        stream_window_bytes: 1 << 20,
    }
}

fn hello() -> Frame<'static> {
    Frame::Hello(Hello { incarnation: 5, number: 1, seen_incarnation: 0, seen_number: 0, limits: limits() })
}

fn request(id: u64, service: &str, total: usize, body: &'static [u8]) -> Frame<'static> {
    let service = Box::leak(service.to_owned().into_boxed_str());
    let total = u32::try_from(total).unwrap();
    Frame::Request { id, mode: Mode::Whole, priority: Priority::Normal, deadline_ms: 60_000, total, service, body }
}

fn encoded<'a>(frames: impl IntoIterator<Item = Frame<'a>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        codec::encode(&frame, &mut bytes);
    }
    bytes
}

impl Raw {
    async fn open(from: &Agent, to: &Agent) -> Self {
        Self(from.world.network.open(to.peer(), &[SESSION]).await.unwrap().stream)
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// All that comes until the other side ends the stream.
    async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // The end may be a reset.
        let _ = self.0.read_to_end(&mut bytes).await;
        bytes
    }
}

/// Bob serves; the hostile peer sends `bytes`. Returns after its session has ended, with what it got and how often a
/// handler ran.
fn attack(bytes: impl FnOnce() -> Vec<u8> + Send + 'static) -> (Vec<u8>, usize) {
    let sim = Sim::new(1);
    let (mallory, bob) = Agent::two(&sim);
    let carol = Agent::join(&sim, 3);
    sim.run(async move {
        let (b, c) = (bob.messaging(), carol.messaging());
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let hangs = service_fn(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { std::future::pending().await }
        });
        let _served = [b.register("echo", echo()).unwrap(), b.register("hangs", hangs).unwrap()];
        let raw = Raw::open(&mallory, &bob).await;
        let bytes = bytes();
        let (mut reader, mut writer) = raw.0.split();
        let write = async {
            // It may be cut off amid the write.
            let _ = writer.write_all(&bytes).await;
            let _ = writer.flush().await;
        };
        let mut got = Vec::new();
        let read = async {
            let _ = reader.read_to_end(&mut got).await;
        };
        futures::join!(write, read);
        until(&bob.world, || b.status().sessions == 0).await;
        assert_eq!(b.status().violations, 1);
        assert_serves(&c, &carol, &bob).await;
        (got, runs.load(Ordering::Relaxed))
    })
}

async fn assert_serves(c: &Messaging, carol: &Agent, bob: &Agent) {
    carol.world.network.connect(bob.peer(), vec![]).await.unwrap();
    let answer = c.call(bob.identity.agent(), "echo", Bytes::from("still"), CallOptions::default()).await;
    assert_eq!(answer.unwrap(), "still");
}

#[test]
fn garbage_ends_the_session() {
    attack(|| vec![0xff; 100_000]);
}

#[test]
fn a_request_before_hello_ends_the_session() {
    let (_, runs) = attack(|| encoded([request(1, "hangs", 0, b"")]));
    assert_eq!(runs, 0);
}

#[test]
fn a_second_hello_ends_the_session() {
    attack(|| encoded([hello(), hello()]));
}

#[test]
fn limits_that_nobody_can_work_with_end_the_session() {
    attack(|| {
        let limits = Limits { request_window_bytes: 0, ..limits() };
        encoded([Frame::Hello(Hello { incarnation: 5, number: 1, seen_incarnation: 0, seen_number: 0, limits })])
    });
}

#[test]
fn a_repeated_request_runs_once_and_ends_the_session() {
    let (_, runs) = attack(|| encoded([hello(), request(7, "hangs", 0, b""), request(7, "hangs", 0, b"")]));
    assert!(runs <= 1, "a duplicate never runs");
}

#[test]
fn a_request_over_the_limit_ends_the_session() {
    attack(|| encoded([hello(), request(1, "echo", MAX_MESSAGE_BYTES + 1, b"x")]));
}

#[test]
fn a_short_request_in_pieces_ends_the_session() {
    attack(|| encoded([hello(), request(1, "hangs", 2, b"x")]));
}

#[test]
fn requests_beyond_the_credit_end_the_session() {
    attack(|| encoded([hello()].into_iter().chain((1..=3).map(|id| request(id, "echo", MAX_MESSAGE_BYTES, b"x")))));
}

#[test]
fn more_body_than_announced_ends_the_session() {
    attack(|| encoded([hello(), request(1, "echo", 10, b"12345"), Frame::RequestData { id: 1, body: b"123456" }]));
}

#[test]
fn an_answer_that_nobody_asked_for_ends_the_session() {
    attack(|| encoded([hello(), Frame::Response { id: 1, total: 1, body: b"x" }]));
    attack(|| encoded([hello(), Frame::ReplyData { id: 1, body: b"x" }]));
    attack(|| encoded([hello(), Frame::Cancelled { id: 1 }]));
}

#[test]
fn a_request_after_bye_ends_the_session() {
    let (_, runs) = attack(|| encoded([hello(), Frame::Bye, request(1, "hangs", 0, b"")]));
    assert_eq!(runs, 0);
}

#[test]
fn ten_thousand_requests_at_once_are_answered_busy_and_others_are_served() {
    let sim = Sim::new(2);
    let (mallory, bob) = Agent::two(&sim);
    let carol = Agent::join(&sim, 3);
    sim.run(async move {
        let (b, c) = (bob.messaging(), carol.messaging());
        let hangs = service_fn(|_| async { std::future::pending().await });
        let _served = [b.register("echo", echo()).unwrap(), b.register("hangs", hangs).unwrap()];
        let mut raw = Raw::open(&mallory, &bob).await;
        raw.send(&encoded([hello()].into_iter().chain((1..=10_000).map(|id| request(id, "hangs", 0, b""))))).await;
        until(&bob.world, || b.status().open_requests == 256).await;
        assert_serves(&c, &carol, &bob).await;
        let mut buffer = vec![0; 1 << 20];
        let (mut have, mut busy) = (0, 0);
        while busy < 10_000 - 256 {
            have += raw.0.read(&mut buffer[have..]).await.unwrap();
            let mut start = 0;
            while let Some((frame, length)) = codec::decode(&buffer[start..have]).unwrap() {
                match frame {
                    Frame::Hello(_) => {}
                    Frame::Refusal { refusal: Refusal::Busy { retry_after_ms: 250 }, .. } => busy += 1,
                    other => panic!("{other:?}"),
                }
                start += length;
            }
            buffer.copy_within(start..have, 0);
            have -= start;
        }
        drop(raw);
        until(&bob.world, || b.status().sessions == 1).await;
    });
}

#[test]
fn a_peer_that_never_reads_is_not_read_from_and_is_cut_off() {
    let sim = Sim::new(3);
    let (mallory, bob) = Agent::two(&sim);
    let carol = Agent::join(&sim, 3);
    sim.run(async move {
        let (b, c) = (bob.messaging(), carol.messaging());
        let _served = b.register("echo", echo()).unwrap();
        let mut raw = Raw::open(&mallory, &bob).await;
        let mut sent = 0;
        raw.send(&encoded([hello()])).await;
        let pings = encoded((0..1000).map(|token| Frame::Ping { token }));
        let flood = async {
            while raw.0.write_all(&pings).await.is_ok() && sent < 200 << 20 {
                sent += pings.len();
            }
        };
        let clock = mallory.world.clock.clone();
        let _ = timeout_at(&*clock, clock.now() + Duration::from_secs(29), flood).await;
        assert!(sent < 4 << 20, "{sent} bytes were taken without an answer being read");
        assert_serves(&c, &carol, &bob).await;
        until(&bob.world, || b.status().sessions == 1).await;
    });
}

#[test]
fn a_peer_that_never_reads_its_answers_holds_no_more_than_the_cap() {
    let sim = Sim::new(4);
    let (mallory, bob) = Agent::two(&sim);
    sim.run(async move {
        let b = bob.messaging_with(Config { max_reply_bytes: 1 << 20, ..Config::default() });
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let big = service_fn(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Ok(Bytes::from(vec![0; 60_000]).into()) }
        });
        let _served = b.register("big", big).unwrap();
        let mut raw = Raw::open(&mallory, &bob).await;
        raw.send(&encoded([hello()].into_iter().chain((1..=250).map(|id| request(id, "big", 0, b""))))).await;
        until(&bob.world, || b.status().sessions == 0).await;
        let ran = runs.load(Ordering::Relaxed);
        assert!(ran < 40, "{ran} answers of 60 kB were made for a peer that takes none");
    });
}

#[test]
fn answers_that_nobody_takes_hold_up_no_sign_of_life() {
    let sim = Sim::new(6);
    let (mallory, bob) = Agent::two(&sim);
    sim.run(async move {
        let b = bob.messaging();
        let body = Bytes::from(vec![0; 1 << 20]);
        let big = service_fn(move |_| {
            let body = body.clone();
            async { Ok(body.into()) }
        });
        let signs = Arc::new(AtomicUsize::new(0));
        let (counted, clock) = (signs.clone(), bob.world.clock.clone());
        let alive = service_fn(move |_| {
            let (counted, clock) = (counted.clone(), clock.clone());
            async move {
                let parts = stream::unfold((), move |()| {
                    let (counted, clock) = (counted.clone(), clock.clone());
                    async move {
                        clock.sleep_until(clock.now() + Duration::from_secs(1)).await;
                        counted.fetch_add(1, Ordering::Relaxed);
                        Some((Ok(Bytes::new()), ()))
                    }
                });
                Ok(Reply::Parts(parts.boxed()))
            }
        });
        let _served = [b.register("big", big).unwrap(), b.register("alive", alive).unwrap()];
        let mut raw = Raw::open(&mallory, &bob).await;
        let Frame::Request { deadline_ms, .. } = request(1, "alive", 0, b"") else { panic!() };
        let (mode, priority) = (Mode::Streaming, Priority::High);
        let alive = Frame::Request { id: 1, mode, priority, deadline_ms, total: 0, service: "alive", body: b"" };
        let bulk = (2..=200).map(|id| request(id, "big", 0, b""));
        raw.send(&encoded([hello(), alive].into_iter().chain(bulk))).await;
        until(&bob.world, || signs.load(Ordering::Relaxed) >= 10).await;
        drop(raw);
    });
}

#[test]
fn what_came_before_the_end_of_the_stream_is_the_callers() {
    let sim = Sim::new(7);
    let (alice, mallory) = Agent::two(&sim);
    sim.run(async move {
        let a = alice.messaging();
        let mut incoming = mallory.world.network.accept(&[SESSION], AcceptOptions::default()).unwrap();
        alice.world.network.connect(mallory.peer(), vec![]).await.unwrap();
        let hasty = async {
            let mut raw = Raw(incoming.next().await.unwrap().stream);
            raw.send(&encoded([hello()])).await;
            let mut bytes = vec![0; 1 << 16];
            let mut have = 0;
            let id = 'request: loop {
                have += raw.0.read(&mut bytes[have..]).await.unwrap();
                let mut start = 0;
                while let Some((frame, length)) = codec::decode(&bytes[start..have]).unwrap() {
                    if let Frame::Request { id, .. } = frame {
                        break 'request id;
                    }
                    start += length;
                }
            };
            let part = |body| Frame::Part { id, total: 3, body };
            raw.send(&encoded([part(b"one"), part(b"two"), Frame::End { id }])).await;
            raw.0.close().await.unwrap();
            raw
        };
        let to = mallory.identity.agent();
        let ask = async {
            let parts = a.call_streaming(to, "any", Bytes::new(), CallOptions::default()).await.unwrap();
            parts.map(|part| part.unwrap()).collect::<Vec<_>>().await
        };
        let (parts, _raw) = futures::join!(ask, hasty);
        assert_eq!(parts, ["one", "two"]);
    });
}

#[test]
fn a_peer_that_opens_a_session_and_says_nothing_is_let_go() {
    let sim = Sim::new(5);
    let (mallory, bob) = Agent::two(&sim);
    sim.run(async move {
        let b = bob.messaging();
        let mut raws = Vec::new();
        for _ in 0..10 {
            raws.push(Raw::open(&mallory, &bob).await);
        }
        until(&bob.world, || b.status().sessions > 0).await;
        assert_eq!(b.status().sessions, Config::default().max_sessions_per_peer, "the others were refused");
        until(&bob.world, || b.status().sessions == 0).await;
        for mut raw in raws {
            raw.rest().await;
        }
    });
}
