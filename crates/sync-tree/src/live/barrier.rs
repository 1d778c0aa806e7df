//! Barriers: proof that everything written before a moment is in the index.
//!
//! A cookie is a file made in a watched directory of the state. The system reports events in the order in which things
//! happened, so when the cookie's event comes, the events of everything before it have come too; what they name is then
//! looked at, and the barrier is passed. All who ask before a cookie is made share it. Where events cannot be relied on,
//! and when a cookie's event does not come in time, everything is looked at instead.

use std::time::{Duration, Instant};

use super::{BarrierError, degraded::Blind, inbox::Waiter, worker::Worker};

/// How long a cookie's event may take.
const COOKIE_PATIENCE: Duration = Duration::from_secs(2);

/// After this many cookies without an event the watcher is not believed any more.
const MOST_MISSED: u32 = 2;

/// Somebody waits.
pub(super) struct Barrier {
    waiters: Vec<Waiter>,
    /// `None`: events are not to be relied on, everything has to be looked at.
    cookie: Option<Cookie>,
    raised: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Cookie {
    number: u64,
    deadline: Instant,
}

/// A barrier can be passed by a look that begins now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BarrierDue {
    /// It must be a look at everything.
    pub(super) everything: bool,
}

impl Barrier {
    /// Whether it can be passed, and how.
    pub(super) fn due(&self, cookie_seen: u64, now: Instant) -> Option<BarrierDue> {
        match self.cookie {
            None => Some(BarrierDue { everything: true }),
            Some(cookie) if cookie_seen >= cookie.number => Some(BarrierDue { everything: false }),
            Some(cookie) if cookie.deadline <= now => Some(BarrierDue { everything: true }),
            Some(_) => None,
        }
    }

    /// Gives up its cookie: everything has to be looked at. Answers the cookie's number.
    pub(super) fn take_cookie(&mut self) -> Option<u64> {
        self.cookie.take().map(|cookie| cookie.number)
    }

    /// When it is due at the latest.
    pub(super) fn deadline(&self) -> Instant {
        self.cookie.map_or(self.raised, |cookie| cookie.deadline)
    }

    /// It cannot be passed.
    pub(super) fn fail(self, error: &BarrierError) {
        for waiter in self.waiters {
            // Whoever does not wait any more does not mind.
            let _ = waiter.send(Err(error.clone()));
        }
    }
}

impl Worker {
    /// Begins a barrier for all who wait now.
    pub(super) fn raise_barrier(&mut self, waiters: Vec<Waiter>) {
        let now = Instant::now();
        let cookie = if self.blind.is_none() { self.make_cookie(now) } else { None };
        self.barrier = Some(Barrier { waiters, cookie, raised: now });
    }

    fn make_cookie(&mut self, now: Instant) -> Option<Cookie> {
        self.cookies_made += 1;
        let number = self.cookies_made;
        match self.shared.site().cookies.create_new(&number.to_string(), 0o600) {
            Ok(_) => Some(Cookie { number, deadline: now + COOKIE_PATIENCE }),
            Err(error) => {
                tracing::warn!(%error, "a cookie cannot be made: everything is looked at instead");
                None
            }
        }
    }

    /// The look that was due for the barrier is committed.
    pub(super) fn pass_barrier(&mut self) {
        let Some(barrier) = self.barrier.take() else { return };
        if let Some(cookie) = barrier.cookie {
            self.judge(cookie);
        }
        for waiter in barrier.waiters {
            // Whoever does not wait any more does not mind.
            let _ = waiter.send(Ok(()));
        }
    }

    /// The barrier cannot be passed.
    pub(super) fn fail_barrier(&mut self, error: &BarrierError) {
        let Some(barrier) = self.barrier.take() else { return };
        if let Some(cookie) = barrier.cookie {
            self.remove_cookie(cookie.number);
        }
        barrier.fail(error);
    }

    /// Removes a cookie, and notices a watcher that tells nothing.
    fn judge(&mut self, cookie: Cookie) {
        self.remove_cookie(cookie.number);
        if self.shared.inbox.lock().cookie_seen >= cookie.number {
            self.cookies_missed = 0;
            return;
        }
        self.cookies_missed += 1;
        if self.cookies_missed >= MOST_MISSED {
            self.blind = Some(Blind::silent(cookie.number));
            self.publish_state();
        }
    }

    pub(super) fn remove_cookie(&self, number: u64) {
        if let Err(error) = self.shared.site().cookies.remove_file(&number.to_string()) {
            tracing::debug!(%error, "a cookie could not be removed; the next start does it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_is_due_when_its_cookie_was_seen_or_is_late() {
        let now = Instant::now();
        let later = now + COOKIE_PATIENCE;
        let with = |cookie| Barrier { waiters: Vec::new(), cookie, raised: now };
        let third = with(Some(Cookie { number: 3, deadline: later }));
        for (barrier, seen, at, want) in [
            (&third, 2, now, None),
            (&third, 3, now, Some(false)),
            (&third, 9, later, Some(false)),
            (&third, 2, later, Some(true)),
            (&with(None), 9, now, Some(true)),
        ] {
            assert_eq!(barrier.due(seen, at).map(|due| due.everything), want, "{seen}");
        }
        let mut given_up = third;
        assert_eq!(given_up.take_cookie(), Some(3));
        assert_eq!(given_up.due(2, now), Some(BarrierDue { everything: true }));
    }
}
