//! The calling side of a session: requests made here.

use std::{collections::BTreeMap, collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use diai_core::{Instant, Priority, Refusal};

use super::{
    assembly::Assembly,
    outbound::{Item, Kind, URGENT, class, waits},
    session::{CallKey, Common, NewCall, Outcome, Output, Timer},
    violation::Violation,
    window::{Credit, Window},
};
use crate::{
    codec,
    message::{Frame, MAX_INLINE_BYTES, Mode, PART_OVERHEAD_BYTES},
};

/// The most places that are kept free for what is urgent.
const SPARED_FOR_URGENT: usize = 16;

#[derive(Debug)]
struct Call {
    service: Arc<str>,
    body: Bytes,
    mode: Mode,
    priority: Priority,
    deadline: Instant,
    /// Its number on the wire, once sent.
    id: Option<u64>,
    partial: Option<Assembly>,
    /// What the other side may still send of parts.
    stream_left: i64,
    /// Nobody waits for it any more; it stays until the other side has let it go.
    cancelled: bool,
}

#[derive(Debug)]
pub(crate) struct Calling {
    calls: BTreeMap<CallKey, Call>,
    ids: BTreeMap<u64, CallKey>,
    last_id: u64,
    waiting: [VecDeque<CallKey>; 3],
    /// Long requests that wait for credit, by class.
    blocked: [VecDeque<CallKey>; 3],
    pub(crate) request_credit: Credit,
    pub(crate) reply_window: Window,
    retired: bool,
}

impl Calling {
    pub(crate) fn new(reply_window_bytes: u32) -> Self {
        Self {
            calls: BTreeMap::new(),
            ids: BTreeMap::new(),
            last_id: 0,
            waiting: Default::default(),
            blocked: Default::default(),
            request_credit: Credit::default(),
            reply_window: Window::new(reply_window_bytes),
            retired: false,
        }
    }

    pub(crate) fn call(&mut self, call: NewCall, common: &mut Common) {
        let NewCall { key, service, body, mode, priority, deadline } = call;
        if self.retired {
            common.output(Output::Finished { key, outcome: Outcome::NotSent });
            return;
        }
        common.timers.insert((deadline, Timer::Call(key)));
        self.waiting[class(priority)].push_back(key);
        let stream_left = i64::from(common.ours.stream_window_bytes);
        let call =
            Call { service, body, mode, priority, deadline, id: None, partial: None, stream_left, cancelled: false };
        self.calls.insert(key, call);
    }

    /// Encodes the request frame of the next waiting call of `class`; false if none may go.
    pub(crate) fn encode_call(&mut self, now: Instant, class: usize, out: &mut Vec<u8>, common: &mut Common) -> bool {
        let max_requests = common.theirs.max_requests as usize;
        let spared = if class == URGENT { 0 } else { (max_requests / 64).min(SPARED_FOR_URGENT) };
        while self.ids.len() < max_requests - spared {
            let Some(key) = self.waiting[class].pop_front() else { return false };
            let Some(call) = self.calls.get_mut(&key) else { continue };
            if call.body.len() > MAX_INLINE_BYTES && common.said_hello {
                let limit = common.theirs.max_message_bytes as usize;
                if call.body.len() > limit {
                    self.drop_call(key, common);
                    common.output(Output::Finished { key, outcome: Outcome::TooLarge { limit } });
                    continue;
                }
            }
            let long = call.body.len() > MAX_INLINE_BYTES;
            if long && (waits(&self.blocked, class) || !self.request_credit.take(call.body.len(), class)) {
                self.blocked[class].push_back(key);
                continue;
            }
            self.last_id += 1;
            let id = self.last_id;
            let inline = call.body.len().min(MAX_INLINE_BYTES);
            call.id = Some(id);
            self.ids.insert(id, key);
            let frame = Frame::Request {
                id,
                mode: call.mode,
                priority: call.priority,
                deadline_ms: remaining_ms(call.deadline.since(now)),
                total: u32::try_from(call.body.len()).unwrap_or(u32::MAX),
                service: &call.service,
                body: &call.body[..inline],
            };
            codec::encode(&frame, out);
            let body = std::mem::take(&mut call.body);
            if inline < body.len() {
                let item = Item { id, kind: Kind::Request, body, sent: inline, started: true };
                common.outbound.push(call.priority, item);
            }
            return true;
        }
        false
    }

    pub(crate) fn add_credit(&mut self, bytes: u32) {
        self.request_credit.add(bytes);
        // Asked again in their order; who still lacks credit comes back here.
        for (waiting, blocked) in self.waiting.iter_mut().zip(&mut self.blocked) {
            while let Some(key) = blocked.pop_back() {
                waiting.push_front(key);
            }
        }
    }

    /// The caller is gone, or its time is up.
    pub(crate) fn cancel(&mut self, key: CallKey, common: &mut Common) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        common.timers.remove(&(call.deadline, Timer::Call(key)));
        let Some(id) = call.id else { return self.drop_call(key, common) };
        if !call.cancelled {
            call.cancelled = true;
            common.outbound.purge(id, true);
            common.outbound.control(Frame::Cancel { id });
        }
    }

    pub(crate) fn deadline(&mut self, key: CallKey, common: &mut Common) {
        common.output(Output::Finished { key, outcome: Outcome::Deadline });
        self.cancel(key, common);
    }

    /// The caller has taken `bytes` of parts, their overhead included.
    pub(crate) fn taken(&mut self, key: CallKey, bytes: u32, common: &mut Common) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        if let (Some(id), false) = (call.id, call.cancelled) {
            call.stream_left += i64::from(bytes);
            common.outbound.control(Frame::StreamCredit { id, bytes });
        }
    }

    /// Forgets a call that was never sent.
    fn drop_call(&mut self, key: CallKey, common: &mut Common) {
        let Some(call) = self.calls.remove(&key) else { return };
        common.timers.remove(&(call.deadline, Timer::Call(key)));
        let class = class(call.priority);
        self.waiting[class].retain(|&other| other != key);
        let blocked = self.blocked[class].len();
        self.blocked[class].retain(|&other| other != key);
        if self.blocked[class].len() < blocked {
            // There may be credit enough for those that waited behind it.
            self.add_credit(0);
        }
    }

    fn open(&mut self, id: u64) -> Result<(CallKey, &mut Call), Violation> {
        let key = *self.ids.get(&id).ok_or(Violation::UnknownId { id })?;
        let call = self.calls.get_mut(&key).ok_or(Violation::UnknownId { id })?;
        Ok((key, call))
    }

    pub(crate) fn response(&mut self, id: u64, total: u32, body: &[u8], common: &mut Common) -> Result<(), Violation> {
        let (_, call) = self.open(id)?;
        if call.mode != Mode::Whole || call.partial.is_some() {
            return Err(Violation::Unexpected { id });
        }
        if body.len() == total as usize {
            self.finish(id, Outcome::Whole(Bytes::copy_from_slice(body)), common);
            return Ok(());
        }
        self.begin(id, total, body, common)
    }

    pub(crate) fn part(&mut self, id: u64, total: u32, body: &[u8], common: &mut Common) -> Result<(), Violation> {
        let (key, call) = self.open(id)?;
        if call.mode != Mode::Streaming || call.partial.is_some() {
            return Err(Violation::Unexpected { id });
        }
        if call.stream_left <= 0 {
            return Err(Violation::Credit);
        }
        call.stream_left -= part_cost(total as usize);
        if body.len() < total as usize {
            return self.begin(id, total, body, common);
        }
        if !call.cancelled {
            common.output(Output::Part { key, part: Bytes::copy_from_slice(body) });
        }
        Ok(())
    }

    fn begin(&mut self, id: u64, total: u32, body: &[u8], common: &Common) -> Result<(), Violation> {
        if total > common.ours.max_message_bytes {
            return Err(Violation::TooLarge { bytes: total });
        }
        if !self.reply_window.take(total) {
            return Err(Violation::Credit);
        }
        self.open(id)?.1.partial = Some(Assembly::new(total, body));
        Ok(())
    }

    pub(crate) fn reply_data(&mut self, id: u64, body: &[u8], common: &mut Common) -> Result<(), Violation> {
        let (key, call) = self.open(id)?;
        let partial = call.partial.as_mut().ok_or(Violation::Unexpected { id })?;
        if !partial.push(body) {
            return Err(Violation::Unexpected { id });
        }
        if !partial.is_whole() {
            return Ok(());
        }
        let (mode, cancelled) = (call.mode, call.cancelled);
        if let Some(partial) = call.partial.take() {
            self.reply_window.finish(partial.total());
            match mode {
                Mode::Streaming if cancelled => {}
                Mode::Streaming => common.output(Output::Part { key, part: partial.finish() }),
                Mode::Whole | Mode::OneWay => self.finish(id, Outcome::Whole(partial.finish()), common),
            }
        }
        Ok(())
    }

    /// The end of a streaming answer, or the acknowledgement of a one-way request.
    pub(crate) fn done(&mut self, id: u64, mode: Mode, common: &mut Common) -> Result<(), Violation> {
        let (_, call) = self.open(id)?;
        if call.mode != mode || call.partial.is_some() {
            return Err(Violation::Unexpected { id });
        }
        self.finish(id, Outcome::Done, common);
        Ok(())
    }

    pub(crate) fn refusal(&mut self, id: u64, refusal: Refusal, common: &mut Common) -> Result<(), Violation> {
        self.open(id)?;
        if common.outbound.purge(id, true) {
            // The other side still counts on the rest of the body: tell it that none comes.
            common.outbound.control(Frame::Cancel { id });
        }
        self.finish(id, Outcome::Refused(refusal), common);
        Ok(())
    }

    pub(crate) fn cancelled(&mut self, id: u64, common: &mut Common) -> Result<(), Violation> {
        let (_, call) = self.open(id)?;
        if !call.cancelled {
            return Err(Violation::Unexpected { id });
        }
        self.finish(id, Outcome::Done, common);
        Ok(())
    }

    fn finish(&mut self, id: u64, outcome: Outcome, common: &mut Common) {
        let Some(key) = self.ids.remove(&id) else { return };
        let Some(call) = self.calls.remove(&key) else { return };
        if let Some(partial) = call.partial {
            self.reply_window.finish(partial.total());
        }
        if !call.cancelled {
            common.timers.remove(&(call.deadline, Timer::Call(key)));
            common.output(Output::Finished { key, outcome });
        }
    }

    /// No more calls on this session; those not sent go elsewhere.
    pub(crate) fn retire(&mut self, common: &mut Common) {
        self.retired = true;
        let unsent: Vec<CallKey> =
            self.calls.iter().filter(|(_, call)| call.id.is_none()).map(|(&key, _)| key).collect();
        for key in unsent {
            self.drop_call(key, common);
            common.output(Output::Finished { key, outcome: Outcome::NotSent });
        }
    }

    /// The session has ended.
    pub(crate) fn end(&mut self, common: &mut Common) {
        self.retire(common);
        for (key, call) in std::mem::take(&mut self.calls) {
            if !call.cancelled {
                common.output(Output::Finished { key, outcome: Outcome::Broken });
            }
        }
        self.ids.clear();
    }

    /// Whether nobody waits for an answer any more: calls that were cancelled are open until the other side has heard.
    pub(crate) fn is_given_up(&self) -> bool {
        self.calls.values().all(|call| call.cancelled)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn footprint_bytes(&self) -> usize {
        let bodies: usize = self.calls.values().map(|call| call.body.len() + size_of::<Call>()).sum();
        bodies + usize::try_from(self.reply_window.used()).unwrap_or(usize::MAX)
    }
}

/// What a part of `bytes` costs of its stream's credit.
pub(crate) fn part_cost(bytes: usize) -> i64 {
    // A part has at most 16 MiB.
    i64::try_from(bytes + PART_OVERHEAD_BYTES).unwrap_or(i64::MAX)
}

/// Rounded up, so that a deadline in the future never travels as none.
fn remaining_ms(left: Duration) -> u32 {
    u32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}
