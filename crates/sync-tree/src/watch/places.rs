//! Which directories are watched, and which have to be polled instead.
//!
//! Every look calls [`Places::enter`] for each directory it is about to list. Where the watch cannot be placed, the
//! directory joins the polled ones, with all that is below it; each look at it tries again, so that a raised limit or a
//! freed watch is used without a restart.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sync_core::TreePath;

use super::{WatchError, Watcher, watch_limit};

/// After a limit was hit, every further attempt would cost a call and fail too. It is tried again after this time.
const LIMIT_PAUSE: Duration = Duration::from_secs(30);

/// More polled subtrees than this are polled as one: the whole tree.
const MOST_POLLED: usize = 256;

/// The watched and the polled directories of one tree.
pub(crate) struct Places(Mutex<Inner>);

struct Inner {
    root: PathBuf,
    /// `None`: nothing is watched, on purpose or because no watcher could be started.
    watcher: Option<Box<dyn Watcher>>,
    /// With the number of the look that entered the directory last.
    watched: BTreeMap<TreePath, u64>,
    look: u64,
    /// Directories without a watch; none lies below another.
    polled: BTreeSet<TreePath>,
    /// Directories of the last look at everything, for the advice.
    directories: u64,
    limit_hit: Option<Instant>,
    /// The first failure that was not the limit, for people.
    failure: Option<String>,
}

impl Places {
    /// No directory is watched yet.
    pub(crate) fn new(root: &Path, watcher: Option<Box<dyn Watcher>>) -> Self {
        Self(Mutex::new(Inner {
            root: root.to_path_buf(),
            watcher,
            watched: BTreeMap::new(),
            look: 0,
            polled: BTreeSet::new(),
            directories: 0,
            limit_hit: None,
            failure: None,
        }))
    }

    /// Begins anew with another watcher: the old one's watches are gone or not to be trusted.
    pub(crate) fn restart(&self, root: &Path, watcher: Option<Box<dyn Watcher>>) {
        let mut inner = self.inner();
        inner.root = root.to_path_buf();
        inner.watcher = watcher;
        inner.watched.clear();
        inner.polled.clear();
        inner.limit_hit = None;
        inner.failure = None;
    }

    /// Starts a look at these places with all below them (the root: everything): what was polled there is given a new
    /// chance.
    pub(crate) fn begin(&self, deep: &[TreePath]) {
        let mut inner = self.inner();
        inner.look += 1;
        for scope in deep {
            if scope.is_root() {
                inner.directories = 0;
                inner.failure = None;
            }
            inner.polled.retain(|path| !path.is_within(scope));
        }
    }

    /// Ends a look that went through: directories in these places that it did not enter are not watched any more.
    pub(crate) fn finish(&self, deep: &[TreePath]) {
        let mut inner = self.inner();
        let look = inner.look;
        let mut stale = Vec::new();
        for scope in deep {
            stale
                .extend(inner.within(scope).filter(|(_, seen)| **seen != look).map(|(path, _)| path.clone()));
        }
        inner.end(&stale);
    }

    /// Watches a directory, right before it is listed.
    pub(crate) fn enter(&self, dir: &TreePath, now: Instant) {
        let mut guard = self.inner();
        let inner = &mut *guard;
        inner.directories += 1;
        let path = inner.path(dir);
        let paused = inner.limit_hit.is_some_and(|at| now.saturating_duration_since(at) < LIMIT_PAUSE);
        let Some(watcher) = &mut inner.watcher else { return };
        if paused && !inner.watched.contains_key(dir) {
            return inner.poll(dir);
        }
        match watcher.watch(&path) {
            Ok(()) => {
                let look = inner.look;
                inner.watched.insert(dir.clone(), look);
            }
            // Its parent's watch told so, or the list will show it.
            Err(WatchError::Gone) => {}
            Err(WatchError::Limit) => {
                inner.limit_hit = Some(now);
                inner.poll(dir);
            }
            // The look reports it as a problem, and the event of its mode's change comes from its parent.
            Err(WatchError::Io { source }) if source.kind() == io::ErrorKind::PermissionDenied => {}
            Err(WatchError::Io { source }) => {
                inner.failure.get_or_insert_with(|| format!("{dir}: {source}"));
                inner.poll(dir);
            }
        }
    }

    /// The system said that what was at `path` is not there any more, and has ended its watches by itself.
    pub(crate) fn forget(&self, path: &TreePath) {
        let mut inner = self.inner();
        let gone: Vec<TreePath> = inner.within(path).map(|(path, _)| path.clone()).collect();
        for path in gone {
            inner.watched.remove(&path);
        }
    }

    /// Ends the watches at `path` and below: they are on directories that are somewhere else now.
    pub(crate) fn leave(&self, path: &TreePath) {
        let mut inner = self.inner();
        let left: Vec<TreePath> = inner.within(path).map(|(path, _)| path.clone()).collect();
        inner.end(&left);
    }

    /// Directories that have to be polled, with all that is below them.
    pub(crate) fn polled(&self) -> Vec<TreePath> {
        self.inner().polled.iter().cloned().collect()
    }

    /// How many directories are watched.
    #[cfg(test)]
    pub(crate) fn watched(&self) -> usize {
        self.inner().watched.len()
    }

    /// What people should know when something is polled.
    pub(crate) fn trouble(&self) -> Option<String> {
        let inner = self.inner();
        let first = inner.polled.first()?;
        let which = match inner.polled.len() {
            1 => format!("{first} is"),
            count => format!("{first} and {} more directories are", count - 1),
        };
        let why = match (inner.limit_hit, &inner.failure) {
            (Some(_), _) => limit_advice(inner.watched.len() as u64, inner.directories),
            (None, Some(failure)) => format!("a watch could not be placed ({failure})"),
            (None, None) => "watches could not be placed".to_owned(),
        };
        Some(format!("{which} polled, so changes there are seen later: {why}"))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing below leaves the sets half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn path(&self, dir: &TreePath) -> PathBuf {
        if dir.is_root() { self.root.clone() } else { self.root.join(dir.as_str()) }
    }

    fn within<'a>(&'a self, path: &'a TreePath) -> impl Iterator<Item = (&'a TreePath, &'a u64)> {
        // All that lies within "a" sorts from "a" on, but "a-b" comes in between: it is skipped, not the end.
        self.watched
            .range(path.clone()..)
            .take_while(move |(other, _)| other.as_str().starts_with(path.as_str()))
            .filter(move |(other, _)| other.is_within(path))
    }

    fn end(&mut self, paths: &[TreePath]) {
        if paths.is_empty() {
            return;
        }
        for path in paths {
            self.watched.remove(path);
        }
        let dirs: Vec<PathBuf> = paths.iter().map(|path| self.path(path)).collect();
        if let Some(watcher) = &mut self.watcher {
            watcher.unwatch(&dirs);
        }
    }

    fn poll(&mut self, dir: &TreePath) {
        if self.polled.iter().any(|above| dir.is_within(above)) {
            return;
        }
        self.polled.retain(|below| !below.is_within(dir));
        self.polled.insert(dir.clone());
        if self.polled.len() > MOST_POLLED {
            self.polled = BTreeSet::from([TreePath::root()]);
        }
    }
}

fn limit_advice(watched: u64, directories: u64) -> String {
    // Other programs of this user count too, and trees grow.
    let raise_to = (directories.max(watched) * 2).next_power_of_two().max(524_288);
    match watch_limit() {
        Some((setting, limit)) => {
            let raise_to = raise_to.max(limit.saturating_mul(2));
            format!(
                "the limit of watches is reached ({setting} = {limit}); raise it with: sysctl -w {setting}={raise_to}"
            )
        }
        None => "the system's limit of watches is reached".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fake::FakeWatcher, *};

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    fn places(fake: &FakeWatcher) -> Places {
        Places::new(Path::new("/t"), Some(fake.handle()))
    }

    #[test]
    fn entered_directories_are_watched_and_left_ones_are_not() {
        let fake = FakeWatcher::default();
        let places = places(&fake);
        for dir in ["", "a", "a/b", "a-c", "ab"] {
            places.enter(&path(dir), Instant::now());
        }
        assert_eq!(fake.watched(), ["/t", "/t/a", "/t/a/b", "/t/a-c", "/t/ab"]);
        places.leave(&path("a"));
        assert_eq!(fake.watched(), ["/t", "/t/a-c", "/t/ab"]);
        assert_eq!(places.watched(), 3);
        assert!(places.polled().is_empty() && places.trouble().is_none());
    }

    #[test]
    fn what_a_look_does_not_enter_any_more_is_not_watched() {
        let fake = FakeWatcher::default();
        let places = places(&fake);
        for dir in ["", "a", "a/b", "a/c", "d"] {
            places.enter(&path(dir), Instant::now());
        }
        places.begin(&[path("a")]);
        places.enter(&path("a"), Instant::now());
        places.enter(&path("a/c"), Instant::now());
        places.finish(&[path("a")]);
        assert_eq!(fake.watched(), ["/t", "/t/a", "/t/a/c", "/t/d"]);
        places.forget(&path("a"));
        assert_eq!((places.watched(), fake.watched().len()), (2, 4), "the system ends those by itself");
    }

    #[test]
    fn what_cannot_be_watched_is_polled_and_said_with_the_number() {
        let fake = FakeWatcher::with_limit(2);
        let places = places(&fake);
        let now = Instant::now();
        for dir in ["", "a", "b", "b/c", "d"] {
            places.enter(&path(dir), now);
        }
        assert_eq!(places.polled(), [path("b"), path("d")]);
        let trouble = places.trouble().unwrap();
        assert!(trouble.contains("b and 1 more directories are polled"), "{trouble}");
        assert!(
            !cfg!(target_os = "linux") || trouble.contains("sysctl -w fs.inotify.max_user_watches="),
            "{trouble}"
        );
    }

    #[test]
    fn a_raised_limit_is_used_after_a_while() {
        let fake = FakeWatcher::with_limit(1);
        let places = places(&fake);
        let now = Instant::now();
        places.enter(&path(""), now);
        places.enter(&path("a"), now);
        assert_eq!(places.polled(), [path("a")]);
        fake.set_limit(10);
        places.begin(&[path("a")]);
        places.enter(&path("a"), now + Duration::from_secs(1));
        assert_eq!(places.polled(), [path("a")], "the limit was hit a moment ago");
        places.begin(&[path("a")]);
        places.enter(&path("a"), now + LIMIT_PAUSE);
        assert!(places.polled().is_empty());
        assert_eq!(places.watched(), 2);
    }

    #[test]
    fn very_many_polled_directories_are_one() {
        let fake = FakeWatcher::with_limit(1);
        let places = places(&fake);
        places.enter(&path(""), Instant::now());
        for number in 0..=MOST_POLLED {
            places.enter(&path(&format!("d{number}")), Instant::now());
        }
        assert_eq!(places.polled(), [TreePath::root()]);
    }
}
