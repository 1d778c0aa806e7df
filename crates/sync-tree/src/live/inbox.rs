//! What the loop is told by others: events, barriers, the wish to stop. One short lock, nobody ever waits in it.

use std::{
    collections::HashSet,
    mem,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use sync_core::TreePath;
use tokio::sync::oneshot;

use super::BarrierError;
use crate::watch::dirty::{DirtySet, MOST_PLACES};

/// Somebody who waits until everything that changed before now is committed.
pub(super) type Waiter = oneshot::Sender<Result<(), BarrierError>>;

/// The loop's inbox.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<Mail>,
    bell: Condvar,
}

/// What is in the inbox.
#[derive(Debug, Default)]
pub(super) struct Mail {
    pub(super) dirty: DirtySet,
    /// When the first and the newest event in `dirty` came.
    pub(super) first: Option<Instant>,
    pub(super) last: Option<Instant>,
    /// Places that something left, so that watches below them are not to be trusted.
    pub(super) vanished: HashSet<TreePath>,
    /// Events were lost, and no other watcher was started since then.
    pub(super) lost: bool,
    /// How many times events were lost.
    pub(super) losses: u64,
    /// The newest cookie whose event came.
    pub(super) cookie_seen: u64,
    pub(super) waiters: Vec<Waiter>,
    pub(super) stop: bool,
    /// Set when the loop has ended: what barriers get from then on.
    pub(super) closed: Option<BarrierError>,
}

impl Mail {
    /// Something at a place changed; `deep`: it may be a whole tree.
    pub(super) fn mark(&mut self, path: TreePath, deep: bool) {
        self.dirty.mark(path, deep);
        self.stamp();
    }

    /// Another watcher begins: everything has to be looked at, and what the last one lost is part of that.
    pub(super) fn begin_anew(&mut self) {
        self.lost = false;
        self.dirty.mark_everything();
        self.stamp();
    }

    /// Something left a place.
    pub(super) fn mark_vanished(&mut self, path: TreePath) {
        self.vanished.insert(path.clone());
        if self.vanished.len() > MOST_PLACES {
            self.mark_lost();
        }
        self.mark(path, true);
    }

    /// Events are missing: the watches have to be placed anew and everything looked at, when the loop finds it time.
    pub(super) fn mark_lost(&mut self) {
        self.lost = true;
        self.losses += 1;
        self.vanished = HashSet::new();
        self.last = Some(Instant::now());
    }

    /// Takes what has to be looked at.
    pub(super) fn take_dirty(&mut self) -> DirtySet {
        self.first = None;
        mem::take(&mut self.dirty)
    }

    fn stamp(&mut self) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
    }
}

impl Inbox {
    /// Opens the inbox.
    pub(super) fn lock(&self) -> MutexGuard<'_, Mail> {
        // Each change to the mail is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the mail and wakes the loop, if it has not been woken for earlier mail that is still there.
    pub(super) fn put(&self, change: impl FnOnce(&mut Mail)) {
        let mut mail = self.lock();
        let woken = mail.first.is_some();
        change(&mut mail);
        if !woken {
            self.bell.notify_all();
        }
    }

    /// Changes the mail and wakes the loop.
    pub(super) fn ring(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.lock());
        self.bell.notify_all();
    }

    /// A cookie's event came.
    pub(super) fn see_cookie(&self, number: u64) {
        let mut mail = self.lock();
        if number > mail.cookie_seen {
            mail.cookie_seen = number;
            self.bell.notify_all();
        }
    }

    /// The loop has ended: whoever waits, now or later, gets this.
    pub(super) fn close(&self, error: BarrierError) {
        let mut mail = self.lock();
        for waiter in mail.waiters.drain(..) {
            // Whoever does not wait any more does not mind.
            let _ = waiter.send(Err(error.clone()));
        }
        mail.closed = Some(error);
        self.bell.notify_all();
    }

    /// Waits until the loop has ended. Answers whether it has.
    pub(super) fn wait_closed(&self, until: Instant) -> bool {
        let mut mail = self.lock();
        while mail.closed.is_none() {
            if Instant::now() >= until {
                return false;
            }
            mail = self.wait(mail, until);
        }
        true
    }

    /// Waits for mail, at most until `until`.
    pub(super) fn wait<'a>(&self, mail: MutexGuard<'a, Mail>, until: Instant) -> MutexGuard<'a, Mail> {
        let timeout = until.saturating_duration_since(Instant::now());
        self.bell.wait_timeout(mail, timeout).unwrap_or_else(PoisonError::into_inner).0
    }
}
