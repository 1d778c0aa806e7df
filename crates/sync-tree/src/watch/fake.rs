//! A watcher that does what a test says.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::{WatchError, Watcher};

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
