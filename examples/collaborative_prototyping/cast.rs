//! The processes of the story: started, listened to, ended.

#![allow(clippy::disallowed_methods, reason = "a program's own processes and time, outside any agent")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use clap::ValueEnum;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    task::JoinSet,
};

use crate::{
    link::{Order, Tell},
    roles::{Outcome, Role},
};

/// How long a process may take to end gracefully.
const END_WITHIN: Duration = Duration::from_secs(20);
/// Lines of all processes that wait to be read.
const BACKLOG: usize = 1024;

/// All processes. Dropping it ends them at once.
pub(crate) struct Cast {
    folder: PathBuf,
    sources: usize,
    actors: BTreeMap<String, Actor>,
    tells: mpsc::Sender<(String, Option<Tell>)>,
    told: mpsc::Receiver<(String, Option<Tell>)>,
    readers: JoinSet<()>,
}

/// One process.
pub(crate) struct Actor {
    pub(crate) role: Role,
    pub(crate) pid: u32,
    /// Its did:key, once it is ready.
    pub(crate) agent: String,
    pub(crate) addrs: Vec<String>,
    child: Child,
    orders: ChildStdin,
    pub(crate) dead: bool,
}

impl Cast {
    pub(crate) fn new(folder: &Path, sources: usize) -> Self {
        let (tells, told) = mpsc::channel(BACKLOG);
        Self { folder: folder.to_owned(), sources, actors: BTreeMap::new(), tells, told, readers: JoinSet::new() }
    }

    /// Starts an agent that knows `contacts` and nobody else.
    pub(crate) fn enter(&mut self, name: &str, role: Role, contacts: &[String]) -> Outcome {
        let data_dir = self.data_dir(name);
        let role_name = role.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--role", &role_name, "--sources", &self.sources.to_string(), "--data-dir"]).arg(&data_dir);
        for contact in contacts {
            command.args(["--contact", contact]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let (orders, out) = (child.stdin.take().ok_or("no way in")?, child.stdout.take().ok_or("no way out")?);
        let (tells, name) = (self.tells.clone(), name.to_owned());
        let actor = Actor {
            role,
            pid: child.id().unwrap_or_default(),
            agent: String::new(),
            addrs: Vec::new(),
            child,
            orders,
            dead: false,
        };
        self.actors.insert(name.clone(), actor);
        self.readers.spawn(async move {
            let mut lines = BufReader::new(out).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(tell) = serde_json::from_str(&line) else { continue };
                if tells.send((name.clone(), Some(tell))).await.is_err() {
                    return;
                }
            }
            let _ = tells.send((name, None)).await;
        });
        Ok(())
    }

    pub(crate) fn data_dir(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The next thing that somebody tells; `None` for who has ended.
    pub(crate) async fn told(&mut self) -> Outcome<(String, Option<Tell>)> {
        self.told.recv().await.ok_or_else(|| "all are gone".into())
    }

    pub(crate) async fn order(&mut self, name: &str, order: &Order) -> Outcome {
        let actor = self.actors.get_mut(name).ok_or("nobody has that name")?;
        let line = serde_json::to_string(order)? + "\n";
        actor.orders.write_all(line.as_bytes()).await?;
        Ok(actor.orders.flush().await?)
    }

    /// kill -9, and waits until the process is gone.
    pub(crate) async fn kill(&mut self, name: &str) -> Outcome {
        let actor = self.actors.get_mut(name).ok_or("nobody has that name")?;
        actor.dead = true;
        Ok(actor.child.kill().await?)
    }

    pub(crate) fn actor(&self, name: &str) -> Option<&Actor> {
        self.actors.get(name)
    }

    pub(crate) fn actor_mut(&mut self, name: &str) -> Option<&mut Actor> {
        self.actors.get_mut(name)
    }

    pub(crate) fn actors(&self) -> impl Iterator<Item = (&String, &Actor)> {
        self.actors.iter()
    }

    /// Names of all who live and play one of `roles`.
    pub(crate) fn alive(&self, roles: &[Role]) -> Vec<String> {
        let alive = self.actors.iter().filter(|(_, actor)| !actor.dead && roles.contains(&actor.role));
        alive.map(|(name, _)| name.clone()).collect()
    }

    /// What an agent is called in the story.
    pub(crate) fn name_of(&self, agent: &str) -> String {
        let found = self.actors.iter().find(|(_, actor)| actor.agent == agent);
        found.map_or_else(|| agent.to_owned(), |(name, _)| name.clone())
    }

    /// Ends all gracefully.
    pub(crate) async fn end(mut self) -> Outcome {
        for actor in self.actors.values_mut().filter(|actor| !actor.dead) {
            let line = serde_json::to_string(&Order::End)? + "\n";
            // Who is gone already needs no order.
            let _ = actor.orders.write_all(line.as_bytes()).await;
            let _ = actor.orders.flush().await;
        }
        for (name, actor) in self.actors.iter_mut().filter(|(_, actor)| !actor.dead) {
            // Whoever does not end is ended when it is dropped.
            match tokio::time::timeout(END_WITHIN, actor.child.wait()).await {
                Ok(ended) => drop(ended?),
                Err(_) => tracing::warn!(%name, "did not end in time"),
            }
        }
        Ok(())
    }
}
