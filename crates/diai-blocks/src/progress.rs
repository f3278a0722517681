use std::{fmt, sync::Arc};

/// Somebody who wants to know how far something is.
pub struct ProgressFn<T>(Arc<dyn Fn(T) + Send + Sync>);

impl<T> ProgressFn<T> {
    /// Calls `told`, which must not block.
    pub fn new(told: impl Fn(T) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    pub(crate) fn tell(&self, progress: T) {
        (self.0)(progress);
    }
}

impl<T> Clone for ProgressFn<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for ProgressFn<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressFn")
    }
}
