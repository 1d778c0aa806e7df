//! Whether the line of a connection is what everything waits for.
//!
//! Three things can hold a transfer up: this side, the other side, and the line between them. This side is late when the
//! socket has room and gets nothing. A late other side closes its HTTP/2 window, and then nothing is given to the socket
//! either. Only a line that carries less than it is given fills the socket. So the time for which the socket takes nothing
//! tells the three apart, through tunnels and proxies too, which the kernel's own figures about the peer's window do not.
//!
//! A local socket is full now and then as well, while the other side's processor is busy; then it takes much in little time.

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

/// What is known about the line of one connection.
#[derive(Debug)]
pub(crate) struct Line(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    /// The verdict of the last window that told anything.
    slow: bool,
    began: Instant,
    taken_bytes: u64,
    /// How long the socket took nothing although there was something for it.
    full: Duration,
    full_since: Option<Instant>,
}

impl Line {
    /// A line that nothing is known about yet, which counts as a fast one.
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Seen {
            slow: false,
            began: now,
            taken_bytes: 0,
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

    /// The socket has no room for what there is.
    pub(crate) fn is_full(&self, now: Instant) {
        self.seen_until(now).full_since.get_or_insert(now);
    }

    /// Whether the line, and nothing else, holds things up, and is slow enough for compression to be worth its time.
    pub(crate) fn is_slow(&self, now: Instant) -> bool {
        self.seen_until(now).slow
    }

    /// Ends the window if it is over.
    fn seen_until(&self, now: Instant) -> MutexGuard<'_, Seen> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let took = now.saturating_duration_since(seen.began);
        if took >= WINDOW {
            let still = seen.full_since.map(|since| now.saturating_duration_since(since.max(seen.began)));
            let full = seen.full + still.unwrap_or_default();
            let mostly_full = full * 2 >= took;
            if mostly_full || seen.taken_bytes >= TELLING_BYTES {
                let carried = u128::from(seen.taken_bytes) * Duration::from_secs(1).as_nanos();
                seen.slow = mostly_full && carried < FAST_BYTES_PER_SECOND * took.as_nanos();
            }
            (seen.began, seen.taken_bytes, seen.full) = (now, 0, Duration::ZERO);
        }
        seen
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
    fn what_filled_the_socket_before_a_window_does_not_count_in_it() {
        let mut watched = Watched::new();
        assert!(watched.go(1, 1000, 5000, 0));
        assert!(watched.line.is_slow(watched.now));
        assert!(!watched.go(4, 12 * MIB, 10, 90));
    }
}
