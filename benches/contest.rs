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

/// How often and how long.
pub(crate) struct Plan {
    /// Times that one contender does its work before it is the next one's turn.
    pub(crate) turn: u64,
    /// Criterion's samples, at least 10; a first one of the same size warms up.
    pub(crate) samples: usize,
    /// Pieces of work in a sample.
    pub(crate) pieces: u64,
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
    let (turn, pieces) = if bench.test { (1, 1) } else { (plan.turn, plan.pieces) };
    let mut group = bench.criterion.benchmark_group(group);
    configure(&mut group, &plan);
    for index in 0..N {
        group.bench_function(contenders[index].0, |bencher| {
            bencher.iter_custom(|times| {
                while (ready[index].len() as u64) < pieces {
                    for (other, (_, work)) in contenders.iter().enumerate() {
                        let took = runtime.block_on(runtime.spawn(work(turn))).expect("the work does not panic");
                        all[other].extend(&took);
                        ready[other].extend(took);
                    }
                }
                // Criterion guesses from the clock how often it should ask, and what others' turns left takes no time:
                // a sample is what the plan says, whatever it asks for.
                let took: Duration = ready[index].drain(..pieces as usize).sum();
                took.mul_f64(times as f64 / pieces as f64)
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
    let least = Duration::from_nanos(1);
    group.sample_size(plan.samples).sampling_mode(SamplingMode::Flat).warm_up_time(least).measurement_time(least);
    if let Some(throughput) = &plan.throughput {
        group.throughput(throughput.clone());
    }
}
