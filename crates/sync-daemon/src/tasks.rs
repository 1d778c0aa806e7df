//! The tasks behind open streams, owned in one place.

use std::{
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::error;

/// Owns tasks until they end or the daemon does.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    set: Mutex<JoinSet<()>>,
    /// Cancelled when the daemon shuts down; every task watches it, or a channel that it closes.
    pub stop: CancellationToken,
}

impl Tasks {
    /// Starts a task.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.lock();
        // What ended meanwhile is let go here, so that the set holds what runs and little more.
        while let Some(ended) = set.try_join_next() {
            tell_panic(ended);
        }
        set.spawn(task);
    }

    /// Waits for all tasks to end; those that have not after `patience` are aborted.
    pub(crate) async fn finish(&self, patience: Duration) {
        let mut set = std::mem::take(&mut *self.lock());
        let ended = timeout(patience, async {
            while let Some(ended) = set.join_next().await {
                tell_panic(ended);
            }
        });
        if ended.await.is_err() {
            set.shutdown().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(failed) = ended
        && failed.is_panic()
    {
        error!(error = %failed, "a task failed");
    }
}
