//! The agent ends at every step of applying and recording, and of recovering from that: SIGKILL right before and right after
//! each call that changes something. The target holds complete versions, nothing is lost, and the next pull ends equal and
//! brings no more than what is missing.
//!
//! The steps are those that a traced run makes, so a new one is tested as soon as it is there.
#![cfg(feature = "failpoints")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
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

/// Steps that these scenes cannot reach, and why. Not for those that were forgotten.
const ELSEWHERE: [Op; 0] = [];

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
        crash::second(&lab.share);
        let versions = Versions::new(first, lab.share.snapshot());
        // From here on the share stays as it is, so runs that are killed at the same step do the same.
        lab.agent_into(&daemon.url(), "witness").pull().expect(0);
        Self { lab, daemon, versions, next: AtomicUsize::new(0) }
    }

    /// A copy of a target beside the others.
    fn copy_of(&self, from: &Path) -> Tree {
        let to = self.lab.path(&format!("case {}", self.next.fetch_add(1, Ordering::Relaxed)));
        let copied = Command::new("cp").arg("-a").args([from, &to]).status();
        assert!(copied.is_ok_and(|status| status.success()), "cp failed");
        Tree::at(to)
    }

    fn agent(&self, target: &Tree, durability: &str) -> Agent {
        let agent = Agent::new(SYNC_AGENT, &self.daemon.url(), SHARE, target.root());
        agent.args(["--durability", durability])
    }

    /// The steps of a pull into a copy of this target, with how often each came.
    fn trace(&self, from: &Path, durability: &str) -> BTreeMap<String, usize> {
        let target = self.copy_of(from);
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

    /// Pulls into a copy of a target until the agent ends at this point, and judges what it left.
    fn end_at(&self, from: &Path, durability: &str, point: &str) -> Result<Tree, String> {
        let target = self.copy_of(from);
        let agent = self.agent(&target, durability).env(FAILPOINT, point);
        let ended = agent.start(&["pull"]).finish(PATIENCE);
        if ended.code.is_some() {
            return Err(format!("the point was not reached: exit code {:?}\n{}", ended.code, ended.stderr));
        }
        self.versions.check(target.root())?;
        self.versions.check_own(target.root())?;
        Ok(target)
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
        let untidy = self.versions.untidy(target);
        if untidy.is_empty() {
            Ok(())
        } else {
            Err(format!("the share's own versions in the trash: {untidy:?}"))
        }
    }

    /// Ends a pull into `from` at all these points, several at a time, and fails with all that went wrong.
    fn matrix(&self, from: &Path, durability: &str, points: &BTreeSet<String>) {
        let points: Mutex<Vec<_>> = Mutex::new(points.iter().collect());
        let failures = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let Some(point) = { points.lock().unwrap().pop() } {
                        let case = self.end_at(from, durability, point);
                        let ended = case.and_then(|target| {
                            self.go_on(&target, durability)?;
                            // Read-only directories in it do not stop its owner here, and may stop the test's end.
                            target.placed("read only").mode(0o755);
                            fs::remove_dir_all(target.root()).map_err(|error| error.to_string())
                        });
                        if let Err(error) = ended {
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

/// Before and after the first time of each step, and the middle of those that come often.
fn points_of(steps: &BTreeMap<String, usize>) -> BTreeSet<String> {
    let mut points = BTreeSet::new();
    for (site, count) in steps {
        points.insert(format!("before {site} 1"));
        points.insert(format!("after {site} 1"));
        if *count > 8 {
            points.insert(format!("after {site} {}", count / 2));
        }
    }
    points
}

#[test]
fn killed_at_every_step() {
    let scene = Scene::new();
    let template = scene.lab.path("template");
    let mut reached = BTreeSet::new();
    for durability in DURABILITIES {
        let steps = scene.trace(&template, durability);
        reached.extend(steps.keys().map(|site| site.split(' ').next().unwrap_or("").to_owned()));
        scene.matrix(&template, durability, &points_of(&steps));
    }
    let is_step = |op: &&Op| matches!(op.kind(), OpKind::Changes | OpKind::Flushes);
    let missed: Vec<_> = Op::ALL
        .iter()
        .filter(is_step)
        .filter(|op| !ELSEWHERE.contains(op) && !reached.contains(op.name()))
        .collect();
    assert!(
        missed.is_empty(),
        "no run makes these steps, so nobody knows what a kill there leaves: {missed:?}"
    );
}

#[test]
fn killed_again_while_recovering() {
    let scene = Scene::new();
    let template = scene.lab.path("template");
    let usual = scene.trace(&template, "batch");
    for point in
        ["after rename-new tree>moves 2", "after exchange swap>tree 1", "after rename-new tree>swap 1"]
    {
        let broken = scene.end_at(&template, "batch", point).unwrap();
        let mut steps = scene.trace(broken.root(), "batch");
        // Only what a run does not do anyway.
        steps.retain(|site, _| !usual.contains_key(site) || site.contains("moves") || site.contains("trash"));
        assert!(!steps.is_empty(), "{point} leaves nothing to recover");
        scene.matrix(broken.root(), "batch", &points_of(&steps));
    }
}
