//! Watchers that do what a test says.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
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
    limit: AtomicUsize,
    no_instances: AtomicBool,
    muted: AtomicBool,
    /// Events that wait to be let through; `None`: they pass.
    held: Mutex<Option<Vec<WatchEvent>>>,
    /// Taken for each watch that is placed.
    gate: Mutex<()>,
    panics: AtomicBool,
    starts: AtomicUsize,
    sink: Mutex<Option<EventSink>>,
    watched: Mutex<BTreeSet<PathBuf>>,
}

impl Meddler {
    /// Lets as many directories be watched.
    pub(crate) fn with_limit(limit: usize) -> Self {
        Self(Arc::new(Meddling {
            limit: AtomicUsize::new(limit),
            no_instances: AtomicBool::new(false),
            muted: AtomicBool::new(false),
            held: Mutex::default(),
            gate: Mutex::default(),
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
        if self.0.no_instances.load(Ordering::SeqCst) {
            return Err(WatchError::Instances);
        }
        self.0.starts.fetch_add(1, Ordering::SeqCst);
        self.0.watched.lock().unwrap().clear();
        *self.0.sink.lock().unwrap() = Some(Arc::clone(&sink));
        let this = self.clone();
        let filtered: EventSink = Arc::new(move |event| {
            if this.0.muted.load(Ordering::SeqCst) {
                return;
            }
            match &mut *this.0.held.lock().unwrap() {
                Some(held) => held.push(event),
                None => sink(event),
            }
        });
        let system = start_system_watcher(filtered)?;
        Ok(Box::new(Meddled { meddler: self.clone(), system }))
    }

    /// From now on no event arrives, or all do.
    pub(crate) fn mute(&self, muted: bool) {
        self.0.muted.store(muted, Ordering::SeqCst);
    }

    /// From now on events are held back.
    pub(crate) fn hold(&self) {
        *self.0.held.lock().unwrap() = Some(Vec::new());
    }

    /// What was held back arrives late.
    pub(crate) fn release(&self) {
        let held = self.0.held.lock().unwrap().take();
        held.into_iter().flatten().for_each(|event| self.inject(event));
    }

    /// From now on so many directories can be watched.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.0.limit.store(limit, Ordering::SeqCst);
    }

    /// From now on no watcher can be started, or one can.
    pub(crate) fn refuse_starts(&self, refused: bool) {
        self.0.no_instances.store(refused, Ordering::SeqCst);
    }

    /// No watch is placed, and so no look that places one goes on, while this is held.
    pub(crate) fn hold_watches(&self) -> MutexGuard<'_, ()> {
        self.0.gate.lock().unwrap()
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
        drop(self.meddler.0.gate.lock().unwrap());
        let mut watched = self.meddler.0.watched.lock().unwrap();
        // The system ends the others by itself.
        #[expect(clippy::disallowed_methods, reason = "the tree is the test's own")]
        watched.retain(|dir| dir.exists());
        if watched.len() >= self.meddler.0.limit.load(Ordering::SeqCst) && !watched.contains(dir) {
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
