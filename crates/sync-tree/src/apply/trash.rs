//! Where things go that only this side had: `trash/RUN/` and then the path they had in the tree.
//!
//! Things arrive by rename, directories as a whole. A name that is taken gets a suffix; nothing in the trash is replaced.
//! A run is kept until nothing was added to it for as long as the configuration says; the time is the modification time
//! of the run's directory.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::{Mode, OFlags, fchmod, openat};
use sync_core::{Time, TreePath};

use super::{ApplyOptions, Durability, PRIVATE_MODE, carry};
use crate::rooted::{Dir, StatKind};

/// A name that is taken gets the suffixes `~2` to this number, then random ones.
const NUMBERED: u32 = 20;

/// How many random suffixes are tried: if one is taken, something else is wrong.
const RANDOM: usize = 3;

/// A suffixed name keeps so much of the original one: names end at 255 bytes.
const KEPT_NAME_BYTES: usize = 230;

/// How directories are called that are about to be emptied.
const CLEARING: &str = "clearing-";

#[derive(Debug)]
pub(super) struct Trash {
    dir: Dir,
    run: String,
    keep: Duration,
    /// New directories are flushed before anything goes there: it must not be lost with them.
    is_flushed: bool,
    open: Mutex<Open>,
}

/// What is open of this run.
#[derive(Debug, Default)]
struct Open {
    run: Option<Dir>,
    /// The directory that something went to last: often the next thing comes from there, too.
    last: Option<(TreePath, Dir)>,
}

impl Trash {
    pub(super) fn new(dir: Dir, options: ApplyOptions) -> Self {
        let ApplyOptions { durability, trash_run, trash_keep } = options;
        let is_flushed = durability != Durability::None;
        Self { dir, run: trash_run, keep: trash_keep, is_flushed, open: Mutex::default() }
    }

    /// Moves what is at `name` in `dir` to this run's directory, as `path`.
    pub(super) fn take(&self, dir: &Dir, name: &str, path: &TreePath) -> io::Result<()> {
        let taken = match self.try_take(dir, name, path) {
            // Somebody emptied the trash under our feet, or there is nothing to take: then it fails again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                *self.lock() = Open::default();
                self.try_take(dir, name, path)
            }
            other => other,
        };
        taken.inspect_err(|_| self.drop_empty(path))
    }

    /// Removes the directories that were made for something that did not come. Whoever was about to use one makes it again.
    fn drop_empty(&self, path: &TreePath) {
        *self.lock() = Open::default();
        let Ok(run) = self.dir.open_dir(&self.run) else { return };
        let mut above = vec![(self.dir.clone(), self.run.as_str())];
        let (parent, mut at) = (path.parent().unwrap_or_default(), run);
        for name in parent.names() {
            let next = at.open_dir(name);
            above.push((at, name));
            match next {
                Ok(next) => at = next,
                Err(_) => break,
            }
        }
        // What is not empty stays, and so does all above it.
        for (dir, name) in above.into_iter().rev() {
            let _ = dir.remove_dir(name);
        }
    }

    fn try_take(&self, dir: &Dir, name: &str, path: &TreePath) -> io::Result<()> {
        let (parent, last) = path.split().unwrap_or((TreePath::root(), name));
        let to = self.parent(&parent)?;
        try_names(last, |candidate| match carry(dir, name, &to, candidate) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            other => other.map(Some),
        })
    }

    /// This run's directory for things from `path`.
    fn parent(&self, path: &TreePath) -> io::Result<Dir> {
        let mut open = self.lock();
        let run = match &open.run {
            Some(run) => run.clone(),
            None => self.made(&self.dir, &self.run)?.ok_or(io::ErrorKind::AlreadyExists)?,
        };
        open.run = Some(run.clone());
        // Things that go deeper down would not show in the run's own time.
        self.dir.set_times(&self.run, now())?;
        if let Some((last, dir)) = &open.last
            && last == path
        {
            return Ok(dir.clone());
        }
        let mut at = run;
        for name in path.names() {
            at = try_names(name, |candidate| self.made(&at, candidate))?;
        }
        open.last = Some((path.clone(), at.clone()));
        Ok(at)
    }

    /// Makes or opens a directory of the trash; `None` if something else has the name.
    fn made(&self, dir: &Dir, name: &str) -> io::Result<Option<Dir>> {
        match dir.make_dir(name, PRIVATE_MODE) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) => {}
            Ok(()) if self.is_flushed => dir.sync()?,
            Ok(()) => {}
        }
        match dir.open_dir(name) {
            // A file or link with that name, or a directory that came here with a mode that keeps its owner out.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied) =>
            {
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes runs, other than this one, that were kept long enough. Stops when the budget of names is used up.
    pub(super) fn prune(&self, now: SystemTime, budget: &mut u64) -> io::Result<()> {
        let oldest = now.checked_sub(self.keep).unwrap_or(UNIX_EPOCH);
        let oldest = time_of(oldest);
        for entry in self.dir.list()? {
            let Ok(name) = std::str::from_utf8(&entry.name) else { continue };
            if name == self.run || *budget == 0 {
                continue;
            }
            let Ok(stat) = self.dir.stat(name) else { continue };
            let is_due = stat.mtime < oldest || name.starts_with(CLEARING);
            // Only directories are ours.
            if stat.kind == StatKind::Directory
                && is_due
                && let Err(error) = clear(&self.dir, name, budget)
            {
                tracing::warn!(run = name, %error, "an old run cannot be deleted from the trash");
            }
        }
        Ok(())
    }
}

/// Tries a name, then the same with suffixes, until one is accepted.
fn try_names<T>(name: &str, mut attempt: impl FnMut(&str) -> io::Result<Option<T>>) -> io::Result<T> {
    if let Some(done) = attempt(name)? {
        return Ok(done);
    }
    let stem = &name[..name.floor_char_boundary(KEPT_NAME_BYTES)];
    for number in 2..=NUMBERED {
        if let Some(done) = attempt(&format!("{stem}~{number}"))? {
            return Ok(done);
        }
    }
    for _ in 0..RANDOM {
        let random = getrandom::u64().map_err(io::Error::other)?;
        if let Some(done) = attempt(&format!("{stem}~{random:016x}"))? {
            return Ok(done);
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Deletes `name` in `dir` with everything below it, up to `budget` names, and never through a link.
///
/// Directories are moved up before they are emptied, so that any depth needs two handles only.
pub(super) fn clear(dir: &Dir, name: &str, budget: &mut u64) -> io::Result<()> {
    if dir.stat(name)?.kind != StatKind::Directory {
        *budget = budget.saturating_sub(1);
        return dir.remove_file(name);
    }
    let mut waiting = vec![name.to_owned()];
    let mut moved = 0_u64;
    while let Some(name) = waiting.pop() {
        // Its mode came from elsewhere; if it cannot be changed, what follows says why.
        let _ = dir.set_mode(&name, PRIVATE_MODE);
        let inner = dir.open_dir(&name)?;
        for entry in inner.list()? {
            if *budget == 0 {
                return Ok(());
            }
            *budget -= 1;
            if inner.stat_raw(&entry.name)?.kind == StatKind::Directory {
                waiting.push(move_up(&inner, &entry.name, dir, &mut moved)?);
            } else {
                inner.remove_file_raw(&entry.name)?;
            }
        }
        dir.remove_dir(&name)?;
    }
    Ok(())
}

/// Moves a directory, whose name need not be UTF-8, to a free name in `to`.
fn move_up(from: &Dir, name: &[u8], to: &Dir, moved: &mut u64) -> io::Result<String> {
    // A directory can only change its parent if it may be written.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match std::str::from_utf8(name) {
        Ok(name) => from.set_mode(name, PRIVATE_MODE)?,
        Err(_) => fchmod(openat(from, name, flags, Mode::empty())?, Mode::RWXU)?,
    }
    loop {
        *moved += 1;
        let up = format!("{CLEARING}{moved:x}");
        if to.stat(&up).is_ok() {
            continue;
        }
        from.rename_raw(name, to, &up)?;
        return Ok(up);
    }
}

fn now() -> Time {
    time_of(SystemTime::now())
}

pub(super) fn time_of(time: SystemTime) -> Time {
    // A clock before 1970 is not set; nothing is old then.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}
