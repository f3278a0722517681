//! What waits to be sent: control frames first, then messages by priority, those of one priority frame by frame in turn.

use std::collections::VecDeque;

use bytes::Bytes;
use diai_core::{Priority, Refusal};

use super::window::Credit;
use crate::{
    codec,
    message::{Frame, MAX_FRAME_BYTES, MAX_INLINE_BYTES},
};

/// What a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The rest of a request's body; the request frame has gone.
    Request,
    /// A whole answer.
    Response,
    /// A part of a streaming answer; after the last one comes the end.
    Part { last: bool },
    /// The end of a streaming answer.
    End,
    /// A refusal that ends a streaming answer, after its parts.
    Refusal(Refusal),
}

/// What a frame completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing that anyone waits for.
    More,
    /// A part of a streaming answer that took more than one frame.
    PartSent(u64),
    /// An answer.
    AnswerSent(u64),
}

#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    pub(crate) body: Bytes,
    /// Bytes of the body that have gone.
    pub(crate) sent: usize,
    pub(crate) started: bool,
}

impl Item {
    pub(crate) fn reply(id: u64, kind: Kind, body: Bytes) -> Self {
        Self { id, kind, body, sent: 0, started: false }
    }

    fn needs_credit(&self) -> bool {
        !self.started && self.body.len() > MAX_INLINE_BYTES
    }
}

/// The class of what is urgent.
pub(crate) const URGENT: usize = Priority::High as usize;

pub(crate) fn class(priority: Priority) -> usize {
    priority as usize
}

/// Whether a message of `class` has to wait behind others that wait for credit: else short ones would take it from them
/// for ever. What is more urgent does not.
pub(crate) fn waits<T>(blocked: &[VecDeque<T>; 3], class: usize) -> bool {
    blocked[..=class].iter().any(|blocked| !blocked.is_empty())
}

#[derive(Debug, Default)]
pub(crate) struct Outbound {
    control: VecDeque<Frame<'static>>,
    classes: [VecDeque<Item>; 3],
    /// Long answers that wait for credit, by class.
    blocked: [VecDeque<Item>; 3],
    reply_credit: Credit,
    reply_bytes: usize,
}

impl Outbound {
    pub(crate) fn control(&mut self, frame: Frame<'static>) {
        self.control.push_back(frame);
    }

    /// Control frames that wait; the shell stops reading from a peer that makes us send and does not read.
    pub(crate) fn control_frames(&self) -> usize {
        self.control.len()
    }

    /// Bytes of answers that wait.
    pub(crate) fn reply_bytes(&self) -> usize {
        self.reply_bytes
    }

    pub(crate) fn push(&mut self, priority: Priority, item: Item) {
        if item.kind != Kind::Request {
            self.reply_bytes += item.body.len();
        }
        let class = class(priority);
        if item.needs_credit() && (waits(&self.blocked, class) || !self.reply_credit.take(item.body.len(), class)) {
            self.blocked[class].push_back(item);
        } else {
            self.classes[class].push_back(item);
        }
    }

    /// The other side has said how much it takes.
    pub(crate) fn open_reply_credit(&mut self, window_bytes: u32) {
        self.reply_credit.open(window_bytes);
        self.add_reply_credit(0);
    }

    pub(crate) fn add_reply_credit(&mut self, bytes: u32) {
        self.reply_credit.add(bytes);
        for (class, blocked) in self.blocked.iter_mut().enumerate() {
            while let Some(item) = blocked.front() {
                if !self.reply_credit.take(item.body.len(), class) {
                    return;
                }
                self.classes[class].extend(blocked.pop_front());
            }
        }
    }

    /// Forgets all messages of `id` that are a request's, or all that are an answer's. Returns whether there were any.
    /// Credit of an answer that had begun comes back from the caller, that of one that had not is put back here.
    pub(crate) fn purge(&mut self, id: u64, requests: bool) -> bool {
        let mut found = false;
        let (mut replies, mut unstarted) = (0, 0);
        let mut gone = |item: &Item, blocked: bool| {
            let gone = item.id == id && (item.kind == Kind::Request) == requests;
            if gone {
                found = true;
                if !requests {
                    replies += item.body.len() - item.sent;
                    if item.needs_credit() && !blocked {
                        unstarted += item.body.len();
                    }
                }
            }
            gone
        };
        for class in &mut self.classes {
            class.retain(|item| !gone(item, false));
        }
        for blocked in &mut self.blocked {
            blocked.retain(|item| !gone(item, true));
        }
        self.reply_bytes -= replies;
        // At most one message, of at most 16 MiB.
        self.add_reply_credit(u32::try_from(unstarted).unwrap_or(u32::MAX));
        found
    }

    /// Encodes one control frame; false if there is none.
    pub(crate) fn encode_control(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(frame) = self.control.pop_front() else { return false };
        codec::encode(&frame, out);
        true
    }

    pub(crate) fn has_items(&self, class: usize) -> bool {
        !self.classes[class].is_empty()
    }

    /// Encodes one frame of the front message of `class`.
    pub(crate) fn encode_item(&mut self, class: usize, out: &mut Vec<u8>) -> Step {
        let Some(mut item) = self.classes[class].pop_front() else { return Step::More };
        let limit = if item.started { MAX_FRAME_BYTES } else { MAX_INLINE_BYTES };
        let end = item.body.len().min(item.sent + limit);
        let body = &item.body[item.sent..end];
        let (id, total) = (item.id, u32::try_from(item.body.len()).unwrap_or(u32::MAX));
        let frame = match (&item.kind, item.started) {
            (Kind::Request, _) => Frame::RequestData { id, body },
            (Kind::Response, false) => Frame::Response { id, total, body },
            (Kind::Part { .. }, false) => Frame::Part { id, total, body },
            (Kind::Response | Kind::Part { .. }, true) => Frame::ReplyData { id, body },
            (Kind::End, _) => Frame::End { id },
            (Kind::Refusal(refusal), _) => Frame::Refusal { id, refusal: refusal.clone() },
        };
        codec::encode(&frame, out);
        if item.kind != Kind::Request {
            self.reply_bytes -= end - item.sent;
        }
        (item.sent, item.started) = (end, true);
        if end < item.body.len() {
            self.classes[class].push_back(item);
            return Step::More;
        }
        match item.kind {
            Kind::Request => Step::More,
            // A short one never kept the next from going.
            Kind::Part { last: false } if item.body.len() <= MAX_INLINE_BYTES => Step::More,
            Kind::Part { last: false } => Step::PartSent(id),
            Kind::Part { last: true } => {
                codec::encode(&Frame::End { id }, out);
                Step::AnswerSent(id)
            }
            Kind::Response | Kind::End | Kind::Refusal(_) => Step::AnswerSent(id),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.classes.iter().chain(&self.blocked).all(VecDeque::is_empty)
    }

    pub(crate) fn footprint_bytes(&self) -> usize {
        let bodies: usize = self.classes.iter().chain(&self.blocked).flatten().map(|item| item.body.len()).sum();
        bodies + self.control.len() * size_of::<Frame<'static>>()
    }
}
