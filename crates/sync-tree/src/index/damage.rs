//! What becomes of a database that is damaged.
//!
//! All that an index holds can be had again from the disk and from the other side, so a damaged one is set aside, for whoever
//! wants to look into it, and another is made. Damage that shows only while the database is used is remembered by an empty
//! file beside it, so that the next opening need not find it again: the damaged page may be one that is seldom read.

use std::{error::Error, ffi::OsStr, io, path::Path};

use rusqlite::ErrorCode;

use super::{Index, IndexError};
use crate::rooted::{Dir, Root};

/// After the database's name: it is damaged.
const MARK: &str = ".is-damaged";

/// After the database's name, before the time at which it was set aside.
const ASIDE: &str = ".damaged-";

/// What SQLite keeps beside a database.
const LOG: &str = "-wal";
const SHARED: &str = "-shm";

impl Index {
    /// Opens the index in this file, making it if needed. If it is damaged it is set aside and made anew, with another epoch;
    /// only the last damaged one is kept. A file of a newer version is not damaged and is refused.
    ///
    /// # Errors
    /// The file cannot be used, or a newer version wrote it.
    pub fn open_or_rebuild(path: &Path) -> Result<Self, IndexError> {
        let (dir, name) = place(path)?;
        let reason = if dir.stat(&format!("{name}{MARK}")).is_ok() {
            "it was found to be damaged when it was last used".to_owned()
        } else {
            match Self::open_and_probe(path) {
                Err(IndexError::Damaged { reason, .. }) => reason,
                opened => return opened,
            }
        };
        let failed = |source| IndexError::Aside { path: path.to_owned(), source };
        let aside = set_aside(&dir, &name, super::now_secs()).map_err(failed)?;
        tracing::warn!(
            database = %path.display(), reason, set_aside_as = aside,
            "the index is damaged and is made anew: everything is compared again, nothing is lost by that"
        );
        Self::open(path)
    }

    fn open_and_probe(path: &Path) -> Result<Self, IndexError> {
        let index = Self::open(path)?;
        index.head()?;
        index.rule_set()?;
        index.problems()?;
        index.mounts()?;
        index.children(sync_core::NodeId::ROOT)?;
        Ok(index)
    }
}

/// What SQLite said, if an error comes from a damaged database.
pub(super) fn damage(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
        if matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) {
            return Some(error.to_string());
        }
        cause = error.source();
    }
    None
}

/// Leaves word for the next opening.
pub(super) fn mark(path: &Path) {
    let marked = place(path)
        .map_err(io::Error::other)
        .and_then(|(dir, name)| dir.create_new(&format!("{name}{MARK}"), 0o600).map(drop));
    match marked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            tracing::warn!(%error, database = %path.display(), "move this database away: it is damaged");
        }
        _ => {}
    }
}

/// The directory of a database and its name there.
fn place(path: &Path) -> Result<(Dir, String), IndexError> {
    let failed = |source| IndexError::Aside { path: path.to_owned(), source };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    Ok((Root::open(parent).map_err(failed)?.dir(), name.to_owned()))
}

/// Moves a database out of the way. Answers its new name. The log goes first and the mark last: cut off anywhere, this is
/// done again, and a new database never finds the log of the old one.
fn set_aside(dir: &Dir, name: &str, now_secs: i64) -> io::Result<String> {
    let prefix = format!("{name}{ASIDE}");
    let aside = format!("{prefix}{now_secs}");
    for entry in dir.list()? {
        match std::str::from_utf8(&entry.name) {
            Ok(old) if old.starts_with(&prefix) => if_there(dir.remove_file(old))?,
            _ => {}
        }
    }
    if_there(dir.rename_to(&format!("{name}{LOG}"), dir, &format!("{aside}{LOG}")))?;
    if_there(dir.remove_file(&format!("{name}{SHARED}")))?;
    if_there(dir.rename_to(name, dir, &aside))?;
    dir.sync()?;
    if_there(dir.remove_file(&format!("{name}{MARK}")))?;
    Ok(aside)
}

fn if_there(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
