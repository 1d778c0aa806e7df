//! Carries out the phases of a plan that change the structure of the target: captures, clear, build, and in the end finish.
//! One thread does them, in order; the files in between are done by many, see `transfer`.

use std::collections::{BTreeMap, HashMap, HashSet};

use sync_core::{
    Content, Node, NodeId, TreePath,
    plan::{Build, Capture, Clear, Displaced as PlannedDisplaced, Finish, Plan, Put, Whole},
};
use sync_tree::apply::{ApplyError, Displaced, Durability, Place, Staged, Unflushed};

use super::{
    AppliedOp, EngineError,
    context::{Context, Dirs},
    outcome::{Outcome, describe},
    part::Puts,
    record::{Done, record},
    reporter::Reporter,
};

/// Changes are recorded in batches of this size: large enough that commits cost nothing beside the disk.
const RECORD: usize = 1024;

/// The structural phases of one plan.
pub(super) struct Phases<'a> {
    context: &'a Context,
    reporter: &'a dyn Reporter,
    dirs: Dirs<'a>,
    done: Vec<Done>,
    unflushed: Unflushed,
    /// What was taken out of the tree and waits for its new place: where it was, by its key.
    out: HashMap<u64, TreePath>,
    touched: HashSet<NodeId>,
    /// The places of directories whose modes and times were seen to, and those of them that have these now.
    tried: HashSet<TreePath>,
    finished: HashSet<NodeId>,
    /// See [`Plan::reused`].
    reused: HashSet<NodeId>,
    /// Directories that were moved and have other times or modes than they should have.
    unlike: Vec<Finish>,
    /// What could not get its place because something else is there: perhaps another directory.
    lost: HashSet<NodeId>,
    pub outcome: Outcome,
}

impl<'a> Phases<'a> {
    pub(super) fn new(context: &'a Context, reporter: &'a dyn Reporter) -> Self {
        let dirs = Dirs::new(context);
        Self {
            context,
            reporter,
            dirs,
            done: Vec::new(),
            unflushed: Unflushed::new(context.durability),
            out: HashMap::new(),
            touched: HashSet::new(),
            tried: HashSet::new(),
            finished: HashSet::new(),
            reused: HashSet::new(),
            unlike: Vec::new(),
            lost: HashSet::new(),
            outcome: Outcome::default(),
        }
    }

    /// Phases 1 to 3. Answers the captured files by the remote node that wants them.
    pub(super) fn before_files(&mut self, plan: &Plan) -> Result<HashMap<NodeId, Staged>, EngineError> {
        let result = self.clear_and_build(plan);
        if result.is_err() {
            self.put_all_back();
        }
        self.with_all_recorded(result)
    }

    fn clear_and_build(&mut self, plan: &Plan) -> Result<HashMap<NodeId, Staged>, EngineError> {
        self.reused = plan.reused();
        let captured = self.capture(&plan.captures)?;
        let mut not_taken = HashMap::new();
        let mut in_the_way = HashSet::new();
        let taken_out: Vec<_> = plan.clear.iter().filter_map(taken_out).collect();
        if !taken_out.is_empty() {
            self.context.applier.note_moves(&taken_out)?;
        }
        for clear in &plan.clear {
            let result = self.clear(clear);
            // The share may know nothing of what it was here: without it, what was to move would not be planned again.
            if let (Err(_), Clear::Move { local, .. } | Clear::TakeOut { local, .. }) = (&result, clear) {
                self.outcome.left_local.push(local.id);
            }
            if let (Err(error), Clear::TakeOut { remote, .. }) = (&result, clear) {
                let stale = matches!(error, EngineError::Apply(error) if is_stale(error));
                not_taken.insert(remote.id, stale);
                if !stale {
                    in_the_way.insert(clear.path().clone());
                }
            }
            self.settle(result, clear.path(), cleared_node(clear))?;
        }
        // What was taken out of its directory must be recorded as gone from there before anything is put in its place.
        self.flush()?;
        self.dirs = Dirs::new(self.context);
        for build in &plan.build {
            let (Build::MakeDir { remote, .. } | Build::PutIn { remote, .. }) = build;
            match not_taken.get(&remote.id) {
                // Its place here is looked at as well: what was to come may have gone there.
                Some(true) => {
                    self.outcome.stale.push(build.path().clone());
                    continue;
                }
                Some(false) => continue,
                None => {}
            }
            let blocked = in_the_way.contains(build.path());
            let result = match blocked {
                // Trying again would find the same.
                true => Err(ApplyError::Blocked { path: build.path().clone() }.into()),
                false => self.build(build),
            };
            let failed = result.is_err();
            self.note_lost(&result, remote.id);
            self.settle(result, build.path(), Failed::Remote(remote.id))?;
            if failed && let Build::PutIn { remote, from, .. } = build {
                self.put_back(remote.id.0, from);
                if !blocked {
                    self.outcome.stale.push(from.clone());
                }
            }
            if self.done.len() >= RECORD {
                self.flush()?;
            }
        }
        self.flush()?;
        Ok(captured)
    }

    /// Of the directories that could appear whole, makes those in their places that get something from what they are in, and adds
    /// them to those to be finished. Answers the others.
    pub(super) fn make_in_place(
        &mut self,
        wholes: Vec<Whole>,
        finish: &mut Vec<Finish>,
    ) -> Result<Vec<Whole>, EngineError> {
        let result = self.sort_wholes(wholes, finish).and_then(|wholes| self.flush().map(|()| wholes));
        self.with_all_recorded(result)
    }

    fn sort_wholes(
        &mut self,
        wholes: Vec<Whole>,
        finish: &mut Vec<Finish>,
    ) -> Result<Vec<Whole>, EngineError> {
        let mut others = Vec::with_capacity(wholes.len());
        let mut last: Option<(TreePath, bool)> = None;
        for whole in wholes {
            let parent = whole.path.parent().unwrap_or_default();
            let known = last.take().filter(|(path, _)| *path == parent);
            // One that cannot be opened fails in the ordinary way.
            let plain = known.map(|(_, plain)| plain);
            let plain = plain.unwrap_or_else(|| {
                self.dirs.get(&parent).is_ok_and(|dir| self.context.applier.fills_alike(&dir))
            });
            last = Some((parent, plain));
            if plain {
                others.push(whole);
                continue;
            }
            let (build, todo) = whole.in_place();
            let result = self.build(&build);
            self.note_lost(&result, todo.remote.id);
            self.settle(result, build.path(), Failed::Remote(todo.remote.id))?;
            finish.push(todo);
        }
        Ok(others)
    }

    /// What can be brought into place now. Of a directory whose place is taken nothing can: what is there is another one.
    pub(super) fn possible(&mut self, mut files: Vec<Put>, mut wholes: Vec<Whole>) -> Puts {
        if !self.lost.is_empty() {
            wholes.retain(|whole| self.is_possible(&whole.remote, &whole.path));
            files.retain(|put| self.is_possible(put.remote(), put.path()));
        }
        Puts { files, wholes }
    }

    fn note_lost(&mut self, result: &Result<(), EngineError>, remote: NodeId) {
        if matches!(result, Err(EngineError::Apply(error)) if is_stale(error)) {
            self.lost.insert(remote);
        }
    }

    fn is_possible(&mut self, remote: &Node, path: &TreePath) -> bool {
        let possible = !self.lost.contains(&remote.parent);
        if !possible {
            self.lost.insert(remote.id);
            let stale = ApplyError::Stale { path: path.clone() };
            self.outcome.place_failed(&stale, path, Failed::Remote(remote.id));
        }
        possible
    }

    /// Back with what waits in staging; if its old place is taken, to the trash. A look finds out which, and records that.
    fn put_back(&mut self, key: u64, from: &TreePath) {
        self.out.remove(&key);
        self.unflushed.everything();
        if let Err(error) = self.context.applier.put_back(key) {
            tracing::warn!(path = %from, error = describe(&error), "waits in .syncd/staging until it can be put back");
            self.context.leave_waiting();
        }
        self.outcome.put_back.push(from.parent().unwrap_or_default());
    }

    /// The run ends here. What it took out must not be missing from the tree until somebody starts another.
    fn put_all_back(&mut self) {
        let mut out: Vec<_> = std::mem::take(&mut self.out).into_iter().collect();
        if out.is_empty() {
            return;
        }
        // Directories before what was in them.
        out.sort_by_key(|(_, from)| from.depth());
        out.iter().for_each(|(key, from)| self.put_back(*key, from));
        // The next run looks where everything is.
        self.context.leave_unrecorded();
    }

    /// Those of phase 2 that had to wait for the files.
    pub(super) fn clear_later(&mut self, later: &[Clear]) -> Result<(), EngineError> {
        self.dirs = Dirs::new(self.context);
        let cleared = later.iter().try_for_each(|clear| {
            let result = self.clear(clear);
            self.settle(result, clear.path(), cleared_node(clear))
        });
        let result = cleared.and_then(|()| self.flush());
        self.with_all_recorded(result)
    }

    /// What came of it, and the local directories in which something was changed.
    pub(super) fn into_parts(self) -> (Outcome, HashSet<NodeId>) {
        (self.outcome, self.touched)
    }

    /// Whether [`while_recording`](Self::while_recording) is right. Where something failed, paths may not be those of the plan; and
    /// where it matters what is flushed, what is recorded must not be what was set a moment ago.
    pub(super) fn may_run_ahead(&self) -> bool {
        self.context.durability == Durability::None && !self.outcome.has_failures()
    }

    /// As much of phase 5 as can be done while others still write down what is in place: nothing comes to these directories any more.
    /// What is not known of yet is left.
    pub(super) fn while_recording(
        &mut self,
        finish: &[Finish],
        changed: &HashMap<NodeId, TreePath>,
    ) -> Result<(), EngineError> {
        let result = self.finish_known(finish, changed);
        self.with_all_recorded(result)
    }

    fn finish_known(
        &mut self,
        finish: &[Finish],
        changed: &HashMap<NodeId, TreePath>,
    ) -> Result<(), EngineError> {
        let store = &self.context.store;
        let known = store.index().read(|db| {
            let db = db.unchecked_transaction()?;
            let mut known = Vec::with_capacity(changed.len());
            for (id, path) in changed {
                known.extend(store.remote_node(&db, *id)?.map(|node| (path.clone(), node)));
            }
            Ok(known)
        })?;
        self.finish_dirs(finish, known)
    }

    /// Phase 5, and the times of all directories in which something was changed.
    pub(super) fn after_files(
        &mut self,
        finish: &[Finish],
        touched: &HashSet<NodeId>,
    ) -> Result<(), EngineError> {
        let result = self.finish_all(finish, touched);
        self.with_all_recorded(result)
    }

    fn finish_all(&mut self, finish: &[Finish], touched: &HashSet<NodeId>) -> Result<(), EngineError> {
        self.touched.extend(touched);
        let touched = self.touched_dirs()?;
        self.finish_dirs(finish, touched)?;
        let mut opened = self.context.opened();
        if !opened.is_empty() {
            opened.clear();
            self.unflushed.everything();
        }
        drop(opened);
        self.flush()
    }

    fn finish_dirs(
        &mut self,
        finish: &[Finish],
        others: impl IntoIterator<Item = (TreePath, Node)>,
    ) -> Result<(), EngineError> {
        self.dirs = Dirs::new(self.context);
        let mut todo: BTreeMap<TreePath, Node> = finish
            .iter()
            .chain(&self.unlike)
            .map(|finish| (finish.path.clone(), finish.remote.clone()))
            .collect();
        todo.extend(others.into_iter().filter(|(path, node)| !path.is_root() && node.entry.content.is_dir()));
        // Deepest first: setting a directory's time is the last thing that happens in it.
        let mut todo: Vec<(TreePath, Node)> = todo.into_iter().collect();
        todo.sort_by_key(|(path, _)| std::cmp::Reverse(path.depth()));
        for (path, remote) in todo {
            let result = self.finish(&path, &remote);
            self.settle(result, &path, Failed::Remote(remote.id))?;
            if self.done.len() >= RECORD {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// The remote nodes of the directories in which something was changed, by path.
    fn touched_dirs(&mut self) -> Result<Vec<(TreePath, Node)>, EngineError> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.retain(|id| !self.finished.contains(id));
        let store = &self.context.store;
        Ok(store.index().read(|db| {
            // Without it each look-up would be a transaction of its own, and these are thousands.
            let db = db.unchecked_transaction()?;
            let mut dirs = Vec::new();
            for id in touched {
                let Some(path) = store.index().table().path_of(&db, id)? else { continue };
                let Some(remote) = super::base::remote_of(&db, id)? else { continue };
                let Some(node) = store.remote_node(&db, remote)? else { continue };
                dirs.push((path, node));
            }
            Ok(dirs)
        })?)
    }

    fn capture(&mut self, captures: &[Capture]) -> Result<HashMap<NodeId, Staged>, EngineError> {
        let mut captured = HashMap::new();
        for capture in captures {
            let Some(row) = self.context.store.index().node(capture.from.local)? else { continue };
            let Content::File { size, digest } = row.node.entry.content else { continue };
            match self.context.applier.stage_copy(&capture.from.path, &row.identity, size, &digest) {
                Ok(staged) => drop(captured.insert(capture.id, staged)),
                // The source is not what it was: the content is fetched instead.
                Err(error) if error.is_fatal() => return Err(error.into()),
                Err(error) => {
                    tracing::debug!(path = %capture.from.path, %error, "cannot be copied, will be fetched");
                }
            }
        }
        Ok(captured)
    }

    fn clear(&mut self, clear: &Clear) -> Result<(), EngineError> {
        let applier = &self.context.applier;
        let (dir, name) = self.dirs.parent(clear.path())?;
        let at = Place { dir: &dir, name, path: clear.path() };
        // Also what fails may have changed something.
        self.unflushed.names(&dir);
        match clear {
            Clear::Remove { path, local, displaced } => {
                applier.remove(&at, &self.context.expect(local)?, displaced_to(*displaced))?;
                self.outcome.deleted += 1;
                self.reporter.applied(AppliedOp::Delete, path, None);
                let lost = !self.reused.contains(&local.id);
                self.done.push(Done::Removed { local: local.clone(), lost });
            }
            Clear::RemoveDir { path, local } => {
                let Some(row) = self.context.store.index().node(local.id)? else { return Ok(()) };
                applier.remove_dir(&at, row.identity.ino)?;
                self.reporter.applied(AppliedOp::Delete, path, None);
                self.done.push(Done::Removed { local: local.clone(), lost: false });
            }
            Clear::Move { from, to, local, remote } => {
                let (to_dir, to_name) = self.dirs.parent(to)?;
                let to_place = Place { dir: &to_dir, name: to_name, path: to };
                self.unflushed.names(&to_dir);
                let stat = applier.move_new(&at, &to_place, &self.context.expect(local)?)?;
                self.moved(from, to, Done::Moved { remote: remote.clone(), local: local.clone(), stat });
            }
            Clear::TakeOut { local, remote, .. } => {
                applier.take_out(&at, &self.context.expect(local)?, remote.id.0)?;
                self.out.insert(remote.id.0, clear.path().clone());
                self.done.push(Done::TakenOut { local: local.clone() });
            }
        }
        Ok(())
    }

    fn build(&mut self, build: &Build) -> Result<(), EngineError> {
        let (Build::MakeDir { remote, .. } | Build::PutIn { remote, .. }) = build;
        if self.lost.contains(&remote.parent) {
            return Err(ApplyError::Stale { path: build.path().clone() }.into());
        }
        let (dir, name) = self.dirs.parent(build.path())?;
        let at = Place { dir: &dir, name, path: build.path() };
        self.unflushed.names(&dir);
        match build {
            Build::MakeDir { path, remote } => {
                let stat = self.context.applier.make_dir(&at)?;
                self.reporter.applied(AppliedOp::Create, path, None);
                self.done.push(Done::Present { remote: remote.clone(), over: None, stat });
            }
            Build::PutIn { path, from, local, remote } => {
                let stat = self.context.applier.put_in(remote.id.0, &at)?;
                self.unflushed.put_in(remote.id.0);
                self.out.remove(&remote.id.0);
                self.moved(from, path, Done::Moved { remote: remote.clone(), local: local.clone(), stat });
            }
        }
        Ok(())
    }

    fn moved(&mut self, from: &TreePath, to: &TreePath, done: Done) {
        // The plan does not know of what somebody made of it meanwhile.
        if let Done::Moved { remote, stat, .. } = &done
            && remote.entry.content.is_dir()
            && (stat.mtime, stat.mode & 0o777) != (remote.entry.mtime, remote.entry.mode)
        {
            self.unlike.push(Finish { path: to.clone(), remote: remote.clone() });
        }
        self.outcome.renamed += 1;
        self.outcome.synced += 1;
        self.reporter.applied(AppliedOp::Rename, to, Some(from));
        self.done.push(done);
    }

    fn finish(&mut self, path: &TreePath, remote: &Node) -> Result<(), EngineError> {
        if self.tried.contains(path) {
            return Ok(());
        }
        let Some((local, expect)) = self.context.agreed(remote.id)? else { return Ok(()) };
        self.tried.insert(path.clone());
        let (dir, name) = self.dirs.parent(path)?;
        let at = Place { dir: &dir, name, path };
        let stat = self.context.applier.set_meta(&at, &remote.entry, &expect)?;
        self.unflushed.inode(&at);
        self.finished.insert(local);
        if let Some(work) = self.context.opened().remove(path) {
            work.settled();
        }
        self.done.push(Done::Present { remote: remote.clone(), over: Some(local), stat });
        Ok(())
    }

    /// One place's failure never stops the rest.
    fn settle(
        &mut self,
        result: Result<(), EngineError>,
        path: &TreePath,
        failed: Failed,
    ) -> Result<(), EngineError> {
        match result {
            Ok(()) => {
                self.context.trouble.passed();
                Ok(())
            }
            Err(EngineError::Apply(error))
                if !error.is_fatal() && !self.context.trouble.is_too_much(&error) =>
            {
                self.outcome.place_failed(&error, path, failed);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// What succeeded is recorded before what failed is reported.
    fn with_all_recorded<T>(&mut self, result: Result<T, EngineError>) -> Result<T, EngineError> {
        if result.is_err()
            && let Err(error) = self.flush()
        {
            tracing::debug!(error = describe(&error), "what was done before the failure is not recorded");
        }
        result
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        let done = std::mem::take(&mut self.done);
        let flushed = self.context.applier.flush(&mut self.unflushed);
        if done.is_empty() {
            return Ok(flushed?);
        }
        let recorded =
            flushed.map_err(EngineError::from).and_then(|()| Ok(record(&self.context.store, done)?));
        let touched = recorded.inspect_err(|_| self.context.leave_unrecorded())?;
        self.touched.extend(touched);
        Ok(())
    }
}

/// Which node stays pending.
#[derive(Debug, Clone, Copy)]
pub(super) enum Failed {
    Remote(NodeId),
    Local(NodeId),
}

fn cleared_node(clear: &Clear) -> Failed {
    match clear {
        Clear::Remove { local, .. } | Clear::RemoveDir { local, .. } => Failed::Local(local.id),
        Clear::Move { remote, .. } | Clear::TakeOut { remote, .. } => Failed::Remote(remote.id),
    }
}

/// The key and the place of what is taken out.
fn taken_out(clear: &Clear) -> Option<(u64, &TreePath)> {
    match clear {
        Clear::TakeOut { remote, .. } => Some((remote.id.0, clear.path())),
        _ => None,
    }
}

pub(super) fn displaced_to(displaced: PlannedDisplaced) -> Displaced {
    match displaced {
        PlannedDisplaced::Delete => Displaced::Delete,
        PlannedDisplaced::Trash => Displaced::Trash,
    }
}

/// Whether trying again with a new plan can help.
pub(super) fn is_stale(error: &ApplyError) -> bool {
    matches!(error, ApplyError::Stale { .. } | ApplyError::Digest { .. })
}
