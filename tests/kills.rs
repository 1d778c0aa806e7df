//! Both programs killed at any moment: the target holds complete old or complete new files, and the next run ends equal.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use common::{Edits, LATER, Lab, SOON, fill};
use sync_testkit::{
    moment,
    ops::Chaos,
    programs::{Outcome, PATIENCE},
    rng::Rng,
    tree::{Kind, PathBytes, Snapshot, Tree, try_snapshot},
};

/// What each path may hold: every content that some version of the share had there.
#[derive(Default)]
struct Versions(BTreeMap<PathBytes, BTreeSet<Option<[u8; 32]>>>);

impl Versions {
    fn add(&mut self, version: &Snapshot) {
        for (path, seen) in version {
            self.0.entry(path.clone()).or_default().insert(seen.digest);
        }
    }

    /// Panics if a file is torn, or if something is there that no version has.
    #[track_caller]
    fn check(&self, target: &Tree, when: &str) {
        for (path, seen) in target.snapshot() {
            let Some(allowed) = self.0.get(&path) else { panic!("{when}: no version has {path:?}") };
            let complete = seen.kind == Kind::Dir || allowed.contains(&seen.digest);
            assert!(complete, "{when}: {path:?} with {} bytes is no complete version", seen.size);
        }
    }
}

/// A new version: much content changed, some of it moved, removed and new.
fn next_version(share: &Tree, round: u64) {
    for number in 0..150 {
        let size = 1000 + (number * 997 + round as usize * 131) % 60_000;
        share.bytes(format!("dir {}/file {number}", number % 9), size, round * 1000 + number as u64);
    }
    share.bytes("large", 6_000_000, round);
    let (from, to) =
        if round.is_multiple_of(2) { ("moves/here", "moves/there") } else { ("moves/there", "moves/here") };
    if share.has(from) {
        share.rename(from, to);
    } else {
        share.file(format!("{to}/one"), "one");
        share.file(format!("{to}/two"), "two");
    }
    if round > 0 {
        share.remove(format!("only in {}", round - 1));
    }
    share.file(format!("only in {round}/file"), format!("{round}"));
}

#[test]
fn a_killed_pull_leaves_complete_files_and_the_next_ends_equal() {
    let lab = Lab::new();
    let daemon = lab.daemon();
    let agent = lab.agent(&daemon.url());
    let mut rng = Rng::new(17);
    let mut versions = Versions::default();
    next_version(&lab.share, 0);
    versions.add(&lab.share.snapshot());
    let began = Instant::now();
    agent.pull().expect(0);
    let usual = began.elapsed().as_micros() as usize;

    for round in 1..=16 {
        next_version(&lab.share, round);
        versions.add(&lab.share.snapshot());
        let mut pull = agent.start(&["pull"]);
        moment(Duration::from_micros(rng.below(usual) as u64));
        pull.kill();
        versions.check(&lab.target(), &format!("after kill {round}"));
        if round % 4 == 0 {
            agent.pull().expect(0);
            lab.assert_same();
        }
    }
    agent.pull().expect(0);
    lab.assert_same();
    // Nothing was edited, so nothing is trash.
    assert!(lab.target().trash().is_empty(), "{:?}", lab.target().trash());
    // What the killed runs had staged is used or removed, not kept for ever.
    assert!(lab.target().state_bytes() < 6_000_000, "{} bytes of state", lab.target().state_bytes());
}

#[test]
fn a_killed_first_pull_is_continued() {
    let lab = Lab::new();
    next_version(&lab.share, 0);
    let daemon = lab.daemon();
    let mut rng = Rng::new(23);
    for round in 0..6 {
        let agent = lab.agent_into(&daemon.url(), &format!("target {round}"));
        let target = lab.tree(&format!("target {round}"));
        let mut versions = Versions::default();
        versions.add(&lab.share.snapshot());
        for _ in 0..3 {
            let mut pull = agent.start(&["pull"]);
            moment(Duration::from_millis(rng.below(120) as u64));
            pull.kill();
            versions.check(&target, &format!("round {round}"));
        }
        agent.pull().expect(0);
        sync_testkit::tree::assert_same(lab.share.root(), target.root());
    }
}

#[test]
fn a_daemon_killed_during_a_pull_does_not_fail_it() {
    let lab = Lab::new();
    let mut daemon = lab.daemon();
    let agent = lab.agent(&daemon.url());
    let mut rng = Rng::new(5);
    let mut versions = Versions::default();
    for round in 0..6 {
        next_version(&lab.share, round);
        versions.add(&lab.share.snapshot());
        let pull = agent.start(&["pull"]);
        moment(Duration::from_millis(rng.below(150) as u64));
        daemon.crash_and_restart();
        Outcome::read(pull.finish(PATIENCE)).expect(0);
        versions.check(&lab.target(), &format!("round {round}"));
        lab.assert_same();
    }
}

#[test]
fn a_follower_killed_again_and_again_ends_equal() {
    let lab = Lab::new();
    fill(&lab.share, 60);
    let daemon = lab.daemon();
    // Chaos may well delete more than half within ten minutes.
    let agent = lab.agent(&daemon.url()).args(["--allow-mass-delete"]);
    let mut rng = Rng::new(31);
    let mut chaos = Chaos::new(&lab.share, 31);
    for _ in 0..12 {
        let mut follower = agent.follow();
        for _ in 0..20 {
            chaos.step();
            moment(Duration::from_millis(rng.below(25) as u64));
        }
        follower.process().kill();
    }
    let mut follower = agent.follow();
    follower.caught_up();
    lab.wait_same(SOON);
    drop(follower);
    agent.json(&["verify"]).expect(0);
}

#[test]
fn edits_in_the_target_survive_an_agent_killed_again_and_again() {
    let lab = Lab::new();
    fill(&lab.share, 140);
    let (_daemon, agent) = lab.pulled();
    let mut rng = Rng::new(53);
    let mut edits = Edits::new(&lab);
    for round in 0..14 {
        let mut agent = agent.start(&[if rng.chance(50) { "follow" } else { "pull" }]);
        for number in 0..6 {
            moment(Duration::from_millis(rng.below(20) as u64));
            // The share changes the same files, and others. Each place is edited once: an own later edit is no loss.
            let at = round * 6 + number;
            let file = format!("dir {}/sub/file {at}", at % 7);
            if rng.chance(50) {
                lab.share.file(&file, format!("the share's {at}"));
            }
            match number {
                0 => edits.save(&format!("my own {at}"), &format!("only mine {at}")),
                1 => edits.save_with_dir(&format!("my dir {at}"), "my own", &format!("mine too {at}")),
                _ => edits.save(&file, &format!("my version {at}")),
            }
        }
        agent.kill();
    }
    agent.pull().expect(0);
    lab.assert_same();
    assert_eq!(edits.count(), 14 * 6);
    edits.assert_in_trash();
}

#[test]
fn a_daemon_killed_again_and_again_misses_nothing() {
    let lab = Lab::new();
    fill(&lab.share, 60);
    let mut daemon = lab.daemon();
    let mut follower = lab.agent(&daemon.url()).args(["--allow-mass-delete"]).follow();
    follower.caught_up();
    let mut rng = Rng::new(41);
    let mut chaos = Chaos::new(&lab.share, 41);
    for _ in 0..8 {
        for _ in 0..20 {
            chaos.step();
            moment(Duration::from_millis(rng.below(15) as u64));
        }
        daemon.process().kill();
        (0..5).for_each(|_| chaos.step());
        daemon.restart();
    }
    lab.wait_same(LATER);
}

#[test]
fn at_every_moment_of_a_pull_each_file_is_complete() {
    let lab = Lab::new();
    next_version(&lab.share, 0);
    let (_daemon, agent) = lab.pulled();
    let mut versions = Versions::default();
    versions.add(&lab.share.snapshot());
    for round in 1..4 {
        next_version(&lab.share, round);
        versions.add(&lab.share.snapshot());
        let mut pull = agent.start(&["pull"]);
        let mut looks = 0;
        while pull.is_running() {
            // A listing races with renames; only what it could read whole is judged.
            let Ok(seen) = try_snapshot(lab.target().root()) else { continue };
            looks += 1;
            for (path, seen) in seen.iter().filter(|(_, seen)| seen.kind == Kind::File) {
                let complete = versions.0.get(path).is_some_and(|allowed| allowed.contains(&seen.digest));
                assert!(complete, "look {looks}: {path:?} with {} bytes is no complete version", seen.size);
            }
        }
        Outcome::read(pull.finish(PATIENCE)).expect(0);
        lab.assert_same();
    }
}
