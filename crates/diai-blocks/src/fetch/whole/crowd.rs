//! Those who send parts of a DAG at the same time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cid::Cid;
use diai_core::{BoxFuture, Instant, PeerId, offload};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::sync::oneshot;

use super::{
    super::FetchError,
    plan::{Job, plan},
};
use crate::dag::{Ended, Receiving, Scope, held, probe, receive};

/// The children of a DAG are shared in so many pieces for each sender.
const PIECES_PER_SENDER: usize = 8;
/// Pieces that one sender sends at a time: the second begins without a round trip when the first ends.
const PIECES_AT_A_TIME: usize = 2;
/// How often single blocks are asked for, so that there is something to share.
const MAX_SINGLE_BLOCKS: usize = 3;
/// How often an answer is given up because much of what follows is here already.
const MAX_ASKED_AGAIN: usize = 4;
/// Who has nothing to do for so long takes over what the slowest is at; sooner if that one has sent nothing yet.
const PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE_AT_FIRST: Duration = Duration::from_millis(300);
/// How often that happens.
const MAX_TAKEN_OVER: usize = 64;
/// Who is so many times slower than the fastest gets nothing of its rest again.
const SLOWER: u64 = 4;
/// Less than this from all of them over such a time is left to those who ask for single blocks. A sender that is below has its
/// place taken by a reserve, as long as all are.
const SLOW_BYTES_PER_SECOND: u64 = 1 << 20;
const WINDOW_SECONDS: u64 = 10;
/// How often a reserve takes the place of a slow sender.
const MAX_SWAPPED: usize = 16;
/// Whose answers are cut so often after so little is left: for each of them the DAG is walked.
const LITTLE_BYTES: u64 = 1 << 20;
const MAX_LITTLE: usize = 2;
/// While nobody is known to have it, so long is waited for answers.
const NOBODY: Duration = Duration::from_secs(1);

type Ran = (u64, Result<Ended, FetchError>);

/// A request under way.
struct Run {
    job: Job,
    peer: PeerId,
    /// `None` once it was told to stop.
    stop: Option<oneshot::Sender<()>>,
    came: Arc<AtomicU64>,
    since: Instant,
    /// Much slower than others.
    slow: bool,
}

impl Run {
    fn bytes(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    /// When one of those who are `idle` may take over.
    fn taken_over_at(&self, idle: &[PeerId]) -> Option<Instant> {
        let useful = self.stop.is_some() && idle.iter().any(|peer| !self.job.not_by.contains(peer));
        let patience = if self.bytes() == 0 { PATIENCE_AT_FIRST } else { PATIENCE };
        useful.then(|| self.since + patience)
    }

    fn stop(&mut self, slow: bool) {
        if let Some(stop) = self.stop.take() {
            self.slow = slow;
            // It may have ended already.
            let _ = stop.send(());
        }
    }

    fn bytes_per_second(&self, now: Instant) -> u64 {
        let ms = u64::try_from(now.since(self.since).as_millis()).unwrap_or(u64::MAX).max(1);
        self.bytes().saturating_mul(1000) / ms
    }
}

pub(super) struct Crowd<'a> {
    root: Cid,
    curious: &'a Receiving<'a>,
    plain: &'a Receiving<'a>,
    asking: FuturesUnordered<BoxFuture<'a, (PeerId, bool)>>,
    /// Who is taken to have it, with the requests that each answers at a time.
    senders: BTreeMap<PeerId, usize>,
    /// Who has it too, and takes the place of a sender that leaves.
    reserves: VecDeque<PeerId>,
    jobs: VecDeque<Job>,
    runs: BTreeMap<u64, Run>,
    running: FuturesUnordered<BoxFuture<'a, Ran>>,
    next_run: u64,
    /// Look for gaps once all is done, if blocks came since there were so many.
    look_again: Option<u64>,
    single_blocks: usize,
    asked_again: usize,
    taken_over: usize,
    /// Places taken by reserves, and when it is looked again for one.
    swapped: usize,
    next_swap: Instant,
    /// When the window ends, and what had come at its begin.
    window: (Instant, u64),
    /// Too little came.
    given_up: bool,
    /// How often somebody ended an answer of little.
    little: BTreeMap<PeerId, usize>,
    /// Bytes a second.
    fastest: u64,
    began: Instant,
    pub(super) sent: BTreeSet<PeerId>,
}

impl<'a> Crowd<'a> {
    /// The first of `candidates` is taken at its word that it has the root, before it has said so.
    pub(super) fn new(
        root: Cid,
        curious: &'a Receiving<'a>,
        plain: &'a Receiving<'a>,
        candidates: Vec<PeerId>,
    ) -> Self {
        let mut candidates = candidates.into_iter();
        let began = plain.world.clock.now();
        let senders = candidates.next().map(|first| (first, PIECES_AT_A_TIME)).into_iter().collect();
        let asking = candidates.map(|peer| probe(plain, peer, root).map(move |has| (peer, has)).boxed()).collect();
        Self {
            root,
            curious,
            plain,
            asking,
            senders,
            reserves: VecDeque::new(),
            jobs: VecDeque::new(),
            runs: BTreeMap::new(),
            running: FuturesUnordered::new(),
            next_run: 0,
            look_again: None,
            single_blocks: 0,
            asked_again: 0,
            taken_over: 0,
            swapped: 0,
            next_swap: began + PATIENCE,
            window: (began + Duration::from_secs(WINDOW_SECONDS), plain.tally.bytes.load(Ordering::Relaxed)),
            given_up: false,
            little: BTreeMap::new(),
            fastest: 0,
            began,
            sent: BTreeSet::new(),
        }
    }

    pub(super) async fn run(&mut self) -> Result<(), FetchError> {
        self.plan(Job::dag(self.root)).await?;
        loop {
            if self.late() {
                self.jobs.clear();
            }
            self.start();
            if self.runs.is_empty() && !self.waits() {
                match self.look_again.take() {
                    Some(blocks) if self.blocks() > blocks && !self.senders.is_empty() && !self.late() => {
                        self.jobs.clear();
                        self.plan(Job::dag(self.root)).await?;
                        continue;
                    }
                    _ => return Ok(()),
                }
            }
            let clock = &*self.plain.world.clock;
            let wake = if self.runs.is_empty() { self.began + NOBODY } else { self.look_at() };
            tokio::select! {
                biased;
                Some((id, ran)) = self.running.next() => self.ran(id, ran?).await?,
                Some((peer, has)) = self.asking.next() => if has { self.has(peer) },
                () = clock.sleep_until(wake) => {
                    if self.runs.is_empty() {
                        return Ok(());
                    }
                    self.watch();
                    self.swap();
                    self.take_over();
                }
            }
        }
    }

    /// Whether somebody may come yet for the jobs that nobody was found for.
    fn waits(&self) -> bool {
        !self.jobs.is_empty() && !self.asking.is_empty() && self.plain.world.clock.now() < self.began + NOBODY
    }

    fn late(&self) -> bool {
        self.given_up || self.plain.world.clock.now() >= self.plain.deadline
    }

    fn blocks(&self) -> u64 {
        self.plain.tally.blocks.load(Ordering::Relaxed)
    }

    fn has(&mut self, peer: PeerId) {
        if self.senders.len() < self.plain.config.max_senders {
            self.senders.insert(peer, PIECES_AT_A_TIME);
        } else {
            self.reserves.push_back(peer);
        }
    }

    /// Somebody else takes the place of `peer`.
    fn leave(&mut self, peer: PeerId) {
        if self.senders.remove(&peer).is_some()
            && let Some(next) = self.reserves.pop_front()
        {
            self.senders.insert(next, PIECES_AT_A_TIME);
        }
    }

    /// Looks what is left of `job`, and queues it.
    async fn plan(&mut self, job: Job) -> Result<(), FetchError> {
        let (tools, request) = (self.plain, job.request.clone());
        let (store, max_nodes) = (tools.store.store().clone(), tools.config.max_nodes);
        let look = move || {
            let here = held(&*store, &request, max_nodes);
            (request, here)
        };
        let (request, here) = offload(&*tools.world.offload, look).await.map_err(|_| FetchError::Closed)?;
        let crowd = (self.senders.len() + self.asking.len()).min(tools.config.max_senders);
        let pieces = if crowd <= 1 { 1 } else { PIECES_PER_SENDER * crowd };
        let plan = plan(&request, &here, pieces, self.single_blocks < MAX_SINGLE_BLOCKS);
        if plan.look_again {
            self.look_again = Some(self.blocks());
        }
        self.single_blocks += usize::from(plan.jobs.iter().any(|job| job.request.scope == Scope::Block));
        let not_by = job.not_by;
        self.jobs.extend(plan.jobs.into_iter().map(|piece| Job { not_by: not_by.clone(), ..piece }));
        Ok(())
    }

    /// How many requests each sender answers now.
    fn busy(&self) -> BTreeMap<PeerId, usize> {
        let mut busy: BTreeMap<_, _> = self.senders.keys().map(|peer| (*peer, 0)).collect();
        for run in self.runs.values() {
            if let Some(count) = busy.get_mut(&run.peer) {
                *count += 1;
            }
        }
        busy
    }

    /// Gives jobs to whoever has least to do.
    fn start(&mut self) {
        let mut busy = self.busy();
        let mut at = 0;
        while at < self.jobs.len() {
            let job = &self.jobs[at];
            let free =
                busy.iter_mut().filter(|(peer, count)| **count < self.senders[peer] && !job.not_by.contains(peer));
            let Some((&peer, count)) = free.min_by_key(|(_, count)| **count) else {
                at += 1;
                continue;
            };
            *count += 1;
            if let Some(job) = self.jobs.remove(at) {
                self.ask(peer, job);
            }
        }
    }

    fn ask(&mut self, peer: PeerId, job: Job) {
        let (stop, stopped) = oneshot::channel();
        let (came, id) = (Arc::new(AtomicU64::new(0)), self.next_run);
        self.next_run += 1;
        let everything = job.request.root == self.root && job.request.scope == Scope::Dag;
        let tools = if everything && self.asked_again < MAX_ASKED_AGAIN { self.curious } else { self.plain };
        let (request, counter) = (job.request.clone(), came.clone());
        let ask = async move { (id, receive(tools, peer, &request, stopped, counter).await) };
        self.running.push(ask.boxed());
        self.runs
            .insert(id, Run { job, peer, stop: Some(stop), came, since: self.plain.world.clock.now(), slow: false });
    }

    async fn ran(&mut self, id: u64, ended: Ended) -> Result<(), FetchError> {
        let Some(run) = self.runs.remove(&id) else { return Ok(()) };
        self.fastest = self.fastest.max(run.bytes_per_second(self.plain.world.clock.now()));
        let (peer, came, mut job) = (run.peer, run.bytes(), run.job);
        if came > 0 {
            self.sent.insert(peer);
        }
        match ended {
            Ended::Complete { missing: 0 } => return Ok(()),
            Ended::Complete { .. } => {
                job.not_by.insert(peer);
                if !self.plain.store.has(&self.root) {
                    self.leave(peer);
                }
            }
            Ended::Again => {
                self.asked_again += 1;
                if came == 0 {
                    // It would say the same again.
                    job.not_by.insert(peer);
                }
            }
            Ended::Limit => {
                let little = self.little.entry(peer).or_default();
                *little += usize::from(came < LITTLE_BYTES);
                if *little >= MAX_LITTLE {
                    self.leave(peer);
                }
                if came == 0 {
                    job.not_by.insert(peer);
                }
            }
            Ended::Stopped => return self.shared_anew(job, peer, run.slow).await,
            Ended::Busy => match self.busy().get(&peer) {
                Some(&others) if others > 0 => drop(self.senders.insert(peer, others)),
                _ => self.leave(peer),
            },
            Ended::Left => self.leave(peer),
        }
        self.again(job).await
    }

    async fn again(&mut self, job: Job) -> Result<(), FetchError> {
        let nobody = self.senders.is_empty() && self.asking.is_empty();
        if nobody || self.late() { Ok(()) } else { self.plan(job).await }
    }

    /// Shares what `peer` was at with those who wait for work, and with itself, unless it is much slower, or there is
    /// nothing to share.
    async fn shared_anew(&mut self, mut job: Job, peer: PeerId, slow: bool) -> Result<(), FetchError> {
        if slow {
            job.not_by.insert(peer);
            if !self.reserves.is_empty() {
                self.leave(peer);
            }
        }
        let before = self.jobs.len();
        self.again(job).await?;
        if self.jobs.len() == before + 1
            && let Some(job) = self.jobs.back_mut()
        {
            job.not_by.insert(peer);
        }
        Ok(())
    }

    fn idle(&self) -> Vec<PeerId> {
        self.busy().into_iter().filter(|(_, count)| *count == 0).map(|(peer, _)| peer).collect()
    }

    fn look_at(&self) -> Instant {
        self.window.0.min(self.swap_at()).min(self.take_over_at())
    }

    /// Gives up, at the end of a window, when too little came in it.
    fn watch(&mut self) {
        let (now, bytes) = (self.plain.world.clock.now(), self.plain.tally.bytes.load(Ordering::Relaxed));
        if now < self.window.0 {
            return;
        }
        if bytes - self.window.1 >= WINDOW_SECONDS * SLOW_BYTES_PER_SECOND {
            self.window = (now + Duration::from_secs(WINDOW_SECONDS), bytes);
            return;
        }
        self.window.0 = Instant::NEVER;
        self.given_up = true;
        self.runs.values_mut().for_each(|run| run.stop(false));
    }

    fn swap_at(&self) -> Instant {
        let any = !self.reserves.is_empty() && self.swapped < MAX_SWAPPED;
        if any { self.next_swap } else { Instant::NEVER }
    }

    /// Gives the place of the slowest sender to a reserve, if it is much slower than another, or if all are slow.
    fn swap(&mut self) {
        let now = self.plain.world.clock.now();
        if now < self.swap_at() {
            return;
        }
        self.next_swap = now + PATIENCE;
        // What each sends, and whether it had the time to begin.
        let mut speeds: BTreeMap<PeerId, (u64, bool)> = BTreeMap::new();
        for run in self.runs.values() {
            let (speed, begun) = speeds.entry(run.peer).or_insert((0, self.senders.contains_key(&run.peer)));
            *speed += run.bytes_per_second(now);
            *begun &= run.stop.is_some() && now >= run.since + PATIENCE;
        }
        let fastest = speeds.values().map(|(speed, _)| *speed).max().unwrap_or(0);
        let slowest = speeds.into_iter().filter(|(_, (_, begun))| *begun).min_by_key(|(_, (speed, _))| *speed);
        let Some((peer, (speed, _))) = slowest else { return };
        if speed.saturating_mul(SLOWER) >= fastest && fastest >= SLOW_BYTES_PER_SECOND {
            return;
        }
        self.swapped += 1;
        self.leave(peer);
        self.reserves.push_back(peer);
        self.runs.values_mut().filter(|run| run.peer == peer).for_each(|run| run.stop(true));
    }

    /// When a sender without anything to do takes over from another.
    fn take_over_at(&self) -> Instant {
        let idle = self.idle();
        let soonest = self.runs.values().filter_map(|run| run.taken_over_at(&idle)).min();
        soonest.filter(|_| self.taken_over < MAX_TAKEN_OVER).unwrap_or(Instant::NEVER)
    }

    /// Stops the slowest, whose rest is shared anew.
    fn take_over(&mut self) {
        let now = self.plain.world.clock.now();
        let idle = self.idle();
        let runs = self.runs.values_mut().filter(|run| run.taken_over_at(&idle).is_some_and(|at| now >= at));
        let fastest = self.fastest;
        let Some(run) = runs.min_by_key(|run| run.bytes_per_second(now)) else { return };
        self.taken_over += usize::from(run.stop.is_some());
        run.stop(run.bytes_per_second(now).saturating_mul(SLOWER) < fastest);
    }
}
