//! Bad lines between the real programs: what comes over them may be late or missing, but nothing that is wrong reaches the
//! target, no change is lost, and everybody is back within half a minute.
//!
//! Where a line fails is a function of a seed and of the bytes that pass. `SYNCD_SEED=N` runs one seed, `SYNCD_SEEDS=N` the
//! first N.

mod common;

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use common::{LATER, Lab, SOON, assert_clear};
use sync_testkit::{
    eventually, moment,
    programs::{Agent, Daemon, Outcome, PATIENCE, open_files},
    proxy::{Disturbance, Fault, Proxy},
    rng::Rng,
    seeds::seeds,
    tree::{Kind, Tree, look},
    versions::{self, Shape},
};

/// A share whose files say what they are, a daemon, and a line to it.
struct Line {
    lab: Lab,
    daemon: Daemon,
    proxy: Proxy,
}

const FILES: [(&str, Shape); 8] = [
    ("small 1", Shape::Bytes(700)),
    ("dir/small 2", Shape::Bytes(9_000)),
    ("dir/small 3", Shape::Bytes(60_000)),
    ("dir/deep/empty", Shape::Bytes(0)),
    ("dir/deep/medium", Shape::Bytes(400_000)),
    ("streamed", Shape::Bytes(900_000)),
    // Their versions differ in some places only.
    ("dir/delta 1", Shape::Mostly(1_500_000)),
    ("delta 2", Shape::Mostly(2_500_000)),
];

impl Line {
    fn new() -> Self {
        let lab = Lab::new();
        let daemon = lab.daemon();
        let proxy = Proxy::to(daemon.address());
        Self { lab, daemon, proxy }
    }

    /// An agent that notices silence sooner than people's agents do.
    fn agent(&self) -> Agent {
        self.lab.agent(&self.proxy.url()).args(["--allow-mass-delete"]).env("SYNC_AGENT_IDLE_TIMEOUT", "3s")
    }

    fn write(&self, version: u64) {
        for (path, shape) in FILES {
            self.lab.share.file(path, versions::contents(path, version, shape));
        }
        for number in 0..60 {
            let path = format!("many/{}/file {number}", number % 5);
            self.lab.share.file(&path, versions::contents(&path, version, Shape::Bytes(100 + number * 130)));
        }
        if version > 0 {
            self.lab.share.remove("dir/link");
        }
        self.lab.share.link("dir/link", format!("version {version}"));
        let _only = self.lab.share.dir(format!("only in {version}"));
        if version > 0 {
            self.lab.share.remove(format!("only in {}", version - 1));
        }
    }

    fn disturb(&self, fault: Fault, mean_bytes: usize, seed: u64) {
        self.proxy.disturb(Disturbance { fault, mean_bytes, seed });
    }
}

/// Panics unless every file is a complete version of the share's file at that path, and every name is one of the share's.
#[track_caller]
fn check(target: &Tree, newest: u64, when: &str) {
    let known: BTreeSet<String> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
    for (path, seen) in target.snapshot() {
        let path = path.as_path().to_str().expect("no name of the share is another").to_owned();
        match seen.kind {
            Kind::File => {
                assert!(known.contains(&path) || path.starts_with("many/"), "{when}: nobody wrote {path}");
                let bytes = target.read(&path);
                let version = versions::version_of(&path, &bytes);
                assert!(version.as_ref().is_ok_and(|version| *version <= newest), "{when}: {version:?}");
            }
            Kind::Link => {
                let to = String::from_utf8(seen.link.unwrap_or_default()).expect("it is text");
                let version = to.strip_prefix("version ").and_then(|text| text.parse::<u64>().ok());
                assert!(version.is_some_and(|version| version <= newest), "{when}: {path} -> {to}");
            }
            Kind::Dir => {
                let is_known = |dir: &str| {
                    Path::new(&path).ancestors().count() <= 4 && (dir == path || path.starts_with("only in "))
                };
                let dirs = ["dir", "dir/deep", "many"];
                assert!(dirs.into_iter().any(is_known) || path.starts_with("many/"), "{when}: {path}");
            }
            Kind::Other => panic!("{when}: {path} is of no kind that the share has"),
        }
    }
}

/// What a pull may end with whose line spoiled what it got: it was done, it says which paths failed, or that it could not.
#[track_caller]
fn expect_honest(outcome: &Outcome, when: &str) {
    let code = outcome.code.unwrap_or(-1);
    assert!([0, 1, 2, 3].contains(&code), "{when}: it ended with {code}\n{}", outcome.stderr);
    if code != 0 {
        assert_clear(&outcome.stderr, &[]);
    }
    match code {
        0 => {}
        3 => {
            let problems = outcome.problems();
            assert!(!problems.is_empty(), "{when}: {}", outcome.stdout);
            // Nobody changed anything, so nobody is told that something changed.
            let wrong = problems.iter().find(|(_, error)| error.contains("changed again"));
            assert_eq!(wrong, None, "{when}");
        }
        _ => assert!(outcome.stderr.contains("error: "), "{when}: {}", outcome.stderr),
    }
}

#[test]
fn a_line_that_corrupts_brings_no_wrong_byte() {
    let mut ends = Vec::new();
    let mut faults = 0;
    for seed in seeds(1..=2) {
        let line = Line::new();
        let agent = line.agent();
        for (version, mean_bytes) in [(0, 5_000_000), (1, 1_500_000), (2, 50_000)] {
            line.write(version);
            // It is about seven megabytes: of the last version hardly a large file can come.
            line.disturb(Fault::Corrupt, mean_bytes, seed * 10 + version);
            let outcome = agent.pull();
            let when = format!("SYNCD_SEED={seed}, version {version}");
            expect_honest(&outcome, &when);
            check(&line.lab.target(), version, &when);
            line.proxy.calm();
            if outcome.code == Some(0) {
                line.lab.assert_same();
            }
            ends.push(outcome.code.unwrap_or(-1));
        }
        faults += line.proxy.faults();
        agent.pull().expect(0);
        line.lab.assert_same();
        assert!(line.lab.target().trash().is_empty(), "nobody edited: {:?}", line.lab.target().trash());
        agent.json(&["verify"]).expect(0);
    }
    eprintln!("{faults} bits were turned over; the pulls ended with {ends:?}");
    assert!(faults > 20 && ends.iter().any(|code| *code != 0), "{faults} faults, {ends:?}: it was no test");
}

#[test]
fn a_pull_over_a_line_that_is_cut_again_and_again_ends_equal() {
    for seed in seeds(1..=2) {
        let line = Line::new();
        for version in 0..3 {
            line.write(version);
            // Of a large file a megabyte must come at a time, or it is begun again.
            line.disturb(Fault::Cut, 2_500_000, seed * 10 + version);
            let outcome = line.agent().pull().expect(0);
            line.lab.assert_same();
            assert!(outcome.count("synced") > 60, "{}", outcome.stdout);
            assert_eq!(outcome.count("failed"), 0);
        }
        assert!(line.proxy.faults() >= 3, "{} cuts", line.proxy.faults());
    }
}

#[test]
fn following_survives_whatever_the_line_does_without_a_restart() {
    for seed in seeds(1..=2) {
        let line = Line::new();
        line.write(0);
        let mut follower = line.agent().follow();
        follower.caught_up();
        let mut rng = Rng::new(seed);
        for version in 1..=8 {
            match rng.below(5) {
                0 | 1 => line.disturb(Fault::Corrupt, 20_000 + rng.below(400_000), rng.next_u64()),
                2 => line.disturb(Fault::Cut, 50_000 + rng.below(1_000_000), rng.next_u64()),
                3 => line.disturb(Fault::Pause(Duration::from_millis(15)), 100_000, rng.next_u64()),
                _ => line.proxy.stall_once(),
            }
            line.write(version);
            moment(Duration::from_millis(rng.below(500) as u64));
            if rng.chance(30) {
                line.proxy.cut_once();
            }
            line.proxy.calm();
        }
        line.lab.wait_same(LATER);
        check(&line.lab.target(), 8, &format!("SYNCD_SEED={seed}"));
        assert!(follower.process().is_running(), "it gave up: {}", follower.process().all());
        assert!(line.lab.target().trash().is_empty(), "nobody edited: {:?}", line.lab.target().trash());
        common::expect_code(&follower.stop(), 0);
        line.lab.agent(&line.daemon.url()).json(&["verify"]).expect(0);
    }
}

#[test]
fn a_pull_whose_connections_were_forgotten_goes_on() {
    let line = Line::new();
    line.write(0);
    line.lab.share.bytes("large", 40_000_000, 1);
    line.proxy.delay(Duration::from_millis(2));
    let pull = line.agent().start(&["pull"]);
    eventually(LATER, || match line.proxy.to_client_bytes() {
        came @ 8_000_000.. => Ok(came),
        came => Err(format!("{came} bytes came")),
    });
    line.proxy.stall_once();
    let stalled = Instant::now();
    let outcome = Outcome::read(pull.finish(PATIENCE)).expect(0);
    assert!(outcome.stderr.contains("silent for 3.0 s"), "{}", outcome.stderr);
    assert!(stalled.elapsed() < SOON, "{:?}", stalled.elapsed());
    line.lab.assert_same();
    let sent = line.proxy.to_client_bytes();
    assert!(sent < 40_000_000 + 12_000_000, "{sent} bytes were sent: it did not go on where it was");
}

#[test]
fn a_first_connection_into_a_dead_line_says_so() {
    let line = Line::new();
    line.write(0);
    line.proxy.stall();
    let agent = line.agent().env("SYNC_AGENT_CONNECT_TIMEOUT", "1s");
    let began = Instant::now();
    let outcome = agent.pull().expect(1);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_clear(&outcome.stderr, &["Cannot reach syncd", "did not answer", "hint: "]);
    assert_eq!(outcome.count("synced"), 0);
}

/// In real time, with the settings that people have: the only test here that takes long.
#[test]
fn a_half_open_connection_is_replaced_within_thirty_seconds_and_leaves_nothing() {
    let line = Line::new();
    line.write(0);
    let mut follower = line.lab.agent(&line.proxy.url()).follow();
    follower.caught_up();
    let before = open_files(line.daemon.pid());
    line.proxy.stall_once();
    let stalled = Instant::now();
    line.lab.share.file("file", "changed while nothing came through");
    follower.wait_for_event("connected", Duration::from_secs(30));
    eprintln!("connected again {:.1} s after the line had died", stalled.elapsed().as_secs_f64());
    eventually(Duration::from_secs(30).saturating_sub(stalled.elapsed()), || {
        match look(&line.lab.target().path("file")) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    });
    line.lab.wait_same(SOON);
    // The daemon notices as well, and keeps nothing for an agent that is not there any more.
    eventually(SOON, || match open_files(line.daemon.pid()) {
        now if now <= before => Ok(()),
        now => Err(format!("{now} descriptors are open; there were {before}")),
    });
    eprintln!("the daemon closed it after {:.1} s", stalled.elapsed().as_secs_f64());
}
