//! How costs grow with the tree.

use std::{fs, time::Instant};

use sync_testkit::{
    contest::{
        files::SmallFiles,
        meter::peaks,
        stats::{mib, quantile},
        working_directory,
    },
    programs::peak_rss_bytes,
};

use crate::{
    bed::Bed,
    interrupt, plot,
    settings::{DEADLINE, Settings},
    table::{Check, Line, Table},
};

/// The files are small here: it is their number that counts.
const SIZES: std::ops::RangeInclusive<usize> = 64..=512;
/// A file in memory takes a page and its names and numbers; this is counted for each of share and target.
const BYTES_PER_FILE: u64 = 6 << 10;
/// How often the short works are repeated.
const REPEATS: usize = 5;

/// The costs at one size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    pub(crate) files: usize,
    pub(crate) cold: f64,
    pub(crate) noop: f64,
    /// Of pulls that find one change.
    pub(crate) one_change: f64,
    /// What that takes on top of the pull before it, which finds nothing.
    pub(crate) change: f64,
    /// The first one of them: what later runs search by is made.
    pub(crate) first_change: f64,
    pub(crate) restart: f64,
    pub(crate) agent_mib: f64,
    pub(crate) daemon_mib: f64,
}

/// A table, and a plot if one is wanted.
pub(crate) fn rows(settings: &Settings, table: &mut Table) {
    if !settings.wants("growth") {
        return;
    }
    let points: Vec<Point> = settings.growth.iter().map(|files| measure(*files)).collect();
    for point in &points {
        let s = |seconds: f64| format!("{seconds:.3} s");
        let m = |mib: f64| format!("{mib:.0} MiB");
        let Point { files, cold, noop, one_change, restart, agent_mib, daemon_mib, .. } = *point;
        let times = [s(cold), s(noop), s(one_change)];
        let [cold, noop, one_change] = times;
        table.growth.push([
            files.to_string(),
            cold,
            noop,
            one_change,
            m(agent_mib),
            m(daemon_mib),
            s(restart),
        ]);
    }
    table.lines.extend(million(&points));
    if let Some(path) = &settings.plot {
        fs::write(path, plot::svg(&points)).expect("the plot can be written where it is wanted");
        eprintln!("peers: wrote {}", path.display());
    }
}

fn measure(files: usize) -> Point {
    interrupt::check();
    let dir = working_directory(files as u64 * BYTES_PER_FILE * 2 + (256 << 20));
    eprintln!("peers: making {files} files in {}", dir.path().display());
    let small = SmallFiles::make(&dir.path().join("small"), files, SIZES);
    let mut bed = Bed::serve(dir, &["small"], Some(small));
    let target = bed.dir().join("target");
    let mut agent_peak = 0;
    let mut pull = |bed: &Bed| {
        interrupt::check();
        let agent = bed.agent("small", &target);
        let began = Instant::now();
        let peaks = peaks(None, || agent.start(&["pull"]), DEADLINE);
        agent_peak = agent_peak.max(peaks.client);
        began.elapsed().as_secs_f64()
    };
    let cold = pull(&bed);
    bed.small().rewrite(1);
    let first_change = pull(&bed);
    let (mut noops, mut changes, mut differences) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let noop = pull(&bed);
        bed.small().rewrite(1);
        let change = pull(&bed);
        noops.push(noop);
        changes.push(change);
        differences.push(change - noop);
    }
    let daemon_peak = peak_rss_bytes(bed.daemon.pid());
    assert_eq!(bed.daemon.stop(), Some(0), "the daemon ends in order");
    let began = Instant::now();
    bed.daemon.restart();
    let restart = began.elapsed().as_secs_f64();
    let point = Point {
        files,
        cold,
        noop: quantile(&mut noops, 0.5),
        one_change: quantile(&mut changes, 0.5),
        change: quantile(&mut differences, 0.5),
        first_change,
        restart,
        agent_mib: mib(agent_peak),
        daemon_mib: mib(daemon_peak),
    };
    eprintln!("peers: {point:?}");
    point
}

/// What a million files are held to.
fn million(points: &[Point]) -> Option<Line> {
    let (first, last) = (points.first()?, points.last().filter(|point| point.files >= 1_000_000)?);
    let ms = |seconds: f64| seconds * 1e3;
    Some(Line {
        what: format!("{} files", last.files),
        measured: format!(
            "one change costs {:.0} ms on top of the no-op pull before it, with {} files {:.0} ms; the first one, for which the \
             indexes to search by are made, takes {:.1} s",
            ms(last.change),
            first.files,
            ms(first.change),
            last.first_change
        ),
        checks: vec![
            Check::most("daemon restart", last.restart, (5.0, 20.0), " s"),
            Check::most("no-op pull", last.noop, (2.5, 10.0), " s"),
            Check::most("agent", last.agent_mib, (300.0, 1000.0), " MiB"),
            Check::most("daemon", last.daemon_mib, (300.0, 1000.0), " MiB"),
        ],
    })
}
