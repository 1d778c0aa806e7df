//! A first run into an empty target, or one that goes on with such a run: planned and carried out a part at a time, so that
//! files come while later ones are still being planned, and so that memory does not grow with the tree.
//!
//! Into a target that has nothing files come even while the tree itself still does. What they are made from may then be no tree
//! that ever was: the share goes on changing. So nothing that is in the way of anything is touched, each file is still verified,
//! and before a node that was there already comes again the filling ends, and a plan of the whole follows. Equal is only what has the
//! digest of a commit point, as always.

use std::{collections::HashSet, sync::Arc};

use sync_core::{
    NodeChange, NodeId,
    name::STATE_DIR,
    plan::{Filling, Finish, Fresh, Policy, Scope, Slot, plan_filling, take_wholes},
};
use sync_tree::apply::Durability;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    Engine, EngineError, Phase, Reporter,
    arrived::Arrived,
    context::Context,
    cycle::Run,
    outcome::Outcome,
    part::Puts,
    phases::Phases,
    store::Gaps,
    threads::{self, in_place},
    transfer::{self, Here, Placed},
    trees::Keeper,
};

/// Places in one part, at least. The first files should not have to wait for others: each part is twice as large as the one before.
const FIRST_PART: usize = 4;
const PART: usize = 2048;
/// Parts that are planned and wait.
const PARTS_AHEAD: usize = 2;

/// How much there is of the tree that a target is filled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tree {
    Arriving,
    Complete,
}

/// A target that is being filled.
pub(super) struct Fill {
    tree: watch::Sender<Tree>,
    planning: JoinHandle<Filled>,
    placing: JoinSet<Placed>,
    stop: CancellationToken,
    arrived: Arc<Arrived>,
    came: Came,
}

/// Plans parts and makes their directories.
struct Filler {
    context: Arc<Context>,
    reporter: Arc<dyn Reporter>,
    stop: CancellationToken,
    gaps: Gaps,
    part: usize,
    tree: watch::Receiver<Tree>,
    arrived: Arc<Arrived>,
    /// All of the tree would survive a power cut.
    is_vouched_for: bool,
    parts: mpsc::Sender<Puts>,
}

/// What was planned, and what is left to do when all files are in place.
struct Filled {
    gaps: Gaps,
    finish: Vec<Finish>,
    outcome: Outcome,
    touched: HashSet<NodeId>,
    failure: Option<EngineError>,
}

/// How far a tree has come, by the ids: what is planned from is not behind it.
#[derive(Debug, Default)]
struct Came(NodeId);

impl Came {
    /// Whether the tree is still what it was when its first nodes came: these are only more of it.
    fn goes_on_with(&self, changes: &[NodeChange]) -> bool {
        let mut last = self.0;
        changes.iter().all(|change| match change {
            NodeChange::Present(node) => node.id > std::mem::replace(&mut last, node.id),
            NodeChange::Gone(_) => false,
        })
    }

    /// The first nodes may come in any order.
    fn take(&mut self, changes: &[NodeChange]) {
        let last = changes.iter().map(|change| *change.id()).max();
        self.0 = self.0.max(last.unwrap_or_default());
    }
}

impl Engine {
    /// Begins to bring what the target lacks.
    pub(super) fn begin_fill(&mut self, run: &Run<'_>, gaps: Gaps) -> Result<Fill, EngineError> {
        run.reporter.phase(Phase::Transferring);
        self.store().unset_verified()?;
        self.store().filling_begins()?;
        self.announce()?;
        // What may be there already is searched for.
        in_place(|| match gaps {
            Gaps::All(_) => self.store().index().begin_bulk(),
            Gaps::Rest(_) => self.store().index().make_searchable(),
        })?;
        Ok(self.start_fill(run, gaps, Tree::Complete))
    }

    /// The tree has just begun to come: if the target has nothing, files may come too.
    pub(super) async fn begin_fill_early(&mut self, run: &Run<'_>) -> Result<(), EngineError> {
        if !self.is_bare() {
            return Ok(());
        }
        self.looked(run).await?;
        if !self.store().receive_in_place()? {
            return Ok(());
        }
        run.reporter.phase(Phase::Transferring);
        self.announce()?;
        // What still comes of the tree is not known yet.
        self.announced = false;
        in_place(|| self.store().index().begin_bulk())?;
        self.filling = Some(self.start_fill(run, Gaps::All(Box::default()), Tree::Arriving));
        Ok(())
    }

    /// A look at such a target takes no time.
    fn is_bare(&self) -> bool {
        let names = in_place(|| self.context.root.dir().list());
        names.is_ok_and(|names| names.iter().all(|entry| &*entry.name == STATE_DIR.as_bytes()))
    }

    fn start_fill(&self, run: &Run<'_>, gaps: Gaps, tree: Tree) -> Fill {
        let (parts, queue) = mpsc::channel(PARTS_AHEAD);
        let stop = run.cancel.child_token();
        let is_vouched_for = tree == Tree::Complete;
        let arrived = Arc::new(match tree {
            Tree::Arriving => Arrived::from_the_first(),
            Tree::Complete => Arrived::nothing(),
        });
        let (tree, comes) = watch::channel(tree);
        let (context, remote, reporter) = (self.context.clone(), run.remote.clone(), run.reporter.clone());
        let filler = Filler {
            context: context.clone(),
            reporter: reporter.clone(),
            stop: stop.clone(),
            gaps,
            part: FIRST_PART,
            is_vouched_for,
            tree: comes,
            arrived: arrived.clone(),
            parts,
        };
        let cancel = stop.clone();
        let mut placing = JoinSet::new();
        placing.spawn(async move {
            let run = Run { remote: &remote, reporter: &reporter, cancel: &cancel, once: true };
            transfer::run(&context, queue, Here::default(), &run).await
        });
        Fill { tree, planning: threads::start(filler.run()), placing, stop, arrived, came: Came::default() }
    }

    /// Whether what is being filled can go on with these nodes. What it was made from must not change before it is written down:
    /// were the run killed in between, nobody would know that it came from the share.
    pub(super) fn fill_goes_on_with(&self, changes: &[NodeChange]) -> bool {
        self.filling.as_ref().is_none_or(|fill| fill.came.goes_on_with(changes))
    }

    /// Nodes of the tree that the target is being filled from are written down.
    pub(super) fn fill_takes(&mut self, changes: Vec<NodeChange>) {
        if let Some(fill) = &mut self.filling {
            fill.came.take(&changes);
            fill.arrived.take(changes);
            fill.tree.send_replace(Tree::Arriving);
        }
    }

    /// All of the tree is here now: brings the rest. Answers what was planned for, and what came of it.
    pub(super) async fn complete_fill(
        &mut self,
        run: &Run<'_>,
        fill: Fill,
    ) -> Result<(Scope, Outcome), EngineError> {
        // Only what is shown depends on it, and the filling must come to its end.
        if let Ok(Some(remote)) = self.store().remote() {
            run.reporter.planned_in_all(remote.files, remote.bytes);
        }
        fill.tree.send_replace(Tree::Complete);
        let (gaps, mut outcome) = self.end_fill(run, fill).await?;
        let is_full = matches!(&gaps, Gaps::All(fresh) if fresh.is_full());
        match gaps {
            // What the share has to send again, now or to a later run, needs no other plan. What was in the way does: somebody's own,
            // on a first run.
            Gaps::All(fresh) if !is_full && !fresh.has_late() && outcome.stale.is_empty() => {
                return Ok((Scope::Everything, outcome));
            }
            // Where something failed, the directories of the late ones may be others.
            Gaps::All(fresh) if !is_full && !outcome.has_failures() => {
                outcome.merge(self.bring_late(run, &fresh).await?);
                return Ok((Scope::Everything, outcome));
            }
            Gaps::All(_) | Gaps::Rest(_) => {}
        }
        self.look_at_failed(&outcome)?;
        if is_full {
            let rest = self.begin_fill(run, Gaps::Rest(Filling::rest()))?;
            let (_, outcome) = self.end_fill(run, rest).await?;
            self.look_at_failed(&outcome)?;
        }
        // All of it is planned anew: what failed counts only if it fails again.
        self.planned_round(run, Policy::LeftWins).await
    }

    /// What was in the way of a filling is looked at before anything is planned anew. What it brought itself is no news.
    fn look_at_failed(&mut self, outcome: &Outcome) -> Result<(), EngineError> {
        if !outcome.has_failures() {
            return Ok(());
        }
        self.store().local_is_known()?;
        self.look_at_stale(outcome)
    }

    /// What belongs into directories that are in place by now.
    async fn bring_late(&mut self, run: &Run<'_>, fresh: &Fresh) -> Result<Outcome, EngineError> {
        let late = in_place(|| self.store().with_trees(&Keeper::of_nothing(), |trees| fresh.late(trees)))?;
        self.announce()?;
        self.carry_out(plan_filling(late), Policy::LeftWins, None, run).await
    }

    /// Ends a filling before its time, as what comes next does not go with it. What is in place is written down.
    pub(super) async fn stop_fill(&mut self, run: &Run<'_>) -> Result<(), EngineError> {
        let Some(fill) = self.filling.take() else { return Ok(()) };
        fill.stop.cancel();
        let ended = self.end_fill(run, fill).await;
        self.note_unrecorded();
        match ended {
            Ok(_) | Err(EngineError::Cancelled) => {}
            Err(failure) => return Err(failure),
        }
        // What was in its way is to be looked at. What it brought is no news.
        self.first_look_done = false;
        Ok(self.store().local_is_known()?)
    }

    /// Whether nothing comes any more of what is being filled, though the tree is not complete.
    pub(super) fn has_fill_ended(&self) -> bool {
        self.filling.as_ref().is_some_and(|fill| fill.planning.is_finished())
    }

    async fn end_fill(&mut self, run: &Run<'_>, mut fill: Fill) -> Result<(Gaps, Outcome), EngineError> {
        let placed = fill.placing.join_next().await;
        let planned = fill.planning.await;
        let broken = |error: JoinError| EngineError::Broken { reason: error.to_string() };
        let placed = match placed {
            Some(Ok(placed)) => placed,
            Some(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => return Err(broken(error)),
            },
            None => return Err(EngineError::Broken { reason: "nothing is being filled".to_owned() }),
        };
        self.move_log(run, &placed);
        let (outcome, failure) = placed.recorded(&fill.stop).await;
        let mut filled = planned.map_err(broken)?;
        run.reporter.phase(Phase::Finishing);
        let mut all = filled.outcome;
        all.merge(outcome);
        all.touched.extend(filled.touched);
        filled.finish.append(&mut all.unfinished);
        self.done.add(&all);
        let mut phases = Phases::new(&self.context, run.reporter.as_ref());
        let finished = in_place(|| phases.after_files(&filled.finish, &all.touched));
        if let Some(failure) = worst([failure, filled.failure, finished.err()]) {
            return Err(failure);
        }
        all.merge(phases.outcome);
        Ok((filled.gaps, all))
    }
}

/// The first failure that is more than having been asked to stop.
fn worst(failures: [Option<EngineError>; 3]) -> Option<EngineError> {
    let (stopped, failed): (Vec<_>, Vec<_>) =
        failures.into_iter().flatten().partition(|failure| matches!(failure, EngineError::Cancelled));
    failed.into_iter().chain(stopped).next()
}

impl Filler {
    /// Ends early if the transfer does: that says why.
    async fn run(mut self) -> Filled {
        let (context, reporter) = (self.context.clone(), self.reporter.clone());
        let mut phases = Phases::new(&context, reporter.as_ref());
        let mut finish = Vec::new();
        let failure = self.all_parts(&mut phases, &mut finish).await.err();
        let (outcome, touched) = phases.into_parts();
        Filled { gaps: self.gaps, finish, outcome, touched, failure }
    }

    async fn all_parts(
        &mut self,
        phases: &mut Phases<'_>,
        finish: &mut Vec<Finish>,
    ) -> Result<(), EngineError> {
        while let Some(slots) = self.next_part().await? {
            let mut plan = plan_filling(slots);
            let wholes = take_wholes(&mut plan, |id| match &self.gaps {
                Gaps::All(fresh) => fresh.is_leaf(id),
                Gaps::Rest(filling) => filling.is_leaf(id),
            });
            phases.before_files(&plan)?;
            let wholes = phases.make_in_place(wholes, &mut plan.finish)?;
            finish.extend(plan.finish);
            if self.parts.send(phases.possible(plan.files, wholes)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The next places, once there are enough of them.
    async fn next_part(&mut self) -> Result<Option<Vec<Slot>>, EngineError> {
        while !self.stop.is_cancelled() {
            // Before the trees are read: what comes meanwhile is told of again.
            let tree = *self.tree.borrow_and_update();
            if let Some(slots) = self.read_part(tree)? {
                self.vouch_for(tree)?;
                return Ok(Some(slots));
            }
            if tree == Tree::Complete {
                return Ok(None);
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                changed = self.tree.changed() => changed.map_err(|_| EngineError::Cancelled)?,
            }
        }
        Err(EngineError::Cancelled)
    }

    fn read_part(&mut self, tree: Tree) -> Result<Option<Vec<Slot>>, EngineError> {
        let (gaps, least) = (&mut self.gaps, self.part);
        let store = &self.context.store;
        let slots = match gaps {
            Gaps::All(fresh) => self.arrived.next_part(store, fresh, least)?,
            Gaps::Rest(filling) => {
                store.with_trees(&Keeper::of_nothing(), |trees| filling.next_part(trees, least))?
            }
        };
        if slots.is_some() {
            self.part = (2 * least).min(PART);
        }
        Ok(match &mut self.gaps {
            Gaps::All(fresh) if slots.is_none() && tree == Tree::Complete => {
                Some(fresh.last_part()).filter(|last| !last.is_empty())
            }
            _ => slots,
        })
    }

    /// Nothing is put in place before it is sure to be known, also after a power cut, what the share had there. See
    /// [`Engine::announce`].
    fn vouch_for(&mut self, tree: Tree) -> Result<(), EngineError> {
        if !self.is_vouched_for && self.context.durability != Durability::None {
            self.context.store.index().flush()?;
            self.is_vouched_for = tree == Tree::Complete;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sync_core::{Content, Entry, Name, Node, Time};

    use super::*;

    #[test]
    fn what_lies_behind_what_came_is_not_more_of_it() {
        let piece = |ids: &[u64]| ids.iter().map(|id| present(*id)).collect::<Vec<_>>();
        for (first, next, goes_on) in [
            (&[1, 3][..], &[4, 9][..], true),
            (&[1, 3], &[4, 4], false),
            (&[1, 3], &[2], false),
            (&[5, 3], &[4], false),
            (&[5, 3], &[6], true),
            (&[], &[1], true),
        ] {
            let mut came = Came::default();
            came.take(&piece(first));
            assert_eq!(came.goes_on_with(&piece(next)), goes_on, "{first:?}, {next:?}");
        }
        assert!(!Came::default().goes_on_with(&[NodeChange::Gone(NodeId(7))]));
    }

    fn present(id: u64) -> NodeChange {
        let entry = Entry { content: Content::Directory, mtime: Time::default(), mode: 0o755 };
        let name = Name::new(&id.to_string()).expect("a number is a name");
        NodeChange::Present(Node { id: NodeId(id), parent: NodeId::ROOT, name, entry })
    }
}
