//! Other tools at the cold pull's work. `cp -a` is the floor: no network, no index, no check. The others are measured where
//! they are installed, once, and copy between directories of this machine, as they do it without accounts and keys.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use sync_testkit::{
    contest::{
        files::{SMALL, SmallFiles},
        meter::Meter,
        remove,
        stats::Spread,
    },
    programs::{Launch, Process},
};

use crate::{
    bed::{Bed, Side, Work},
    interrupt, live,
    settings::{DEADLINE, Settings},
    syncthing,
    table::{Table, seconds},
};

/// Brings a target up to the tree of small files and gives the seconds.
type Copy = fn(&SmallFiles, &Places) -> f64;

/// The tools that need not be there.
const OPTIONAL: [(&str, Copy); 3] = [("unison", unison), ("lsyncd", lsyncd), ("syncthing", syncthing::copy)];

/// Where a tool works.
pub(crate) struct Places {
    /// Empty at first.
    pub(crate) target: PathBuf,
    /// For whatever it notes down. Notes of an earlier run would make an empty target look like a deletion.
    pub(crate) notes: PathBuf,
}

impl Places {
    fn make(dir: &Path) -> Self {
        let places = Self { target: dir.join("copied"), notes: dir.join("notes of the tool") };
        for dir in [&places.target, &places.notes] {
            remove(dir);
            fs::create_dir(dir).expect("a directory can be made");
        }
        places
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for dir in [&self.target, &self.notes] {
            remove(dir);
        }
    }
}

/// On the tree of small files.
pub(crate) fn small_files(settings: &Settings, bed: &mut Bed, table: &mut Table) {
    let ours = versus_cp(settings, bed, ("small", "small files"), table);
    if settings.quick {
        eprintln!("peers: a quick run leaves the tools out that take long");
        return;
    }
    let mut tree = None;
    for (tool, copy) in OPTIONAL {
        if !is_installed(tool) {
            eprintln!("peers: {tool} is not installed, so it is left out");
            continue;
        }
        interrupt::check();
        // A tree of their own: some leave things in it, and none knows what to leave out.
        let root = bed.dir().join("plain");
        let tree = tree.get_or_insert_with(|| SmallFiles::make(&root, settings.small_files, SMALL));
        let theirs = copy(tree, &Places::make(bed.dir()));
        add(
            (format!("{tool}, small files"), Spread { median: theirs, least: theirs, most: theirs }, ours),
            table,
        );
    }
    remove(&bed.dir().join("plain"));
}

/// On the large file.
pub(crate) fn one_file(settings: &Settings, bed: &mut Bed, table: &mut Table) {
    versus_cp(settings, bed, ("large", "one file"), table);
}

/// In turns with us. Gives our median.
fn versus_cp(settings: &Settings, bed: &mut Bed, (share, name): (&str, &str), table: &mut Table) -> f64 {
    let rounds = settings.rounds;
    let cold = Work::cold(share, settings.rounds);
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        theirs.push(cp(&bed.dir().join(share), &Places::make(bed.dir())));
        ours.push(bed.timed(Side::Ours, &cold).seconds);
    }
    let of = |times: Vec<f64>| Spread::of(times).expect("there is at least one round");
    let (theirs, ours) = (of(theirs), of(ours));
    add((format!("`cp -a`, {name}"), theirs, ours.median), table);
    ours.median
}

fn add((what, theirs, ours): (String, Spread, f64), table: &mut Table) {
    let row = [what, seconds(theirs), format!("{:.2} × that", ours / theirs.median)];
    eprintln!("peers: {}", row.join(": "));
    table.others.push(row);
}

fn is_installed(tool: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|dir| dir.join(tool).is_file()))
}

/// Everything but our notes.
fn cp(share: &Path, places: &Places) -> f64 {
    let entries = fs::read_dir(share).expect("the share can be listed").flatten();
    let names: Vec<OsString> = entries
        .map(|entry| entry.path().into())
        .filter(|path| !Path::new(path).ends_with(".syncd"))
        .collect();
    one_run(&Launch::new("cp").args(["-a"]).args(names).args([&places.target]))
}

fn unison(tree: &SmallFiles, places: &Places) -> f64 {
    let launch = Launch::new("unison")
        .env("UNISON", &places.notes)
        .args(["-batch", "-silent", "-times", "-force"])
        .args([tree.root(), tree.root(), &places.target]);
    one_run(&launch)
}

fn one_run(launch: &Launch) -> f64 {
    interrupt::check();
    Meter::start(None).run(|| launch.start(), DEADLINE).seconds
}

/// It runs for ever, with an rsync for the first copy.
fn lsyncd(tree: &SmallFiles, places: &Places) -> f64 {
    let began = SystemTime::now();
    let launch = Launch::new("lsyncd").args(["-nodaemon", "-log", "scarce", "-delay", "1", "-rsync"]);
    let process = launch.args([tree.root(), &places.target]).start();
    until_all_there(tree, places, began, &[&process])
}

/// The seconds from the beginning until the target has all, in what these processes do.
pub(crate) fn until_all_there(
    tree: &SmallFiles,
    places: &Places,
    began: SystemTime,
    processes: &[&Process],
) -> f64 {
    live::time_of_all(tree, &places.target, began).unwrap_or_else(|| {
        let said: String = processes.iter().map(|process| process.all()).collect();
        panic!("the copy did not end within {DEADLINE:?}:\n{said}")
    })
}
