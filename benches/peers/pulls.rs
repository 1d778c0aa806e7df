//! rsync's own work: pulls of small files and of a large one, near and far.

use std::time::Duration;

use sync_testkit::{
    Link,
    contest::{
        files::{SMALL, SmallFiles},
        large::LargeFile,
        line_carries,
        stats::mib,
        working_directory,
    },
};

use crate::{
    bed::{Bed, Contest, Target, Work},
    interrupt, live, others,
    settings::Settings,
    table::{Check, Cost, Line, Row, Table},
};

const GIGABIT: u64 = 1_000_000_000;
/// Round trips of the long lines.
const FAR_MS: [u64; 2] = [20, 100];
/// Bytes on the wire for a renamed directory, in MiB.
const RENAMED_WIRE_MIB: f64 = 8.0;

/// What a contest is held to: goal and floor of our share of rsync's time, and the goal for its processor time.
pub(crate) struct Goals {
    wall: (f64, f64),
    cpu: Option<f64>,
}

impl Goals {
    pub(crate) fn wall(goal: f64, floor: f64) -> Self {
        Self { wall: (goal, floor), cpu: None }
    }

    pub(crate) fn checks(&self, contest: &Contest) -> Vec<Check> {
        let wall = contest.ratio(|cost| cost.seconds.median);
        let cpu = contest.ratio(|cost| cost.cpu_seconds.median).zip(self.cpu);
        let wall = wall.map(|ratio| Check::most("", ratio, self.wall, ""));
        // A machine that does something else shows in time, not in this, so twice the goal is gross.
        wall.into_iter()
            .chain(cpu.map(|(ratio, goal)| Check::most("CPU", ratio, (goal, 2.0 * goal), "")))
            .collect()
    }
}

/// A row of the table, said at once.
pub(crate) fn row(what: String, contest: &Contest, checks: Vec<Check>) -> Row {
    let row = Row::contest(what, &contest.ours, contest.rsync.as_ref(), checks);
    eprintln!("peers: {}", row.short());
    row
}

/// The rows about the tree of small files.
pub(crate) fn small_files(settings: &Settings, table: &mut Table) {
    let rows = ["cold", "noop", "changed", "verify", "renamed", "far-cold", "latency", "burst", "cp"];
    if !settings.want_any(&rows) {
        return;
    }
    let files = settings.small_files;
    // The share, three targets and the bursts; the last block of a file is half full, a file is half as large as the largest.
    let dir = working_directory(((files * 4 + settings.burst * 8) * SMALL.end()) as u64);
    eprintln!("peers: making {files} small files in {}", dir.path().display());
    let small = SmallFiles::make(&dir.path().join("small"), files, SMALL);
    live::make_shares(dir.path(), settings);
    let mut bed = Bed::serve(dir, &["small", live::BURST, live::SAME], Some(small));

    near_small_files(settings, &mut bed, table);
    if settings.wants("far-cold") {
        let work = Work::cold("small", settings.far_rounds);
        far(&mut bed, &work, &format!("cold pull, {files} small files"), table);
    }
    if settings.wants("cp") {
        others::small_files(settings, &mut bed, table);
    }
    live::rows(settings, &mut bed, table);
}

fn near_small_files(settings: &Settings, bed: &mut Bed, table: &mut Table) {
    let files = settings.small_files;
    let kept = Work { target: Target::Kept, ..Work::cold("small", settings.rounds) };
    if settings.wants("cold") {
        let fills = (files * SMALL.end()) as u64;
        let contest = bed.contest(&Work { fills, ..Work::cold("small", settings.rounds) });
        let goals = Goals { cpu: Some(1.0), ..Goals::wall(0.55, 2.0) };
        let what = format!("cold pull, {files} files of 0.25–8 KiB");
        table.contests.push(row(what, &contest, goals.checks(&contest)));
    }
    if settings.wants("noop") {
        let contest = bed.contest(&kept);
        let what = format!("nothing changed, {files} files, a new process each time");
        table.contests.push(row(what, &contest, Goals::wall(0.30, 1.0).checks(&contest)));
    }
    if settings.wants("changed") {
        let change = |bed: &mut Bed| {
            let files = bed.small().count() / 100;
            bed.small().rewrite(files);
        };
        let rounds = settings.many_rounds;
        let contest = bed.contest(&Work { change: Some(change), rounds, ..kept });
        let what = format!("{} of {files} files changed", files / 100);
        table.contests.push(row(what, &contest, Goals::wall(0.35, 1.2).checks(&contest)));
    }
    if settings.wants("verify") {
        let contest = bed.contest(&Work { ours: &["verify"], rsync: &["-nc"], ..kept });
        let what = "everything read and compared: `verify`, `rsync -anc`".to_owned();
        table.contests.push(row(what, &contest, Goals::wall(0.60, 1.5).checks(&contest)));
    }
    if settings.wants("renamed") {
        let change = |bed: &mut Bed| bed.small().rename_half();
        let contest = bed.contest(&Work { rsync: &["--delete"], change: Some(change), ..kept });
        let mut checks = Goals::wall(0.15, 0.8).checks(&contest);
        if let Some((_, _, wire)) = contest.ours.memory_and_wire {
            checks.push(Check::most("wire", mib(wire), (RENAMED_WIRE_MIB, 2.0 * RENAMED_WIRE_MIB), " MiB"));
        }
        let what = format!("a directory of {} files renamed, `rsync -a --delete`", files / 2);
        table.contests.push(row(what, &contest, checks));
    }
}

/// The rows about one large file.
pub(crate) fn one_file(settings: &Settings, table: &mut Table) {
    if !settings.want_any(&["file", "far-file", "cp"]) {
        return;
    }
    let bytes = settings.large_bytes;
    let dir = working_directory(bytes * 5 / 2);
    eprintln!("peers: making a file of {:.0} MiB in {}", mib(bytes), dir.path().display());
    let _file = LargeFile::make(&dir.path().join("large"), bytes);
    let mut bed = Bed::serve(dir, &["large"], None);
    let work = Work { fills: bytes, ..Work::cold("large", settings.rounds) };
    if settings.wants("file") {
        let contest = bed.contest(&work);
        let goals = Goals { cpu: Some(1.2), ..Goals::wall(0.85, 1.8) };
        let what = format!("cold pull, one file of {:.0} MiB", mib(bytes));
        table.contests.push(row(what, &contest, goals.checks(&contest)));
    }
    if settings.wants("far-file") {
        let work = Work { rounds: settings.far_rounds, ..work };
        far(&mut bed, &work, &format!("cold pull, one file of {:.0} MiB", mib(bytes)), table);
    }
    if settings.wants("cp") {
        others::one_file(settings, &mut bed, table);
    }
}

/// The same pull over long lines of 1 Gbit/s.
fn far(bed: &mut Bed, work: &Work<'_>, what: &str, table: &mut Table) {
    let one_file = bed.small.is_none();
    for far_ms in FAR_MS {
        interrupt::check();
        let link = Link::new(Duration::from_millis(far_ms), GIGABIT);
        let contest = bed.contest(&Work { line: Some(link), ..*work });
        let goals = if one_file { Goals::wall(0.8, 2.5) } else { Goals::wall(0.60, 2.0) };
        let what = format!("{what}, {far_ms} ms, 1 Gbit/s");
        table.contests.push(row(what, &contest, goals.checks(&contest)));
        if one_file && far_ms == FAR_MS[1] {
            table.lines.push(rate(bed, &contest.ours, link));
        }
    }
}

/// How much of the line one file fills, from the start of the process to its end.
fn rate(bed: &Bed, ours: &Cost, link: Link) -> Line {
    let bytes = std::fs::metadata(bed.dir().join("large/large.bin")).map_or(0, |metadata| metadata.len());
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let gigabits = bytes as f64 * 8.0 / 1e9 / ours.seconds.median;
    // A short run is mostly the way there and back.
    let limits = if bytes >= 1 << 30 { (0.9, 0.5) } else { (0.7, 0.3) };
    Line {
        what: "one file over 100 ms and 1 Gbit/s, rate with start and end".into(),
        measured: format!("{gigabits:.2} Gbit/s; a bare stream over that line: {:.2}", line_carries(link)),
        checks: vec![Check::least("", gigabits, limits, " Gbit/s")],
    }
}
