//! What the processes of the story tell the one that started them, and what it tells them: lines of JSON. It is the
//! account of the story, not its work; that goes from agent to agent.

use std::io::Write;

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines, Stdin},
    sync::Mutex,
};

/// From an agent of the story.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "tell", rename_all = "snake_case")]
pub(crate) enum Tell {
    /// It is up.
    Ready { agent: String, addrs: Vec<String> },
    /// It is in the network, registered, and has prepared what it serves.
    Joined,
    /// A sentence for the account.
    Note { text: String },
    /// A task at a worker came so far.
    Progress { task: String, worker: String, percent: u32 },
    /// Somebody was lost and this follows.
    Incident { lost: String, text: String },
    /// Something that took time.
    Did { what: String, place: String, took_ms: u64 },
    /// An agreement came to this state.
    Agreed { with: String, terms: String, state: String, failed: bool },
    /// The analyst knows the parts and their holders, and waits to be told to go on.
    PartsKnown,
    /// It put an entry into the workspace.
    Put { path: String, bytes: u64 },
    /// It saw somebody's entry.
    Seen { path: String, delay_ms: u64 },
    /// The creator wrote the files; the workspace has so many entries.
    Complete { entries: usize, model: Vec<(String, String)> },
    /// All entries are here: the root, and a hash over all decrypted names and contents.
    Synced { root: String, tree: String },
    /// What a bystander could and could not do.
    Peeked { attempts: Vec<String>, secret: bool },
    /// It cannot go on.
    Failed { error: String },
}

/// To an agent of the story.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum Order {
    /// The creator's: the story begins.
    Begin { idea: String, market_args: Vec<String>, out: String },
    /// The analyst's: map the parts.
    GoOn,
    /// Wait until the workspace has so many entries, and tell its root.
    Settle { entries: usize },
    /// A bystander's: look at this root.
    Peek { root: String },
    /// End gracefully.
    End,
}

/// An agent's end of the link.
#[derive(Debug)]
pub(crate) struct Link {
    orders: Mutex<Lines<BufReader<Stdin>>>,
}

impl Link {
    pub(crate) fn new() -> Self {
        Self { orders: Mutex::new(BufReader::new(tokio::io::stdin()).lines()) }
    }

    pub(crate) fn tell(&self, tell: Tell) {
        let Ok(line) = serde_json::to_string(&tell) else { return };
        let mut out = std::io::stdout().lock();
        // Nobody listens any more: the end of the orders says so too.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    pub(crate) fn note(&self, text: impl Into<String>) {
        self.tell(Tell::Note { text: text.into() });
    }

    /// The next order; [`Order::End`] when whoever gave them is gone.
    pub(crate) async fn order(&self) -> Order {
        let line = self.orders.lock().await.next_line().await;
        let parsed = line.ok().flatten().and_then(|line| serde_json::from_str(&line).ok());
        parsed.unwrap_or(Order::End)
    }
}
