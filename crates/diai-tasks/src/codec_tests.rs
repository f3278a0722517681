use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use diai_core::WallTime;
use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cid() -> Cid {
    raw_cid(b"content")
}

fn spec() -> TaskSpec {
    let limits = Limits { fuel: 1000, memory_bytes: 65536, output_bytes: 1024, time: Duration::from_millis(500) };
    TaskSpec::wasm(cid())
        .arg("--size")
        .arg("17")
        .input("in.csv", cid())
        .limits(limits)
        .seed(7)
        .clock_start(WallTime::from_unix_ms(1_700_000_000_000))
        .deadline(Duration::from_secs(9))
        .capability("modeling/3d")
        .nonce(0)
}

fn results() -> Vec<TaskResult> {
    let inline = Artifact { cid: raw_cid(b"hi"), bytes: 2, inline: Some(Bytes::from_static(b"hi")) };
    let stored = Artifact { cid: cid(), bytes: 7, inline: None };
    let files = vec![
        OutputFile { name: "a".into(), artifact: stored },
        OutputFile { name: "a/b.txt".into(), artifact: inline.clone() },
    ];
    let failures = [
        GuestError::InvalidProgram { reason: "no module".into() },
        GuestError::Trap { message: "unreachable".into(), stderr: "panicked".into() },
        GuestError::FuelExhausted,
        GuestError::TimeLimit,
        GuestError::MemoryLimit,
        GuestError::OutputLimit,
        GuestError::Exit { code: -3, stderr: String::new() },
        GuestError::Service { reason: "no".into() },
    ];
    let outcomes = failures.into_iter().map(Err).chain([Ok(Produced { stdout: inline, files })]);
    outcomes
        .map(|outcome| TaskResult {
            task: TaskId::of(b"task"),
            attempt: AttemptId::from_bytes([9; 16]),
            outcome,
            usage: Usage { fuel: 1, bytes_in: 2, bytes_out: 3, wall_ms: 4 },
        })
        .collect()
}

fn parts() -> Vec<Part> {
    vec![
        Part::Accepted,
        Part::KeepAlive,
        Part::Progress(Progress { done: 1, total: 2, note: "half".into() }),
        Part::Partial(Bytes::from_static(b"part")),
        Part::Result(Bytes::from_static(b"signed")),
        Part::Fault(HostFault::NotFound { cid: cid(), asked: "two".into() }),
        Part::Fault(HostFault::Unavailable { reason: "full".into() }),
        Part::Fault(HostFault::NotAllowed { reason: "sealed".into() }),
    ]
}

fn bid() -> Bid {
    Bid {
        start: Duration::from_millis(1),
        run: Duration::from_millis(2),
        held_bytes: 3,
        held_inputs: 4,
        free_slots: 5,
        program_held: true,
    }
}

#[test]
fn everything_survives_the_wire() {
    let bytes = encode_spec(&spec());
    assert_eq!(decode_spec(bytes.clone()), Ok((spec().id(), spec())));
    assert_eq!(decode_offer(encode_offer(bytes.clone())), Ok((spec().id(), spec())));
    let attempt = AttemptId::from_bytes([1; 16]);
    let proofs: Vec<_> = spec().inputs.iter().enumerate().map(|(at, _)| (at > 0).then_some([7; 32])).collect();
    let award = Award { attempt, task: spec().id(), spec: spec(), proofs: vec![Some([7; 32]); spec().inputs.len()] };
    assert_eq!(decode_award(encode_award(attempt, bytes.clone(), &award.proofs)), Ok(award.clone()));
    let some = Award { proofs: if proofs.len() > 1 { proofs.clone() } else { Vec::new() }, ..award.clone() };
    assert_eq!(decode_award(encode_award(attempt, bytes.clone(), &proofs)), Ok(some));
    let too_many = encode_award(attempt, bytes, &[award.proofs, vec![None]].concat());
    assert!(decode_award(too_many).is_err(), "a proof for no input");
    assert_eq!(decode_bid(encode_bid(&bid())), Ok(bid()));
    parts().into_iter().for_each(|part| assert_eq!(decode_part(encode_part(&part)), Ok(part)));
    results().into_iter().for_each(|result| assert_eq!(decode_result(encode_result(&result)), Ok(result)));
    let service = TaskSpec::service("render");
    assert_eq!(decode_spec(encode_spec(&service)), Ok((service.id(), service)));
}

#[test]
fn the_wire_format_does_not_change() {
    let cid = "01551220ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73";
    let spec_hex = format!(
        "0a24{cid}1a062d2d73697a651a023137222e0a06696e2e6373761224{cid}2a0d08e8071080800418800820f403\
         30073880d095ffbc3140a8464a0b6d6f64656c696e672f33645000"
    );
    assert_eq!(hex(&encode_spec(&spec())), spec_hex);
    assert_eq!(spec().id().to_string(), "bafkreidrjegt2wspwjrk2zhhggtrzsf7dqsksezkesq7pibank7nzeti5i");
    let offer = encode_offer(Bytes::from_static(b"spec"));
    assert_eq!(hex(&offer), "0a0473706563");
    let award = encode_award(AttemptId::from_bytes([1; 16]), Bytes::from_static(b"spec"), &[]);
    assert_eq!(hex(&award), "0a1001010101010101010101010101010101120473706563");
    assert_eq!(hex(&encode_bid(&bid())), "080110021803200428053001");
    let parts: Vec<_> = parts().iter().map(|part| hex(&encode_part(part))).collect();
    let expected = [
        "0a00".to_owned(),
        "1200".to_owned(),
        "1a0a080110021a0468616c66".to_owned(),
        "220470617274".to_owned(),
        "2a067369676e6564".to_owned(),
        format!("322d08011224{cid}1a0374776f"),
        "320808021a0466756c6c".to_owned(),
        "320a08031a067365616c6564".to_owned(),
    ];
    assert_eq!(parts, expected);
}

#[test]
fn the_wire_format_of_results_does_not_change() {
    let task = hex(&TaskId::of(b"task").cid().to_bytes());
    let (stored, inline) = (hex(&cid().to_bytes()), hex(&raw_cid(b"hi").to_bytes()));
    let expected = format!(
        "0a24{task}1210{attempt}1a96010a2c0a24{inline}10021a026869122d0a016112280a24{stored}1007\
         12370a07612f622e747874122c0a24{inline}10021a0268692a080801100218032004",
        attempt = "09".repeat(16),
    );
    let all = results();
    assert_eq!(hex(&encode_result(&all[all.len() - 1])), expected);
    let failure = format!(
        "0a24{task}1210{attempt}221908021a0b756e726561636861626c65220870616e69636b65642a080801100218032004",
        attempt = "09".repeat(16)
    );
    assert_eq!(hex(&encode_result(&all[1])), failure);
}

#[test]
fn what_is_cut_short_is_refused_or_something_else() {
    let spec = encode_spec(&spec());
    let whole = self::spec().id();
    for end in 0..spec.len() {
        // Without its last fields it may be a task, but another one.
        let cut = decode_spec(spec.slice(..end));
        assert!(cut.is_err() || cut.is_ok_and(|(id, _)| id != whole), "{end} bytes of a task");
    }
    for result in results() {
        let bytes = encode_result(&result);
        for end in 0..bytes.len() {
            // Without its usage, which is the last field, it still is a result: the signature is what binds it.
            let cut = decode_result(bytes.slice(..end));
            assert!(cut.is_err() || cut.is_ok_and(|cut| cut.usage == Usage::default()), "{end} bytes of a result");
        }
    }
}

#[test]
fn a_task_has_one_encoding_only() {
    let bytes = encode_spec(&spec());
    for extra in [&[0x30, 0x07][..], &[0x78, 0x01], &[0x50, 0x00]] {
        assert!(decode_spec([&bytes, extra].concat().into()).is_err());
    }
}

#[test]
fn a_task_over_its_limits_is_refused() {
    let long = TaskSpec::wasm(cid()).arg("x".repeat(MAX_SPEC_BYTES));
    assert!(decode_spec(encode_spec(&long)).is_err());
    let many = (0..=MAX_ARGS).fold(TaskSpec::wasm(cid()), |spec, _| spec.arg("x"));
    assert!(decode_spec(encode_spec(&many)).is_err());
    let inputs = (0..=MAX_INPUTS).fold(TaskSpec::wasm(cid()), |spec, n| spec.input(n.to_string(), cid()));
    assert!(decode_spec(encode_spec(&inputs)).is_err());
    for name in ["", ".", "..", "a/b", "a\\b", "a\0b", &"x".repeat(256)] {
        assert!(decode_spec(encode_spec(&TaskSpec::wasm(cid()).input(name, cid()))).is_err(), "{name:?}");
    }
    let twice = TaskSpec::wasm(cid()).input("a", cid()).input("a", cid());
    assert!(decode_spec(encode_spec(&twice)).is_err());
    assert!(decode_spec(encode_spec(&TaskSpec::service("x".repeat(256)))).is_err());
}

#[test]
fn texts_are_cut_at_characters() {
    assert_eq!(clip("grün", 3), "gr");
    assert_eq!(clip("grün", 4), "grü");
    assert_eq!(clip("", 4), "");
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let bytes = Bytes::from(bytes);
        _ = decode_spec(bytes.clone());
        _ = decode_offer(bytes.clone());
        _ = decode_award(bytes.clone());
        _ = decode_bid(bytes.clone());
        _ = decode_part(bytes.clone());
        _ = decode_result(bytes);
    }

    #[test]
    fn a_damaged_task_is_another_task_or_none(at in 0usize..150, flip in 1u8..) {
        let mut bytes = encode_spec(&spec()).to_vec();
        let index = at % bytes.len();
        bytes[index] ^= flip;
        if let Ok((id, _)) = decode_spec(bytes.into()) {
            prop_assert_ne!(id, spec().id());
        }
    }
}
