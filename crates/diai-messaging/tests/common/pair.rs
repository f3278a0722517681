//! Two session machines, frames carried between them by hand, under a hand-driven clock.

use std::time::Duration;

use bytes::Bytes;
use diai_core::{Instant, Priority};
use diai_messaging::{
    codec,
    machine::{Answer, CallKey, Input, NewCall, Outcome, Output, Session, SessionConfig},
    message::{Hello, Limits, Mode},
};

pub(crate) fn limits() -> Limits {
    Limits {
        max_requests: 16,
        max_message_bytes: 256 * 1024,
        request_window_bytes: 512 * 1024,
        reply_window_bytes: 512 * 1024,
        stream_window_bytes: 4096,
    }
}

pub(crate) fn hello(limits: Limits) -> Hello {
    Hello { incarnation: 1, number: 1, seen_incarnation: 0, seen_number: 0, limits }
}

pub(crate) fn session(limits: Limits) -> Session {
    let config = SessionConfig {
        hello: hello(limits),
        max_reply_bytes: 1 << 20,
        retry_after: Duration::from_millis(250),
        keep_alive: Duration::from_secs(10),
    };
    Session::new(Instant::default(), &config)
}

/// A caller and a server, joined.
pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) caller: Session,
    pub(crate) server: Session,
    pub(crate) last: u64,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with(limits(), limits())
    }

    pub(crate) fn with(caller: Limits, server: Limits) -> Self {
        let mut pair = Self { now: Instant::default(), caller: session(caller), server: session(server), last: 0 };
        let (at_caller, at_server) = pair.exchange();
        assert!(matches!(at_caller[..], [Output::Hello(_)]));
        assert!(matches!(at_server[..], [Output::Hello(_)]));
        pair
    }

    pub(crate) fn call(&mut self, mode: Mode, body: Bytes, priority: Priority) -> CallKey {
        self.last += 1;
        let key = CallKey(self.last);
        let deadline = self.now + Duration::from_secs(30);
        let call = NewCall { key, service: "echo".into(), body, mode, priority, deadline };
        self.caller.handle(self.now, Input::Call(call)).unwrap();
        key
    }

    pub(crate) fn whole(&mut self, bytes: usize) -> CallKey {
        self.call(Mode::Whole, Bytes::from(vec![7; bytes]), Priority::Normal)
    }

    /// Carries frames until nothing moves; returns what each side wants done.
    pub(crate) fn exchange(&mut self) -> (Vec<Output>, Vec<Output>) {
        loop {
            let there = carry(self.now, &mut self.caller, &mut self.server);
            let back = carry(self.now, &mut self.server, &mut self.caller);
            if !there && !back {
                break;
            }
        }
        (outputs(&mut self.caller), outputs(&mut self.server))
    }

    /// Answers a request, or ends its parts; gives it back if the end has to wait.
    pub(crate) fn answer(&mut self, id: u64, bytes: usize) -> Option<u64> {
        self.server.handle(self.now, Input::Reply(id, Answer::Whole(vec![2; bytes].into()))).unwrap();
        if self.server.wants_part(id) {
            self.server.handle(self.now, Input::EndStream(id, None)).unwrap();
        }
        self.server.streams(id).then_some(id)
    }

    pub(crate) fn serve(&mut self) -> Vec<u64> {
        let (_, at_server) = self.exchange();
        at_server.into_iter().map(served).collect()
    }
}

pub(crate) fn served(output: Output) -> u64 {
    let Output::Serve { id, .. } = output else { panic!("expected a request, got {output:?}") };
    id
}

pub(crate) fn outputs(session: &mut Session) -> Vec<Output> {
    std::iter::from_fn(|| session.poll_output()).collect()
}

pub(crate) fn carry(now: Instant, from: &mut Session, to: &mut Session) -> bool {
    let mut bytes = Vec::new();
    from.encode(now, &mut bytes, 1);
    deliver(now, &bytes, to);
    !bytes.is_empty()
}

pub(crate) fn deliver(now: Instant, mut bytes: &[u8], to: &mut Session) {
    while let Some((frame, length)) = codec::decode(bytes).unwrap() {
        to.handle(now, Input::Frame(frame)).unwrap();
        bytes = &bytes[length..];
    }
    assert!(bytes.is_empty());
}

pub(crate) fn finished(key: CallKey, outcome: Outcome) -> Output {
    Output::Finished { key, outcome }
}
