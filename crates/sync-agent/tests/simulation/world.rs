//! Everything around the engine in one seed: the share, the target, those who change them while it works, what goes wrong,
//! and the judgement of what it did.
//!
//! Everything runs on one thread and every choice is made by one generator in the order of the engine's own calls, so a seed
//! is always the same story.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sync_agent::engine::{AppliedOp, Reporter, Summary};
use sync_core::{Digest, NodeId, Problem, TreePath};
use sync_locations::{
    FetchFailure, LocationError, Memory,
    faulty::{Call, Moment, Script, Turn},
};
use sync_testkit::{
    Scratch,
    ops::Chaos,
    rng::Rng,
    tree::{Compare, Snapshot, Tree, differences, try_snapshot},
};
use sync_tree::probe::{self, Op, OpKind, Probe};

use crate::editor::{Editor, Habits, seen};

/// No run may ask for more than this: it would never end.
const MOST_MOMENTS: u64 = 30_000;
/// Contents that are shorter say nothing about where they come from.
const TELLING_BYTES: u64 = 8;

/// How often what happens, in thousands of the moments at which it can.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Odds {
    pub call_fails: usize,
    pub message_fails: usize,
    /// Late messages, signs of life, repetitions, other orders.
    pub disorder: usize,
    pub refused: usize,
    pub spoiled: usize,
    pub share_changes: usize,
    pub target_changes: usize,
    pub daemon_restarts: usize,
}

/// What becomes of the disk at some call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    Good,
    /// The power goes off: from that change on nothing is changed any more.
    OffAfter(u64),
    /// The same, at a transaction of the index.
    OffAtCommit(u64),
    /// One call of a kind is refused: a change but for transactions of the index, a flush, or a read.
    FailsOnce(OpKind, u64, io::ErrorKind),
}

struct State {
    rng: Rng,
    editor: Editor,
    chaos: Chaos,
    odds: Odds,
    disk: Disk,
    changes: u64,
    commits: u64,
    flushes: u64,
    reads: u64,
    moments: u64,
    /// Somebody asks the engine to stop at this moment.
    cancel_at: Option<u64>,
    cancel: Option<tokio_util::sync::CancellationToken>,
    /// Every tree that the share had, by its digest.
    states: HashMap<Digest, Snapshot>,
    /// Every content that anybody ever wrote.
    known: BTreeSet<[u8; 32]>,
    /// What only the target had: it must not be lost.
    own: BTreeSet<[u8; 32]>,
    /// Places of the share that cannot be read, with the nodes that are there.
    unreadable: Vec<(TreePath, Option<NodeId>)>,
    log: Vec<String>,
}

/// One seed.
pub(crate) struct World {
    pub share: Memory,
    pub target: Tree,
    scratch: Scratch,
    state: Mutex<State>,
    /// The target was edited since this was cleared.
    edited: AtomicBool,
    /// The disk failed, or went off, in this run.
    disk_failed: AtomicBool,
    /// Of two things that were to cross each other, one could go neither on nor back.
    crossed: AtomicBool,
    is_told: bool,
}

impl World {
    pub(crate) fn new(seed: u64, habits: Habits, is_told: bool) -> Arc<Self> {
        let mut rng = Rng::new(seed);
        let scratch = Scratch::in_memory();
        let target = Tree::at(scratch.path().join("target"));
        let share = Memory::new("docs");
        share.set_page(1 + rng.below(12));
        let editor = Editor::new(share.clone(), habits, &mut rng);
        let chaos = Chaos::new(&target, seed ^ 0xc4a0).noticeable();
        let state = State {
            rng,
            editor,
            chaos,
            odds: Odds::default(),
            disk: Disk::Good,
            changes: 0,
            commits: 0,
            flushes: 0,
            reads: 0,
            moments: 0,
            cancel_at: None,
            cancel: None,
            states: HashMap::new(),
            known: BTreeSet::new(),
            own: BTreeSet::new(),
            unreadable: Vec::new(),
            log: Vec::new(),
        };
        let world = Self {
            share,
            target,
            scratch,
            state: Mutex::new(state),
            edited: AtomicBool::new(false),
            disk_failed: AtomicBool::new(false),
            crossed: AtomicBool::new(false),
            is_told,
        };
        world.remember();
        Arc::new(world)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws from the seed.
    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.state().rng)
    }

    /// Adds to the story of the seed.
    pub(crate) fn tell(&self, line: impl Into<String>) {
        let line = line.into().replace(&self.scratch.path().display().to_string(), "…");
        if self.is_told {
            eprintln!("{line}");
        }
        self.state().log.push(line);
    }

    /// The story so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    /// From now on this may go wrong.
    pub(crate) fn set_odds(&self, odds: Odds) {
        self.state().odds = odds;
    }

    /// Begins a run: what may go wrong in it with the disk, and when somebody asks it to stop.
    pub(crate) fn begin_run(&self, disk: Disk, cancel: tokio_util::sync::CancellationToken, at: Option<u64>) {
        let mut state = self.state();
        (state.disk, state.moments) = (disk, 0);
        (state.changes, state.commits, state.flushes, state.reads) = (0, 0, 0, 0);
        (state.cancel, state.cancel_at) = (Some(cancel), at);
        self.disk_failed.store(false, Ordering::SeqCst);
    }

    /// The disk is good again. Answers whether it was not.
    pub(crate) fn mend_disk(&self) -> bool {
        self.state().disk = Disk::Good;
        self.disk_failed.load(Ordering::SeqCst)
    }

    /// The engine is about to look at all of the target.
    pub(crate) fn forget_edits(&self) {
        self.edited.store(false, Ordering::SeqCst);
    }

    /// It did not.
    pub(crate) fn recall_edits(&self, edited: bool) {
        self.edited.fetch_or(edited, Ordering::SeqCst);
    }

    /// Whether the target was edited since then.
    pub(crate) fn was_edited(&self) -> bool {
        self.edited.load(Ordering::SeqCst)
    }

    /// The share is changed by its users.
    pub(crate) fn change_share(&self, times: usize) {
        for _ in 0..times {
            let did = {
                let state = &mut *self.state();
                state.editor.step(&mut state.rng)
            };
            self.tell(format!("  share: {did}"));
            self.keep_readability();
            self.remember();
        }
    }

    /// The share's index is lost, or it forgets its deletions.
    pub(crate) fn restart_daemon(&self) {
        if self.draw(|rng| rng.chance(60)) {
            self.tell("  daemon: its index is made anew");
            self.share.new_epoch();
            self.make_readable();
        } else {
            self.tell("  daemon: forgets deletions");
            self.share.forget_deletions();
        }
    }

    /// A place of the share cannot be read any more, or all can.
    pub(crate) fn change_readability(&self) {
        self.make_readable();
        let paths: Vec<TreePath> = self.share.entries().into_keys().collect();
        let chosen = self.draw(|rng| if rng.chance(60) { rng.pick(&paths).cloned() } else { None });
        let Some(chosen) = chosen else { return };
        self.tell(format!("  share: cannot read {chosen}"));
        for path in paths.into_iter().filter(|path| path.is_within(&chosen)) {
            self.share.set_unreadable(path.as_str(), Some("somebody forbids it"));
            let node = self.share.node(path.as_str()).map(|node| node.id);
            self.state().unreadable.push((path, node));
        }
        self.share.set_problems(vec![Problem::new(chosen, "somebody forbids it")]);
    }

    /// Everything can be read.
    pub(crate) fn make_readable(&self) {
        for (path, _) in std::mem::take(&mut self.state().unreadable) {
            self.share.set_unreadable(path.as_str(), None);
        }
        self.share.set_problems(Vec::new());
    }

    /// Nobody moves or removes what cannot be read: to do so makes it readable.
    fn keep_readability(&self) {
        let unreadable = self.state().unreadable.clone();
        let is_there =
            |(path, node): &(TreePath, _)| self.share.node(path.as_str()).map(|node| node.id) == *node;
        if !unreadable.iter().all(is_there) {
            self.make_readable();
        }
    }

    fn remember(&self) {
        self.remember_in(&mut self.state());
    }

    fn remember_in(&self, state: &mut State) {
        let tree = self.share.entries();
        let tree: Snapshot =
            tree.iter().map(|(path, (entry, _))| (path.as_str().into(), seen(entry))).collect();
        state.known.extend(tree.values().filter_map(|seen| seen.digest));
        state.states.insert(self.share.root_digest(), tree);
    }

    /// The target is edited by somebody.
    pub(crate) fn edit_target(&self, times: usize) {
        for _ in 0..times {
            let before = self.contents();
            let did = {
                let mut state = self.state();
                state.chaos.step();
                state.chaos.log().last().cloned().unwrap_or_default()
            };
            let after = self.contents();
            let mut state = self.state();
            // What somebody deletes or writes over is no loss.
            for (digest, _) in before.iter().filter(|(digest, _)| !after.contains_key(*digest)) {
                state.own.remove(digest);
            }
            for (digest, size) in after.iter().filter(|(digest, _)| !before.contains_key(*digest)) {
                // Somebody may write by chance what the share had; then it is not only here.
                if *size >= TELLING_BYTES && state.known.insert(*digest) {
                    state.own.insert(*digest);
                }
                state.known.insert(*digest);
            }
            drop(state);
            self.edited.store(true, Ordering::SeqCst);
            self.tell(format!("  target: {did}"));
        }
    }

    /// The digests and sizes of the target's files.
    fn contents(&self) -> BTreeMap<[u8; 32], u64> {
        let tree = self.target.snapshot();
        tree.values().filter_map(|seen| Some((seen.digest?, seen.size))).collect()
    }

    /// Every file of the target is one that somebody wrote, complete.
    pub(crate) fn judge_whole(&self) {
        let tree = self.target.snapshot();
        let state = self.state();
        for (path, seen) in &tree {
            let whole = seen.digest.is_none_or(|digest| state.known.contains(&digest));
            assert!(whole, "{path:?} with {} bytes is no complete version of anything", seen.size);
        }
    }

    /// Who says "equal" is right about it, unless somebody came in between.
    pub(crate) fn judge_equal(&self, summary: &Summary) {
        let Some(digest) = summary.root_digest else { panic!("equal to nothing: {summary:?}") };
        let state = self.state();
        let Some(share) = state.states.get(&digest) else { panic!("the share was never {digest}") };
        if self.was_edited() {
            return;
        }
        let by = Compare { dir_times: false, link_times: false };
        let lines = differences(share, &self.target.snapshot(), by);
        assert!(lines.is_empty(), "it says that it is equal, and is not:\n{}", lines.join("\n"));
    }

    /// In the end share and target are the same.
    ///
    /// # Errors
    /// Says how they differ.
    pub(crate) fn same(&self) -> Result<(), String> {
        let share = self.share.entries();
        let share: Snapshot =
            share.iter().map(|(path, (entry, _))| (path.as_str().into(), seen(entry))).collect();
        let target = try_snapshot(self.target.root()).map_err(|error| error.to_string())?;
        let lines = differences(&share, &target, Compare::default());
        if lines.is_empty() { Ok(()) } else { Err(lines.join("\n")) }
    }

    /// What only the target had is in it, or in the trash.
    pub(crate) fn judge_own(&self) {
        let mut kept: BTreeSet<_> = self.contents().into_keys().collect();
        let trash = try_snapshot(&self.target.path(".syncd/trash")).unwrap_or_default();
        kept.extend(trash.values().filter_map(|seen| seen.digest));
        let state = self.state();
        let lost = state.own.iter().filter(|digest| !kept.contains(*digest)).count();
        assert!(lost == 0, "{lost} of {} own contents are lost", state.own.len());
    }

    /// Nobody edited the target, so nothing is in the trash, but for what its like took the place of before it failed or ended.
    pub(crate) fn judge_tidy(&self) {
        if self.crossed.load(Ordering::SeqCst) {
            return;
        }
        let trash = self.target.trash();
        assert!(trash.is_empty(), "the share's own versions are in the trash: {:?}", trash.keys());
    }

    /// Nothing is left in staging, but for notes of where something was that is in its place again: the next start removes them.
    pub(crate) fn judge_staging(&self) {
        let staging = try_snapshot(&self.target.path(".syncd/staging")).unwrap_or_default();
        let kept = ["swap", "moves", "partial"];
        let is_note = |path: &[u8]| {
            path.strip_suffix(b".from").is_some_and(|of| !staging.keys().any(|there| *there.0 == *of))
        };
        let is_left = |path: &[u8]| !is_note(path) && !kept.iter().any(|name| path == name.as_bytes());
        let left: Vec<_> = staging.keys().filter(|path| is_left(&path.0)).collect();
        assert!(left.is_empty(), "left in staging: {left:?}");
    }

    /// What the disk does at a call, and who comes in between there.
    fn meets_call(&self, op: Op) -> io::Result<()> {
        if matches!(op, Op::Checked | Op::Taken) {
            let comes = {
                let state = &mut *self.state();
                !matches!(state.disk, Disk::OffAfter(_) | Disk::OffAtCommit(_))
                    && state.rng.below(1000) < state.odds.target_changes
            };
            if comes {
                self.edit_target(1);
            }
            return Ok(());
        }
        let mut state = self.state();
        let count = match op.kind() {
            _ if op == Op::Commit => &mut state.commits,
            OpKind::Changes => &mut state.changes,
            OpKind::Flushes => &mut state.flushes,
            OpKind::Reads | OpKind::Moment => &mut state.reads,
        };
        *count += 1;
        let number = *count;
        let refused = match state.disk {
            Disk::OffAfter(last) if op.kind() == OpKind::Changes => {
                (state.changes > last).then_some(io::ErrorKind::Other)
            }
            Disk::OffAtCommit(last) if op.kind() == OpKind::Changes => {
                (state.commits > last).then_some(io::ErrorKind::Other)
            }
            Disk::FailsOnce(of, at, kind) if of == op.kind() && op != Op::Commit => {
                (number == at).then_some(kind)
            }
            _ => None,
        };
        let Some(kind) = refused else { return Ok(()) };
        drop(state);
        if !self.disk_failed.swap(true, Ordering::SeqCst) {
            self.tell(format!("  disk: fails at {} ({kind:?})", op.name()));
        }
        Err(kind.into())
    }
}

/// Hears of the engine's calls.
pub(crate) struct Listener(pub Arc<World>);

impl Probe for Listener {
    fn before(&self, call: &probe::Call<'_>) -> io::Result<()> {
        if call.op == Op::RenameNew && call.site() == "rename-new moves>trash" {
            self.0.crossed.store(true, Ordering::SeqCst);
        }
        self.0.meets_call(call.op)
    }
}

/// The share's side of the engine's calls.
pub(crate) struct Network(pub Arc<World>);

impl Script for Network {
    fn meets(&self, moment: Moment) -> Turn {
        let world = &self.0;
        let (share, target, restart) = {
            let state = &mut *world.state();
            state.moments += 1;
            assert!(state.moments < MOST_MOMENTS, "the run does not end");
            if state.cancel_at == Some(state.moments)
                && let Some(cancel) = &state.cancel
            {
                cancel.cancel();
            }
            let odds = state.odds;
            let mut happens = |odds: usize| state.rng.below(1000) < odds;
            (happens(odds.share_changes), happens(odds.target_changes), happens(odds.daemon_restarts))
        };
        if share {
            world.change_share(world.draw(|rng| 1 + rng.below(3)));
        }
        if target && !matches!(world.state().disk, Disk::OffAfter(_) | Disk::OffAtCommit(_)) {
            world.edit_target(1);
        }
        if restart {
            world.restart_daemon();
        }
        let turn = {
            let state = &mut *world.state();
            turn(&mut state.rng, &state.odds, moment)
        };
        world.tell(format!("  {:?} {}.{}: {turn:?}", moment.call, moment.number, moment.message));
        turn
    }
}

fn turn(rng: &mut Rng, odds: &Odds, moment: Moment) -> Turn {
    let fails = if moment.message == 0 { odds.call_fails } else { odds.message_fails };
    if rng.below(1000) < fails {
        return match rng.below(8) {
            0 if moment.message > 0 && moment.call != Call::Changes => Turn::End,
            1 => Turn::Fail(LocationError::Busy { message: "too much to do".into() }),
            2 => Turn::Fail(LocationError::Unreachable { address: "there".into(), source: "no way".into() }),
            3 => Turn::Fail(LocationError::Silent { after: Duration::from_secs(25) }),
            4 if moment.call != Call::Changes => Turn::Fail(LocationError::Changed),
            _ => Turn::Fail(LocationError::Cut { source: "cut".into() }),
        };
    }
    if rng.below(1000) < odds.disorder {
        return match rng.below(5) {
            0 => Turn::Late(Duration::from_millis(rng.below(3000) as u64)),
            1 => Turn::Heartbeat,
            2 => Turn::Again,
            3 => Turn::Scatter,
            _ => Turn::HoldBack,
        };
    }
    if moment.message > 0 && rng.below(1000) < odds.refused {
        return Turn::Refuse(match rng.below(3) {
            0 => FetchFailure::Changed,
            1 => FetchFailure::TooLarge,
            _ => FetchFailure::Unreadable("nobody may read it".into()),
        });
    }
    if rng.below(1000) < odds.spoiled {
        return Turn::Spoil;
    }
    Turn::Pass
}

/// Hears what the engine says.
pub(crate) struct Ear(pub Arc<World>);

impl Reporter for Ear {
    fn applied(&self, op: AppliedOp, path: &TreePath, from: Option<&TreePath>) {
        let from = from.map(|from| format!(" from {from}")).unwrap_or_default();
        self.0.tell(format!("  applied: {op:?} {path}{from}"));
    }

    fn caught_up(&self, summary: &Summary) {
        self.0.tell(format!("  caught up: equal {}", summary.equal));
        if summary.equal {
            self.0.judge_equal(summary);
        }
    }

    fn halted(&self, halt: &sync_core::Halt) {
        self.0.tell(format!("  halted: {halt}"));
    }
}
