use super::*;

const START: Instant = Instant::from_nanos(1_000_000_000);

fn registrar() -> Registrar {
    let intervals = Intervals {
        refresh: Duration::from_secs(1800),
        min_backoff: Duration::from_secs(1),
        max_backoff: Duration::from_secs(60),
        max_placements: 3,
    };
    Registrar::new(intervals, 7)
}

fn paths(texts: &[&str]) -> Vec<CapabilityPath> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn capability(text: &str) -> Item {
    Item::Capability(text.parse().unwrap())
}

fn outputs(registrar: &mut Registrar) -> Vec<Output> {
    std::iter::from_fn(|| registrar.poll_output()).collect()
}

/// Places everything asked for until nothing more is; returns all outputs.
fn run(registrar: &mut Registrar, now: Instant, mut outcome: impl FnMut(&Item) -> Result<(), String>) -> Vec<Output> {
    let mut all = Vec::new();
    while let Some(output) = registrar.poll_output() {
        if let Output::Place(item) = &output {
            registrar.handle(now, Input::Done(item.clone(), outcome(item)));
        }
        all.push(output);
    }
    all
}

fn settled(round: u64) -> Output {
    Output::Settled { round, failed: Vec::new() }
}

#[test]
fn a_path_is_placed_with_its_ancestors_after_the_record_was_signed() {
    let mut registrar = registrar();
    registrar.handle(START, Input::Describe(paths(&["a/b", "a/c"])));
    let outputs = run(&mut registrar, START, |_| Ok(()));
    let places = [Item::Record, Item::Agent, capability("a"), capability("a/b"), capability("a/c")];
    let expected: Vec<_> = [Output::Sign].into_iter().chain(places.map(Output::Place)).chain([settled(1)]).collect();
    assert_eq!(outputs, expected);
}

#[test]
fn only_so_many_are_placed_at_a_time() {
    let mut registrar = registrar();
    registrar.handle(START, Input::Describe(paths(&["a", "b", "c"])));
    assert_eq!(outputs(&mut registrar).len(), 1 + 3);
    registrar.handle(START, Input::Done(Item::Agent, Ok(())));
    assert_eq!(outputs(&mut registrar), [Output::Place(capability("b"))]);
}

#[test]
fn a_failure_is_told_and_tried_again_ever_more_rarely() {
    let mut registrar = registrar();
    registrar.handle(START, Input::Describe(paths(&["a"])));
    let fail = |item: &Item| if *item == capability("a") { Err("nobody".to_owned()) } else { Ok(()) };
    let failed = vec![NotPlaced { what: "a".to_owned(), reason: "nobody".to_owned() }];
    assert_eq!(run(&mut registrar, START, fail).last(), Some(&Output::Settled { round: 1, failed }));
    let mut now = START;
    let mut waits = Vec::new();
    for _ in 0..10 {
        let retry_at = registrar.poll_timeout();
        waits.push(retry_at.since(now));
        now = retry_at;
        registrar.handle(now, Input::Tick);
        assert_eq!(run(&mut registrar, now, fail), [Output::Place(capability("a"))]);
    }
    assert!(waits.windows(2).take(5).all(|pair| pair[0] < pair[1]), "{waits:?}");
    assert!(waits.iter().all(|wait| (900..=60_000).contains(&wait.as_millis())), "{waits:?}");
    registrar.handle(registrar.poll_timeout(), Input::Tick);
    assert_eq!(run(&mut registrar, now, |_| Ok(())), [Output::Place(capability("a"))]);
    assert!(registrar.poll_timeout().since(now) > Duration::from_secs(600), "only the refresh is left");
}

#[test]
fn what_is_no_longer_described_is_stopped_even_if_it_was_just_being_placed() {
    let mut registrar = registrar();
    registrar.handle(START, Input::Describe(paths(&["a/b", "c"])));
    run(&mut registrar, START, |_| Ok(()));
    registrar.handle(START, Input::Describe(paths(&["a", "d"])));
    let outputs = outputs(&mut registrar);
    assert!(outputs.contains(&Output::Stop(capability("a/b"))) && outputs.contains(&Output::Stop(capability("c"))));
    assert!(outputs.contains(&Output::Place(capability("d"))));
    assert!(!outputs.contains(&Output::Place(capability("a"))), "it stands there already");

    registrar.handle(START, Input::Describe(Vec::new()));
    let stopped = run(&mut registrar, START, |_| Ok(()));
    assert!(!stopped.contains(&Output::Stop(capability("d"))), "it is still in flight");
    registrar.handle(START, Input::Done(capability("d"), Ok(())));
    assert!(run(&mut registrar, START, |_| Ok(())).contains(&Output::Stop(capability("d"))));
}

#[test]
fn a_record_that_changes_while_it_is_placed_is_placed_again_before_the_round_is_settled() {
    let mut registrar = registrar();
    registrar.handle(START, Input::Describe(Vec::new()));
    assert_eq!(outputs(&mut registrar), [Output::Sign, Output::Place(Item::Record), Output::Place(Item::Agent)]);
    registrar.handle(START, Input::Describe(Vec::new()));
    registrar.handle(START, Input::Done(Item::Agent, Ok(())));
    assert_eq!(outputs(&mut registrar), [Output::Sign]);
    registrar.handle(START, Input::Done(Item::Record, Ok(())));
    assert_eq!(outputs(&mut registrar), [Output::Place(Item::Record)]);
    registrar.handle(START, Input::Done(Item::Record, Ok(())));
    assert_eq!(outputs(&mut registrar), [settled(2)]);
}

#[test]
fn everything_is_signed_and_placed_anew_before_it_expires() {
    let mut registrar = registrar();
    registrar.handle(START, Input::Describe(paths(&["a"])));
    run(&mut registrar, START, |_| Ok(()));
    let refresh_at = registrar.poll_timeout();
    assert!((1600..=1800).contains(&refresh_at.since(START).as_secs()));
    registrar.handle(refresh_at, Input::Tick);
    let all = [Item::Record, Item::Agent, capability("a")].map(Output::Place);
    let expected: Vec<_> = [Output::Sign].into_iter().chain(all).collect();
    assert_eq!(run(&mut registrar, refresh_at, |_| Ok(())), expected);
}

#[test]
fn a_new_address_needs_a_new_record_and_nothing_else() {
    let mut registrar = registrar();
    registrar.handle(START, Input::Renew);
    assert_eq!(outputs(&mut registrar), [], "nothing is described yet");
    registrar.handle(START, Input::Describe(paths(&["a"])));
    run(&mut registrar, START, |_| Ok(()));
    registrar.handle(START, Input::Renew);
    assert_eq!(run(&mut registrar, START, |_| Ok(())), [Output::Sign, Output::Place(Item::Record)]);
}

#[test]
fn all_is_placed_again_when_the_network_grows_soon_if_it_doubled_and_not_at_all_in_a_large_one() {
    let mut registrar = registrar();
    registrar.handle(START, Input::Describe(Vec::new()));
    run(&mut registrar, START, |_| Ok(()));
    let mut now = START;
    let mut grow = |registrar: &mut Registrar, count: usize| {
        registrar.handle(now, Input::Peers(count));
        let wait = registrar.poll_timeout().since(now);
        if wait < Duration::from_secs(60) {
            now = registrar.poll_timeout();
            registrar.handle(now, Input::Tick);
            assert_eq!(run(registrar, now, |_| Ok(())), [Item::Record, Item::Agent].map(Output::Place));
            Some(wait)
        } else {
            None
        }
    };
    assert_eq!(grow(&mut registrar, 1), Some(DOUBLED_DELAY));
    assert_eq!(grow(&mut registrar, 1), None);
    assert_eq!(grow(&mut registrar, 3), Some(DOUBLED_DELAY));
    assert_eq!(grow(&mut registrar, 4), Some(GROWN_DELAY));
    assert_eq!(grow(&mut registrar, 2), None);
    assert_eq!(grow(&mut registrar, 30), Some(DOUBLED_DELAY));
    assert_eq!(grow(&mut registrar, 40), None);
    assert_eq!(grow(&mut registrar, 0), None);
    assert_eq!(grow(&mut registrar, 5), Some(DOUBLED_DELAY), "after an isolation");
}
