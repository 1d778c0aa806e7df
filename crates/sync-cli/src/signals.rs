//! How both programs are ended: the first signal asks them to come to an end, the second is the end.

use anyhow::Context as _;
use tokio::{signal, sync::mpsc};

/// What a shell expects of a program that was ended by force: the code for a second signal.
pub const ENDED_BY_FORCE: i32 = 130;

/// Enough to hold both signals that count while nobody looks.
const SIGNALS_AHEAD: usize = 2;

/// One message for each signal that asks the program to end. Must be called within a runtime, and listens until that ends.
///
/// # Errors
/// The system does not let us listen.
#[cfg(unix)]
pub fn signals() -> anyhow::Result<mpsc::Receiver<()>> {
    use signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("Cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("Cannot listen for SIGTERM")?;
    let (sender, receiver) = mpsc::channel(SIGNALS_AHEAD);
    // Ends with the runtime: there is nothing to wait for.
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// One message for each signal that asks the program to end. Must be called within a runtime, and listens until that ends.
///
/// # Errors
/// None here; elsewhere the system may not let us listen.
#[cfg(not(unix))]
pub fn signals() -> anyhow::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(SIGNALS_AHEAD);
    tokio::spawn(async move { while signal::ctrl_c().await.is_ok() && sender.send(()).await.is_ok() {} });
    Ok(receiver)
}
