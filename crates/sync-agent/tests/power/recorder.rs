//! Listens to the calls of an engine and tells them to a model of the disk.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::{fd::BorrowedFd, unix::fs::FileExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
    time::Duration,
};

use crate::states::copy_database;
use rustix::fs::{AtFlags, statat};
use sync_testkit::power::{Disk, Event, Ino, Spot, What, scan};
use sync_tree::probe::{Call, Installed, Op, OpKind, Probe, install};

/// The index as it was at one commit.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// How many events came before it was written.
    pub(crate) since: usize,
    /// And before that was heard of.
    pub(crate) until: usize,
    /// A copy of the database.
    pub(crate) path: PathBuf,
    /// What the model calls the inodes that have these numbers.
    pub(crate) numbers: HashMap<u64, Ino>,
}

/// All that an engine did.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    /// The disk before.
    pub(crate) before: Disk,
    /// What was done, in order.
    pub(crate) events: Vec<Event>,
    /// The index before, if there was one.
    pub(crate) first: Option<Image>,
    /// The commits.
    pub(crate) images: Vec<Image>,
    /// When they were flushed, by how many events came before, and how many of them.
    pub(crate) flushes: Vec<(usize, usize)>,
}

struct State {
    disk: Disk,
    trace: Trace,
    numbers: HashMap<u64, Ino>,
    /// Names in which inode numbers stand, and what the model calls them.
    names: HashMap<Spot, Vec<u8>>,
    /// The flushes and commits that have begun, and how many events came before.
    begun: HashMap<ThreadId, usize>,
}

/// The listener.
pub(crate) struct Recorder {
    images: PathBuf,
    state: Mutex<State>,
    /// Something was heard of.
    heard: Condvar,
}

/// Far longer than a thread needs from a call to saying so.
const PATIENCE: Duration = Duration::from_secs(20);

/// Records what is done to a target, until it is told to stop.
pub(crate) struct Recording {
    recorder: Arc<Recorder>,
    installed: Installed,
}

impl Recording {
    /// Everything in the target is taken to be safe now. Copies of the database go to `images`.
    pub(crate) fn start(target: &Path, images: &Path) -> Self {
        std::fs::create_dir_all(images).unwrap();
        // The database writes itself, and its commits are recorded as such.
        let is_database = |path: &Path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("target.db"))
        };
        let (disk, numbers) = scan(target, is_database).unwrap();
        let database = target.join(".syncd/target.db");
        let first = database.is_file().then(|| {
            let path = images.join("first.db");
            copy_database(&database, &path);
            Image { since: 0, until: 0, path, numbers: numbers.clone() }
        });
        let trace = Trace {
            before: disk.clone(),
            events: Vec::new(),
            first,
            images: Vec::new(),
            flushes: Vec::new(),
        };
        let state = State { disk, trace, numbers, names: HashMap::new(), begun: HashMap::new() };
        let recorder =
            Arc::new(Recorder { images: images.to_owned(), state: Mutex::new(state), heard: Condvar::new() });
        let installed = install(target, recorder.clone());
        Self { recorder, installed }
    }

    /// All that was done.
    pub(crate) fn stop(self) -> Trace {
        drop(self.installed);
        self.recorder.lock().trace.clone()
    }
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probe for Recorder {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        if call.op.kind() == OpKind::Flushes || call.op == Op::Commit {
            let mut state = self.lock();
            let since = state.disk.events();
            state.begun.insert(thread::current().id(), since);
        }
        Ok(())
    }

    fn after(&self, call: &Call<'_>, made: Option<BorrowedFd<'_>>) {
        if matches!(call.op.kind(), OpKind::Changes | OpKind::Flushes) {
            let mut state = self.lock();
            // A thread may work in a directory before the one that made it gets to say so.
            while !state.knows(call) {
                let waited = self.heard.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner);
                assert!(!waited.1.timed_out(), "{call:?} in what nobody made");
                state = waited.0;
            }
            state.take(call, made, &self.images);
            self.heard.notify_all();
        }
    }
}

impl State {
    fn take(&mut self, call: &Call<'_>, made: Option<BorrowedFd<'_>>, images: &Path) {
        match call.op {
            Op::Create | Op::CreateUnnamed | Op::MakeDir | Op::Symlink => self.made(call, made),
            Op::Link => {
                let ino = self.file(call);
                let at = self.spot(call);
                self.add(Event::Link { ino, at });
            }
            Op::RemoveFile | Op::RemoveDir => {
                let spot = self.spot(call);
                self.add(Event::Remove(spot));
            }
            Op::Rename | Op::RenameNew => {
                let (from, to) = (self.spot(call), self.other(call));
                self.add(Event::Rename(from, to));
            }
            Op::Exchange => {
                let (from, to) = (self.spot(call), self.other(call));
                self.add(Event::Exchange(from, to));
            }
            Op::Write | Op::SetLen | Op::Copy => self.written(call),
            Op::SetMode | Op::SetTimes => self.set(call),
            Op::Commit => self.committed(call, images),
            Op::SyncFile | Op::SyncDir | Op::SyncFs | Op::SyncIndex => self.flushed(call),
            Op::OpenFile | Op::OpenDir | Op::List | Op::Read | Op::Stat | Op::ReadLink | Op::Query => {}
            Op::Checked | Op::Taken => {}
        }
    }

    fn knows(&self, call: &Call<'_>) -> bool {
        let handles = [call.in_dir(), call.of_file(), call.other().map(|(dir, _)| dir)];
        handles.into_iter().flatten().all(|handle| self.numbers.contains_key(&stat(handle).st_ino))
    }

    fn add(&mut self, event: Event) {
        let made = self.disk.apply(&event);
        debug_assert!(made.is_none(), "new inodes are added elsewhere");
        self.trace.events.push(event);
    }

    fn made(&mut self, call: &Call<'_>, made: Option<BorrowedFd<'_>>) {
        let named = call.op != Op::CreateUnnamed;
        let at = named.then(|| self.spot(call));
        let found = match made {
            Some(file) => stat(file),
            None => {
                let dir = call.in_dir().expect("it is made in a directory");
                statat(dir, call.name, AtFlags::SYMLINK_NOFOLLOW).expect("it was just made")
            }
        };
        // A file that is opened, and made only if it is missing.
        if let Some(spot) = &at
            && self.disk.named(spot).is_some()
        {
            return;
        }
        let what = match call.op {
            Op::MakeDir => What::Directory,
            Op::Symlink => What::Link(call.bytes.to_vec()),
            _ => What::File,
        };
        let event = Event::New { what, mode: (found.st_mode & 0o7777) as u16, at };
        let ino = self.disk.apply(&event).expect("it is new");
        self.trace.events.push(event);
        self.numbers.insert(found.st_ino, ino);
    }

    fn written(&mut self, call: &Call<'_>) {
        let ino = self.file(call);
        let mut bytes = self.disk.bytes(ino).to_vec();
        let at = usize::try_from(call.at).unwrap();
        match call.op {
            Op::Write => {
                bytes.resize(bytes.len().max(at + call.bytes.len()), 0);
                bytes[at..at + call.bytes.len()].copy_from_slice(call.bytes);
            }
            Op::SetLen => bytes.resize(at, 0),
            _ => {
                let file = call.of_file().expect("a copy has a file").try_clone_to_owned().map(File::from);
                bytes.resize(at, 0);
                file.unwrap().read_exact_at(&mut bytes, 0).unwrap();
            }
        }
        self.add(Event::Bytes(ino, bytes.into()));
    }

    fn set(&mut self, call: &Call<'_>) {
        let (ino, found) = match (call.of_file(), call.in_dir()) {
            (Some(file), _) => (self.number(stat(file).st_ino), stat(file)),
            (None, Some(dir)) => {
                let spot = self.spot(call);
                let ino = self.disk.named(&spot).unwrap_or_else(|| panic!("{call:?} of nothing"));
                (ino, statat(dir, call.name, AtFlags::SYMLINK_NOFOLLOW).unwrap())
            }
            (None, None) => panic!("{call:?} of nothing"),
        };
        let event = match call.op {
            Op::SetMode => Event::Mode(ino, (found.st_mode & 0o7777) as u16),
            _ => Event::Time(ino, (found.st_mtime, found.st_mtime_nsec as u32)),
        };
        self.add(event);
    }

    fn flushed(&mut self, call: &Call<'_>) {
        let since = self.begun.remove(&thread::current().id()).expect("a flush begins before it ends");
        if call.op == Op::SyncIndex {
            let images = self.trace.images.iter().filter(|image| image.until <= since).count();
            self.add(Event::Mark);
            return self.trace.flushes.push((self.disk.events(), images));
        }
        let event = match call.op {
            Op::SyncFs => Event::SyncAll { since },
            Op::SyncFile => Event::Sync { ino: self.file(call), since },
            _ => Event::Sync { ino: self.dir(call.in_dir()), since },
        };
        self.add(event);
    }

    /// The writer is still locked, so nobody writes to the database meanwhile.
    fn committed(&mut self, call: &Call<'_>, images: &Path) {
        let since = self.begun.remove(&thread::current().id()).expect("a commit begins before it ends");
        let (from, path) = (call.place(), images.join(format!("{}.db", self.trace.images.len())));
        copy_database(&from, &path);
        self.add(Event::Mark);
        let until = self.disk.events();
        self.trace.images.push(Image { since, until, path, numbers: self.numbers.clone() });
    }

    fn number(&self, number: u64) -> Ino {
        *self.numbers.get(&number).expect("every inode was heard of")
    }

    fn file(&self, call: &Call<'_>) -> Ino {
        self.number(stat(call.of_file().expect("it is about a file")).st_ino)
    }

    fn dir(&self, dir: Option<BorrowedFd<'_>>) -> Ino {
        self.number(stat(dir.expect("it is about a directory")).st_ino)
    }

    fn spot(&mut self, call: &Call<'_>) -> Spot {
        let dir = self.dir(call.in_dir());
        self.called(dir, call.name)
    }

    fn other(&mut self, call: &Call<'_>) -> Spot {
        let (dir, name) = call.other().expect("it has two places");
        let dir = self.dir(Some(dir));
        self.called(dir, name)
    }

    /// Names in staging tell which inode is meant. In another directory that has another number.
    fn called(&mut self, dir: Ino, name: &[u8]) -> Spot {
        let Some(parts) = numbered(name) else { return (dir, name.to_vec()) };
        let spot = (dir, name.to_vec());
        if let Some(known) = self.names.get(&spot) {
            return (dir, known.clone());
        }
        let call = |number: &str| match number.parse().ok().and_then(|number| self.numbers.get(&number)) {
            Some(ino) => format!("@{ino}"),
            None => number.to_owned(),
        };
        let parts: Vec<String> = parts
            .iter()
            .map(|part| match part.split_once('.') {
                Some((number, rest)) => format!("{}.{rest}", call(number)),
                None => (*part).to_owned(),
            })
            .collect();
        let mut parts = parts;
        if parts[0] == "new" {
            parts[1] = call(&parts[1]);
        }
        let known = parts.join("-").into_bytes();
        self.names.insert(spot, known.clone());
        (dir, known)
    }
}

/// The parts of a name like `new-INO-INO.SIZE.SECS.NANOS-N` or `old-INO.SIZE.SECS.NANOS-N`.
fn numbered(name: &[u8]) -> Option<Vec<&str>> {
    let parts: Vec<&str> = std::str::from_utf8(name).ok()?.split('-').collect();
    let is_ours = match parts[0] {
        "new" => parts.len() >= 3,
        "old" => parts.len() >= 2,
        _ => false,
    };
    is_ours.then_some(parts)
}

fn stat(fd: BorrowedFd<'_>) -> rustix::fs::Stat {
    rustix::fs::fstat(fd).expect("an open file can be looked at")
}

/// Looks at a path.
pub(crate) fn stat_of(path: &Path) -> rustix::fs::Stat {
    rustix::fs::lstat(path).expect("it is there")
}
