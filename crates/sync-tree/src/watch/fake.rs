//! Watchers that do what a test says.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::{EventSink, WatchError, WatchEvent, Watcher, WatcherFactory, start_system_watcher};

/// Records what is watched, up to a limit. Clones share the record.
#[derive(Clone)]
pub(crate) struct FakeWatcher(Arc<Mutex<Record>>);

struct Record {
    limit: usize,
    watched: BTreeSet<PathBuf>,
}

impl Default for FakeWatcher {
    fn default() -> Self {
        Self::with_limit(usize::MAX)
    }
}

impl FakeWatcher {
    pub(crate) fn with_limit(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Record { limit, watched: BTreeSet::new() })))
    }

    pub(crate) fn handle(&self) -> Box<dyn Watcher> {
        Box::new(self.clone())
    }

    pub(crate) fn set_limit(&self, limit: usize) {
        self.0.lock().unwrap().limit = limit;
    }

    pub(crate) fn watched(&self) -> Vec<String> {
        self.0.lock().unwrap().watched.iter().map(|path| path.display().to_string()).collect()
    }
}

impl Watcher for FakeWatcher {
    fn watch(&mut self, dir: &Path) -> Result<(), WatchError> {
        let mut record = self.0.lock().unwrap();
        if record.watched.len() >= record.limit && !record.watched.contains(dir) {
            return Err(WatchError::Limit);
        }
        record.watched.insert(dir.to_path_buf());
        Ok(())
    }

    fn unwatch(&mut self, dirs: &[PathBuf]) {
        let mut record = self.0.lock().unwrap();
        for dir in dirs {
            record.watched.remove(dir);
        }
    }
}

/// The system's watcher, with a hand in between.
#[derive(Clone)]
pub(crate) struct Meddler(Arc<Meddling>);

struct Meddling {
    limit: usize,
    muted: AtomicBool,
    panics: AtomicBool,
    starts: AtomicUsize,
    sink: Mutex<Option<EventSink>>,
    watched: Mutex<BTreeSet<PathBuf>>,
}

impl Meddler {
    /// Lets as many directories be watched.
    pub(crate) fn with_limit(limit: usize) -> Self {
        Self(Arc::new(Meddling {
            limit,
            muted: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            starts: AtomicUsize::new(0),
            sink: Mutex::new(None),
            watched: Mutex::default(),
        }))
    }

    pub(crate) fn factory(&self) -> WatcherFactory {
        let this = self.clone();
        Box::new(move |sink| this.start(sink))
    }

    fn start(&self, sink: EventSink) -> Result<Box<dyn Watcher>, WatchError> {
        assert!(!self.0.panics.load(Ordering::SeqCst), "the watcher was told to panic");
        self.0.starts.fetch_add(1, Ordering::SeqCst);
        self.0.watched.lock().unwrap().clear();
        *self.0.sink.lock().unwrap() = Some(Arc::clone(&sink));
        let this = self.clone();
        let filtered: EventSink = Arc::new(move |event| {
            if !this.0.muted.load(Ordering::SeqCst) {
                sink(event);
            }
        });
        let system = start_system_watcher(filtered)?;
        Ok(Box::new(Meddled { meddler: self.clone(), system }))
    }

    /// From now on no event arrives, or all do.
    pub(crate) fn mute(&self, muted: bool) {
        self.0.muted.store(muted, Ordering::SeqCst);
    }

    /// The next start panics.
    pub(crate) fn panic_at_start(&self) {
        self.0.panics.store(true, Ordering::SeqCst);
    }

    /// Reports an event that the system did not.
    pub(crate) fn inject(&self, event: WatchEvent) {
        let sink = self.0.sink.lock().unwrap().clone();
        sink.expect("the watcher was started")(event);
    }

    pub(crate) fn starts(&self) -> usize {
        self.0.starts.load(Ordering::SeqCst)
    }

    pub(crate) fn watched(&self) -> BTreeSet<PathBuf> {
        self.0.watched.lock().unwrap().clone()
    }
}

struct Meddled {
    meddler: Meddler,
    system: Box<dyn Watcher>,
}

impl Watcher for Meddled {
    fn watch(&mut self, dir: &Path) -> Result<(), WatchError> {
        let mut watched = self.meddler.0.watched.lock().unwrap();
        if watched.len() >= self.meddler.0.limit && !watched.contains(dir) {
            return Err(WatchError::Limit);
        }
        self.system.watch(dir)?;
        watched.insert(dir.to_path_buf());
        Ok(())
    }

    fn unwatch(&mut self, dirs: &[PathBuf]) {
        self.system.unwatch(dirs);
        self.meddler.0.watched.lock().unwrap().retain(|dir| !dirs.contains(dir));
    }
}
