//! Numbers that the environment gives a test: its seeds, how much it does.

use std::{env, ops::RangeInclusive, str::FromStr};

/// Repeats one seed.
pub const SEED: &str = "SYNCD_SEED";
/// Runs that many, from 1 on.
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
    match (setting(SEED), setting(SEEDS)) {
        (Some(seed), _) => seed..=seed,
        (None, Some(count)) => 1..=count,
        (None, None) => usual,
    }
}
