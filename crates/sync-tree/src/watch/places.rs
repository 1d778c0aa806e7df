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
};

use sync_core::TreePath;

use super::{WatchError, Watcher, limits::Trouble};

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
    polled: BTreeMap<TreePath, Unwatched>,
    /// Directories of the last look at everything.
    entered: u64,
    /// Whether the present look is one at everything.
    everything: bool,
    /// The look that hit the limit last. Further attempts in it would each cost a call and fail too.
    limit_hit: Option<u64>,
    /// Whether a limit is why something is polled.
    limited: bool,
    /// The first failure that was not the limit, for people.
    failure: Option<String>,
}

/// What has no watch at a polled place and below it.
#[derive(Debug, Clone, Copy)]
struct Unwatched {
    directories: u64,
    /// The look that counted them.
    look: u64,
}

/// How many directories are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Coverage {
    pub(crate) watched: u64,
    pub(crate) directories: u64,
}

impl Places {
    /// No directory is watched yet.
    pub(crate) fn new(root: &Path, watcher: Option<Box<dyn Watcher>>) -> Self {
        Self(Mutex::new(Inner {
            root: root.to_path_buf(),
            watcher,
            watched: BTreeMap::new(),
            look: 0,
            polled: BTreeMap::new(),
            entered: 0,
            everything: false,
            limit_hit: None,
            limited: false,
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
        inner.limited = false;
        inner.failure = None;
    }

    /// Starts a look at these places with all below them (the root: everything): what was polled there is given a new
    /// chance.
    pub(crate) fn begin(&self, deep: &[TreePath]) {
        let mut inner = self.inner();
        inner.look += 1;
        inner.everything = deep.iter().any(TreePath::is_root);
        if inner.everything {
            inner.entered = 0;
        }
        for scope in deep {
            inner.polled.retain(|path, _| !path.is_within(scope));
        }
        if inner.polled.is_empty() {
            inner.limited = false;
            inner.failure = None;
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
    pub(crate) fn enter(&self, dir: &TreePath) {
        let mut guard = self.inner();
        let inner = &mut *guard;
        inner.entered += u64::from(inner.everything);
        let path = inner.path(dir);
        let (look, is_watched) = (inner.look, inner.watched.contains_key(dir));
        let Some(watcher) = &mut inner.watcher else { return };
        if inner.limit_hit == Some(look) && !is_watched {
            return inner.poll(dir);
        }
        match watcher.watch(&path) {
            Ok(()) => {
                inner.watched.insert(dir.clone(), look);
            }
            // Its parent's watch told so, or the list will show it.
            Err(WatchError::Gone) => {}
            Err(WatchError::Limit | WatchError::Instances) => {
                inner.limit_hit = Some(look);
                inner.limited = true;
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
        self.inner().polled.keys().cloned().collect()
    }

    /// Whether there are such.
    pub(crate) fn has_polled(&self) -> bool {
        !self.inner().polled.is_empty()
    }

    /// How many directories are watched. Of those that came since the last poll, some may be left out.
    pub(crate) fn coverage(&self) -> Coverage {
        let inner = self.inner();
        if inner.watcher.is_none() {
            return Coverage { watched: 0, directories: inner.entered };
        }
        let watched = inner.watched.len() as u64;
        Coverage { watched, directories: watched + inner.unwatched() }
    }

    /// Why something is polled, if it is.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        let inner = self.inner();
        if inner.polled.is_empty() {
            return None;
        }
        if inner.limited {
            return Some(Trouble::no_watches(inner.watched.len() as u64 + inner.unwatched()));
        }
        let failure = inner.failure.as_deref().map(|failure| format!(" ({failure})")).unwrap_or_default();
        Some(Trouble::only(format!("watches could not be placed{failure}")))
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

    fn unwatched(&self) -> u64 {
        self.polled.values().map(|unwatched| unwatched.directories).sum()
    }

    fn poll(&mut self, dir: &TreePath) {
        let look = self.look;
        // It may have had one, of a directory that was here before.
        self.watched.remove(dir);
        let mut above = std::iter::successors(Some(dir.clone()), TreePath::parent);
        if let Some(cover) = above.find(|path| self.polled.contains_key(path)) {
            // What an earlier look counted has this directory already, or the next poll counts it.
            if let Some(unwatched) = self.polled.get_mut(&cover).filter(|unwatched| unwatched.look == look) {
                unwatched.directories += 1;
            }
            return;
        }
        let below: BTreeSet<TreePath> =
            self.polled.keys().filter(|path| path.is_within(dir)).cloned().collect();
        let counted = below.iter().filter_map(|path| self.polled.remove(path));
        let directories = 1 + counted.map(|unwatched| unwatched.directories).sum::<u64>();
        self.polled.insert(dir.clone(), Unwatched { directories, look });
        if self.polled.len() > MOST_POLLED {
            let all = Unwatched { directories: self.unwatched(), look };
            self.polled = BTreeMap::from([(TreePath::root(), all)]);
        }
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
            places.enter(&path(dir));
        }
        assert_eq!(fake.watched(), ["/t", "/t/a", "/t/a/b", "/t/a-c", "/t/ab"]);
        places.leave(&path("a"));
        assert_eq!(fake.watched(), ["/t", "/t/a-c", "/t/ab"]);
        assert_eq!(places.coverage(), Coverage { watched: 3, directories: 3 });
        assert!(places.polled().is_empty() && places.trouble().is_none());
    }

    #[test]
    fn what_a_look_does_not_enter_any_more_is_not_watched() {
        let fake = FakeWatcher::default();
        let places = places(&fake);
        for dir in ["", "a", "a/b", "a/c", "d"] {
            places.enter(&path(dir));
        }
        places.begin(&[path("a")]);
        places.enter(&path("a"));
        places.enter(&path("a/c"));
        places.finish(&[path("a")]);
        assert_eq!(fake.watched(), ["/t", "/t/a", "/t/a/c", "/t/d"]);
        places.forget(&path("a"));
        assert_eq!(
            (places.coverage().watched, fake.watched().len()),
            (2, 4),
            "the system ends those by itself"
        );
    }

    #[test]
    fn what_cannot_be_watched_is_polled_and_said_with_the_number() {
        let fake = FakeWatcher::with_limit(2);
        let places = places(&fake);
        places.begin(&[TreePath::root()]);
        for dir in ["", "a", "b", "b/c", "d"] {
            places.enter(&path(dir));
        }
        assert_eq!(places.polled(), [path("b"), path("d")]);
        assert_eq!(places.coverage(), Coverage { watched: 2, directories: 5 });
        let trouble = places.trouble().unwrap();
        assert!(trouble.reason.contains("the limit of watches is reached"), "{trouble:?}");
        assert!(
            !cfg!(target_os = "linux") || trouble.advice.contains("sysctl -w fs.inotify."),
            "{trouble:?}"
        );
    }

    #[test]
    fn a_raised_limit_is_used_by_the_next_look() {
        let fake = FakeWatcher::with_limit(1);
        let places = places(&fake);
        for dir in ["", "a", "b"] {
            places.enter(&path(dir));
        }
        assert_eq!(places.polled(), [path("a"), path("b")]);
        for (limit, polled) in [(2, vec![path("b")]), (10, vec![])] {
            fake.set_limit(limit);
            places.begin(&[path("a"), path("b")]);
            places.enter(&path("a"));
            places.enter(&path("b"));
            assert_eq!(places.polled(), polled);
        }
        assert!(places.trouble().is_none());
        assert_eq!(places.coverage(), Coverage { watched: 3, directories: 3 });
    }

    #[test]
    fn polling_again_and_again_counts_nothing_twice() {
        let fake = FakeWatcher::with_limit(2);
        let places = places(&fake);
        let all = ["", "a", "b", "b/c", "b/c/d", "e"];
        places.begin(&[TreePath::root()]);
        all.iter().for_each(|dir| places.enter(&path(dir)));
        for _ in 0..3 {
            places.begin(&[path("b"), path("e")]);
            all[2..].iter().for_each(|dir| places.enter(&path(dir)));
            // An event in a polled place, of a look that is not a poll.
            places.begin(&[path("b/c")]);
            places.enter(&path("b/c"));
            assert_eq!(places.coverage(), Coverage { watched: 2, directories: 6 });
        }
        assert_eq!(places.polled(), [path("b"), path("e")]);
    }

    #[test]
    fn a_directory_that_lost_its_watch_and_gets_none_is_not_called_watched() {
        let fake = FakeWatcher::with_limit(2);
        let places = places(&fake);
        for dir in ["", "a"] {
            places.enter(&path(dir));
        }
        // As if it was made anew, and somebody else took the watch.
        fake.handle().unwatch(&[PathBuf::from("/t/a")]);
        fake.set_limit(1);
        places.begin(&[path("a")]);
        places.enter(&path("a"));
        assert_eq!((places.coverage().watched, places.polled()), (1, vec![path("a")]));
    }

    #[test]
    fn without_a_watcher_directories_are_counted_by_looks_at_everything() {
        let places = Places::new(Path::new("/t"), None);
        for round in 0..2 {
            places.begin(&[TreePath::root()]);
            ["", "a", "a/b"].iter().for_each(|dir| places.enter(&path(dir)));
            places.begin(&[path("a")]);
            places.enter(&path("a"));
            assert_eq!(places.coverage(), Coverage { watched: 0, directories: 3 }, "{round}");
        }
    }

    #[test]
    fn very_many_polled_directories_are_one() {
        let fake = FakeWatcher::with_limit(1);
        let places = places(&fake);
        places.enter(&path(""));
        let many = MOST_POLLED as u64 + 10;
        for number in 0..many {
            places.enter(&path(&format!("d{number}")));
        }
        assert_eq!(places.polled(), [TreePath::root()]);
        assert_eq!(places.coverage(), Coverage { watched: 1, directories: 1 + many });
    }
}
