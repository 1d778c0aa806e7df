//! Whether what was written down is sure to be on the disk.

use std::collections::{BTreeMap, BTreeSet};

use super::{Held, Mtime, View, What};

/// What somebody wrote down of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// What is there.
    pub what: What,
    /// The digest of a file's bytes.
    pub digest: Option<[u8; 32]>,
    /// Permission bits; `None` where they are not recorded.
    pub mode: Option<u16>,
    /// The modification time; `None` where it is not recorded.
    pub mtime: Option<Mtime>,
}

/// Every way in which what was written down is how the disk is now, but not how it is sure to be after a cut. (What was not
/// written down yet does not count.)
#[must_use]
pub fn ahead(recorded: &BTreeMap<Vec<u8>, Recorded>, live: &View, safe: &View) -> Vec<String> {
    let paths: BTreeSet<&Vec<u8>> = recorded.keys().chain(live.keys()).chain(safe.keys()).collect();
    let mut found = Vec::new();
    for path in paths {
        let shown = String::from_utf8_lossy(path);
        match (recorded.get(path), live.get(path), safe.get(path)) {
            (None, None, Some(_)) => found.push(format!("{shown} is recorded as gone, and may be back")),
            (Some(row), Some(now), safe) if is_same(row, now) => match safe {
                None => found.push(format!("{shown} is recorded, and its name may be lost")),
                Some(safe) if !is_same(row, safe) => {
                    found.push(format!("{shown} is recorded, and may hold something else"));
                }
                Some(safe) => found.extend(
                    attributes(row, now, safe)
                        .map(|what| format!("the {what} of {shown} is recorded, and may be lost")),
                ),
            },
            _ => {}
        }
    }
    found
}

fn is_same(row: &Recorded, held: &Held) -> bool {
    let digest = || Some(*blake3::hash(&held.bytes).as_bytes());
    row.what == held.what && (row.what != What::File || row.digest == digest())
}

fn attributes(row: &Recorded, now: &Held, safe: &Held) -> impl Iterator<Item = &'static str> {
    let mode = row.mode == Some(now.mode & 0o777) && safe.mode & 0o777 != now.mode & 0o777;
    // Nothing flushes the time of a link alone.
    let mtime = !matches!(row.what, What::Link(_))
        && now.mtime.is_some()
        && row.mtime == now.mtime
        && safe.mtime != now.mtime;
    [mode.then_some("mode"), mtime.then_some("time")].into_iter().flatten()
}
