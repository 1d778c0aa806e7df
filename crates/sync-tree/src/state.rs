//! Where a share or target keeps its state: index, lock, staging, trash.
//!
//! * Normally `.syncd/` in the tree itself (0700), so that it moves with the tree.
//! * Elsewhere, in a directory named after the tree's path, if the user says so, if the tree cannot be written, or if it
//!   is on a network file system, where a database's locks and memory maps cannot be relied on.
//! * What must be renamed into the tree, or watched with it, stays in `.syncd/` in the tree wherever it can be made
//!   ([`Work`]).
//!
//! Both belong to the user that runs the program: a `.syncd` that is a symlink, or another user's, is refused, because
//! whoever made it could point our writes anywhere.

use std::{
    fmt, io,
    os::{fd::AsFd, unix::ffi::OsStrExt, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, AtFlags, accessat, fstat},
    process::geteuid,
};
use sync_core::{Digest, Hint, name::STATE_DIR};

use crate::{
    platform,
    rooted::{Dir, Root, StatKind},
    trouble,
};

/// Only we look into it: it holds deleted files and half-written ones.
const STATE_MODE: u16 = 0o700;

/// Of `state_dir` and the user's state home; an empty value counts as unset.
#[derive(Debug, Clone, Default)]
pub struct StateOptions {
    /// `state_dir` from the configuration: the state goes there, under the tree's id.
    pub state_dir: Option<PathBuf>,
    /// Where the state of programs goes otherwise, see [`state_home`].
    pub state_home: Option<PathBuf>,
}

/// The state of one tree.
#[derive(Debug, Clone)]
pub struct StateDir {
    /// The directory that holds databases and locks.
    pub dir: Dir,
    /// Its path, for the database library and for people.
    pub path: PathBuf,
    /// Why it is there.
    pub reason: Reason,
    /// What has to be inside the tree; `None` if the tree cannot be written.
    pub work: Option<Work>,
}

/// The part of the state that is on the tree's own file system.
#[derive(Debug, Clone)]
pub struct Work {
    /// `.syncd/` in the tree. The clock file belongs here.
    pub dir: Dir,
    /// Files being received or captured, until they are renamed into place.
    pub staging: Dir,
    /// What was replaced or removed, by the time that it happened.
    pub trash: Dir,
    /// Files made only to see their events come through the watcher.
    pub cookies: Dir,
}

/// Why the state is where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// In the tree, as it should be.
    InTree,
    /// The configuration says so.
    Configured,
    /// The tree cannot be written.
    ReadOnly,
    /// The tree is on a network file system.
    NetworkFs,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InTree => "it is kept in the tree itself",
            Self::Configured => "the configuration says so",
            Self::ReadOnly => "the tree cannot be written",
            Self::NetworkFs => "the tree is on a network file system",
        })
    }
}

/// Why there is no state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// `.syncd` is a symlink or a file.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory is another user's.
    #[error("{} belongs to another user", path.display())]
    OtherOwner {
        /// The path.
        path: PathBuf,
    },
    /// The state must go elsewhere ([`Reason`]) and the environment names no place.
    #[error("There is no place for the state of {}: {reason}, and neither XDG_STATE_HOME nor HOME is set", tree.display())]
    Homeless {
        /// The tree's path.
        tree: PathBuf,
        /// Why it cannot be in the tree.
        reason: Reason,
    },
    /// It cannot be made or opened.
    #[error("Cannot use the state directory {}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Hint for StateError {
    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotADirectory { .. } => "move it away: that name belongs to syncd",
            Self::OtherOwner { .. } => "run as that user, or choose another place with state_dir",
            Self::Homeless { .. } => "set state_dir to a directory that this user may write",
            Self::Io { source, .. } => trouble::advice(source)
                .unwrap_or("check its permissions, or choose another place with state_dir"),
        })
    }
}

impl StateDir {
    /// Chooses and makes the state directory of a tree.
    ///
    /// # Errors
    /// Nothing suitable can be made; nothing was then changed but, perhaps, empty directories made.
    pub fn open(root: &Root, options: &StateOptions) -> Result<StateDir, StateError> {
        let reason = choose(root, options)?;
        let in_tree = root.path().join(STATE_DIR);
        let work = match work_dir(root) {
            Ok(work) => Some(work),
            // Without the tree's own directory the databases can still live elsewhere.
            Err(StateError::Io { .. }) if reason != Reason::InTree => None,
            Err(error) => return Err(error),
        };
        if let (Reason::InTree, Some(work)) = (reason, &work) {
            return Ok(Self { dir: work.dir.clone(), path: in_tree, reason, work: Some(work.clone()) });
        }
        let path = elsewhere(root, options, reason)?;
        let dir = make_elsewhere(&path)?;
        Ok(Self { dir, path, reason, work })
    }

    /// Finds the state directory that [`StateDir::open`] would use, if it is there; makes and changes nothing.
    ///
    /// # Errors
    /// It is there and is not ours, or cannot be opened.
    pub fn find(root: &Root, options: &StateOptions) -> Result<Option<(Dir, PathBuf)>, StateError> {
        let reason = choose(root, options)?;
        let (path, opened) = if reason == Reason::InTree {
            (root.path().join(STATE_DIR), root.dir().open_dir(STATE_DIR))
        } else {
            let path = elsewhere(root, options, reason)?;
            let opened = Root::open(&path).map(|found| found.dir());
            (path, opened)
        };
        match opened {
            Ok(dir) => owned(dir, &path).map(|dir| Some((dir, path))),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::Io { path, source }),
        }
    }
}

/// Where programs keep their state for this user: `$XDG_STATE_HOME`, else `~/.local/state`. Relative values do not count.
#[must_use]
pub fn state_home(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))
}

/// The name of a tree's state directory outside of the tree: its path, hashed.
#[must_use]
pub fn tree_id(root: &Root) -> String {
    Digest::of(root.path().as_os_str().as_bytes()).to_hex()[..32].to_owned()
}

fn choose(root: &Root, options: &StateOptions) -> Result<Reason, StateError> {
    let path = || root.path().join(STATE_DIR);
    let existing = match root.dir().stat(STATE_DIR) {
        Ok(stat) if stat.kind == StatKind::Directory => true,
        Ok(_) => return Err(StateError::NotADirectory { path: path() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(source) => return Err(StateError::Io { path: path(), source }),
    };
    if options.state_dir.is_some() {
        return Ok(Reason::Configured);
    }
    // A file system that cannot even be asked is taken for a local one: opening the database will tell.
    if platform::is_network_fs(root.dir().as_fd()).unwrap_or(false) {
        return Ok(Reason::NetworkFs);
    }
    let name = if existing { STATE_DIR } else { "." };
    Ok(if writable(&root.dir(), name) { Reason::InTree } else { Reason::ReadOnly })
}

/// Whether names can be made in a directory. Where the system cannot say, making them will.
fn writable(dir: &Dir, name: &str) -> bool {
    use rustix::io::Errno;
    let needed = Access::WRITE_OK | Access::EXEC_OK;
    !matches!(
        accessat(dir.as_fd(), name, needed, AtFlags::EACCESS),
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS)
    )
}

/// Makes `.syncd` and what is always in it.
fn work_dir(root: &Root) -> Result<Work, StateError> {
    let path = root.path().join(STATE_DIR);
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotADirectory => StateError::NotADirectory { path: path.clone() },
        _ => StateError::Io { path: path.clone(), source },
    };
    let dir = owned(make_and_open(&root.dir(), STATE_DIR).map_err(failed)?, &path)?;
    if dir.stat_self().map_err(failed)?.mode != STATE_MODE {
        root.dir().set_mode(STATE_DIR, STATE_MODE).map_err(failed)?;
    }
    let sub = |name| make_and_open(&dir, name).map_err(failed);
    Ok(Work { staging: sub("staging")?, trash: sub("trash")?, cookies: sub("cookies")?, dir: dir.clone() })
}

fn make_and_open(dir: &Dir, name: &str) -> io::Result<Dir> {
    match dir.make_dir(name, STATE_MODE) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => dir.open_dir(name),
    }
}

fn elsewhere(root: &Root, options: &StateOptions, reason: Reason) -> Result<PathBuf, StateError> {
    let base = match (&options.state_dir, &options.state_home) {
        (Some(dir), _) => dir.clone(),
        (None, Some(home)) => home.join("syncd"),
        (None, None) => return Err(StateError::Homeless { tree: root.path().to_owned(), reason }),
    };
    Ok(base.join(tree_id(root)))
}

#[expect(clippy::disallowed_methods, reason = "the operator and the user's environment name this path")]
fn make_elsewhere(path: &Path) -> Result<Dir, StateError> {
    let failed = |source| StateError::Io { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(STATE_MODE.into()).create(path).map_err(failed)?;
    owned(Root::open(path).map_err(failed)?.dir(), path)
}

/// Refuses a directory that another user made: that user could have put anything into it.
fn owned(dir: Dir, path: &Path) -> Result<Dir, StateError> {
    let stat =
        fstat(dir.as_fd()).map_err(|error| StateError::Io { path: path.to_owned(), source: error.into() })?;
    if stat.st_uid == geteuid().as_raw() {
        Ok(dir)
    } else {
        Err(StateError::OtherOwner { path: path.to_owned() })
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make and look at their own trees")]
mod tests;
