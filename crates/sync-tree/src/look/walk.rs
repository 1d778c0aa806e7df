//! Walks directories in parallel and says how they differ from the index.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use crossbeam_channel::Sender;
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use sync_core::{Content, Entry, Kind, Name, NameError, Node, NodeId, Problem, Time, TreePath};

use super::{
    Dirty, Found, Here, LookError, LookLimits, LookObserver, LookReport, Looker, Memory, Places, Put, Scope,
    batch::{Batch, Part, Row},
    claim::Claim,
    clock_error,
    commit::{Committer, is_root},
    file::{Reader, Seen, Trust, carried_mode, is_as_known, look_at_link},
    mounts::{Boundary, Mounts},
    rules::LookRules,
};
use crate::{
    described::Described,
    fresh::Fresh,
    hash::Identity,
    index::{Index, IndexedNode, MOST_ON_SHEET},
    rooted::{Dir, RawDirEntry, Root, Stat, StatKind},
    rules::{Rules, SYNCIGNORE},
    trouble,
};

/// Batches between the walkers and the committer: one for each directory, so this bounds memory by directory size.
const BATCHES_AHEAD: usize = 64;

/// A directory with more names than this is looked at by several threads, in parts.
pub(super) const SHARED_FROM: usize = MOST_ON_SHEET;
const PART: usize = 256;

/// Names of one directory that are looked up in one transaction.
const NAMES_AT_ONCE: usize = 512;

/// The file in a target's state directory that says which share it is a target of.
pub const TARGET_OF: &str = "target-of";

/// The file in a share's state directory that says which share it is.
pub const SHARE_ID: &str = "share-id";

/// One look: walkers on threads of their own, the committer on this one.
pub(super) fn look(
    looker: &Looker,
    memory: &mut Memory,
    scope: &Scope,
    observer: &dyn LookObserver,
    limits: &LookLimits,
) -> Result<LookReport, LookError> {
    let rules = LookRules::load(&looker.policy, &looker.index)?;
    let began = looker.clock.now().map_err(|source| clock_error(&looker.root, source))?;
    let (found, batches) = crossbeam_channel::bounded(BATCHES_AHEAD);
    let walker = Walker {
        root: &looker.root,
        index: &looker.index,
        observer,
        mounts: memory.mounts.clone(),
        accept: limits.accept_emptied,
        trust: Trust { began, distrust: limits.distrust },
        rules: &rules,
        target_of: looker.target_of.clone(),
        described: looker.described.as_deref(),
        // A look at everything reads what nobody is about to ask for.
        fresh: looker.fresh.as_deref().filter(|fresh| matches!(scope, Scope::Places(_)) && fresh.is_wanted()),
        is_troubled: matches!(scope, Scope::Places(_)) && looker.index.has_problems()?,
        stop: AtomicBool::new(false),
        claimed: Mutex::new(HashSet::new()),
        found,
    };
    let committer = Committer::new(looker, memory, &rules, limits, observer)?;
    std::thread::scope(|threads| {
        // If the committer fails its receiver is dropped with it; the walkers then find nobody to tell and end.
        let walking = threads.spawn(move || walker.run_on_pool(scope));
        let result = committer.run(&batches, scope);
        drop(batches);
        match walking.join() {
            Ok(()) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

pub(super) struct Walker<'a> {
    pub(super) root: &'a Root,
    pub(super) index: &'a Index,
    observer: &'a dyn LookObserver,
    pub(super) mounts: Mounts,
    accept: bool,
    pub(super) trust: Trust,
    pub(super) rules: &'a LookRules,
    pub(super) target_of: Option<String>,
    /// Whether there are places that could not be read. If all are looked at, that does not matter.
    is_troubled: bool,
    described: Option<&'a Described>,
    fresh: Option<&'a Fresh>,
    stop: AtomicBool,
    /// Nodes that were found in a new place: each can be found only once.
    pub(super) claimed: Mutex<HashSet<NodeId>>,
    found: Sender<Vec<Found>>,
}

/// A directory that is to be walked.
pub(super) struct Visit {
    pub(super) here: Here,
    pub(super) dir: Dir,
    dev: u64,
    /// Whether the index may know something in it.
    pub(super) existed: bool,
    pub(super) rules: Arc<Rules>,
}

impl<'a> Walker<'a> {
    pub(super) fn send(&self, items: Vec<Found>) {
        if self.found.send(items).is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    fn stopped(&self) -> bool {
        if self.stop.load(Ordering::Relaxed) {
            return true;
        }
        if self.observer.cancelled() {
            self.stop.store(true, Ordering::Relaxed);
            self.send(vec![Found::Broken(LookError::Cancelled)]);
            return true;
        }
        false
    }

    fn run_on_pool(self, scope: &Scope) {
        let this = &self;
        rayon::scope(|tasks| {
            if let Err(error) = this.run(tasks, scope) {
                this.send(vec![Found::Broken(error)]);
            }
        });
    }

    fn run<'s>(&'s self, tasks: &rayon::Scope<'s>, scope: &Scope) -> Result<(), LookError> {
        match scope {
            Scope::Everything => self.run_everything(tasks),
            Scope::Places(places) if places.iter().any(|place| place.deep && place.path.is_root()) => {
                self.run_everything(tasks)
            }
            Scope::Places(places) => self.run_places(tasks, places),
        }
    }

    fn run_everything<'s>(&'s self, tasks: &rayon::Scope<'s>) -> Result<(), LookError> {
        let dir = self.root.dir();
        let dev = self.root.identity().0;
        // The root must be readable: an unreadable root is no problem of one path.
        dir.list().map_err(|source| root_error(self.root, source))?;
        self.send(vec![Found::Covered { path: TreePath::root(), deep: true }]);
        let here = Here { id: NodeId::ROOT, path: TreePath::root() };
        self.observer.entering(&here.path);
        self.visit(tasks, self.start(here, dir, dev));
        Ok(())
    }

    fn start(&self, here: Here, dir: Dir, dev: u64) -> Visit {
        Visit { here, dir, dev, existed: true, rules: Arc::new(self.rules.compiled.clone()) }
    }

    /// Walks one directory that the observer knows of: every name in it, then, as tasks of their own, its directories.
    fn visit<'s>(&'s self, tasks: &rayon::Scope<'s>, mut visit: Visit) {
        if self.stopped() {
            return;
        }
        let listing = match visit.dir.list() {
            Ok(listing) => listing,
            Err(error) => return self.send(vec![self.unreadable(visit.here.path.clone(), &error)]),
        };
        let mut batch = Batch::new(self);
        let has_rules = listing.iter().any(|raw| *raw.name == *SYNCIGNORE.as_bytes());
        if let Err(error) = self.take_rules(&mut visit, has_rules, &mut batch) {
            batch.push(self.unruled(&visit.here.path, &error));
            return batch.flush();
        }
        let (listing, old) = match self.news(&visit, listing, &mut batch) {
            Ok(news) => news,
            Err(error) => return self.send(vec![Found::Broken(error.into())]),
        };
        let (places, vanished) = self.sort_out(&visit.here.path, &listing, old, &mut batch);
        for node in vanished {
            let path = visit.here.path.join(&node.node.name);
            batch.push(Found::Vanished { path, node: Box::new(node), forgotten: false });
        }
        batch.flush();
        for dir in self.places(&visit, places) {
            tasks.spawn(move |tasks| self.visit(tasks, dir));
        }
    }

    /// The names of a directory with what the index knows of them, and what it knows that is not in the directory.
    fn sort_out(
        &self,
        dir: &TreePath,
        listing: &[RawDirEntry],
        old: Vec<IndexedNode>,
        batch: &mut Batch<'_, '_>,
    ) -> (Vec<Listed>, Vec<IndexedNode>) {
        let by_name: HashMap<&[u8], usize> =
            old.iter().enumerate().map(|(at, node)| (node.node.name.as_bytes(), at)).collect();
        let known: Vec<Option<usize>> = listing.iter().map(|raw| by_name.get(&*raw.name).copied()).collect();
        let mut old: Vec<Option<IndexedNode>> = old.into_iter().map(Some).collect();
        let mut places = Vec::with_capacity(listing.len());
        for (raw, known) in listing.iter().zip(known) {
            if let Some(node) = known.and_then(|at| old[at].take()) {
                places.push(Listed::Known(node));
            } else if let Some(name) = self.valid_name(dir, &raw.name, batch) {
                let may_be_file = raw.kind != Some(StatKind::Directory);
                places.push(Listed::New(name, may_be_file.then_some(raw.ino)));
            }
        }
        (places, old.into_iter().flatten().collect())
    }

    /// Looks at the names of one directory, many at a time if they are many. Answers the directories among them; their
    /// own rows are on their way by then, so that nothing in them can overtake them.
    fn places(&self, visit: &Visit, mut places: Vec<Listed>) -> Vec<Visit> {
        if places.iter().any(Listed::is_new) {
            // The ids of new nodes are in the order of their names then, in which they are read as a rule.
            places.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        }
        let count_new = |places: &[Listed]| places.iter().filter(|listed| listed.is_new()).count();
        let mut before = count_new(&places);
        let row = Row::of(before);
        if places.len() <= SHARED_FROM {
            return self.look_at_some(visit, places, row.part(0, before));
        }
        let mut parts = Vec::with_capacity(places.len() / PART + 1);
        while !places.is_empty() {
            let part = places.split_off(places.len().saturating_sub(PART));
            let new = count_new(&part);
            before -= new;
            parts.push((part, row.part(before, new)));
        }
        parts.into_par_iter().flat_map_iter(|(places, part)| self.look_at_some(visit, places, part)).collect()
    }

    fn look_at_some(&self, visit: &Visit, places: Vec<Listed>, part: Part<'_>) -> Vec<Visit> {
        let mut batch = Batch::of(self, part, places.iter().filter_map(Listed::new_inode).collect());
        let mut below = Vec::new();
        for listed in places {
            let stat = visit.dir.stat(listed.name());
            if let (Listed::Known(known), Ok(stat)) = (&listed, &stat)
                && is_as_known(stat, &known.sketch(), &self.trust)
                && !visit.rules.is_ignored_below(&visit.here.path, &known.node.name, false)
            {
                continue;
            }
            let (name, known) = listed.into_parts();
            let place = Place { path: visit.here.path.join(&name), parent: visit.here.id, name };
            below.extend(self.place(visit, Known { place, known }, stat, &mut batch));
        }
        batch.flush();
        below
    }

    /// Takes what was seen at one name. Answers the directory to walk, if it is one.
    fn place(
        &self,
        visit: &Visit,
        place: Known,
        seen: io::Result<Stat>,
        batch: &mut Batch<'_, '_>,
    ) -> Option<Visit> {
        let Known { place, known } = place;
        let stat = match seen {
            Ok(stat) => stat,
            Err(error) => {
                self.not_there(place, known, &error, batch);
                return None;
            }
        };
        if visit.rules.is_ignored_below(&visit.here.path, &place.name, stat.kind == StatKind::Directory) {
            if let Some(node) = known {
                batch.push(Found::Vanished { path: place.path, node: Box::new(node), forgotten: true });
            }
            return None;
        }
        match stat.kind {
            StatKind::Directory => self.place_dir(visit, Known { place, known }, &stat, batch),
            StatKind::Other => {
                if let Some(node) = known {
                    batch.push(Found::Vanished {
                        path: place.path.clone(),
                        node: Box::new(node),
                        forgotten: false,
                    });
                }
                batch.push(Found::Skipped(place.path));
                None
            }
            StatKind::File | StatKind::Symlink => {
                self.place_file(visit, Known { place, known }, &stat, batch);
                None
            }
        }
    }

    fn not_there(
        &self,
        place: Place,
        known: Option<IndexedNode>,
        error: &io::Error,
        batch: &mut Batch<'_, '_>,
    ) {
        if is_gone(error) {
            if let Some(node) = known {
                batch.push(Found::Vanished { path: place.path, node: Box::new(node), forgotten: false });
            }
        } else {
            batch.push(self.unreadable(place.path, error));
        }
    }

    fn place_file(&self, visit: &Visit, place: Known, stat: &Stat, batch: &mut Batch<'_, '_>) {
        let Known { place, known } = place;
        let seen = if stat.kind == StatKind::File {
            let reader = Reader { trust: &self.trust, described: self.described, fresh: self.fresh };
            reader.look_at_file(&visit.dir, &place.name, stat, known.as_ref())
        } else {
            look_at_link(&visit.dir, &place.name, stat, known.as_ref(), &self.trust)
        };
        let (entry, identity, vouched) = match seen {
            Seen::Entry { entry, identity, vouched } => (entry, identity, vouched),
            Seen::Moved => return batch.push(Found::Revisit(place.path)),
            Seen::Restless => return batch.push(Found::Restless(place.path)),
            Seen::Failed(error) => return self.place_unread(Known { place, known }, stat, &error, batch),
        };
        if known.as_ref().is_some_and(|known| {
            known.vouched == vouched && known.identity == identity && known.node.entry == entry
        }) {
            if !vouched {
                batch.push(Found::Revisit(place.path));
            }
            return;
        }
        if known.as_ref().is_some_and(|known| !known.vouched) {
            batch.push(Found::Settled(place.path.clone()));
        }
        if !vouched {
            batch.push(Found::Revisit(place.path.clone()));
        }
        let claim = match &known {
            // A hard link is also in another place, so its inode says nothing about a move.
            None if stat.nlink == 1 && batch.may_have_moved(stat.ino) => {
                self.claim(stat.ino, |node| node.entry.content == entry.content)
            }
            _ => None,
        };
        self.put(Known { place, known }, claim, Sight { entry, identity, vouched }, batch);
    }

    /// A file that cannot be read keeps what is known of it. If it was renamed, that goes with it: its old place is gone,
    /// and with it would go the only copies that others have.
    fn place_unread(&self, place: Known, stat: &Stat, error: &io::Error, batch: &mut Batch<'_, '_>) {
        let Known { place, known } = place;
        batch.push(self.unreadable(place.path.clone(), error));
        let claim = match &known {
            Some(known) if known.identity.ino == stat.ino => return,
            // The name keeps its node; only what the node holds is that of the file that was moved over it.
            Some(_) => None,
            None => self.claim_unread_file(stat),
        };
        let moved = match (&known, &claim) {
            (Some(_), _) => self.known_unread_file(stat),
            (None, claim) => claim.as_ref().map(|(node, _)| node.clone()),
        };
        if let Some(moved) = moved {
            // Nothing vouches for it: it was not read, and its change time is another.
            let sight = Sight { entry: moved.node.entry, identity: Identity::of(stat), vouched: false };
            self.put(Known { place, known }, claim, sight, batch);
        }
    }

    fn place_dir(
        &self,
        visit: &Visit,
        place: Known,
        stat: &Stat,
        batch: &mut Batch<'_, '_>,
    ) -> Option<Visit> {
        let Known { place, known } = place;
        let opened = visit.dir.open_dir(&place.name);
        let (dir, is_other_end) = match opened.and_then(|dir| Ok((self.is_other_end(&dir)?, dir))) {
            Ok((is_other_end, dir)) => (dir, is_other_end),
            Err(error) if is_gone(&error) => {
                batch.push(Found::Revisit(place.path));
                return None;
            }
            Err(error) => {
                // Known or not, the directory itself was seen; only what is in it cannot be.
                batch.push(self.unreadable(place.path.clone(), &error));
                let claim = if known.is_none() { self.claim_unread_dir(stat) } else { None };
                self.put(Known { place, known }, claim, dir_sight(stat), batch);
                return None;
            }
        };
        if is_other_end {
            if let Some(node) = known {
                let (path, node) = (place.path.clone(), Box::new(node));
                batch.push(Found::Vanished { path, node, forgotten: true });
            }
            batch.push(Found::Skipped(place.path));
            return None;
        }
        let existed_dir =
            known.as_ref().filter(|known| known.node.entry.content.is_dir()).map(|known| known.node.id);
        // RACE: a file system may have come or gone since the name was looked at. What is open stays what it is.
        let dev = dir.stat_self().map_or(stat.dev, |now| now.dev);
        if !self.may_enter(&place.path, dev != visit.dev, existed_dir, batch) {
            return None;
        }
        // RACE: a name made in it after this look at its time and before the watch is in place would leave no event, and
        // its time would stay wrong. So the watch comes first.
        self.observer.entering(&place.path);
        let stat = &dir.stat_self().unwrap_or(*stat);
        let claim = if known.is_none() { self.claim_dir(stat, &dir) } else { None };
        let existed = known.is_some() || claim.is_some();
        let path = place.path.clone();
        let id = self.put(Known { place, known }, claim, dir_sight(stat), batch)?;
        Some(Visit { here: Here { id, path }, dir, dev: stat.dev, existed, rules: visit.rules.clone() })
    }

    fn may_enter(
        &self,
        path: &TreePath,
        crosses: bool,
        id: Option<NodeId>,
        batch: &mut Batch<'_, '_>,
    ) -> bool {
        let holds = |id| self.index.children(id).is_ok_and(|children| !children.is_empty());
        let relevant = crosses || self.mounts.is_known(path);
        let boundary =
            if relevant { self.mounts.decide(path, crosses, id.is_some_and(holds)) } else { Boundary::Enter };
        let error = match boundary {
            Boundary::Enter => return true,
            Boundary::EnterMount => {
                batch.push(Found::Mount(path.clone()));
                return true;
            }
            _ if self.accept => {
                if crosses {
                    batch.push(Found::Mount(path.clone()));
                }
                return true;
            }
            Boundary::Missing => {
                "the file system that was mounted here is gone; what was in it is left as it was"
            }
            Boundary::Covered => "another file system was mounted over it; what was in it is left as it was",
        };
        // Still a boundary for the next look, or it would take the empty directory for the truth.
        if !crosses {
            batch.push(Found::Mount(path.clone()));
        }
        batch.push(Found::LeftAlone { path: path.clone(), crosses });
        batch.push(Found::Problem(Problem::new(path.clone(), error)));
        false
    }

    /// Says what is in a place now. Answers the node's id, or nothing if the index failed.
    fn put(
        &self,
        place: Known,
        claim: Option<Claim>,
        sight: Sight,
        batch: &mut Batch<'_, '_>,
    ) -> Option<NodeId> {
        let Known { place, known } = place;
        let (old, moved_from) = match claim {
            Some((node, from)) => (Some(node), Some(from)),
            None => (known, None),
        };
        let id = match &old {
            Some(old) => old.node.id,
            None => match batch.new_id() {
                Ok(id) => id,
                Err(error) => {
                    batch.push(Found::Broken(error.into()));
                    return None;
                }
            },
        };
        let node = Node { id, parent: place.parent, name: place.name, entry: sight.entry };
        let new = IndexedNode { node, identity: sight.identity, vouched: sight.vouched };
        if old.as_ref() != Some(&new) {
            batch.push(Found::Put(Put {
                path: place.path,
                old: old.map(Box::new),
                new: Box::new(new),
                moved_from,
            }));
        }
        Some(id)
    }

    fn valid_name(&self, dir: &TreePath, raw: &[u8], batch: &mut Batch<'_, '_>) -> Option<Name> {
        match Name::from_bytes(raw) {
            Ok(name) => Some(name),
            Err(NameError::Reserved) => None,
            Err(error) => {
                let text = format!("{error}; rename it to have it carried");
                batch.push(Found::Problem(Problem {
                    path: dir.clone(),
                    raw_name: raw.into(),
                    error: text,
                    unknown: false,
                }));
                None
            }
        }
    }

    fn unreadable(&self, path: TreePath, error: &io::Error) -> Found {
        if is_gone(error) {
            return Found::Revisit(path);
        }
        let problem = Problem::new(path, format!("cannot be read: {}", trouble::told(error)));
        if trouble::may_pass(error) { Found::Passing(problem) } else { Found::Problem(problem) }
    }

    fn run_places<'s>(&'s self, tasks: &rayon::Scope<'s>, places: &[Dirty]) -> Result<(), LookError> {
        let mut todo = Places::new();
        for place in places {
            if let Some((parent, name)) = place.path.split() {
                *todo.entry(parent).or_default().entry(name.to_owned()).or_default() |= place.deep;
            }
        }
        // A place whose directory is not known yet, or is gone, makes that directory itself a dirty place above it. So does one
        // whose file system is another one now.
        while let Some((parent, names)) = todo.pop_last() {
            if self.stopped() {
                return Ok(());
            }
            if self.rules.compiled.is_ignored(&parent, true) {
                continue;
            }
            // A directory may have become a target since it was listed; then it is its own place that changed.
            // Where that cannot be told, it is what it was.
            let known = self
                .known_dir(&parent)?
                .filter(|(dir, _)| parent.is_root() || !self.is_other_end(dir).unwrap_or(false));
            let displaced = known.as_ref().and_then(|(dir, _)| self.displaced(&parent, dir));
            match known {
                Some((dir, here)) if displaced.is_none() => self.look_at_names(tasks, dir, here, names)?,
                _ => {
                    if let Some((above, name)) = displaced.as_ref().unwrap_or(&parent).split() {
                        todo.entry(above).or_default().insert(name.to_owned(), true);
                    }
                }
            }
        }
        Ok(())
    }

    /// The directory at a path, if both the disk and the index have one there.
    fn known_dir(&self, path: &TreePath) -> Result<Option<(Dir, Here)>, LookError> {
        if path.is_root() {
            return Ok(Some((self.root.dir(), Here { id: NodeId::ROOT, path: path.clone() })));
        }
        let Some(node) = self.index.find(path)?.filter(|node| node.node.entry.content.is_dir()) else {
            return Ok(None);
        };
        match self.root.open_dir(path) {
            Ok(dir) => Ok(Some((dir, Here { id: node.node.id, path: path.clone() }))),
            Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::NotADirectory => Ok(None),
            Err(error) => {
                self.send(vec![
                    Found::Covered { path: path.clone(), deep: false },
                    self.unreadable(path.clone(), &error),
                ]);
                Ok(None)
            }
        }
    }

    fn look_at_names<'s>(
        &'s self,
        tasks: &rayon::Scope<'s>,
        dir: Dir,
        here: Here,
        names: BTreeMap<String, bool>,
    ) -> Result<(), LookError> {
        let own_stat = match dir.stat_self() {
            Ok(stat) => stat,
            Err(error) => {
                self.send(vec![self.unreadable(here.path, &error)]);
                return Ok(());
            }
        };
        let mut visit = self.start(here, dir, own_stat.dev);
        let mut batch = Batch::new(self);
        let ask_rules =
            names.contains_key(SYNCIGNORE) || self.has_unknown_rules(&visit.dir, &visit.here.path);
        let taken = if ask_rules { self.take_rules(&mut visit, true, &mut batch) } else { Ok(false) };
        let has_new_rules = match taken {
            Ok(new) => new,
            Err(error) => {
                batch.push(self.unruled(&visit.here.path, &error));
                batch.flush();
                return Ok(());
            }
        };
        if has_new_rules {
            // New rules may hide or show anything below.
            batch.push(Found::Covered { path: visit.here.path.clone(), deep: true });
            self.put_dir_itself(&visit.here, &own_stat, &mut batch)?;
            batch.flush();
            self.observer.entering(&visit.here.path);
            self.visit(tasks, visit);
            return Ok(());
        }
        let mut below = Vec::new();
        let names: Vec<_> =
            names.into_iter().filter_map(|(name, deep)| Some((Name::new(&name).ok()?, deep))).collect();
        for some in names.chunks(NAMES_AT_ONCE) {
            let asked: Vec<&str> = some.iter().map(|(name, _)| &**name).collect();
            let known = self.index.children_named(visit.here.id, &asked)?;
            for ((name, deep), known) in some.iter().zip(known) {
                below.extend(self.look_at_name(&visit, (name, *deep), known, &mut batch)?);
            }
        }
        self.put_dir_itself(&visit.here, &own_stat, &mut batch)?;
        batch.flush();
        for dir in below {
            tasks.spawn(move |tasks| self.visit(tasks, dir));
        }
        Ok(())
    }

    /// Looks at one name. Answers the directory to walk, if it is one and what is in it may have changed.
    fn look_at_name(
        &self,
        visit: &Visit,
        (name, deep): (&Name, bool),
        known: Option<IndexedNode>,
        batch: &mut Batch<'_, '_>,
    ) -> Result<Option<Visit>, LookError> {
        let path = visit.here.path.join(name);
        let known_dir = known.clone().filter(|known| known.node.entry.content.is_dir());
        let place = Place { path: path.clone(), parent: visit.here.id, name: name.clone() };
        let seen = visit.dir.stat(&place.name);
        let found_dir = self.place(visit, Known { place, known }, seen, batch);
        // A directory that was there before and is the same one holds what it held, unless somebody said otherwise.
        // One that could not be read has to be.
        let deep = deep || self.was_unreadable(&path)?;
        let enter = found_dir.filter(|dir| deep || !self.is_same_dir(known_dir.as_ref(), &dir.dir));
        batch.push(Found::Covered { path, deep: deep || enter.is_some() || known_dir.is_none() });
        Ok(enter)
    }

    fn was_unreadable(&self, path: &TreePath) -> Result<bool, LookError> {
        Ok(self.is_troubled && !self.index.problems_at([(path, false)])?.is_empty())
    }

    fn is_same_dir(&self, known: Option<&IndexedNode>, dir: &Dir) -> bool {
        known.is_some_and(|known| dir.stat_self().is_ok_and(|stat| stat.ino == known.identity.ino))
    }

    /// A directory's time moves when names in it come and go, without an event of its own.
    fn put_dir_itself(&self, here: &Here, stat: &Stat, batch: &mut Batch<'_, '_>) -> Result<(), LookError> {
        if is_root(here.id) {
            return Ok(());
        }
        if let Some(known) = self.index.node(here.id)? {
            let place =
                Place { path: here.path.clone(), parent: known.node.parent, name: known.node.name.clone() };
            self.put(Known { place, known: Some(known) }, None, dir_sight(stat), batch);
        }
        Ok(())
    }
}

/// A name that a directory has: the one of a known node, or a new one.
enum Listed {
    Known(IndexedNode),
    /// With the inode number that the directory has for it, if it may be a file.
    New(Name, Option<u64>),
}

impl Listed {
    fn is_new(&self) -> bool {
        matches!(self, Self::New(..))
    }

    fn new_inode(&self) -> Option<u64> {
        match self {
            Self::Known(_) => None,
            Self::New(_, ino) => *ino,
        }
    }

    fn name(&self) -> &Name {
        match self {
            Self::Known(node) => &node.node.name,
            Self::New(name, _) => name,
        }
    }

    fn into_parts(self) -> (Name, Option<IndexedNode>) {
        match self {
            Self::Known(node) => (node.node.name.clone(), Some(node)),
            Self::New(name, _) => (name, None),
        }
    }
}

/// A name in a directory.
struct Place {
    path: TreePath,
    parent: NodeId,
    name: Name,
}

/// A name, and the node that the index has there.
struct Known {
    place: Place,
    known: Option<IndexedNode>,
}

/// What was seen there.
struct Sight {
    entry: Entry,
    identity: Identity,
    vouched: bool,
}

fn dir_sight(stat: &Stat) -> Sight {
    let entry = Entry { content: Content::Directory, mtime: stat.mtime, mode: carried_mode(stat) };
    debug_assert_eq!(entry.kind(), Kind::Directory);
    // A directory's ctime moves with everything in it and vouches for nothing; only the inode counts.
    let identity = Identity { ino: stat.ino, size: 0, mtime: stat.mtime, ctime: Time::default() };
    Sight { entry, identity, vouched: true }
}

/// Whether an error says that a name is not there.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn root_error(root: &Root, source: io::Error) -> LookError {
    LookError::Root { path: root.path().display().to_string(), source }
}
