//! The agent ends at every step of applying and recording, and at those of recovering from that: SIGKILL right before and right after
//! each call that changes something. The target holds complete versions, nothing is lost, and the next pull ends equal and
//! brings no more than what is missing.
//!
//! The steps are those that a traced run makes, so a new one is tested as soon as it is there.
#![cfg(feature = "failpoints")]
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "the trees are the test's own")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use common::{Lab, SHARE, SYNC_AGENT};
use sync_testkit::{
    crash::{self, Versions},
    programs::{Agent, Daemon, Outcome, PATIENCE},
    tree::{Tree, same},
};
use sync_tree::probe::{FAILPOINT, Op, OpKind, TRACE};

/// What a pull may receive beyond missing content: the feed, headers, the answers to wants.
const TALK_BYTES: u64 = 32 * 1024;

const DURABILITIES: [&str; 3] = ["none", "batch", "file"];

/// The parts of a target and its state that are told apart: the tree, the index, the trash, and what is in `.syncd/staging`.
const AREAS: usize = 10;

/// How often a point is tried that a run went by: how files are batched, and so how they are flushed, depends on when they come.
const TRIES: usize = 4;

/// Two versions of a share and a target that has the first, with edits of its own. Each case works on a copy of it.
struct Scene {
    lab: Lab,
    daemon: Daemon,
    versions: Versions,
    next: AtomicUsize,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new();
        crash::first(&lab.share);
        let daemon = lab.daemon();
        lab.agent_into(&daemon.url(), "template").pull().expect(0);
        let first = lab.share.snapshot();
        crash::edit(&lab.tree("template"));
        let witness = lab.agent_into(&daemon.url(), "witness");
        crash::second(&lab.share, || drop(witness.pull().expect(0)));
        let versions = Versions::new(first, lab.share.snapshot());
        // From here on the share stays as it is, so runs that are killed at the same step do the same.
        witness.pull().expect(0);
        Self { lab, daemon, versions, next: AtomicUsize::new(0) }
    }

    /// A target of the first version, with edits; if `ended` names a point, a run has ended there.
    fn target(&self, durability: &str, ended: Option<&str>) -> Tree {
        let from = self.lab.path("template");
        let to = self.lab.path(&format!("case {}", self.next.fetch_add(1, Ordering::Relaxed)));
        let copied = Command::new("cp").arg("-a").args([&from, &to]).status();
        assert!(copied.is_ok_and(|status| status.success()), "cp failed");
        let target = Tree::at(to);
        if let Some(point) = ended {
            let agent = self.agent(&target, durability).env(FAILPOINT, point);
            let ended = agent.start(&["pull"]).finish(PATIENCE);
            assert_eq!(ended.code, None, "{point} was not reached");
        }
        target
    }

    fn agent(&self, target: &Tree, durability: &str) -> Agent {
        let agent = Agent::new(SYNC_AGENT, &self.daemon.url(), SHARE, target.root());
        agent.args(["--durability", durability])
    }

    /// The steps of a pull into such a target, with how often each came.
    fn trace(&self, durability: &str, ended: Option<&str>) -> BTreeMap<String, usize> {
        let target = self.target(durability, ended);
        let file = target.root().with_extension("trace");
        let agent = self.agent(&target, durability).env(TRACE, &file);
        agent.pull().expect(0);
        self.check_end(&target).unwrap_or_else(|error| panic!("{durability}: {error}"));
        let mut steps = BTreeMap::new();
        for line in fs::read_to_string(file).unwrap().lines() {
            *steps.entry(line.to_owned()).or_default() += 1;
        }
        steps
    }

    /// Pulls into such a target until the agent ends at this point, and judges what it left.
    fn end_at(&self, durability: &str, ended: Option<&str>, point: &str) -> Result<Tree, String> {
        let mut said = String::new();
        for _ in 0..TRIES {
            let target = self.target(durability, ended);
            let agent = self.agent(&target, durability).env(FAILPOINT, point);
            let ended = agent.start(&["pull"]).finish(PATIENCE);
            if ended.code.is_none() {
                self.versions.check(target.root())?;
                self.versions.check_own(target.root())?;
                return Ok(target);
            }
            said = format!("exit code {:?}\n{}", ended.code, ended.stderr);
        }
        Err(format!("the point was not reached: {said}"))
    }

    /// The next pull ends equal and is content with what is there.
    fn go_on(&self, target: &Tree, durability: &str) -> Result<(), String> {
        let missing = self.versions.missing_bytes(target.root());
        let outcome = Outcome::read(self.agent(target, durability).start(&["pull"]).finish(PATIENCE));
        if outcome.code != Some(0) {
            return Err(format!("exit code {:?}\n{}\n{}", outcome.code, outcome.stdout, outcome.stderr));
        }
        let received = outcome.count("bytes_received");
        if received > missing + TALK_BYTES {
            return Err(format!("{received} bytes were received where {missing} were missing"));
        }
        self.check_end(target)
    }

    fn check_end(&self, target: &Tree) -> Result<(), String> {
        same(self.lab.share.root(), target.root(), Default::default())?;
        self.versions.check_trash(target)?;
        let mut untidy = self.versions.untidy(target);
        // Of two that cross each other one may be in its new place already; the other cannot go back then.
        untidy.retain(|path| !path.0.starts_with(b"swap "));
        if untidy.is_empty() {
            Ok(())
        } else {
            Err(format!("the share's own versions in the trash: {untidy:?}"))
        }
    }

    /// Ends a pull at all these points, several at a time, and fails with all that went wrong.
    fn matrix(&self, durability: &str, ended: Option<&str>, points: &BTreeSet<String>) {
        let points: Mutex<Vec<_>> = Mutex::new(points.iter().collect());
        let failures = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let Some(point) = { points.lock().unwrap().pop() } {
                        let case = self.end_at(durability, ended, point);
                        let ended = case.and_then(|target| {
                            self.go_on(&target, durability)?;
                            // Read-only directories in it do not stop its owner here, and may stop the test's end.
                            target.placed("read only").mode(0o755);
                            fs::remove_dir_all(target.root()).map_err(|error| error.to_string())
                        });
                        // Which way a batch is flushed may differ each time; that both ways are reached is asserted in the end.
                        let by_chance = |error: &String| {
                            point.contains(" sync-") && error.starts_with("the point was not")
                        };
                        if let Some(error) = ended.err().filter(|error| !by_chance(error)) {
                            failures.lock().unwrap().push(format!("{durability}, {point}: {error}"));
                        }
                    }
                });
            }
        });
        let failures = failures.into_inner().unwrap();
        assert!(failures.is_empty(), "{} points failed:\n{}", failures.len(), failures.join("\n"));
    }
}

/// The first time of each step, before and after it, and the middle of those that come often.
fn points_of(steps: &BTreeMap<String, usize>) -> BTreeSet<String> {
    let mut points = BTreeSet::new();
    for (step, count) in steps {
        points.insert(format!("{step} 1"));
        if *count > 8 {
            points.insert(format!("{step} {}", count / 2));
        }
    }
    points
}

#[test]
fn killed_at_every_step() {
    let scene = Scene::new();
    let (mut reached, mut areas) = (BTreeSet::new(), BTreeSet::new());
    for durability in DURABILITIES {
        let steps = scene.trace(durability, None);
        for step in steps.keys() {
            reached.extend(step.split(' ').nth(1).map(str::to_owned));
            areas.extend(step.split([' ', '>']).skip(2).map(str::to_owned));
        }
        scene.matrix(durability, None, &points_of(&steps));
    }
    let is_step = |op: &&Op| matches!(op.kind(), OpKind::Changes | OpKind::Flushes);
    let missed: Vec<_> = Op::ALL.iter().filter(is_step).filter(|op| !reached.contains(op.name())).collect();
    assert!(areas.len() >= AREAS, "some part of a target is never touched: {areas:?}");
    assert!(
        missed.is_empty(),
        "no run makes these steps, so nobody knows what a kill there leaves: {missed:?}"
    );
}

#[test]
fn killed_again_while_recovering() {
    let scene = Scene::new();
    for (point, own) in [
        ("after rename-new tree>moves 2", &["rename-new moves>tree", "remove-file moves"][..]),
        ("after exchange swap>tree 1", &["remove-file swap"]),
        ("after rename partial>swap 1", &["set-mode swap", "set-times swap", "rename swap>partial"]),
    ] {
        let steps = scene.trace("batch", Some(point));
        let own: BTreeSet<_> =
            own.iter().flat_map(|step| [format!("before {step}"), format!("after {step}")]).collect();
        let missed: Vec<_> = own.iter().filter(|step| !steps.contains_key(*step)).collect();
        assert!(missed.is_empty(), "what {point} leaves is recovered without {missed:?}");
        scene.matrix("batch", Some(point), &own.iter().map(|step| format!("{step} 1")).collect());
    }
}
