//! When events cannot be relied on: why, what is said about it, and the way back.
//!
//! Three things can be wrong. *Blind*: there is no watcher, or none to be believed, and everything is polled. *Crowded*: some
//! directories could not be watched and are polled ([`Places`](crate::watch::places::Places) knows them). *Lost*: events were
//! lost, and until everything was looked at again nothing is known. Each ends by itself when its cause does.

use std::time::{Duration, Instant};

use sync_core::Watching;

use super::{
    TreeState, TreeStatus,
    inbox::Mail,
    watching::start_watcher,
    worker::{Worker, chain},
};
use crate::{
    platform::is_network_fs,
    watch::{WatchError, Watcher, limits::Trouble},
};

/// How often a watcher is tried where none could be started; soon at first, because the last one's end may take a moment.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_SLOWEST: Duration = Duration::from_secs(5);

/// Looking at everything because events were lost takes at most a quarter of the time, however often they are: what comes meanwhile
/// is looked at as far as it is heard of. A barrier waits for nothing of this.
const LOST_REST: u32 = 3;

/// It is not put off for longer than this: that look may have taken long for other reasons, such as much that is new.
const LOST_REST_MOST: Duration = Duration::from_secs(30);

/// Why everything is polled.
#[derive(Debug)]
pub(super) struct Blind {
    trouble: Trouble,
    way_back: WayBack,
}

/// What ends it.
#[derive(Debug, Clone, Copy)]
enum WayBack {
    /// Another configuration, or another file system.
    None,
    /// A watcher can be started.
    Start {
        /// When that is tried.
        at: Instant,
        pause: Duration,
    },
    /// The event of a cookie that was given up comes after all: the watcher is slow, not silent.
    Cookie(u64),
}

impl Blind {
    fn for_ever(reason: &str) -> Self {
        Self { trouble: Trouble::only(reason), way_back: WayBack::None }
    }

    /// The watcher did not tell of this cookie.
    pub(super) fn silent(cookie: u64) -> Self {
        let trouble = Trouble::only("the file system does not tell of changes");
        Self { trouble, way_back: WayBack::Cookie(cookie) }
    }

    fn no_watcher(error: &WatchError, pause: Duration) -> Self {
        let trouble = match error {
            WatchError::Instances => Trouble::no_instances(),
            WatchError::Limit => Trouble::no_watches(0),
            error => Trouble::only(format!("no watcher could be started: {}", chain(error))),
        };
        Self { trouble, way_back: WayBack::Start { at: Instant::now() + pause, pause } }
    }

    fn retry_at(&self) -> Option<Instant> {
        match self.way_back {
            WayBack::Start { at, .. } => Some(at),
            WayBack::None | WayBack::Cookie(_) => None,
        }
    }
}

/// Times in which nothing was heard of changes, and after which everything has to be looked at.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// There was one, and everything was not looked at since then.
    now: Option<Trouble>,
    /// How many times.
    times: u64,
    /// The next look at everything for that reason comes no sooner.
    rest_until: Option<Instant>,
}

impl Lost {
    /// A look at everything ended that took this long; `again`: events were lost meanwhile.
    pub(super) fn looked(&mut self, now: Instant, took: Duration, again: bool) {
        if self.now.is_some() {
            self.rest_until = Some(now + (took * LOST_REST).min(LOST_REST_MOST));
        }
        if !again {
            self.now = None;
        }
    }

    /// When everything is looked at, if events are lost now.
    fn due(&self, now: Instant) -> Instant {
        self.rest_until.unwrap_or(now)
    }
}

/// What to do about watching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rewatch {
    /// Say that events were lost.
    TellLost,
    /// Start another watcher, and look at everything.
    Anew,
    /// See whether a watcher can be started.
    Retry,
}

impl Worker {
    /// Whether something is to be done about watching now.
    pub(super) fn rewatch_due(&mut self, mail: &Mail, now: Instant) -> Option<Rewatch> {
        if mail.lost {
            if self.lost.times != mail.losses {
                self.lost.times = mail.losses;
                self.lost.now = Some(Trouble::lost_events());
                return Some(Rewatch::TellLost);
            }
            let urgent = self.barrier.is_some() || !mail.waiters.is_empty();
            if urgent || self.lost.due(now) <= now {
                return Some(Rewatch::Anew);
            }
        }
        match self.blind.as_ref()?.way_back {
            WayBack::Start { at, .. } if at <= now => Some(Rewatch::Retry),
            WayBack::Cookie(number) if mail.cookie_seen >= number => Some(Rewatch::Anew),
            _ => None,
        }
    }

    /// When that is the case next.
    pub(super) fn rewatch_at(&self, mail: &Mail, now: Instant) -> Option<Instant> {
        let lost = mail.lost.then(|| self.lost.due(now));
        lost.into_iter().chain(self.blind.as_ref().and_then(Blind::retry_at)).min()
    }

    pub(super) fn do_rewatch(&mut self, what: Rewatch) {
        match what {
            Rewatch::TellLost => {}
            Rewatch::Anew => self.rewatch(),
            Rewatch::Retry => self.retry(),
        }
        self.publish_state();
    }

    /// Starts a watcher, in place of the present one: after lost events its watches are not to be trusted.
    pub(super) fn rewatch(&mut self) {
        // Where there are few watches, the new one needs those of the old one.
        self.places.restart(self.shared.site().root.path(), None);
        let started = (!self.options.force_poll)
            .then(|| start_watcher(&self.factory, &self.shared, &self.shared.site()));
        self.begin_watching(started, RETRY_FIRST);
    }

    fn retry(&mut self) {
        let pause = match self.blind.as_ref().map(|blind| blind.way_back) {
            Some(WayBack::Start { pause, .. }) => (pause * 2).min(RETRY_SLOWEST),
            _ => RETRY_FIRST,
        };
        match start_watcher(&self.factory, &self.shared, &self.shared.site()) {
            Ok(watcher) => self.begin_watching(Some(Ok(watcher)), pause),
            // It may be another one than before.
            Err(error) => self.blind = Some(Blind::no_watcher(&error, pause)),
        }
    }

    /// Takes a watcher; `None`: nothing is to be watched.
    fn begin_watching(&mut self, started: Option<Result<Box<dyn Watcher>, WatchError>>, pause: Duration) {
        let site = self.shared.site();
        self.cookies_missed = 0;
        let (watcher, blind) = match started {
            None => (None, Some(Blind::for_ever("everything is polled, as configured (poll)"))),
            Some(Err(error)) => (None, Some(Blind::no_watcher(&error, pause))),
            Some(Ok(watcher))
                if is_network_fs(std::os::fd::AsFd::as_fd(&site.root.dir())).unwrap_or(false) =>
            {
                let reason = "the directory is on a network file system, which does not tell of changes made elsewhere";
                (Some(watcher), Some(Blind::for_ever(reason)))
            }
            Some(Ok(watcher)) => (Some(watcher), None),
        };
        self.blind = blind;
        if self.scanned {
            // No directory is watched before the next look at everything has come to it.
            let trouble = || Trouble::only("watching began anew, and everything is being looked at");
            self.lost.now.get_or_insert_with(trouble);
        }
        self.places.restart(site.root.path(), watcher);
        // Nobody tells of the last watcher's cookie any more; all that was before it is part of everything.
        if let Some(cookie) = self.barrier.as_mut().and_then(super::barrier::Barrier::take_cookie) {
            self.remove_cookie(cookie);
        }
        let mut mail = self.shared.inbox.lock();
        self.lost.times = mail.losses;
        mail.begin_anew();
    }

    /// Whether something has to be looked at regularly.
    pub(super) fn is_polling(&self) -> bool {
        self.blind.is_some() || self.places.has_polled()
    }

    fn trouble(&self) -> Option<Trouble> {
        let blind = self.blind.as_ref().map(|blind| blind.trouble.clone());
        blind.or_else(|| self.lost.now.clone()).or_else(|| self.places.trouble())
    }

    /// How the tree stands.
    fn stand(&self) -> (TreeState, Watching) {
        let trouble = self.trouble();
        let coverage = self.places.coverage();
        let every = self.is_polling().then(|| self.polls.every().as_secs());
        let (reason, advice) = trouble.map(|trouble| (trouble.reason, trouble.advice)).unwrap_or_default();
        let watching = Watching {
            // Watches that nothing is heard of are none.
            watched: if self.blind.is_some() { 0 } else { coverage.watched },
            directories: coverage.directories,
            poll_secs: every.unwrap_or(0),
            lost: self.lost.times,
            reason,
            advice,
        };
        let state = if let Some(halted) = &self.halted {
            TreeState::Halted { reason: halted.reason.clone() }
        } else if !self.scanned {
            TreeState::Scanning
        } else if watching.is_degraded() {
            TreeState::Degraded { reason: watching.reason.clone() }
        } else {
            TreeState::Ready
        };
        (state, watching)
    }

    /// Says how the tree stands, and what else is new.
    pub(super) fn publish_with(&self, news: impl FnOnce(&mut TreeStatus)) {
        let (state, watching) = self.stand();
        let mut told = None;
        self.shared.status.send_if_modified(|status| {
            let before = status.clone();
            status.state = state;
            status.watching = watching;
            news(status);
            if before.state != status.state {
                told = Some((before.state.clone(), status.clone()));
            }
            before != *status
        });
        if let Some((before, now)) = told {
            tell(&self.shared.site().root.path().display().to_string(), &before, &now);
        }
    }

    /// Says how the tree stands, where nothing was committed.
    pub(super) fn publish_state(&self) {
        self.publish_with(|_| {});
    }
}

/// Logs that the tree is degraded, or that this is over. (Halts are logged where they begin and end.)
fn tell(root: &str, before: &TreeState, now: &TreeStatus) {
    match (&now.state, before) {
        (TreeState::Degraded { .. }, _) => tracing::warn!(root, "degraded: {}", now.watching),
        (TreeState::Ready, TreeState::Degraded { .. }) => {
            tracing::info!(root, "no longer degraded: {}", now.watching);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_events_take_at_most_a_quarter_of_the_time() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut lost = Lost::default();
        lost.looked(now, second, false);
        assert_eq!(lost.due(now), now, "a look at everything for another reason");
        lost.now = Some(Trouble::lost_events());
        assert_eq!(lost.due(now), now, "the first time at once");
        lost.looked(now, second, true);
        assert_eq!((lost.now.is_some(), lost.due(now)), (true, now + 3 * second));
        lost.looked(now + 4 * second, second, false);
        assert_eq!((lost.now.is_some(), lost.due(now)), (false, now + 7 * second));
        lost.now = Some(Trouble::lost_events());
        lost.looked(now, 3600 * second, false);
        assert_eq!(lost.due(now), now + LOST_REST_MOST);
    }

    #[test]
    fn a_watcher_is_tried_again_if_none_could_be_started() {
        for (error, words) in [
            (WatchError::Instances, "the limit of watchers"),
            (WatchError::Limit, "the limit of watches"),
            (WatchError::Gone, "no watcher could be started: The directory is gone"),
        ] {
            let blind = Blind::no_watcher(&error, RETRY_FIRST);
            assert!(blind.trouble.reason.starts_with(words), "{blind:?}");
            assert!(blind.retry_at().is_some());
        }
        assert!(Blind::silent(3).retry_at().is_none() && Blind::for_ever("x").retry_at().is_none());
    }
}
