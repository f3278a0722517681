//! Two session machines, frames carried between them by hand, under a hand-driven clock.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::pair::{Pair, carry, deliver, finished, limits, outputs, served};
use diai_core::{Footprint, Instant, Priority, Refusal};
use diai_messaging::{
    machine::{Answer, CallKey, Input, Outcome, Output},
    message::{Limits, MAX_INLINE_BYTES, Mode, PART_OVERHEAD_BYTES},
};
use proptest::prelude::*;

#[test]
fn an_answer_reaches_the_call_that_asked() {
    let mut pair = Pair::new();
    let keys: Vec<_> = (0..8).map(|bytes| pair.whole(bytes)).collect();
    let ids = pair.serve();
    for (index, &id) in ids.iter().enumerate().rev() {
        pair.server.handle(pair.now, Input::Reply(id, Answer::Whole(vec![index as u8; 3].into()))).unwrap();
    }
    let (mut at_caller, _) = pair.exchange();
    at_caller.sort_by_key(|output| match output {
        Output::Finished { key, .. } => *key,
        other => panic!("{other:?}"),
    });
    for (index, (key, output)) in keys.into_iter().zip(at_caller).enumerate() {
        assert_eq!(output, finished(key, Outcome::Whole(vec![index as u8; 3].into())));
    }
    assert_eq!((pair.caller.open_calls(), pair.server.open_requests()), (0, 0));
}

#[test]
fn a_long_request_and_a_long_answer_arrive_whole() {
    let mut pair = Pair::new();
    let body: Bytes = (0..200_000u32).map(|index| index as u8).collect::<Vec<_>>().into();
    let key = pair.call(Mode::Whole, body.clone(), Priority::Normal);
    let (_, at_server) = pair.exchange();
    let [Output::Serve { id, body: arrived, .. }] = &at_server[..] else { panic!("{at_server:?}") };
    assert_eq!(*arrived, body);
    pair.server.handle(pair.now, Input::Reply(*id, Answer::Whole(body.clone()))).unwrap();
    assert_eq!(pair.exchange().0, [finished(key, Outcome::Whole(body))]);
}

#[test]
fn a_short_request_overtakes_the_frames_of_a_long_one() {
    let mut pair = Pair::new();
    pair.call(Mode::Whole, vec![1; 250_000].into(), Priority::Low);
    let mut bytes = Vec::new();
    pair.caller.encode(pair.now, &mut bytes, 1);
    let urgent = pair.call(Mode::OneWay, Bytes::new(), Priority::High);
    let usual = pair.call(Mode::OneWay, Bytes::new(), Priority::Normal);
    deliver(pair.now, &bytes, &mut pair.server);
    let ids = pair.serve();
    assert_eq!(ids, [2, 3, 1], "high, normal, then the long one that began first");
    for id in [2, 3] {
        pair.server.handle(pair.now, Input::Reply(id, Answer::Whole(Bytes::new()))).unwrap();
    }
    assert_eq!(pair.exchange().0, [finished(urgent, Outcome::Done), finished(usual, Outcome::Done)]);
}

#[test]
fn long_requests_wait_for_credit_and_all_arrive_in_the_end() {
    let mut pair = Pair::new();
    // Four of 200 KiB: two fit the window of 512 KiB.
    let keys: Vec<_> = (0..4).map(|_| pair.whole(200 * 1024)).collect();
    let small = pair.whole(10);
    let mut open = pair.serve();
    assert_eq!(open.len(), 3, "two long ones, and the short one that needs no credit");
    let mut done = Vec::new();
    while let Some(id) = open.pop() {
        pair.server.handle(pair.now, Input::Reply(id, Answer::Whole(Bytes::new()))).unwrap();
        let (at_caller, at_server) = pair.exchange();
        done.extend(at_caller);
        open.extend(at_server.into_iter().map(served));
    }
    assert_eq!(done.len(), keys.len() + 1);
    assert!(done.contains(&finished(small, Outcome::Whole(Bytes::new()))));
    assert!(pair.server.footprint_bytes() < 4096, "nothing stays behind: {}", pair.server.footprint_bytes());
}

#[test]
fn no_more_requests_are_open_than_the_server_allows() {
    let mut pair = Pair::new();
    for _ in 0..40 {
        pair.whole(1);
    }
    let ids = pair.serve();
    assert_eq!(ids.len(), 16);
    for &id in &ids[..5] {
        pair.server.handle(pair.now, Input::Reply(id, Answer::Refuse(Refusal::UnknownService))).unwrap();
    }
    assert_eq!(pair.serve().len(), 5);
}

#[test]
fn a_deadline_ends_the_call_here_and_the_handler_there() {
    let mut pair = Pair::new();
    let key = pair.whole(1);
    let ids = pair.serve();
    pair.now = pair.caller.poll_timeout();
    pair.server.handle(pair.now, Input::Frame(diai_messaging::message::Frame::Pong { token: 0 })).unwrap();
    pair.caller.handle(pair.now, Input::Frame(diai_messaging::message::Frame::Pong { token: 0 })).unwrap();
    pair.now = Instant::default() + Duration::from_secs(30);
    pair.caller.handle(pair.now, Input::Timeout).unwrap();
    assert_eq!(outputs(&mut pair.caller), [finished(key, Outcome::Deadline)]);
    pair.server.handle(pair.now, Input::Timeout).unwrap();
    assert_eq!(outputs(&mut pair.server), [Output::Abort { id: ids[0] }]);
    // The cancel and the refusal cross; both sides have let go.
    pair.exchange();
    assert_eq!((pair.caller.open_calls(), pair.server.open_requests()), (0, 0));
}

#[test]
fn a_cancel_drops_the_handler_and_frees_the_place() {
    let mut pair = Pair::new();
    let key = pair.whole(1);
    let ids = pair.serve();
    pair.caller.handle(pair.now, Input::Cancel(key)).unwrap();
    let (at_caller, at_server) = pair.exchange();
    assert_eq!(at_caller, []);
    assert_eq!(at_server, [Output::Abort { id: ids[0] }]);
    assert_eq!((pair.caller.open_calls(), pair.server.open_requests()), (0, 0));
}

#[test]
fn a_cancel_amid_a_long_request_gives_its_credit_back() {
    let mut pair = Pair::new();
    for _ in 0..50 {
        let key = pair.whole(250_000);
        assert!(carry(pair.now, &mut pair.caller, &mut pair.server));
        pair.caller.handle(pair.now, Input::Cancel(key)).unwrap();
        let (_, at_server) = pair.exchange();
        assert_eq!(at_server, [], "it never became whole");
    }
    pair.whole(250_000);
    assert_eq!(pair.serve().len(), 1);
}

#[test]
fn a_cancel_amid_a_long_answer_gives_its_credit_back() {
    let mut pair = Pair::new();
    for _ in 0..50 {
        let key = pair.whole(1);
        let id = pair.serve()[0];
        pair.server.handle(pair.now, Input::Reply(id, Answer::Whole(vec![0; 250_000].into()))).unwrap();
        assert!(carry(pair.now, &mut pair.server, &mut pair.caller));
        pair.caller.handle(pair.now, Input::Cancel(key)).unwrap();
        assert_eq!(pair.exchange(), (vec![], vec![]));
    }
    let key = pair.whole(1);
    let id = pair.serve()[0];
    pair.server.handle(pair.now, Input::Reply(id, Answer::Whole(vec![0; 250_000].into()))).unwrap();
    assert_eq!(pair.exchange().0, [finished(key, Outcome::Whole(vec![0; 250_000].into()))]);
}

#[test]
fn a_streaming_answer_stops_at_its_credit_until_parts_are_taken() {
    let mut pair = Pair::new();
    let key = pair.call(Mode::Streaming, Bytes::new(), Priority::Normal);
    let id = pair.serve()[0];
    pair.server.handle(pair.now, Input::Reply(id, Answer::Parts)).unwrap();
    let mut sent = 0;
    while pair.server.wants_part(id) {
        pair.server.handle(pair.now, Input::Part(id, vec![0; 1000].into())).unwrap();
        sent += 1;
    }
    assert_eq!(sent, 4, "4 KiB of credit, 1,064 bytes a part, the last one overdraws");
    assert_eq!(pair.exchange().0.len(), 4);
    let cost = u32::try_from(4 * (1000 + PART_OVERHEAD_BYTES)).unwrap();
    pair.caller.handle(pair.now, Input::Taken(key, cost)).unwrap();
    pair.exchange();
    assert!(pair.server.wants_part(id));
    pair.server.handle(pair.now, Input::EndStream(id, None)).unwrap();
    assert_eq!(pair.exchange().0, [finished(key, Outcome::Done)]);
}

#[test]
fn parts_of_many_frames_stay_in_order_and_before_the_end() {
    let mut pair = Pair::new();
    let key = pair.call(Mode::Streaming, Bytes::new(), Priority::Normal);
    let id = pair.serve()[0];
    pair.server.handle(pair.now, Input::Reply(id, Answer::Parts)).unwrap();
    for size in [MAX_INLINE_BYTES + 1, 200_000] {
        assert!(pair.server.wants_part(id));
        pair.server.handle(pair.now, Input::Part(id, vec![1; size].into())).unwrap();
        assert!(!pair.server.wants_part(id), "the next waits until this has gone");
        assert_eq!(pair.exchange().0, [Output::Part { key, part: vec![1; size].into() }]);
        let cost = u32::try_from(size + PART_OVERHEAD_BYTES).unwrap();
        pair.caller.handle(pair.now, Input::Taken(key, cost)).unwrap();
        pair.exchange();
    }
    let refusal = Refusal::Failed { reason: "enough".into() };
    pair.server.handle(pair.now, Input::EndStream(id, Some(refusal.clone()))).unwrap();
    assert_eq!(pair.exchange().0, [finished(key, Outcome::Refused(refusal))]);
}

#[test]
fn a_whole_answer_to_a_streaming_call_is_one_part_and_the_end() {
    let mut pair = Pair::new();
    let key = pair.call(Mode::Streaming, Bytes::new(), Priority::Normal);
    let id = pair.serve()[0];
    pair.server.handle(pair.now, Input::Reply(id, Answer::Whole(vec![9; 100_000].into()))).unwrap();
    let part = Output::Part { key, part: vec![9; 100_000].into() };
    assert_eq!(pair.exchange().0, [part, finished(key, Outcome::Done)]);
}

#[test]
fn a_request_over_the_servers_limit_fails_here() {
    let small = Limits { max_message_bytes: 100 * 1024, ..limits() };
    let mut pair = Pair::with(limits(), small);
    let key = pair.whole(100 * 1024 + 1);
    assert_eq!(pair.exchange().0, [finished(key, Outcome::TooLarge { limit: 100 * 1024 })]);
}

#[test]
fn an_answer_over_the_callers_limit_becomes_a_refusal() {
    let small = Limits { max_message_bytes: 100 * 1024, ..limits() };
    let mut pair = Pair::with(small, limits());
    pair.whole(1);
    let id = pair.serve()[0];
    pair.server.handle(pair.now, Input::Reply(id, Answer::Whole(vec![0; 100 * 1024 + 1].into()))).unwrap();
    let (at_caller, _) = pair.exchange();
    assert!(matches!(at_caller[..], [Output::Finished { outcome: Outcome::Refused(Refusal::Failed { .. }), .. }]));
}

#[test]
fn a_retired_session_returns_what_was_not_sent_and_finishes_what_was() {
    let mut pair = Pair::new();
    let keys: Vec<_> = (0..17).map(|_| pair.whole(1)).collect();
    let ids = pair.serve();
    pair.caller.handle(pair.now, Input::Retire).unwrap();
    let (at_caller, at_server) = pair.exchange();
    assert_eq!(at_caller, [finished(keys[16], Outcome::NotSent)]);
    assert_eq!(at_server, [Output::Retired]);
    assert!(!pair.caller.is_done());
    for id in ids {
        pair.server.handle(pair.now, Input::Reply(id, Answer::Whole(Bytes::new()))).unwrap();
    }
    assert_eq!(pair.exchange().0.len(), 16);
    assert!(pair.caller.is_done() && pair.server.is_done());
}

#[test]
fn an_end_tells_sent_from_unsent() {
    let mut pair = Pair::new();
    let sent = pair.whole(1);
    let ids = pair.serve();
    let unsent = pair.whole(1);
    pair.caller.handle(pair.now, Input::Ended).unwrap();
    assert_eq!(outputs(&mut pair.caller), [finished(unsent, Outcome::NotSent), finished(sent, Outcome::Broken)]);
    pair.server.handle(pair.now, Input::Ended).unwrap();
    assert_eq!(outputs(&mut pair.server), [Output::Abort { id: ids[0] }]);
}

#[test]
fn a_silent_peer_is_pinged_then_given_up() {
    let mut pair = Pair::new();
    pair.now = pair.caller.poll_timeout();
    assert_eq!(pair.now, Instant::default() + Duration::from_secs(10));
    pair.caller.handle(pair.now, Input::Timeout).unwrap();
    pair.exchange();
    assert_eq!(pair.caller.poll_timeout(), pair.now + Duration::from_secs(10), "the pong counts");
    pair.now = pair.caller.poll_timeout();
    pair.caller.handle(pair.now, Input::Timeout).unwrap();
    pair.now = pair.caller.poll_timeout();
    assert!(pair.caller.handle(pair.now, Input::Timeout).is_err());
}

#[derive(Debug, Clone)]
enum Step {
    Call(usize, Mode, Priority),
    Cancel(usize),
    Reply(usize, usize),
    /// The next parts of a streaming answer, of these sizes, as far as they may go.
    Parts(usize, Vec<usize>),
    Carry,
    Take(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![0..100usize, 60_000..250_000usize];
    let mode = prop_oneof![Just(Mode::Whole), Just(Mode::OneWay), Just(Mode::Streaming)];
    let priority = prop_oneof![Just(Priority::High), Just(Priority::Normal), Just(Priority::Low)];
    let step = prop_oneof![
        3 => (size.clone(), mode, priority).prop_map(|(size, mode, priority)| Step::Call(size, mode, priority)),
        1 => any::<usize>().prop_map(Step::Cancel),
        3 => (any::<usize>(), size.clone()).prop_map(|(which, size)| Step::Reply(which, size)),
        3 => (any::<usize>(), proptest::collection::vec(size, 1..4)).prop_map(|(which, sizes)| Step::Parts(which, sizes)),
        3 => Just(Step::Carry),
        1 => any::<usize>().prop_map(Step::Take),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever honest sides do in whatever order, nobody breaks the protocol, every call ends once, and nothing stays.
    #[test]
    fn honest_sides_never_violate_and_every_call_ends_once(steps in steps()) {
        let mut pair = Pair::new();
        let mut open: Vec<u64> = Vec::new();
        let mut calls: Vec<CallKey> = Vec::new();
        let mut cost: std::collections::BTreeMap<CallKey, u32> = Default::default();
        let mut ended: Vec<CallKey> = Vec::new();
        let mut cancelled: Vec<CallKey> = Vec::new();
        let collect = |pair: &mut Pair, open: &mut Vec<u64>, cost: &mut std::collections::BTreeMap<CallKey, u32>,
                           ended: &mut Vec<CallKey>| {
            for output in outputs(&mut pair.server) {
                match output {
                    Output::Serve { id, .. } => open.push(id),
                    Output::Abort { id } => open.retain(|&other| other != id),
                    other => panic!("{other:?}"),
                }
            }
            for output in outputs(&mut pair.caller) {
                match output {
                    Output::Part { key, part } => {
                        *cost.entry(key).or_default() += u32::try_from(part.len() + PART_OVERHEAD_BYTES).unwrap();
                    }
                    Output::Finished { key, .. } => ended.push(key),
                    other => panic!("{other:?}"),
                }
            }
        };
        for step in steps {
            match step {
                Step::Call(size, mode, priority) => calls.push(pair.call(mode, vec![1; size].into(), priority)),
                Step::Cancel(which) if !calls.is_empty() => {
                    let key = calls[which % calls.len()];
                    if !ended.contains(&key) && !cancelled.contains(&key) {
                        cancelled.push(key);
                        pair.caller.handle(pair.now, Input::Cancel(key)).unwrap();
                    }
                }
                Step::Reply(which, size) if !open.is_empty() => {
                    let id = open.remove(which % open.len());
                    open.extend(pair.answer(id, size));
                }
                Step::Parts(which, sizes) if !open.is_empty() => {
                    let id = open[which % open.len()];
                    pair.server.handle(pair.now, Input::Reply(id, Answer::Parts)).unwrap();
                    for size in sizes {
                        if pair.server.wants_part(id) {
                            pair.server.handle(pair.now, Input::Part(id, vec![3; size].into())).unwrap();
                        }
                    }
                }
                Step::Take(which) if !calls.is_empty() => {
                    let key = calls[which % calls.len()];
                    if let Some(cost) = cost.remove(&key) {
                        pair.caller.handle(pair.now, Input::Taken(key, cost)).unwrap();
                    }
                }
                _ => {
                    carry(pair.now, &mut pair.caller, &mut pair.server);
                    carry(pair.now, &mut pair.server, &mut pair.caller);
                }
            }
            collect(&mut pair, &mut open, &mut cost, &mut ended);
        }
        loop {
            let mut moved = carry(pair.now, &mut pair.caller, &mut pair.server);
            moved |= carry(pair.now, &mut pair.server, &mut pair.caller);
            collect(&mut pair, &mut open, &mut cost, &mut ended);
            for (key, cost) in std::mem::take(&mut cost) {
                pair.caller.handle(pair.now, Input::Taken(key, cost)).unwrap();
                moved = true;
            }
            let before = open.len();
            open = std::mem::take(&mut open).into_iter().filter_map(|id| pair.answer(id, 0)).collect();
            if !moved && open.len() == before {
                break;
            }
        }
        ended.extend(&cancelled);
        ended.sort();
        let mut expected = calls.clone();
        expected.sort();
        // A cancel and an answer may cross: then the call ended by the answer only here.
        ended.dedup();
        prop_assert_eq!(ended, expected);
        prop_assert_eq!((pair.caller.open_calls(), pair.server.open_requests()), (0, 0));
        prop_assert!(pair.caller.footprint_bytes() < 4096 + 512 * 1024);
    }
}

#[test]
fn nothing_follows_a_long_part_before_all_of_it_has_gone() {
    let mut pair = Pair::new();
    let key = pair.call(Mode::Streaming, Bytes::new(), Priority::Normal);
    let id = pair.serve()[0];
    pair.server.handle(pair.now, Input::Reply(id, Answer::Parts)).unwrap();
    pair.server.handle(pair.now, Input::Part(id, vec![1; 100].into())).unwrap();
    assert!(pair.server.wants_part(id), "a short part keeps nothing waiting");
    pair.server.handle(pair.now, Input::Part(id, vec![2; 200_000].into())).unwrap();
    let mut bytes = Vec::new();
    pair.server.encode(pair.now, &mut bytes, 1);
    assert!(!pair.server.wants_part(id), "the short part has gone, the long one has not");
    deliver(pair.now, &bytes, &mut pair.caller);
    let parts = [vec![1; 100], vec![2; 200_000]].map(|part| Output::Part { key, part: part.into() });
    assert_eq!(pair.exchange().0, parts);
}

#[test]
fn an_urgent_request_finds_a_place_when_all_others_wait() {
    let mut pair = Pair::with(limits(), Limits { max_requests: 64, ..limits() });
    for _ in 0..100 {
        pair.whole(1);
    }
    assert_eq!(pair.serve().len(), 63);
    pair.call(Mode::OneWay, Bytes::new(), Priority::High);
    assert_eq!(pair.serve().len(), 1);
}

#[test]
fn a_side_with_nothing_open_does_not_wait_for_the_bye_of_one_that_may_be_dead() {
    let mut pair = Pair::new();
    let key = pair.whole(1);
    let id = pair.serve()[0];
    pair.caller.handle(pair.now, Input::ShutDown).unwrap();
    let mut bye = Vec::new();
    pair.caller.encode(pair.now, &mut bye, 1 << 20);
    for _ in 0..3 {
        pair.now = pair.caller.poll_timeout();
        pair.caller.handle(pair.now, Input::Timeout).unwrap();
        assert!(!pair.caller.is_done(), "a call is open");
    }
    pair.server.handle(pair.now, Input::Reply(id, Answer::Whole(Bytes::new()))).unwrap();
    let mut answer = Vec::new();
    pair.server.encode(pair.now, &mut answer, 1 << 20);
    deliver(pair.now, &answer, &mut pair.caller);
    assert_eq!(pair.caller.poll_output(), Some(finished(key, Outcome::Whole(Bytes::new()))));
    pair.now = pair.caller.poll_timeout();
    pair.caller.handle(pair.now, Input::Timeout).unwrap();
    assert!(pair.caller.is_done());
}

#[test]
fn a_cancel_that_a_dead_peer_never_hears_holds_up_no_end() {
    let mut pair = Pair::new();
    let key = pair.whole(1);
    pair.serve();
    pair.caller.handle(pair.now, Input::Cancel(key)).unwrap();
    pair.caller.handle(pair.now, Input::ShutDown).unwrap();
    let mut lost = Vec::new();
    pair.caller.encode(pair.now, &mut lost, 1 << 20);
    pair.now = pair.caller.poll_timeout();
    pair.caller.handle(pair.now, Input::Timeout).unwrap();
    assert!(pair.caller.is_done());
}

#[test]
fn an_urgent_message_finds_credit_when_bulk_has_taken_all_that_it_may() {
    let mut pair = Pair::new();
    let bulk: Vec<_> = (0..3).map(|_| pair.whole(200 * 1024)).collect();
    pair.serve();
    let urgent = pair.call(Mode::Streaming, vec![1; 70_000].into(), Priority::High);
    let ids = pair.serve();
    assert_eq!(ids.len(), 1, "before a long one that waits");
    for id in 1..=2 {
        pair.server.handle(pair.now, Input::Reply(id, Answer::Whole(vec![2; 200 * 1024].into()))).unwrap();
    }
    pair.server.handle(pair.now, Input::Reply(ids[0], Answer::Parts)).unwrap();
    let parts = [vec![3; 70_000], vec![4; 10]].map(Bytes::from);
    pair.server.handle(pair.now, Input::Part(ids[0], parts[0].clone())).unwrap();
    let (at_caller, _) = pair.exchange();
    assert_eq!(at_caller[0], Output::Part { key: urgent, part: parts[0].clone() }, "before the answers to {bulk:?}");
}

#[test]
fn a_peer_that_takes_or_sends_pieces_of_frames_is_not_silent() {
    let mut pair = Pair::new();
    for _ in 0..10 {
        pair.now = pair.now + Duration::from_secs(20);
        pair.caller.handle(pair.now, Input::Moved).unwrap();
        pair.caller.handle(pair.now, Input::Timeout).unwrap();
    }
    pair.now = pair.now + Duration::from_secs(25);
    assert!(pair.caller.handle(pair.now, Input::Timeout).is_err());
}
