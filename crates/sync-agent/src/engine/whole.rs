//! New directories that appear whole: workers fill them in staging, and the one that brings the last file gives it its place.
//!
//! Which those are the plan says, and why it is safe `sync_tree::apply::whole`. Invariants:
//! * Each item of such a directory is settled once, also one that cannot be had. So a run that goes to its end leaves none open.
//! * A run that ends early puts in place what came of the open ones, unless the disk failed: what was brought is not brought again,
//!   however often it is cut. The next one adds what is missing by the ordinary way.
//! * What comes into the way costs nothing but time: it is looked at, and the files come by the ordinary way.
//! * What is not in place to stay is not written down. Whoever watches the run is told of it as soon as it is in place.

use std::{
    iter,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sync_core::{
    Node, TreePath,
    plan::{self, Finish, Put},
};
use sync_tree::{
    apply::{ApplyError, NewDir, Place, Staged},
    rooted::Stat,
};

use super::{
    AppliedOp, EngineError,
    part::Item,
    phases::{Failed, is_stale},
    record::Done,
    transfer::{BATCH_FILES, Shared, Worker},
};

/// One such directory.
#[derive(Debug)]
pub(super) struct Whole {
    path: TreePath,
    remote: Node,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// It is made for its first file.
    new: Option<Arc<NewDir>>,
    /// So many files are neither in it nor given up.
    waiting: usize,
    /// The numbers of those in it, and what they are there.
    files: Vec<(usize, Stat)>,
}

/// A directory whose time has come: all that is known of it.
pub(super) struct Full {
    /// Any of its files.
    item: Item,
    new: Option<Arc<NewDir>>,
    files: Vec<(usize, Stat)>,
    /// It has its mode and time.
    dressed: bool,
}

/// A directory that is in its place with all its files.
#[derive(Debug)]
pub(super) struct Appeared {
    pub remote: Node,
    pub stat: Stat,
    item: Item,
    files: Vec<(usize, Stat)>,
}

impl Appeared {
    pub(super) fn files(&self) -> impl ExactSizeIterator<Item = (&Node, &Stat)> {
        self.files.iter().map(|(number, stat)| (self.item.other_put(*number).remote(), stat))
    }
}

#[cfg(test)]
impl Appeared {
    /// A directory with all files of a part, in their order.
    pub(super) fn of_part(remote: Node, stat: Stat, puts: Vec<Put>) -> Self {
        let files = (0..puts.len()).map(|number| (number, stat)).collect();
        let puts = super::part::Puts { files: puts, wholes: Vec::new() };
        let item = super::part::Part::begin(puts, None).next().expect("there is a file");
        Self { remote, stat, item, files }
    }
}

impl Whole {
    pub(super) fn new(planned: plan::Whole) -> Self {
        let plan::Whole { path, remote, files } = planned;
        let state = State { new: None, waiting: files, files: Vec::with_capacity(files) };
        Self { path, remote, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what became of a file. Answers how many are in it once all are settled.
    fn settle(&self, number: usize, stat: Option<Stat>) -> Option<usize> {
        let mut state = self.state();
        state.files.extend(stat.map(|stat| (number, stat)));
        state.waiting -= 1;
        (state.waiting == 0).then_some(state.files.len())
    }
}

impl Full {
    fn of(item: Item) -> Option<Self> {
        let (new, mut files) = {
            let mut state = item.whole()?.state();
            (state.new.take(), std::mem::take(&mut state.files))
        };
        // In the order of the plan, which mostly is that of their names and of their ids: so their rows are neighbours in every index.
        files.sort_unstable_by_key(|(number, _)| *number);
        Some(Self { item, new, files, dressed: false })
    }

    /// What has to be flushed of it.
    pub(super) fn unflushed(&self) -> Option<(&NewDir, usize)> {
        self.new.as_deref().map(|new| (new, self.files.len()))
    }

    /// Gives it its mode and time.
    fn dress(&self) -> Result<(), ApplyError> {
        match (&self.new, self.item.whole()) {
            (Some(new), Some(whole)) => new.dress(&whole.remote.entry),
            _ => Ok(()),
        }
    }
}

impl Shared {
    /// The directory in staging that an item goes to.
    fn new_dir(&self, item: &Item, whole: &Whole) -> Result<Arc<NewDir>, ApplyError> {
        let mut state = whole.state();
        if let Some(new) = &state.new {
            return Ok(new.clone());
        }
        let new = Arc::new(self.context.applier.new_dir()?);
        state.new = Some(new.clone());
        self.open().insert(whole.remote.id, item.clone());
        Ok(new)
    }

    /// A new directory cannot be made either.
    fn dir_failed(&self, error: ApplyError, whole: &Whole) {
        if error.is_fatal() || self.context.trouble.is_too_much(&error) {
            return self.fail(EngineError::Apply(error));
        }
        self.outcome().place_failed(&error, &whole.path, Failed::Remote(whole.remote.id));
    }
}

impl Worker<'_> {
    /// Puts a file whose bytes are here into its new directory.
    pub(super) fn fill(&mut self, item: &Item, whole: &Whole, bytes: &[u8]) {
        let written = self.shared.new_dir(item, whole).and_then(|new| new.write(item.node(), bytes));
        self.filled(item, written);
    }

    /// The same for one that was staged by itself: it was larger than it should have been.
    pub(super) fn fill_staged(&mut self, item: &Item, whole: &Whole, staged: Result<Staged, ApplyError>) {
        let placed = staged.and_then(|staged| {
            let new = self.shared.new_dir(item, whole)?;
            self.shared.context.applier.place_in(&new, staged, item.node(), item.put().path())
        });
        self.filled(item, placed);
    }

    fn filled(&mut self, item: &Item, result: Result<Stat, ApplyError>) {
        let stat = result.map_err(|error| {
            self.shared.place_failed(error.about(item.put().path()), item.put());
        });
        self.settle(item, stat.ok());
    }

    /// Takes note of what became of an item, if it belongs to such a directory.
    pub(super) fn settle(&mut self, item: &Item, stat: Option<Stat>) {
        let Some(files) = item.whole().and_then(|whole| whole.settle(item.number(), stat)) else { return };
        self.full_files += files;
        self.full.push(item.clone());
        if self.full_files >= BATCH_FILES {
            self.place_batch();
        }
    }

    /// All that is known of these directories, with their modes and times set.
    pub(super) fn dress_full(&self, items: Vec<Item>) -> Vec<Full> {
        let mut all = Vec::with_capacity(items.len());
        for item in items {
            if let Some(whole) = item.whole() {
                self.shared.open().remove(&whole.remote.id);
            }
            let Some(mut full) = Full::of(item) else { continue };
            let dressed = full.dress();
            full.dressed = dressed.is_ok();
            match dressed {
                Err(error) if error.is_fatal() => self.shared.fail(error.into()),
                _ => all.push(full),
            }
        }
        all
    }

    /// Gives a directory its place, or its files theirs.
    pub(super) fn place_full(&mut self, full: &Full) {
        let Some(whole) = full.item.whole() else { return };
        let appeared = match &full.new {
            Some(new) if full.dressed => self.appear(whole, new),
            // None of its files could be had, or it cannot have what belongs to it.
            _ => Ok(None),
        };
        match appeared {
            Ok(Some(stat)) => self.appeared(full, whole, stat),
            Ok(None) => self.place_singly(full, whole),
            Err(error) => {
                tracing::debug!(path = %whole.path, %error, "its files are placed one by one");
                self.place_singly(full, whole);
            }
        }
    }

    fn appear(&mut self, whole: &Whole, new: &NewDir) -> Result<Option<Stat>, ApplyError> {
        let (dir, name) = self.dirs.parent(&whole.path)?;
        self.unflushed.names(&dir);
        let at = Place { dir: &dir, name, path: &whole.path };
        self.shared.context.applier.place_dir(new, &at).map(Some)
    }

    fn appeared(&mut self, full: &Full, whole: &Whole, stat: Stat) {
        let puts: Vec<&Put> = full.files.iter().map(|(number, _)| full.item.other_put(*number)).collect();
        self.count_placed(&puts, AppliedOp::Create);
        let paths: Vec<_> = iter::once(&whole.path).chain(puts.iter().map(|put| put.path())).collect();
        self.shared.reporter.appeared(&paths);
        for put in puts {
            self.shared.reporter.file_done(put.path());
        }
        let (remote, item, files) = (whole.remote.clone(), full.item.clone(), full.files.clone());
        self.done.push(Done::Whole(Appeared { remote, stat, item, files }));
    }

    /// The ordinary way: the directory first, and then whatever is wanted in it. If something is there, it is looked at first.
    fn place_singly(&mut self, full: &Full, whole: &Whole) {
        let made = self.make_dir(whole);
        let is_taken = made.as_ref().is_err_and(is_stale);
        match made {
            Ok(stat) => {
                self.shared.reporter.applied(AppliedOp::Create, &whole.path, None);
                self.done.push(Done::Present { remote: whole.remote.clone(), over: None, stat });
            }
            Err(error) => self.shared.dir_failed(error, whole),
        }
        let finish = Finish { path: whole.path.clone(), remote: whole.remote.clone() };
        self.shared.outcome().unfinished.push(finish);
        let Some(new) = &full.new else { return };
        for (number, _) in &full.files {
            let item = full.item.other(*number);
            let placed = match is_taken {
                true => Err(ApplyError::Stale { path: item.put().path().clone() }),
                false => self.place_out(new, item.put()),
            };
            match placed {
                Ok(done) => self.done.push(done),
                Err(error) => self.not_placed(error, item.put()),
            }
        }
    }

    fn make_dir(&mut self, whole: &Whole) -> Result<Stat, ApplyError> {
        let (dir, name) = self.dirs.parent(&whole.path)?;
        self.unflushed.names(&dir);
        self.shared.context.applier.make_dir(&Place { dir: &dir, name, path: &whole.path })
    }

    fn place_out(&mut self, new: &NewDir, put: &Put) -> Result<Done, ApplyError> {
        let (dir, name) = self.dirs.parent(put.path())?;
        self.unflushed.names(&dir);
        let stat =
            self.shared.context.applier.place_out(new, &Place { dir: &dir, name, path: put.path() })?;
        self.placed(put, AppliedOp::Create);
        self.shared.reporter.file_done(put.path());
        Ok(Done::Present { remote: put.remote().clone(), over: None, stat })
    }

    /// The run is over: what came of directories that are not complete gets its place all the same.
    pub(super) async fn place_open(mut self) {
        let mut open: Vec<Item> = std::mem::take(&mut *self.shared.open()).into_values().collect();
        while !open.is_empty() {
            // Each has a few files at least, and few are open.
            let rest = open.split_off(open.len().min(BATCH_DIRS));
            self.place_all(Vec::new(), open);
            self.hand_over();
            self.send_ready().await;
            open = rest;
        }
    }
}

/// So many directories are flushed together at the end.
const BATCH_DIRS: usize = 64;
