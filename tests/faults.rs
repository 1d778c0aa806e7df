//! The disk and the system fail: every call of a pull is refused with every error that can really come there, and random ones
//! in a row. The exit code is right, the message says what is wrong, where and what to do, no path is half-written, nothing is
//! lost, and when the fault is gone the next pull ends equal.
//!
//! The calls are those that a traced run makes, so a new one is tested as soon as it is there.
#![cfg(feature = "failpoints")]
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "the trees are the test's own")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::Duration,
};

use common::{
    LATER, Lab, SHARE, SOON, SYNC_AGENT, assert_clear, fill,
    scene::{self, Scene},
};
use sync_testkit::{
    eventually, moment,
    programs::{Agent, Outcome, PATIENCE, Value, open_files, peak_rss_bytes},
    rng::Rng,
    tree::Tree,
};
use sync_tree::probe::{ALL_TRACE, FAULT, Op, OpKind, SWITCH};

/// What a call of this kind can really fail with, other than for somebody else's work.
fn errors_of(op: Op) -> &'static [&'static str] {
    match op {
        Op::Create | Op::CreateUnnamed => &["ENOSPC", "EIO", "EROFS", "EACCES", "EMFILE"],
        Op::Link | Op::MakeDir | Op::Symlink | Op::Rename | Op::RenameNew | Op::Exchange => {
            &["ENOSPC", "EIO", "EROFS", "EACCES"]
        }
        Op::RemoveFile | Op::RemoveDir => &["EIO", "EROFS", "EACCES"],
        Op::Write | Op::SetLen | Op::Copy => &["ENOSPC", "EIO", "EROFS"],
        Op::SetMode | Op::SetTimes => &["EIO", "EROFS", "EPERM"],
        Op::Commit => &["ENOSPC", "EIO", "EROFS"],
        Op::SyncFile | Op::SyncDir | Op::SyncFs | Op::SyncIndex => &["ENOSPC", "EIO"],
        Op::OpenFile | Op::OpenDir => &["EIO", "EACCES", "EMFILE", "ESTALE"],
        Op::List | Op::Stat | Op::ReadLink => &["EIO", "EACCES", "ESTALE"],
        Op::Read => &["EIO"],
        Op::Query => &["EIO", "EMFILE"],
        Op::Checked | Op::Taken => &[],
    }
}

/// What a message says of an error; of one that SQLite met, that passes its own words on.
fn words_of(errno: &str) -> &'static [&'static str] {
    match errno {
        "ENOSPC" => &["disk is full", "No space left", "database or disk is full"],
        "EROFS" => &["is read-only", "Read-only file system", "disk I/O error"],
        "EACCES" | "EPERM" => &["Permission denied", "not permitted"],
        "EMFILE" => &["Too many open files", "unable to open database"],
        "ESTALE" => &["Stale file handle", "is gone"],
        _ => &["Input/output error", "disk I/O error"],
    }
}

fn says_one_of(text: &str, words: &[&str]) -> Result<(), String> {
    match words.iter().any(|word| text.contains(word)) {
        true => Ok(()),
        false => Err(format!("none of {words:?} in {text:?}")),
    }
}

/// One call that fails, or all from one on.
struct Case {
    errno: &'static str,
    site: String,
    which: String,
}

impl Case {
    fn rule(&self) -> String {
        format!("{} {} {}", self.errno, self.site, self.which)
    }
}

/// The calls of a pull, with how often each came.
fn trace(scene: &Scene, durability: &str) -> BTreeMap<String, usize> {
    let target = scene.target();
    let file = target.root().with_extension("trace");
    scene.agent(&target, durability).env(ALL_TRACE, &file).pull().expect(0);
    let mut calls = BTreeMap::new();
    for line in fs::read_to_string(file).unwrap().lines() {
        if let Some(site) = line.strip_prefix("before ") {
            *calls.entry(site.to_owned()).or_default() += 1;
        }
    }
    calls
}

/// The first time of each call; and from the middle on, with the errors that are not the end of a run (`SYNCD_FAULTS=all`: with
/// every one).
fn cases_of(calls: &BTreeMap<String, usize>) -> Vec<Case> {
    let all = std::env::var("SYNCD_FAULTS").is_ok_and(|value| value == "all");
    let mut cases = Vec::new();
    for (site, count) in calls {
        let op = Op::ALL.iter().find(|op| site.split(' ').next() == Some(op.name())).unwrap();
        for errno in errors_of(*op) {
            let lasts = all || matches!(*errno, "EIO" | "EMFILE");
            let middle = lasts.then(|| format!("from {}", count.div_ceil(2)));
            let which = std::iter::once("1".to_owned()).chain(middle);
            cases.extend(which.map(|which| Case { errno, site: site.clone(), which }));
        }
    }
    cases
}

/// A run that met a fault ended as documented and said what was wrong.
fn check_said(scene: &Scene, errno: &str, target: &Tree, outcome: &Outcome) -> Result<(), String> {
    let Outcome { code, stdout, stderr, .. } = outcome;
    if outcome.json["exit_code"].as_i64().map(|code| code as i32) != *code {
        return Err(format!("exit code {code:?}, and the report says another: {stdout}"));
    }
    match code {
        Some(0) if outcome.problems().is_empty() => scene.check_end(target),
        Some(1) => {
            let said: Vec<_> = stderr.lines().filter(|line| !line.contains(" WARN ")).collect();
            if !matches!(said[..], [error, hint] if error.starts_with("error: ") && hint.starts_with("hint: "))
                || stderr.contains("panicked")
            {
                return Err(format!("no error with a hint: {stderr}"));
            }
            let places = [&*target.root().to_string_lossy(), "cannot write ", " change ", ".syncd"];
            says_one_of(stderr, &places).and_then(|()| says_one_of(stderr, words_of(errno)))
        }
        Some(3) if !outcome.problems().is_empty() => {
            outcome.problems().iter().try_for_each(|(path, error)| {
                if !scene.versions.knows(path) {
                    return Err(format!("a problem with {path:?}, which is nowhere: {error}"));
                }
                if error.contains("could not be moved away") {
                    return Ok(());
                }
                says_one_of(error, words_of(errno)).and_then(|()| match error.ends_with(')') {
                    true => Ok(()),
                    false => Err(format!("no advice: {error}")),
                })
            })
        }
        _ => Err(format!("exit code {code:?}: {stdout}\n{stderr}")),
    }
}

/// Pulls while calls fail, and once more when they do not.
fn judge(scene: &Scene, case: &Case) -> Result<(), String> {
    let target = scene.target();
    let agent = scene.agent(&target, "batch").env(FAULT, case.rule());
    let outcome = Outcome::read(agent.start(&["pull"]).finish(PATIENCE));
    check_said(scene, case.errno, &target, &outcome)?;
    scene.check_between(&target)?;
    scene.go_on(&target, "batch").map_err(|error| format!("the next pull: {error}"))?;
    scene::discard(&target)
}

#[test]
fn refused_at_every_call() {
    let scene = Scene::new();
    let mut calls = BTreeMap::<String, usize>::new();
    let missed = |calls: &BTreeMap<String, usize>| {
        let reached: BTreeSet<_> = calls.keys().filter_map(|site| site.split(' ').next()).collect();
        let is_missed = |op: &&Op| op.kind() != OpKind::Moment && !reached.contains(op.name());
        Op::ALL.iter().filter(is_missed).collect::<Vec<_>>()
    };
    // How a batch is flushed depends on how many files have come together, so one pull may not do all; of `set-len` and `copy` there
    // is one each.
    for _ in 0..20 {
        for (site, count) in trace(&scene, "batch") {
            let most = calls.entry(site).or_default();
            *most = count.max(*most);
        }
        if missed(&calls).is_empty() {
            break;
        }
    }
    let missed = missed(&calls);
    assert!(
        missed.is_empty(),
        "no run makes these calls, so nobody knows what their failure does: {missed:?}"
    );
    scene::judge_all(cases_of(&calls), Case::rule, |case| judge(&scene, case));
}

/// How many names there are in a target's own directory.
fn own_names(target: &Tree) -> usize {
    sync_testkit::tree::try_snapshot(&target.path(".syncd")).unwrap().len()
}

#[test]
fn trouble_that_lasts_leaves_nothing_that_grows() {
    const RUNS: usize = 30;
    let scene = Scene::new();
    let rules = [
        "ENOSPC write lane from 5",
        "EIO link tree from 1",
        "EIO exchange swap>tree from 1",
        "EIO remove-file swap from 1",
        "EACCES rename-new swap>trash from 1",
        "EIO rename-new moves>tree from 1",
        "EROFS commit index from 11",
        "EIO sync-dir tree from 1",
        "EMFILE open-file * random 1 3",
    ];
    let judge = |rule: &&str| {
        let target = scene.target();
        let mut names = Vec::new();
        // Many: where one call in three fails it may be the eighth run that is the first to get anywhere.
        for _ in 0..RUNS {
            let outcome = scene.agent(&target, "batch").env(FAULT, rule).pull();
            check_said(&scene, rule.split(' ').next().unwrap(), &target, &outcome)?;
            names.push(own_names(&target));
        }
        // What one run leaves the next sorts out, and a database may have its log beside it or not.
        if names[RUNS - 1] > names[..RUNS / 2].iter().max().unwrap() + 2 {
            return Err(format!("more names in .syncd after each run: {names:?}"));
        }
        scene.go_on(&target, "batch")?;
        scene::discard(&target)
    };
    scene::judge_all(rules, |rule| (*rule).to_owned(), judge);
}

/// A file that turns faults on and off.
struct Switch(PathBuf);

impl Switch {
    fn new(lab: &Lab) -> Self {
        Self(lab.path("faults are on"))
    }

    fn on(&self) {
        fs::write(&self.0, "").unwrap();
    }

    fn off(&self) {
        fs::remove_file(&self.0).unwrap();
    }
}

/// Changes of every sort, in a share that [`fill`] made.
fn disturb(share: &Tree, rng: &mut Rng, round: u64) {
    for number in 0..6 {
        let path = format!("dir {}/sub/file {}", rng.below(7), rng.below(20));
        match rng.below(6) {
            0 => share.save(&path, rng.bytes(3000)),
            1 => drop(share.bytes(format!("large {}", rng.below(3)), 1_300_000, round)),
            2 if share.has(&path) => share.remove(&path),
            3 if share.has(&path) => share.rename(&path, format!("moved {round} {number}")),
            4 => drop(share.file(format!("new {round}/a/b {number}"), "x")),
            _ => drop(share.file(&path, format!("round {round}"))),
        }
    }
}

#[test]
fn following_outlives_trouble_of_every_sort() {
    for seed in sync_testkit::seeds::seeds(1..=1) {
        let lab = Lab::new();
        fill(&lab.share, 40);
        let daemon = lab.daemon();
        let switch = Switch::new(&lab);
        let rules = format!(
            "EIO reads * random {seed} 60; EMFILE open-file * random {seed} 40; ENOSPC changes * random {seed} 50; \
             EIO changes * random {} 50; EROFS commit * random {seed} 9; EIO flushes * random {seed} 5",
            seed + 1000
        );
        let agent = Agent::new(SYNC_AGENT, &daemon.url(), SHARE, lab.path("target"));
        let mut follower = agent.env(FAULT, &rules).env(SWITCH, &switch.0).follow();
        follower.caught_up();
        let (pid, mut rng) = (follower.process().pid(), Rng::new(seed));
        let before = open_files(pid);
        switch.on();
        for round in 0..12 {
            disturb(&lab.share, &mut rng, round);
            moment(Duration::from_millis(rng.below(200) as u64));
        }
        let said = |event: &Value| event["event"] == "problem";
        assert!(follower.wait_for(SOON, said)["error"].as_str().unwrap().ends_with(')'), "without advice");
        switch.off();
        lab.wait_same(LATER);
        let problems = follower.events().iter().filter(|event| said(event)).count();
        assert!(problems < 1000, "{problems} problems were told: a storm");
        eventually(SOON, || match open_files(pid) {
            now if now <= before + 12 => Ok(()),
            now => Err(format!("{now} descriptors are open; there were {before}")),
        });
        assert!(peak_rss_bytes(pid) < 150 << 20, "{} MiB", peak_rss_bytes(pid) >> 20);
        let finished = follower.stop();
        common::expect_code(&finished, 0);
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        lab.agent(&daemon.url()).json(&["verify"]).expect(0);
    }
}

#[test]
fn what_the_daemon_cannot_read_for_a_while_is_told_and_comes_by_itself() {
    let lab = Lab::new();
    fill(&lab.share, 30);
    let odd = ["dir 1/bad", "dir 2/busy", "dir 4/lost", "shut/file"];
    for path in odd {
        lab.share.file(path, format!("what {path} holds"));
    }
    let switch = Switch::new(&lab);
    switch.on();
    let rules = "EIO read tree from 1 of bad; EMFILE open-file tree from 1 of busy; EIO stat tree from 1 of lost; \
                 EIO list tree from 1 of shut";
    let daemon = lab.spec().env(FAULT, rules).env(SWITCH, &switch.0).start();
    let told = |outcome: &Outcome, paths: &[&str]| {
        let mut problems = outcome.problems();
        problems.sort();
        let found: Vec<_> = problems.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(found, paths, "{}", outcome.stdout);
        for (_, error) in problems {
            says_one_of(&error, &["Input/output error", "Too many open files"]).unwrap();
            says_one_of(&error, &["the disk may be failing", "ulimit -n"]).unwrap();
        }
    };
    // They are not known to the daemon: it could not read them when it looked.
    let agent = lab.agent(&daemon.url());
    told(&agent.pull().expect(3), &["dir 1/bad", "dir 2/busy", "dir 4/lost", "shut"]);
    assert_eq!(lab.target().read("dir 3/sub/file 3"), lab.share.read("dir 3/sub/file 3"));
    switch.off();
    eventually(SOON, || {
        let outcome = agent.pull();
        if outcome.code == Some(0) { Ok(()) } else { Err(outcome.stdout) }
    });
    lab.assert_same();
    // Now it knows them, and cannot read them when they are asked for.
    switch.on();
    let other = lab.agent_into(&daemon.url(), "other");
    told(&other.pull().expect(3), &["dir 1/bad", "dir 2/busy", "dir 4/lost"]);
    let mut follower = other.follow();
    follower.caught_up();
    lab.share.file("one more", "x");
    eventually(SOON, || if lab.tree("other").has("one more") { Ok(()) } else { Err("nothing came".into()) });
    switch.off();
    sync_testkit::tree::wait_same(lab.share.root(), lab.tree("other").root(), SOON);
}

#[test]
fn a_large_file_that_the_daemon_cannot_read_to_describe_it_keeps_its_old_version_here() {
    let lab = Lab::new();
    lab.share.bytes("big", 3 << 20, 1);
    let switch = Switch::new(&lab);
    let daemon = lab.spec().env(FAULT, "EIO read tree from 1 of big").env(SWITCH, &switch.0).start();
    let agent = lab.agent(&daemon.url());
    agent.pull().expect(0);
    let old = lab.target().read("big");
    let mut new = lab.share.read("big");
    new.splice(0..0, *b"at the front");
    lab.share.save("big", &new);
    // By then the daemon has read it; nothing is left to be read but for this agent.
    lab.agent_into(&daemon.url(), "other").pull().expect(0);
    switch.on();
    let outcome = agent.pull().expect(3);
    let [(path, error)] = &outcome.problems()[..] else { panic!("{}", outcome.stdout) };
    assert_eq!(path, "big");
    assert_clear(error, &["Input/output error", "the disk may be failing"]);
    assert!(lab.target().read("big") == old, "the old version was touched");
    switch.off();
    let outcome = eventually(SOON, || {
        let outcome = agent.pull();
        if outcome.code == Some(0) { Ok(outcome) } else { Err(outcome.stdout) }
    });
    lab.assert_same();
    assert!(outcome.count("bytes_received") < 1 << 20, "{}", outcome.stdout);
}

#[test]
fn a_rule_file_that_cannot_be_read_lets_nothing_through() {
    let lab = Lab::new();
    fill(&lab.share, 10);
    lab.share.file("private/.syncignore", "secret\n");
    lab.share.file("private/secret", "nobody's business");
    lab.share.file("private/open", "for all");
    let switch = Switch::new(&lab);
    switch.on();
    let rules = "EIO read tree from 1 of .syncignore";
    let daemon = lab.spec().env(FAULT, rules).env(SWITCH, &switch.0).start();
    let agent = lab.agent(&daemon.url());
    let outcome = agent.pull().expect(3);
    assert_eq!(outcome.problems()[0].0, "private/.syncignore", "{}", outcome.stdout);
    assert!(lab.target().has("dir 3/sub/file 3"));
    lab.share.file("private/new", "told by an event");
    agent.pull().expect(3);
    assert!(!lab.target().has("private/secret") && !lab.target().has("private/new"));
    switch.off();
    eventually(SOON, || match agent.pull().code {
        Some(0) if lab.target().has("private/new") => Ok(()),
        code => Err(format!("{code:?}")),
    });
    assert!(lab.target().has("private/open") && !lab.target().has("private/secret"));
}

/// Many small files in some directories. In `leaves`, they are pulled a directory at a time; else one by one.
fn many_files(lab: &Lab, files: usize, leaves: bool) {
    for number in 0..files {
        lab.share.file(format!("dir {}/a file with some name {number}", number % 40), "x");
    }
    if !leaves {
        (0..40).for_each(|number| drop(lab.share.dir(format!("dir {number}/sub"))));
    }
}

fn ends_soon(leaves: bool, rules: &[&str]) {
    let lab = Lab::new();
    many_files(&lab, 4000, leaves);
    let daemon = lab.daemon();
    for (number, rule) in rules.iter().enumerate() {
        let agent = lab.agent_into(&daemon.url(), &format!("target {number}"));
        let outcome = agent.clone().env(FAULT, rule).pull().expect(1);
        assert_clear(&outcome.stderr, &["\nhint: "]);
        says_one_of(&outcome.stderr, words_of(&rule[..rule.find(' ').unwrap()])).unwrap();
        assert!(outcome.problems().len() <= 200, "{rule}: {} problems", outcome.problems().len());
        assert!(outcome.count("synced") < 1000, "{rule}: {}", outcome.stdout);
        let next = agent.pull().expect(0);
        assert_eq!(next.count("synced") + outcome.count("synced"), 4000, "{rule}: {}", next.stdout);
    }
}

#[test]
fn a_disk_that_is_dying_ends_a_pull_and_not_every_file_is_tried() {
    ends_soon(
        false,
        &["EIO link tree from 300", "EMFILE create-unnamed lane from 300", "EIO write lane from 300"],
    );
}

#[test]
fn a_disk_that_is_dying_ends_a_pull_that_fills_new_directories() {
    ends_soon(true, &["EIO create new from 300", "EMFILE create new from 300", "EIO write new from 300"]);
}

#[test]
fn memory_is_bounded_while_everything_fails_again_and_again() {
    memory_is_bounded(false, "EACCES link tree from 100");
}

#[test]
fn memory_is_bounded_while_new_directories_fail_again_and_again() {
    memory_is_bounded(true, "EACCES create new from 100; EACCES link tree from 1");
}

fn memory_is_bounded(leaves: bool, rules: &str) {
    let lab = Lab::new();
    many_files(&lab, 3000, leaves);
    let daemon = lab.daemon();
    let agent = lab.agent(&daemon.url()).env(FAULT, rules);
    let mut follower = agent.follow();
    let pid = follower.process().pid();
    let mut peaks = Vec::new();
    for round in 0..4 {
        lab.share.file("now", format!("{round}"));
        let told = follower.wait_for_event("caught_up", LATER);
        assert!(told["problems"].as_u64() > Some(1000), "{told}");
        peaks.push(peak_rss_bytes(pid));
    }
    let shown: Vec<_> = peaks.iter().map(|peak| peak >> 20).collect();
    assert!(peaks[3] < 150 << 20 && peaks[3] < peaks[1] + (8 << 20), "{shown:?} MiB");
}
