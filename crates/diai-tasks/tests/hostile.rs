//! Agents that do not keep to the protocol: what they send is refused, they are cut off, and the others are served.

#![allow(clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::{Group, Peer, guests};
use diai_core::{AgentId, CallError, CallOptions, Calls, Refusal, Registration, Reply, Request, service_fn};
use diai_identity::{Domain, Identity};
use diai_tasks::{Config, NativeOutput, RunEvent, TaskSpec, native_fn};
use futures::{FutureExt, StreamExt, future, stream};
use prost::Message;

const RESULT: Domain = Domain::new("diai/task-result/1");

/// The messages as a stranger would write them down from the `.proto` file.
#[allow(unreachable_pub, reason = "the derive makes public items")]
mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Award {
        #[prost(bytes = "vec", tag = "1")]
        pub attempt: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub spec: Vec<u8>,
        #[prost(bytes = "vec", repeated, tag = "3")]
        pub proofs: Vec<Vec<u8>>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Bid {
        #[prost(uint32, tag = "5")]
        pub free_slots: u32,
        #[prost(bool, tag = "6")]
        pub program_held: bool,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Part {
        #[prost(message, optional, tag = "2")]
        pub keep_alive: Option<Nothing>,
        #[prost(bytes = "vec", optional, tag = "5")]
        pub result: Option<Vec<u8>>,
        #[prost(message, optional, tag = "6")]
        pub fault: Option<Fault>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Fault {
        #[prost(uint32, tag = "1")]
        pub kind: u32,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Nothing {}
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct TaskResult {
        #[prost(bytes = "vec", tag = "1")]
        pub task: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub attempt: Vec<u8>,
        #[prost(message, optional, tag = "3")]
        pub done: Option<Done>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Done {
        #[prost(message, optional, tag = "1")]
        pub stdout: Option<Artifact>,
        #[prost(message, repeated, tag = "2")]
        pub files: Vec<File>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct File {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(message, optional, tag = "2")]
        pub artifact: Option<Artifact>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Artifact {
        #[prost(bytes = "vec", tag = "1")]
        pub cid: Vec<u8>,
        #[prost(uint64, tag = "2")]
        pub bytes: u64,
        #[prost(bytes = "vec", optional, tag = "3")]
        pub inline: Option<Vec<u8>>,
    }
}

/// What a true worker would answer to an award.
fn honest(award: &wire::Award) -> wire::TaskResult {
    let stdout = wire::Artifact { cid: common::raw_cid(b"").to_bytes(), bytes: 0, inline: Some(vec![]) };
    let done = wire::Done { stdout: Some(stdout), files: vec![] };
    wire::TaskResult { task: common::raw_cid(&award.spec).to_bytes(), attempt: award.attempt.clone(), done: Some(done) }
}

fn result_part(signer: &Identity, domain: Domain, result: &wire::TaskResult) -> Bytes {
    let signed = signer.sign(domain, result.encode_to_vec());
    wire::Part { result: Some(signed.to_bytes().to_vec()), keep_alive: None, fault: None }.encode_to_vec().into()
}

/// Bids better than anybody, and answers awards as `answer` says.
fn lure(
    peer: &Peer,
    answer: impl Fn(wire::Award) -> Result<Reply, Refusal> + Send + Sync + 'static,
) -> [Registration; 2] {
    peer.directory.add(peer.agent);
    let bid = service_fn(|_| async { Ok(wire::Bid { free_slots: 9, program_held: true }.encode_to_vec().into()) });
    let run =
        service_fn(move |request: Request| future::ready(answer(wire::Award::decode(request.body).expect("an award"))));
    [peer.calls.register("diai.task.offer", bid).unwrap(), peer.calls.register("diai.task.run", run).unwrap()]
}

fn parts(parts: Vec<Bytes>) -> Result<Reply, Refusal> {
    Ok(Reply::Parts(stream::iter(parts.into_iter().map(Ok)).boxed()))
}

/// Alice's task goes to Mallory first, who answers like that; Bob finishes it. Whether Mallory was cut off.
fn deceived<F>(answer: impl FnOnce(Peer, Peer) -> F) -> bool
where
    F: Fn(wire::Award) -> Result<Reply, Refusal> + Send + Sync + 'static,
{
    let group = Group::new(30, 3);
    let [alice, bob, mallory] = group.peers.clone().try_into().ok().unwrap();
    let answer = answer(mallory.clone(), bob.clone());
    group.sim.run(async move {
        alice.world.network.connect(mallory.peer, vec![]).await.unwrap();
        let _lure = lure(&mallory, answer);
        let _worker = bob.start(Config::serving());
        let tasks = alice.start(Config { allow_local: false, ..Config::default() });
        let mut handle = tasks.run(alice.program(guests::NOTHING));
        let events: Vec<_> = handle.events().unwrap().collect().await;
        assert_eq!(handle.await.map(|output| output.worker), Ok(bob.agent), "{events:?}");
        let lost = |event: &RunEvent| matches!(event, RunEvent::WorkerLost { agent, .. } if *agent == mallory.agent);
        assert!(events.iter().any(lost), "{events:?}");
        alice.world.network.peer(mallory.peer).is_none()
    })
}

#[test]
fn the_counterfeit_differs_from_the_real_only_where_a_test_says_so() {
    let group = Group::new(31, 2);
    let [alice, mallory] = group.peers.clone().try_into().ok().unwrap();
    group.sim.run(async move {
        let identity = mallory.identity.clone();
        let _worker = lure(&mallory, move |award| parts(vec![result_part(&identity, RESULT, &honest(&award))]));
        let tasks = alice.start(Config { allow_local: false, ..Config::default() });
        assert_eq!(tasks.run(alice.program(guests::NOTHING)).await.unwrap().worker, mallory.agent);
    });
}

#[test]
fn a_result_signed_by_another_agent_is_not_believed() {
    assert!(deceived(|_, bob| move |award| parts(vec![result_part(&bob.identity, RESULT, &honest(&award))])));
}

#[test]
fn a_result_signed_for_another_purpose_is_not_believed() {
    const OTHER: Domain = Domain::new("diai/agent-record/1");
    assert!(deceived(|mallory, _| move |award| parts(vec![result_part(&mallory.identity, OTHER, &honest(&award))])));
}

#[test]
fn a_result_of_another_attempt_is_not_believed() {
    assert!(deceived(|mallory, _| move |award| {
        let replayed = wire::TaskResult { attempt: vec![7; 16], ..honest(&award) };
        parts(vec![result_part(&mallory.identity, RESULT, &replayed)])
    }));
}

#[test]
fn a_result_of_another_task_is_not_believed() {
    assert!(deceived(|mallory, _| move |award| {
        let other = wire::TaskResult { task: common::raw_cid(b"another").to_bytes(), ..honest(&award) };
        parts(vec![result_part(&mallory.identity, RESULT, &other)])
    }));
}

fn with_output(award: &wire::Award, artifact: wire::Artifact, name: &str) -> wire::TaskResult {
    let mut result = honest(award);
    result.done.as_mut().unwrap().files = vec![wire::File { name: name.into(), artifact: Some(artifact) }];
    result
}

#[test]
fn inline_content_that_does_not_hash_to_its_cid_is_not_believed() {
    assert!(deceived(|mallory, _| move |award| {
        let cid = common::raw_cid(b"truth").to_bytes();
        let artifact = wire::Artifact { cid, bytes: 5, inline: Some(b"wrong".to_vec()) };
        parts(vec![result_part(&mallory.identity, RESULT, &with_output(&award, artifact, "a"))])
    }));
}

#[test]
fn outputs_that_would_leave_their_folder_are_not_believed() {
    for name in ["../a", "/a", "a//b", "a/../b", "a\\b", ""] {
        assert!(deceived(|mallory, _| move |award| {
            let cid = common::raw_cid(b"truth").to_bytes();
            let artifact = wire::Artifact { cid, bytes: 5, inline: Some(b"truth".to_vec()) };
            parts(vec![result_part(&mallory.identity, RESULT, &with_output(&award, artifact, name))])
        }));
    }
}

#[test]
fn outputs_over_the_limit_of_the_task_are_not_fetched() {
    assert!(!deceived(|mallory, _| move |award| {
        let cid = common::raw_cid(b"a lot").to_bytes();
        let artifact = wire::Artifact { cid, bytes: 1 << 50, inline: None };
        parts(vec![result_part(&mallory.identity, RESULT, &with_output(&award, artifact, "a"))])
    }));
}

#[test]
fn a_worker_whose_outputs_cannot_be_had_has_not_done_the_task() {
    assert!(!deceived(|mallory, _| move |award| {
        let cid = common::raw_cid(b"never stored").to_bytes();
        let artifact = wire::Artifact { cid, bytes: 12, inline: None };
        parts(vec![result_part(&mallory.identity, RESULT, &with_output(&award, artifact, "a"))])
    }));
}

#[test]
fn parts_that_are_no_messages_cut_the_worker_off() {
    assert!(deceived(|_, _| |_| parts(vec![Bytes::from_static(b"\xff\xff\xff")])));
    assert!(deceived(|_, _| |_| parts(vec![Bytes::new()])));
    assert!(deceived(|_, _| |_| parts(vec![Bytes::from(vec![0x2a; 2 << 20])])));
}

#[test]
fn a_worker_that_ends_without_a_result_is_lost() {
    assert!(!deceived(|_, _| |_| parts(vec![])));
}

fn alive() -> Bytes {
    wire::Part { keep_alive: Some(wire::Nothing {}), result: None, fault: None }.encode_to_vec().into()
}

/// Alice's task goes to Mallory first, who answers like that; then, if he is there, to Bob. What came of it, and when.
fn beside_the_silent<F>(
    bob_serves: bool,
    answer: impl FnOnce(Peer, Peer) -> F,
) -> (Result<AgentId, &'static str>, Vec<RunEvent>, Duration, [AgentId; 2])
where
    F: Fn(wire::Award) -> Result<Reply, Refusal> + Send + Sync + 'static,
{
    let group = Group::new(32, 3);
    let [alice, bob, mallory] = group.peers.clone().try_into().ok().unwrap();
    let answer = answer(mallory.clone(), alice.clone());
    group.sim.run(async move {
        alice.world.network.connect(mallory.peer, vec![]).await.unwrap();
        let _lure = lure(&mallory, answer);
        let _worker = bob_serves.then(|| bob.start(Config::serving()));
        let tasks = alice.start(Config { allow_local: false, ..Config::default() });
        let began = alice.world.clock.now();
        let mut handle = tasks.run(alice.program(guests::NOTHING));
        let events: Vec<_> = handle.events().unwrap().collect().await;
        let result = handle.await.map(|output| output.worker).map_err(|error| error.code());
        assert!(alice.world.network.peer(mallory.peer).is_some(), "silence is no misdeed");
        (result, events, alice.world.clock.now().since(began), [bob.agent, mallory.agent])
    })
}

fn silent(events: &[RunEvent], agent: AgentId) -> bool {
    events.contains(&RunEvent::WorkerSilent { agent })
}

#[test]
fn after_three_seconds_of_silence_another_is_tried_and_nobody_is_blamed() {
    for early in [vec![], vec![alive()]] {
        let (result, events, took, [bob, mallory]) = beside_the_silent(true, |_, _| {
            move |_| Ok(Reply::Parts(stream::iter(early.clone().into_iter().map(Ok)).chain(stream::pending()).boxed()))
        });
        assert_eq!(result, Ok(bob), "{events:?}");
        assert!(silent(&events, mallory) && !events.iter().any(|event| matches!(event, RunEvent::WorkerLost { .. })));
        assert!(took >= Duration::from_secs(3) && took < Duration::from_millis(3_200), "{took:?}");
    }
}

#[test]
fn who_was_silent_may_still_bring_the_result_and_is_waited_for_if_there_is_nobody_else() {
    let (result, events, took, [_, mallory]) = beside_the_silent(false, |mallory, alice| {
        move |award| {
            let part = result_part(&mallory.identity, RESULT, &honest(&award));
            let late = alice.world.clock.sleep_until(alice.world.clock.now() + Duration::from_secs(20));
            Ok(Reply::Parts(stream::once(late.map(|()| Ok(part))).boxed()))
        }
    });
    assert_eq!(result, Ok(mallory), "{events:?}");
    assert!(silent(&events, mallory));
    assert!(took >= Duration::from_secs(20) && took < Duration::from_millis(20_100), "{took:?}");
}

#[test]
fn only_the_deadline_ends_the_wait_for_the_only_worker() {
    let (result, events, took, [_, mallory]) =
        beside_the_silent(false, |_, _| |_| Ok(Reply::Parts(stream::pending().boxed())));
    assert_eq!((result, silent(&events, mallory)), (Err("deadline"), true), "{events:?}");
    assert_eq!(took, Duration::from_secs(60));
}

#[test]
fn a_silent_worker_that_fails_after_all_is_lost() {
    let (result, events, _, [_, mallory]) = beside_the_silent(false, |_, alice| {
        move |_| {
            let late = alice.world.clock.sleep_until(alice.world.clock.now() + Duration::from_secs(20));
            Ok(Reply::Parts(stream::once(late.map(|()| Ok(Bytes::from_static(b"\x32\x02\x08\x02")))).boxed()))
        }
    });
    assert_eq!(result, Err("no_worker"), "{events:?}");
    assert!(events.iter().any(|event| matches!(event, RunEvent::WorkerLost { agent, .. } if *agent == mallory)));
}

#[test]
fn a_service_is_taken_from_a_silent_worker_before_another_gets_it() {
    let group = Group::new(34, 2);
    let [alice, mallory] = group.peers.clone().try_into().ok().unwrap();
    group.sim.run(async move {
        let _lure = lure(&mallory, |_| Ok(Reply::Parts(stream::pending().boxed())));
        let tasks = alice.start(Config { allow_local: false, ..Config::default() });
        let began = alice.world.clock.now();
        let error = tasks.run(TaskSpec::service("anything")).await.unwrap_err();
        assert_eq!(error.code(), "no_worker");
        let took = alice.world.clock.now().since(began);
        // It is counted in slices, each rounded up to the timer's milliseconds.
        assert!(took >= Duration::from_secs(3) && took < Duration::from_millis(3_010), "{took:?}");
    });
}

#[test]
fn however_many_stay_silent_a_task_comes_back_to_its_agent() {
    let group = Group::new(35, 9);
    let (alice, liars) = (group.peers[0].clone(), group.peers[1..].to_vec());
    group.sim.run(async move {
        let _lures: Vec<_> =
            liars.iter().map(|liar| lure(liar, |_| Ok(Reply::Parts(stream::pending().boxed())))).collect();
        let output = alice.start(Config::default()).run(alice.program(guests::NOTHING)).await.unwrap();
        assert_eq!(output.worker, alice.agent);
    });
}

#[test]
fn after_all_attempts_have_failed_the_task_is_run_here() {
    let group = Group::new(36, 5);
    let (alice, liars) = (group.peers[0].clone(), group.peers[1..].to_vec());
    group.sim.run(async move {
        let _lures: Vec<_> = liars.iter().map(|liar| lure(liar, |_| parts(vec![]))).collect();
        let output = alice.start(Config::default()).run(alice.program(guests::NOTHING)).await.unwrap();
        assert_eq!(output.worker, alice.agent);
    });
}

/// A worker, and Mallory's calls to it.
fn attacked<R>(test: impl AsyncFnOnce(Peer, Peer) -> R) -> R {
    let group = Group::new(33, 2);
    let [bob, mallory] = group.peers.clone().try_into().ok().unwrap();
    group.sim.run(async move {
        bob.world.network.connect(mallory.peer, vec![]).await.unwrap();
        let _worker = bob.start(Config::serving());
        test(bob, mallory).await
    })
}

async fn call(mallory: &Peer, to: AgentId, service: &str, body: Bytes) -> Result<Vec<Bytes>, CallError> {
    let parts = mallory.calls.call_streaming(to, service, body, CallOptions::default()).await?;
    parts.collect::<Vec<_>>().await.into_iter().collect()
}

#[test]
fn offers_and_awards_that_are_no_messages_are_refused_and_cost_the_connection() {
    let not_canonical = |spec: &[u8]| [spec, &[0x30, 0x00]].concat();
    for service in ["diai.task.offer", "diai.task.run"] {
        for broken in [vec![0xff; 64], vec![0x0a; 1 << 20], vec![], not_canonical(&[])] {
            attacked(async |bob, mallory| {
                let result = call(&mallory, bob.agent, service, broken.into()).await;
                let refused = matches!(result, Err(CallError::Refused { refusal: Refusal::BadRequest { .. }, .. }));
                assert!(refused, "{result:?}");
                assert!(bob.world.network.peer(mallory.peer).is_none());
            });
        }
    }
}

fn award(attempt: u8, spec: &[u8]) -> Bytes {
    wire::Award { attempt: vec![attempt; 16], spec: spec.to_vec(), proofs: vec![] }.encode_to_vec().into()
}

/// The canonical bytes of a task, as a requester sends them.
async fn spec_bytes(bob: &Peer, mallory: &Peer, spec: TaskSpec) -> Vec<u8> {
    let (sender, receiver) = futures::channel::oneshot::channel();
    let sender = Arc::new(std::sync::Mutex::new(Some(sender)));
    let catcher = lure(mallory, move |award| {
        _ = sender.lock().unwrap().take().unwrap().send(award.spec);
        Err(Refusal::UnknownService)
    });
    let tasks = bob.start(Config { allow_local: false, ..Config::default() });
    _ = tasks.run_on(spec, vec![mallory.agent]).await;
    drop(catcher);
    receiver.await.unwrap()
}

#[test]
fn the_same_attempt_again_gives_the_same_answer_and_runs_nothing() {
    attacked(async |bob, mallory| {
        let spec = spec_bytes(&bob, &mallory, bob.program(guests::ORACLE)).await;
        let first = call(&mallory, bob.agent, "diai.task.run", award(1, &spec)).await.unwrap();
        let again = call(&mallory, bob.agent, "diai.task.run", award(1, &spec)).await.unwrap();
        let other = call(&mallory, bob.agent, "diai.task.run", award(2, &spec)).await.unwrap();
        assert_eq!(first, again);
        assert_ne!(first, other);
    });
}

#[test]
fn a_run_that_holds_its_thread_up_is_accepted_all_the_same() {
    common::on_threads(async |[bob, mallory]| {
        let worker = bob.start(Config::serving());
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Mutex::new(held);
        let stuck = native_fn(move |_, _| {
            // The time is only for a test that fails.
            _ = held.lock().unwrap().recv_timeout(Duration::from_secs(10));
            future::ready(Ok(NativeOutput::default()))
        });
        let _service = worker.register("stuck", stuck).unwrap();
        let spec = spec_bytes(&bob, &mallory, TaskSpec::service("stuck")).await;
        let options = CallOptions::default();
        let parts = mallory.calls.call_streaming(bob.agent, "diai.task.run", award(1, &spec), options).await;
        let first = wire::Part::decode(parts.unwrap().next().await.unwrap().unwrap()).unwrap();
        assert_eq!(first, wire::Part::default(), "neither sign of life nor result, but the acceptance");
        release.send(()).unwrap();
    });
}

#[test]
fn an_attempt_cannot_be_used_for_another_task() {
    attacked(async |bob, mallory| {
        let one = spec_bytes(&bob, &mallory, bob.program(guests::NOTHING)).await;
        let two = spec_bytes(&bob, &mallory, bob.program(guests::NOTHING).nonce(2)).await;
        call(&mallory, bob.agent, "diai.task.run", award(1, &one)).await.unwrap();
        let error = call(&mallory, bob.agent, "diai.task.run", award(1, &two)).await.unwrap_err();
        assert!(matches!(error, CallError::Refused { refusal: Refusal::BadRequest { .. }, .. }), "{error:?}");
    });
}

#[test]
fn nobody_reads_through_a_worker_what_is_sealed_for_that_worker() {
    let group = Group::new(47, 2);
    let [alice, bob] = group.peers.clone().try_into().ok().unwrap();
    group.sim.run(async move {
        let secret = bob.store.add_sealed("the price of the ring", 7);
        let _worker = bob.start(Config::serving());
        let tasks = alice.start(Config { allow_local: false, ..Config::default() });
        let spec = alice.program(guests::CAT).input("secret", secret);
        let refused = tasks.run_on(spec.clone(), vec![bob.agent]).await.unwrap_err();
        assert_eq!(refused.code(), "not_allowed", "{refused}");
        alice.store.grant(7);
        let read = tasks.run_on(spec, vec![bob.agent]).await.unwrap();
        assert_eq!(read.stdout().inline, None, "what is made of a secret is stored for its reader only");
        assert_eq!(tasks.content(read.stdout()).await.unwrap(), "the price of the ring");
        assert_eq!(bob.store.reader(&read.stdout().cid), Some(alice.agent));
    });
}

#[test]
fn a_proof_of_access_is_of_no_use_to_whoever_it_was_sent_to() {
    let group = Group::new(48, 3);
    let [alice, bob, mallory] = group.peers.clone().try_into().ok().unwrap();
    group.sim.run(async move {
        let secret = bob.store.add_sealed("the price of the ring", 7);
        alice.store.grant(7);
        let _worker = bob.start(Config::serving());
        let caught = Arc::new(std::sync::Mutex::new(None));
        let catch = caught.clone();
        let catcher = lure(&mallory, move |award| {
            *catch.lock().unwrap() = Some(award);
            Err(Refusal::UnknownService)
        });
        let tasks = alice.start(Config { allow_local: false, ..Config::default() });
        _ = tasks.run_on(alice.program(guests::CAT).input("secret", secret), vec![mallory.agent]).await;
        drop(catcher);
        let award = caught.lock().unwrap().take().unwrap();
        assert_eq!(award.proofs.first().map(Vec::len), Some(32));
        let answer = call(&mallory, bob.agent, "diai.task.run", award.encode_to_vec().into()).await.unwrap();
        let fault = answer.last().map(|part| wire::Part::decode(part.clone()).unwrap());
        assert_eq!(fault.and_then(|part| part.fault).map(|fault| fault.kind), Some(3), "{answer:?}");
    });
}
