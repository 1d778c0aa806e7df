//! Whether the line of a connection is what everything waits for.
//!
//! Three things can hold a transfer up: this side, the other side, and the line between them. This side is late when the
//! socket has room and gets nothing. A late other side closes its HTTP/2 window, and then nothing is given to the socket
//! either. Only a line that carries less than it is given fills the socket. So the time for which the socket takes nothing
//! tells the three apart, through tunnels and proxies too, which the kernel's own figures about the peer's window do not.
//!
//! A local socket is full now and then as well, while the other side's processor is busy; then it takes much in little time.
//!
//! What is compressed fills the socket less, and may leave it empty for a while although the line is the same: what was sent
//! before still waits on it, and the other side asks for no more until that has come. So a line that was found slow counts as
//! slow until there is a reason to think otherwise: it carries much more than it did, or even compressed no more comes
//! through than it carried, or it has not been full for long.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// For so long it is watched before there is a verdict, and then again for the next: a few bursts of a busy local peer.
const WINDOW: Duration = Duration::from_millis(100);

/// A line that carries this much is a fast one: compressing would take the processors' time from the work at both ends, which
/// is what limits there. 64 MiB/s are half a gigabit.
const FAST_BYTES_PER_SECOND: u128 = 64 << 20;

/// A window with less than this that did not fill the socket tells nothing about the line: there was too little to send.
const TELLING_BYTES: u64 = 256 << 10;

/// So long without a full socket, and it is asked whether compression still gains: what waits on the line is through by then.
const DOUBTED_AFTER: Duration = Duration::from_secs(1);

/// And so long without one, and it is tried what the line carries now: that costs one window in many.
const PROVED_FOR: Duration = Duration::from_secs(10);

/// What is known about the line of one connection.
#[derive(Debug)]
pub(crate) struct Line(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    /// The verdict of the last window that told anything.
    slow: Option<Slow>,
    began: Instant,
    taken_bytes: u64,
    /// How much more it would have been without compression.
    saved_bytes: u64,
    /// How long the socket took nothing although there was something for it.
    full: Duration,
    full_since: Option<Instant>,
}

/// A line that was the only thing that all waited for.
#[derive(Debug)]
struct Slow {
    /// The most that it carried in a window since it is slow, in bytes a second.
    width: u128,
    /// When it was full last.
    proved: Instant,
    /// What came through since, counted as if it were not compressed.
    came_bytes: u64,
}

impl Slow {
    /// Whether it counts as slow after a window in which it was not full and carried so much.
    fn outlasts(&self, carried: u128, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.proved);
        let gains = since < DOUBTED_AFTER || rate(self.came_bytes, since) > self.width;
        since < PROVED_FOR && carried < 2 * self.width && gains
    }
}

/// In a second.
fn rate(bytes: u64, took: Duration) -> u128 {
    u128::from(bytes) * Duration::from_secs(1).as_nanos() / took.as_nanos().max(1)
}

impl Line {
    /// A line that nothing is known about yet, which counts as a fast one.
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Seen {
            slow: None,
            began: now,
            taken_bytes: 0,
            saved_bytes: 0,
            full: Duration::ZERO,
            full_since: None,
        }))
    }

    /// The socket took something.
    pub(crate) fn took(&self, bytes: usize, now: Instant) {
        let mut seen = self.seen_until(now);
        seen.taken_bytes += bytes as u64;
        if let Some(since) = seen.full_since.take() {
            let since = since.max(seen.began);
            seen.full += now.saturating_duration_since(since);
        }
    }

    /// What is to be sent was made smaller by so much.
    pub(crate) fn saved(&self, bytes: usize, now: Instant) {
        self.seen_until(now).saved_bytes += bytes as u64;
    }

    /// The socket has no room for what there is.
    pub(crate) fn is_full(&self, now: Instant) {
        self.seen_until(now).full_since.get_or_insert(now);
    }

    /// Whether the line, and nothing else, holds things up, and is slow enough for compression to be worth its time.
    pub(crate) fn is_slow(&self, now: Instant) -> bool {
        self.seen_until(now).slow.is_some()
    }

    /// Ends the window if it is over.
    fn seen_until(&self, now: Instant) -> MutexGuard<'_, Seen> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let took = now.saturating_duration_since(seen.began);
        if took >= WINDOW {
            let still = seen.full_since.map(|since| now.saturating_duration_since(since.max(seen.began)));
            let full = seen.full + still.unwrap_or_default();
            seen.judge(full * 2 >= took, took, now);
            (seen.began, seen.taken_bytes, seen.saved_bytes, seen.full) = (now, 0, 0, Duration::ZERO);
        }
        seen
    }
}

impl Seen {
    /// The verdict at the end of a window.
    fn judge(&mut self, mostly_full: bool, took: Duration, now: Instant) {
        let carried = rate(self.taken_bytes, took);
        if mostly_full {
            let width = self.slow.as_ref().map_or(carried, |slow| slow.width.max(carried));
            let slow = Slow { width, proved: now, came_bytes: 0 };
            self.slow = (carried < FAST_BYTES_PER_SECOND).then_some(slow);
            return;
        }
        if let Some(slow) = &mut self.slow {
            slow.came_bytes += self.taken_bytes + self.saved_bytes;
        }
        if self.taken_bytes >= TELLING_BYTES {
            self.slow.take_if(|slow| !slow.outlasts(carried, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// A line that is watched by a clock of its own.
    struct Watched {
        line: Line,
        now: Instant,
    }

    impl Watched {
        fn new() -> Self {
            let now = Instant::now();
            Self { line: Line::new(now), now }
        }

        /// A line of 100 Mbit/s that was found slow, and then so many times: the socket takes that much of what was larger, and
        /// has room.
        fn slow_and_then(times: usize, bytes: usize, saved: usize, every_ms: u64) -> bool {
            let mut watched = Self::new();
            assert!(watched.go(100, 64 << 10, 5, 0));
            assert!(watched.go(20, 20 << 10, 10, 0), "it varies");
            for _ in 0..times {
                watched.line.saved(saved, watched.now);
                watched.go(1, bytes, 0, every_ms);
            }
            watched.line.is_slow(watched.now)
        }

        /// So many times: the socket is full for a time, takes that much, and then gets nothing for a time.
        fn go(&mut self, times: usize, bytes: usize, full_ms: u64, idle_ms: u64) -> bool {
            for _ in 0..times {
                if full_ms > 0 {
                    self.line.is_full(self.now);
                    // It is asked again before there is room.
                    self.line.is_full(self.now + Duration::from_millis(full_ms / 2));
                }
                self.now += Duration::from_millis(full_ms);
                if bytes > 0 {
                    self.line.took(bytes, self.now);
                }
                self.now += Duration::from_millis(idle_ms);
            }
            self.line.is_slow(self.now)
        }
    }

    #[test]
    fn a_full_socket_means_a_slow_line_unless_much_goes_through() {
        for (what, bytes, full_ms, idle_ms, slow) in [
            ("100 Mbit/s", 64 << 10, 5, 0, true),
            ("400 Mbit/s", 500 << 10, 10, 0, true),
            ("1 Gbit/s", 1200 << 10, 10, 0, false),
            ("a local peer that is busy in bursts", 12 * MIB, 20, 80, false),
            ("a daemon that cannot make it fast enough", 64 << 10, 1, 4, false),
            ("a peer that takes it slowly", MIB, 0, 50, false),
            ("a peer that takes nothing", 0, 1000, 0, true),
        ] {
            assert_eq!(Watched::new().go(100, bytes, full_ms, idle_ms), slow, "{what}");
        }
    }

    #[test]
    fn a_verdict_takes_a_moment_and_is_kept_over_silence() {
        let mut watched = Watched::new();
        assert!(!watched.go(9, 64 << 10, 10, 0), "90 ms tell nothing");
        assert!(watched.go(2, 64 << 10, 10, 0));
        assert!(watched.go(100, 100, 0, 1000), "there was nothing to learn from");
        assert!(!watched.go(10, 12 * MIB, 0, 50), "it has become fast");
    }

    #[test]
    fn a_slow_line_that_is_not_full_of_what_is_compressed_stays_slow_while_that_gains() {
        for (what, times, bytes, saved, every_ms, slow) in [
            ("as much as before in fewer bytes", 50, 64 << 10, 300 << 10, 10, true),
            ("as much as it carries", 50, 120 << 10, 300 << 10, 10, true),
            ("less than it carries, and much of it compressed", 50, 40 << 10, 200 << 10, 10, true),
            ("less for a moment: much is still on the line", 50, 40 << 10, 10 << 10, 10, true),
            ("less came through than without compression", 150, 40 << 10, 40 << 10, 10, false),
            ("nothing gets smaller, and the other side is late", 150, 64 << 10, 0, 10, false),
            ("twice as much as it ever carried", 50, 300 << 10, 500 << 10, 10, false),
            ("it was not full for long", 1500, 64 << 10, 300 << 10, 10, false),
        ] {
            assert_eq!(Watched::slow_and_then(times, bytes, saved, every_ms), slow, "{what}");
        }
    }

    #[test]
    fn what_filled_the_socket_before_a_window_does_not_count_in_it() {
        let mut watched = Watched::new();
        assert!(watched.go(1, 1000, 5000, 0));
        assert!(watched.line.is_slow(watched.now));
        assert!(!watched.go(4, 12 * MIB, 10, 90));
    }
}
