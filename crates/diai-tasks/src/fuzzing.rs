//! A door for the fuzz targets to the codec, which is private.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    Artifact, AttemptId, Bid, MAX_INPUTS, MAX_OUTPUT_FILES, MAX_SPEC_BYTES, OutputFile, Produced, Progress, TaskId,
    TaskSpec, Usage, codec,
    error::{GuestError, HostFault},
    message::{Part, TaskResult},
    spec::raw_cid,
};

/// A task, alone and within an offer: one encoding each, within bounds.
pub fn spec(bytes: Bytes) {
    if let Ok((id, spec)) = codec::decode_spec(bytes.clone()) {
        assert!(bytes.len() <= MAX_SPEC_BYTES && spec.inputs.len() <= MAX_INPUTS);
        assert_eq!((codec::encode_spec(&spec), spec.id()), (bytes.clone(), id));
        assert_eq!(codec::decode_offer(codec::encode_offer(bytes)), Ok((id, spec)));
    }
}

/// An offer as it comes.
pub fn offer(bytes: Bytes) {
    if let Ok((_, spec)) = codec::decode_offer(bytes) {
        assert!(spec.inputs.len() <= MAX_INPUTS);
    }
}

/// A bid.
pub fn bid(bytes: Bytes) {
    if let Ok(bid) = codec::decode_bid(bytes) {
        assert_eq!(codec::decode_bid(codec::encode_bid(&bid)), Ok(bid));
    }
}

/// An award: proofs for all inputs or for none.
pub fn award(bytes: Bytes) {
    if let Ok(award) = codec::decode_award(bytes) {
        assert!(award.proofs.is_empty() || award.proofs.len() == award.spec.inputs.len());
        let spec = codec::encode_spec(&award.spec);
        let again = codec::decode_award(codec::encode_award(award.attempt, spec, &award.proofs));
        let again = again.expect("what was decoded is encoded well");
        assert_eq!((again.attempt, again.task, again.spec), (award.attempt, award.task, award.spec));
    }
}

/// A part of a worker's answer.
pub fn part(bytes: Bytes) {
    if let Ok(part) = codec::decode_part(bytes) {
        assert_eq!(codec::decode_part(codec::encode_part(&part)), Ok(part));
    }
}

/// A worker's signed result, once the signature is off.
pub fn result(bytes: Bytes) {
    if let Ok(result) = codec::decode_result(bytes) {
        assert!(
            result.outcome.as_ref().is_ok_and(|made| made.files.len() <= MAX_OUTPUT_FILES) || result.outcome.is_err()
        );
        assert_eq!(codec::decode_result(codec::encode_result(&result)), Ok(result));
    }
}

/// Well-formed messages: (target, name, bytes).
pub fn seeds() -> Vec<(&'static str, &'static str, Bytes)> {
    let cid = raw_cid(b"content");
    let spec =
        TaskSpec::wasm(cid).arg("--size").input("in.csv", cid).deadline(Duration::from_secs(9)).capability("a/b");
    let (attempt, bytes) = (AttemptId::from_bytes([9; 16]), codec::encode_spec(&spec));
    let bid = Bid { held_bytes: 3, held_inputs: 1, free_slots: 5, program_held: true, ..Bid::default() };
    let inline = Artifact { cid: raw_cid(b"hi"), bytes: 2, inline: Some(Bytes::from_static(b"hi")) };
    let file = OutputFile { name: "a/b.txt".into(), artifact: Artifact { cid, bytes: 7, inline: None } };
    let result = |outcome| TaskResult { task: TaskId::of(b"task"), attempt, outcome, usage: Usage::default() };
    let done = result(Ok(Produced { stdout: inline, files: vec![file] }));
    let trap = result(Err(GuestError::Trap { message: "unreachable".into(), stderr: "panicked".into() }));
    let progress = Part::Progress(Progress { done: 1, total: 2, note: "half".into() });
    let fault = Part::Fault(HostFault::NotFound { cid, asked: "two".into() });
    vec![
        ("tasks_spec", "program", bytes.clone()),
        ("tasks_spec", "service", codec::encode_spec(&TaskSpec::service("render"))),
        ("tasks_offer", "offer", codec::encode_offer(bytes.clone())),
        ("tasks_bid", "bid", codec::encode_bid(&bid)),
        ("tasks_award", "plain", codec::encode_award(attempt, bytes.clone(), &[])),
        ("tasks_award", "proofs", codec::encode_award(attempt, bytes, &[Some([7; 32])])),
        ("tasks_part", "accepted", codec::encode_part(&Part::Accepted)),
        ("tasks_part", "progress", codec::encode_part(&progress)),
        ("tasks_part", "fault", codec::encode_part(&fault)),
        ("tasks_part", "result", codec::encode_part(&Part::Result(Bytes::from_static(b"signed")))),
        ("tasks_result", "done", codec::encode_result(&done)),
        ("tasks_result", "trap", codec::encode_result(&trap)),
    ]
}
