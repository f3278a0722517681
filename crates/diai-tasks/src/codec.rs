//! Bytes to messages and back. Everything is bounded before it is decoded.

use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use diai_core::{
    WallTime,
    bounded::{self, Bounds, DecodeError, Field},
};
use prost::Message;

use crate::{
    AttemptId, Input, Limits, Program, TaskId, TaskSpec,
    error::{GuestError, HostFault},
    message::{
        Artifact, Award, Bid, MAX_DETAIL_BYTES, MAX_INLINE_BYTES, MAX_NOTE_BYTES, MAX_OUTPUT_FILES,
        MAX_OUTPUT_NAME_BYTES, MAX_PARTIAL_BYTES, OutputFile, Part, Produced, Progress, TaskResult, Usage,
    },
    spec::{MAX_ARGS, MAX_CAPABILITY_BYTES, MAX_INPUTS, MAX_NAME_BYTES, MAX_SPEC_BYTES, is_file_name, raw_cid},
};

#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications, reason = "generated")]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/diai.tasks.v1.rs"));
}

const MAX_CID_BYTES: usize = 128;
/// A signed result is at most so long: 256 files, each with its name and CID, and what is inline.
pub(crate) const MAX_RESULT_BYTES: usize = 1 << 20;

const INPUT: Bounds = Bounds::new("Input", &[Field::bytes(1, 1, MAX_NAME_BYTES), Field::bytes(2, 1, MAX_CID_BYTES)]);
const LIMITS: Bounds = Bounds::new("Limits", &[Field::scalar(1), Field::scalar(2), Field::scalar(3), Field::scalar(4)]);
const SPEC: Bounds = Bounds::new(
    "Spec",
    &[
        Field::bytes(1, 1, MAX_CID_BYTES),
        Field::bytes(2, 1, MAX_NAME_BYTES),
        Field::bytes(3, MAX_ARGS, MAX_SPEC_BYTES),
        Field::message(4, MAX_INPUTS, &INPUT),
        Field::message(5, 1, &LIMITS),
        Field::scalar(6),
        Field::scalar(7),
        Field::scalar(8),
        Field::bytes(9, 1, MAX_CAPABILITY_BYTES),
        Field::scalar(10),
    ],
);
const OFFER: Bounds = Bounds::new("Offer", &[Field::bytes(1, 1, MAX_SPEC_BYTES)]);
const BID: Bounds = Bounds::new(
    "Bid",
    &[Field::scalar(1), Field::scalar(2), Field::scalar(3), Field::scalar(4), Field::scalar(5), Field::scalar(6)],
);
const AWARD: Bounds = Bounds::new(
    "Award",
    &[Field::bytes(1, 1, 16), Field::bytes(2, 1, MAX_SPEC_BYTES), Field::bytes(3, MAX_INPUTS, 32 * MAX_INPUTS)],
);
const NOTHING: Bounds = Bounds::new("Nothing", &[]);
const PROGRESS: Bounds =
    Bounds::new("Progress", &[Field::scalar(1), Field::scalar(2), Field::bytes(3, 1, MAX_NOTE_BYTES)]);
const FAULT: Bounds =
    Bounds::new("Fault", &[Field::scalar(1), Field::bytes(2, 1, MAX_CID_BYTES), Field::bytes(3, 1, MAX_DETAIL_BYTES)]);
const PART: Bounds = Bounds::new(
    "Part",
    &[
        Field::message(1, 1, &NOTHING),
        Field::message(2, 1, &NOTHING),
        Field::message(3, 1, &PROGRESS),
        Field::bytes(4, 1, MAX_PARTIAL_BYTES),
        Field::bytes(5, 1, MAX_RESULT_BYTES),
        Field::message(6, 1, &FAULT),
    ],
);
const ARTIFACT: Bounds = Bounds::new(
    "Artifact",
    &[Field::bytes(1, 1, MAX_CID_BYTES), Field::scalar(2), Field::bytes(3, 1, MAX_INLINE_BYTES)],
);
const FILE: Bounds = Bounds::new("File", &[Field::bytes(1, 1, MAX_OUTPUT_NAME_BYTES), Field::message(2, 1, &ARTIFACT)]);
const DONE: Bounds =
    Bounds::new("Done", &[Field::message(1, 1, &ARTIFACT), Field::message(2, MAX_OUTPUT_FILES, &FILE)]);
const FAILURE: Bounds = Bounds::new(
    "Failure",
    &[Field::scalar(1), Field::scalar(2), Field::bytes(3, 1, MAX_DETAIL_BYTES), Field::bytes(4, 1, MAX_DETAIL_BYTES)],
);
const USAGE: Bounds = Bounds::new("Usage", &[Field::scalar(1), Field::scalar(2), Field::scalar(3), Field::scalar(4)]);
const RESULT: Bounds = Bounds::new(
    "Result",
    &[
        Field::bytes(1, 1, MAX_CID_BYTES),
        Field::bytes(2, 1, 16),
        Field::message(3, 1, &DONE),
        Field::message(4, 1, &FAILURE),
        Field::message(5, 1, &USAGE),
    ],
);

fn invalid(message: &'static str, field: &'static str) -> DecodeError {
    DecodeError::Value { message, field }
}

fn decode_cid(bytes: &[u8], message: &'static str, field: &'static str) -> Result<Cid, DecodeError> {
    let cid = Cid::try_from(bytes).map_err(|_| invalid(message, field))?;
    // A CID has one encoding; trailing bytes would give it many.
    if cid.to_bytes() == bytes { Ok(cid) } else { Err(invalid(message, field)) }
}

fn cid_bytes(cid: &Cid) -> Bytes {
    Bytes::from(cid.to_bytes())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `text`, cut at a character's boundary to at most `max_bytes`.
pub(crate) fn clip(text: &str, max_bytes: usize) -> String {
    text[..text.floor_char_boundary(max_bytes)].to_owned()
}

pub(crate) fn encode_spec(spec: &TaskSpec) -> Bytes {
    let (program, service) = match &spec.program {
        Program::Wasm(cid) => (cid_bytes(cid), String::new()),
        Program::Service(name) => (Bytes::new(), name.clone()),
    };
    let message = wire::Spec {
        program,
        service,
        args: spec.args.clone(),
        inputs: spec
            .inputs
            .iter()
            .map(|input| wire::Input { name: input.name.clone(), cid: cid_bytes(&input.cid) })
            .collect(),
        limits: Some(wire::Limits {
            fuel: spec.limits.fuel,
            memory_bytes: spec.limits.memory_bytes,
            output_bytes: spec.limits.output_bytes,
            time_ms: millis(spec.limits.time),
        }),
        seed: spec.seed,
        clock_start_ms: spec.clock_start.as_unix_ms(),
        deadline_ms: millis(spec.deadline),
        capability: spec.capability.clone().unwrap_or_default(),
        nonce: spec.nonce,
    };
    Bytes::from(message.encode_to_vec())
}

/// Decodes a task and takes its id. Only the canonical encoding is a task: no two byte strings mean the same one.
pub(crate) fn decode_spec(bytes: Bytes) -> Result<(TaskId, TaskSpec), DecodeError> {
    if bytes.len() > MAX_SPEC_BYTES {
        return Err(DecodeError::OverLimit { message: "Spec", tag: 0, limit: MAX_SPEC_BYTES });
    }
    let message: wire::Spec = bounded::decode(bytes.clone(), &SPEC)?;
    let program = match (message.program.is_empty(), message.service.is_empty()) {
        (false, true) => Program::Wasm(decode_cid(&message.program, "Spec", "program")?),
        (true, false) => Program::Service(message.service),
        _ => return Err(invalid("Spec", "program")),
    };
    let limits = message.limits.ok_or_else(|| invalid("Spec", "limits"))?;
    let mut inputs = Vec::with_capacity(message.inputs.len());
    for input in message.inputs {
        inputs.push(Input { name: input.name, cid: decode_cid(&input.cid, "Input", "cid")? });
    }
    let spec = TaskSpec {
        program,
        args: message.args,
        inputs,
        limits: Limits {
            fuel: limits.fuel,
            memory_bytes: limits.memory_bytes,
            output_bytes: limits.output_bytes,
            time: Duration::from_millis(limits.time_ms),
        },
        seed: message.seed,
        clock_start: WallTime::from_unix_ms(message.clock_start_ms),
        deadline: Duration::from_millis(message.deadline_ms),
        capability: Some(message.capability).filter(|path| !path.is_empty()),
        nonce: message.nonce,
    };
    spec.check().map_err(|_| invalid("Spec", "names"))?;
    if encode_spec(&spec) != bytes {
        return Err(invalid("Spec", "encoding"));
    }
    Ok((TaskId::of(&bytes), spec))
}

pub(crate) fn encode_offer(spec: Bytes) -> Bytes {
    Bytes::from(wire::Offer { spec }.encode_to_vec())
}

pub(crate) fn decode_offer(bytes: Bytes) -> Result<(TaskId, TaskSpec), DecodeError> {
    let message: wire::Offer = bounded::decode(bytes, &OFFER)?;
    decode_spec(message.spec)
}

pub(crate) fn encode_bid(bid: &Bid) -> Bytes {
    let message = wire::Bid {
        start_ms: millis(bid.start),
        run_ms: millis(bid.run),
        held_bytes: bid.held_bytes,
        held_inputs: bid.held_inputs,
        free_slots: bid.free_slots,
        program_held: bid.program_held,
    };
    Bytes::from(message.encode_to_vec())
}

pub(crate) fn decode_bid(bytes: Bytes) -> Result<Bid, DecodeError> {
    let message: wire::Bid = bounded::decode(bytes, &BID)?;
    Ok(Bid {
        start: Duration::from_millis(message.start_ms),
        run: Duration::from_millis(message.run_ms),
        held_bytes: message.held_bytes,
        held_inputs: message.held_inputs,
        free_slots: message.free_slots,
        program_held: message.program_held,
    })
}

pub(crate) fn encode_award(attempt: AttemptId, spec: Bytes, proofs: &[Option<[u8; 32]>]) -> Bytes {
    let bytes =
        |proof: &Option<[u8; 32]>| proof.as_ref().map_or_else(Bytes::new, |proof| Bytes::copy_from_slice(proof));
    let some = proofs.iter().any(Option::is_some);
    let proofs = if some { proofs.iter().map(bytes).collect() } else { Vec::new() };
    Bytes::from(wire::Award { attempt: Bytes::copy_from_slice(attempt.as_bytes()), spec, proofs }.encode_to_vec())
}

fn decode_proof(bytes: &Bytes) -> Result<Option<[u8; 32]>, DecodeError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    bytes[..].try_into().map(Some).map_err(|_| invalid("Award", "proofs"))
}

fn decode_attempt(bytes: &[u8], message: &'static str) -> Result<AttemptId, DecodeError> {
    bytes.try_into().map(AttemptId::from_bytes).map_err(|_| invalid(message, "attempt"))
}

pub(crate) fn decode_award(bytes: Bytes) -> Result<Award, DecodeError> {
    let message: wire::Award = bounded::decode(bytes, &AWARD)?;
    let attempt = decode_attempt(&message.attempt, "Award")?;
    let (task, spec) = decode_spec(message.spec)?;
    let proofs = message.proofs.iter().map(decode_proof).collect::<Result<Vec<_>, _>>()?;
    if !proofs.is_empty() && proofs.len() != spec.inputs.len() {
        return Err(invalid("Award", "proofs"));
    }
    Ok(Award { attempt, task, spec, proofs })
}

pub(crate) fn encode_part(part: &Part) -> Bytes {
    use wire::part::Part as Wire;
    let part = match part {
        Part::Accepted => Wire::Accepted(wire::Nothing {}),
        Part::KeepAlive => Wire::KeepAlive(wire::Nothing {}),
        Part::Progress(progress) => Wire::Progress(wire::Progress {
            done: progress.done,
            total: progress.total,
            note: clip(&progress.note, MAX_NOTE_BYTES),
        }),
        Part::Partial(bytes) => Wire::Partial(bytes.clone()),
        Part::Result(signed) => Wire::Result(signed.clone()),
        Part::Fault(fault) => Wire::Fault(match fault {
            HostFault::NotFound { cid, asked } => {
                wire::Fault { kind: 1, cid: cid_bytes(cid), detail: clip(asked, MAX_DETAIL_BYTES) }
            }
            HostFault::NotAllowed { reason } => {
                wire::Fault { kind: 3, cid: Bytes::new(), detail: clip(reason, MAX_DETAIL_BYTES) }
            }
            HostFault::Unavailable { reason } => {
                wire::Fault { kind: 2, cid: Bytes::new(), detail: clip(reason, MAX_DETAIL_BYTES) }
            }
        }),
    };
    Bytes::from(wire::Part { part: Some(part) }.encode_to_vec())
}

pub(crate) fn decode_part(bytes: Bytes) -> Result<Part, DecodeError> {
    use wire::part::Part as Wire;
    let message: wire::Part = bounded::decode(bytes, &PART)?;
    Ok(match message.part.ok_or_else(|| invalid("Part", "part"))? {
        Wire::Accepted(_) => Part::Accepted,
        Wire::KeepAlive(_) => Part::KeepAlive,
        Wire::Progress(progress) => {
            Part::Progress(Progress { done: progress.done, total: progress.total, note: progress.note })
        }
        Wire::Partial(bytes) => Part::Partial(bytes),
        Wire::Result(signed) => Part::Result(signed),
        Wire::Fault(fault) => Part::Fault(match fault.kind {
            1 => HostFault::NotFound { cid: decode_cid(&fault.cid, "Fault", "cid")?, asked: fault.detail },
            2 => HostFault::Unavailable { reason: fault.detail },
            3 => HostFault::NotAllowed { reason: fault.detail },
            _ => return Err(invalid("Fault", "kind")),
        }),
    })
}

fn artifact_to_wire(artifact: &Artifact) -> wire::Artifact {
    wire::Artifact { cid: cid_bytes(&artifact.cid), bytes: artifact.bytes, inline: artifact.inline.clone() }
}

fn artifact_from_wire(artifact: Option<wire::Artifact>) -> Result<Artifact, DecodeError> {
    let artifact = artifact.ok_or_else(|| invalid("Result", "artifact"))?;
    let cid = decode_cid(&artifact.cid, "Artifact", "cid")?;
    if let Some(inline) = &artifact.inline
        && (artifact.bytes != inline.len() as u64 || raw_cid(inline) != cid)
    {
        return Err(invalid("Artifact", "inline"));
    }
    Ok(Artifact { cid, bytes: artifact.bytes, inline: artifact.inline })
}

pub(crate) fn encode_result(result: &TaskResult) -> Bytes {
    use wire::result::Outcome;
    let outcome = match &result.outcome {
        Ok(produced) => Outcome::Done(wire::Done {
            stdout: Some(artifact_to_wire(&produced.stdout)),
            files: produced
                .files
                .iter()
                .map(|file| wire::File { name: file.name.clone(), artifact: Some(artifact_to_wire(&file.artifact)) })
                .collect(),
        }),
        Err(error) => Outcome::Failure(failure_to_wire(error)),
    };
    let message = wire::Result {
        task: cid_bytes(&result.task.cid()),
        attempt: Bytes::copy_from_slice(result.attempt.as_bytes()),
        outcome: Some(outcome),
        usage: Some(wire::Usage {
            fuel: result.usage.fuel,
            bytes_in: result.usage.bytes_in,
            bytes_out: result.usage.bytes_out,
            wall_ms: result.usage.wall_ms,
        }),
    };
    Bytes::from(message.encode_to_vec())
}

pub(crate) fn decode_result(bytes: Bytes) -> Result<TaskResult, DecodeError> {
    use wire::result::Outcome;
    let message: wire::Result = bounded::decode(bytes, &RESULT)?;
    let outcome = match message.outcome.ok_or_else(|| invalid("Result", "outcome"))? {
        Outcome::Done(done) => Ok(produced_from_wire(done)?),
        Outcome::Failure(failure) => Err(failure_from_wire(failure)?),
    };
    let usage = message.usage.unwrap_or_default();
    Ok(TaskResult {
        task: TaskId::from_cid(&decode_cid(&message.task, "Result", "task")?)
            .ok_or_else(|| invalid("Result", "task"))?,
        attempt: decode_attempt(&message.attempt, "Result")?,
        outcome,
        usage: Usage { fuel: usage.fuel, bytes_in: usage.bytes_in, bytes_out: usage.bytes_out, wall_ms: usage.wall_ms },
    })
}

fn produced_from_wire(done: wire::Done) -> Result<Produced, DecodeError> {
    let stdout = artifact_from_wire(done.stdout)?;
    let mut files: Vec<OutputFile> = Vec::with_capacity(done.files.len());
    for file in done.files {
        // Sorted and unique, and safe to write below a folder.
        let in_order = files.last().is_none_or(|last| last.name < file.name);
        if !in_order || !file.name.split('/').all(is_file_name) {
            return Err(invalid("File", "name"));
        }
        files.push(OutputFile { name: file.name, artifact: artifact_from_wire(file.artifact)? });
    }
    Ok(Produced { stdout, files })
}

fn failure_to_wire(error: &GuestError) -> wire::Failure {
    let (kind, exit_code, message, stderr) = match error {
        GuestError::InvalidProgram { reason } => (1, 0, reason.as_str(), ""),
        GuestError::Trap { message, stderr } => (2, 0, message.as_str(), stderr.as_str()),
        GuestError::FuelExhausted => (3, 0, "", ""),
        GuestError::TimeLimit => (4, 0, "", ""),
        GuestError::MemoryLimit => (5, 0, "", ""),
        GuestError::OutputLimit => (6, 0, "", ""),
        GuestError::Exit { code, stderr } => (7, *code, "", stderr.as_str()),
        GuestError::Service { reason } => (8, 0, reason.as_str(), ""),
    };
    wire::Failure { kind, exit_code, message: clip(message, MAX_DETAIL_BYTES), stderr: clip(stderr, MAX_DETAIL_BYTES) }
}

fn failure_from_wire(failure: wire::Failure) -> Result<GuestError, DecodeError> {
    let wire::Failure { kind, exit_code, message, stderr } = failure;
    Ok(match kind {
        1 => GuestError::InvalidProgram { reason: message },
        2 => GuestError::Trap { message, stderr },
        3 => GuestError::FuelExhausted,
        4 => GuestError::TimeLimit,
        5 => GuestError::MemoryLimit,
        6 => GuestError::OutputLimit,
        7 => GuestError::Exit { code: exit_code, stderr },
        8 => GuestError::Service { reason: message },
        _ => return Err(invalid("Failure", "kind")),
    })
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
