//! The serving side of a session: requests of the other side.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use diai_core::{Instant, Priority, Refusal};

use super::{
    assembly::Assembly,
    calling::part_cost,
    outbound::{Item, Kind},
    session::{Answer, Common, Output, Timer},
    violation::Violation,
    window::Window,
};
use crate::message::{Frame, MAX_INLINE_BYTES, Mode};

#[derive(Debug)]
struct Served {
    mode: Mode,
    priority: Priority,
    deadline: Instant,
    stage: Stage,
    /// Bytes taken from the request window, given back when the handler is done.
    credit: u32,
    /// Bytes of parts that the caller has room for.
    stream_credit: i64,
    /// A part of more than one frame is on its way; the next waits, so that they stay in order.
    part_under_way: bool,
}

#[derive(Debug)]
enum Stage {
    Receiving { service: Arc<str>, body: Assembly },
    Handling,
    Streaming,
    Answered,
}

/// A long request that was refused before all of it came.
#[derive(Debug)]
struct Discard {
    left: usize,
    credit: u32,
}

/// The fixed part of a request frame.
pub(crate) struct RequestHead<'a> {
    pub(crate) id: u64,
    pub(crate) mode: Mode,
    pub(crate) priority: Priority,
    pub(crate) deadline_ms: u32,
    pub(crate) total: u32,
    pub(crate) service: &'a str,
}

#[derive(Debug)]
pub(crate) struct Serving {
    requests: BTreeMap<u64, Served>,
    discards: BTreeMap<u64, Discard>,
    last_id: u64,
    excess: u64,
    pub(crate) window: Window,
    /// New requests are refused: this agent is shutting down.
    pub(crate) refusing: bool,
    max_reply_bytes: usize,
    retry_after_ms: u64,
}

/// Room for urgent answers beside the longest other one.
const URGENT_BYTES: usize = 4 << 20;
/// So many requests over the limit, and the peer is reported as flooding.
const EXCESS_PER_REPORT: u64 = 4096;

impl Serving {
    pub(crate) fn new(window_bytes: u32, max_reply_bytes: usize, retry_after_ms: u64) -> Self {
        Self {
            requests: BTreeMap::new(),
            discards: BTreeMap::new(),
            last_id: 0,
            excess: 0,
            window: Window::new(window_bytes),
            refusing: false,
            max_reply_bytes,
            retry_after_ms,
        }
    }

    pub(crate) fn request(
        &mut self,
        now: Instant,
        head: &RequestHead<'_>,
        body: &[u8],
        common: &mut Common,
    ) -> Result<(), Violation> {
        let &RequestHead { id, mode, priority, deadline_ms, total, service } = head;
        if id <= self.last_id {
            return Err(Violation::DuplicateId { id });
        }
        self.last_id = id;
        if total > common.ours.max_message_bytes {
            return Err(Violation::TooLarge { bytes: total });
        }
        let left = total as usize - body.len();
        if left > 0 && total as usize <= MAX_INLINE_BYTES {
            // What fits comes whole: so whatever is remembered of a request costs its peer credit.
            return Err(Violation::Unexpected { id });
        }
        let credit = if left == 0 { 0 } else { total };
        if !self.window.take(credit) {
            return Err(Violation::Credit);
        }
        if let Some(refusal) = self.admit(priority, deadline_ms, common) {
            common.outbound.control(Frame::Refusal { id, refusal });
            if left > 0 {
                self.discards.insert(id, Discard { left, credit });
            }
            return Ok(());
        }
        let deadline = now + Duration::from_millis(u64::from(deadline_ms));
        common.timers.insert((deadline, Timer::Request(id)));
        let service: Arc<str> = service.into();
        let stage = if left == 0 {
            common.output(Output::Serve { id, service, body: Bytes::copy_from_slice(body), deadline, mode });
            Stage::Handling
        } else {
            Stage::Receiving { service, body: Assembly::new(total, body) }
        };
        let stream_credit = i64::from(common.theirs.stream_window_bytes);
        let served = Served { mode, priority, deadline, stage, credit, stream_credit, part_under_way: false };
        self.requests.insert(id, served);
        Ok(())
    }

    fn admit(&mut self, priority: Priority, deadline_ms: u32, common: &mut Common) -> Option<Refusal> {
        let full = self.requests.len() >= common.ours.max_requests as usize;
        if full {
            self.excess += 1;
            if self.excess.is_multiple_of(EXCESS_PER_REPORT) {
                common.output(Output::Flooding);
            }
        }
        if full || self.refusing || !self.has_room(priority, common) {
            return Some(Refusal::Busy { retry_after_ms: self.retry_after_ms });
        }
        (deadline_ms == 0).then_some(Refusal::DeadlinePassed)
    }

    pub(crate) fn data(&mut self, id: u64, bytes: &[u8], common: &mut Common) -> Result<(), Violation> {
        if let Some(discard) = self.discards.get_mut(&id) {
            discard.left = discard.left.checked_sub(bytes.len()).ok_or(Violation::Unexpected { id })?;
            if discard.left == 0 {
                self.window.finish(discard.credit);
                self.discards.remove(&id);
            }
            return Ok(());
        }
        let served = self.requests.get_mut(&id).ok_or(Violation::UnknownId { id })?;
        let Stage::Receiving { body, .. } = &mut served.stage else { return Err(Violation::Unexpected { id }) };
        if !body.push(bytes) {
            return Err(Violation::Unexpected { id });
        }
        if body.is_whole()
            && let Stage::Receiving { service, body } = std::mem::replace(&mut served.stage, Stage::Handling)
        {
            let (deadline, mode) = (served.deadline, served.mode);
            common.output(Output::Serve { id, service, body: body.finish(), deadline, mode });
        }
        Ok(())
    }

    pub(crate) fn cancel(&mut self, id: u64, common: &mut Common) -> Result<(), Violation> {
        if id > self.last_id {
            return Err(Violation::UnknownId { id });
        }
        if let Some(discard) = self.discards.remove(&id) {
            self.window.finish(discard.credit);
        } else if self.requests.contains_key(&id) {
            if let Some(discard) = self.abort(id, common) {
                self.window.finish(discard.credit);
            }
            common.outbound.control(Frame::Cancelled { id });
        }
        // Else the answer and the cancel crossed.
        Ok(())
    }

    pub(crate) fn deadline(&mut self, id: u64, common: &mut Common) {
        if let Some(discard) = self.abort(id, common) {
            self.discards.insert(id, discard);
        }
        common.outbound.control(Frame::Refusal { id, refusal: Refusal::DeadlinePassed });
    }

    /// Lets a request go, whatever its stage. What is still to come of its body is returned.
    fn abort(&mut self, id: u64, common: &mut Common) -> Option<Discard> {
        let served = self.requests.remove(&id)?;
        common.timers.remove(&(served.deadline, Timer::Request(id)));
        match served.stage {
            Stage::Receiving { body, .. } => return Some(Discard { left: body.left(), credit: served.credit }),
            Stage::Handling | Stage::Streaming => common.output(Output::Abort { id }),
            Stage::Answered => {}
        }
        common.outbound.purge(id, false);
        self.window.finish(served.credit);
        None
    }

    pub(crate) fn reply(&mut self, id: u64, answer: Answer, common: &mut Common) {
        let Some(served) = self.requests.get_mut(&id) else { return };
        if !matches!(served.stage, Stage::Handling) {
            return;
        }
        self.window.finish(std::mem::take(&mut served.credit));
        match (answer, served.mode) {
            (Answer::Refuse(refusal), _) => self.refuse(id, refusal, common),
            (Answer::Whole(_) | Answer::Parts, Mode::OneWay) => {
                self.remove(id, common);
                common.outbound.control(Frame::Ack { id });
            }
            (Answer::Whole(body), mode) => {
                if body.len() > common.theirs.max_message_bytes as usize {
                    let limit = common.theirs.max_message_bytes;
                    let reason = format!("the answer has {} bytes, at most {limit} are allowed", body.len());
                    return self.refuse(id, Refusal::Failed { reason }, common);
                }
                served.stage = Stage::Answered;
                let kind = if mode == Mode::Whole { Kind::Response } else { Kind::Part { last: true } };
                common.outbound.push(served.priority, Item::reply(id, kind, body));
            }
            (Answer::Parts, Mode::Whole) => {
                let reason = "this service answers in parts; make a streaming call".to_owned();
                self.refuse(id, Refusal::BadRequest { reason }, common);
            }
            (Answer::Parts, Mode::Streaming) => served.stage = Stage::Streaming,
        }
    }

    pub(crate) fn part(&mut self, id: u64, part: Bytes, common: &mut Common) {
        let Some(served) = self.requests.get_mut(&id) else { return };
        if !matches!(served.stage, Stage::Streaming) {
            return;
        }
        if part.len() > common.theirs.max_message_bytes as usize {
            let limit = common.theirs.max_message_bytes;
            let reason = format!("a part has {} bytes, at most {limit} are allowed", part.len());
            return self.end_stream(id, Some(Refusal::Failed { reason }), common);
        }
        served.stream_credit -= part_cost(part.len());
        served.part_under_way = part.len() > MAX_INLINE_BYTES;
        common.outbound.push(served.priority, Item::reply(id, Kind::Part { last: false }, part));
    }

    /// The handler's stream has ended, well or with a refusal. Its parts go first.
    pub(crate) fn end_stream(&mut self, id: u64, refusal: Option<Refusal>, common: &mut Common) {
        let Some(served) = self.requests.get_mut(&id) else { return };
        if !matches!(served.stage, Stage::Streaming) {
            return;
        }
        served.stage = Stage::Answered;
        let kind = refusal.map_or(Kind::End, Kind::Refusal);
        common.outbound.push(served.priority, Item::reply(id, kind, Bytes::new()));
    }

    pub(crate) fn streams(&self, id: u64) -> bool {
        self.requests.get(&id).is_some_and(|served| matches!(served.stage, Stage::Streaming))
    }

    /// Whether the stream's next part may be asked for.
    pub(crate) fn wants_part(&self, id: u64, common: &Common) -> bool {
        self.requests.get(&id).is_some_and(|served| {
            matches!(served.stage, Stage::Streaming)
                && served.stream_credit > 0
                && !served.part_under_way
                && self.has_room(served.priority, common)
        })
    }

    /// How urgent the answer to a request is.
    pub(crate) fn priority(&self, id: u64) -> Priority {
        self.requests.get(&id).map_or(Priority::Normal, |served| served.priority)
    }

    /// Whether another answer may be made. What is urgent, such as a sign of life, has room when bulk has none any more.
    pub(crate) fn has_room(&self, priority: Priority, common: &Common) -> bool {
        let reserve = match priority {
            Priority::High => common.ours.max_message_bytes as usize + URGENT_BYTES,
            Priority::Normal | Priority::Low => 0,
        };
        common.outbound.reply_bytes() < self.max_reply_bytes + reserve
    }

    pub(crate) fn stream_credit(&mut self, id: u64, bytes: u32, common: &Common) {
        if let Some(served) = self.requests.get_mut(&id) {
            let window = i64::from(common.theirs.stream_window_bytes);
            served.stream_credit = (served.stream_credit + i64::from(bytes)).min(window);
        }
    }

    /// The last byte of an answer, or of a part, has gone.
    pub(crate) fn sent(&mut self, id: u64, last: bool, common: &mut Common) {
        if last {
            self.remove(id, common);
        } else if let Some(served) = self.requests.get_mut(&id) {
            served.part_under_way = false;
        }
    }

    fn refuse(&mut self, id: u64, refusal: Refusal, common: &mut Common) {
        self.remove(id, common);
        common.outbound.control(Frame::Refusal { id, refusal });
    }

    fn remove(&mut self, id: u64, common: &mut Common) {
        if let Some(served) = self.requests.remove(&id) {
            common.timers.remove(&(served.deadline, Timer::Request(id)));
        }
    }

    /// The session has ended.
    pub(crate) fn end(&mut self, common: &mut Common) {
        for (id, served) in std::mem::take(&mut self.requests) {
            if matches!(served.stage, Stage::Handling | Stage::Streaming) {
                common.output(Output::Abort { id });
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(crate) fn footprint_bytes(&self) -> usize {
        self.requests.len() * size_of::<Served>() + usize::try_from(self.window.used()).unwrap_or(usize::MAX)
    }
}
