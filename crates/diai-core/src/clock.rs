use futures::future::{Either, select};

use crate::{BoxFuture, Instant, WallTime};

/// Time: a monotonic clock to order and wait by, a wall clock for what is signed.
pub trait Clock: Send + Sync + 'static {
    /// Now, on the monotonic clock.
    fn now(&self) -> Instant;

    /// Now, on the wall clock. It may jump.
    fn wall(&self) -> WallTime;

    /// Completes when `deadline` has passed; at once if it has already. Dropping the future cancels the wait.
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()>;
}

/// The deadline passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the deadline passed")]
pub struct Elapsed;

/// Runs `future` until it completes or `deadline` passes; then it is dropped. The future is polled first.
pub async fn timeout_at<F: Future>(clock: &dyn Clock, deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    let future = std::pin::pin!(future);
    match select(future, clock.sleep_until(deadline)).await {
        Either::Left((output, _)) => Ok(output),
        Either::Right(((), _)) => Err(Elapsed),
    }
}
