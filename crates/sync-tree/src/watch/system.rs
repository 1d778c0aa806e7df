//! The system's own watcher, by way of the crate `notify`.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crossbeam_channel::{Receiver, bounded};
use notify::{
    Config, ErrorKind, Event, EventKind, EventKindMask, PathOp, RecommendedWatcher, RecursiveMode,
    WatchPathConfig, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};

use super::{EventSink, WatchError, WatchEvent, Watcher};

/// Starts the watcher of this system.
pub(crate) fn start_system_watcher(sink: EventSink) -> Result<Box<dyn Watcher>, WatchError> {
    // A write through a mapping is heard of at the close at last. Opening and reading are of no interest, and would
    // report our own hashing.
    let kinds = EventKindMask::CORE | EventKindMask::ACCESS_CLOSE;
    let config = Config::default().with_follow_symlinks(false).with_event_kinds(kinds);
    let (lives, ended) = bounded::<()>(0);
    let handler = move |event: notify::Result<Event>| {
        // Moved in: it goes with the handler, which the watcher's thread drops last of all.
        let _lives = &lives;
        translate(event, &*sink);
    };
    let watcher = RecommendedWatcher::new(handler, config).map_err(start_error)?;
    Ok(Box::new(SystemWatcher { watcher: Some(watcher), ended }))
}

/// How long the end of a watcher is waited for.
const END_PATIENCE: Duration = Duration::from_secs(1);

struct SystemWatcher {
    /// `None` only while it is dropped.
    watcher: Option<RecommendedWatcher>,
    /// Nothing ever comes; it is cut when the watcher's thread has ended.
    ended: Receiver<()>,
}

impl Drop for SystemWatcher {
    fn drop(&mut self) {
        // This only tells its thread to end.
        self.watcher = None;
        // If it takes longer, the next watcher may find no room and is tried again.
        let _ = self.ended.recv_timeout(END_PATIENCE);
    }
}

impl SystemWatcher {
    fn inner(&mut self) -> &mut RecommendedWatcher {
        self.watcher.as_mut().expect("it is there until it is dropped")
    }
}

impl Watcher for SystemWatcher {
    fn watch(&mut self, dir: &Path) -> Result<(), WatchError> {
        // A symlink that somebody put in the directory's place is not followed.
        let config = WatchPathConfig::new(RecursiveMode::NonRecursive).with_dereference_symlinks(false);
        self.inner().watch_with(dir, config).map_err(watch_error)
    }

    fn unwatch(&mut self, dirs: &[PathBuf]) {
        let mut ops: Vec<PathOp> = dirs.iter().map(PathOp::unwatch).collect();
        // A batch stops at the first watch that the system has ended by itself; the rest is still to be done.
        while let Err(error) = self.inner().update_paths(ops) {
            if error.remaining.is_empty() {
                return;
            }
            ops = error.remaining;
        }
    }
}

fn watch_error(error: notify::Error) -> WatchError {
    match error.kind {
        ErrorKind::MaxFilesWatch => WatchError::Limit,
        ErrorKind::PathNotFound => WatchError::Gone,
        // Also what is reported when a directory was replaced by something else meanwhile.
        ErrorKind::Io(source) if source.kind() == io::ErrorKind::NotADirectory => WatchError::Gone,
        ErrorKind::Io(source) => WatchError::Io { source },
        _ => WatchError::Io { source: io::Error::other(error.to_string()) },
    }
}

/// Why there is no watcher.
fn start_error(error: notify::Error) -> WatchError {
    match error.kind {
        // The kernel says the same of too many open files of this process, which is looked after elsewhere and rare.
        ErrorKind::Io(source) if source.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            WatchError::Instances
        }
        _ => watch_error(error),
    }
}

fn translate(event: notify::Result<Event>, sink: &(dyn Fn(WatchEvent) + Send + Sync)) {
    let Ok(event) = event else { return sink(WatchEvent::Lost) };
    if event.need_rescan() {
        return sink(WatchEvent::Lost);
    }
    let kind: fn(PathBuf) -> WatchEvent = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => WatchEvent::Touched,
        EventKind::Access(_) => return,
        EventKind::Modify(ModifyKind::Name(RenameMode::From)) | EventKind::Remove(_) => WatchEvent::Vanished,
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return translate_rename(event, sink),
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(_)) => WatchEvent::Appeared,
        EventKind::Modify(_) => WatchEvent::Touched,
        EventKind::Any | EventKind::Other => WatchEvent::Appeared,
    };
    event.paths.into_iter().map(kind).for_each(sink);
}

fn translate_rename(event: Event, sink: &(dyn Fn(WatchEvent) + Send + Sync)) {
    let mut paths = event.paths.into_iter();
    paths.next().map(WatchEvent::Vanished).into_iter().for_each(sink);
    paths.map(WatchEvent::Appeared).for_each(sink);
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use notify::event::{CreateKind, DataChange, Flag, RemoveKind};

    use super::*;

    fn translated(event: notify::Result<Event>) -> Vec<WatchEvent> {
        let seen = Mutex::new(Vec::new());
        // The sink's bounds ask for a static closure in production only.
        let sink = |event| seen.lock().unwrap().push(event);
        translate(event, &sink);
        seen.into_inner().unwrap()
    }

    #[test]
    fn every_kind_of_event_says_where_to_look() {
        let at = |kind| Ok(Event::new(kind).add_path("/t/a".into()));
        let path = || PathBuf::from("/t/a");
        let name = |mode| EventKind::Modify(ModifyKind::Name(mode));
        for (event, want) in [
            (at(EventKind::Create(CreateKind::Folder)), vec![WatchEvent::Appeared(path())]),
            (at(EventKind::Modify(ModifyKind::Data(DataChange::Any))), vec![WatchEvent::Touched(path())]),
            (at(EventKind::Access(AccessKind::Close(AccessMode::Write))), vec![WatchEvent::Touched(path())]),
            (at(EventKind::Access(AccessKind::Close(AccessMode::Read))), vec![]),
            (at(EventKind::Remove(RemoveKind::File)), vec![WatchEvent::Vanished(path())]),
            (at(EventKind::Remove(RemoveKind::Other)), vec![WatchEvent::Vanished(path())]),
            (at(name(RenameMode::From)), vec![WatchEvent::Vanished(path())]),
            (at(name(RenameMode::To)), vec![WatchEvent::Appeared(path())]),
            (Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)), vec![WatchEvent::Lost]),
            (Err(notify::Error::generic("broken")), vec![WatchEvent::Lost]),
        ] {
            let shown = format!("{event:?}");
            assert_eq!(translated(event), want, "{shown}");
        }
        let both = Event::new(name(RenameMode::Both)).add_path(path()).add_path("/t/b".into());
        assert_eq!(
            translated(Ok(both)),
            vec![WatchEvent::Vanished(path()), WatchEvent::Appeared("/t/b".into())]
        );
    }

    #[test]
    fn limits_are_told_apart() {
        assert!(matches!(watch_error(notify::Error::new(ErrorKind::MaxFilesWatch)), WatchError::Limit));
        assert!(matches!(watch_error(notify::Error::path_not_found()), WatchError::Gone));
        let too_many = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        assert!(matches!(start_error(notify::Error::io(too_many)), WatchError::Instances));
        assert!(matches!(start_error(notify::Error::new(ErrorKind::MaxFilesWatch)), WatchError::Limit));
    }
}
