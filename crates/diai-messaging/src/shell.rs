//! The task of one session: the only IO here.
//!
//! Each wake-up takes all commands, reads all that is there, and only then wakes callers; all frames that are ready leave
//! in one write. Handlers are polled in this task: most answer at once and cost no task switch. A handler that computes
//! for long therefore holds up its session: such work belongs on [`diai_core::Offload`].

mod buffer;

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use diai_core::{BoxFuture, BoxStream, Instant, Priority, Refusal, Reply, Request};
use futures::{
    FutureExt, StreamExt,
    future::{AbortHandle, Abortable, poll_fn},
    io::{AsyncRead, AsyncWrite},
    stream::{BoxStream as BoxedItems, FuturesUnordered},
};
use tokio::sync::OwnedSemaphorePermit;

use self::buffer::{ReadBuffer, WriteBuffer};
use crate::{
    codec,
    hub::{Shared, Start, panicked, serve},
    inbox::{Command, Handle, Waiter},
    machine::{Answer, CallKey, Input, NewCall, Outcome, Output, Session, Violation},
    message::MAX_FRAME_BYTES,
};

/// One write takes frames up to this, and the frame that crosses it.
const WRITE_BYTES: usize = 2 * MAX_FRAME_BYTES;
/// With so many control frames waiting, nothing is read from the peer. An honest one never gets there.
const MAX_CONTROL_FRAMES: usize = 8192;
/// With so many calls open or just answered, a first new one waits a turn of the scheduler for the others that are about to come: callers
/// that were answered together ask together, and their frames leave in one write.
const GATHER_CALLS: usize = 4;
/// Rounds in one wake-up; then others get their turn.
const MAX_ROUNDS: usize = 16;

type Parts = BoxedItems<'static, Result<Bytes, Refusal>>;
type Work = FuturesUnordered<Abortable<BoxFuture<'static, (u64, Done)>>>;

/// What a piece of work in this session came to.
enum Done {
    Handled(Result<Reply, Refusal>),
    Next(Parts, Option<Result<Bytes, Refusal>>),
}

/// Why a session is over.
enum End {
    Orderly,
    /// The stream ended, or [`Command::Break`] came.
    Broken,
    Violation(Violation),
    /// The peer takes nothing.
    Stalled,
}

struct Waiting {
    waiter: Waiter,
    _room: Option<OwnedSemaphorePermit>,
}

struct SessionTask {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
    opened_here: bool,
    machine: Session,
    stream: BoxStream,
    commands: Vec<Command>,
    waiting: BTreeMap<CallKey, Waiting>,
    ended_calls: usize,
    /// Apart, so that bulk that has to wait for room holds up no sign of life.
    urgent: Work,
    running: Work,
    aborts: BTreeMap<u64, AbortHandle>,
    /// Streaming answers that wait for credit.
    paused: BTreeMap<u64, Parts>,
    read: ReadBuffer,
    write: WriteBuffer,
    timer: Option<(Instant, BoxFuture<'static, ()>)>,
    gathered: bool,
}

/// Runs a session until it ends.
pub(crate) async fn run(shared: Arc<Shared>, start: Start) {
    let Start { stream, handle, opened_here, config } = start;
    let machine = Session::new(shared.world.clock.now(), &config);
    let mut task = SessionTask {
        shared,
        handle,
        opened_here,
        machine,
        stream,
        commands: Vec::new(),
        waiting: BTreeMap::new(),
        ended_calls: 0,
        urgent: Work::new(),
        running: Work::new(),
        aborts: BTreeMap::new(),
        paused: BTreeMap::new(),
        read: ReadBuffer::new(),
        write: WriteBuffer::default(),
        timer: None,
        gathered: false,
    };
    let end = AssertUnwindSafe(poll_fn(|cx| task.poll(cx))).catch_unwind().await;
    task.finish(end.unwrap_or_else(|_| {
        tracing::error!("a session panicked");
        End::Broken
    }));
}

impl SessionTask {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.handle.waker.register(cx.waker());
        if !self.gathered && self.waiting.len() + self.ended_calls >= GATHER_CALLS && self.handle.has_commands() {
            self.gathered = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.gathered = false;
        match self.poll_rounds(cx) {
            Ok(poll) => poll,
            Err(end) => Poll::Ready(end),
        }
    }

    fn poll_rounds(&mut self, cx: &mut Context<'_>) -> Result<Poll<End>, End> {
        for _ in 0..MAX_ROUNDS {
            let now = self.shared.world.clock.now();
            let mut busy = self.take_commands(now)?;
            busy |= self.read(now, cx)?;
            self.act(now, cx);
            busy |= self.poll_running(now, cx);
            busy |= self.poll_timer(now, cx)?;
            busy |= self.write(now, cx)?;
            self.resume_streams(now, cx);
            if self.machine.is_done() && self.write.is_clear() {
                return Ok(Poll::Ready(End::Orderly));
            }
            if !busy {
                return Ok(Poll::Pending);
            }
        }
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    /// Gives the machine an input that cannot be a violation.
    fn tell(&mut self, now: Instant, input: Input<'_>) {
        let told = self.machine.handle(now, input);
        debug_assert!(told.is_ok(), "only frames and silence are violations");
    }

    fn take_commands(&mut self, now: Instant) -> Result<bool, End> {
        let mut commands = std::mem::take(&mut self.commands);
        self.handle.drain(&mut commands, std::mem::take(&mut self.ended_calls), self.machine.open_requests());
        let any = !commands.is_empty();
        let mut next = commands.drain(..);
        while let Some(command) = next.next() {
            match command {
                Command::Call { call, waiter, room } => self.call(now, call, waiter, room),
                Command::Cancel(key) => {
                    if self.waiting.remove(&key).is_some() {
                        self.ended_calls += 1;
                        self.tell(now, Input::Cancel(key));
                    }
                }
                Command::Taken(key, bytes) => self.tell(now, Input::Taken(key, bytes)),
                Command::Retire => self.tell(now, Input::Retire),
                Command::ShutDown => self.tell(now, Input::ShutDown),
                Command::Break => {
                    // Those that call are told at the end that they were not sent.
                    self.commands = next.collect();
                    return Err(End::Broken);
                }
            }
        }
        drop(next);
        self.commands = commands;
        Ok(any)
    }

    fn call(&mut self, now: Instant, call: NewCall, waiter: Waiter, room: Option<OwnedSemaphorePermit>) {
        self.shared.counters.calls.add(1);
        self.waiting.insert(call.key, Waiting { waiter, _room: room });
        self.tell(now, Input::Call(call));
    }

    /// Reads all that is there, within a bound. True if there may be more.
    fn read(&mut self, now: Instant, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut any = false;
        for _ in 0..4 {
            if self.machine.control_frames() > MAX_CONTROL_FRAMES {
                return Ok(any);
            }
            let space = self.read.space();
            match Pin::new(&mut self.stream).poll_read(cx, space) {
                Poll::Pending => return Ok(any),
                Poll::Ready(Ok(0) | Err(_)) => return Err(End::Broken),
                Poll::Ready(Ok(bytes)) => {
                    self.shared.counters.bytes_in.add(bytes);
                    self.read.end += bytes;
                    self.tell(now, Input::Moved);
                    self.frames(now)?;
                    any = true;
                }
            }
        }
        Ok(true)
    }

    fn frames(&mut self, now: Instant) -> Result<(), End> {
        loop {
            let bytes = &self.read.bytes[self.read.start..self.read.end];
            match codec::decode(bytes) {
                Ok(None) => return Ok(()),
                Ok(Some((frame, length))) => {
                    self.machine.handle(now, Input::Frame(frame)).map_err(End::Violation)?;
                    self.read.start += length;
                }
                Err(error) => return Err(End::Violation(error.into())),
            }
        }
    }

    /// Does what the machine wants.
    fn act(&mut self, now: Instant, cx: &mut Context<'_>) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Hello(hello) => {
                    if !self.shared.said_hello(&self.handle, self.opened_here, &hello) {
                        self.tell(now, Input::Retire);
                    }
                }
                Output::Serve { id, service, body, deadline, .. } => self.serve(now, cx, id, service, body, deadline),
                Output::Abort { id } => {
                    self.paused.remove(&id);
                    if let Some(abort) = self.aborts.remove(&id) {
                        abort.abort();
                    }
                }
                Output::Part { key, part } => self.part(key, part),
                Output::Finished { key, outcome } => self.finished(key, outcome),
                Output::Retired => self.shared.retired(&self.handle),
                Output::Flooding => {
                    self.shared.world.network.penalise(self.handle.peer, diai_core::Misbehaviour::Flooding);
                }
            }
        }
    }

    fn part(&self, key: CallKey, part: Bytes) {
        if let Some(Waiting { waiter: Waiter::Stream(parts), .. }) = self.waiting.get(&key) {
            parts.part(part);
        }
    }

    fn finished(&mut self, key: CallKey, outcome: Outcome) {
        let Some(Waiting { waiter, .. }) = self.waiting.remove(&key) else { return };
        self.ended_calls += 1;
        if outcome == Outcome::Broken {
            self.shared.counters.broken_calls.add(1);
        }
        match waiter {
            // The caller may be gone.
            Waiter::Whole(waiter) => drop(waiter.send(outcome)),
            Waiter::Stream(parts) => parts.end(outcome),
        }
    }

    fn serve(&mut self, now: Instant, cx: &mut Context<'_>, id: u64, name: Arc<str>, body: Bytes, deadline: Instant) {
        let service = match self.shared.service(self.handle.agent, &name) {
            Ok(service) => service,
            Err(refusal) => return self.tell(now, Input::Reply(id, Answer::Refuse(refusal))),
        };
        let request = Request { from: self.handle.agent, peer: self.handle.peer, service: name, body, deadline };
        let work = async move { (id, Done::Handled(serve(service, request).await)) };
        self.start(now, cx, id, work.boxed());
    }

    /// Polls `work` once here, if there is room for what comes of it; most is done by then.
    fn start(&mut self, now: Instant, cx: &mut Context<'_>, id: u64, mut work: BoxFuture<'static, (u64, Done)>) {
        let priority = self.machine.priority(id);
        if self.machine.has_room(priority)
            && let Poll::Ready((id, done)) = work.poll_unpin(cx)
        {
            return self.done(now, id, done);
        }
        let (abort, registration) = AbortHandle::new_pair();
        self.aborts.insert(id, abort);
        self.work(priority).push(Abortable::new(work, registration));
    }

    fn work(&mut self, priority: Priority) -> &mut Work {
        if priority == Priority::High { &mut self.urgent } else { &mut self.running }
    }

    fn poll_running(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        self.poll_work(Priority::High, now, cx) | self.poll_work(Priority::Normal, now, cx)
    }

    fn poll_work(&mut self, priority: Priority, now: Instant, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while self.machine.has_room(priority)
            && let work = self.work(priority)
            && !work.is_empty()
            && let Poll::Ready(Some(result)) = work.poll_next_unpin(cx)
        {
            any = true;
            if let Ok((id, done)) = result {
                self.aborts.remove(&id);
                self.done(now, id, done);
            }
        }
        any
    }

    fn done(&mut self, now: Instant, id: u64, done: Done) {
        match done {
            Done::Handled(Ok(Reply::Whole(body))) => self.tell(now, Input::Reply(id, Answer::Whole(body))),
            Done::Handled(Ok(Reply::Parts(parts))) => {
                self.tell(now, Input::Reply(id, Answer::Parts));
                // Only a streaming call wants them: else the machine has refused it.
                if self.machine.streams(id) {
                    self.paused.insert(id, parts);
                }
            }
            Done::Handled(Err(refusal)) => self.tell(now, Input::Reply(id, Answer::Refuse(refusal))),
            Done::Next(parts, Some(Ok(part))) => {
                self.tell(now, Input::Part(id, part));
                if self.machine.streams(id) {
                    self.paused.insert(id, parts);
                }
            }
            Done::Next(_, Some(Err(refusal))) => self.tell(now, Input::EndStream(id, Some(refusal))),
            Done::Next(_, None) => self.tell(now, Input::EndStream(id, None)),
        }
    }

    /// Asks the streams that may send for their next parts. What they give is sent in the next round.
    fn resume_streams(&mut self, now: Instant, cx: &mut Context<'_>) {
        if self.paused.is_empty() {
            return;
        }
        let ids: Vec<u64> = self.paused.keys().copied().collect();
        let mut any = false;
        for id in ids {
            while self.machine.wants_part(id)
                && let Some(mut parts) = self.paused.remove(&id)
            {
                let work = async move {
                    let next = AssertUnwindSafe(parts.next()).catch_unwind().await;
                    let next = next.unwrap_or_else(|_| Some(Err(panicked())));
                    (id, Done::Next(parts, next))
                };
                self.start(now, cx, id, work.boxed());
                any = true;
            }
        }
        if any {
            cx.waker().wake_by_ref();
        }
    }

    /// True if something was due: there may be room now that was waited for.
    fn poll_timer(&mut self, now: Instant, cx: &mut Context<'_>) -> Result<bool, End> {
        let stall = self.write.stalled.map_or(Instant::NEVER, |since| since + self.shared.config.stall);
        if stall <= now {
            return Err(End::Stalled);
        }
        let due = self.machine.poll_timeout() <= now;
        if due {
            self.machine.handle(now, Input::Timeout).map_err(End::Violation)?;
            self.act(now, cx);
        }
        let next = self.machine.poll_timeout().min(stall);
        // A timer that fires early is cheaper than a new one per request.
        if self.timer.as_ref().is_none_or(|(at, _)| next < *at) {
            self.timer = Some((next, self.shared.world.clock.sleep_until(next)));
        }
        if let Some((_, sleep)) = &mut self.timer
            && sleep.poll_unpin(cx).is_ready()
        {
            self.timer = None;
            cx.waker().wake_by_ref();
        }
        Ok(due)
    }

    /// Writes what may go. True if something went.
    fn write(&mut self, now: Instant, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut any = false;
        loop {
            if self.write.sent == self.write.bytes.len() {
                self.write.bytes.clear();
                self.write.sent = 0;
                self.machine.encode(now, &mut self.write.bytes, WRITE_BYTES);
            }
            if self.write.bytes.is_empty() {
                break;
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.write.bytes[self.write.sent..]) {
                Poll::Pending => {
                    self.write.stalled.get_or_insert(now);
                    return Ok(any);
                }
                Poll::Ready(Ok(0) | Err(_)) => return Err(End::Broken),
                Poll::Ready(Ok(bytes)) => {
                    self.shared.counters.bytes_out.add(bytes);
                    self.shared.counters.writes.add(1);
                    self.write.sent += bytes;
                    self.write.unflushed = true;
                    self.unstalled(now);
                    any = true;
                }
            }
        }
        self.write.rest();
        if self.write.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Pending => {
                    self.write.stalled.get_or_insert(now);
                }
                Poll::Ready(Ok(())) => {
                    self.write.unflushed = false;
                    self.unstalled(now);
                }
                Poll::Ready(Err(_)) => return Err(End::Broken),
            }
        }
        Ok(any)
    }

    /// Bytes went. Those that had to wait went because the peer took others.
    fn unstalled(&mut self, now: Instant) {
        if self.write.stalled.take().is_some() {
            self.tell(now, Input::Moved);
        }
    }

    fn finish(mut self, end: End) {
        let peer = self.handle.peer;
        let misbehaviour = match &end {
            End::Orderly | End::Broken => None,
            End::Violation(violation) => {
                tracing::warn!(%peer, %violation, "a session broke the protocol");
                self.shared.counters.violations.add(1);
                Some(violation.misbehaviour())
            }
            End::Stalled => Some(diai_core::Misbehaviour::Silent),
        };
        // First out of the table, so that whoever is told to try again finds another session.
        self.shared.retired(&self.handle);
        let now = self.shared.world.clock.now();
        self.tell(now, Input::Ended);
        while let Some(output) = self.machine.poll_output() {
            match output {
                // What came before the end is the caller's.
                Output::Part { key, part } => self.part(key, part),
                Output::Finished { key, outcome } => self.finished(key, outcome),
                _ => {}
            }
        }
        if let Some(misbehaviour) = misbehaviour {
            self.shared.world.network.penalise(peer, misbehaviour);
        }
    }
}

/// However the task ended, nobody waits for it any more.
impl Drop for SessionTask {
    fn drop(&mut self) {
        self.shared.retired(&self.handle);
        for command in std::mem::take(&mut self.commands).into_iter().chain(self.handle.close()) {
            if let Command::Call { call, waiter, room } = command {
                self.waiting.insert(call.key, Waiting { waiter, _room: room });
                self.finished(call.key, Outcome::NotSent);
            }
        }
        self.shared.gone(&self.handle);
    }
}
