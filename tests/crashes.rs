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
use sync_testkit::{
    programs::PATIENCE,
    tree::{PathBytes, Seen, Tree, same},
};
use sync_tree::probe::{FAILPOINT, Op, OpKind, TRACE};

const DURABILITIES: [&str; 3] = ["none", "batch", "file"];

/// A directory appears, or a link, or a file that has a name in staging. With the durability `batch` it depends on how files are
/// flushed, and so on when they come, how many of them have one.
const APPEARS: &str = "rename-new lane>tree";

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
        let steps = self.trace_into(&target, durability);
        self.0.check_end(&target).unwrap_or_else(|error| panic!("{durability}: {error}"));
        steps
    }

    fn trace_into(&self, target: &Tree, durability: &str) -> BTreeMap<String, usize> {
        let file = target.root().with_extension("trace");
        let agent = self.0.agent(target, durability).env(TRACE, &file);
        agent.pull().expect(0);
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

/// The first time of each step, before and after it, and the middle of those that come often. `appearing` is how often something
/// appears in every run.
fn points_of(steps: &BTreeMap<String, usize>, appearing: usize) -> BTreeSet<String> {
    let mut points = BTreeSet::new();
    for (step, &count) in steps {
        points.insert(format!("{step} 1"));
        let count = if step.ends_with(APPEARS) { count.min(appearing) } else { count };
        if count > 8 {
            points.insert(format!("{step} {}", count / 2));
        }
    }
    points
}

#[test]
fn killed_at_every_step() {
    let scene = Crashes(Scene::new());
    let (mut reached, mut areas) = (BTreeSet::new(), BTreeSet::new());
    // Without flushes no file has a name in staging.
    let appearing = scene.trace("none", None)[&format!("after {APPEARS}")];
    for durability in DURABILITIES {
        let steps = scene.trace(durability, None);
        for step in steps.keys() {
            reached.extend(step.split(' ').nth(1).map(str::to_owned));
            areas.extend(step.split([' ', '>']).skip(2).map(str::to_owned));
        }
        scene.matrix(durability, None, &points_of(&steps, appearing));
    }
    let is_step = |op: &&Op| matches!(op.kind(), OpKind::Changes | OpKind::Flushes);
    let missed: Vec<_> = Op::ALL.iter().filter(is_step).filter(|op| !reached.contains(op.name())).collect();
    assert!(areas.len() >= AREAS, "some part of a target is never touched: {areas:?}");
    assert!(
        missed.is_empty(),
        "no run makes these steps, so nobody knows what a kill there leaves: {missed:?}"
    );
}

/// Each step in which new directories are filled and appear, the first and the last time: by then others have their places.
/// `appearing` is how often something appears in every run.
fn steps_of_new(steps: &BTreeMap<String, usize>, appearing: usize) -> BTreeMap<String, BTreeSet<usize>> {
    let counts = |step: &String| match step.ends_with(APPEARS) {
        true => (1..=appearing).collect(),
        false => BTreeSet::from([1, steps[step]]),
    };
    let is_one =
        |step: &&String| step.ends_with(" new") || step.ends_with("make-dir lane") || step.ends_with(APPEARS);
    steps.keys().filter(is_one).map(|step| (step.clone(), counts(step))).collect()
}

/// A first pull is ended at such a step: what is there is complete, and the next pull ends equal and leaves nothing.
fn end_first_pull(scene: &Scene, durability: &str, point: &str) -> Result<(), String> {
    let target = Tree::at(scene.free_path());
    let agent = scene.agent(&target, durability).env(FAILPOINT, point);
    let ended = agent.start(&["pull"]).finish(PATIENCE);
    // How many directories are flushed together depends on when their files come.
    if ended.code == Some(0) && point.contains(" sync-") {
        return Ok(());
    }
    if ended.code.is_some() {
        return Err(format!("the point was not reached: {}", ended.stderr));
    }
    let (whole, now) = (scene.lab.share.snapshot(), target.snapshot());
    for (path, seen) in &now {
        if whole.get(path).is_none_or(|it| it.digest != seen.digest || it.link != seen.link) {
            return Err(format!("{path:?} is not complete: {seen:?}"));
        }
    }
    let is_missing = |(path, _): &(&PathBytes, &Seen)| !now.contains_key(*path);
    let missing: u64 = whole.iter().filter(is_missing).map(|(_, seen)| seen.size).sum();
    let received = scene.agent(&target, durability).pull().expect(0).count("bytes_received");
    if received > missing + scene::TALK_BYTES {
        return Err(format!("{received} bytes were received where {missing} were missing"));
    }
    same(scene.lab.share.root(), target.root(), Default::default())?;
    let mut left =
        fs::read_dir(target.path(".syncd/staging")).unwrap().map(|entry| entry.unwrap().file_name());
    match left.find(|name| name.to_string_lossy().starts_with("run-")) {
        Some(name) => Err(format!("{name:?} is left in staging")),
        None if !target.trash().is_empty() => {
            Err(format!("the share's own in the trash: {:?}", target.trash()))
        }
        None => scene::discard(&target),
    }
}

#[test]
fn killed_while_new_directories_appear() {
    let scene = Crashes(Scene::new());
    let traced = |durability| scene.trace_into(&Tree::at(scene.0.free_path()), durability);
    // Without flushes no file has a name in staging.
    let appearing = traced("none")[&format!("after {APPEARS}")];
    for durability in DURABILITIES {
        let steps = steps_of_new(&traced(durability), appearing);
        let usual = ["create new", "write new", "set-times new", "set-mode new", "make-dir lane", APPEARS];
        let flushes: &[&str] = if durability == "file" { &["sync-file new", "sync-dir new"] } else { &[] };
        for step in usual.iter().chain(flushes) {
            let is_made = steps.contains_key(&format!("after {step}"));
            assert!(is_made, "{durability}: no new directory appears by {step}: {steps:?}");
        }
        let points =
            steps.iter().flat_map(|(step, counts)| counts.iter().map(move |n| format!("{step} {n}")));
        let judge = |point: &String| end_first_pull(&scene.0, durability, point);
        scene::judge_all(points, |point| format!("{durability}, {point}"), judge);
    }
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
