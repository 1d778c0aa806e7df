//! Connections, their loss, and the engine between them.
//!
//! The engine works over one connection and ends with an error when that breaks; here it is decided whether to connect again.
//! A first connection has a few seconds; one that was there before is worth more patience: a daemon that is restarted, or a
//! network that is gone for a moment, is no reason to end a pull. Following has no limit.
//!
//! The share and its identity are pinned by the first connection: an agent that was told no name does not wander to another
//! share. If the share was made anew meanwhile, the engine is opened anew as well.

use std::{pin::Pin, sync::Arc, time::Duration};

use sync_cli::report::message_of;
use sync_core::{Halt, ShareId};
use sync_locations::{ConnectOptions, Location, LocationError, RemoteSyncd};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::{Failures, Pauses, chance},
    console::Talk,
    engine::{Done, Engine, EngineError, Phase, PullMode, Reporter, Summary},
    failure::advised,
};

use passing::passing;

/// A future of this thread.
pub(crate) type Soon<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A connection.
pub(crate) struct Dialed {
    pub location: Arc<dyn Location>,
    pub share: String,
    pub share_id: ShareId,
    pub address: String,
}

/// A way to connect.
pub(crate) trait Dial {
    /// Connects to the share with this name, or to the only one.
    fn dial<'a>(
        &'a self,
        share: Option<&'a str>,
        within: Duration,
    ) -> Soon<'a, Result<Dialed, LocationError>>;
}

/// Connects to a daemon.
pub(crate) struct DialSyncd {
    pub url: String,
    pub options: ConnectOptions,
}

impl Dial for DialSyncd {
    fn dial<'a>(
        &'a self,
        share: Option<&'a str>,
        within: Duration,
    ) -> Soon<'a, Result<Dialed, LocationError>> {
        Box::pin(async move {
            let options = ConnectOptions { connect_timeout: within, ..self.options.clone() };
            let remote = RemoteSyncd::connect(&self.url, share, &options).await?;
            Ok(Dialed {
                share: remote.share().to_owned(),
                share_id: remote.share_id(),
                address: remote.address().to_owned(),
                location: Arc::new(remote),
            })
        })
    }
}

/// What works on the target.
pub(crate) trait Work {
    /// Does a job over one connection.
    fn run<'a>(&'a mut self, job: Job, with: &'a With) -> Soon<'a, Result<Summary, EngineError>>;
    /// What the last job did, also if it failed.
    fn done(&self) -> Done;
    /// Follows over one connection.
    fn follow<'a>(&'a mut self, with: &'a With) -> Soon<'a, Result<(), EngineError>>;
}

/// What a job has with it.
pub(crate) struct With {
    pub remote: Arc<dyn Location>,
    pub reporter: Arc<dyn Reporter>,
    pub cancel: CancellationToken,
}

/// A job that ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Job {
    Pull(PullMode),
    Verify,
}

impl Work for Engine {
    fn run<'a>(&'a mut self, job: Job, with: &'a With) -> Soon<'a, Result<Summary, EngineError>> {
        match job {
            Job::Pull(mode) => Box::pin(self.pull(&with.remote, mode, &with.reporter, &with.cancel)),
            Job::Verify => Box::pin(self.verify(&with.remote, &with.reporter, &with.cancel)),
        }
    }

    fn done(&self) -> Done {
        self.done()
    }

    fn follow<'a>(&'a mut self, with: &'a With) -> Soon<'a, Result<(), EngineError>> {
        Box::pin(self.follow(&with.remote, &with.reporter, &with.cancel))
    }
}

/// Opens what works on the target, for a share.
pub(crate) type Open<'a> = dyn Fn(&Dialed) -> Result<Box<dyn Work>, EngineError> + 'a;

/// How long what may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// One attempt to connect.
    pub attempt: Duration,
    /// All attempts for the first connection.
    pub first: Duration,
    /// A job without a connection, once there was one.
    pub again: Duration,
    /// Between attempts for the first connection.
    pub first_pauses: Pauses,
    /// Between attempts for further ones.
    pub pauses: Pauses,
    /// Between looks at something that halted.
    pub halt: Duration,
}

impl Patience {
    /// The usual, for attempts of this length.
    pub(crate) fn with_attempts_of(attempt: Duration) -> Self {
        Self {
            attempt,
            first: attempt.max(Duration::from_secs(10)),
            again: Duration::from_secs(120),
            first_pauses: Pauses::FIRST_CONNECTION,
            pauses: Pauses::NETWORK,
            halt: Duration::from_secs(10),
        }
    }
}

/// A connection that held this long, or brought this many bytes, was a good one: its loss is a new one and not one more in a
/// row. Without this a daemon that refuses at once would be asked for ever.
const GOOD_FOR: Duration = Duration::from_secs(10);
const GOOD_BYTES: u64 = 256 << 10;

/// A run of a command.
pub(crate) struct Session<'a> {
    pub dial: &'a dyn Dial,
    pub open: &'a Open<'a>,
    pub patience: Patience,
    pub talk: Arc<dyn Talk>,
    pub cancel: CancellationToken,
    /// The name that was asked for, and after the first connection the one that was found.
    pub share: Option<String>,
    /// Bytes of all connections that are over.
    pub received: u64,
    /// What was done over all of them.
    pub done: Done,
    work: Option<(ShareId, Box<dyn Work>)>,
    /// Whether the target could be worked on once.
    was_open: bool,
}

/// Losses in a row, and when the first was.
struct Losses {
    failures: Failures,
    since: Instant,
}

impl Losses {
    fn none(patience: Option<Duration>) -> Self {
        Self { failures: Failures::none(patience), since: Instant::now() }
    }
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        dial: &'a dyn Dial,
        open: &'a Open<'a>,
        patience: Patience,
        talk: Arc<dyn Talk>,
    ) -> Self {
        let cancel = CancellationToken::new();
        let (share, received, done, work) = (None, 0, Done::default(), None);
        Self { dial, open, patience, talk, cancel, share, received, done, work, was_open: false }
    }

    /// Does a job, over as many connections as it takes.
    ///
    /// # Errors
    /// It cannot be done, or not in time.
    pub(crate) async fn run(&mut self, job: Job) -> Result<Summary, EngineError> {
        let mut dialed = self.dial_first().await?;
        let mut losses = None;
        loop {
            self.open_for(&dialed)?;
            let began = Instant::now();
            let with = self.with(&dialed);
            let result = self.work().run(job, &with).await;
            let bytes = dialed.location.bytes_received();
            self.received += bytes;
            let (before, done) = (self.done, self.work().done());
            self.done += done;
            match result {
                Ok(summary) => {
                    return Ok(Summary { bytes_received: self.received, ..summary }.after(before));
                }
                Err(EngineError::Location(error)) if error.is_transient() => {
                    let losses = renewed(&mut losses, Some(self.patience.again), began.elapsed(), bytes);
                    dialed = self.dial_again(losses, error).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Follows until it is cancelled.
    ///
    /// # Errors
    /// The first connection cannot be made, or the target cannot be worked on.
    pub(crate) async fn follow(&mut self) -> Result<(), EngineError> {
        match self.follow_on().await {
            Err(EngineError::Cancelled) => Ok(()),
            other => other,
        }
    }

    async fn follow_on(&mut self) -> Result<(), EngineError> {
        let mut dialed = self.dial_first().await?;
        let mut losses = None;
        loop {
            let began = Instant::now();
            let error = match self.follow_over(&dialed).await {
                Ok(()) => LocationError::Cut { source: "the feed ended".into() },
                // Another share's target stays one.
                Err(error @ EngineError::Halt(Halt::OtherShare { .. })) => return Err(error),
                Err(EngineError::Halt(halt)) => {
                    self.talk.halted(&halt);
                    self.unless_cancelled(sleep(self.patience.halt)).await?;
                    continue;
                }
                // Somebody makes room, or gives the disk back: that is waited for like a halt.
                Err(error) if let Some(passing) = passing(&error, self.was_open) => {
                    self.talk.problem(&passing.problem);
                    if passing.reopen {
                        self.work = None;
                    }
                    self.unless_cancelled(sleep(self.patience.halt)).await?;
                    continue;
                }
                Err(EngineError::Location(error)) => error,
                Err(error) => return Err(error),
            };
            if self.cancel.is_cancelled() {
                return Ok(());
            }
            let bytes = dialed.location.bytes_received();
            self.received += bytes;
            let losses = renewed(&mut losses, None, began.elapsed(), bytes);
            dialed = self.dial_again(losses, error).await?;
        }
    }

    async fn follow_over(&mut self, dialed: &Dialed) -> Result<(), EngineError> {
        self.open_for(dialed)?;
        let with = self.with(dialed);
        self.work().follow(&with).await
    }

    fn with(&self, dialed: &Dialed) -> With {
        With {
            remote: Arc::clone(&dialed.location),
            reporter: Arc::clone(&self.talk) as Arc<dyn Reporter>,
            cancel: self.cancel.clone(),
        }
    }

    fn work(&mut self) -> &mut dyn Work {
        &mut *self.work.as_mut().expect("it is opened for each connection").1
    }

    /// Opens the target if it is not open for this share.
    fn open_for(&mut self, dialed: &Dialed) -> Result<(), EngineError> {
        if self.work.as_ref().is_none_or(|(id, _)| *id != dialed.share_id) {
            // The old one holds the lock.
            self.work = None;
            self.work = Some((dialed.share_id, (self.open)(dialed)?));
            self.was_open = true;
        }
        Ok(())
    }

    /// The first connection.
    async fn dial_first(&mut self) -> Result<Dialed, EngineError> {
        self.talk.phase(Phase::Connecting);
        let began = Instant::now();
        let mut failures = Failures::none(Some(self.patience.first));
        loop {
            let left = self.patience.first.saturating_sub(began.elapsed());
            let error = match self.dial(left).await? {
                Ok(dialed) => return Ok(dialed),
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error.into()),
            };
            let Some(pause) = failures.next(&self.patience.first_pauses, began.elapsed(), chance()) else {
                return Err(error.into());
            };
            tracing::debug!(%error, ?pause, "cannot connect yet");
            self.unless_cancelled(sleep(pause)).await?;
        }
    }

    /// A connection in place of one that was lost. What is wrong with the server meanwhile may pass as well.
    async fn dial_again(&mut self, losses: &mut Losses, error: LocationError) -> Result<Dialed, EngineError> {
        let mut error = error;
        let mut told = false;
        loop {
            let since = losses.since.elapsed();
            let Some(pause) = losses.failures.next(&self.patience.pauses, since, chance()) else {
                return Err(error.into());
            };
            let text = message_of(&advised(EngineError::from(error)));
            if !std::mem::replace(&mut told, true) {
                self.talk.disconnected(&text, pause);
            }
            tracing::debug!(error = %text, ?pause, "connecting again after a pause");
            self.unless_cancelled(sleep(pause)).await?;
            match self.dial(self.patience.attempt).await? {
                Ok(dialed) => return Ok(dialed),
                Err(next) => error = next,
            }
        }
    }

    async fn dial(&mut self, left: Duration) -> Result<Result<Dialed, LocationError>, EngineError> {
        // The last attempt has a moment too.
        let within = self.patience.attempt.min(left.max(Duration::from_secs(1)));
        let dialed = self.unless_cancelled(self.dial.dial(self.share.as_deref(), within)).await?;
        if let Ok(dialed) = &dialed {
            self.share = Some(dialed.share.clone());
            self.talk.connected(dialed);
        }
        Ok(dialed)
    }

    async fn unless_cancelled<T>(&self, something: impl Future<Output = T>) -> Result<T, EngineError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(EngineError::Cancelled),
            value = something => Ok(value),
        }
    }
}

/// The row that a loss belongs to: a new one after a good connection.
fn renewed(row: &mut Option<Losses>, patience: Option<Duration>, held: Duration, bytes: u64) -> &mut Losses {
    if held >= GOOD_FOR || bytes >= GOOD_BYTES {
        *row = None;
    }
    row.get_or_insert_with(|| Losses::none(patience))
}

/// Waits for what a cancelled session still does, but not for ever: a disk that hangs must not keep the process.
pub(crate) async fn within_reason<T>(
    cancel: &CancellationToken,
    most: Duration,
    run: impl Future<Output = T>,
) -> Option<T> {
    let mut run = std::pin::pin!(run);
    tokio::select! {
        biased;
        done = &mut run => return Some(done),
        () = cancel.cancelled() => {}
    }
    timeout(most, run).await.ok()
}

mod passing;
#[cfg(test)]
mod tests;
