//! The loop: waits for something to do, decides what, and has it done.

use std::{
    collections::HashSet,
    io, iter,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, MutexGuard},
    time::{Duration, Instant},
};

use sync_core::TreePath;

use super::{
    BarrierError, LiveOptions, Shared, TreeState,
    barrier::Barrier,
    degraded::{Blind, Lost, Rewatch},
    halt::Halted,
    inbox::{Mail, Waiter},
    pace::{Due, Later, Pace, Polls, Recent},
};
use crate::{
    lock::Lock,
    rooted::{Dir, Root, Stat},
    trouble,
    watch::{
        WatcherFactory,
        dirty::{Dirt, DirtySet},
        places::Places,
    },
};

/// How often an `accept` is looked for while something waits for one.
pub(super) const ACCEPT_EVERY: Duration = Duration::from_secs(1);

/// How often the known mount points are looked at: mounting gives no events.
const MOUNTS_EVERY: Duration = Duration::from_secs(1);

/// How long the other half of a rename may take, and how long a stream of renames is waited for.
const RENAME_WAIT: Duration = Duration::from_millis(5);
const RENAME_WAIT_MOST: Duration = Duration::from_millis(50);

/// The loop's own state. Only its thread touches it.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) options: LiveOptions,
    pub(super) factory: WatcherFactory,
    /// `None` only between giving up one root and taking another.
    pub(super) lock: Option<Lock>,
    pub(super) places: Places,
    pub(super) pace: Pace,
    pub(super) later: Later,
    pub(super) polls: Polls,
    pub(super) recent: Recent,
    pub(super) barrier: Option<Barrier>,
    pub(super) cookies_made: u64,
    pub(super) cookies_missed: u32,
    pub(super) halted: Option<Halted>,
    /// Why all of the tree is polled, if it is.
    pub(super) blind: Option<Blind>,
    pub(super) lost: Lost,
    /// Whether everything was looked at once since the start.
    pub(super) scanned: bool,
    pub(super) rescan_at: Instant,
    /// The next look takes an emptied tree as it is.
    pub(super) accepted: bool,
    pub(super) accept_check_at: Instant,
    /// Whether there are mount points to look at, and when.
    pub(super) has_mounts: bool,
    mounts_check_at: Instant,
    /// Paths with a problem: what happens to one of them may concern all that is below.
    pub(super) troubled: HashSet<TreePath>,
}

/// What to look at, and why.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) dirt: Dirt,
    /// What had left its place, by the events that came before this batch.
    pub(super) vanished: HashSet<TreePath>,
    /// All that is polled is part of it.
    pub(super) polls: bool,
    /// The barrier is passed with it.
    pub(super) barrier: bool,
}

/// What to do next.
enum Next {
    Stop,
    Rewatch(Rewatch),
    Barrier(Vec<Waiter>),
    Look(Batch),
    Recheck,
    CheckAccept,
    CheckMounts,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        options: LiveOptions,
        factory: WatcherFactory,
        lock: Lock,
    ) -> Self {
        let now = Instant::now();
        let root = shared.site().root.path().to_path_buf();
        Self {
            shared,
            options,
            factory,
            lock: Some(lock),
            places: Places::new(&root, None),
            pace: Pace::default(),
            later: Later::default(),
            polls: Polls::new(now),
            recent: Recent::default(),
            barrier: None,
            cookies_made: 0,
            cookies_missed: 0,
            halted: None,
            blind: None,
            lost: Lost::default(),
            scanned: false,
            rescan_at: now,
            accepted: false,
            accept_check_at: now,
            has_mounts: false,
            mounts_check_at: now,
            troubled: HashSet::new(),
        }
    }

    /// Runs until the tree is stopped. A panic halts the tree, with its message.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let end = match catch_unwind(AssertUnwindSafe(|| self.work())) {
            Ok(()) => BarrierError::Stopped,
            Err(panic) => {
                let reason = format!("internal error: {}", panic_message(&*panic));
                tracing::error!(root = %shared.site().root.path().display(), reason, "the loop of a tree has ended");
                shared
                    .status
                    .send_modify(|status| status.state = TreeState::Halted { reason: reason.clone() });
                BarrierError::Halted { reason }
            }
        };
        // Nobody forgets what is old any more.
        shared.site().forget_all();
        // Waiters that the loop held are dropped with it, and what it watched is let go, before anybody is told.
        if let Some(barrier) = self.barrier.take() {
            barrier.fail(&end);
        }
        drop(self);
        shared.inbox.close(end);
    }

    fn work(&mut self) {
        self.recall();
        self.rewatch();
        loop {
            match self.next() {
                Next::Stop => return,
                Next::Rewatch(what) => self.do_rewatch(what),
                Next::Barrier(waiters) => self.raise_barrier(waiters),
                Next::Look(batch) => self.look(&batch),
                Next::Recheck => self.recheck(),
                Next::CheckAccept => self.check_accept(),
                Next::CheckMounts => self.check_mounts(),
            }
        }
    }

    /// Takes up what earlier runs left: how large the tree was, and whether a person has accepted what it is now.
    fn recall(&mut self) {
        let site = self.shared.site();
        self.recent.note(Instant::now(), self.shared.status.borrow().head.files);
        self.accepted = self.take_accept(&site);
        self.remember_problems(&site);
    }

    /// Waits until there is something to do.
    fn next(&mut self) -> Next {
        let shared = Arc::clone(&self.shared);
        let mut mail = shared.inbox.lock();
        loop {
            let now = Instant::now();
            if mail.stop {
                return Next::Stop;
            }
            let wake_at = match &self.halted {
                Some(halted) => {
                    halted.refuse(mail.waiters.drain(..));
                    if halted.recheck_at <= now {
                        return Next::Recheck;
                    }
                    let until = shared.site().forget_old(now);
                    until.map_or(halted.recheck_at, |until| until.min(halted.recheck_at))
                }
                None => {
                    if let Some(next) = self.next_running(&mut mail, now) {
                        return next;
                    }
                    self.wake_at(&mail, now)
                }
            };
            mail = shared.inbox.wait(mail, wake_at);
        }
    }

    fn next_running(&mut self, mail: &mut MutexGuard<'_, Mail>, now: Instant) -> Option<Next> {
        if let Some(what) = self.rewatch_due(mail, now) {
            return Some(Next::Rewatch(what));
        }
        if self.scanned && self.barrier.is_none() && !mail.waiters.is_empty() {
            return Some(Next::Barrier(std::mem::take(&mut mail.waiters)));
        }
        if self.awaits_accept() && self.accept_check_at <= now {
            return Some(Next::CheckAccept);
        }
        if self.has_mounts && self.mounts_check_at <= now {
            return Some(Next::CheckMounts);
        }
        self.batch(mail, now).map(Next::Look)
    }

    /// What has to be looked at now.
    fn batch(&mut self, mail: &mut Mail, now: Instant) -> Option<Batch> {
        let barrier = self.barrier.as_ref().and_then(|barrier| barrier.due(mail.cookie_seen, now));
        let polls = barrier.is_some() || self.polls.next() <= now;
        let mut set = DirtySet::default();
        let mut vanished = HashSet::new();
        if !self.scanned || self.rescan_at <= now || barrier.is_some_and(|due| due.everything) {
            set.mark_everything();
        }
        if polls {
            self.add_polled(&mut set);
        }
        let events_due = self.events_at(mail).is_some_and(|at| at <= now);
        let root = self.shared.site().root.clone();
        let mut look_at = one_after_the_other(&root);
        let size_of = |path: &TreePath| match look_at(path) {
            Ok(seen) => Some(seen.size),
            // Nobody can tell now, and no event tells when somebody can.
            Err(error) => trouble::may_pass(&error).then_some(0),
        };
        let due = self.later.due(now, barrier.is_some() || events_due, size_of);
        for due in iter::once(due).chain(barrier.map(|_| self.later.changed())) {
            match due {
                Due::Everything => set.mark_everything(),
                Due::Places(paths) => paths.into_iter().for_each(|path| set.mark(path, false)),
            }
        }
        if barrier.is_some() || events_due || set.is_everything() {
            vanished = std::mem::take(&mut mail.vanished);
            self.add_events(mail.take_dirty().take(), barrier.is_some(), now, &mut set);
        }
        if set.is_empty() && barrier.is_none() {
            return None;
        }
        Some(Batch { dirt: set.take(), vanished, polls, barrier: barrier.is_some() })
    }

    fn add_polled(&mut self, set: &mut DirtySet) {
        if self.blind.is_some() {
            return set.mark_everything();
        }
        self.places.polled().into_iter().for_each(|path| set.mark(path, true));
    }

    /// Adds what events named, but for files that rest (a barrier waits for no rest).
    fn add_events(&mut self, dirt: Dirt, at_once: bool, now: Instant, set: &mut DirtySet) {
        let places = match dirt {
            Dirt::Everything => return set.mark_everything(),
            Dirt::Places(places) => places,
        };
        for (path, deep) in places {
            if deep || at_once || set.is_everything() || self.later.admit(&path, now) {
                // A directory that could not be read may be readable now, with all that is below it.
                let deep = deep || self.troubled.contains(&path);
                set.mark(path, deep);
            }
        }
    }

    /// When the events that came are looked at. What left a place may be about to appear in another, and only a look that
    /// sees both knows it for one and the same; so after such an event a little more is waited for.
    fn events_at(&mut self, mail: &Mail) -> Option<Instant> {
        let (first, last) = mail.first.zip(mail.last)?;
        let due = self.pace.due(first, last);
        if mail.vanished.is_empty() {
            return Some(due);
        }
        Some(due.max((last + RENAME_WAIT).min(first + RENAME_WAIT_MOST)))
    }

    fn wake_at(&mut self, mail: &Mail, now: Instant) -> Instant {
        let candidates = [
            self.events_at(mail),
            self.later.next(),
            self.is_polling().then(|| self.polls.next()),
            self.rewatch_at(mail, now),
            self.barrier.as_ref().map(Barrier::deadline),
            self.awaits_accept().then_some(self.accept_check_at),
            self.has_mounts.then_some(self.mounts_check_at),
            self.shared.site().forget_old(now),
        ];
        candidates.into_iter().flatten().fold(self.rescan_at, Instant::min)
    }

    /// Has the places looked at where a file system came or went.
    fn check_mounts(&mut self) {
        self.mounts_check_at = Instant::now() + MOUNTS_EVERY;
        let changed = self.shared.site().looker.changed_mounts();
        for path in &changed {
            tracing::info!(%path, "a file system was mounted or unmounted");
        }
        // What watched it watches something else now.
        self.shared.inbox.put(|mail| changed.into_iter().for_each(|path| mail.mark_vanished(path)));
    }
}

/// Looks at one place after the other; of neighbours the directory is opened once.
fn one_after_the_other(root: &Root) -> impl FnMut(&TreePath) -> io::Result<Stat> {
    let mut opened: Option<(TreePath, Dir)> = None;
    move |path| {
        if let (Some((known, dir)), Some((parent, name))) = (&opened, path.split())
            && *known == parent
        {
            return dir.stat(name);
        }
        let (dir, name) = root.open_parent(path)?;
        let seen = dir.stat(&name);
        opened = path.parent().map(|parent| (parent, dir));
        seen
    }
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Transparent errors repeat themselves.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}
