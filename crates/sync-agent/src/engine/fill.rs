//! A first run into an empty target, or one that goes on with such a run: planned and carried out a part at a time, so that
//! files come while later ones are still being planned, and so that memory does not grow with the tree.

use std::{collections::HashSet, sync::Arc};

use sync_core::{
    NodeId, RuleSet,
    plan::{Filling, Finish, Guard, Policy, plan, take_wholes},
};
use sync_tree::rules::Rules;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Engine, EngineError, Phase, Reporter,
    context::Context,
    cycle::Run,
    outcome::Outcome,
    part::Puts,
    phases::Phases,
    store::Keeper,
    threads::{self, in_place},
    transfer::{self, Here},
};

/// Places in one part, at least.
const PART: usize = 2048;
/// Parts that are planned and wait.
const PARTS_AHEAD: usize = 2;

/// Plans parts and makes their directories.
struct Filler {
    context: Arc<Context>,
    reporter: Arc<dyn Reporter>,
    cancel: CancellationToken,
    filling: Filling,
    parts: mpsc::Sender<Puts>,
}

/// What is left to do when all files are in place.
#[derive(Default)]
struct Filled {
    finish: Vec<Finish>,
    outcome: Outcome,
    touched: HashSet<NodeId>,
}

impl Engine {
    /// Brings what the target lacks. That is all if it was empty.
    pub(super) async fn fill(&mut self, run: &Run<'_>, filling: Filling) -> Result<Outcome, EngineError> {
        if let Some(remote) = self.store().remote()? {
            run.reporter.planned(remote.files, remote.bytes);
        }
        run.reporter.phase(Phase::Transferring);
        self.store().unset_verified()?;
        self.store().filling_begins()?;
        self.announce()?;
        // What may be there already is searched for.
        match filling.is_of_a_blank_side() {
            true => self.store().index().begin_bulk()?,
            false => self.store().index().make_searchable()?,
        }
        self.fill_in_parts(run, filling).await
    }

    async fn fill_in_parts(&mut self, run: &Run<'_>, filling: Filling) -> Result<Outcome, EngineError> {
        let (parts, queue) = mpsc::channel(PARTS_AHEAD);
        let (context, reporter, cancel) = (self.context.clone(), run.reporter.clone(), run.cancel.clone());
        let filler = Filler { context, reporter, cancel, filling, parts };
        let filling = threads::start(filler.run());
        let (outcome, failure) =
            transfer::run(&self.context, queue, Here::default(), run).await.recorded(run.cancel).await;
        let (mut filled, unfilled) =
            filling.await.map_err(|error| EngineError::Broken { reason: error.to_string() })?;
        run.reporter.phase(Phase::Finishing);
        let mut all = filled.outcome;
        all.merge(outcome);
        all.touched.extend(filled.touched);
        filled.finish.append(&mut all.unfinished);
        self.done.add(&all);
        let mut phases = Phases::new(&self.context, run.reporter.as_ref());
        let finished = in_place(|| phases.after_files(&filled.finish, &all.touched));
        if let Some(failure) = failure.or(unfilled) {
            return Err(failure);
        }
        finished?;
        all.merge(phases.outcome);
        Ok(all)
    }
}

impl Filler {
    /// Ends early if the transfer does: that says why.
    async fn run(mut self) -> (Filled, Option<EngineError>) {
        let (context, reporter) = (self.context.clone(), self.reporter.clone());
        let mut phases = Phases::new(&context, reporter.as_ref());
        let mut finish = Vec::new();
        let failure = self.all_parts(&mut phases, &mut finish).await.err();
        let (outcome, touched) = phases.into_parts();
        (Filled { finish, outcome, touched }, failure)
    }

    async fn all_parts(
        &mut self,
        phases: &mut Phases<'_>,
        finish: &mut Vec<Finish>,
    ) -> Result<(), EngineError> {
        // Nothing can be deleted or put aside here.
        let nothing = Guard { allow: true, ..Guard::default() };
        // And nothing is asked for that a rule could keep.
        let keeper = Keeper { rules: &Rules::compile(&RuleSet::default()), unknown: Vec::new() };
        while !self.cancel.is_cancelled() {
            let filling = &mut self.filling;
            let slots = self.context.store.with_trees(&keeper, |trees| filling.next_part(trees, PART))?;
            let Some(slots) = slots else { return Ok(()) };
            let mut plan = plan(slots, Policy::LeftWins, &nothing)?;
            let wholes = take_wholes(&mut plan, |id| self.filling.is_leaf(id));
            phases.before_files(&plan)?;
            let wholes = phases.make_in_place(wholes, &mut plan.finish)?;
            finish.extend(plan.finish);
            if self.parts.send(Puts { files: plan.files, wholes }).await.is_err() {
                return Ok(());
            }
        }
        Err(EngineError::Cancelled)
    }
}
