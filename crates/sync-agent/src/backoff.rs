//! When to try again. Decisions only: time and chance are arguments.

use std::time::Duration;

/// How pauses grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pauses {
    /// About the first one.
    pub first: Duration,
    /// No pause is longer.
    pub longest: Duration,
}

impl Pauses {
    /// A daemon that restarts is back within a second; one that is gone for hours is asked six times a minute.
    pub(crate) const NETWORK: Self =
        Self { first: Duration::from_millis(200), longest: Duration::from_secs(10) };

    /// Somebody who has just started both wants them to meet soon.
    pub(crate) const FIRST_CONNECTION: Self =
        Self { first: Duration::from_millis(100), longest: Duration::from_secs(1) };

    /// The pause after so many failures in a row (0: after the first). It doubles each time, and between half of it and all
    /// of it is left to chance (`0.0..=1.0`), so that a thousand agents do not come back in the same moment.
    pub(crate) fn after(&self, failures: u32, chance: f64) -> Duration {
        let doubled = self.first.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
        doubled.min(self.longest).mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

/// Failures in a row, since when, and how long that may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failures {
    count: u32,
    /// `None`: for ever.
    patience: Option<Duration>,
}

impl Failures {
    /// None yet.
    pub(crate) fn none(patience: Option<Duration>) -> Self {
        Self { count: 0, patience }
    }

    /// Another failure, this long after the first of the row: the pause before the next attempt, or `None` to give up.
    pub(crate) fn next(&mut self, pauses: &Pauses, since_first: Duration, chance: f64) -> Option<Duration> {
        let pause = pauses.after(self.count, chance);
        self.count = self.count.saturating_add(1);
        let Some(patience) = self.patience else { return Some(pause) };
        // The last pause ends with the patience, so that it is never given up early.
        let left = patience.checked_sub(since_first).filter(|left| !left.is_zero())?;
        Some(pause.min(left))
    }
}

/// A chance for [`Pauses::after`]: enough to keep agents apart, and nothing else depends on it.
pub(crate) fn chance() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSES: Pauses = Pauses { first: Duration::from_millis(200), longest: Duration::from_secs(10) };

    #[test]
    fn pauses_double_up_to_the_longest() {
        let millis = |failures| PAUSES.after(failures, 1.0).as_millis();
        let all: Vec<_> = (0..8).map(millis).collect();
        assert_eq!(all, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(millis(31), 10_000);
        assert_eq!(millis(u32::MAX), 10_000);
    }

    #[test]
    fn chance_takes_away_half_at_most() {
        assert_eq!(PAUSES.after(0, 0.0), Duration::from_millis(100));
        assert_eq!(PAUSES.after(0, 0.5), Duration::from_millis(150));
        assert_eq!(PAUSES.after(9, 0.0), Duration::from_secs(5));
        assert_eq!(PAUSES.after(0, -7.0), Duration::from_millis(100));
        assert_eq!(PAUSES.after(0, f64::INFINITY), Duration::from_millis(200));
        for _ in 0..100 {
            assert!((0.0..=1.0).contains(&chance()));
        }
    }

    #[test]
    fn patience_ends_or_does_not() {
        let mut limited = Failures::none(Some(Duration::from_secs(1)));
        assert!(limited.next(&PAUSES, Duration::ZERO, 1.0).is_some());
        assert!(limited.next(&PAUSES, Duration::from_millis(500), 1.0).is_some());
        let last = limited.next(&PAUSES, Duration::from_millis(990), 1.0);
        assert_eq!(last, Some(Duration::from_millis(10)), "it is never given up early");
        assert_eq!(limited.next(&PAUSES, Duration::from_secs(1), 1.0), None);
        let mut endless = Failures::none(None);
        for _ in 0..1000 {
            assert!(endless.next(&PAUSES, Duration::from_secs(1 << 40), 0.5).is_some());
        }
    }
}
