//! Where blocking work is done: on threads of its own, or, in a runtime that has only one thread, on that.
//!
//! With one thread everything happens in the same order each time, which is what a simulation needs: the same seed gives the
//! same run. The programs have many.

use std::iter;

use sync_tree::apply::ApplyError;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{
        Semaphore,
        mpsc::{self, Sender},
    },
    task::{JoinError, JoinHandle, block_in_place, spawn_blocking},
};

use super::EngineError;

fn is_alone() -> bool {
    Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread
}

/// Does something that takes a while and belongs to whoever waits for it.
pub(super) fn in_place<T>(work: impl FnOnce() -> T) -> T {
    if is_alone() { work() } else { block_in_place(work) }
}

/// Does something that takes a while, beside everything else.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    if is_alone() { Ok(work()) } else { spawn_blocking(work).await }
}

/// On a thread of its own: a slow disk must not hold up the connections.
pub(super) async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApplyError> + Send + 'static,
) -> Result<T, EngineError> {
    done_apart(apart(work).await)
}

/// What came of work on another thread.
pub(super) fn done_apart<T>(done: Result<Result<T, ApplyError>, JoinError>) -> Result<T, EngineError> {
    Ok(done.map_err(|error| EngineError::Broken { reason: error.to_string() })??)
}

/// Starts what works, and waits for more to do, for a long time.
pub(super) fn start<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    if is_alone() {
        return tokio::spawn(work);
    }
    let runtime = Handle::current();
    spawn_blocking(move || runtime.block_on(work))
}

/// Lets `take` work, on a thread of its own, on what `make` sends, `ahead` at a time; with one thread, once all is sent.
pub(super) async fn hand_over<P, M, T>(
    ahead: usize,
    make: impl FnOnce(Sender<P>) -> M,
    take: impl FnOnce(&mut dyn Iterator<Item = P>) -> T + Send + 'static,
) -> (M::Output, Result<T, JoinError>)
where
    P: Send + 'static,
    M: Future,
    T: Send + 'static,
{
    if is_alone() {
        let (sender, mut queue) = mpsc::channel(Semaphore::MAX_PERMITS);
        let made = make(sender).await;
        return (made, Ok(take(&mut iter::from_fn(|| queue.try_recv().ok()))));
    }
    let (sender, mut queue) = mpsc::channel(ahead);
    let taking = spawn_blocking(move || take(&mut iter::from_fn(|| queue.blocking_recv())));
    tokio::join!(make(sender), taking)
}
