//! Takes what the walkers found and commits it, removals last.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use sync_core::{Kind, NodeId, Problem, TreePath};

use super::{
    ChangeNote, ChangeOp, EMPTIED_FLOOR, Found, LookError, LookLimits, LookObserver, LookReport, Looker,
    MAX_NOTES, Memory, Put, RESTLESS_LIMIT, Scope, rules::LookRules, walk::is_gone,
};
use crate::{
    index::{Head, IndexError, IndexTx, IndexedNode, rows::AT_ONCE},
    rooted::StatKind,
};

/// Rows in one transaction: large enough that commits cost nothing, small enough that the write-ahead log stays small.
const ROWS_PER_COMMIT: usize = 8192;

/// How long a transaction stays open for more.
const LINGER: std::time::Duration = std::time::Duration::from_millis(20);

/// A report names at most so many skipped paths.
const MAX_SKIPPED: usize = 1000;

/// More places to look at again than this are left to the next whole look.
pub(crate) const MAX_REVISITS: usize = 10_000;

/// More places than this that are empty without a word are not waited for.
const MAX_UNSAID: usize = 10_000;

/// The committer's side of one look.
pub(super) struct Committer<'a> {
    looker: &'a Looker,
    memory: &'a mut Memory,
    rules: &'a LookRules,
    limits: &'a LookLimits,
    observer: &'a dyn LookObserver,
    files_before: u64,
    /// Files and links that nobody knew, until there are enough of them to be put in.
    new: Vec<Put>,
    vanished: Vec<(TreePath, Box<IndexedNode>, bool)>,
    /// Nodes that were directories and are something else now.
    ended: Vec<(TreePath, Box<IndexedNode>)>,
    problems: Vec<Problem>,
    covered: Vec<(TreePath, bool)>,
    /// Places that something was moved away from.
    left: Vec<TreePath>,
    mounts: BTreeSet<TreePath>,
    left_alone: Vec<(TreePath, bool)>,
    /// Directories that are known to be in the index: asked for once, not for each name in them.
    parents: HashSet<NodeId>,
    texts: super::RuleTexts,
    report: LookReport,
}

impl<'a> Committer<'a> {
    pub(super) fn new(
        looker: &'a Looker,
        memory: &'a mut Memory,
        rules: &'a LookRules,
        limits: &'a LookLimits,
        observer: &'a dyn LookObserver,
    ) -> Result<Self, LookError> {
        let head = looker.index.head()?;
        Ok(Self {
            looker,
            memory,
            rules,
            limits,
            observer,
            files_before: head.files,
            new: Vec::new(),
            vanished: Vec::new(),
            ended: Vec::new(),
            problems: Vec::new(),
            covered: Vec::new(),
            left: Vec::new(),
            mounts: BTreeSet::new(),
            left_alone: Vec::new(),
            parents: HashSet::from([NodeId::ROOT]),
            texts: rules.texts.clone(),
            report: empty_report(head),
        })
    }

    /// Commits what comes until the walkers are done, then what must wait for the end.
    pub(super) fn run(
        mut self,
        found: &Receiver<Vec<Found>>,
        scope: &Scope,
    ) -> Result<LookReport, LookError> {
        while let Ok(first) = found.recv() {
            let looker = self.looker;
            let ((), head) = looker.index.write(|tx| self.take_batches(tx, first, found))?;
            self.report.head = head;
        }
        let looker = self.looker;
        let ((), head) = looker.index.write(|tx| self.finish(tx, scope))?;
        self.report.head = head;
        Ok(self.report)
    }

    fn take_batches(
        &mut self,
        tx: &mut IndexTx<'_>,
        first: Vec<Found>,
        found: &Receiver<Vec<Found>>,
    ) -> Result<(), LookError> {
        let mut batch = first;
        let mut rows = 0;
        loop {
            rows += batch.len();
            for one in batch {
                self.take(tx, one)?;
            }
            self.put_all_new(tx)?;
            if rows >= ROWS_PER_COMMIT {
                return Ok(());
            }
            batch = match found.recv_timeout(LINGER) {
                Ok(next) => next,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(()),
            };
        }
    }

    fn take(&mut self, tx: &mut IndexTx<'_>, found: Found) -> Result<(), LookError> {
        match found {
            Found::Put(put) if put.is_new_file() => return self.put_new(tx, put),
            // It may be about what came before: a sheet is made of the rows, and a directory takes its files with it.
            Found::Put(_) | Found::Sheetless(_) => self.put_all_new(tx)?,
            _ => {}
        }
        self.take_other(tx, found)
    }

    fn take_other(&mut self, tx: &mut IndexTx<'_>, found: Found) -> Result<(), LookError> {
        match found {
            Found::Put(put) => self.put(tx, put)?,
            Found::Vanished { path, node, forgotten } => self.vanished.push((path, node, forgotten)),
            Found::Problem(problem) => self.problems.push(problem),
            Found::Passing(problem) => {
                self.revisit(problem.path.clone());
                self.problems.push(problem);
            }
            Found::Revisit(path) => self.revisit(path),
            Found::Skipped(path) => {
                if self.report.skipped.len() < MAX_SKIPPED {
                    self.report.skipped.push(path);
                }
            }
            Found::Rule { dir, text, applied } => {
                if !applied {
                    self.report.refused.push(TreePath::root());
                }
                match text {
                    Some(text) => self.texts.insert(dir, text),
                    None => self.texts.remove(&dir),
                };
            }
            Found::Sheetless(dir) => tx.make_sheet(dir)?,
            Found::Restless(path) => self.restless(path),
            Found::Settled(path) => {
                self.memory.restless.remove(&path);
            }
            Found::Covered { path, deep } => self.covered.push((path, deep)),
            Found::Mount(path) => {
                self.mounts.insert(path);
            }
            Found::LeftAlone { path, crosses } => self.left_alone.push((path, crosses)),
            Found::Broken(error) => return Err(error),
        }
        Ok(())
    }

    fn put(&mut self, tx: &mut IndexTx<'_>, put: Put) -> Result<(), LookError> {
        let Put { path, old, new: boxed, moved_from } = put;
        let (old, new) = (old.as_deref(), &*boxed);
        // The walkers read the index beside this transaction. What it holds by now decides: a place that is taken keeps its
        // node, and the next look sorts out the rest.
        let current = match old {
            Some(old) => tx.get(old.node.id)?,
            None => None,
        };
        // There is one node in a place: if this one is in it already, nobody else is.
        let stayed = current.as_ref().is_some_and(|current| {
            (current.node.parent, &current.node.name) == (new.node.parent, &new.node.name)
        });
        let occupied = !stayed
            && tx
                .child(new.node.parent, &new.node.name)?
                .is_some_and(|occupant| occupant.node.id != new.node.id);
        // RACE: between two reads of the walkers a node may have left one place and appeared in another, and then both
        // places claim it. The first one has it; taking it away again would leave that place without a node.
        let taken = old.zip(current.as_ref()).is_some_and(|(old, current)| {
            (old.node.parent, &old.node.name) != (current.node.parent, &current.node.name)
                || (moved_from.is_some() && old.identity.ino != current.identity.ino)
        });
        // RACE: while directories move about under the walk, one may have been seen in two places: then its directory may
        // have been refused its own place, or lie below itself.
        if occupied
            || taken
            || !self.has_parent(tx, new)?
            || self.is_above_itself(tx, current.as_ref(), new)?
        {
            self.report.refused.push(path);
            return Ok(());
        }
        let Some(current) = current else {
            tx.insert(new)?;
            self.note(ChangeOp::Created, path, new);
            return Ok(());
        };
        if current.node.entry.content.is_dir() && !new.node.entry.content.is_dir() {
            // What was in it goes with the other removals, and it cannot be something else before: if the program ended in
            // between, there would be nodes in what is no directory, and nobody looks for any there.
            self.parents.remove(&current.node.id);
            self.bury_children(tx, &current, &path)?;
            self.ended.push((path, boxed));
            return Ok(());
        }
        let changed = tx.update(&current, new)?;
        if let Some(from) = moved_from {
            // Problems there are about what is somewhere else now, and were found again in its new place.
            self.left.push(from.clone());
            if new.node.entry.content.is_dir() {
                self.report.moved.push((from.clone(), path.clone()));
                self.move_rules(&from, &path);
            }
            self.note(ChangeOp::Renamed { from }, path, new);
        } else if changed {
            self.note_difference(&current, new, path);
        }
        Ok(())
    }

    /// A new one waits for others, and while it does nothing touches the index.
    fn put_new(&mut self, tx: &mut IndexTx<'_>, put: Put) -> Result<(), LookError> {
        if !self.has_parent(tx, &put.new)? {
            self.report.refused.push(put.path);
            return Ok(());
        }
        self.new.push(put);
        if self.new.len() < AT_ONCE { Ok(()) } else { self.put_all_new(tx) }
    }

    /// Puts the new ones in their places. That these are free shows when they are put there, which costs less than to ask first.
    fn put_all_new(&mut self, tx: &mut IndexTx<'_>) -> Result<(), LookError> {
        let mut new = std::mem::take(&mut self.new);
        while !new.is_empty() {
            let nodes: Vec<&IndexedNode> = new.iter().map(|put| &*put.new).collect();
            let added = tx.insert_each_new_if_free(&nodes)?;
            let mut puts = new.into_iter();
            for put in puts.by_ref().take(added) {
                self.note(ChangeOp::Created, put.path, &put.new);
            }
            if let Some(put) = puts.next() {
                // Reading who has the place shows if it is taken only because the database is damaged.
                tx.child(put.new.node.parent, &put.new.node.name)?;
                self.report.refused.push(put.path);
            }
            new = puts.collect();
        }
        Ok(())
    }

    /// Whether the directory that a node was found in is in the index.
    fn has_parent(&mut self, tx: &IndexTx<'_>, new: &IndexedNode) -> Result<bool, LookError> {
        let parent = new.node.parent;
        if self.parents.contains(&parent) {
            return Ok(true);
        }
        let known = tx.get(parent)?.is_some_and(|parent| parent.node.entry.content.is_dir());
        if known {
            self.parents.insert(parent);
        }
        Ok(known)
    }

    /// Whether a directory that moves would lie within itself.
    fn is_above_itself(
        &self,
        tx: &IndexTx<'_>,
        current: Option<&IndexedNode>,
        new: &IndexedNode,
    ) -> Result<bool, LookError> {
        if current.is_none_or(|current| current.node.parent == new.node.parent) {
            return Ok(false);
        }
        let mut above = new.node.parent;
        while !is_root(above) {
            if above == new.node.id {
                return Ok(true);
            }
            let Some(node) = tx.get(above)? else { break };
            above = node.node.parent;
        }
        Ok(false)
    }

    /// What was in a directory that is a directory no more goes with the other removals.
    fn bury_children(
        &mut self,
        tx: &IndexTx<'_>,
        dir: &IndexedNode,
        path: &TreePath,
    ) -> Result<(), LookError> {
        for child in tx.children(dir.node.id)? {
            self.vanished.push((path.join(&child.node.name), Box::new(child), false));
        }
        Ok(())
    }

    fn finish(&mut self, tx: &mut IndexTx<'_>, scope: &Scope) -> Result<(), LookError> {
        for (path, node, forgotten) in std::mem::take(&mut self.vanished) {
            if forgotten || self.is_gone_for_good(&path) {
                self.remove(tx, path, &node, forgotten)?;
            } else {
                self.report.unsaid.push(path);
            }
        }
        for (path, new) in std::mem::take(&mut self.ended) {
            self.end_directory(tx, path, &new)?;
        }
        let files = self.limits.files_recently.max(self.files_before);
        if tx.files() == 0 && files >= EMPTIED_FLOOR && !self.limits.accept_emptied {
            return Err(LookError::Emptied { files });
        }
        self.finish_mounts(tx)?;
        self.finish_problems(tx, scope)?;
        self.finish_rules(tx)
    }

    /// RACE: a file that was renamed between the events that this look is for and the look itself, to a place that it does not
    /// look at, would become a deletion and a creation, and everybody would fetch it again.
    fn is_gone_for_good(&self, path: &TreePath) -> bool {
        self.report.unsaid.len() >= MAX_UNSAID
            || self.observer.is_gone_for_good(path)
            || self.ended.iter().any(|(dir, _)| path.is_within(dir))
    }

    /// A node that was a directory is something else, now that nothing is in it any more.
    fn end_directory(
        &mut self,
        tx: &mut IndexTx<'_>,
        path: TreePath,
        new: &IndexedNode,
    ) -> Result<(), LookError> {
        let Some(current) = tx.get(new.node.id)? else { return Ok(()) };
        let moved_away = (current.node.parent, &current.node.name) != (new.node.parent, &new.node.name);
        // RACE: it became a directory again, and what is in it was found there.
        if moved_away || !tx.children(current.node.id)?.is_empty() {
            self.report.refused.push(path);
            return Ok(());
        }
        tx.update(&current, new)?;
        self.note_difference(&current, new, path);
        Ok(())
    }

    fn remove(
        &mut self,
        tx: &mut IndexTx<'_>,
        path: TreePath,
        node: &IndexedNode,
        forgotten: bool,
    ) -> Result<(), LookError> {
        let Some(current) = tx.get(node.node.id)? else { return Ok(()) };
        let moved_away = current.node.parent != node.node.parent || current.node.name != node.node.name;
        if moved_away {
            return Ok(());
        }
        // RACE: a walker may have found a name missing for the moment of a rename, and another, that came through the
        // directory's new path, may have found it unchanged and said nothing. The disk decides, once more.
        if !forgotten && let Some(place) = self.still_there(tx, &current)? {
            self.report.refused.push(place);
            return Ok(());
        }
        tx.remove(&current)?;
        if current.node.entry.content.is_dir() {
            self.texts.retain(|dir, _| !dir.is_within(&path));
            self.report.gone_dirs.push(path.clone());
        }
        let op = if forgotten { ChangeOp::Forgotten } else { ChangeOp::Deleted };
        self.note(op, path, &current);
        Ok(())
    }

    /// The place of a node, if something is there that may be it.
    fn still_there(&self, tx: &IndexTx<'_>, node: &IndexedNode) -> Result<Option<TreePath>, LookError> {
        let looker = self.looker;
        let place = looker.index.table().path_of(tx.sql(), node.node.id).map_err(IndexError::from)?;
        let Some(place) = place else { return Ok(None) };
        let seen = looker.root.open_parent(&place).and_then(|(dir, name)| dir.stat(&name));
        let gone = match seen {
            Ok(stat) => stat.kind == StatKind::Other,
            Err(error) => is_gone(&error),
        };
        Ok(if gone { None } else { Some(place) })
    }

    /// Problems of places that were not looked at stay; those of places that were are replaced by what was found.
    fn finish_problems(&mut self, tx: &mut IndexTx<'_>, scope: &Scope) -> Result<(), LookError> {
        let index = &self.looker.index;
        let now = by_place(std::mem::take(&mut self.problems));
        let is_all = matches!(scope, Scope::Everything);
        let before = if is_all { index.problems()? } else { index.problems_at(self.places_looked_at())? };
        let before = by_place(before);
        let over: Vec<_> =
            before.iter().filter(|(place, _)| !now.contains_key(place)).map(|(_, was)| was).collect();
        let mut new: Vec<_> = now.values().filter(|now| before.get(&place_of(now)) != Some(*now)).collect();
        if !is_all {
            // What was found beside the places that were looked at may be known already.
            let known = by_place(index.problems_at(new.iter().map(|problem| (&problem.path, false)))?);
            new.retain(|now| known.get(&place_of(now)) != Some(*now));
        }
        if !over.is_empty() || !new.is_empty() {
            tx.change_problems(&over, &new)?;
            self.report.problems_changed = true;
        }
        Ok(())
    }

    /// Each place, and whether what is below it was looked at too.
    fn places_looked_at(&self) -> impl Iterator<Item = (&TreePath, bool)> {
        let covered = self.covered.iter().map(|(place, deep)| (place, *deep));
        covered.chain(self.left.iter().map(|place| (place, true)))
    }

    fn finish_rules(&mut self, tx: &mut IndexTx<'_>) -> Result<(), LookError> {
        if !self.rules.own {
            return Ok(());
        }
        let now = self.rules.rule_set(&self.texts);
        if now != self.looker.index.rule_set()? {
            tx.set_rules(&now)?;
            self.report.rules_changed = true;
        }
        Ok(())
    }

    fn finish_mounts(&mut self, tx: &mut IndexTx<'_>) -> Result<(), LookError> {
        let mut changed = false;
        let mounts = &mut self.memory.mounts;
        let unknown: Vec<&TreePath> =
            self.problems.iter().filter(|problem| problem.unknown).map(|problem| &problem.path).collect();
        for (path, deep) in &self.covered {
            changed |= *deep && mounts.retain_seen(path, &self.mounts, &unknown);
            mounts.looked_at(path, *deep);
        }
        for (path, crosses) in std::mem::take(&mut self.left_alone) {
            mounts.leave_alone(path, crosses);
        }
        for path in std::mem::take(&mut self.mounts) {
            changed |= self.memory.mounts.add(path);
        }
        if changed {
            tx.set_mounts(&self.memory.mounts.known())?;
        }
        Ok(())
    }

    /// The rule files below a directory move with it.
    fn move_rules(&mut self, from: &TreePath, to: &TreePath) {
        let moved: Vec<TreePath> = self.texts.keys().filter(|dir| dir.is_within(from)).cloned().collect();
        for dir in moved {
            let rest = dir.as_str()[from.as_str().len()..].to_owned();
            if let (Some(text), Ok(new)) =
                (self.texts.remove(&dir), TreePath::new(&format!("{}{rest}", to.as_str())))
            {
                self.texts.insert(new, text);
            }
        }
    }

    fn restless(&mut self, path: TreePath) {
        let times = self.memory.restless.entry(path.clone()).or_insert(0);
        *times += 1;
        if *times >= RESTLESS_LIMIT {
            let mut problem =
                Problem::new(path.clone(), "it changes all the time and could never be read in one piece");
            problem.unknown = true;
            self.problems.push(problem);
        }
        self.revisit(path);
    }

    fn revisit(&mut self, path: TreePath) {
        if self.report.revisit.len() < MAX_REVISITS {
            self.report.revisit.push(path);
        }
    }

    fn note_difference(&mut self, old: &IndexedNode, new: &IndexedNode, path: TreePath) {
        let (old, entry) = (&old.node.entry, &new.node.entry);
        if old.content != entry.content {
            self.note(ChangeOp::Modified, path, new);
        // A directory's time moves with everything in it; that is no news.
        } else if old.mode != entry.mode || entry.kind() != Kind::Directory {
            self.note(ChangeOp::Metadata, path, new);
        }
    }

    fn note(&mut self, op: ChangeOp, path: TreePath, node: &IndexedNode) {
        if self.report.notes.len() >= MAX_NOTES {
            self.report.notes_left_out += 1;
            return;
        }
        let content = &node.node.entry.content;
        self.report.notes.push(ChangeNote { op, path, kind: content.kind(), size: content.size() });
    }
}

fn empty_report(head: Head) -> LookReport {
    LookReport {
        head,
        notes: Vec::new(),
        notes_left_out: 0,
        revisit: Vec::new(),
        refused: Vec::new(),
        unsaid: Vec::new(),
        problems_changed: false,
        rules_changed: false,
        moved: Vec::new(),
        gone_dirs: Vec::new(),
        skipped: Vec::new(),
    }
}

/// What tells problems apart: names that are not UTF-8 are not part of a path.
type ProblemPlace = (TreePath, Box<[u8]>);

fn place_of(problem: &Problem) -> ProblemPlace {
    (problem.path.clone(), problem.raw_name.clone())
}

/// The first that was found in each place.
fn by_place(problems: Vec<Problem>) -> BTreeMap<ProblemPlace, Problem> {
    let mut places = BTreeMap::new();
    for problem in problems {
        places.entry(place_of(&problem)).or_insert(problem);
    }
    places
}

/// The root has no row of its own to update.
pub(super) const fn is_root(id: NodeId) -> bool {
    id.0 == NodeId::ROOT.0
}
