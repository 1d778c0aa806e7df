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
};

use common::scene::{self, Scene};
use sync_testkit::{programs::PATIENCE, tree::Tree};
use sync_tree::probe::{FAILPOINT, Op, OpKind, TRACE};

const DURABILITIES: [&str; 3] = ["none", "batch", "file"];

/// The parts of a target and its state that are told apart: the tree, the index, the trash, and what is in `.syncd/staging`.
const AREAS: usize = 10;

/// How often a point is tried that a run went by: how files are batched, and so how they are flushed, depends on when they come.
const TRIES: usize = 4;

/// A scene whose runs are killed.
struct Crashes(Scene);

impl Crashes {
    /// A target of the first version, with edits; if `ended` names a point, a run has ended there.
    fn target(&self, durability: &str, ended: Option<&str>) -> Tree {
        let target = self.0.target();
        if let Some(point) = ended {
            let agent = self.0.agent(&target, durability).env(FAILPOINT, point);
            let ended = agent.start(&["pull"]).finish(PATIENCE);
            assert_eq!(ended.code, None, "{point} was not reached");
        }
        target
    }

    /// The steps of a pull into such a target, with how often each came.
    fn trace(&self, durability: &str, ended: Option<&str>) -> BTreeMap<String, usize> {
        let target = self.target(durability, ended);
        let file = target.root().with_extension("trace");
        let agent = self.0.agent(&target, durability).env(TRACE, &file);
        agent.pull().expect(0);
        self.0.check_end(&target).unwrap_or_else(|error| panic!("{durability}: {error}"));
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
            let agent = self.0.agent(&target, durability).env(FAILPOINT, point);
            let ended = agent.start(&["pull"]).finish(PATIENCE);
            if ended.code.is_none() {
                self.0.check_between(&target)?;
                return Ok(target);
            }
            said = format!("exit code {:?}\n{}", ended.code, ended.stderr);
        }
        Err(format!("the point was not reached: {said}"))
    }

    /// Ends a pull at all these points.
    fn matrix(&self, durability: &str, ended: Option<&str>, points: &BTreeSet<String>) {
        let judge = |point: &&String| {
            let target = match self.end_at(durability, ended, point) {
                // Which way a batch is flushed may differ each time; that both ways are reached is asserted in the end.
                Err(error) if point.contains(" sync-") && error.starts_with("the point was not") => {
                    return Ok(());
                }
                target => target?,
            };
            self.0.go_on(&target, durability)?;
            scene::discard(&target)
        };
        scene::judge_all(points, |point| format!("{durability}, {point}"), judge);
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
    let scene = Crashes(Scene::new());
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
    let scene = Crashes(Scene::new());
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
