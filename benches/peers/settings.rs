//! How much is measured, and which rows.

use std::{env, path::PathBuf, time::Duration};

/// No single run of a program may take longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(600);

/// The rows, by the words that choose them.
pub(crate) const ROWS: [&str; 18] = [
    "cold",
    "noop",
    "changed",
    "verify",
    "renamed",
    "far-cold",
    "latency",
    "burst",
    "cp",
    "file",
    "far-file",
    "slow-text",
    "delta-rewrite",
    "delta-insert",
    "delta-append",
    "delta-image",
    "followers",
    "growth",
];

/// How much is measured.
pub(crate) struct Settings {
    pub(crate) quick: bool,
    pub(crate) small_files: usize,
    pub(crate) large_bytes: u64,
    /// Of source text over a slow line.
    pub(crate) text_bytes: u64,
    /// Sizes of the large files of which a part changes are divided by this.
    pub(crate) delta_part: u64,
    pub(crate) rounds: usize,
    /// Rounds of what is short, and takes another time each time.
    pub(crate) many_rounds: usize,
    /// Rounds over a long line, which take long.
    pub(crate) far_rounds: usize,
    pub(crate) writes: usize,
    pub(crate) burst: usize,
    pub(crate) followers: usize,
    /// Sizes of trees over which costs grow.
    pub(crate) growth: Vec<usize>,
    pub(crate) plot: Option<PathBuf>,
    rows: Vec<String>,
}

impl Settings {
    /// From `QUICK`, `FULL`, `PLOT` and the arguments.
    pub(crate) fn from_environment() -> Result<Self, String> {
        let rows: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
        if let Some(unknown) = rows.iter().find(|row| !ROWS.contains(&row.as_str())) {
            return Err(format!("no row is called {unknown:?}; there are {}", ROWS.join(", ")));
        }
        let plot = env::var_os("PLOT").filter(|path| !path.is_empty()).map(PathBuf::from);
        let mut settings = if is_set("QUICK") { Self::quick() } else { Self::usual() };
        if is_set("FULL") {
            settings.growth.push(1_000_000);
        }
        Ok(Self { plot, rows, ..settings })
    }

    fn quick() -> Self {
        Self {
            quick: true,
            small_files: 10_000,
            large_bytes: 256 << 20,
            text_bytes: 16 << 20,
            delta_part: 8,
            rounds: 3,
            many_rounds: 3,
            far_rounds: 1,
            writes: 100,
            burst: 2_000,
            followers: 200,
            growth: vec![1_000, 10_000],
            plot: None,
            rows: Vec::new(),
        }
    }

    fn usual() -> Self {
        Self {
            quick: false,
            small_files: 100_000,
            large_bytes: 2 << 30,
            text_bytes: 64 << 20,
            delta_part: 1,
            rounds: 5,
            many_rounds: 11,
            far_rounds: 3,
            writes: 500,
            burst: 10_000,
            followers: 1_000,
            growth: vec![1_000, 10_000, 100_000],
            plot: None,
            rows: Vec::new(),
        }
    }

    /// Whether a row is asked for; without words all are.
    pub(crate) fn wants(&self, row: &str) -> bool {
        debug_assert!(ROWS.contains(&row), "{row} is listed");
        self.rows.is_empty() || self.rows.iter().any(|wanted| wanted == row)
    }

    /// Whether any of these rows is asked for.
    pub(crate) fn want_any(&self, rows: &[&str]) -> bool {
        rows.iter().any(|row| self.wants(row))
    }
}

fn is_set(name: &str) -> bool {
    env::var(name).is_ok_and(|value| !matches!(value.as_str(), "" | "0"))
}
