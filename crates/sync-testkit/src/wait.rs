//! Waiting for something that another process does.

use std::{
    thread,
    time::{Duration, Instant},
};

/// The first pause between two attempts; a fast machine is not kept waiting.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// The longest pause; a slow condition does not eat the processor that it waits for.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Repeats `attempt` until it succeeds, and panics with its last error when `deadline` has passed.
pub fn eventually<T>(deadline: Duration, attempt: impl FnMut() -> Result<T, String>) -> T {
    match try_eventually(deadline, attempt) {
        Ok(value) => value,
        Err(error) => panic!("after {deadline:?} still: {error}"),
    }
}

/// Like [`eventually`], for a caller that wants to add something to the message.
///
/// # Errors
/// Returns the last error of `attempt` when `deadline` has passed. There is always at least one attempt.
pub fn try_eventually<T>(
    deadline: Duration,
    mut attempt: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let end = Instant::now() + deadline;
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match attempt() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(error);
        }
        thread::sleep(pause.min(left));
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Lets a moment pass: the pace of a load, or the random moment of a crash. Never a wait for something, which is
/// [`eventually`].
pub fn moment(length: Duration) {
    thread::sleep(length);
}

/// Calls `act` that often, at that pace, with the number of the call. What `act` takes counts.
pub fn paced(times: usize, every: Duration, mut act: impl FnMut(usize)) {
    let start = Instant::now();
    for number in 0..times {
        act(number);
        let next = every * (number as u32 + 1);
        moment(next.saturating_sub(start.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_at_the_first_success() {
        let mut attempts = 0;
        let got = eventually(Duration::from_secs(5), || {
            attempts += 1;
            if attempts == 3 { Ok(attempts) } else { Err("not yet".into()) }
        });
        assert_eq!(got, 3);
    }

    #[test]
    fn a_pace_is_kept() {
        let (start, mut calls) = (Instant::now(), Vec::new());
        paced(5, Duration::from_millis(4), |number| calls.push(number));
        assert_eq!(calls, [0, 1, 2, 3, 4]);
        assert!(start.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn the_last_error_is_told() {
        let mut attempts = 0;
        let error = try_eventually(Duration::from_millis(20), || {
            attempts += 1;
            Err::<(), _>(format!("attempt {attempts}"))
        });
        assert_eq!(error, Err(format!("attempt {attempts}")));
        assert!(attempts > 1);
    }
}
