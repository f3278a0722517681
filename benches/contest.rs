//! Contenders by turns: each round lets every one of them do its work, so that whatever else the machine does meets all.

use std::{
    collections::VecDeque,
    future::Future,
    time::{Duration, Instant},
};

use criterion::{BenchmarkGroup, SamplingMode, Throughput, measurement::WallTime};
use futures::future::BoxFuture;

use crate::Bench;

/// Does its work so many times and says how long each took.
pub(crate) type Work = Box<dyn Fn(u64) -> BoxFuture<'static, Vec<Duration>>>;

/// Pieces of work of each contender before anything counts.
const WARM_UP: u64 = 8;

/// How often and how long.
pub(crate) struct Plan {
    /// Times that one contender does its work before it is the next one's turn.
    pub(crate) turn: u64,
    /// Criterion's samples, at least 10.
    pub(crate) samples: usize,
    /// For all samples of one contender; zero: one piece of work is a sample, however long it takes.
    pub(crate) measure: Duration,
    /// What one piece of work amounts to.
    pub(crate) throughput: Option<Throughput>,
}

/// How long each piece of work of one contender took, sorted.
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// The duration that `share` of all are within.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
    }

    pub(crate) fn p50(&self) -> Duration {
        self.quantile(0.5)
    }

    pub(crate) fn p99(&self) -> Duration {
        self.quantile(0.99)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// How much longer the median is than that of `other`.
    pub(crate) fn over(&self, other: &Self) -> f64 {
        self.p50().as_secs_f64() / other.p50().as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

#[expect(clippy::disallowed_methods, reason = "the stopwatch of the benches")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Work whose whole time counts.
pub(crate) fn timed<F, R>(one: F) -> Work
where
    F: Fn() -> R + Clone + Send + Sync + 'static,
    R: Future<Output = ()> + Send,
{
    work(move || {
        let one = one.clone();
        async move {
            let start = now();
            one().await;
            start.elapsed()
        }
    })
}

/// Work that says itself how long it took.
pub(crate) fn work<F, R>(one: F) -> Work
where
    F: Fn() -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Duration> + Send,
{
    Box::new(move |times| {
        let one = one.clone();
        Box::pin(async move {
            let mut took = Vec::new();
            for _ in 0..times {
                took.push(one().await);
            }
            took
        })
    })
}

/// Lets `contenders` do their work by turns, reports each to criterion, and returns the times of each.
pub(crate) fn run<const N: usize>(
    bench: &mut Bench,
    group: &str,
    plan: Plan,
    contenders: [(&str, Work); N],
) -> [Times; N] {
    let mut all: [Vec<Duration>; N] = [const { Vec::new() }; N];
    // What was measured in the turns of others and criterion has not asked for yet.
    let mut ready: [VecDeque<Duration>; N] = [const { VecDeque::new() }; N];
    let runtime = &bench.runtime;
    if !bench.test && !plan.measure.is_zero() {
        for (_, work) in &contenders {
            runtime.block_on(runtime.spawn(work(WARM_UP))).expect("the work does not panic");
        }
    }
    let mut group = bench.criterion.benchmark_group(group);
    configure(&mut group, &plan);
    for index in 0..N {
        group.bench_function(contenders[index].0, |bencher| {
            bencher.iter_custom(|times| {
                while (ready[index].len() as u64) < times {
                    for (other, (_, work)) in contenders.iter().enumerate() {
                        let turn = plan.turn.min(times);
                        let took = runtime.block_on(runtime.spawn(work(turn))).expect("the work does not panic");
                        all[other].extend(&took);
                        ready[other].extend(took);
                    }
                }
                ready[index].drain(..times as usize).sum()
            });
        });
    }
    group.finish();
    all.map(|mut times| {
        times.sort_unstable();
        Times(times)
    })
}

fn configure(group: &mut BenchmarkGroup<'_, WallTime>, plan: &Plan) {
    // The warm-up is our own; criterion's, by the clock, would use up what the turns of others left. One piece of work
    // is enough for it to plan with.
    group.sample_size(plan.samples).warm_up_time(Duration::from_nanos(1));
    group.measurement_time(plan.measure.max(Duration::from_nanos(1))).sampling_mode(SamplingMode::Flat);
    if let Some(throughput) = &plan.throughput {
        group.throughput(throughput.clone());
    }
}
