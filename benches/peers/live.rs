//! A target that follows: how soon one write is there, and how soon thousands are.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use sync_testkit::{
    contest::{
        arrival::latencies_ms,
        files::{SMALL, SmallFiles},
        remove,
        stats::{Spread, mib, quantile},
    },
    programs::peak_rss_bytes,
    tree::{Compare, differences, snapshot},
};

use crate::{
    bed::{Bed, Side, Work},
    interrupt,
    settings::{DEADLINE, Settings},
    table::{Check, Line, Table, seconds},
};

/// The share that grows by bursts while somebody follows it.
pub(crate) const BURST: &str = "burst";
/// A share with the tree of one burst, for the cold pull that a burst is compared with.
pub(crate) const SAME: &str = "same";
/// How often the target of a burst is looked at.
const LOOK_STEP: Duration = Duration::from_millis(10);

/// Makes the shares of these rows, before the daemon starts.
pub(crate) fn make_shares(dir: &Path, settings: &Settings) {
    let _first = SmallFiles::make(&dir.join(BURST).join("before"), 10, SMALL);
    let _same = SmallFiles::make(&dir.join(SAME), settings.burst, SMALL);
}

/// Latency and bursts.
pub(crate) fn rows(settings: &Settings, bed: &mut Bed, table: &mut Table) {
    if settings.wants("latency") {
        table.lines.push(latency(settings, bed));
    }
    if settings.wants("burst") {
        table.lines.push(burst(settings, bed));
    }
}

fn latency(settings: &Settings, bed: &mut Bed) -> Line {
    let target = bed.dir().join("followed");
    let mut follower = bed.agent("small", &target).follow();
    follower.caught_up();
    interrupt::check();
    let mut times = latencies_ms(bed.small(), &target, settings.writes);
    let memory = mib(peak_rss_bytes(follower.process().pid()));
    follower.stop();
    remove(&target);
    let [p50, p90, p99, most] = [0.5, 0.9, 0.99, 1.0].map(|part| quantile(&mut times, part));
    Line {
        what: format!("one small write → visible on a following target, {} writes", settings.writes),
        measured: format!(
            "p50 {p50:.1} ms, p90 {p90:.1}, p99 {p99:.1}, worst {most:.1}; agent peak {memory:.0} MiB"
        ),
        checks: vec![
            Check::most("p50", p50, (15.0, 100.0), " ms"),
            Check::most("p99", p99, (60.0, 500.0), " ms"),
        ],
    }
}

/// From the first file's creation to the last one's arrival, beside cold pulls of the same tree.
fn burst(settings: &Settings, bed: &mut Bed) -> Line {
    let target = bed.dir().join("followed");
    let mut follower = bed.agent(BURST, &target).follow();
    follower.caught_up();
    let cold = Work::cold(SAME, settings.rounds);
    let (mut bursts, mut pulls) = (Vec::new(), Vec::new());
    for round in 0..settings.rounds {
        bursts.push(one_burst(settings, bed, &target, round));
        pulls.push(bed.timed(Side::Ours, &cold).seconds);
    }
    follower.stop();
    let found = differences(&snapshot(&bed.dir().join(BURST)), &snapshot(&target), Compare::default());
    assert!(found.is_empty(), "the bursts did not arrive whole:\n{}", found.join("\n"));
    remove(&target);
    let of = |times: Vec<f64>| Spread::of(times).expect("there is at least one round");
    let (bursts, pulls) = (of(bursts), of(pulls));
    Line {
        what: format!("burst: {} files created while following → all there", settings.burst),
        measured: format!("{}; a cold pull of them {}", seconds(bursts), seconds(pulls)),
        checks: vec![Check::most("", bursts.median / pulls.median, (2.0, 6.0), " × a cold pull")],
    }
}

fn one_burst(settings: &Settings, bed: &Bed, target: &Path, round: usize) -> f64 {
    interrupt::check();
    let name = format!("burst {round}");
    let (share, target) = (bed.dir().join(BURST).join(&name), target.join(&name));
    let began = Instant::now();
    // The target has the contents of earlier bursts, and would copy them.
    let made = SmallFiles::make_another(&share, settings.burst, SMALL, round as u64 + 1);
    assert!(wait_for_all(&made, &target, began), "{name} did not arrive within {DEADLINE:?}");
    began.elapsed().as_secs_f64()
}

/// Waits until a directory has all files of a tree; `false` when it has not by the deadline.
pub(crate) fn wait_for_all(made: &SmallFiles, target: &Path, began: Instant) -> bool {
    let last = made.path(made.count() - 1);
    // A look at everything takes processor time from the programs, so the last file comes first.
    while !(same_size(made.root(), target, &last) && all_there(made, target)) {
        if began.elapsed() > DEADLINE {
            return false;
        }
        interrupt::check();
        thread::sleep(LOOK_STEP);
    }
    true
}

fn all_there(made: &SmallFiles, target: &Path) -> bool {
    (0..made.count()).all(|number| same_size(made.root(), target, &made.path(number)))
}

/// A file under its name is complete; it may still be an older state of it.
fn same_size(share: &Path, target: &Path, path: &Path) -> bool {
    let size = |root: &Path| fs::metadata(root.join(path)).map(|metadata| metadata.len());
    matches!((size(share), size(target)), (Ok(share), Ok(target)) if share == target)
}
