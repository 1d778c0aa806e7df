//! Where blocking work is done: on threads of its own, or, in a runtime that has only one thread, on that.
//!
//! With one thread everything happens in the same order each time, which is what a simulation needs: the same seed gives the
//! same run. The programs have many.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::{JoinError, JoinHandle, block_in_place, spawn_blocking},
};

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

/// Starts what works, and waits for more to do, for a long time.
pub(super) fn start<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    if is_alone() {
        return tokio::spawn(work);
    }
    let runtime = Handle::current();
    spawn_blocking(move || runtime.block_on(work))
}
