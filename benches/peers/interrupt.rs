//! Ctrl-C: the run ends by unwinding, so that every handle still ends its program and removes its tree.

use std::{
    panic, process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use tokio::signal::unix::{SignalKind, signal};

static HAPPENED: AtomicBool = AtomicBool::new(false);

/// Begins to listen. The second signal ends the process at once.
pub(crate) fn listen() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        // At a terminal the programs get the signal too, and what they were run for fails; that is no news.
        if !happened() {
            usual(info);
        }
    }));
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        runtime.expect("a runtime can be made").block_on(wait_task());
    });
}

async fn wait_task() {
    let mut interrupt = signal(SignalKind::interrupt()).expect("a signal can be listened to");
    let mut terminate = signal(SignalKind::terminate()).expect("a signal can be listened to");
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if HAPPENED.swap(true, Ordering::SeqCst) {
            process::exit(130);
        }
        eprintln!(
            "peers: ending after the present step; once more to end at once and leave the trees behind"
        );
    }
}

/// Whether a signal came.
pub(crate) fn happened() -> bool {
    HAPPENED.load(Ordering::SeqCst)
}

/// Unwinds if a signal came. Called between steps.
pub(crate) fn check() {
    if happened() {
        panic::resume_unwind(Box::new("interrupted"));
    }
}
