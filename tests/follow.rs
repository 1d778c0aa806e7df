//! `follow`: changes arrive as they come, whatever happens to the daemon or the network meanwhile.

mod common;

use std::{
    path::Path,
    process::Command,
    sync::mpsc::{Receiver, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use common::{LATER, Lab, SOON, fill};
use sync_testkit::{
    eventually,
    host::SmallDisk,
    moment, paced,
    programs::{Follower, Signal, Value},
    proxy::Proxy,
    tree::Tree,
};

#[test]
fn every_sort_of_change_arrives_and_is_told() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    let (_daemon, mut follower) = lab.followed();

    lab.share.file("new", "text");
    expect_applied(&mut follower, "new", "create");
    lab.share.file("new", "other text");
    expect_applied(&mut follower, "new", "modify");
    lab.wait_same(SOON);
    lab.share.placed("new").mode(0o600);
    expect_applied(&mut follower, "new", "metadata");
    lab.share.rename("new", "renamed");
    let event = expect_applied(&mut follower, "renamed", "rename");
    assert_eq!(event["from"], "new");
    lab.share.remove("renamed");
    expect_applied(&mut follower, "renamed", "delete");
    lab.share.link("a link", "anywhere");
    expect_applied(&mut follower, "a link", "create");
    lab.wait_same(SOON);
    let finished = follower.stop();
    common::expect_code(&finished, 0);
    let events: Vec<_> = finished.stdout.lines().collect();
    assert!(events.iter().all(|line| line.starts_with("{\"")), "one object a line: {events:?}");
    assert!(events[0].contains("\"connected\""), "{events:?}");
}

#[track_caller]
fn expect_applied(follower: &mut Follower, path: &str, op: &str) -> Value {
    follower.wait_for(SOON, |event| event["event"] == "applied" && event["path"] == path && event["op"] == op)
}

#[test]
fn signals_end_it_in_order() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    let daemon = lab.daemon();
    for signal in [Signal::TERM, Signal::INT] {
        let mut follower = lab.agent(&daemon.url()).follow();
        follower.caught_up();
        follower.process().signal(signal);
        assert_eq!(follower.process().wait(Duration::from_secs(10)).code(), Some(0), "{signal:?}");
    }
    // And at once, before it has even connected.
    let mut follower = lab.agent(&daemon.url()).follow();
    eventually(SOON, || match lab.target().has(".syncd") {
        true => Ok(()),
        false => Err("not started".into()),
    });
    follower.process().terminate();
    follower.process().wait(Duration::from_secs(10));
}

#[test]
fn a_daemon_that_is_told_to_end_does_so_while_it_is_followed() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    let (mut daemon, mut follower) = lab.followed();
    let asked = Instant::now();
    assert_eq!(daemon.stop(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(6), "it took {:?}", asked.elapsed());
    follower.wait_for_event("disconnected", SOON);
    lab.share.file("while it was down", "x");
    daemon.restart();
    follower.wait_for_event("connected", LATER);
    lab.wait_same(SOON);
}

#[test]
fn a_reader_of_the_target_sees_complete_versions_only() {
    const SIZE: usize = 1_500_000;
    let lab = Lab::new();
    lab.share.file("file", vec![b'a'; SIZE]);
    let (_daemon, _follower) = lab.followed();
    let target = lab.target();
    let (done, reading) = channel::<()>();
    thread::scope(|scope| {
        let target = &target;
        let reader = scope.spawn(move || {
            let mut versions = std::collections::BTreeSet::new();
            while runs(&reading) {
                // Absent would be as wrong as torn.
                let bytes = target.read("file");
                assert_eq!(bytes.len(), SIZE);
                assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a torn version");
                versions.insert(bytes[0]);
            }
            versions.len()
        });
        for version in b'b'..b'v' {
            lab.share.save("file", vec![version; SIZE]);
            eventually(SOON, || match target.try_read("file").and_then(|bytes| bytes.first().copied()) {
                Some(seen) if seen == version => Ok(()),
                seen => Err(format!("{seen:?} is there instead of {version}")),
            });
        }
        drop(done);
        assert!(reader.join().expect("the reader saw no torn version") > 1);
    });
    lab.wait_same(SOON);
}

fn runs(signal: &Receiver<()>) -> bool {
    signal.try_recv() == Err(TryRecvError::Empty)
}

#[test]
fn a_log_that_grows_all_the_time_arrives_and_starves_nobody() {
    let lab = Lab::new();
    lab.share.file("log", "begin\n");
    let (_daemon, _follower) = lab.followed();
    let target = lab.target();
    let (done, writing) = channel::<()>();
    thread::scope(|scope| {
        let share = &lab.share;
        scope.spawn(move || {
            while runs(&writing) {
                share.append("log", b"another line of the log\n");
                moment(Duration::from_millis(5));
            }
        });
        for number in 0..10 {
            let path = format!("beside/{number}");
            share.file(&path, "x");
            eventually(SOON, || {
                // Whatever is there at any moment is a version that the log has had.
                let seen = target.read("log");
                assert!(
                    share.read("log").starts_with(&seen),
                    "{} bytes are no prefix of the log",
                    seen.len()
                );
                if target.has(&path) { Ok(()) } else { Err(format!("{path} is not there")) }
            });
        }
        // The log itself arrives too, in versions that it has had.
        let mut before = target.read("log").len();
        for _ in 0..3 {
            before = eventually(SOON, || match target.read("log").len() {
                now if now > before => Ok(now),
                _ => Err(format!("the log stays at {before} bytes")),
            });
            assert!(share.read("log").starts_with(&target.read("log")), "not a prefix of the log");
        }
        drop(done);
    });
    lab.wait_same(SOON);
}

#[test]
fn a_burst_of_ten_thousand_files_arrives() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    let (_daemon, _follower) = lab.followed();
    for number in 0..10_000 {
        lab.share.file(format!("burst {}/{}/{number}", number % 10, number % 100), format!("{number}"));
    }
    lab.wait_same(LATER);
}

#[test]
fn a_copied_source_tree_arrives() {
    let lab = Lab::new();
    let source = lab.tree("source");
    for number in 0..800 {
        let path = format!("src {}/mod {}/deeper/file {number}.rs", number % 9, number % 31);
        source.bytes(path, 100 + number * 7, number as u64);
    }
    let (_daemon, _follower) = lab.followed();
    lab.share.dir("copy");
    lab.tree("share/copy").copy_from(source.root(), "-r");
    lab.tree("share/copy 2").copy_from(source.root(), "-a");
    lab.wait_same(LATER);
}

#[test]
fn a_clone_and_a_checkout_arrive() {
    if Command::new("git").arg("--version").output().is_err() {
        return sync_testkit::host::skip("git is not installed");
    }
    let lab = Lab::new();
    let source = lab.tree("source");
    git(&source, &["init", "--quiet", "--initial-branch", "one"]);
    fill(&source, 300);
    git(&source, &["add", "."]);
    git(&source, &["commit", "--quiet", "-m", "one"]);
    git(&source, &["checkout", "--quiet", "-b", "two"]);
    source.remove("dir 1");
    source.rename("dir 2", "dir 2 moved");
    source.remove("dir 3");
    source.file("dir 3", "now a file");
    git(&source, &["add", "."]);
    git(&source, &["commit", "--quiet", "-m", "two"]);

    let (_daemon, _follower) = lab.followed();
    git(&lab.share, &["clone", "--quiet", "--no-hardlinks", "../source", "clone"]);
    lab.wait_same(LATER);
    let clone = Tree::at(lab.share.path("clone"));
    for branch in ["one", "two", "one"] {
        git(&clone, &["checkout", "--quiet", branch]);
        lab.wait_same(LATER);
    }
}

#[track_caller]
fn git(tree: &Tree, args: &[&str]) {
    let output = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "gc.auto=0"])
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .current_dir(tree.root())
        .output()
        .expect("git starts");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn leaves_of_new_directories_are_never_missed() {
    let lab = Lab::new();
    let (_daemon, _follower) = lab.followed();
    for number in 0..300 {
        lab.share.file(format!("{number}/b/c/leaf"), format!("{number}"));
    }
    lab.wait_same(LATER);
}

#[test]
fn a_renamed_directory_is_one_rename_while_following() {
    let lab = Lab::new();
    for number in 0..500 {
        lab.share.bytes(format!("old/{}/file {number}", number % 10), 2000, number);
    }
    let (_daemon, mut follower) = lab.followed();
    let inodes = (lab.target().inode("old"), lab.target().inode("old/7/file 7"));
    let before = follower.events().len();
    lab.share.rename("old", "new");
    expect_applied(&mut follower, "new", "rename");
    lab.wait_same(SOON);
    assert_eq!(inodes, (lab.target().inode("new"), lab.target().inode("new/7/file 7")));
    let events = follower.events().split_off(before);
    let of_content = |event: &&Value| {
        event["event"] == "applied" && ["create", "modify", "delete"].iter().any(|op| event["op"] == *op)
    };
    assert_eq!(events.iter().filter(of_content).count(), 0, "{events:#?}");

    // What happens in it afterwards is seen under its new name.
    lab.share.file("new/7/file 7", "changed after the rename");
    lab.share.file("new/7/another", "x");
    lab.wait_same(SOON);
}

#[test]
fn fifty_files_a_second_are_kept_up_with() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    let (_daemon, _follower) = lab.followed();
    paced(250, Duration::from_millis(20), |number| {
        lab.share.bytes(format!("stream/{}/{number}", number % 5), 4000, number as u64);
    });
    lab.wait_same(Duration::from_secs(10));
}

#[test]
fn swaps_and_kinds_arrive_while_following() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    lab.share.bytes("a", 10_000, 1);
    lab.share.bytes("b", 10_000, 2);
    let (_daemon, _follower) = lab.followed();
    for round in 0..10 {
        lab.share.swap("a", "b");
        lab.share.swap("dir 0", "dir 1");
        lab.share.rewrite_quietly("a", 100 + round);
        lab.share.remove("link");
        match round % 3 {
            0 => drop(lab.share.file("link/below", "now a directory")),
            1 => drop(lab.share.file("link", "now a file")),
            _ => drop(lab.share.link("link", "dir 0")),
        }
        lab.wait_same(SOON);
    }
}

#[test]
fn edits_in_the_target_are_put_right_at_the_start() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    let (_daemon, agent) = lab.pulled();
    lab.target().file("dir 0/sub/file 0", "edited");
    lab.target().remove("dir 1/sub/file 1");
    let mut follower = agent.follow();
    follower.caught_up();
    lab.wait_same(SOON);
    assert_eq!(lab.target().trash().len(), 1);
}

/// Takes all the room that is left on a disk, to the last byte.
fn fill_up(ballast: &Path) {
    let copied = Command::new("cp").arg("/dev/zero").arg(ballast).output().expect("cp starts");
    assert!(!copied.status.success(), "a disk without an end");
}

#[test]
fn it_waits_for_room_on_a_full_disk_and_goes_on_by_itself() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    lab.tree("disk");
    let Some(disk) = SmallDisk::mount(&lab.path("disk"), 24 << 20) else {
        return sync_testkit::host::skip("no file systems can be mounted here");
    };
    let on_disk = Tree::at(disk.seen_from_here());
    let target = on_disk.path("target");
    let daemon = lab.daemon();
    let mut follower = lab.agent_into(&daemon.url(), "disk/target").through(disk.inside()).follow();
    follower.caught_up();

    for (round, to_the_last_byte) in [false, true].into_iter().enumerate() {
        on_disk.bytes("ballast", 20 << 20, 1);
        if to_the_last_byte {
            fill_up(&on_disk.path("more"));
        }
        lab.share.bytes(format!("large {round}"), 5 << 20, 10 + round as u64);
        lab.share.file("dir 0/sub/file 0", format!("small {round}"));
        let problem = follower.wait_for_event("problem", SOON);
        let text = problem["error"].as_str().unwrap_or_default();
        for word in ["disk is full", ".syncd/trash", "goes on by itself"] {
            assert!(text.contains(word), "the message lacks {word:?}: {problem}");
        }
        assert!(follower.process().is_running());
        on_disk.remove("ballast");
        if to_the_last_byte {
            on_disk.remove("more");
        }
        sync_testkit::tree::wait_same(lab.share.root(), &target, LATER);
        // What it had placed when the room ended is the share's, not somebody's own.
        assert!(Tree::at(&target).trash().is_empty(), "{:?}", Tree::at(&target).trash());
        lab.share.remove(format!("large {round}"));
        sync_testkit::tree::wait_same(lab.share.root(), &target, SOON);
    }
}

#[test]
fn a_target_that_is_another_directory_now_halts_it_and_stays_as_it_is() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    let (_daemon, mut follower) = lab.followed();
    lab.tree(".").rename("target", "moved away");
    let moved = lab.tree("moved away");
    let before = moved.snapshot();
    let other = lab.target();
    other.file("dir 0/sub/file 0", "somebody's own");
    other.file("mine", "my own");
    let own = other.snapshot();

    lab.share.file("new", "x");
    lab.share.remove("dir 1");
    let halt = follower.wait_for_event("halt", SOON);
    let reason = halt["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("another directory is in its place"), "{halt}");
    assert!(halt["hint"].as_str().is_some_and(|hint| hint.contains("--target")), "{halt}");
    lab.share.file("newer", "x");
    paced(20, Duration::from_millis(50), |_| {
        assert_eq!(other.snapshot(), own, "the other directory was changed");
        assert!(!other.has(".syncd"));
    });
    assert_eq!(moved.snapshot(), before, "the target was changed under its new name");

    // With the right one back it goes on by itself.
    lab.tree(".").rename("target", "other");
    lab.tree(".").rename("moved away", "target");
    lab.wait_same(LATER);
    assert!(follower.process().is_running());
    assert_eq!(lab.tree("other").snapshot(), own);
}

#[test]
fn chains_of_renames_saves_and_kinds_with_content_arrive_while_following() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    for number in 0..5 {
        lab.share.bytes(format!("log.{number}"), 5_000, number);
    }
    lab.share.file("edited", "version 0");
    lab.share.bytes("kind/a/file", 1000, 1);
    lab.share.bytes("kind/b", 1000, 2);
    let (_daemon, mut follower) = lab.followed();
    for round in 1..6_u64 {
        // As logs are rotated: each takes the name of the next, the last one goes.
        lab.share.remove("log.4");
        for number in (0..4).rev() {
            lab.share.rename(format!("log.{number}"), format!("log.{}", number + 1));
        }
        lab.share.bytes("log.0", 5_000, 100 + round);
        lab.share.save("edited", format!("version {round}"));
        lab.share.rewrite_quietly("dir 0/sub/file 0", round);
        lab.share.remove("kind");
        if round.is_multiple_of(2) {
            lab.share.bytes("kind/a/file", 1000, round);
            lab.share.bytes("kind/b", 1000, round + 1);
        } else {
            lab.share.bytes("kind", 1000, round);
        }
        lab.wait_same(SOON);
    }
    // An editor's save is a change of the file, not another file.
    let of_edited = |event: &&Value| event["event"] == "applied" && event["path"] == "edited";
    let ops: Vec<_> = follower.events().iter().filter(of_edited).map(|event| event["op"].clone()).collect();
    assert!(ops.iter().skip(1).all(|op| op != "create" && op != "delete"), "{ops:?}");
    assert!(follower.process().is_running());
    assert!(lab.target().trash().is_empty(), "{:?}", lab.target().trash());
}

#[test]
fn it_waits_for_a_daemon_that_was_killed_and_misses_nothing() {
    let lab = Lab::new();
    fill(&lab.share, 50);
    let (mut daemon, mut follower) = lab.followed();
    let before = follower.events().len();
    for round in 0..3 {
        daemon.process().kill();
        follower.wait_for_event("disconnected", SOON);
        lab.share.file(format!("made while down {round}"), "x");
        lab.share.file("dir 1/sub/file 1", format!("changed while down {round}"));
        lab.share.rename(format!("dir {}", round + 2), format!("dir moved {round}"));
        daemon.restart();
        follower.wait_for_event("connected", LATER);
        lab.share.file(format!("made after {round}"), "y");
        lab.wait_same(SOON);
    }
    // It went on from its cursor: content that was there was not made again.
    let events = follower.events().split_off(before);
    let made_again = |event: &&Value| {
        event["op"] == "create" && !event["path"].as_str().is_some_and(|path| path.starts_with("made "))
    };
    assert_eq!(events.iter().filter(made_again).count(), 0, "{events:#?}");
}

#[test]
fn a_cut_connection_is_made_again() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    let daemon = lab.daemon();
    let proxy = Proxy::to(daemon.address());
    let mut follower = lab.agent(&proxy.url()).follow();
    follower.caught_up();
    for round in 0..3 {
        proxy.cut();
        follower.wait_for_event("disconnected", SOON);
        lab.share.file("file", format!("changed during the cut {round}"));
        proxy.resume();
        follower.wait_for_event("connected", SOON);
        lab.wait_same(SOON);
    }
    // In the middle of a transfer.
    lab.share.bytes("large", 30_000_000, 1);
    for _ in 0..5 {
        moment(Duration::from_millis(40));
        proxy.cut_once();
    }
    lab.wait_same(LATER);
}

#[test]
fn a_slow_network_only_slows() {
    let lab = Lab::new();
    fill(&lab.share, 300);
    let daemon = lab.daemon();
    let proxy = Proxy::to(daemon.address());
    proxy.delay(Duration::from_millis(20));
    let mut follower = lab.agent(&proxy.url()).follow();
    follower.caught_up();
    lab.share.bytes("some", 2_000_000, 1);
    lab.wait_same(LATER);
}

#[test]
fn many_followers_of_one_share_all_arrive() {
    let lab = Lab::new();
    fill(&lab.share, 50);
    let daemon = lab.daemon();
    let names: Vec<_> = (0..6).map(|number| format!("target {number}")).collect();
    let mut followers: Vec<_> =
        names.iter().map(|name| lab.agent_into(&daemon.url(), name).follow()).collect();
    followers.iter_mut().for_each(|follower| drop(follower.caught_up()));
    for number in 0..50 {
        lab.share.file(format!("dir {}/sub/new {number}", number % 7), format!("{number}"));
    }
    for name in &names {
        sync_testkit::tree::wait_same(lab.share.root(), &lab.path(name), SOON);
    }
}
