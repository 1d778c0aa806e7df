//! What looks like a disaster is refused, and nothing is lost by it; a person decides.

#![allow(clippy::disallowed_methods, reason = "tests make and move their own directories")]

mod common;

use std::time::Duration;

use common::{LATER, Lab, SHARE, SOON, SYNC_AGENT, SYNCD, assert_clear, expect_code, fill};
use sync_testkit::{
    eventually,
    programs::{Agent, DaemonSpec, PATIENCE},
    tree::{Compare, PathBytes, assert_same, differences, snapshot},
};

/// The pull halts, says so, and leaves the target as it was.
#[track_caller]
fn assert_halts(lab: &Lab, agent: &Agent, words: &[&str]) {
    let before = lab.target().snapshot();
    let outcome = agent.pull().expect(4);
    assert_clear(&outcome.stderr, words);
    assert!(!outcome.text("error").is_empty());
    assert_eq!(before, lab.target().snapshot(), "a halted pull changed the target");
}

#[track_caller]
fn accept(lab: &Lab) {
    let finished =
        DaemonSpec::new(SYNCD).share(SHARE, lab.share.root()).args(["accept", SHARE]).run(PATIENCE);
    expect_code(&finished, 0);
}

#[track_caller]
fn eventually_pulls(agent: &Agent) {
    eventually(SOON, || match agent.pull() {
        outcome if outcome.code == Some(0) => Ok(()),
        outcome => Err(format!("exit code {:?}: {}", outcome.code, outcome.stderr)),
    });
}

#[test]
fn a_share_made_anew_with_other_content_halts_and_loses_nothing() {
    let lab = Lab::new();
    fill(&lab.share, 40);
    let daemon = lab.daemon();
    lab.agent(&daemon.url()).pull().expect(0);
    drop(daemon);
    // As if the disk was not mounted: an empty directory, without the state that was in it.
    std::fs::rename(lab.share.root(), lab.path("away")).expect("the share is moved away");
    std::fs::create_dir(lab.share.root()).expect("an empty directory in its place");
    let daemon = lab.daemon();
    lab.agent(&daemon.url()).pull().expect(4);
    assert!(lab.target().has("dir 0/sub/file 0"), "nothing was deleted");
}

#[test]
fn a_share_inside_its_target_is_left_alone() {
    let lab = Lab::new();
    fill(&lab.share, 5);
    let daemon = lab.daemon();
    let before = snapshot(lab.share.root());
    // The directory that holds the share.
    lab.agent_into(&daemon.url(), ".").pull();
    let left = differences(&before, &snapshot(lab.share.root()), Compare::default());
    assert!(left.is_empty(), "the share is untouched: {left:#?}");
    // The share itself.
    lab.agent_into(&daemon.url(), "share").pull().expect(1);
}

#[test]
fn an_accept_that_nothing_waits_for_lets_nothing_through() {
    let lab = Lab::new();
    fill(&lab.share, 12);
    let mut daemon = lab.daemon();
    lab.agent(&daemon.url()).pull().expect(0);
    accept(&lab);
    lab.agent(&daemon.url()).pull().expect(0);
    daemon.stop();
    lab.share.empty();
    daemon.restart();
    lab.agent(&daemon.url()).pull().expect(4);
}

#[test]
fn an_emptied_share_halts_until_it_is_back() {
    let lab = Lab::new();
    fill(&lab.share, 30);
    let (_daemon, agent) = lab.pulled();
    let safe = lab.tree("safe");
    safe.copy_from(lab.share.root(), "-a");
    safe.remove(".syncd");
    lab.share.empty();
    assert_halts(&lab, &agent, &["syncd accept"]);
    assert_halts(&lab, &agent, &["syncd accept"]);

    lab.tree("share").copy_from(safe.root(), "-a");
    eventually_pulls(&agent);
    lab.assert_same();
}

#[test]
fn an_emptied_share_can_be_accepted() {
    let lab = Lab::new();
    fill(&lab.share, 30);
    let (_daemon, agent) = lab.pulled();
    lab.share.empty();
    assert_halts(&lab, &agent, &[]);
    accept(&lab);
    eventually_pulls(&agent);
    lab.assert_same();
    assert!(lab.target().snapshot().is_empty());
}

#[test]
fn a_share_emptied_while_the_daemon_was_down_halts() {
    let lab = Lab::new();
    fill(&lab.share, 30);
    let (mut daemon, agent) = lab.pulled();
    daemon.process().kill();
    lab.share.empty();
    daemon.restart();
    assert_halts(&lab, &agent, &[]);
    accept(&lab);
    eventually_pulls(&agent);
    lab.assert_same();
}

#[test]
fn a_share_whose_directory_vanishes_halts_until_it_is_back() {
    let lab = Lab::new();
    fill(&lab.share, 30);
    let (_daemon, agent) = lab.pulled();
    lab.tree(".").rename("share", "unplugged");
    assert_halts(&lab, &agent, &[]);

    lab.tree(".").rename("unplugged", "share");
    lab.share.file("after it came back", "x");
    eventually_pulls(&agent);
    eventually(SOON, || {
        agent.pull();
        sync_testkit::tree::same(lab.share.root(), lab.target().root(), Default::default())
    });
}

#[test]
fn a_share_whose_directory_is_another_one_halts() {
    let lab = Lab::new();
    fill(&lab.share, 30);
    let (_daemon, agent) = lab.pulled();
    lab.tree(".").rename("share", "unplugged");
    // What a mount point looks like when nothing is mounted, or something else is.
    lab.tree("share").file("lost+found", "");
    assert_halts(&lab, &agent, &[]);
    lab.tree(".").remove("share");
    lab.tree(".").rename("unplugged", "share");
    eventually_pulls(&agent);
    lab.assert_same();
}

#[test]
fn a_follower_waits_through_a_halt() {
    let lab = Lab::new();
    fill(&lab.share, 30);
    let (_daemon, mut follower) = lab.followed();
    let before = lab.target().snapshot();
    lab.tree(".").rename("share", "unplugged");
    follower.wait_for_event("halt", LATER);
    assert_eq!(before, lab.target().snapshot());
    lab.tree(".").rename("unplugged", "share");
    lab.share.file("after it came back", "x");
    lab.wait_same(LATER);
    assert!(follower.process().is_running());
}

#[test]
fn a_mass_deletion_halts_and_can_be_allowed() {
    let lab = Lab::new();
    fill(&lab.share, 400);
    let (_daemon, agent) = lab.pulled();
    for dir in 0..5 {
        lab.share.remove(format!("dir {dir}"));
    }
    assert_halts(&lab, &agent, &["--allow-mass-delete"]);
    let outcome = agent.json(&["pull", "--allow-mass-delete"]).expect(0);
    assert!(outcome.count("deleted") > 200);
    lab.assert_same();
}

#[test]
fn deletions_in_slices_count_together() {
    let lab = Lab::new();
    fill(&lab.share, 280);
    let (_daemon, agent) = lab.pulled();
    lab.share.remove("dir 0");
    lab.share.remove("dir 1");
    agent.pull().expect(0);
    lab.share.remove("dir 2");
    agent.pull().expect(0);
    // 120 are gone; with the next 40 it is more than half of the 280 of ten minutes ago.
    lab.share.remove("dir 3");
    assert_halts(&lab, &agent, &["--allow-mass-delete"]);
}

#[test]
fn moves_and_rewrites_of_everything_are_not_deletions() {
    let lab = Lab::new();
    fill(&lab.share, 300);
    let (_daemon, agent) = lab.pulled();
    for dir in 0..7 {
        lab.share.rename(format!("dir {dir}"), format!("moved/dir {dir}"));
    }
    agent.pull().expect(0);
    lab.assert_same();
    for number in 0..300 {
        lab.share.bytes(format!("moved/dir {}/sub/file {number}", number % 7), 1000, 5000 + number as u64);
    }
    agent.pull().expect(0);
    lab.assert_same();
}

#[test]
fn a_first_run_into_a_foreign_directory_halts() {
    let lab = Lab::new();
    fill(&lab.share, 30);
    let daemon = lab.daemon();
    let agent = lab.agent(&daemon.url());
    for number in 0..20 {
        lab.target().file(format!("my photos/{number}.jpg"), format!("photo {number}"));
    }
    assert_halts(&lab, &agent, &["--allow-mass-delete"]);
    agent.json(&["pull", "--allow-mass-delete"]).expect(0);
    lab.assert_same();
    let trash = lab.target().trash();
    assert_eq!(trash.len(), 20);
    assert!(trash.contains_key(&PathBytes::from("my photos/7.jpg")), "{trash:?}");
}

#[test]
fn a_few_foreign_files_go_to_the_trash() {
    let lab = Lab::new();
    fill(&lab.share, 30);
    let daemon = lab.daemon();
    lab.target().file("mine", "my own");
    lab.target().file("dir 0/sub/file 0", "my version");
    lab.agent(&daemon.url()).pull().expect(0);
    lab.assert_same();
    assert_eq!(lab.target().trash().len(), 2);
}

#[test]
fn a_target_of_another_share_is_refused() {
    let lab = Lab::new();
    fill(&lab.share, 5);
    let other = lab.tree("other share");
    other.file("other", "x");
    let daemon = lab.spec().share("other", other.root()).start();
    lab.agent(&daemon.url()).pull().expect(0);
    let wrong = Agent::new(SYNC_AGENT, &daemon.url(), "other", lab.path("target"));
    assert_halts(&lab, &wrong, &["docs", "other", "--target"]);
    lab.assert_same();
}

#[test]
fn a_share_that_was_made_anew_is_a_reset_and_transfers_nothing() {
    let lab = Lab::new();
    fill(&lab.share, 100);
    let (mut daemon, agent) = lab.pulled();
    daemon.stop();
    lab.share.remove(".syncd");
    lab.share.file("new", "new");
    daemon.restart();
    let outcome = agent.pull().expect(0);
    lab.assert_same();
    assert_eq!(outcome.count("synced"), 1);
    assert!(outcome.count("bytes_received") < 40_000, "{}", outcome.stdout);
    assert!(lab.target().trash().is_empty());
}

#[test]
fn a_target_that_lost_its_state_loses_no_data() {
    let lab = Lab::new();
    fill(&lab.share, 100);
    let (_daemon, agent) = lab.pulled();
    let target = lab.target();
    target.remove(".syncd");
    target.file("dir 0/sub/file 0", "edited");
    target.file("mine", "my own");
    let outcome = agent.pull().expect(0);
    lab.assert_same();
    assert!(outcome.count("bytes_received") < 40_000, "{}", outcome.stdout);
    let trash = target.trash();
    let kept: Vec<_> = trash.keys().collect();
    assert_eq!(kept, [&PathBytes::from("dir 0/sub/file 0"), &PathBytes::from("mine")]);
}

#[test]
fn a_second_agent_on_the_same_target_is_refused() {
    let lab = Lab::new();
    fill(&lab.share, 5);
    let (daemon, mut follower) = lab.followed();
    let agent = lab.agent(&daemon.url());
    let pid = follower.process().pid().to_string();
    let target = lab.target().root().display().to_string();
    for command in [&["pull"][..], &["pull", "--dry-run"], &["verify"]] {
        let outcome = agent.json(command).expect(1);
        assert_clear(&outcome.stderr, &[&pid, &target, "hint: end it, or wait"]);
    }
    let second = agent.start(&["follow"]).finish(Duration::from_secs(20));
    assert_eq!(second.code, Some(1));
    assert!(follower.process().is_running());

    // A lock dies with its owner, however that dies.
    follower.process().kill();
    agent.pull().expect(0);
}

#[test]
fn a_second_daemon_on_the_same_share_is_refused() {
    let lab = Lab::new();
    fill(&lab.share, 5);
    let mut daemon = lab.daemon();
    let second = lab.spec().run(PATIENCE);
    expect_code(&second, 1);
    assert_clear(&second.stderr, &[&daemon.pid().to_string()]);
    daemon.crash_and_restart();
}

#[test]
fn a_target_that_was_emptied_by_hand_is_filled_again() {
    let lab = Lab::new();
    fill(&lab.share, 150);
    let (_daemon, agent) = lab.pulled();
    lab.target().empty();
    agent.pull().expect(0);
    lab.assert_same();

    lab.tree(".").remove("target");
    agent.pull().expect(0);
    assert_same(lab.share.root(), &lab.path("target"));
}
