//! The runs: pull, follow, verify.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sync_core::{
    FeedEvent, Halt, Problem, RuleSet, TreePath,
    name::STATE_DIR,
    plan::{Clear, Guard, Plan, Policy, Put, Record, Scope, Slot, gather, gather_all, plan, take_wholes},
};
use sync_locations::{ChangeStream as _, Location, LocationError};
use sync_tree::{
    apply::{ApplyError, Durability},
    index::IndexError,
    look::{Dirty, LookError, LookLimits, NoObserver, Scope as LookScope},
    rules::Rules,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Engine, EngineError, Phase, PullMode, Reporter, Summary,
    base::{agree, drop_base},
    catch_up::{Early, Taken},
    counts::{Done, FailedFiles, differences, one_for_each_place, unexplained},
    fill::Fill,
    foreseen::Foreseen,
    material::Material,
    now_secs,
    outcome::{Outcome, describe},
    part::Puts,
    phases::Phases,
    queue::Queue,
    sent_for::SentFor,
    store::Verified,
    threads::in_place,
    transfer::{self, Here, Placed},
    trees::Keeper,
};

/// How often a run plans again when places changed under its hands.
const MAX_ROUNDS: u32 = 8;

/// A run that sees to so many files leaves a long log, which closing the database has to move.
const MANY_FILES: u64 = 256;

/// The pause before the second round; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// For so long, from the first of them on, one more commit point is taken that has come, and they are settled together. If its tree is wrong
/// the one before is not settled either: what is here is neither's then.
const MOST_TOGETHER: Duration = Duration::from_millis(20);

/// What a run has with it.
pub(super) struct Run<'a> {
    pub remote: &'a Arc<dyn Location>,
    pub reporter: &'a Arc<dyn Reporter>,
    pub cancel: &'a CancellationToken,
    /// It ends when all is done that is to be done now.
    pub once: bool,
}

impl Engine {
    /// Makes the target equal once.
    ///
    /// # Errors
    /// The run could not be completed; what was done is recorded. Single paths that fail are in the summary.
    pub async fn pull(
        &mut self,
        remote: &Arc<dyn Location>,
        mode: PullMode,
        reporter: &Arc<dyn Reporter>,
        cancel: &CancellationToken,
    ) -> Result<Summary, EngineError> {
        let run = Run { remote, reporter, cancel, once: true };
        self.forget_foreseen();
        let pulled = self.pull_over(mode, &run).await;
        self.forget_foreseen();
        let stopped = self.stop_fill(&run).await;
        let pulled = match (pulled, stopped) {
            // The feed was cut, and that is not the worst of it.
            (Err(EngineError::Location(_)), Err(failure)) => Err(failure),
            (pulled, _) => pulled,
        };
        pulled.map_err(|error| self.explained(error))
    }

    /// What a run read and sent for is for its own plan.
    fn forget_foreseen(&mut self) {
        (self.foreseen, self.sent_for) = (None, None);
    }

    async fn pull_over(&mut self, mode: PullMode, run: &Run<'_>) -> Result<Summary, EngineError> {
        self.done = Done::default();
        self.announced = false;
        let early = if mode.dry_run || mode.full { Early::MustNot } else { Early::May };
        self.catch_up_and_look(run, early).await?;
        if mode.dry_run {
            let plan = self.plan_only(mode.full, run)?;
            return self.intended(&plan, run);
        }
        if mode.full {
            self.store().distrust_everything()?;
            let outcome = self.one_round(run, Policy::LeftWinsAnew).await?;
            self.look_at_stale(&outcome)?;
        }
        self.rounds(run).await?;
        self.summary(run, self.done)
    }

    /// Keeps the target equal for as long as one feed lasts.
    ///
    /// # Errors
    /// The feed was cut, or the run could not go on.
    pub async fn follow(
        &mut self,
        remote: &Arc<dyn Location>,
        reporter: &Arc<dyn Reporter>,
        cancel: &CancellationToken,
    ) -> Result<(), EngineError> {
        let run = Run { remote, reporter, cancel, once: false };
        self.forget_foreseen();
        let followed = self.follow_over(&run).await;
        followed.map_err(|error| self.explained(error))
    }

    async fn follow_over(&mut self, run: &Run<'_>) -> Result<(), EngineError> {
        let Run { remote, reporter, cancel, .. } = *run;
        self.adopt_unrecorded(run)?;
        let cursor = self.store().cursor()?;
        reporter.phase(Phase::Listing);
        let mut feed = Queue::of(remote.changes(cursor.as_ref(), true).await?);
        let (mut scanned, mut settled) = (Instant::now(), Instant::now());
        let mut pause = FIRST_PAUSE;
        let mut caught_up = false;
        // Part of what leads to the next commit point is here: what is between two must not be planned with.
        let mut between = false;
        // Since when a commit point was taken that is not settled.
        let mut unsettled = None;
        loop {
            let retry = caught_up && self.store().pending_count()? > 0;
            // Signs of life come in between, so what is waited for is a time and not a silence.
            let wait = match retry {
                true => pause.saturating_sub(settled.elapsed()),
                false => self.options.rescan.saturating_sub(scanned.elapsed()),
            };
            let event = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(EngineError::Cancelled),
                event = feed.next() => Some(event),
                () = sleep(wait), if caught_up && !between => None,
            };
            match event {
                Some(None) => return Err(cut()),
                Some(Some(event)) => {
                    let event = event?;
                    between |= matches!(event, FeedEvent::Reset { .. } | FeedEvent::Nodes { .. });
                    match self.take(event)? {
                        Taken::More => continue,
                        Taken::Commit => {
                            (pause, between) = (FIRST_PAUSE, false);
                            let late =
                                unsettled.is_some_and(|since: Instant| since.elapsed() >= MOST_TOGETHER);
                            unsettled.get_or_insert_with(Instant::now);
                            if !late && feed.has_commit().await {
                                continue;
                            }
                            unsettled = None;
                        }
                        Taken::Mismatch => return Err(cut()),
                        Taken::Halted(reason) => {
                            reporter.halted(&Halt::Share { reason });
                            continue;
                        }
                    }
                }
                None if retry => pause = (pause * 2).min(LONGEST_PAUSE),
                None => {}
            }
            if !self.first_look_done || scanned.elapsed() >= self.options.rescan {
                self.look(&LookScope::Everything, false, run)?;
                scanned = Instant::now();
            }
            caught_up = true;
            self.settle_commit(run).await?;
            // Nothing is waited for now; the next change would have to wait for it.
            in_place(|| self.store().index().make_searchable())?;
            settled = Instant::now();
        }
    }

    /// Compares everything, reading every file of the target, and changes nothing.
    ///
    /// # Errors
    /// The comparison could not be made.
    pub async fn verify(
        &mut self,
        remote: &Arc<dyn Location>,
        reporter: &Arc<dyn Reporter>,
        cancel: &CancellationToken,
    ) -> Result<Summary, EngineError> {
        let run = Run { remote, reporter, cancel, once: true };
        self.forget_foreseen();
        self.adopt_unrecorded(&run)?;
        self.catch_up(&run, Early::MustNot).await?;
        self.look(&LookScope::Everything, true, &run)?;
        // The digests were made of what was just read. Where they are the same, so is all that is not known to be pending, and
        // only otherwise every place has to be listed.
        let everything = !self.has_same_digest()?;
        let plan = self.plan_only(everything, &run)?;
        let mut summary = self.summary(&run, Done::default())?;
        let differences = differences(&plan);
        summary.equal = summary.equal && differences.is_empty();
        let mut failed = self.failed_files(&summary.problems)?;
        failed.listed.extend(plan.files.iter().map(|put| put.path().clone()));
        summary.problems = one_for_each_place(summary.problems.into_iter().chain(differences));
        summary.failed = failed.count();
        Ok(summary.balanced())
    }

    /// Applies what is pending at a commit point of a live feed.
    async fn settle_commit(&mut self, run: &Run<'_>) -> Result<(), EngineError> {
        self.done = Done::default();
        let began = Instant::now();
        let outcome = match self.one_round(run, Policy::LeftWins).await {
            // A halt stops the deleting, not the following: the share may come back.
            Err(EngineError::Halt(halt)) => {
                run.reporter.halted(&halt);
                return Ok(());
            }
            other => other?,
        };
        tracing::debug!(done = ?self.done, took = ?began.elapsed(), "carried out what came");
        self.look_at_stale(&outcome)?;
        if !outcome.wants_another_round() {
            let summary = self.summary(run, self.done)?;
            if summary.equal || !summary.problems.is_empty() {
                run.reporter.caught_up(&summary);
            } else {
                // Nothing is pending and nothing failed, and still it is not equal: look at everything.
                self.store().distrust_everything()?;
                self.look(&LookScope::Everything, false, run)?;
            }
        }
        Ok(())
    }

    /// What a run that was cut off had put in place without recording it came from the share. That is written down while
    /// the remote tree is still the one it came from, or it would be taken for somebody's own when the share has moved on.
    pub(super) fn adopt_unrecorded(&mut self, run: &Run<'_>) -> Result<(), EngineError> {
        if !self.cut_off {
            return Ok(());
        }
        // What was taken out is best found where it was.
        self.settle_waiting();
        // A look records what it finds as if it were there to stay.
        in_place(|| self.context.applier.flush_earlier())?;
        self.look(&LookScope::Everything, false, run)?;
        let slots = self.gather(&Scope::Everything, Policy::LeftWins)?;
        let allow = Guard { allow: true, ..Guard::default() };
        self.keep_records(&plan(slots, Policy::LeftWins, &allow)?)?;
        self.cut_off = false;
        Ok(())
    }

    /// Looks at the target.
    pub(super) fn look(
        &mut self,
        scope: &LookScope,
        distrust: bool,
        run: &Run<'_>,
    ) -> Result<(), EngineError> {
        if matches!(scope, LookScope::Everything) {
            run.reporter.phase(Phase::Scanning);
        }
        self.look_quietly(scope, distrust)
    }

    fn look_quietly(&mut self, scope: &LookScope, distrust: bool) -> Result<(), EngineError> {
        self.check_root()?;
        let looker = self.looker()?;
        let limits = LookLimits { distrust, ..LIMITS };
        in_place(|| looker.look(scope, &NoObserver, &limits))?;
        if matches!(scope, LookScope::Everything) {
            self.first_look_done = true;
        }
        Ok(self.store().take_local_changes()?)
    }

    /// Whatever failed in a target that was removed, moved away or robbed of its state, that is the reason.
    fn explained(&self, error: EngineError) -> EngineError {
        if !matches!(error, EngineError::Apply(_) | EngineError::Index(_) | EngineError::Look(_)) {
            return error;
        }
        match self.check_root() {
            Ok(()) => naming(error, self.store().index().file()),
            Err(reason) => reason,
        }
    }

    /// The target must still be the directory that was opened, and `.syncd` in it.
    pub(super) fn check_root(&self) -> Result<(), EngineError> {
        let root = &self.context.root;
        match root.path_identity() {
            Ok(identity) if identity == root.identity() => self.check_state(),
            Ok(_) => Err(Halt::Target { reason: "another directory is in its place".to_owned() }.into()),
            Err(error) => Err(Halt::Target { reason: error.to_string() }.into()),
        }
    }

    /// What is removed while it is held can still be written to, for nobody.
    fn check_state(&self) -> Result<(), EngineError> {
        let is_ours = match (self.context.root.dir().stat(STATE_DIR), self.work.stat_self()) {
            (Ok(named), Ok(held)) => named.ino == held.ino,
            (Err(error), _) => error.kind() != std::io::ErrorKind::NotFound,
            // What is wrong then shows where it matters.
            (Ok(_), Err(_)) => true,
        };
        if is_ours { Ok(()) } else { Err(ApplyError::Gone { path: TreePath::root() }.into()) }
    }

    pub(super) fn look_at_stale(&mut self, outcome: &Outcome) -> Result<(), EngineError> {
        if outcome.stale.is_empty() && outcome.put_back.is_empty() {
            return Ok(());
        }
        // Not only the place: what is in the way may be a directory above it.
        let mut places = HashSet::new();
        for path in outcome.stale.iter().chain(&outcome.put_back) {
            places.insert(Dirty { path: path.clone(), deep: true });
            places.extend(
                path.parent().filter(|above| !above.is_root()).map(|path| Dirty { path, deep: false }),
            );
        }
        self.look_quietly(&LookScope::Places(places.into_iter().collect()), false)
    }

    /// Plans and applies until nothing is in the way any more.
    async fn rounds(&mut self, run: &Run<'_>) -> Result<(), EngineError> {
        let mut pause = FIRST_PAUSE;
        for round in 1..=MAX_ROUNDS {
            let outcome = self.one_round(run, Policy::LeftWins).await?;
            self.look_at_stale(&outcome)?;
            if !outcome.wants_another_round() {
                if self.is_equal()? || !self.problems()?.is_empty() || round == MAX_ROUNDS {
                    return Ok(());
                }
                // Nothing is pending, and still it is not equal: somebody else is at work here.
                self.store().distrust_everything()?;
                self.look(&LookScope::Everything, false, run)?;
            }
            if round == MAX_ROUNDS {
                self.never_still(&outcome);
                return Ok(());
            }
            tokio::select! {
                () = run.cancel.cancelled() => return Err(EngineError::Cancelled),
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            if !outcome.changed.is_empty() {
                self.catch_up(run, Early::MustNot).await?;
            }
            if !self.first_look_done {
                self.look(&LookScope::Everything, false, run)?;
            }
        }
        Ok(())
    }

    fn never_still(&self, outcome: &Outcome) {
        let mut failing = self.failing();
        for path in outcome.changed.iter().chain(&outcome.stale) {
            let text = match outcome.garbled.contains(path) {
                true => {
                    "what came for it was wrong each time; pull again, and if it stays so check the network, and the \
                     disks and the memory of both machines"
                }
                false => "it changed again and again while it was being synced; pull again",
            };
            // What is known to be wrong there says more.
            failing.entry(path.clone()).or_insert_with(|| Problem::new(path.clone(), text));
        }
    }

    fn failing(&self) -> std::sync::MutexGuard<'_, BTreeMap<TreePath, Problem>> {
        self.failing.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Plans what is pending and carries it out.
    async fn one_round(&mut self, run: &Run<'_>, policy: Policy) -> Result<Outcome, EngineError> {
        self.check_root()?;
        if self.filling.is_none() && self.settle_waiting() {
            self.look_quietly(&LookScope::Everything, false)?;
        }
        self.context.trouble.passed();
        let round = match self.fill_of_round(run, policy)? {
            Some(fill) => self.complete_fill(run, fill).await,
            None => self.planned_round(run, policy).await,
        };
        self.note_unrecorded();
        let forgiven = if self.options.allow_mass_delete { self.store().forgive_deletions() } else { Ok(()) };
        let (scope, outcome) = round?;
        forgiven?;
        if !outcome.problems.is_empty() {
            self.check_root()?;
        }
        self.forget_solved(&scope, &outcome)?;
        self.store().settled(&scope, &outcome.left_remote)?;
        self.store().keep_local_pending(&outcome.left_local)?;
        self.store().local_is_known()?;
        self.store().first_run_is_over()?;
        Ok(outcome)
    }

    /// The filling that most of a round can be done by.
    fn fill_of_round(&mut self, run: &Run<'_>, policy: Policy) -> Result<Option<Fill>, EngineError> {
        if let Some(fill) = self.filling.take() {
            return Ok(Some(fill));
        }
        match self.store().filling()? {
            Some(gaps) if policy == Policy::LeftWins => self.begin_fill(run, gaps).map(Some),
            _ => Ok(None),
        }
    }

    /// What is in place and could not be written down is the share's all the same, see `adopt_unrecorded`.
    pub(super) fn note_unrecorded(&mut self) {
        self.cut_off |= self.context.unrecorded.swap(false, Ordering::Relaxed);
    }

    /// What could not go back into the tree earlier may be able to now. Answers whether it did.
    fn settle_waiting(&self) -> bool {
        if !self.context.waiting.swap(false, Ordering::Relaxed) {
            return false;
        }
        let settled = in_place(|| self.context.applier.recover_moves());
        if let Err(error) = &settled {
            tracing::debug!(error = describe(error), "it still waits in .syncd/staging");
            self.context.leave_waiting();
        }
        settled.is_ok()
    }

    /// Answers what was planned for, and what came of it.
    pub(super) async fn planned_round(
        &mut self,
        run: &Run<'_>,
        policy: Policy,
    ) -> Result<(Scope, Outcome), EngineError> {
        let scope = self.store().scope()?;
        let earlier = self.sent_for.take();
        let may_send = earlier.is_none() && policy == Policy::LeftWins && !self.halted;
        let now = self.foresee(&scope, may_send.then_some(run.remote));
        let sent_for = earlier.or(now);
        let plan = self.plan(policy, &scope, run);
        self.halted = matches!(plan, Err(EngineError::Halt(_)));
        let plan = plan?;
        self.keep_records(&plan)?;
        if plan.is_empty() {
            return Ok((scope, Outcome::default()));
        }
        self.store().unset_verified()?;
        self.announce()?;
        Ok((scope, self.carry_out(plan, policy, sent_for, run).await?))
    }

    /// Before anything is changed it is sure to be known, also after a power cut, that a run is on its way and where it was
    /// going. Else what it put in place without recording would be somebody's own, if the share has moved on until then. Once is
    /// enough for a tree; while following it costs more than it saves.
    pub(super) fn announce(&mut self) -> Result<(), EngineError> {
        if self.options.durability != Durability::None && !self.announced {
            in_place(|| self.store().index().flush())?;
            self.announced = true;
        }
        Ok(())
    }

    /// A plan that is not carried out.
    fn plan_only(&mut self, everything: bool, run: &Run<'_>) -> Result<Plan, EngineError> {
        let scope = if everything { Scope::Everything } else { self.store().scope()? };
        self.foresee(&scope, None);
        self.plan(Policy::LeftWins, &scope, run)
    }

    fn plan(&mut self, policy: Policy, scope: &Scope, run: &Run<'_>) -> Result<Plan, EngineError> {
        run.reporter.phase(Phase::Planning);
        let slots = self.gather(scope, policy)?;
        let store = self.store();
        let deleted_since = store.deleted_since(now_secs())?;
        let guard = Guard {
            allow: self.options.allow_mass_delete,
            first_run: store.is_first_run()?,
            files_then: store.index().head()?.files + deleted_since,
            deleted_since,
        };
        let plan = plan(slots, policy, &guard)?;
        tracing::trace!(?scope, ?plan, "planned");
        let bytes = plan.files.iter().filter(|put| matches!(put, Put::File { .. })).map(size_of).sum();
        run.reporter.planned(plan.files.len() as u64, bytes);
        Ok(plan)
    }

    fn gather(&mut self, scope: &Scope, policy: Policy) -> Result<Vec<Slot>, EngineError> {
        // It is for one plan: what comes of that changes what was read.
        let foreseen = self.foreseen.take();
        let store = self.store();
        if !scope.is_empty() {
            // Contents will be looked for in the target.
            in_place(|| store.index().make_searchable())?;
        }
        let rules = Rules::compile(&store.index().rule_set()?);
        let keeper = Keeper::new(&rules, &store.remote_problems()?);
        // What is as it should be matters only if it is to come again all the same.
        let gather_with = |foreseen: &Foreseen| {
            store.with_trees_foreseen(&keeper, foreseen, |trees| match policy {
                Policy::LeftWinsAnew => gather_all(trees, scope),
                Policy::LeftWins => gather(trees, scope),
            })
        };
        in_place(|| {
            let foreseen = match foreseen {
                Some(known) if known.is_still_for(store, scope)? => known,
                _ => Foreseen::default(),
            };
            let slots = gather_with(&foreseen)?;
            if cfg!(debug_assertions) && !foreseen.is_empty() {
                assert_eq!(
                    slots,
                    gather_with(&Foreseen::default())?,
                    "what was read ahead makes a difference"
                );
            }
            Ok(slots)
        })
    }

    fn keep_records(&self, plan: &Plan) -> Result<(), EngineError> {
        if plan.records.is_empty() {
            return Ok(());
        }
        self.store().index().write(|tx| {
            for record in &plan.records {
                match record {
                    Record::Agree { remote, local } => agree(tx.sql(), remote, *local)?,
                    Record::Drop { id } => drop_base(tx.sql(), *id)?,
                }
            }
            Ok::<_, sync_tree::index::IndexError>(())
        })?;
        Ok(())
    }

    pub(super) async fn carry_out(
        &mut self,
        mut plan: Plan,
        policy: Policy,
        sent_for: Option<SentFor>,
        run: &Run<'_>,
    ) -> Result<Outcome, EngineError> {
        let context = self.context.clone();
        let (material, later) = match policy {
            Policy::LeftWins => in_place(|| Material::hold(&context, &mut plan))?,
            Policy::LeftWinsAnew => Default::default(),
        };
        // Where something waits to make way, its place is not free.
        let wholes = if later.is_empty() { take_wholes(&mut plan, |_| true) } else { Vec::new() };
        let mut phases = Phases::new(&context, run.reporter.as_ref());
        let made = in_place(|| {
            let captured = phases.before_files(&plan)?;
            Ok((captured, phases.make_in_place(wholes, &mut plan.finish)?))
        });
        let (captured, wholes) = match made {
            Ok(made) => made,
            Err(failure) => {
                self.done.add(&phases.outcome);
                return Err(failure);
            }
        };
        run.reporter.phase(Phase::Transferring);
        let puts = phases.possible(std::mem::take(&mut plan.files), wholes);
        let changed = (later.is_empty() && phases.may_run_ahead()).then(|| puts.dirs());
        let here = Here { captured, material, sent_for };
        let placed = transfer::run(&self.context, in_one_part(puts), here, run).await;
        run.reporter.phase(Phase::Finishing);
        let early = match changed {
            Some(changed) if placed.is_well() => in_place(|| phases.while_recording(&plan.finish, &changed)),
            _ => Ok(()),
        };
        self.move_log(run, &placed);
        let (mut outcome, failure) = placed.recorded(run.cancel).await;
        let failure = failure.or(early.err());
        plan.finish.append(&mut outcome.unfinished);
        let finished = in_place(|| {
            // What still comes may need what was to go.
            if failure.is_none() {
                phases.clear_later(&later)?;
            }
            phases.after_files(&plan.finish, &outcome.touched)
        });
        let mut all = phases.outcome;
        all.merge(outcome);
        self.done.add(&all);
        if let Some(failure) = failure {
            return Err(failure);
        }
        finished?;
        Ok(all)
    }

    /// Moves the log as far as it goes, while one thread still adds to it and nothing else is to be done.
    pub(super) fn move_log(&self, run: &Run<'_>, placed: &Placed) {
        if run.once && placed.is_well() && placed.files() >= MANY_FILES {
            in_place(|| self.store().index().move_log());
        }
    }

    /// Problems of places that were planned anew are replaced by what came of that.
    fn forget_solved(&self, scope: &Scope, outcome: &Outcome) -> Result<(), EngineError> {
        let unread = self.store().index().problems()?;
        let kept = unexplained(&outcome.not_empty, outcome.problems.iter().chain(&unread));
        let mut failing = self.failing();
        if matches!(scope, Scope::Everything)
            || self.store().pending_count().is_ok_and(|pending| pending == 0)
        {
            failing.clear();
        }
        for problem in outcome.problems.iter().chain(&kept) {
            failing.insert(problem.path.clone(), problem.clone());
        }
        // All that failed is pending again and planned in the next round: what solved itself is forgotten then.
        if outcome.problems.is_empty() && outcome.left_remote.is_empty() && outcome.left_local.is_empty() {
            failing.clear();
        }
        Ok(())
    }

    /// Everything that is wrong with single paths, here and on the server.
    fn problems(&self) -> Result<Vec<Problem>, EngineError> {
        let mut problems = self.store().remote_problems()?;
        problems.extend(self.store().index().problems()?);
        problems.extend(self.failing().values().cloned());
        Ok(one_for_each_place(problems))
    }

    fn failed_files(&self, problems: &[Problem]) -> Result<FailedFiles, EngineError> {
        if problems.is_empty() {
            return Ok(FailedFiles::default());
        }
        let store = self.store();
        let remote = store.remote_problems()?;
        // Only what the share has is asked for, and no rule keeps anything out of that.
        let keeper = Keeper { rules: &Rules::compile(&RuleSet::default()), unknown: Vec::new() };
        Ok(store.with_trees(&keeper, |trees| FailedFiles::among(trees, problems, &remote))?)
    }

    fn is_equal(&self) -> Result<bool, EngineError> {
        // What could not be looked at is in the index as it was before.
        let is_known = !self.store().index().is_partly_unknown()?;
        Ok(is_known && self.has_same_digest()? && self.store().pending_count()? == 0)
    }

    fn has_same_digest(&self) -> Result<bool, EngineError> {
        let local = self.store().index().head()?;
        let remote = self.store().remote()?;
        Ok(remote.is_some_and(|remote| remote.root_digest == local.root_digest))
    }

    fn summary(&self, run: &Run<'_>, done: Done) -> Result<Summary, EngineError> {
        let remote = self.store().remote()?;
        let problems = self.problems()?;
        let equal = self.is_equal()?;
        if let (true, Some(remote)) = (equal, &remote) {
            self.store().set_verified(Verified { at_secs: now_secs(), root_digest: remote.root_digest })?;
            // Whatever they were parts of is here, or is wanted no more.
            self.context.applier.clear_partials();
        }
        let failed = self.failed_files(&problems)?;
        // What the server cannot describe has no node, so the share does not count it.
        let checked = remote.as_ref().map_or(0, |remote| remote.files) + failed.unlisted;
        let summary = Summary {
            checked,
            synced: done.synced,
            failed: failed.count(),
            deleted: done.deleted,
            renamed: done.renamed,
            bytes_received: run.remote.bytes_received(),
            bytes_total: done.bytes_total,
            cursor: remote.as_ref().map(|remote| remote.cursor.clone()),
            root_digest: remote.map(|remote| remote.root_digest),
            problems,
            equal,
            ..Summary::default()
        };
        Ok(summary.balanced())
    }

    /// What a pull would do.
    fn intended(&self, plan: &Plan, run: &Run<'_>) -> Result<Summary, EngineError> {
        let renamed =
            plan.clear.iter().filter(|clear| matches!(clear, Clear::Move { .. } | Clear::TakeOut { .. }));
        let renamed = renamed.count() as u64;
        // What the server cannot read now is known to fail.
        let failed = self.failed_files(&self.problems()?)?;
        let possible = || plan.files.iter().filter(|put| !failed.listed.contains(put.path()));
        let bytes_total = possible().filter(|put| matches!(put, Put::File { .. })).map(size_of).sum();
        let synced = possible().count() as u64 + renamed;
        self.summary(run, Done { synced, deleted: plan.deletions(), renamed, bytes_total })
    }
}

/// The error, with the database that it is about.
fn naming(error: EngineError, database: &Path) -> EngineError {
    match error {
        EngineError::Index(source @ IndexError::Database { .. })
        | EngineError::Look(LookError::Index(source @ IndexError::Database { .. })) => {
            EngineError::Database { path: database.to_owned(), source }
        }
        other => other,
    }
}

/// A target may be emptied by its owner, and a pull then fills it again.
pub(super) const LIMITS: LookLimits = LookLimits { files_recently: 0, accept_emptied: true, distrust: false };

fn in_one_part(puts: Puts) -> mpsc::Receiver<Puts> {
    let (parts, queue) = mpsc::channel(1);
    // It has room for one, and its receiver is right here.
    let _ = parts.try_send(puts);
    queue
}

fn size_of(put: &Put) -> u64 {
    put.remote().entry.content.size()
}

pub(super) fn cut() -> EngineError {
    LocationError::Cut { source: "the stream ended".into() }.into()
}
