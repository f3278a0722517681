//! What a guest does wrong has its own name, and harms nobody.

#![allow(clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::time::Duration;

use common::{Group, guests, on_threads};
use diai_core::WallTime;
use diai_tasks::{Config, GuestError, Limits, Output, RunError, TaskSpec, Tasks};

/// Runs one task on a worker of its own, and a harmless one after it.
fn run(make: impl FnOnce(&common::Peer) -> TaskSpec) -> Result<Output, RunError> {
    let group = Group::new(1, 2);
    let (alice, bob) = (group.peers[0].clone(), group.peers[1].clone());
    group.sim.run(async move {
        let spec = make(&alice);
        let worker = bob.start(Config::serving());
        let tasks = alice.start(Config { allow_local: false, ..Config::default() });
        let result = tasks.run(spec).await;
        let after = tasks.run(alice.program(guests::NOTHING)).await;
        assert_eq!(after.map(|output| output.worker), Ok(bob.agent), "the worker is unharmed");
        drop(worker);
        result
    })
}

fn code(wat: &'static str, limits: Limits) -> &'static str {
    run(|alice| alice.program(wat).limits(limits)).expect_err("the guest fails").code()
}

fn little_fuel() -> Limits {
    Limits { fuel: 1_000_000, ..Limits::default() }
}

#[test]
fn a_guest_that_loops_runs_out_of_fuel() {
    assert_eq!(code(guests::LOOP, little_fuel()), "fuel_exhausted");
}

#[test]
fn a_guest_that_eats_memory_hits_its_memory_limit() {
    let limits = Limits { memory_bytes: 16 << 20, ..Limits::default() };
    assert_eq!(code(guests::EATER, limits), "memory_limit");
    assert_eq!(code(guests::BORN_LARGE, limits), "memory_limit");
}

#[test]
fn tables_count_as_memory() {
    let limits = Limits { memory_bytes: 1 << 20, ..Limits::default() };
    assert_eq!(code(guests::TABLE_EATER, limits), "memory_limit");
}

#[test]
fn a_guest_that_writes_without_end_hits_its_output_limit() {
    let limits = Limits { output_bytes: 1 << 20, ..Limits::default() };
    assert_eq!(code(guests::WRITER, limits), "output_limit");
    assert_eq!(code(guests::FILE_WRITER, limits), "output_limit");
}

#[test]
fn folders_without_end_hit_the_output_limit_too() {
    assert_eq!(code(guests::FOLDER_MAKER, Limits::default()), "output_limit");
}

#[test]
fn a_guest_that_traps_is_told_apart() {
    assert_eq!(code(guests::TRAP, Limits::default()), "trap");
}

#[test]
fn bytes_that_are_no_module_are_an_invalid_program() {
    let error = run(|alice| TaskSpec::wasm(alice.store.add(&b"garbage"[..]))).unwrap_err();
    assert_eq!(error.code(), "invalid_program");
    assert_eq!(code(guests::FOREIGN, Limits::default()), "invalid_program");
    assert_eq!(code(guests::LIBRARY, Limits::default()), "invalid_program");
}

#[test]
fn text_is_no_module_even_if_it_could_be_parsed() {
    let error = run(|alice| TaskSpec::wasm(alice.store.add(guests::NOTHING.as_bytes()))).unwrap_err();
    assert_eq!(error.code(), "invalid_program");
}

#[test]
fn an_exit_code_brings_the_end_of_standard_error() {
    let error = run(|alice| alice.program(guests::EXIT_3)).unwrap_err();
    let RunError::Guest { error: GuestError::Exit { code, stderr }, .. } = error else { panic!("{error:?}") };
    assert_eq!((code, stderr.as_str()), (3, "sorry"));
}

#[test]
fn host_calls_cost_fuel_by_the_bytes_they_move() {
    assert_eq!(code(guests::STDERR_FLOOD, little_fuel()), "fuel_exhausted");
}

#[test]
fn pointers_outside_of_the_memory_are_answered_with_an_error_number() {
    run(|alice| {
        let input = alice.store.add("listed");
        alice.program(guests::WILD_POINTERS).input("a", input)
    })
    .unwrap();
}

#[test]
fn a_task_that_asks_for_more_than_the_worker_gives_is_refused() {
    let huge = Limits { memory_bytes: 1 << 40, ..Limits::default() };
    assert_eq!(code(guests::NOTHING, huge), "not_allowed");
}

#[test]
fn standard_input_is_the_first_input_and_standard_output_the_result() {
    let text: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    let expected = common::raw_cid(&text);
    let output = run(|alice| {
        let (first, second) = (alice.store.add(text), alice.store.add("not this"));
        alice.program(guests::CAT).input("a", first).input("b", second)
    })
    .unwrap();
    assert_eq!((output.stdout().cid, output.stdout().bytes), (expected, 100_000));
    assert_eq!(output.usage.bytes_out, 100_000);
}

#[test]
fn files_left_under_out_come_back_and_inputs_are_read_only() {
    let output = run(|alice| {
        let input = alice.store.add("content");
        alice.program(guests::FILES).input("a", input)
    })
    .unwrap();
    let file = output.file("d/copy").expect("the guest made it");
    assert_eq!(file.inline.as_deref(), Some(&b"content"[..]));
    assert_eq!(output.files().len(), 1);
}

#[test]
fn clock_and_random_numbers_come_from_the_task() {
    let ask = |seed, start| {
        let spec = |alice: &common::Peer| alice.program(guests::ORACLE).seed(seed).clock_start(start).arg("x");
        run(spec).unwrap().stdout().inline.clone().unwrap()
    };
    let start = WallTime::from_unix_ms(1_700_000_000_000);
    let answer = ask(7, start);
    assert_eq!(answer, ask(7, start));
    assert_eq!(&answer[32..], b"task\0x\0");
    let clock = |at: usize| u64::from_le_bytes(answer[at..at + 8].try_into().unwrap());
    assert_eq!((clock(0), clock(8)), (1_700_000_000_000_001_000, 1_700_000_000_000_002_000));
    let other = ask(8, start);
    assert_eq!(answer[..16], other[..16]);
    assert_ne!(answer[16..32], other[16..32]);
}

#[test]
fn sleeping_takes_no_time() {
    run(|alice| alice.program(guests::SLEEPER)).unwrap();
}

/// Where only a look at the clock can stop a guest.
fn alone_on_threads<R>(test: impl AsyncFnOnce(common::Peer, Tasks) -> R) -> R {
    on_threads(async |[alice]| {
        let tasks = alice.start(Config::default());
        test(alice, tasks).await
    })
}

#[test]
fn a_guest_that_takes_too_long_hits_its_time_limit() {
    let endless = Limits { fuel: u64::MAX >> 1, time: Duration::from_millis(40), ..Limits::default() };
    alone_on_threads(async |alice, tasks| {
        let error = tasks.run(alice.program(guests::LOOP).limits(endless)).await.unwrap_err();
        assert_eq!(error.code(), "time_limit");
    });
}

#[test]
fn dropping_the_handle_stops_the_guest_and_frees_its_slot() {
    let endless = Limits { fuel: u64::MAX >> 1, time: Duration::from_secs(300), ..Limits::default() };
    alone_on_threads(async |alice, tasks| {
        // More guests than there are slots and places to wait: the last can only run if the others were stopped.
        for nonce in 0..10 {
            let mut handle = tasks.run(alice.program(guests::LOOP).limits(endless).nonce(nonce));
            let mut events = handle.events().unwrap();
            futures::StreamExt::next(&mut events).await.expect("it was awarded");
            drop(handle);
        }
        tasks.run(alice.program(guests::NOTHING)).await.unwrap();
    });
}

#[test]
fn a_program_that_was_quick_and_is_no_longer_is_not_cut_short() {
    let group = Group::new(29, 1);
    let alice = group.peers[0].clone();
    group.sim.run(async move {
        let tasks = alice.start(Config::default());
        for nonce in 0..3 {
            let quick = tasks.run(alice.program(guests::MOODY).nonce(nonce)).await.unwrap();
            assert!(quick.usage.fuel < 1_000, "{:?}", quick.usage);
        }
        for nonce in 0..3 {
            let slow = tasks.run(alice.program(guests::MOODY).arg("slowly").nonce(nonce)).await.unwrap();
            assert_eq!(slow.stdout().inline.as_deref(), Some(&b"ok"[..]));
            assert!(slow.usage.fuel > 10_000_000, "{:?}", slow.usage);
        }
        let limits = Limits { fuel: 50_000, ..Limits::default() };
        let cut = tasks.run(alice.program(guests::MOODY).arg("slowly").limits(limits)).await.unwrap_err();
        assert_eq!(cut.code(), "fuel_exhausted");
    });
}
