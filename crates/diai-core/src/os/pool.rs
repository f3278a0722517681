use std::{
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use crate::Offload;

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Work>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Work> {
        let mut queue = self.queue();
        loop {
            if let Some(work) = queue.waiting.pop_front() {
                return Some(work);
            }
            if queue.closed {
                return None;
            }
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A fixed number of threads that take work in order. Dropping the pool finishes what waits and joins the threads.
pub struct ThreadPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl ThreadPool {
    /// A pool of `threads`, at least one.
    ///
    /// # Panics
    /// If the operating system makes no thread.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::<Shared>::default();
        let start = |number| {
            let shared = shared.clone();
            let work = move || {
                while let Some(work) = shared.next() {
                    // A panic is the work's own: its caller sees that the result never comes.
                    let _ = catch_unwind(AssertUnwindSafe(work));
                }
            };
            thread::Builder::new().name(format!("diai-offload-{number}")).spawn(work).expect("a thread can be made")
        };
        let threads = (0..threads.max(1)).map(start).collect();
        Self { shared, threads }
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl Offload for ThreadPool {
    fn run(&self, work: Work) {
        self.shared.queue().waiting.push_back(work);
        self.shared.more.notify_one();
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.more.notify_all();
        let me = thread::current().id();
        for thread in self.threads.drain(..).filter(|thread| thread.thread().id() != me) {
            let _ = thread.join();
        }
    }
}
