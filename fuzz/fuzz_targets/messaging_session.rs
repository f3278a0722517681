//! One side of a session against a peer that sends any bytes: every call ends once, memory stays bounded, and what is
//! sent are frames.
#![no_main]

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use diai_core::{Footprint, Instant, Priority, Refusal};
use diai_messaging::{
    codec,
    machine::{Answer, CallKey, Input, NewCall, Output, Session, SessionConfig},
    message::{Frame, Hello, Limits, MAX_FRAME_BYTES, Mode},
};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    max_requests: 16,
    max_message_bytes: 128 << 10,
    request_window_bytes: 256 << 10,
    reply_window_bytes: 256 << 10,
    stream_window_bytes: 1024,
};
const MAX_REPLY_BYTES: usize = 64 << 10;
/// Requests, windows, answers, and frames that wait.
const MAX_FOOTPRINT: usize = 4 << 20;

struct Side {
    session: Session,
    now: Instant,
    ended: BTreeMap<CallKey, u32>,
}

impl Side {
    fn new() -> Self {
        let hello = Hello { incarnation: 1, number: 1, seen_incarnation: 0, seen_number: 0, limits: LIMITS };
        let config = SessionConfig {
            hello,
            max_reply_bytes: MAX_REPLY_BYTES,
            retry_after: Duration::from_millis(250),
            keep_alive: Duration::from_secs(10),
        };
        let now = Instant::from_nanos(1);
        let mut side = Self { session: Session::new(now, &config), now, ended: BTreeMap::new() };
        for (key, mode) in [Mode::Whole, Mode::OneWay, Mode::Streaming, Mode::Whole].into_iter().enumerate() {
            // The last is longer than a frame.
            let body = vec![7; if key == 3 { MAX_FRAME_BYTES + 1 } else { 3 }];
            let call = NewCall {
                key: CallKey(key as u64),
                service: "fuzz".into(),
                body: body.into(),
                mode,
                priority: Priority::Normal,
                deadline: now + Duration::from_secs(30),
            };
            side.input(Input::Call(call));
        }
        side
    }

    /// Whether the session goes on.
    fn input(&mut self, input: Input<'_>) -> bool {
        let goes_on = self.session.handle(self.now, input).is_ok();
        self.settle();
        goes_on
    }

    /// Does what the session wants, and takes what it sends.
    fn settle(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Serve { id, body, mode, .. } => {
                    assert!(body.len() <= LIMITS.max_message_bytes as usize);
                    self.answer(id, mode);
                }
                Output::Part { key, part } => {
                    let taken = u32::try_from(part.len()).expect("a part is no longer than a message");
                    let _ = self.session.handle(self.now, Input::Taken(key, taken));
                }
                Output::Finished { key, .. } => *self.ended.entry(key).or_default() += 1,
                _ => {}
            }
        }
        let mut sent = Vec::new();
        self.session.encode(self.now, &mut sent, MAX_FRAME_BYTES);
        let mut rest = sent.as_slice();
        while !rest.is_empty() {
            let (_, bytes) = codec::decode(rest).expect("what is sent is well-formed").expect("and whole");
            rest = &rest[bytes..];
        }
    }

    fn answer(&mut self, id: u64, mode: Mode) {
        let now = self.now;
        let mut tell = |input| self.session.handle(now, input).expect("an answer is no violation");
        match (mode, id % 4) {
            // Some are never answered.
            (_, 0) => {}
            (_, 1) => tell(Input::Reply(id, Answer::Refuse(Refusal::Busy { retry_after_ms: 1 }))),
            (Mode::Streaming, _) => {
                tell(Input::Reply(id, Answer::Parts));
                tell(Input::Part(id, Bytes::from(vec![1; 600])));
                tell(Input::EndStream(id, None));
            }
            _ => tell(Input::Reply(id, Answer::Whole(Bytes::from(vec![2; 2000])))),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut side = Side::new();
    let mut rest = data;
    while let Ok(Some((frame, bytes))) = codec::decode(rest) {
        // Time is the fuzzer's too.
        if let Frame::Ping { token } = frame {
            side.now = side.now + Duration::from_millis(token % 20_000);
        }
        let timely = side.session.poll_timeout() > side.now || side.input(Input::Timeout);
        if !timely || !side.input(Input::Frame(frame)) {
            break;
        }
        assert!(side.session.footprint_bytes() < MAX_FOOTPRINT, "{} bytes", side.session.footprint_bytes());
        rest = &rest[bytes..];
    }
    side.input(Input::Ended);
    assert_eq!(side.ended.values().copied().collect::<Vec<_>>(), [1; 4], "each call ends once");
    assert_eq!((side.session.open_calls(), side.session.open_requests()), (0, 0));
});
