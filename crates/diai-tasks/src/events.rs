use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use diai_core::AgentId;
use futures::{Stream, stream::BoxStream};
use tokio::sync::{broadcast, mpsc};

use crate::{AttemptId, Bid, Progress, TaskId};

/// What happens to a task that this agent asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunEvent {
    /// These agents were asked for bids.
    Offered {
        /// Who was asked.
        agents: Vec<AgentId>,
    },
    /// A bid came in.
    Bid {
        /// Whose.
        agent: AgentId,
        /// The bid.
        bid: Bid,
    },
    /// The task was given to a worker; to this agent itself if nobody else can.
    Awarded {
        /// To whom.
        agent: AgentId,
        /// As which attempt.
        attempt: AttemptId,
    },
    /// The worker reports how far it is.
    Progress {
        /// Who reports.
        agent: AgentId,
        /// How far it is.
        progress: Progress,
    },
    /// The worker hands over a part of the result.
    Partial {
        /// Who.
        agent: AgentId,
        /// The part.
        part: Bytes,
    },
    /// Nothing has come from the worker for the length of the lease. It may still bring the result, but another is tried
    /// beside it; the first result counts.
    WorkerSilent {
        /// Who.
        agent: AgentId,
    },
    /// The worker is lost to this task and left out from now on.
    WorkerLost {
        /// Who.
        agent: AgentId,
        /// What happened.
        reason: String,
    },
    /// Another worker is looked for.
    Retrying {
        /// Workers that failed so far.
        failed: usize,
    },
    /// The result is here.
    Done {
        /// Who made it.
        agent: AgentId,
        /// Whether it was remembered from an earlier run.
        remembered: bool,
    },
    /// There will be no result.
    Failed {
        /// The error's code, as of [`RunError::code`](crate::RunError::code).
        code: &'static str,
    },
}

/// What happens to tasks here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskEvent {
    /// To a task that this agent asked for.
    Run {
        /// Which.
        task: TaskId,
        /// What.
        event: RunEvent,
    },
    /// A task of another agent began here.
    Serving {
        /// Which.
        task: TaskId,
        /// Whose.
        from: AgentId,
    },
    /// A task of another agent ended here.
    Served {
        /// Which.
        task: TaskId,
        /// Whose.
        from: AgentId,
        /// Whether its result was handed over; not if it was cancelled or this agent could not go on.
        answered: bool,
    },
    /// This subscriber was too slow and missed so many.
    Missed {
        /// How many.
        events: u64,
    },
}

macro_rules! event_stream {
    ($(#[$doc:meta])* $name:ident, $item:ty) => {
        $(#[$doc])*
        pub struct $name(pub(crate) BoxStream<'static, $item>);

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }

        impl Stream for $name {
            type Item = $item;

            fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<$item>> {
                self.0.as_mut().poll_next(cx)
            }
        }
    };
}

event_stream! {
    /// The events of one run, in order; ends with it. Progress that finds it full is left out.
    RunEvents, RunEvent
}

event_stream! {
    /// The events of all tasks here, from the subscription on.
    TaskEvents, TaskEvent
}

impl RunEvents {
    pub(crate) fn new(receiver: mpsc::Receiver<RunEvent>) -> Self {
        Self(Box::pin(futures::stream::unfold(receiver, |mut receiver| async {
            let event = receiver.recv().await?;
            Some((event, receiver))
        })))
    }
}

impl TaskEvents {
    pub(crate) fn new(receiver: broadcast::Receiver<TaskEvent>) -> Self {
        Self(Box::pin(futures::stream::unfold(receiver, |mut receiver| async {
            match receiver.recv().await {
                Ok(event) => Some((event, receiver)),
                Err(broadcast::error::RecvError::Lagged(events)) => Some((TaskEvent::Missed { events }, receiver)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })))
    }
}

/// Where events go. Nobody has to listen.
#[derive(Debug, Clone)]
pub(crate) struct Events(Arc<broadcast::Sender<TaskEvent>>);

impl Events {
    pub(crate) fn new(capacity: usize) -> Self {
        Self(Arc::new(broadcast::Sender::new(capacity)))
    }

    pub(crate) fn send(&self, event: TaskEvent) {
        // An error only says that nobody listens.
        let _ = self.0.send(event);
    }

    pub(crate) fn subscribe(&self) -> TaskEvents {
        TaskEvents::new(self.0.subscribe())
    }
}

/// Where the events of one run go.
#[derive(Debug, Clone)]
pub(crate) struct RunReporter {
    pub(crate) task: TaskId,
    pub(crate) events: Events,
    pub(crate) run: mpsc::Sender<RunEvent>,
}

impl RunReporter {
    pub(crate) fn send(&self, event: RunEvent) {
        // Full: the holder of the handle does not look, and a slow look must not slow the task.
        let _ = self.run.try_send(event.clone());
        self.events.send(TaskEvent::Run { task: self.task, event });
    }
}
