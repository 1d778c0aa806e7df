//! The result, as Markdown, so that it can stand in a document as it is.

use std::fmt::{self, Display, Formatter};

use sync_testkit::contest::stats::{Spread, mib};

use crate::settings::Settings;

/// A number that a row is held to.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    /// What it is; empty for the ratio of times.
    pub(crate) what: &'static str,
    pub(crate) value: f64,
    pub(crate) goal: f64,
    /// What no run may exceed: it would be far worse than it once was.
    pub(crate) floor: f64,
    pub(crate) unit: &'static str,
    pub(crate) sense: Sense,
}

/// Which side of its goal a number has to be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sense {
    AtMost,
    AtLeast,
}

impl Check {
    /// A number that must not be larger.
    pub(crate) fn most(
        what: &'static str,
        value: f64,
        (goal, floor): (f64, f64),
        unit: &'static str,
    ) -> Self {
        Self { what, value, goal, floor, unit, sense: Sense::AtMost }
    }

    /// A number that must not be smaller.
    pub(crate) fn least(
        what: &'static str,
        value: f64,
        (goal, floor): (f64, f64),
        unit: &'static str,
    ) -> Self {
        Self { what, value, goal, floor, unit, sense: Sense::AtLeast }
    }

    fn within(&self, limit: f64) -> bool {
        match self.sense {
            Sense::AtMost => self.value <= limit,
            Sense::AtLeast => self.value >= limit,
        }
    }

    fn goal(&self) -> String {
        let sign = if self.sense == Sense::AtMost { "≤" } else { "≥" };
        format!("{}{sign} {}{}", spaced(self.what), self.goal, self.unit)
    }

    fn verdict(&self) -> String {
        let Self { what, value, unit, .. } = self;
        if self.within(self.goal) {
            return format!("{}{value:.2}{unit}", spaced(what));
        }
        let grossly = if self.within(self.floor) { "" } else { ", by far" };
        format!("**{}{value:.2}{unit}: missed{grossly}**", spaced(what))
    }
}

fn spaced(word: &str) -> String {
    if word.is_empty() { String::new() } else { format!("{word} ") }
}

/// What one side of a contest cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) seconds: Spread,
    pub(crate) cpu_seconds: Spread,
    /// Peak memory of client and daemon, and bytes on the wire; where taken.
    pub(crate) memory_and_wire: Option<(u64, u64, u64)>,
}

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    cells: [String; 7],
    checks: Vec<Check>,
}

impl Row {
    /// Both sides at the same work; `theirs` is `None` without the peer.
    pub(crate) fn contest(what: String, ours: &Cost, theirs: Option<&Cost>, checks: Vec<Check>) -> Self {
        let both = |show: &dyn Fn(&Cost) -> String| match theirs {
            Some(theirs) => format!("{} / {}", show(ours), show(theirs)),
            None => show(ours),
        };
        let taken = |show: &dyn Fn((u64, u64, u64)) -> u64| {
            let taken = |cost: &Cost| cost.memory_and_wire.map_or("–".into(), |cost| short_mib(show(cost)));
            ours.memory_and_wire.map_or_else(String::new, |_| both(&taken))
        };
        let cells = [
            what,
            seconds(ours.seconds),
            theirs.map_or_else(|| "not here".into(), |theirs| seconds(theirs.seconds)),
            both(&|cost| format!("{:.2}", cost.cpu_seconds.median)),
            taken(&|(client, _, _)| client),
            taken(&|(_, daemon, _)| daemon),
            taken(&|(_, _, wire)| wire),
        ];
        Self { cells, checks }
    }

    /// For the progress of a run.
    pub(crate) fn short(&self) -> String {
        format!("{}: {}, {}; {}", self.cells[0], self.cells[1], self.cells[2], self.result())
    }

    fn result(&self) -> String {
        self.checks.iter().map(Check::verdict).collect::<Vec<_>>().join(", ")
    }

    fn goal(&self) -> String {
        self.checks.iter().map(Check::goal).collect::<Vec<_>>().join(", ")
    }
}

/// A median with its spread.
pub(crate) fn seconds(spread: Spread) -> String {
    let Spread { median, least, most } = spread;
    if least < most { format!("{median:.3} s ({least:.3}–{most:.3})") } else { format!("{median:.3} s") }
}

fn short_mib(bytes: u64) -> String {
    let mib = mib(bytes);
    match mib {
        ..0.1 => format!("{mib:.4}"),
        ..10.0 => format!("{mib:.2}"),
        _ => format!("{mib:.0}"),
    }
}

/// Something measured without a peer.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) what: String,
    pub(crate) measured: String,
    pub(crate) checks: Vec<Check>,
}

/// All that was measured.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) contests: Vec<Row>,
    pub(crate) lines: Vec<Line>,
    /// The growth of costs, as a table of its own.
    pub(crate) growth: Vec<[String; 7]>,
    /// What another tool takes: tool and work, its time, ours as a multiple.
    pub(crate) others: Vec<[String; 3]>,
}

impl Table {
    /// Whether the run is a success: for a quick one, nothing is grossly worse than it was.
    pub(crate) fn holds(&self, settings: &Settings) -> bool {
        let contests = self.contests.iter().flat_map(|row| &row.checks);
        let mut checks = contests.chain(self.lines.iter().flat_map(|line| &line.checks));
        checks.all(|check| check.within(if settings.quick { check.floor } else { check.goal }))
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.contests.is_empty() {
            writeln!(
                f,
                "| work | ours | rsync | ratio | goal | CPU s | client peak MiB | daemon peak MiB | wire MiB |"
            )?;
            writeln!(f, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
        }
        for row in &self.contests {
            let [what, ours, theirs, cpu, client, daemon, wire] = &row.cells;
            let (result, goal) = (row.result(), row.goal());
            writeln!(
                f,
                "| {what} | {ours} | {theirs} | {result} | {goal} | {cpu} | {client} | {daemon} | {wire} |"
            )?;
        }
        plain(f, ["other tool, cold copy", "it takes", "ours takes"], &self.others)?;
        let lines: Vec<[String; 4]> = self.lines.iter().map(Line::cells).collect();
        plain(f, ["latency and scale", "measured", "result", "goal"], &lines)?;
        let heads =
            ["files", "cold pull", "no-op pull", "one change", "agent peak", "daemon peak", "daemon restart"];
        plain(f, heads, &self.growth)
    }
}

impl Line {
    fn cells(&self) -> [String; 4] {
        let joined = |show: fn(&Check) -> String| self.checks.iter().map(show).collect::<Vec<_>>().join(", ");
        [self.what.clone(), self.measured.clone(), joined(Check::verdict), joined(Check::goal)]
    }
}

/// A table of texts, if there are any.
fn plain<const N: usize>(f: &mut Formatter<'_>, heads: [&str; N], rows: &[[String; N]]) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n| {} |", heads.join(" | "))?;
    writeln!(f, "|{}", " --- |".repeat(N))?;
    rows.iter().try_for_each(|row| writeln!(f, "| {} |", row.join(" | ")))
}
