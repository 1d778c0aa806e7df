//! The programs beside their peers: `cargo bench --bench peers` runs the real programs of the release build and rsync's
//! daemon on the same trees and prints a table with a goal for each row.
//!
//! Only ratios of programs that ran side by side mean anything on a shared machine, so each round runs both sides one after
//! the other, in alternating order, on the same tree in memory, none of them with fsync; medians are compared. What a row
//! costs in memory and on the wire is taken in one more run that is not timed. A speed counts only if the result is right:
//! after each row the target is compared with the share.
//!
//! `QUICK=1` takes smaller trees and fewer rounds, and fails only if a row is far from what it once was; a full run fails if
//! a goal is missed. `FULL=1` adds a tree of a million files. `PLOT=FILE` writes the growth of costs as SVG. Words after
//! `--` choose rows: `cargo bench --bench peers -- noop verify`.
#![allow(
    clippy::disallowed_methods,
    reason = "the trees are the benchmark's own, and it waits as a user would"
)]

mod bed;
mod deltas;
mod followers;
mod growth;
mod interrupt;
mod live;
mod others;
mod plot;
mod pulls;
mod settings;
mod syncthing;
mod table;
mod text;

use std::{panic, process::ExitCode, time::Instant};

use sync_testkit::contest::rsync;

use settings::Settings;
use table::Table;

fn main() -> ExitCode {
    // `cargo test --all-targets` starts benchmarks too, without this flag; minutes of work are not what it asks for.
    if !std::env::args().any(|arg| arg == "--bench") {
        return ExitCode::SUCCESS;
    }
    let settings = match Settings::from_environment() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    interrupt::listen();
    let began = Instant::now();
    // Unwinding ends the programs and removes the trees.
    let Ok(table) = panic::catch_unwind(|| run(&settings)) else {
        return ExitCode::from(if interrupt::happened() { 130 } else { 1 });
    };
    println!("{}", heading(&settings));
    println!("{table}");
    eprintln!("peers: all this took {:.0} s", began.elapsed().as_secs_f64());
    if table.holds(&settings) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(settings: &Settings) -> Table {
    let mut table = Table::default();
    pulls::small_files(settings, &mut table);
    pulls::one_file(settings, &mut table);
    text::rows(settings, &mut table);
    deltas::rows(settings, &mut table);
    followers::rows(settings, &mut table);
    growth::rows(settings, &mut table);
    table
}

/// What the numbers below are of.
fn heading(settings: &Settings) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let rsync =
        rsync::version().map_or_else(|| "no rsync here".to_owned(), |version| format!("rsync {version}"));
    let size = if settings.quick { "quick run: small trees, few rounds" } else { "full run" };
    format!(
        "syncd {} beside {rsync} (`rsync -a` from its daemon), {size}, {cores} cores, loopback.\n\
         Durability: none on either side (`sync-agent --durability none`; rsync never calls fsync). Trees in memory.\n\
         Median (least–most) of {} interleaved rounds (over a long line {}). CPU: user and system time of client and \
         daemon together. Two numbers in a cell: ours / rsync's.\n",
        env!("CARGO_PKG_VERSION"),
        settings.rounds,
        settings.far_rounds
    )
}
