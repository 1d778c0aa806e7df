//! Reading the feed to a commit point, and what goes on meanwhile: the look at the target, and the filling of one that has nothing.

use std::mem;

use sync_core::{CommitPoint, FeedEvent, Halt, RuleSet, Watching};
use sync_locations::ChangeStream;
use sync_tree::look::{LookError, LookReport, NoObserver, Scope as LookScope};
use tokio::task::JoinHandle;

use super::{
    Engine, EngineError, Phase,
    ahead::Ahead,
    cycle::{LIMITS, Run, cut},
    now_secs,
    threads::{self, in_place},
};

/// Whether files may come before the tree is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Early {
    May,
    MustNot,
}

/// What the end of a piece of the feed was.
pub(super) enum Taken {
    More,
    Commit,
    /// The tree did not have its digest: it has to be read from nothing.
    Mismatch,
    Halted(String),
}

/// A look at the target, on a thread of its own.
pub(super) struct Looking {
    task: JoinHandle<Result<LookReport, LookError>>,
    /// The rules it goes by.
    rules: RuleSet,
}

impl Looking {
    pub(super) fn goes_on(&self) -> bool {
        !self.task.is_finished()
    }

    /// What came of it, and the rules it went by.
    async fn end(self) -> Result<(Result<LookReport, LookError>, RuleSet), EngineError> {
        let looked = self.task.await.map_err(|error| EngineError::Broken { reason: error.to_string() })?;
        Ok((looked, self.rules))
    }
}

impl Engine {
    /// Reads the feed to a commit point and looks at the target, both at once where the rules are known. A target that has nothing
    /// may be filled meanwhile.
    pub(super) async fn catch_up_and_look(&mut self, run: &Run<'_>, early: Early) -> Result<(), EngineError> {
        self.adopt_unrecorded(run)?;
        let rules = self.store().index().rule_set()?;
        self.check_root()?;
        let looker = self.looker()?;
        run.reporter.phase(Phase::Listing);
        let task = threads::start(async move { looker.look(&LookScope::Everything, &NoObserver, &LIMITS) });
        self.looking = Some(Looking { task, rules });
        if let Err(error) = self.catch_up(run, early).await {
            if let Some(looking) = self.looking.take() {
                drop(looking.end().await?);
            }
            return Err(error);
        }
        if early == Early::May {
            self.foresee_while_looking(run);
        }
        self.looked(run).await?;
        if self.first_look_done {
            return Ok(());
        }
        self.stop_fill(run).await?;
        self.look(&LookScope::Everything, false, run)
    }

    /// Waits for the look at the target, if one goes on.
    pub(super) async fn looked(&mut self, run: &Run<'_>) -> Result<(), EngineError> {
        let Some(looking) = self.looking.take() else { return Ok(()) };
        let (looked, had) = looking.end().await?;
        run.reporter.phase(Phase::Scanning);
        if self.store().index().rule_set()? == had {
            looked?;
            self.first_look_done = true;
            return Ok(self.store().take_local_changes()?);
        }
        self.look(&LookScope::Everything, false, run)
    }

    /// Reads the feed to its newest commit point.
    pub(super) async fn catch_up(&mut self, run: &Run<'_>, early: Early) -> Result<(), EngineError> {
        for _ in 0..2 {
            let cursor = self.store().cursor()?;
            let mut feed = Ahead::of(run.remote.changes(cursor.as_ref(), false).await?);
            match self.read_to_commit(&mut feed, run, early).await? {
                Taken::Mismatch => {
                    tracing::warn!("the share's tree does not have its digest; reading it from nothing");
                }
                Taken::Halted(reason) => return Err(Halt::Share { reason }.into()),
                Taken::Commit | Taken::More => return Ok(()),
            }
        }
        Err(EngineError::Digest)
    }

    async fn read_to_commit(
        &mut self,
        feed: &mut dyn ChangeStream,
        run: &Run<'_>,
        early: Early,
    ) -> Result<Taken, EngineError> {
        let mut begins = false;
        loop {
            let event = tokio::select! {
                biased;
                () = run.cancel.cancelled() => return Err(EngineError::Cancelled),
                event = feed.next() => event,
            };
            let Some(event) = event else { return Err(cut()) };
            let event = event?;
            let ends_fill = match &event {
                FeedEvent::Nodes { changes, .. } => !self.fill_goes_on_with(changes),
                FeedEvent::Reset { .. } | FeedEvent::Rules(_) => true,
                _ => false,
            };
            if self.filling.is_some() && (ends_fill || self.has_fill_ended()) {
                self.stop_fill(run).await?;
                run.reporter.phase(Phase::Listing);
            }
            match &event {
                FeedEvent::Reset { .. } => begins = early == Early::May,
                FeedEvent::Nodes { .. } if mem::take(&mut begins) => self.begin_fill_early(run).await?,
                _ => {}
            }
            match self.take(event)? {
                Taken::More => {}
                end => return Ok(end),
            }
        }
    }

    pub(super) fn take(&mut self, event: FeedEvent) -> Result<Taken, EngineError> {
        in_place(|| {
            match event {
                FeedEvent::Reset { share, epoch, reason } => {
                    tracing::debug!(%reason, "the full tree follows");
                    self.store().begin_tree(share, epoch)?;
                }
                FeedEvent::Nodes { changes, resume } => {
                    self.store().take_nodes(&changes, &resume)?;
                    self.fill_takes(changes);
                }
                FeedEvent::Commit(commit) => return self.take_commit(&commit),
                FeedEvent::Rules(rules) => {
                    if self.store().take_rules(&rules)? {
                        self.rules_changed();
                    }
                }
                FeedEvent::Problems(problems) => self.store().take_problems(&problems)?,
                FeedEvent::Watching(watching) => self.take_watching(&watching)?,
                FeedEvent::Halted { reason } => return Ok(Taken::Halted(reason)),
                FeedEvent::Heartbeat => {}
            }
            Ok(Taken::More)
        })
    }

    fn take_watching(&self, watching: &Watching) -> Result<(), EngineError> {
        let was_degraded = self.store().take_watching(watching, now_secs())?;
        match (was_degraded, watching.is_degraded()) {
            (false, true) => tracing::warn!("the share hears of changes late: {watching}"),
            (true, false) => tracing::info!("the share hears of changes at once again: {watching}"),
            _ => {}
        }
        Ok(())
    }

    fn take_commit(&mut self, commit: &CommitPoint) -> Result<Taken, EngineError> {
        if !self.store().take_commit(commit)? {
            return Ok(Taken::Mismatch);
        }
        if self.store().settle_old_rules()? {
            self.rules_changed();
        }
        Ok(Taken::Commit)
    }

    /// What is ignored now must be forgotten before anything is planned.
    fn rules_changed(&mut self) {
        self.looker = None;
        self.first_look_done = false;
    }
}
