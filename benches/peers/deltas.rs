//! Large files of which a part changed, beside rsync's own delta (`--no-whole-file`).

use sync_testkit::contest::{free_in_memory, large::LargeFile, stats::mib, working_directory};

use crate::{
    bed::{Bed, Contest, Target, Work},
    interrupt,
    pulls::{Goals, row},
    settings::Settings,
    table::{Check, Table},
};

const MIB: u64 = 1 << 20;
/// The bound on the agent's memory, and what would be gross.
const MEMORY_MIB: (f64, f64) = (150.0, 250.0);
/// The name of the share.
const SHARE: &str = "large";
/// A file that does not fit into memory as often as needed is made smaller, down to this part; then it is on disk.
const LEAST_PART: u64 = 8;

/// A row: a file and what happens to it.
struct Case {
    name: &'static str,
    what: &'static str,
    file_bytes: u64,
    /// How many bytes are new, of a file of full size.
    new_bytes: u64,
    change: fn(&mut Bed),
    wall: Option<(f64, f64)>,
    /// How many bytes may be on the wire for so many new ones.
    wire: fn(u64) -> u64,
    /// Whether rsync must not need less.
    wire_of_rsync: bool,
}

const CASES: [Case; 4] = [
    Case {
        name: "delta-rewrite",
        what: "10 % rewritten in pieces of 64 KiB",
        file_bytes: 500 * MIB,
        new_bytes: 50 * MIB,
        change: |bed| {
            let pieces = bed.large().bytes() / (640 << 10);
            bed.large().rewrite(pieces, 64 << 10);
        },
        wall: Some((0.6, 1.5)),
        wire: |new| new * 14 / 10 + MIB,
        wire_of_rsync: true,
    },
    Case {
        name: "delta-insert",
        what: "one byte put in at the front",
        file_bytes: 1024 * MIB,
        new_bytes: 1,
        change: |bed| bed.large().insert_at_front(1),
        wall: Some((0.4, 1.5)),
        wire: |_| 2 * MIB,
        wire_of_rsync: false,
    },
    Case {
        name: "delta-append",
        what: "1 % appended",
        file_bytes: 500 * MIB,
        new_bytes: 5 * MIB,
        change: |bed| {
            let new = bed.large().bytes() / 100;
            bed.large().append(usize::try_from(new).expect("a part fits into memory"));
        },
        wall: None,
        wire: |new| new + MIB,
        wire_of_rsync: false,
    },
    Case {
        name: "delta-image",
        what: "a write of 4 KiB in each 4 MiB",
        file_bytes: 4096 * MIB,
        new_bytes: 4 * MIB,
        change: |bed| {
            let writes = bed.large().bytes() / (4 * MIB);
            bed.large().rewrite(writes, 4 << 10);
        },
        wall: None,
        wire: |new| new * 50,
        wire_of_rsync: false,
    },
];

/// The rows about large files of which a part changed.
pub(crate) fn rows(settings: &Settings, table: &mut Table) {
    for case in CASES.iter().filter(|case| settings.wants(case.name)) {
        interrupt::check();
        let part = case.part_that_fits(settings.delta_part, free_in_memory());
        let bytes = case.bytes(part);
        let dir = working_directory(room_for(bytes));
        eprintln!("peers: making a file of {:.0} MiB in {}", mib(bytes), dir.path().display());
        let large = LargeFile::make(&dir.path().join(SHARE), bytes);
        let mut bed = Bed::serve(dir, &[SHARE], None);
        bed.large = Some(large);
        let work = Work {
            target: Target::Kept,
            rsync: &["--no-whole-file"],
            change: Some(case.change),
            // A new version of the target's file. That of the share is made before time counts.
            fills: bytes,
            ..Work::cold(SHARE, settings.rounds)
        };
        let contest = bed.contest(&work);
        let smaller = if part > settings.delta_part { " (for more there is no memory)" } else { "" };
        let what = format!("one file of {:.0} MiB{smaller}, {}", mib(bytes), case.what);
        let checks = case.checks(&contest, case.new_bytes.div_ceil(part));
        table.contests.push(row(what, &contest, checks));
    }
}

/// The share, both targets, and what takes the place of a target or of the share, all in memory.
const fn room_for(bytes: u64) -> u64 {
    bytes * 4 + bytes / 4
}

impl Case {
    fn bytes(&self, part: u64) -> u64 {
        self.file_bytes / part / MIB * MIB
    }

    /// Which part of the full size fits into memory, at most this one.
    fn part_that_fits(&self, most: u64, free: Option<u64>) -> u64 {
        let parts =
            std::iter::successors(Some(most), |part| Some(part * 2)).take_while(|part| *part <= LEAST_PART);
        parts
            .into_iter()
            .find(|part| free.is_some_and(|free| room_for(self.bytes(*part)) <= free))
            .unwrap_or(most)
    }

    fn checks(&self, contest: &Contest, new_bytes: u64) -> Vec<Check> {
        let mut checks =
            self.wall.map_or_else(Vec::new, |(goal, floor)| Goals::wall(goal, floor).checks(contest));
        let Some((client, _, wire)) = contest.ours.memory_and_wire else { return checks };
        let goal = mib((self.wire)(new_bytes));
        checks.push(Check::most("wire", mib(wire), (rounded(goal), 2.0 * goal), " MiB"));
        let rsync = contest.rsync.as_ref().and_then(|rsync| rsync.memory_and_wire);
        if let (true, Some((_, _, theirs))) = (self.wire_of_rsync, rsync) {
            checks.push(Check::most("wire of rsync's", mib(wire) / mib(theirs), (1.0, 2.0), ""));
        }
        checks.push(Check::most("agent", mib(client), MEMORY_MIB, " MiB"));
        checks
    }
}

/// For people.
fn rounded(mib: f64) -> f64 {
    (mib * 100.0).round() / 100.0
}
