//! Ignored paths are never sent and never deleted; a path that becomes ignored is forgotten, not deleted.

mod common;

use common::{Lab, SHARE, SOON, SYNC_AGENT, SYNCD};
use sync_testkit::{
    eventually,
    programs::{Agent, DaemonSpec},
    tree::Tree,
};

#[track_caller]
fn has(tree: &Tree, present: &[&str], absent: &[&str]) {
    for path in present {
        assert!(tree.has(path), "{path} is missing");
    }
    for path in absent {
        assert!(!tree.has(path), "{path} is there");
    }
}

#[test]
fn rules_at_every_level_apply() {
    let lab = Lab::new();
    lab.share.file(".syncignore", "# comment\n*.log\n!keep.log\nbuild/\n/only-at-the-root\n临时*\n");
    lab.share.file("a/.syncignore", "*.tmp\n!b.log\n");
    for path in [
        "x.log",
        "keep.log",
        "build/output",
        "only-at-the-root",
        "临时文件",
        "a/x.log",
        "a/b.log",
        "a/x.tmp",
        "x.tmp",
        "a/only-at-the-root",
        "a/c/x.tmp",
        "a/c/build/deep/output",
        "a/builds",
        "a/c/file",
    ] {
        lab.share.file(path, path);
    }
    let daemon = lab.daemon();
    let outcome = lab.agent(&daemon.url()).pull().expect(0);
    let present = [
        ".syncignore",
        "a/.syncignore",
        "keep.log",
        "a/b.log",
        "x.tmp",
        "a/only-at-the-root",
        "a/builds",
        "a/c/file",
    ];
    let absent =
        ["x.log", "build", "only-at-the-root", "临时文件", "a/x.log", "a/x.tmp", "a/c/x.tmp", "a/c/build"];
    has(&lab.target(), &present, &absent);
    assert_eq!(outcome.count("checked"), present.len() as u64);
}

#[test]
fn configured_rules_apply_to_their_share() {
    let lab = Lab::new();
    for path in ["x.bak", "cache/x", "kept"] {
        lab.share.file(path, path);
    }
    let dir = lab.share.root().display();
    let config = format!(
        "listen = \"127.0.0.1:0\"\n[[share]]\nname = \"{SHARE}\"\npath = \"{dir}\"\nignore = [\"*.bak\", \"cache/\"]\n"
    );
    lab.tree(".").file("syncd.toml", config);
    let daemon =
        DaemonSpec::new(SYNCD).args(["--config".as_ref(), lab.path("syncd.toml").as_os_str()]).start();
    Agent::new(SYNC_AGENT, &daemon.url(), SHARE, lab.path("target")).pull().expect(0);
    has(&lab.target(), &["kept"], &["x.bak", "cache"]);
}

#[test]
fn what_becomes_ignored_is_forgotten_and_what_comes_back_is_put_right() {
    let lab = Lab::new();
    lab.share.file("notes.txt", "kept");
    lab.share.file("draft.tmp", "version 1");
    lab.share.file("drafts/one", "version 1");
    let (_daemon, agent) = lab.pulled();

    lab.share.file(".syncignore", "*.tmp\ndrafts/\n");
    let outcome = agent.pull().expect(0);
    assert_eq!(outcome.count("deleted"), 0);
    has(&lab.target(), &["draft.tmp", "drafts/one", ".syncignore"], &[]);

    // From now on each side may do with it what it likes.
    lab.share.remove("draft.tmp");
    lab.share.file("drafts/one", "version 2");
    lab.target().file("drafts/one", "a version of the target");
    agent.pull().expect(0);
    assert_eq!(lab.target().read("draft.tmp"), b"version 1");
    assert_eq!(lab.target().read("drafts/one"), b"a version of the target");
    assert!(lab.target().trash().is_empty());

    lab.share.remove(".syncignore");
    agent.pull().expect(0);
    lab.assert_same();
    assert_eq!(lab.target().read("drafts/one"), b"version 2");
}

#[test]
fn a_target_keeps_its_own_ignored_files() {
    let lab = Lab::new();
    lab.share.file(".syncignore", "*.local\n");
    lab.share.file("dir/file", "x");
    lab.target().file("settings.local", "mine");
    let daemon = lab.daemon();
    let agent = lab.agent(&daemon.url());
    agent.pull().expect(0);
    lab.target().file("dir/more.local", "mine too");
    agent.pull().expect(0);
    has(&lab.target(), &["settings.local", "dir/more.local"], &[]);
    agent.json(&["verify"]).expect(0);
    assert!(lab.target().trash().is_empty());

    // A removed directory that still holds them stays, with them in it, and is told about.
    lab.share.remove("dir");
    let outcome = agent.pull();
    assert!(matches!(outcome.code, Some(0 | 3)), "{:?}\n{}", outcome.code, outcome.stderr);
    assert!(outcome.stderr.contains("dir"), "nothing is said about it: {}", outcome.stderr);
    has(&lab.target(), &["dir/more.local"], &["dir/file"]);
}

#[test]
fn what_a_removed_directory_ignored_by_its_own_rules_stays() {
    let lab = Lab::new();
    lab.share.file("d/.syncignore", "*.log\n");
    lab.share.file("d/inner/file", "x");
    lab.share.file("rules only/.syncignore", "*.log\n");
    lab.share.file("rules only/file", "x");
    let (_daemon, agent) = lab.pulled();
    let mine = ["d/inner/x.log", "d/y.log", "rules only/z.log"];
    mine.iter().for_each(|path| drop(lab.target().file(path, "mine")));
    lab.share.remove("d");
    lab.share.remove("rules only/.syncignore");
    for _ in 0..2 {
        let outcome = agent.pull().expect(3);
        assert!(outcome.problems().iter().all(|(path, _)| path.starts_with('d')), "{}", outcome.stdout);
        has(
            &lab.target(),
            &["d/inner/x.log", "d/y.log"],
            &["d/.syncignore", "d/inner/file", "rules only/z.log"],
        );
        let trash = lab.target().trash();
        assert_eq!(trash.len(), 1, "what nothing ignores any more is put aside: {trash:?}");
    }
    lab.target().remove("d");
    agent.pull().expect(0);
    lab.assert_same();
}

#[test]
fn ignored_files_are_never_read() {
    let lab = Lab::new();
    let Some(prefix) = sync_testkit::host::without_privileges() else {
        return sync_testkit::host::skip("permission bits mean nothing to this user");
    };
    lab.share.file(".syncignore", "secret*\n");
    lab.share.file("secret", "x").mode(0o000);
    lab.share.file("secret dir/x", "x");
    lab.share.placed("secret dir").mode(0o000);
    lab.share.file("open", "x");
    let daemon = lab.spec().through(prefix).start();
    lab.agent(&daemon.url()).pull().expect(0);
    has(&lab.target(), &["open"], &["secret", "secret dir"]);
    lab.share.placed("secret dir").mode(0o700);
}

#[test]
fn the_daemon_warns_once_of_a_pattern_that_it_does_not_understand() {
    let lab = Lab::new();
    lab.share.file(".syncignore", "*.log\n[b-a]\n");
    let mut daemon = lab.daemon();
    let warnings = |daemon: &mut sync_testkit::programs::Daemon, pattern: &str| {
        let lines = daemon.process().stderr();
        lines.iter().filter(|line| line.contains(pattern) && line.contains("is left out")).count()
    };
    let mut comes = |pattern: &str| {
        eventually(SOON, || match warnings(&mut daemon, pattern) {
            1 => Ok(()),
            count => Err(format!("{pattern} was told {count} times")),
        });
    };
    comes("[b-a]");
    lab.share.file("dir/.syncignore", "[d-c]\n");
    comes("dir/.syncignore");
    // Each is told once, whatever changes beside it.
    lab.share.file("dir/.syncignore", "[d-c]\n[f-e]\n");
    comes("[f-e]");
    comes("[d-c]");
    comes("[b-a]");
}

#[test]
fn rules_that_change_while_following_apply_at_once() {
    let lab = Lab::new();
    lab.share.file("one.tmp", "x");
    lab.share.file("file", "x");
    let (_daemon, _follower) = lab.followed();
    lab.share.file(".syncignore", "*.tmp\n");
    eventually(SOON, || if lab.target().has(".syncignore") { Ok(()) } else { Err("no rules yet".into()) });
    lab.share.file("two.tmp", "x");
    lab.share.remove("one.tmp");
    lab.share.file("after", "x");
    eventually(SOON, || if lab.target().has("after") { Ok(()) } else { Err("not followed".into()) });
    has(&lab.target(), &["one.tmp"], &["two.tmp"]);

    lab.share.file(".syncignore", "# nothing\n");
    lab.wait_same(SOON);
    has(&lab.target(), &["two.tmp"], &["one.tmp"]);
}

#[test]
fn files_moved_across_the_border_of_the_rules_come_and_stay() {
    let lab = Lab::new();
    lab.share.file(".syncignore", "private/\n");
    lab.share.file("private/becomes public", "1");
    lab.share.file("becomes private", "2");
    let daemon = lab.daemon();
    let agent = lab.agent(&daemon.url());
    agent.pull().expect(0);
    lab.share.rename("private/becomes public", "public");
    lab.share.rename("becomes private", "private/file");
    agent.pull().expect(0);
    has(&lab.target(), &["public"], &["private/file", "becomes private"]);
}

#[test]
fn more_rules_than_a_message_holds_are_a_problem_and_stop_nothing() {
    let lab = Lab::new();
    let rules = format!("*.log\n{}", "# a comment that makes it long\n".repeat(20_000));
    for number in 0..8 {
        lab.share.file(format!("d{number}/.syncignore"), &rules);
        lab.share.file(format!("d{number}/x.log"), "ignored");
        lab.share.file(format!("d{number}/file"), "x");
    }
    let daemon = lab.daemon();
    let outcome = lab.agent(&daemon.url()).pull().expect(3);
    let paths: Vec<_> = outcome.problems().into_iter().map(|(path, _)| path).collect();
    assert!(paths.contains(&"d7/.syncignore".to_owned()), "{paths:?}");
    has(&lab.target(), &["d0/file", "d7/file", "d7/.syncignore"], &["d0/x.log", "d7/x.log"]);
}
