//! Frames to bytes and back.

use diai_core::{Priority, Refusal};

use crate::message::{
    Frame, HEADER_BYTES, Hello, Limits, MAX_FRAME_BYTES, MAX_HELLO_BYTES, MAX_REASON_BYTES, MAX_SERVICE_BYTES, Mode,
};

const HELLO: u8 = 0;
const REQUEST: u8 = 1;
const REQUEST_DATA: u8 = 2;
const RESPONSE: u8 = 3;
const PART: u8 = 4;
const REPLY_DATA: u8 = 5;
const END: u8 = 6;
const ACK: u8 = 7;
const REFUSAL: u8 = 8;
const CANCEL: u8 = 9;
const CANCELLED: u8 = 10;
const CREDIT: u8 = 11;
const STREAM_CREDIT: u8 = 12;
const PING: u8 = 13;
const PONG: u8 = 14;
const BYE: u8 = 15;

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The payload is longer than its kind allows.
    #[error("a frame of kind {kind} with {bytes} bytes, at most {limit} are allowed")]
    TooLong {
        /// Which kind.
        kind: u8,
        /// The announced length.
        bytes: usize,
        /// The cap.
        limit: usize,
    },
    /// The payload is shorter than its kind needs, or holds what means nothing.
    #[error("a malformed frame of kind {kind}")]
    Malformed {
        /// Which kind.
        kind: u8,
    },
}

/// Appends `frame` to `out`. The caller keeps payloads within [`MAX_FRAME_BYTES`]; reasons are cut to
/// [`MAX_REASON_BYTES`].
pub fn encode(frame: &Frame<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    let (kind, id) = put_payload(frame, out);
    let bytes = out.len() - start - HEADER_BYTES;
    debug_assert!(bytes <= MAX_FRAME_BYTES, "a frame is cut before it is encoded");
    let head = u32::from(kind) | (u32::try_from(bytes).unwrap_or(u32::MAX) << 8);
    out[start..start + 4].copy_from_slice(&head.to_le_bytes());
    out[start + 4..start + HEADER_BYTES].copy_from_slice(&id.to_le_bytes());
}

/// Appends the payload; returns the kind byte with its flags, and the id.
fn put_payload(frame: &Frame<'_>, out: &mut Vec<u8>) -> (u8, u64) {
    match frame {
        Frame::Hello(hello) => {
            put_hello(hello, out);
            (HELLO, 0)
        }
        Frame::Request { id, mode, priority, deadline_ms, total, service, body } => {
            out.extend_from_slice(&deadline_ms.to_le_bytes());
            out.extend_from_slice(&total.to_le_bytes());
            out.push(u8::try_from(service.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(service.as_bytes());
            out.extend_from_slice(body);
            (REQUEST | (mode_bits(*mode) << 4) | (priority_bits(*priority) << 6), *id)
        }
        Frame::RequestData { id, body } => {
            out.extend_from_slice(body);
            (REQUEST_DATA, *id)
        }
        Frame::Response { id, total, body } => {
            out.extend_from_slice(&total.to_le_bytes());
            out.extend_from_slice(body);
            (RESPONSE, *id)
        }
        Frame::Part { id, total, body } => {
            out.extend_from_slice(&total.to_le_bytes());
            out.extend_from_slice(body);
            (PART, *id)
        }
        Frame::ReplyData { id, body } => {
            out.extend_from_slice(body);
            (REPLY_DATA, *id)
        }
        Frame::End { id } => (END, *id),
        Frame::Ack { id } => (ACK, *id),
        Frame::Refusal { id, refusal } => {
            put_refusal(refusal, out);
            (REFUSAL, *id)
        }
        Frame::Cancel { id } => (CANCEL, *id),
        Frame::Cancelled { id } => (CANCELLED, *id),
        Frame::Credit { request_bytes, reply_bytes } => {
            out.extend_from_slice(&request_bytes.to_le_bytes());
            out.extend_from_slice(&reply_bytes.to_le_bytes());
            (CREDIT, 0)
        }
        Frame::StreamCredit { id, bytes } => {
            out.extend_from_slice(&bytes.to_le_bytes());
            (STREAM_CREDIT, *id)
        }
        Frame::Ping { token } => (PING, *token),
        Frame::Pong { token } => (PONG, *token),
        Frame::Bye => (BYE, 0),
    }
}

fn put_hello(hello: &Hello, out: &mut Vec<u8>) {
    for number in [hello.incarnation, hello.number, hello.seen_incarnation, hello.seen_number] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let Limits { max_requests, max_message_bytes, request_window_bytes, reply_window_bytes, stream_window_bytes } =
        hello.limits;
    for number in [max_requests, max_message_bytes, request_window_bytes, reply_window_bytes, stream_window_bytes] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn put_refusal(refusal: &Refusal, out: &mut Vec<u8>) {
    let (code, reason) = match refusal {
        Refusal::Busy { retry_after_ms } => {
            out.push(0);
            out.extend_from_slice(&retry_after_ms.to_le_bytes());
            return;
        }
        Refusal::UnknownService => (1, ""),
        Refusal::NotAllowed { reason } => (2, reason.as_str()),
        Refusal::DeadlinePassed => (3, ""),
        Refusal::BadRequest { reason } => (4, reason.as_str()),
        Refusal::Failed { reason } => (5, reason.as_str()),
        // A refusal that a newer core knows and this protocol does not.
        _ => (5, "refused"),
    };
    out.push(code);
    out.extend_from_slice(&reason.as_bytes()[..reason.floor_char_boundary(MAX_REASON_BYTES)]);
}

const fn mode_bits(mode: Mode) -> u8 {
    match mode {
        Mode::Whole => 0,
        Mode::OneWay => 1,
        Mode::Streaming => 2,
    }
}

const fn priority_bits(priority: Priority) -> u8 {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

/// The longest payload of a frame of `kind`.
const fn longest(kind: u8) -> usize {
    match kind {
        HELLO => MAX_HELLO_BYTES,
        REQUEST | REQUEST_DATA | RESPONSE | PART | REPLY_DATA => MAX_FRAME_BYTES,
        REFUSAL => 1 + MAX_REASON_BYTES,
        CREDIT => 8,
        STREAM_CREDIT => 4,
        _ => 0,
    }
}

/// The frame at the start of `bytes` and its length on the wire; `None` if it is not whole yet. The announced length is
/// checked before the payload is waited for.
pub fn decode(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let head = u32::from_le_bytes(*head);
    let (kind, flags, payload_bytes) = ((head & 0xf) as u8, ((head >> 4) & 0xf) as u8, (head >> 8) as usize);
    let limit = longest(kind);
    if payload_bytes > limit {
        return Err(FrameError::TooLong { kind, bytes: payload_bytes, limit });
    }
    let Some((id, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
    let Some(payload) = rest.get(..payload_bytes) else { return Ok(None) };
    let frame = payload_of(kind, flags, u64::from_le_bytes(*id), payload).ok_or(FrameError::Malformed { kind })?;
    Ok(Some((frame, HEADER_BYTES + payload_bytes)))
}

fn payload_of(kind: u8, flags: u8, id: u64, payload: &[u8]) -> Option<Frame<'_>> {
    if flags != 0 && kind != REQUEST {
        return None;
    }
    let no_id = matches!(kind, HELLO | CREDIT | BYE);
    if no_id != (id == 0) && !matches!(kind, PING | PONG) {
        return None;
    }
    Some(match kind {
        HELLO => Frame::Hello(hello_of(payload)?),
        REQUEST => return request_of(flags, id, payload),
        REQUEST_DATA if !payload.is_empty() => Frame::RequestData { id, body: payload },
        RESPONSE => {
            let (total, body) = message_of(payload)?;
            Frame::Response { id, total, body }
        }
        PART => {
            let (total, body) = message_of(payload)?;
            Frame::Part { id, total, body }
        }
        REPLY_DATA if !payload.is_empty() => Frame::ReplyData { id, body: payload },
        END => Frame::End { id },
        ACK => Frame::Ack { id },
        REFUSAL => Frame::Refusal { id, refusal: refusal_of(payload)? },
        CANCEL => Frame::Cancel { id },
        CANCELLED => Frame::Cancelled { id },
        CREDIT => {
            let mut rest = payload;
            Frame::Credit { request_bytes: take_u32(&mut rest)?, reply_bytes: take_u32(&mut rest)? }
        }
        STREAM_CREDIT => {
            let mut rest = payload;
            Frame::StreamCredit { id, bytes: take_u32(&mut rest)? }
        }
        PING => Frame::Ping { token: id },
        PONG => Frame::Pong { token: id },
        BYE => Frame::Bye,
        _ => return None,
    })
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (head, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    Some(u32::from_le_bytes(*head))
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    let (head, tail) = rest.split_first_chunk::<8>()?;
    *rest = tail;
    Some(u64::from_le_bytes(*head))
}

/// A message's whole length and its first bytes, which are no more than that.
fn message_of(payload: &[u8]) -> Option<(u32, &[u8])> {
    let mut body = payload;
    let total = take_u32(&mut body)?;
    (body.len() <= total as usize).then_some((total, body))
}

fn hello_of(payload: &[u8]) -> Option<Hello> {
    let mut rest = payload;
    Some(Hello {
        incarnation: take_u64(&mut rest)?,
        number: take_u64(&mut rest)?,
        seen_incarnation: take_u64(&mut rest)?,
        seen_number: take_u64(&mut rest)?,
        limits: Limits {
            max_requests: take_u32(&mut rest)?,
            max_message_bytes: take_u32(&mut rest)?,
            request_window_bytes: take_u32(&mut rest)?,
            reply_window_bytes: take_u32(&mut rest)?,
            stream_window_bytes: take_u32(&mut rest)?,
        },
    })
}

fn request_of(flags: u8, id: u64, payload: &[u8]) -> Option<Frame<'_>> {
    let mode = match flags & 3 {
        0 => Mode::Whole,
        1 => Mode::OneWay,
        2 => Mode::Streaming,
        _ => return None,
    };
    let priority = match flags >> 2 {
        0 => Priority::High,
        1 => Priority::Normal,
        2 => Priority::Low,
        _ => return None,
    };
    let mut rest = payload;
    let deadline_ms = take_u32(&mut rest)?;
    let total = take_u32(&mut rest)?;
    let (&service_bytes, rest) = rest.split_first()?;
    let (service, body) = rest.split_at_checked(usize::from(service_bytes))?;
    if service.is_empty() || service.len() > MAX_SERVICE_BYTES || body.len() > total as usize {
        return None;
    }
    let service = std::str::from_utf8(service).ok()?;
    Some(Frame::Request { id, mode, priority, deadline_ms, total, service, body })
}

fn refusal_of(payload: &[u8]) -> Option<Refusal> {
    let (&code, mut rest) = payload.split_first()?;
    if code == 0 {
        return Some(Refusal::Busy { retry_after_ms: take_u64(&mut rest)? });
    }
    let reason = std::str::from_utf8(rest).ok()?.to_owned();
    Some(match code {
        1 => Refusal::UnknownService,
        2 => Refusal::NotAllowed { reason },
        3 => Refusal::DeadlinePassed,
        4 => Refusal::BadRequest { reason },
        // Whatever a newer peer calls it, the request failed.
        _ => Refusal::Failed { reason },
    })
}
