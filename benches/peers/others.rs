//! Other tools at the cold pull's work. `cp -a` is the floor: no network, no index, no check. The others copy between
//! directories of one machine, as that is what they do without accounts and keys.

use std::{ffi::OsString, fs, path::Path, process::Command};

use sync_testkit::{
    contest::{meter::Meter, remove, stats::Spread},
    programs::Launch,
};

use crate::{
    bed::{Bed, Side, Target, Work},
    interrupt,
    settings::{DEADLINE, Settings},
    table::{Table, seconds},
};

/// Tools that are measured if they are installed.
const OPTIONAL: [&str; 1] = ["unison"];
/// Tools that are known and not measured: they have no command that copies and ends.
const NOT_MEASURED: [&str; 2] = ["lsyncd", "syncthing"];

/// On the tree of small files.
pub(crate) fn small_files(settings: &Settings, bed: &mut Bed, table: &mut Table) {
    versus(settings, bed, ("small", "small files"), table);
}

/// On the large file.
pub(crate) fn one_file(settings: &Settings, bed: &mut Bed, table: &mut Table) {
    versus(settings, bed, ("large", "one file"), table);
}

fn versus(settings: &Settings, bed: &mut Bed, (share, name): (&str, &str), table: &mut Table) {
    let mut tools = vec!["cp"];
    tools.extend(OPTIONAL.into_iter().filter(|tool| is_installed(tool)));
    for tool in OPTIONAL.into_iter().filter(|tool| !is_installed(tool)) {
        eprintln!("peers: {tool} is not installed, so it is left out");
    }
    eprintln!("peers: {} run for ever and are not measured", NOT_MEASURED.join(" and "));
    let cold = Work {
        share,
        target: Target::Fresh,
        ours: "pull",
        rsync: &[],
        change: None,
        line: None,
        rounds: settings.rounds,
    };
    for tool in tools {
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..settings.rounds {
            theirs.push(one_copy(tool, &bed.dir().join(share), bed.dir()));
            ours.push(bed.timed(Side::Ours, &cold).seconds);
        }
        let of = |times: Vec<f64>| Spread::of(times).expect("there is at least one round");
        let (theirs, ours) = (of(theirs), of(ours));
        let times = format!("{:.2} times as long", ours.median / theirs.median);
        table.others.push([format!("`{}`, {name}", shown(tool)), seconds(theirs), times]);
    }
}

fn is_installed(tool: &str) -> bool {
    Command::new(tool).arg("-version").output().is_ok()
}

fn shown(tool: &str) -> &str {
    if tool == "cp" { "cp -a" } else { tool }
}

fn one_copy(tool: &str, share: &Path, dir: &Path) -> f64 {
    interrupt::check();
    let (target, notes) = (dir.join("copied"), dir.join("notes of the tool"));
    for old in [&target, &notes] {
        remove(old);
    }
    fs::create_dir(&target).expect("a directory can be made");
    let launch = if tool == "cp" { cp(share, &target) } else { unison(share, &target, &notes) };
    let sample = Meter::start(None).run(|| launch.start(), DEADLINE);
    for old in [&target, &notes] {
        remove(old);
    }
    sample.seconds
}

/// Everything but our notes.
fn cp(share: &Path, target: &Path) -> Launch {
    let entries = fs::read_dir(share).expect("the share can be listed").flatten();
    let names: Vec<OsString> = entries
        .map(|entry| entry.path().into())
        .filter(|path| !Path::new(path).ends_with(".syncd"))
        .collect();
    Launch::new("cp").args(["-a"]).args(names).args([target])
}

/// With notes of its own each time: with those of the last run it would take the empty target for a deletion.
fn unison(share: &Path, target: &Path, notes: &Path) -> Launch {
    Launch::new("unison")
        .env("UNISON", notes)
        .args(["-batch", "-silent", "-times", "-ignore", "Name .syncd", "-force"])
        .args([share, share, target])
}
