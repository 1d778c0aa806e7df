//! A target that follows: how soon one write is there, and how soon thousands are.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use sync_testkit::{
    contest::{
        arrival::latencies_ms,
        files::{Prepared, SMALL, SmallFiles},
        remove,
        stats::{Spread, mib, quantile},
    },
    programs::{cpu_time, peak_rss_bytes},
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
/// A daemon that did nothing for so long has nothing to do.
const STILL: Duration = Duration::from_millis(1500);
/// How often the target of a burst is looked at.
const LOOK_STEP: Duration = Duration::from_millis(10);
/// All is looked at once one of every so many files is there: one of each directory.
const SAMPLE_STEP: usize = 100;

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
    let cold = Work::cold(SAME, settings.many_rounds);
    let (mut bursts, mut pulls) = (Vec::new(), Vec::new());
    settle_down(bed.daemon.pid());
    for round in 0..settings.many_rounds {
        bursts.push(one_burst(settings, bed, &target, round));
        settle_down(bed.daemon.pid());
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

/// Waits until the daemon has nothing more to do about what came: it reads it once more, a second later. That is neither the next
/// pull's nor the next burst's.
fn settle_down(daemon: u32) {
    let began = Instant::now();
    let (mut spent, mut since) = (cpu_time(daemon), began);
    while since.elapsed() < STILL {
        assert!(began.elapsed() < DEADLINE, "the daemon never has nothing to do");
        interrupt::check();
        thread::sleep(LOOK_STEP);
        let now = cpu_time(daemon);
        if now > spent {
            (spent, since) = (now, Instant::now());
        }
    }
}

fn one_burst(settings: &Settings, bed: &Bed, target: &Path, round: usize) -> f64 {
    interrupt::check();
    let name = format!("burst {round}");
    let (share, target) = (bed.dir().join(BURST).join(&name), target.join(&name));
    // The target has the contents of earlier bursts, and would copy them.
    let prepared = Prepared::new(&share, settings.burst, SMALL, round as u64 + 1);
    let began = SystemTime::now();
    let made = prepared.make();
    let took = time_of_all(&made, &target, began);
    took.unwrap_or_else(|| panic!("{name} did not arrive within {DEADLINE:?}"))
}

/// Waits until a directory has all files of a tree. Answers the seconds until it had them; `None` if it has not by the deadline.
pub(crate) fn time_of_all(made: &SmallFiles, target: &Path, began: SystemTime) -> Option<f64> {
    let mut awaited: Vec<PathBuf> = (0..made.count())
        .step_by(SAMPLE_STEP)
        .chain([made.count() - 1])
        .map(|number| made.path(number))
        .collect();
    let set_back = "nobody sets the clock back";
    loop {
        // A look at everything takes processor time from the programs, so first some files all over the tree have to be there.
        while awaited.pop_if(|path| same_size(made.root(), target, path).is_some()).is_some() {}
        if awaited.is_empty()
            && let Some(since) = all_there_since(made, target)
        {
            // The clock of file times ticks every few milliseconds.
            return Some(since.duration_since(began).expect(set_back).as_secs_f64());
        }
        if began.elapsed().expect(set_back) > DEADLINE {
            return None;
        }
        interrupt::check();
        thread::sleep(LOOK_STEP);
    }
}

/// Since when a directory has all files of a tree: the last change of one of them, or of a directory that they are in, as it may have
/// come with them. That may be a directory's time, which is set later. The look at so many takes a while, which is not the programs'.
fn all_there_since(made: &SmallFiles, target: &Path) -> Option<SystemTime> {
    let mut since = changed(&fs::metadata(target).ok()?);
    let mut parent = PathBuf::new();
    for path in (0..made.count()).map(|number| made.path(number)) {
        since = since.max(same_size(made.root(), target, &path)?);
        let above = path.parent().expect("a file is in a directory");
        if above != parent {
            parent = above.to_owned();
            for dir in above.ancestors() {
                since = since.max(changed(&fs::metadata(target.join(dir)).ok()?));
            }
        }
    }
    Some(since)
}

/// A file under its name is complete; it may still be an older state of it. Answers when it was put there, if it has the size.
fn same_size(share: &Path, target: &Path, path: &Path) -> Option<SystemTime> {
    let of = |root: &Path| fs::metadata(root.join(path)).ok();
    let (share, target) = of(share).zip(of(target))?;
    (share.len() == target.len()).then(|| changed(&target))
}

fn changed(metadata: &Metadata) -> SystemTime {
    let (secs, nanos) = (metadata.ctime().unsigned_abs(), metadata.ctime_nsec().unsigned_abs());
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs) + Duration::from_nanos(nanos)
}
