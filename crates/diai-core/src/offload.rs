use futures::channel::oneshot;

/// The only way off the thread: work that blocks or burns a core.
///
/// A bounded pool in production; inline in simulation.
pub trait Offload: Send + Sync + 'static {
    /// Runs `work` when a worker is free. Waiting work is queued; the caller bounds how much it hands over.
    fn run(&self, work: Box<dyn FnOnce() + Send>);
}

/// The pool dropped the work, because it is shutting down or because the work panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the work was dropped: the pool is shutting down, or the work panicked")]
pub struct OffloadError;

/// Runs `work` off the thread and returns what it returns.
///
/// Cancel-safety: dropping the future leaves out work that has not begun; what has begun runs to its end, and its result
/// is dropped.
pub async fn offload<T: Send + 'static>(
    pool: &dyn Offload,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, OffloadError> {
    let (done, result) = oneshot::channel();
    pool.run(Box::new(move || {
        if done.is_canceled() {
            return;
        }
        // The caller may have been cancelled meanwhile: nobody wants the result then.
        let _ = done.send(work());
    }));
    result.await.map_err(|_| OffloadError)
}
