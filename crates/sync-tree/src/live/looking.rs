//! One look and what follows from it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use sync_core::{Content, Kind, TreePath};

use super::{
    BarrierError,
    halt::{Cause, Halted},
    pace::Recent,
    site::Site,
    watching::{Observer, Said},
    worker::{Batch, Worker, chain},
};
use crate::{
    index::IndexError,
    look::{ChangeOp, Dirty, LookError, LookLimits, LookReport, Scope},
    watch::dirty::Dirt,
};

/// In a batch of more files than this nobody asks which of them was the expensive one.
const MOST_WEIGHED: usize = 256;

impl Worker {
    /// Looks, and tells everybody who has to know.
    pub(super) fn look(&mut self, batch: &Batch) {
        let site = self.shared.site();
        if let Err(reason) = site.check_root() {
            return self.halt(Cause::Root, reason);
        }
        let began = Instant::now();
        let deep = deep_places(&batch.dirt);
        batch.vanished.iter().for_each(|path| self.places.forget(path));
        self.places.begin(&deep);
        let limits = LookLimits {
            files_recently: self.recent.most(began).max(self.halted.as_ref().map_or(0, Halted::files)),
            accept_emptied: self.accepted,
            ..LookLimits::default()
        };
        let polled: HashSet<TreePath> =
            if batch.polls { self.places.polled().into_iter().collect() } else { HashSet::new() };
        let said = match &batch.dirt {
            Dirt::Everything => Said::Everything,
            Dirt::Places(_) => Said::Of { vanished: &batch.vanished, polled: &polled },
        };
        let observer = Observer { places: &self.places, stop: &self.shared.stop, said };
        match site.looker.look(&scope(&batch.dirt), &observer, &limits) {
            Ok(report) => {
                self.places.finish(&deep);
                self.absorb(&site, batch, &report, began);
            }
            // What left one place may be in another that was not looked at, or had not come there yet.
            Err(LookError::Emptied { .. }) if !matches!(batch.dirt, Dirt::Everything) => {
                let dirt = Dirt::Everything;
                self.look(&Batch { dirt, vanished: HashSet::new(), polls: true, barrier: batch.barrier });
            }
            Err(error) => self.look_failed(&site, &error),
        }
    }

    fn look_failed(&mut self, site: &Site, error: &LookError) {
        match error {
            // Only stopping cancels.
            LookError::Cancelled => self.fail_barrier(&BarrierError::Stopped),
            LookError::Emptied { files } => {
                let path = site.root.path().display();
                self.halt(Cause::Emptied, format!("all {files} files in {path} are gone"));
            }
            LookError::Index(_) | LookError::Root { .. } | LookError::Clock { .. } => match site.check_root()
            {
                Err(reason) => self.halt(Cause::Root, reason),
                Ok(()) if is_damage(error) => self.halt(Cause::Damaged, chain(error)),
                Ok(()) => self.halt(Cause::Failed, chain(error)),
            },
        }
    }

    /// Takes up what a look found.
    fn absorb(&mut self, site: &Site, batch: &Batch, report: &LookReport, began: Instant) {
        let now = Instant::now();
        let took = now - began;
        let (changes, revisit) = (report.notes.len() as u64 + report.notes_left_out, report.revisit.len());
        let places = match &batch.dirt {
            Dirt::Everything => None,
            Dirt::Places(places) => Some(places.len()),
        };
        tracing::debug!(places, ?took, changes, revisit, "looked");
        let resumed = self.halted.take().is_some();
        let first = !std::mem::replace(&mut self.scanned, true);
        if std::mem::take(&mut self.accepted) {
            // What was accepted is what the tree is measured by from now on: the next look must not halt it again.
            self.recent = Recent::default();
        }
        // Nothing waits for a person's word now, so one that is there must not let a later disaster through.
        if !self.awaits_accept() && self.take_accept(site) {
            tracing::warn!("an `accept` was thrown away: nothing is halted");
        }
        self.recent.note(now, report.head.files);
        self.schedule(site, batch, report, took);
        self.has_mounts = site.looker.has_mounts();
        let again = self.rewatch_moved(batch, report) | self.await_word(report);
        if report.problems_changed || first {
            self.remember_problems(site);
        }
        if resumed {
            tracing::info!(root = %site.root.path().display(), "the tree is no longer halted");
        }
        self.publish_with(|status| {
            status.head = report.head;
            status.problems_version += u64::from(report.problems_changed);
            status.rules_version += u64::from(report.rules_changed);
        });
        tell_skipped(&report.skipped);
        if !first && !report.notes.is_empty() {
            // Nobody listening is no failure.
            let _ = self.shared.changes.send(Arc::new(report.notes.clone()));
        }
        // What may have been missed in a directory that moved, and what is gone without a word, must be looked at before anybody
        // is told that all is known.
        if batch.barrier && !again {
            self.pass_barrier();
        }
        let more = self.shared.inbox.lock().first.is_some();
        self.pace.looked(now, more);
    }

    /// Decides what is looked at again, and when.
    fn schedule(&mut self, site: &Site, batch: &Batch, report: &LookReport, took: Duration) {
        let now = Instant::now();
        for (path, cost) in costs(site, report, took) {
            self.later.rest(&path, cost, now);
        }
        match &batch.dirt {
            Dirt::Everything => {
                self.later.looked(None, &report.revisit, now);
                self.rescan_at = now + self.options.rescan;
                self.polls.polled(now, took);
                self.lost.looked(now, took, self.shared.inbox.lock().lost);
                self.prune(site);
            }
            Dirt::Places(places) => {
                let places: Vec<TreePath> = places.iter().map(|(path, _)| path.clone()).collect();
                self.later.looked(Some(&places), &report.revisit, now);
                if batch.polls {
                    self.polls.polled(now, took);
                }
            }
        }
    }

    /// A directory that moved without an event of its own may have been walked only in part, and its watches still have
    /// their old paths. Answers whether there is one.
    fn rewatch_moved(&self, batch: &Batch, report: &LookReport) -> bool {
        let mut again = false;
        for (from, to) in &report.moved {
            let mut above = std::iter::successors(Some(from.clone()), TreePath::parent);
            if above.any(|path| batch.vanished.contains(&path)) {
                continue;
            }
            self.places.leave(from);
            self.places.leave(to);
            self.shared.inbox.put(|mail| {
                mail.mark(from.clone(), true);
                mail.mark(to.clone(), true);
            });
            again = true;
        }
        again
    }

    /// What is gone without a word is looked at again as if an event had said so: after a moment, in which the rest of what is
    /// to be said comes. Answers whether there is any.
    fn await_word(&self, report: &LookReport) -> bool {
        if report.unsaid.is_empty() {
            return false;
        }
        self.shared.inbox.put(|mail| report.unsaid.iter().for_each(|path| mail.mark_vanished(path.clone())));
        true
    }

    fn prune(&self, site: &Site) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let before = now.saturating_sub(self.options.tombstone_retention).as_secs();
        if let Err(error) = site.index.prune_tombstones(before.cast_signed()) {
            tracing::warn!(error = chain(&error), "old deletions could not be forgotten");
        }
    }

    pub(super) fn remember_problems(&mut self, site: &Site) {
        match site.index.problems() {
            Ok(problems) => self.troubled = problems.into_iter().map(|problem| problem.path).collect(),
            Err(error) => tracing::warn!(error = chain(&error), "the index cannot be read"),
        }
    }
}

fn is_damage(error: &LookError) -> bool {
    matches!(error, LookError::Index(IndexError::Damaged { .. }))
}

/// Says what is not carried: whoever misses it at the other end should find out why.
fn tell_skipped(skipped: &[TreePath]) {
    const NAMED: usize = 5;
    for path in skipped.iter().take(NAMED) {
        tracing::info!(%path, "left out: a socket, device or FIFO, or a target of this share");
    }
    if skipped.len() > NAMED {
        tracing::info!(more = skipped.len() - NAMED, "more are left out");
    }
}

fn scope(dirt: &Dirt) -> Scope {
    match dirt {
        Dirt::Everything => Scope::Everything,
        Dirt::Places(places) => Scope::Places(
            places.iter().map(|(path, deep)| Dirty { path: path.clone(), deep: *deep }).collect(),
        ),
    }
}

fn deep_places(dirt: &Dirt) -> Vec<TreePath> {
    match dirt {
        Dirt::Everything => vec![TreePath::root()],
        Dirt::Places(places) => {
            places.iter().filter(|(_, deep)| *deep).map(|(path, _)| path.clone()).collect()
        }
    }
}

/// About how long reading each changed file took: the look's time, shared out by size.
fn costs(site: &Site, report: &LookReport, took: Duration) -> Vec<(TreePath, Duration)> {
    if report.notes.len() + report.revisit.len() > MOST_WEIGHED {
        return Vec::new();
    }
    let written = |op: &ChangeOp| matches!(op, ChangeOp::Created | ChangeOp::Modified);
    let mut sizes: HashMap<TreePath, u64> = report
        .notes
        .iter()
        .filter(|note| note.kind == Kind::File && written(&note.op))
        .map(|note| (note.path.clone(), note.size))
        .collect();
    for path in &report.revisit {
        if !sizes.contains_key(path)
            && let Ok(Some(known)) = site.index.find(path)
            && let Content::File { size, .. } = known.node.entry.content
        {
            sizes.insert(path.clone(), size);
        }
    }
    let total: u64 = sizes.values().sum::<u64>().max(1);
    sizes.into_iter().map(|(path, size)| (path, share_of(took, size, total))).collect()
}

fn share_of(took: Duration, size: u64, total: u64) -> Duration {
    // A rough share is all that is asked for.
    #[expect(
        clippy::cast_precision_loss,
        reason = "sizes are far below 2^52, and nothing depends on the last digits"
    )]
    let share = size as f64 / total as f64;
    took.mul_f64(share)
}
