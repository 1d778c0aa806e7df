//! Notices that nothing comes any more.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::error::LocationError;

/// How long a stream that nobody read for longer than the idle timeout gets to show what it has: the rest of a message may
/// have to come first.
const GRACE: Duration = Duration::from_secs(2);

/// Times the silence of one stream. The time runs on when a wait is dropped and begun again, so that a caller's `select!`
/// does not keep a dead stream alive.
#[derive(Debug)]
pub(super) struct Watchdog {
    idle: Duration,
    due: Option<Instant>,
    graced: bool,
}

impl Watchdog {
    pub(super) fn new(idle: Duration) -> Self {
        Self { idle, due: None, graced: false }
    }

    /// Waits for a message, unless one is owed for too long. `owed_since` says since when; `None`: nothing is owed.
    pub(super) async fn watch<T>(
        &mut self,
        message: impl Future<Output = T>,
        owed_since: impl Fn() -> Option<Instant>,
    ) -> Result<T, LocationError> {
        let mut message = pin!(message);
        let began = Instant::now();
        let mut due = self.due.unwrap_or(began + self.idle);
        if due <= began && !self.graced {
            self.graced = true;
            due = began + GRACE.min(self.idle);
        }
        loop {
            self.due = Some(due);
            tokio::select! {
                biased;
                message = &mut message => {
                    (self.due, self.graced) = (None, false);
                    return Ok(message);
                }
                () = sleep_until(due) => {}
            }
            let now = Instant::now();
            due = owed_since().unwrap_or(now) + self.idle;
            if due <= now {
                return Err(LocationError::Silent { after: self.idle });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const IDLE: Duration = Duration::from_millis(40);

    #[tokio::test]
    async fn silence_ends_it_and_a_message_does_not() {
        let mut dog = Watchdog::new(IDLE);
        let owed = Instant::now();
        assert_eq!(dog.watch(async { 7 }, || Some(owed)).await.unwrap(), 7);
        let end = dog.watch(pending::<()>(), || Some(owed)).await;
        assert!(matches!(end, Err(LocationError::Silent { after: IDLE })));
        assert!(owed.elapsed() >= IDLE);
    }

    #[tokio::test]
    async fn a_wait_that_is_dropped_and_begun_again_does_not_start_the_time_anew() {
        let mut dog = Watchdog::new(IDLE);
        let owed = Instant::now();
        let mut rounds = 0;
        loop {
            rounds += 1;
            tokio::select! {
                end = dog.watch(pending::<()>(), || Some(owed)) => {
                    assert!(end.is_err());
                    break;
                }
                () = tokio::time::sleep(IDLE / 8) => {}
            }
            assert!(rounds < 1000, "it never ends");
        }
    }

    #[tokio::test]
    async fn nothing_owed_is_no_silence() {
        let mut dog = Watchdog::new(IDLE);
        let waited = tokio::time::timeout(IDLE * 4, dog.watch(pending::<()>(), || None)).await;
        assert!(waited.is_err());
    }
}
