//! `pull`: the target equals the share, and what is there already is not transferred again.

mod common;

use std::{thread, time::Duration};

use common::{Lab, SOON, counts, fill};
use sync_testkit::{
    eventually, moment,
    programs::{Agent, Outcome, PATIENCE, Process},
    proxy::Proxy,
    tree::{PathBytes, assert_same, snapshot},
};

/// What a pull may receive that transfers no content: the feed's few messages.
const NO_CONTENT_BYTES: u64 = 8 << 10;

#[test]
fn a_fresh_pull_counts_what_it_did() {
    let lab = Lab::new();
    fill(&lab.share, 40);
    lab.share.bytes("large", 3_000_000, 1);
    let daemon = lab.daemon();
    let outcome = lab.agent(&daemon.url()).pull().expect(0);
    lab.assert_same();
    let keys = ["checked", "changed", "synced", "failed", "unchanged", "skipped", "deleted", "renamed"];
    assert_eq!(counts(&outcome, keys), [42, 42, 42, 0, 0, 0, 0, 0]);
    let content = 40 * 2048 + 3_000_000;
    assert_eq!(outcome.count("bytes_total"), content);
    let received = outcome.count("bytes_received");
    assert!((content..content + (64 << 10)).contains(&received), "{received} bytes for {content}");
    assert_eq!(outcome.problems(), []);
}

#[test]
fn a_second_pull_asks_only_for_what_changed() {
    let lab = Lab::new();
    fill(&lab.share, 1000);
    let (_daemon, agent) = lab.pulled();
    let outcome = agent.pull().expect(0);
    assert_eq!(counts(&outcome, ["checked", "changed", "unchanged", "bytes_total"]), [1001, 0, 1001, 0]);
    assert!(outcome.count("bytes_received") < NO_CONTENT_BYTES, "{}", outcome.stdout);

    lab.share.file("dir 0/sub/file 0", "changed");
    let outcome = agent.pull().expect(0);
    assert_eq!(counts(&outcome, ["checked", "changed", "synced", "bytes_total"]), [1001, 1, 1, 7]);
    assert!(outcome.count("bytes_received") < NO_CONTENT_BYTES, "{}", outcome.stdout);
    lab.assert_same();
}

#[test]
fn changes_while_the_daemon_was_down_are_in_the_feed() {
    let lab = Lab::new();
    fill(&lab.share, 200);
    let (mut daemon, agent) = lab.pulled();
    assert_eq!(daemon.stop(), Some(0));
    lab.share.file("dir 1/sub/file 1", "changed while down");
    lab.share.file("new", "made while down");
    lab.share.remove("dir 2/sub/file 2");
    lab.share.rename("dir 3", "dir 3 renamed");
    lab.share.rewrite_quietly("dir 4/sub/file 4", 99);
    daemon.restart();
    let outcome = agent.pull().expect(0);
    lab.assert_same();
    assert!(outcome.count("bytes_received") < NO_CONTENT_BYTES + 2048, "{}", outcome.stdout);
}

#[test]
fn a_target_that_holds_the_files_already_transfers_nothing() {
    let lab = Lab::new();
    fill(&lab.share, 300);
    lab.share.bytes("large", 4_000_000, 1);
    let daemon = lab.daemon();
    for (target, how) in [("exact copy", "-a"), ("copy without times", "-r")] {
        lab.tree(target).copy_from(lab.share.root(), how);
        lab.tree(target).remove(".syncd");
        let outcome = lab.agent_into(&daemon.url(), target).pull().expect(0);
        assert_same(lab.share.root(), &lab.path(target));
        let received = outcome.count("bytes_received");
        assert!(received < 150_000, "{target}: {received} bytes for 302 names");
        assert!(lab.tree(target).trash().is_empty(), "{target}: equal files went to the trash");
    }
}

#[test]
fn edits_in_the_target_are_put_right_and_kept_in_the_trash() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    let (_daemon, agent) = lab.pulled();
    let target = lab.target();
    target.file("dir 0/sub/file 0", "edited by hand");
    target.rewrite_quietly("dir 1/sub/file 1", 77);
    let quiet = target.look("dir 1/sub/file 1").digest;
    target.file("my own/notes", "unknown to the share");
    target.remove("dir 2");
    target.remove("link");
    target.file("link", "a file in the place of a link");
    target.placed("dir 3/sub/file 3").mode(0o600);
    target.placed("dir 4/sub/file 4").mtime(5, 5);
    target.rename("dir 5", "dir 5 moved");
    agent.pull().expect(0);
    lab.assert_same();

    let trash = target.trash();
    let kept = |path: &str| {
        trash.get(&PathBytes::from(path)).unwrap_or_else(|| panic!("{path} is not in {trash:#?}"))
    };
    assert_eq!(kept("dir 0/sub/file 0").size, "edited by hand".len() as u64);
    assert_eq!(kept("dir 1/sub/file 1").digest, quiet);
    assert_eq!(kept("my own/notes").size, "unknown to the share".len() as u64);
    assert_eq!(kept("link").size, "a file in the place of a link".len() as u64);
    assert_eq!(agent.pull().expect(0).count("changed"), 0);
}

#[test]
fn what_the_share_itself_replaced_does_not_fill_the_trash() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    let (_daemon, agent) = lab.pulled();
    lab.share.file("dir 0/sub/file 0", "a new version");
    lab.share.remove("dir 1/sub/file 1");
    agent.pull().expect(0);
    lab.assert_same();
    assert!(lab.target().trash().is_empty());
}

#[test]
fn a_full_pull_transfers_every_file_again() {
    let lab = Lab::new();
    fill(&lab.share, 50);
    let (_daemon, agent) = lab.pulled();
    let outcome = agent.json(&["pull", "--full"]).expect(0);
    assert!(outcome.count("bytes_received") >= 50 * 2048, "{}", outcome.stdout);
    lab.assert_same();
    assert!(lab.target().trash().is_empty());
}

#[test]
fn a_dry_run_tells_what_a_pull_would_do_and_does_nothing() {
    let lab = Lab::new();
    fill(&lab.share, 60);
    let (_daemon, agent) = lab.pulled();
    lab.share.file("new", "new");
    lab.share.file("dir 1/sub/file 1", "changed");
    lab.share.remove("dir 2/sub/file 2");
    lab.share.rename("dir 3/sub/file 3", "dir 3/renamed");
    lab.target().file("dir 4/sub/file 4", "edited");
    let before = lab.target().snapshot();
    let keys = ["checked", "changed", "synced", "failed", "unchanged", "deleted", "renamed", "bytes_total"];
    let promised = agent.json(&["pull", "--dry-run"]).expect(0);
    assert_eq!(promised.json["dry_run"], true);
    assert_eq!(before, lab.target().snapshot(), "the dry run changed the target");
    assert!(lab.target().trash().is_empty());

    let done = agent.pull().expect(0);
    assert_eq!(done.json["dry_run"], false);
    assert_eq!(counts(&promised, keys), counts(&done, keys));
    assert_eq!(counts(&done, ["changed", "deleted", "renamed"]), [4, 1, 1]);
    lab.assert_same();
}

#[test]
fn what_is_deleted_in_the_share_is_deleted_in_the_target() {
    let lab = Lab::new();
    fill(&lab.share, 70);
    let (_daemon, agent) = lab.pulled();
    lab.share.remove("dir 1");
    lab.share.remove("dir 2/sub/file 2");
    lab.share.remove("link");
    lab.share.remove("empty dir");
    let outcome = agent.pull().expect(0);
    lab.assert_same();
    assert_eq!(outcome.count("deleted"), 12);
}

#[test]
fn a_renamed_directory_is_one_rename() {
    let lab = Lab::new();
    for number in 0..500 {
        lab.share.bytes(format!("old name/{}/file {number}", number % 10), 3000, number);
    }
    let (_daemon, agent) = lab.pulled();
    let target = lab.target();
    let before = (target.inode("old name"), target.inode("old name/3"), target.inode("old name/3/file 3"));
    lab.share.rename("old name", "somewhere/new name");
    let outcome = agent.pull().expect(0);
    lab.assert_same();
    let now = "somewhere/new name";
    let after =
        (target.inode(now), target.inode(format!("{now}/3")), target.inode(format!("{now}/3/file 3")));
    assert_eq!(before, after, "the directory or its files were made again");
    assert!(outcome.count("bytes_received") < NO_CONTENT_BYTES, "{}", outcome.stdout);
    assert_eq!(outcome.count("deleted"), 0);
}

#[test]
fn a_renamed_file_is_renamed_and_not_transferred() {
    let lab = Lab::new();
    lab.share.bytes("old", 2_000_000, 1);
    lab.share.file("dir/other", "x");
    let (_daemon, agent) = lab.pulled();
    let inode = lab.target().inode("old");
    lab.share.rename("old", "dir/new");
    let outcome = agent.pull().expect(0);
    lab.assert_same();
    assert_eq!(lab.target().inode("dir/new"), inode);
    assert_eq!(counts(&outcome, ["changed", "synced", "renamed", "deleted"]), [1, 1, 1, 0]);
    assert!(outcome.count("bytes_received") < NO_CONTENT_BYTES, "{}", outcome.stdout);
}

#[test]
fn content_that_is_there_under_another_name_is_not_transferred() {
    let lab = Lab::new();
    lab.share.bytes("original", 2_000_000, 1);
    let (_daemon, agent) = lab.pulled();
    lab.share.bytes("copy", 2_000_000, 1);
    // And one whose only source is replaced in the same run.
    lab.share.rename("original", "moved aside");
    lab.share.bytes("original", 1_000, 2);
    let outcome = agent.pull().expect(0);
    lab.assert_same();
    assert!(outcome.count("bytes_received") < NO_CONTENT_BYTES, "{}", outcome.stdout);
    assert_ne!(lab.target().inode("copy"), lab.target().inode("moved aside"));
}

#[test]
fn every_change_of_kind_arrives() {
    let lab = Lab::new();
    for kind in ["file", "dir", "link"] {
        for to in ["file", "dir", "link"] {
            let path = format!("{kind} to {to}");
            make(&lab, &path, kind, 1);
        }
    }
    let (_daemon, agent) = lab.pulled();
    for kind in ["file", "dir", "link"] {
        for to in ["file", "dir", "link"] {
            let path = format!("{kind} to {to}");
            lab.share.remove(&path);
            make(&lab, &path, to, 2);
        }
    }
    agent.pull().expect(0);
    lab.assert_same();
    assert!(lab.target().trash().is_empty());
}

fn make(lab: &Lab, path: &str, kind: &str, version: u64) {
    match kind {
        "file" => drop(lab.share.bytes(path, 1000, version)),
        "dir" => drop(lab.share.bytes(format!("{path}/nested/file {version}"), 1000, version)),
        _ => drop(lab.share.link(path, format!("target {version}"))),
    }
}

#[test]
fn swaps_chains_and_cycles_of_names_arrive() {
    let lab = Lab::new();
    for name in ["a", "b", "x", "y", "z", "chain 1", "chain 2", "cycle 1", "cycle 2", "cycle 3"] {
        lab.share.bytes(name, 100_000, name.len() as u64 + u64::from(name.as_bytes()[name.len() - 1]));
    }
    for name in ["one", "two"] {
        lab.share.bytes(format!("dirs/{name}/file"), 100_000, u64::from(name.as_bytes()[0]));
    }
    lab.share.bytes("nest/inner/deep", 1000, 3);
    lab.share.bytes("outer/middle/inner/file", 1000, 4);
    let (_daemon, agent) = lab.pulled();

    lab.share.swap("a", "b");
    lab.share.swap("dirs/one", "dirs/two");
    lab.share.swap("x", "dirs");
    lab.share.rename("chain 2", "chain 3");
    lab.share.rename("chain 1", "chain 2");
    for (from, to) in [("cycle 1", "t"), ("cycle 3", "cycle 1"), ("cycle 2", "cycle 3"), ("t", "cycle 2")] {
        lab.share.rename(from, to);
    }
    // A child takes its parent's place, and a parent goes below its former child.
    lab.share.rename("nest/inner", "t");
    lab.share.remove("nest");
    lab.share.rename("t", "nest");
    lab.share.rename("outer/middle/inner", "inner");
    lab.share.rename("outer", "inner/outer");
    let outcome = agent.pull().expect(0);
    lab.assert_same();
    assert!(outcome.count("bytes_received") < NO_CONTENT_BYTES, "{}", outcome.stdout);
    assert!(lab.target().trash().is_empty());
}

#[test]
fn a_rewrite_of_the_same_size_and_time_arrives() {
    let lab = Lab::new();
    lab.share.bytes("file", 50_000, 1);
    let (_daemon, agent) = lab.pulled();
    for seed in 2..12 {
        lab.share.rewrite_quietly("file", seed);
        agent.pull().expect(0);
        lab.assert_same();
    }
}

#[test]
fn modes_and_times_alone_do_not_transfer_content() {
    let lab = Lab::new();
    lab.share.bytes("file", 2_000_000, 1).mode(0o644);
    lab.share.dir("dir").mode(0o755);
    let (_daemon, agent) = lab.pulled();
    let inode = lab.target().inode("file");
    lab.share.placed("file").mode(0o600).mtime(1_000_000_000, 7);
    lab.share.placed("dir").mode(0o700).mtime(1_000_000_000, 8);
    let outcome = agent.pull().expect(0);
    lab.assert_same();
    assert_eq!(lab.target().inode("file"), inode);
    assert!(outcome.count("bytes_received") < NO_CONTENT_BYTES, "{}", outcome.stdout);
}

#[test]
fn what_was_written_before_a_pull_is_there_after_it() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    let (_daemon, agent) = lab.pulled();
    for number in 0..50 {
        let path = format!("new {}/dir/file {number}", number % 5);
        lab.share.file(&path, format!("echo {number}"));
        agent.pull().expect(0);
        assert_eq!(
            lab.target().try_read(&path),
            Some(format!("echo {number}").into_bytes()),
            "round {number}"
        );
    }
    lab.assert_same();
}

#[test]
fn a_file_that_grows_meanwhile_does_not_fail_a_pull() {
    let lab = Lab::new();
    lab.share.bytes("log", 1_000_000, 1);
    let daemon = lab.daemon();
    let agent = lab.agent(&daemon.url());
    thread::scope(|scope| {
        let (done, grows) = std::sync::mpsc::channel::<()>();
        let share = &lab.share;
        scope.spawn(move || {
            while grows.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                share.append("log", [b'x'; 1000]);
                moment(Duration::from_millis(2));
            }
        });
        for _ in 0..5 {
            agent.pull().expect(0);
            let (here, there) = (lab.target().read("log"), lab.share.read("log"));
            assert!(
                here.len() >= 1_000_000 && there.starts_with(&here),
                "{} bytes are no prefix",
                here.len()
            );
        }
        drop(done);
    });
    agent.pull().expect(0);
    lab.assert_same();
}

/// A pull over a slow line that has placed some of its 40 files of a megabyte, but not nearly all.
fn pull_half_way(lab: &Lab, agent: &Agent) -> Process {
    let pull = agent.start(&["pull"]);
    let placed = || (0..40).filter(|number| lab.target().has(format!("file {number}"))).count();
    eventually(SOON, || if placed() >= 5 { Ok(()) } else { Err(format!("{} files are there", placed())) });
    assert!(placed() < 35, "the line is too fast for this test");
    pull
}

#[test]
fn what_was_done_before_a_cut_or_a_signal_is_counted() {
    let lab = Lab::new();
    for number in 0..40 {
        lab.share.bytes(format!("file {number}"), 1_100_000, number);
    }
    let daemon = lab.daemon();
    let proxy = Proxy::to(daemon.address());
    proxy.delay(Duration::from_millis(5));
    let agent = lab.agent(&proxy.url()).args(["--concurrency", "2"]);
    let keys = ["checked", "changed", "synced", "failed", "unchanged", "bytes_total"];

    let mut pull = pull_half_way(&lab, &agent);
    pull.terminate();
    let stopped = Outcome::read(pull.finish(PATIENCE)).expect(1);
    let placed = (0..40).filter(|number| lab.target().has(format!("file {number}"))).count() as u64;
    assert_eq!(counts(&stopped, keys), [placed, placed, placed, 0, 0, placed * 1_100_000]);

    lab.target().empty();
    let pull = pull_half_way(&lab, &agent);
    proxy.cut_once();
    let outcome = Outcome::read(pull.finish(PATIENCE)).expect(0);
    assert!(outcome.stderr.contains("trying again"), "it was not cut: {}", outcome.stderr);
    assert_eq!(counts(&outcome, keys), [40, 40, 40, 0, 0, 44_000_000]);
    lab.assert_same();
}

#[test]
fn several_shares_have_targets_of_their_own() {
    let lab = Lab::new();
    fill(&lab.share, 10);
    let other = lab.tree("other share");
    other.file("other", "x");
    let daemon = lab.spec().share("照片 2", other.root()).start();
    lab.agent(&daemon.url()).pull().expect(0);
    lab.assert_same();
    let agent =
        sync_testkit::programs::Agent::new(common::SYNC_AGENT, &daemon.url(), "照片 2", lab.path("t2"));
    agent.pull().expect(0);
    assert_same(other.root(), &lab.path("t2"));
}

#[test]
fn a_target_inside_the_share_is_not_part_of_the_share() {
    let lab = Lab::new();
    fill(&lab.share, 10);
    let daemon = lab.daemon();
    let agent = lab.agent_into(&daemon.url(), "share/backup");
    for round in 0..3 {
        lab.share.file("changed", format!("round {round}"));
        agent.pull().expect(0);
    }
    let backup = lab.share.path("backup");
    let (mut all, mut copied) = (snapshot(lab.share.root()), snapshot(&backup));
    all.retain(|path, _| !path.0.starts_with(b"backup"));
    // Its name may be there, as an empty directory; what is below it may not.
    copied.remove(&PathBytes::from("backup"));
    let differences = sync_testkit::tree::differences(&all, &copied, sync_testkit::tree::Compare::default());
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn an_empty_share_is_an_empty_target() {
    let lab = Lab::new();
    let (_daemon, agent) = lab.pulled();
    lab.share.file("first", "x");
    assert_eq!(agent.pull().expect(0).count("synced"), 1);
    lab.share.remove("first");
    assert_eq!(agent.pull().expect(0).count("deleted"), 1);
    lab.assert_same();
}

#[test]
fn every_durability_gives_the_same_tree() {
    let lab = Lab::new();
    fill(&lab.share, 30);
    let daemon = lab.daemon();
    for durability in ["none", "batch", "file"] {
        let agent = lab.agent_into(&daemon.url(), durability);
        agent.json(&["pull", "--durability", durability]).expect(0);
        assert_same(lab.share.root(), &lab.path(durability));
    }
}
