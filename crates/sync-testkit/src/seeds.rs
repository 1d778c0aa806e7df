//! Numbers that the environment gives a test: its seeds, how much it does.

use std::{env, ops::RangeInclusive, str::FromStr};

/// Repeats one seed.
pub const SEED: &str = "SYNCD_SEED";
/// Runs that many, from 1 on; or, as `A-B`, those.
const SEEDS: &str = "SYNCD_SEEDS";

/// A number from the environment.
///
/// # Panics
/// It is none.
#[must_use]
pub fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// The seeds of a test: those that it has, or what the environment asks for.
#[must_use]
pub fn seeds(usual: RangeInclusive<u64>) -> RangeInclusive<u64> {
    if let Some(seed) = setting(SEED) {
        return seed..=seed;
    }
    let Ok(text) = env::var(SEEDS) else { return usual };
    let (first, last) = text.split_once('-').unwrap_or(("1", &text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) => first..=last,
        _ => panic!("{SEEDS}={text} is no number and no range"),
    }
}
