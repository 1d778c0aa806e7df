//! Real trouble: few open files, a target or its state directory that is removed in the middle of something.

#![expect(clippy::disallowed_methods, reason = "the trees are the test's own")]

mod common;

use std::{fs, io, net::TcpStream, path::Path, time::Duration};

use common::{LATER, Lab, SOON, assert_clear, fill};
use sync_testkit::{
    Link, eventually,
    programs::{PATIENCE, Process},
    proxy::Proxy,
    tree::{Tree, same},
};

/// With so many open files everything works. (What the system's libraries hold themselves is about thirty.)
const ENOUGH: usize = 96;

/// The command prefix of a program that may have so many files open.
fn with_open_files(most: usize) -> [String; 2] {
    ["prlimit".to_owned(), format!("--nofile={most}:{most}")]
}

/// Small files in many directories, and some that come on their own.
fn many(share: &Tree) {
    for number in 0..400 {
        share.bytes(format!("{}/{}/file {number}", number % 20, number % 3), 300, number);
    }
    for number in 0..6 {
        share.bytes(format!("large {number}"), 1_500_000, number);
    }
}

/// The last message of a program that had too few: an error and what to do.
fn assert_says_so(stderr: &str) {
    let error = stderr.lines().position(|line| line.starts_with("error: "));
    let last: Vec<_> = stderr.lines().skip(error.unwrap_or(usize::MAX)).collect();
    assert_eq!(last.len(), 2, "an error and a hint: {stderr}");
    let words = ["Too many open files", "unable to open database file"];
    assert!(words.iter().any(|word| last[0].contains(word)), "{stderr}");
    assert!(last[1].starts_with("hint: ") && last[1].contains("ulimit -n"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// The table of open files that a process has, and how large it may become.
#[cfg(target_os = "linux")]
fn room_for_files(pid: u32) -> (usize, usize) {
    let number = |file: &str, key: &str| -> usize {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the process runs");
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let word = line.and_then(|rest| rest.split_whitespace().next()).expect("the kernel tells");
        word.parse().unwrap_or(usize::MAX)
    };
    (number("status", "FDSize:"), number("limits", "Max open files"))
}

/// Where that grows with the files that are opened, everybody waits for it each time.
#[cfg(target_os = "linux")]
#[test]
fn programs_that_have_few_open_files_have_room_for_many() {
    let lab = Lab::new();
    fill(&lab.share, 3);
    let (daemon, mut follower) = lab.followed();
    for pid in [daemon.pid(), follower.process().pid()] {
        let (room, most) = room_for_files(pid);
        assert!(room >= most.min(16_384), "room for {room} of {most}");
    }
    follower.stop();
}

#[test]
fn an_agent_with_few_open_files_works_or_says_so() {
    let lab = Lab::new();
    many(&lab.share);
    let daemon = lab.daemon();
    for most in [8, 16, 24, 32, 48, 64, ENOUGH] {
        let target = format!("target {most}");
        let agent = lab.agent_into(&daemon.url(), &target).args(["--concurrency", "4"]);
        let outcome = agent.clone().through(with_open_files(most)).start(&["pull"]).finish(PATIENCE);
        match outcome.code {
            Some(0) => same(lab.share.root(), lab.tree(&target).root(), Default::default()).unwrap(),
            Some(1) => assert_says_so(&outcome.stderr),
            Some(3) => assert!(outcome.stdout.contains("Too many open files"), "{}", outcome.stdout),
            code => panic!("{most}: exit code {code:?}\n{}", outcome.stderr),
        }
        assert!(most < ENOUGH || outcome.code == Some(0), "{most}: {}", outcome.stderr);
        agent.pull().expect(0);
    }
}

/// The address of a daemon, or nothing if it ends instead.
fn address_of(process: &mut Process) -> Option<String> {
    eventually(SOON, || {
        let ready = process.stdout().iter().find_map(|line| line.strip_prefix("ready ").map(str::to_owned));
        if ready.is_some() || !process.is_running() { Ok(ready) } else { Err("neither".into()) }
    })
}

#[test]
fn a_daemon_with_few_open_files_serves_what_it_can_or_says_so() {
    let lab = Lab::new();
    many(&lab.share);
    for most in [8, 16, 24, 32, 48, 64, ENOUGH] {
        let mut process = lab.spec().through(with_open_files(most)).launch_only();
        let Some(url) = address_of(&mut process) else {
            let finished = process.finish(PATIENCE);
            common::expect_code(&finished, 1);
            assert_says_so(&finished.stderr);
            assert!(most < ENOUGH, "{}", finished.stderr);
            continue;
        };
        let target = format!("target {most}");
        let outcome = lab.agent_into(&url, &target).pull();
        assert!(matches!(outcome.code, Some(0 | 1 | 3 | 4)), "{most}: {}", outcome.stderr);
        assert!(most < ENOUGH || outcome.code == Some(0), "{most}: {}", outcome.stdout);
        assert!(!process.stderr().iter().any(|line| line.contains("panicked")), "{}", process.all());
        process.terminate();
        process.wait(PATIENCE);
    }
}

#[test]
fn a_daemon_whose_open_files_are_all_connections_serves_again_when_they_are_gone() {
    let lab = Lab::new();
    many(&lab.share);
    let mut daemon = lab.spec().through(with_open_files(ENOUGH)).start();
    let held: Vec<_> = (0..200).map_while(|_| TcpStream::connect(daemon.address()).ok()).collect();
    // It cannot even read files now, and says so; what it knows stays known.
    lab.share.file("new", "x");
    eventually(SOON, || {
        match daemon.process().stderr().iter().any(|line| line.contains("Too many open files")) {
            true => Ok(()),
            false => Err(daemon.process().all()),
        }
    });
    drop(held);
    eventually(LATER, || {
        let outcome = lab.agent(&daemon.url()).pull();
        if outcome.code == Some(0) { Ok(()) } else { Err(outcome.stdout + &outcome.stderr) }
    });
    lab.assert_same();
    let lines = daemon.process().stderr().len();
    assert!(lines < 500, "{lines} lines of talk");
}

/// Removes a directory although somebody works in it.
fn remove_all(dir: &Path) {
    eventually(SOON, || match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(()),
    });
}

#[test]
fn a_target_that_is_removed_in_the_middle_of_a_pull_is_told_and_not_made_again() {
    let lab = Lab::new();
    many(&lab.share);
    let daemon = lab.daemon();
    let proxy = Proxy::over(Link::new(Duration::ZERO, 16_000_000), daemon.address());
    let agent = lab.agent(&proxy.url());
    for gone in ["target", "target/.syncd"] {
        let pull = agent.start(&["pull"]);
        let partials = lab.path("target/.syncd/staging/partial");
        eventually(SOON, || match fs::read_dir(&partials).map(Iterator::count) {
            Ok(1..) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        remove_all(&lab.path(gone));
        let finished = pull.finish(PATIENCE);
        // Nothing is removed at once: that `.syncd` is gone may be noticed before the target is.
        let expected: &[i32] = if gone == "target" { &[4, 1] } else { &[1] };
        assert!(finished.code.is_some_and(|code| expected.contains(&code)), "{finished:?}");
        assert_clear(&finished.stderr, &["error: ", "\nhint: ", "mount"]);
        assert!(!lab.path(gone).exists(), "{gone} was made again by a run that had lost it");
        agent.pull().expect(0);
        lab.assert_same();
        remove_all(&lab.path("target"));
    }
}

#[test]
fn following_goes_on_when_its_state_is_removed_and_waits_when_its_target_is() {
    let lab = Lab::new();
    fill(&lab.share, 40);
    let (_daemon, mut follower) = lab.followed();
    remove_all(&lab.path("target/.syncd"));
    lab.share.file("new", "x");
    lab.share.file("dir 0/sub/file 0", "changed");
    let problem = follower.wait_for_event("problem", SOON);
    assert!(problem["error"].as_str().unwrap_or_default().contains("goes on by itself"), "{problem}");
    lab.wait_same(LATER);
    assert!(lab.target().has(".syncd/target.db"));

    remove_all(&lab.path("target"));
    lab.share.file("newer", "x");
    follower.wait_for_event("halt", SOON);
    assert!(follower.process().is_running() && !lab.path("target").exists());
    common::expect_code(&follower.stop(), 0);
}
