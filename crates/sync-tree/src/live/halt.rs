//! Halting, and coming back to life.
//!
//! A halted tree is rechecked every second: when the root is the held directory again and its files are back, everything
//! is looked at and it goes on. A person ends the halt for good by a file `accept` in the state directory, which is
//! consumed; one that lies there when a halt begins was meant for something else and is thrown away.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    BarrierError, LiveOptions, TreeError,
    inbox::Waiter,
    site::{Site, open_root, state_options},
    worker::{ACCEPT_EVERY, Batch, Worker, chain},
};
use crate::{state::StateDir, watch::dirty::Dirt};

/// The file by which a person accepts what is on the disk.
const ACCEPT: &str = "accept";

/// How often a halted tree is rechecked.
const RECHECK: Duration = Duration::from_secs(1);

/// A failing disk is rechecked more and more rarely, down to this.
const RECHECK_SLOWEST: Duration = Duration::from_secs(60);

/// Files that come back to an emptied tree must have stopped coming for so long. A half-restored tree would look as if
/// the other half had been deleted.
const RESTORED: Duration = Duration::from_secs(2);

/// What kind of disaster it looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The root's path does not name the held directory.
    Root,
    /// All files are gone.
    Emptied,
    /// The index or the root failed.
    Failed,
    /// The index is damaged: it is made anew.
    Damaged,
}

/// A tree that is halted.
#[derive(Debug)]
pub(super) struct Halted {
    cause: Cause,
    pub(super) reason: String,
    pub(super) recheck_at: Instant,
    pause: Duration,
    /// The most files that the tree had in the minute before: that minute does not pass while it is halted.
    files: u64,
}

impl Halted {
    /// The most files that the tree had in the minute before it was halted.
    pub(super) fn files(&self) -> u64 {
        self.files
    }

    /// Answers those who wait for a barrier.
    pub(super) fn refuse(&self, waiters: impl IntoIterator<Item = Waiter>) {
        for waiter in waiters {
            // Whoever does not wait any more does not mind.
            let _ = waiter.send(Err(BarrierError::Halted { reason: self.reason.clone() }));
        }
    }
}

impl Worker {
    /// Stops publishing.
    pub(super) fn halt(&mut self, cause: Cause, reason: String) {
        let before = self.halted.take();
        let files = before.as_ref().map_or(0, Halted::files);
        let pause = match &before {
            Some(before) if cause == Cause::Failed && before.cause == cause => {
                (before.pause * 2).min(RECHECK_SLOWEST)
            }
            _ => RECHECK,
        };
        if before.is_none() {
            let site = self.shared.site();
            if self.take_accept(&site) {
                tracing::warn!("an old `accept` was thrown away: it was not meant for this");
            }
        }
        if before.is_none_or(|before| before.reason != reason) {
            tracing::error!(root = %self.options.root.display(), reason, "the tree is halted");
        }
        self.fail_barrier(&BarrierError::Halted { reason: reason.clone() });
        self.accepted = false;
        let now = Instant::now();
        let files = files.max(self.recent.most(now));
        self.halted = Some(Halted { cause, reason, recheck_at: now + pause, pause, files });
        self.publish_state();
    }

    /// Whether the tree can go on.
    pub(super) fn recheck(&mut self) {
        let Some(halted) = &mut self.halted else { return };
        halted.recheck_at = Instant::now() + halted.pause;
        let cause = halted.cause;
        let site = self.shared.site();
        let accepted = self.take_accept(&site);
        match site.check_root() {
            Ok(()) if cause == Cause::Damaged => self.make_index_anew(accepted),
            Ok(()) if cause == Cause::Emptied && !accepted && self.still_changing() => {}
            Ok(()) => self.resume(cause, accepted),
            Err(reason) if accepted || self.take_accept_of_new_root(&site) => self.take_new_root(&reason),
            Err(reason) => self.halt(Cause::Root, reason),
        }
    }

    /// Tries to go on with the root that is held.
    fn resume(&mut self, cause: Cause, accepted: bool) {
        if self.lock.is_none() {
            // An attempt to take another root had failed; the lock goes with the state of the one that is back.
            match crate::lock::Lock::acquire(&self.shared.site().state.dir, super::site::LOCK) {
                Ok(lock) => self.lock = Some(lock),
                Err(error) => return self.halt(Cause::Failed, chain(&error)),
            }
        }
        if cause != Cause::Emptied {
            self.rewatch();
        }
        self.accepted = accepted;
        self.look_at_everything();
    }

    fn look_at_everything(&mut self) {
        let vanished = {
            let mut mail = self.shared.inbox.lock();
            // What was dirty is part of everything.
            drop(mail.take_dirty());
            std::mem::take(&mut mail.vanished)
        };
        self.look(&Batch { dirt: Dirt::Everything, vanished, polls: true, barrier: false });
    }

    fn still_changing(&self) -> bool {
        self.shared.inbox.lock().last.is_some_and(|last| last.elapsed() < RESTORED)
    }

    /// Gives up the held root and takes what its path names now: a person has said so.
    fn take_new_root(&mut self, reason: &str) {
        // State outside of the tree is the same directory for both, and its lock cannot be taken twice.
        self.lock = None;
        match Site::open(&self.options) {
            Ok((site, lock)) => {
                tracing::info!(root = %site.root.path().display(), "another directory was accepted");
                self.lock = Some(lock);
                self.recent = super::pace::Recent::default();
                self.shared.replace_site(site);
                self.resume(Cause::Root, true);
            }
            Err(error) => self.halt(Cause::Root, format!("{reason}, and cannot be taken: {}", chain(&error))),
        }
    }

    /// Opens the same root once more: that sets a damaged index aside.
    fn make_index_anew(&mut self, accepted: bool) {
        self.lock = None;
        match Site::open(&self.options) {
            Ok((site, lock)) => {
                self.lock = Some(lock);
                self.shared.replace_site(site);
                // All that is found now is new to the index, but no news.
                self.scanned = false;
                self.resume(Cause::Failed, accepted);
            }
            Err(error) => {
                self.halt(Cause::Damaged, format!("the index cannot be made anew: {}", chain(&error)));
            }
        }
    }

    /// Whether something short of a halt waits for a person's word: a mount that came or went is such a problem.
    pub(super) fn awaits_accept(&self) -> bool {
        self.scanned && !self.troubled.is_empty()
    }

    pub(super) fn check_accept(&mut self) {
        self.accept_check_at = Instant::now() + ACCEPT_EVERY;
        let site = self.shared.site();
        if self.take_accept(&site) {
            self.accepted = true;
            self.look_at_everything();
        }
    }

    /// Consumes a person's word, if there is one.
    pub(super) fn take_accept(&self, site: &Site) -> bool {
        match site.state.dir.remove_file(ACCEPT) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                tracing::warn!(%error, "the file `accept` cannot be removed, so it is not obeyed");
                false
            }
        }
    }

    /// The same, in the state of what the root's path names now.
    fn take_accept_of_new_root(&self, held: &Site) -> bool {
        let found = open_root(&self.options).ok().and_then(|root| {
            let same = root.identity() == held.root.identity();
            if same { None } else { StateDir::find(&root, &state_options(&self.options)).ok().flatten() }
        });
        found.is_some_and(|(dir, _)| dir.remove_file(ACCEPT).is_ok())
    }
}

/// Writes a person's word where a running tree, or the next start, finds it.
pub(super) fn write_accept(options: &LiveOptions) -> Result<PathBuf, TreeError> {
    let root = open_root(options)?;
    let state = StateDir::open(&root, &state_options(options))?;
    let path = state.path.join(ACCEPT);
    match state.dir.create_new(ACCEPT, 0o600) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(TreeError::StateFile { path, source })
        }
        _ => Ok(path),
    }
}
