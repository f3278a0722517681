//! One side of a session.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use diai_core::{Footprint, Instant, Priority, Refusal};

use super::{
    calling::Calling,
    outbound::{Outbound, Step},
    serving::{RequestHead, Serving},
    violation::Violation,
};
use crate::message::{Frame, Hello, Limits, Mode};

/// A call's name between the session and whoever makes calls; never on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallKey(pub u64);

/// A request to make.
#[derive(Debug, Clone)]
pub struct NewCall {
    /// Unused so far on this session.
    pub key: CallKey,
    /// 1 to 128 bytes.
    pub service: Arc<str>,
    /// At most 16 MiB.
    pub body: Bytes,
    /// What is expected back.
    pub mode: Mode,
    /// Which frames go first.
    pub priority: Priority,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The whole answer.
    Whole(Bytes),
    /// Acknowledged, or the streaming answer is complete.
    Done,
    /// A typed no.
    Refused(Refusal),
    /// The deadline passed.
    Deadline,
    /// The other side takes no message as long as this.
    TooLarge {
        /// Its limit in bytes.
        limit: usize,
    },
    /// The session ended or retired before the request was sent: it has not run.
    NotSent,
    /// The session ended after the request was sent: it may have run.
    Broken,
}

/// What a handler answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The whole answer.
    Whole(Bytes),
    /// Parts follow as [`Input::Part`].
    Parts,
    /// No.
    Refuse(Refusal),
}

/// What a session is told.
#[derive(Debug)]
pub enum Input<'a> {
    /// A frame came.
    Frame(Frame<'a>),
    /// The other side is there: it sent a piece of a frame, or took bytes that it had not taken before.
    Moved,
    /// Make this request.
    Call(NewCall),
    /// Nobody waits for this call any more.
    Cancel(CallKey),
    /// The caller has taken parts worth so many bytes, [`PART_OVERHEAD_BYTES`](crate::message::PART_OVERHEAD_BYTES)
    /// for each included.
    Taken(CallKey, u32),
    /// The handler of a request answers.
    Reply(u64, Answer),
    /// The next part of a streaming answer.
    Part(u64, Bytes),
    /// The streaming answer has ended, with a refusal or well.
    EndStream(u64, Option<Refusal>),
    /// Make no more requests here; end when all is answered.
    Retire,
    /// The same, and refuse new requests of the other side: this agent is shutting down.
    ShutDown,
    /// The stream has ended or failed.
    Ended,
    /// [`Session::poll_timeout`] has passed.
    Timeout,
}

/// What a session wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The other side's hello.
    Hello(Hello),
    /// Serve this request, and answer with [`Input::Reply`].
    Serve {
        /// Its name towards this machine.
        id: u64,
        /// Which service.
        service: Arc<str>,
        /// The whole body.
        body: Bytes,
        /// When the caller stops waiting.
        deadline: Instant,
        /// What it expects back.
        mode: Mode,
    },
    /// Drop the handler or stream of this request.
    Abort {
        /// Which one.
        id: u64,
    },
    /// A part of a streaming answer.
    Part {
        /// Of which call.
        key: CallKey,
        /// Its bytes.
        part: Bytes,
    },
    /// A call has ended.
    Finished {
        /// Which one.
        key: CallKey,
        /// How.
        outcome: Outcome,
    },
    /// The other side makes no more requests here; this side does neither from now on.
    Retired,
    /// The other side makes far more requests than it may.
    Flooding,
}

/// How a session behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionConfig {
    /// The hello that it says, with its limits.
    pub hello: Hello,
    /// Bytes of answers that may wait to be sent; then new requests are refused and streams pause.
    pub max_reply_bytes: usize,
    /// What a busy refusal tells the caller.
    pub retry_after: Duration,
    /// After so much silence a ping goes out; after two and a half times as much the session is broken.
    pub keep_alive: Duration,
}

/// What both directions share.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) outbound: Outbound,
    pub(crate) timers: BTreeSet<(Instant, Timer)>,
    outputs: VecDeque<Output>,
    pub(crate) ours: Limits,
    pub(crate) theirs: Limits,
    /// Whether `theirs` is known, not assumed.
    pub(crate) said_hello: bool,
}

impl Common {
    pub(crate) fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Call(CallKey),
    Request(u64),
    Farewell,
}

/// After its bye a side with nothing open waits so long for the other's.
const FAREWELL: Duration = Duration::from_millis(500);

/// One side of a session between two devices.
#[derive(Debug)]
pub struct Session {
    common: Common,
    calling: Calling,
    serving: Serving,
    keep_alive: Duration,
    heard: Instant,
    pinged: bool,
    bye_sent: bool,
    bye_heard: bool,
    /// For the other side's bye, long enough.
    waited: bool,
    /// Per class: whether a new request goes before what is under way, by turns.
    turn: [bool; 3],
}

impl Session {
    /// A session that begins at `now`, with its hello to be sent.
    pub fn new(now: Instant, config: &SessionConfig) -> Self {
        let ours = config.hello.limits;
        let mut outbound = Outbound::default();
        outbound.control(Frame::Hello(config.hello));
        let retry_after_ms = u64::try_from(config.retry_after.as_millis()).unwrap_or(u64::MAX);
        Self {
            common: Common {
                outbound,
                timers: BTreeSet::new(),
                outputs: VecDeque::new(),
                ours,
                theirs: Limits::FLOOR,
                said_hello: false,
            },
            calling: Calling::new(ours.reply_window_bytes),
            serving: Serving::new(ours.request_window_bytes, config.max_reply_bytes, retry_after_ms),
            keep_alive: config.keep_alive,
            heard: now,
            pinged: false,
            bye_sent: false,
            bye_heard: false,
            waited: false,
            turn: [false; 3],
        }
    }

    /// Takes one input. Only a frame, or silence, can be a violation; then the session is over, and
    /// [`Input::Ended`] settles what was open.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) -> Result<(), Violation> {
        let common = &mut self.common;
        match input {
            Input::Frame(frame) => {
                self.heard = now;
                self.pinged = false;
                self.frame(now, frame)?;
            }
            Input::Moved => self.heard = now,
            Input::Call(call) => self.calling.call(call, common),
            Input::Cancel(key) => self.calling.cancel(key, common),
            Input::Taken(key, bytes) => self.calling.taken(key, bytes, common),
            Input::Reply(id, answer) => self.serving.reply(id, answer, common),
            Input::Part(id, part) => self.serving.part(id, part, common),
            Input::EndStream(id, refusal) => self.serving.end_stream(id, refusal, common),
            Input::Retire => self.retire(now),
            Input::ShutDown => {
                self.serving.refusing = true;
                self.retire(now);
            }
            Input::Ended => {
                self.calling.end(common);
                self.serving.end(common);
                common.timers.clear();
            }
            Input::Timeout => self.timeout(now)?,
        }
        self.pay();
        Ok(())
    }

    fn frame(&mut self, now: Instant, frame: Frame<'_>) -> Result<(), Violation> {
        let common = &mut self.common;
        if matches!(frame, Frame::Hello(_)) == common.said_hello {
            return Err(Violation::Hello);
        }
        match frame {
            Frame::Hello(hello) => self.hello(hello),
            Frame::Request { .. } if self.bye_heard => Err(Violation::AfterBye),
            Frame::Request { id, mode, priority, deadline_ms, total, service, body } => {
                let head = RequestHead { id, mode, priority, deadline_ms, total, service };
                self.serving.request(now, &head, body, common)
            }
            Frame::RequestData { id, body } => self.serving.data(id, body, common),
            Frame::Response { id, total, body } => self.calling.response(id, total, body, common),
            Frame::Part { id, total, body } => self.calling.part(id, total, body, common),
            Frame::ReplyData { id, body } => self.calling.reply_data(id, body, common),
            Frame::End { id } => self.calling.done(id, Mode::Streaming, common),
            Frame::Ack { id } => self.calling.done(id, Mode::OneWay, common),
            Frame::Refusal { id, refusal } => self.calling.refusal(id, refusal, common),
            Frame::Cancel { id } => self.serving.cancel(id, common),
            Frame::Cancelled { id } => self.calling.cancelled(id, common),
            Frame::Credit { request_bytes, reply_bytes } => {
                self.calling.add_credit(request_bytes);
                common.outbound.add_reply_credit(reply_bytes);
                Ok(())
            }
            Frame::StreamCredit { id, bytes } => {
                self.serving.stream_credit(id, bytes, common);
                Ok(())
            }
            Frame::Ping { token } => {
                common.outbound.control(Frame::Pong { token });
                Ok(())
            }
            Frame::Pong { .. } => Ok(()),
            Frame::Bye => {
                self.bye_heard = true;
                if !self.bye_sent {
                    self.common.output(Output::Retired);
                    self.retire(now);
                }
                Ok(())
            }
        }
    }

    fn hello(&mut self, hello: Hello) -> Result<(), Violation> {
        let limits = hello.limits;
        if !limits.are_sound() {
            return Err(Violation::Limits);
        }
        self.common.said_hello = true;
        self.common.theirs = limits;
        self.calling.request_credit.open(limits.request_window_bytes);
        self.calling.add_credit(0);
        self.common.outbound.open_reply_credit(limits.reply_window_bytes);
        self.common.output(Output::Hello(hello));
        Ok(())
    }

    fn retire(&mut self, now: Instant) {
        self.calling.retire(&mut self.common);
        if !self.bye_sent {
            self.bye_sent = true;
            self.common.outbound.control(Frame::Bye);
            self.common.timers.insert((now + FAREWELL, Timer::Farewell));
        }
    }

    /// With nothing open, the other side's bye is only a courtesy: whoever may be dead is not waited for.
    fn farewell(&mut self, now: Instant) {
        if self.calling.is_given_up() && self.serving.is_empty() {
            self.waited = true;
        } else {
            self.common.timers.insert((now + FAREWELL, Timer::Farewell));
        }
    }

    fn timeout(&mut self, now: Instant) -> Result<(), Violation> {
        while let Some(&(deadline, timer)) = self.common.timers.first()
            && deadline <= now
        {
            self.common.timers.pop_first();
            match timer {
                Timer::Call(key) => self.calling.deadline(key, &mut self.common),
                Timer::Request(id) => self.serving.deadline(id, &mut self.common),
                Timer::Farewell => self.farewell(now),
            }
        }
        if now >= self.dead_at() {
            return Err(Violation::Silent);
        }
        if !self.pinged && now >= self.heard + self.keep_alive {
            self.pinged = true;
            self.common.outbound.control(Frame::Ping { token: now.as_nanos() });
        }
        Ok(())
    }

    fn dead_at(&self) -> Instant {
        self.heard + self.keep_alive * 5 / 2
    }

    fn pay(&mut self) {
        if self.serving.window.is_due() || self.calling.reply_window.is_due() {
            let (request_bytes, reply_bytes) = (self.serving.window.pay(), self.calling.reply_window.pay());
            self.common.outbound.control(Frame::Credit { request_bytes, reply_bytes });
        }
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.common.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due, unless something else comes first.
    pub fn poll_timeout(&self) -> Instant {
        let alive = if self.pinged { self.dead_at() } else { self.heard + self.keep_alive };
        self.common.timers.first().map_or(alive, |&(deadline, _)| deadline.min(alive))
    }

    /// Appends frames that may go now to `out`, until it holds `target` bytes or more. Each goes at most one frame
    /// beyond that.
    pub fn encode(&mut self, now: Instant, out: &mut Vec<u8>, target: usize) {
        while out.len() < target && (self.common.outbound.encode_control(out) || self.encode_message(now, out)) {}
    }

    fn encode_message(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        (0..3).any(|class| {
            let call_first = std::mem::take(&mut self.turn[class]);
            if call_first && self.calling.encode_call(now, class, out, &mut self.common) {
                return true;
            }
            if self.common.outbound.has_items(class) {
                match self.common.outbound.encode_item(class, out) {
                    Step::More => {}
                    Step::PartSent(id) => self.serving.sent(id, false, &mut self.common),
                    Step::AnswerSent(id) => self.serving.sent(id, true, &mut self.common),
                }
                self.turn[class] = true;
                return true;
            }
            !call_first && self.calling.encode_call(now, class, out, &mut self.common)
        })
    }

    /// Whether request `id` is being answered in parts.
    pub fn streams(&self, id: u64) -> bool {
        self.serving.streams(id)
    }

    /// Whether the stream of request `id` may be asked for its next part.
    pub fn wants_part(&self, id: u64) -> bool {
        self.serving.wants_part(id, &self.common)
    }

    /// How urgent the answer to request `id` is.
    pub fn priority(&self, id: u64) -> Priority {
        self.serving.priority(id)
    }

    /// Whether handlers may go on: answers do not pile up.
    pub fn has_room(&self, priority: Priority) -> bool {
        self.serving.has_room(priority, &self.common)
    }

    /// Control frames that wait to be sent. Whoever reads the stream stops at a cap: a peer that makes this side answer
    /// and does not read must not make it hold the answers.
    pub fn control_frames(&self) -> usize {
        self.common.outbound.control_frames()
    }

    /// Calls made here that are open.
    pub fn open_calls(&self) -> usize {
        self.calling.len()
    }

    /// Requests of the other side that are open.
    pub fn open_requests(&self) -> usize {
        self.serving.len()
    }

    /// Whether the session has come to its orderly end: both sides said bye, or were given the
    /// time for it, and nothing is open.
    pub fn is_done(&self) -> bool {
        self.bye_sent
            && (self.waited || self.bye_heard && self.calling.is_empty())
            && self.serving.is_empty()
            && self.common.outbound.is_empty()
    }
}

impl Footprint for Session {
    fn footprint_bytes(&self) -> usize {
        self.calling.footprint_bytes() + self.serving.footprint_bytes() + self.common.outbound.footprint_bytes()
    }
}
