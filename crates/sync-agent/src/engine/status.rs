//! What is known about a target without asking anybody, and without a lock: beside a running agent as well.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use sync_core::{Cursor, Digest, Problem, ShareId};
use sync_tree::{
    lock::Lock,
    rooted::{Dir, StatKind},
    state::{StateDir, StateOptions},
};

use super::{
    DATABASE, EngineError, LOCK,
    counts::one_for_each_place,
    store::{self, ToldWatching},
    target as place,
};

/// What a target's state says.
#[derive(Debug, Clone, Default)]
pub struct StatusReport {
    /// The share's name.
    pub share: Option<String>,
    /// The share's id.
    pub share_id: Option<ShareId>,
    /// Another agent works on this target; its process id, if it has said so.
    pub lock_holder: Option<u32>,
    /// When the whole target was last found equal (seconds since 1970), and to what.
    pub last_verified: Option<(i64, Digest)>,
    /// Nodes that are still to be looked at or applied.
    pub pending: u64,
    /// Paths that failed, here or on the server.
    pub problems: Vec<Problem>,
    /// Files in the share at the last commit point.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Bytes in the trash.
    pub trash_bytes: u64,
    /// How well the share hears of changes, and when it said so.
    pub watching: Option<ToldWatching>,
    /// Where the feed goes on.
    pub cursor: Option<Cursor>,
}

/// Reads a target's state. A directory that was never a target has an empty one.
///
/// # Errors
/// The target or its state cannot be read.
pub fn status(target: &Path, state_dir: Option<&Path>) -> Result<StatusReport, EngineError> {
    let root = place::open(target)?;
    let Some((dir, path)) = StateDir::find(&root, &state_options(state_dir))? else {
        return Ok(StatusReport::default());
    };
    let mut report = StatusReport::default();
    if let Ok(Some(holder)) = Lock::peek(&dir, LOCK) {
        report.lock_holder = Some(holder.pid.unwrap_or(0));
    }
    report.trash_bytes = root
        .dir()
        .open_dir(sync_core::name::STATE_DIR)
        .and_then(|state| state.open_dir("trash"))
        .map_or(0, |trash| size_below(&trash));
    if dir.stat(DATABASE).is_ok() {
        read_database(&path.join(DATABASE), &mut report)?;
    }
    Ok(report)
}

pub(super) fn state_options(state_dir: Option<&Path>) -> StateOptions {
    StateOptions {
        state_dir: state_dir.map(Path::to_owned),
        state_home: sync_tree::state::state_home(|name| std::env::var_os(name)),
    }
}

fn read_database(path: &Path, report: &mut StatusReport) -> Result<(), EngineError> {
    let mut read = || -> rusqlite::Result<()> {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        if let Some((name, id)) = store::share_of(&db)? {
            report.share = Some(name);
            report.share_id = id;
        }
        report.last_verified =
            store::verified_of(&db)?.map(|verified| (verified.at_secs, verified.root_digest));
        report.pending = store::pending_count_of(&db)?;
        report.watching = store::watching_of(&db)?;
        let local = sync_tree::index::problems_in(&db)?;
        report.problems = one_for_each_place(store::remote_problems_of(&db)?.into_iter().chain(local));
        if let Some(remote) = store::remote_of_status(&db)? {
            report.files = remote.files;
            report.bytes = remote.bytes;
            report.cursor = Some(remote.cursor);
        }
        Ok(())
    };
    read().map_err(|source| EngineError::Index(source.into()))
}

/// The bytes in a directory's files, by an own stack: trash may be deep.
fn size_below(dir: &Dir) -> u64 {
    let mut bytes = 0;
    let mut stack = vec![dir.clone()];
    while let Some(dir) = stack.pop() {
        for entry in dir.list().unwrap_or_default() {
            let Ok(stat) = dir.stat_raw(&entry.name) else { continue };
            match stat.kind {
                StatKind::File => bytes += stat.size,
                StatKind::Directory => {
                    stack.extend(
                        std::str::from_utf8(&entry.name).ok().and_then(|name| dir.open_dir(name).ok()),
                    );
                }
                StatKind::Symlink | StatKind::Other => {}
            }
        }
    }
    bytes
}
