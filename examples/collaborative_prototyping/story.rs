//! The story as the first process sees it: it starts the agents, gives the word to begin, kills whom it is told to, and
//! writes down what the agents tell.

#![allow(clippy::disallowed_methods, reason = "a program's own files and time, outside any agent")]

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use diai_examples::collaborative_prototyping::{
    account::{Account, Event, seconds},
    report::{Agreement, Integrity, Person, Report, Step, Sync},
};

use crate::{
    Script, Victim,
    cast::Cast,
    link::{Order, Tell},
    roles::{Outcome, Role},
};

/// A story that takes longer has lost somebody without noticing.
const AT_MOST: Duration = Duration::from_secs(180);
const COLLABORATORS: [Role; 4] = [Role::Creator, Role::Modeller, Role::SecondModeller, Role::Analyst];

/// Tells the story and writes its result.
pub(crate) async fn tell(script: Script, account: Account) -> Outcome {
    std::fs::create_dir_all(&script.out)
        .map_err(|error| format!("cannot make the folder {}: {error}", script.out.display()))?;
    let temporary = tempfile::tempdir()?;
    let folder = script.keep.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(folder).map_err(|error| format!("cannot make the folder {}: {error}", folder.display()))?;
    let cast = Cast::new(folder, script.parts.len());
    let mut story = Story::new(script, account, cast);
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Err("interrupted; all agents were ended".into()),
        told = story.play() => told,
        () = tokio::time::sleep(AT_MOST) => Err(format!("the story has not ended within {AT_MOST:?}").into()),
    }?;
    story.cast.end().await
}

struct Story {
    script: Script,
    account: Account,
    cast: Cast,
    start: Instant,
    report: Report,
    /// Who put what, and who saw it when.
    sync: BTreeMap<String, Sync>,
    killed: bool,
    waiting: Waiting,
}

/// What the story waits for.
#[derive(Default)]
struct Waiting {
    ready: usize,
    joined: usize,
    synced: BTreeMap<String, (String, String)>,
    complete: Option<usize>,
    peeked: bool,
}

impl Story {
    fn new(script: Script, account: Account, cast: Cast) -> Self {
        let report = Report {
            title: script.idea.title.clone(),
            subtitle: "A prototype made by agents without a server".into(),
            idea: script.idea.facts(),
            source: script.market.clone(),
            ..Report::default()
        };
        Self {
            script,
            account,
            cast,
            start: Instant::now(),
            report,
            sync: BTreeMap::new(),
            killed: false,
            waiting: Waiting::default(),
        }
    }

    async fn play(&mut self) -> Outcome {
        self.step(1, "Everyone joins through one contact")?;
        self.assemble().await?;
        self.step(2, "The creator finds, agrees, and has it made")?;
        let idea = self.script.idea.canonical();
        let out = std::path::absolute(&self.script.out)?.display().to_string();
        let begin = Order::Begin { idea, market_args: self.script.idea.market_args(), out };
        self.cast.order("creator", &begin).await?;
        while self.waiting.complete.is_none() {
            self.hear().await?;
        }
        self.step(3, "All collaborators have the same")?;
        let root = self.settle().await?;
        self.step(4, "A bystander looks at it")?;
        self.peek(&root).await?;
        self.finish()
    }

    /// Starts the contact, then all others, and waits until they have joined.
    async fn assemble(&mut self) -> Outcome {
        self.cast.enter("bystander", Role::Bystander, &[])?;
        while self.waiting.ready < 1 {
            self.hear().await?;
        }
        let contact = self.cast.actor("bystander").map(|actor| actor.addrs.clone()).unwrap_or_default();
        let mut names = vec![
            ("creator".to_owned(), Role::Creator),
            ("modeller-1".to_owned(), Role::Modeller),
            ("modeller-2".to_owned(), Role::SecondModeller),
            ("analyst".to_owned(), Role::Analyst),
        ];
        for (index, part) in self.script.parts.iter().enumerate() {
            let name = format!("source-{}", index + 1);
            std::fs::create_dir_all(self.cast.data_dir(&name))?;
            std::fs::write(self.cast.data_dir(&name).join("part.csv"), part)?;
            names.push((name, Role::Source));
        }
        names.extend((2..=self.script.bystanders).map(|index| (format!("bystander-{index}"), Role::Bystander)));
        for (name, role) in &names {
            self.cast.enter(name, *role, &contact)?;
        }
        while self.waiting.joined < names.len() + 1 {
            self.hear().await?;
        }
        if self.script.kill == Some(Victim::Contact) {
            self.kill("bystander", "the contact is killed; the others go on without it").await?;
        }
        Ok(())
    }

    /// Asks all collaborators for what they have until they have the same, and returns the root.
    async fn settle(&mut self) -> Outcome<String> {
        let entries = self.waiting.complete.unwrap_or_default();
        let names = self.cast.alive(&COLLABORATORS);
        for name in &names {
            self.cast.order(name, &Order::Settle { entries }).await?;
        }
        while self.waiting.synced.len() < names.len() {
            self.hear().await?;
        }
        let first = self.waiting.synced.values().next().cloned().unwrap_or_default();
        if let Some((name, other)) = self.waiting.synced.iter().find(|(_, other)| **other != first) {
            return Err(format!("{name} has {other:?} where others have {first:?}").into());
        }
        let text = format!("{} collaborators have the same root {} and equal contents", names.len(), first.0);
        self.note("everyone", text)?;
        self.report.integrity = Integrity { root: first.0.clone(), equal: names, ..Integrity::default() };
        Ok(first.0)
    }

    async fn peek(&mut self, root: &str) -> Outcome {
        let mut bystanders = self.cast.alive(&[Role::Bystander]);
        if bystanders.is_empty() {
            // The contact was killed: somebody new joins, through the creator.
            let addrs = self.cast.actor("creator").map(|actor| actor.addrs.clone()).unwrap_or_default();
            self.cast.enter("newcomer", Role::Bystander, &addrs)?;
            let joined = self.waiting.joined;
            while self.waiting.joined == joined {
                self.hear().await?;
            }
            bystanders.push("newcomer".into());
        }
        let name = bystanders.swap_remove(0);
        self.report.integrity.bystander = name.clone();
        self.cast.order(&name, &Order::Peek { root: root.to_owned() }).await?;
        while !self.waiting.peeked {
            self.hear().await?;
        }
        Ok(())
    }

    /// Takes in one thing that an agent tells.
    async fn hear(&mut self) -> Outcome {
        let (name, tell) = self.cast.told().await?;
        let Some(tell) = tell else {
            let expected = self.cast.actor(&name).is_none_or(|actor| actor.dead);
            return if expected { Ok(()) } else { Err(format!("{name} ended before its time").into()) };
        };
        match tell {
            Tell::Ready { agent, addrs } => self.ready(&name, agent, addrs),
            Tell::Joined => {
                self.waiting.joined += 1;
                Ok(())
            }
            Tell::Note { text } => self.note(&name, text),
            Tell::Progress { task, worker, percent } => self.progress(task, &worker, percent).await,
            Tell::Incident { lost, text } => {
                let lost = self.cast.name_of(&lost);
                self.report.incidents.push(format!("{lost} {text}"));
                self.event(&Event::Incident { who: lost, text })
            }
            Tell::Did { what, place, took_ms } => {
                let place = self.cast.name_of(&place);
                let started_ms = self.at_ms().saturating_sub(took_ms);
                let who = if place == "here" || !self.is_actor(&place) { name } else { place.clone() };
                self.note(&who, format!("{what} ({})", seconds(took_ms)))?;
                self.report.steps.push(Step { who, what, place, started_ms, took_ms });
                Ok(())
            }
            Tell::Agreed { with, terms, state, failed } => self.agreed(&name, &with, terms, state, failed),
            Tell::PartsKnown => self.parts_known().await,
            Tell::Put { path, bytes } => {
                self.note(&name, format!("puts {path} ({bytes} bytes) into the workspace"))?;
                let entry = self.sync.entry(path.clone()).or_default();
                (entry.entry, entry.by, entry.bytes) = (path, name, bytes);
                Ok(())
            }
            Tell::Seen { path, delay_ms } => {
                self.note(&name, format!("has {path} {delay_ms} ms after it was put"))?;
                self.sync.entry(path).or_default().seen.push((name, delay_ms));
                Ok(())
            }
            Tell::Complete { entries, model } => {
                self.report.model = model;
                self.waiting.complete = Some(entries);
                Ok(())
            }
            Tell::Synced { root, tree } => {
                self.waiting.synced.insert(name, (root, tree));
                Ok(())
            }
            Tell::Peeked { attempts, secret } => self.peeked(&name, attempts, secret),
            Tell::Failed { error } => Err(format!("{name}: {error}").into()),
        }
    }

    fn ready(&mut self, name: &str, agent: String, addrs: Vec<String>) -> Outcome {
        self.waiting.ready += 1;
        let Some(actor) = self.cast.actor_mut(name) else { return Ok(()) };
        (actor.agent, actor.addrs) = (agent.clone(), addrs);
        let (pid, role) = (actor.pid, actor.role.capabilities().join(", "));
        self.report.people.push(Person { name: name.to_owned(), role, agent: agent.clone(), pid });
        self.event(&Event::Started { who: name.to_owned(), pid, agent })
    }

    async fn progress(&mut self, task: String, worker: &str, percent: u32) -> Outcome {
        let who = self.cast.name_of(worker);
        self.event(&Event::Progress { who: who.clone(), task, percent })?;
        let modeller = self.cast.actor(&who).is_some_and(|actor| actor.role != Role::Source);
        if self.script.kill == Some(Victim::Modeller) && !self.killed && modeller {
            self.kill(&who, "the awarded modeller is killed at its first progress").await?;
            self.note("creator", format!("waits for a sign of life of {who}"))?;
        }
        Ok(())
    }

    async fn parts_known(&mut self) -> Outcome {
        if self.script.kill == Some(Victim::Source) {
            self.kill("source-1", "a source is killed before its part is mapped").await?;
        }
        self.cast.order("analyst", &Order::GoOn).await
    }

    async fn kill(&mut self, name: &str, text: &str) -> Outcome {
        self.killed = true;
        self.cast.kill(name).await?;
        self.report.incidents.push(format!("{name}: {text}"));
        self.event(&Event::Incident { who: name.to_owned(), text: text.to_owned() })
    }

    fn agreed(&mut self, name: &str, with: &str, terms: String, state: String, failed: bool) -> Outcome {
        let with = self.cast.name_of(with);
        self.note(name, format!("agreement with {with} ({terms}): {state}"))?;
        let agreements = &mut self.report.agreements;
        match agreements.iter_mut().find(|agreement| agreement.with == with) {
            Some(agreement) => (agreement.state, agreement.failed) = (state, failed),
            None => agreements.push(Agreement { task: "Model the ring".into(), with, terms, state, failed }),
        }
        Ok(())
    }

    fn peeked(&mut self, name: &str, attempts: Vec<String>, secret: bool) -> Outcome {
        for attempt in &attempts {
            self.note(name, attempt.clone())?;
        }
        self.report.integrity.attempts = attempts;
        self.waiting.peeked = true;
        if secret { Ok(()) } else { Err("the bystander could read something".into()) }
    }

    fn is_actor(&self, name: &str) -> bool {
        self.cast.actors().any(|(actor, _)| actor == name)
    }

    /// Writes the report and says that all is done.
    fn finish(&mut self) -> Outcome {
        if let Some(victim) = self.script.kill
            && !self.killed
        {
            return Err(format!("the story came to its end before the {victim:?} could be killed").into());
        }
        let out = self.script.out.clone();
        let read = |name: &str| std::fs::read(out.join(name)).map_err(|error| format!("cannot read {name}: {error}"));
        self.report.picture_png = read("model.png")?;
        self.report.chart_svg = String::from_utf8(read("market.svg")?)?;
        self.report.suggestions = suggestions(&read("suggestions.json")?)?;
        self.report.sync = std::mem::take(&mut self.sync).into_values().collect();
        self.report.steps.sort_by_key(|step| step.started_ms);
        self.report.took_ms = self.at_ms();
        std::fs::write(out.join("report.html"), self.report.to_html())?;
        let took_ms = self.report.took_ms;
        self.event(&Event::Finished { folder: shown(&out), took_ms })
    }

    fn at_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn event(&mut self, event: &Event) -> Outcome {
        let at_ms = self.at_ms();
        Ok(self.account.tell(at_ms, event)?)
    }

    fn note(&mut self, who: &str, text: String) -> Outcome {
        self.event(&Event::Note { who: who.to_owned(), text })
    }

    fn step(&mut self, number: u32, title: &str) -> Outcome {
        self.event(&Event::Step { number, title: title.to_owned() })
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The sentences of `suggestions.json`.
fn suggestions(json: &[u8]) -> Outcome<Vec<String>> {
    let json: serde_json::Value = serde_json::from_slice(json)?;
    let texts = json["suggestions"].as_array().into_iter().flatten();
    Ok(texts.filter_map(|text| text.as_str().or_else(|| text["text"].as_str())).map(str::to_owned).collect())
}
