//! Source text over a slow line: what compression is for.

use std::{env, fs, path::Path, path::PathBuf, time::Duration};

use sync_testkit::{
    Link,
    contest::{
        stats::{Spread, mib},
        working_directory,
    },
};

use crate::{
    bed::{Bed, Side, Work},
    interrupt,
    settings::Settings,
    table::{Check, Line, Table, seconds},
};

/// The name of the share.
const SHARE: &str = "text";
const MEGABITS: u64 = 100;
const ROUND_TRIP: Duration = Duration::from_millis(10);

/// A cold pull with compression as it is by default, and without, in turns.
pub(crate) fn rows(settings: &Settings, table: &mut Table) {
    if !settings.wants("slow-text") {
        return;
    }
    let dir = working_directory(settings.text_bytes * 3);
    let bytes = gather(&dir.path().join(SHARE), settings.text_bytes);
    if bytes < settings.text_bytes / 2 {
        eprintln!("peers: no slow-text: the sources of dependencies are not in cargo's folder");
        return;
    }
    let mut bed = Bed::serve(dir, &[SHARE], None);
    let link = Link::new(ROUND_TRIP, MEGABITS * 1_000_000);
    let auto = Work { line: Some(link), ..Work::cold(SHARE, settings.rounds) };
    let off = Work { ours: &["pull", "--compression", "off"], ..auto };
    let packed = Work { rsync: &["-z"], ..auto };
    let mut taken = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..settings.far_rounds {
        interrupt::check();
        taken[0].push(bed.timed(Side::Ours, &auto).seconds);
        taken[1].push(bed.timed(Side::Ours, &off).seconds);
        if bed.has_rsync() {
            taken[2].push(bed.timed(Side::Rsync, &packed).seconds);
        }
    }
    let [auto, off, packed] = taken.map(Spread::of);
    let (Some(auto), Some(off)) = (auto, off) else { return };
    let rsync = packed.map_or_else(String::new, |packed| format!("; `rsync -az`: {}", seconds(packed)));
    let line = Line {
        what: format!(
            "{:.0} MiB of sources over {MEGABITS} Mbit/s and 10 ms, compression auto and off",
            mib(bytes)
        ),
        measured: format!("{}, {}{rsync}", seconds(auto), seconds(off)),
        checks: vec![Check::least("", off.median / auto.median, (2.5, 1.5), " times as fast")],
    };
    eprintln!("peers: {}", line.what);
    table.lines.push(line);
}

/// Copies Rust sources of the dependencies, which whoever built this has, up to so many bytes. Answers how many there were.
fn gather(to: &Path, most: u64) -> u64 {
    fs::create_dir(to).expect("a directory can be made");
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let mut open: Vec<PathBuf> = home.into_iter().map(|home| home.join("registry/src")).collect();
    let (mut bytes, mut count) = (0, 0_u32);
    while let Some(dir) = open.pop() {
        let mut entries: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
            if metadata.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && bytes + metadata.len() <= most {
                let dir = to.join((count / 100).to_string());
                fs::create_dir_all(&dir).expect("a directory can be made");
                fs::copy(&path, dir.join(format!("{count}.rs"))).expect("a file can be copied");
                bytes += metadata.len();
                count += 1;
            }
        }
    }
    bytes
}
