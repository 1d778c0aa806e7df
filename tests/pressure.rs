//! Watching where the system allows little of it: few watches, no watcher at all, a queue of events that overflows. Everything still
//! converges, a pull never takes an old index for the truth, `status` says what is degraded and what to do about it, it ends by
//! itself, and the processor rests.
//!
//! The limits are real ones of a user namespace. Where that cannot be had the tests say so; the same with injected limits is in
//! `crates/sync-tree/src/live/tests/polling.rs`.
#![expect(clippy::disallowed_methods, reason = "the trees are the test's own")]

mod common;

use std::{fs, time::Duration};

use common::{LATER, Lab, SOON};
use sync_testkit::{
    eventually,
    host::skip,
    limits::{FewWatches, Watches},
    moment,
    programs::{Agent, Daemon, Follower, Signal, Value, cpu_time},
    tree::assert_same,
};

/// Directories below the root.
const DIRECTORIES: u64 = 300;

/// With this file in each.
fn file(number: u64) -> String {
    format!("d{}/s{number}/file", number % 20)
}

/// 20 directories with 14 in each, and so few files that removing nearly all of them is no disaster.
fn fill(lab: &Lab) {
    for number in 0..DIRECTORIES - 20 {
        lab.share.dir(format!("d{}/s{number}", number % 20));
    }
    for number in (0..DIRECTORIES - 20).step_by(8).chain([1, 2, 4]) {
        lab.share.file(file(number), format!("first {number}"));
    }
}

/// Changes of every kind, everywhere.
fn change(lab: &Lab, round: &str) {
    for number in (0..DIRECTORIES - 20).step_by(14) {
        lab.share.file(file(number), format!("{round} {number}"));
    }
    for number in (0..20).step_by(2) {
        lab.share.file(format!("d{number}/new {round}/deep/file"), round);
    }
    lab.share.rename(file(1), format!("d1/moved {round}"));
    lab.share.rename("d2/s2", format!("d3/moved {round}"));
    lab.share.remove("d4/s4");
    lab.share.file(file(1), round);
    lab.share.file(file(2), round);
    lab.share.file(file(4), round);
}

fn few(watches: u32, instances: u32) -> Option<FewWatches> {
    let few = FewWatches::new(Watches { watches, instances });
    if few.is_none() {
        skip("no user namespaces with limits of their own here: only injected limits are tested");
    }
    few
}

/// A share of many directories that is followed.
struct Scene {
    lab: Lab,
    daemon: Daemon,
    agent: Agent,
    follower: Follower,
}

/// A daemon that is started through another program, and a follower that has caught up.
fn followed(wrapper: Vec<String>) -> Scene {
    let lab = Lab::new();
    fill(&lab);
    let daemon = lab.spec().through(wrapper).start();
    let agent = lab.agent(&daemon.url());
    let mut follower = agent.follow();
    follower.caught_up();
    Scene { lab, daemon, agent, follower }
}

fn watching(agent: &Agent) -> Value {
    agent.json(&["status"]).expect(0).json["watching"].clone()
}

/// Waits until `status` says something about watching.
fn until(agent: &Agent, deadline: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(deadline, || {
        let now = watching(agent);
        if wanted(&now) { Ok(now) } else { Err(now.to_string()) }
    })
}

fn is_degraded(watching: &Value) -> bool {
    watching["degraded"] == true
}

/// What `status` says to people.
fn status_text(agent: &Agent) -> String {
    agent.plain(&["status"]).stdout
}

fn logged(daemon: &mut Daemon, words: &str) -> bool {
    daemon.process().stderr().iter().any(|line| line.contains(words))
}

/// The processor rests between the polls.
fn assert_rests(pid: u32) {
    const TIME: Duration = Duration::from_secs(4);
    let before = cpu_time(pid);
    moment(TIME);
    let used = cpu_time(pid) - before;
    eprintln!("degraded and idle: {used:?} of processor time in {TIME:?}");
    assert!(used < TIME / 5, "{used:?} of processor time in {TIME:?}");
}

#[test]
fn a_share_with_few_watches_converges_says_so_and_recovers() {
    let Some(few) = few(30, 8) else { return };
    let Scene { lab, mut daemon, agent, follower: _follower } = followed(few.inside());

    let said = watching(&agent);
    assert!(is_degraded(&said), "{said}");
    assert_eq!(
        (said["directories"].as_u64(), said["poll_seconds"].as_u64()),
        (Some(DIRECTORIES + 1), Some(2))
    );
    // The rest of the thirty is for the cookies of barriers.
    assert_eq!(said["watched"], 29, "{said}");
    let advice = "raise it with: sysctl -w user.max_inotify_watches=524288";
    assert_eq!(said["advice"], advice);
    assert!(said["as_of"].is_string(), "{said}");
    let text = status_text(&agent);
    let line = "degraded: 29 of 301 directories are watched, the others are looked at every 2 s: the limit of watches is reached";
    assert!(text.contains(line) && text.contains(advice), "{text}");
    assert!(logged(&mut daemon, line) && logged(&mut daemon, advice), "{}", daemon.process().all());

    for round in ["second", "third"] {
        change(&lab, round);
        lab.wait_same(SOON);
    }
    assert_rests(daemon.pid());

    // Fewer directories than watches.
    for number in 1..20 {
        lab.share.remove(format!("d{number}"));
    }
    let well = until(&agent, SOON, |now| !is_degraded(now));
    assert_eq!(
        (&well["watched"], &well["reason"], &well["poll_seconds"]),
        (&well["directories"], &"".into(), &0.into())
    );
    fill(&lab);
    until(&agent, SOON, is_degraded);
    // More watches than directories.
    few.set(Watches { watches: 1000, instances: 8 });
    let well = until(&agent, SOON, |now| !is_degraded(now));
    assert_eq!(well["watched"], well["directories"]);
    assert!(status_text(&agent).contains("watching  all directories are watched ("));
    assert!(logged(&mut daemon, "no longer degraded"), "{}", daemon.process().all());
    change(&lab, "last");
    lab.wait_same(SOON);
}

#[test]
fn a_pull_brings_what_nothing_watches() {
    // Some directories are watched; not even cookies are; there is no watcher.
    for (watches, instances) in [(10, 8), (0, 8), (1000, 0)] {
        let Some(few) = few(watches, instances) else { return };
        let lab = Lab::new();
        fill(&lab);
        let daemon = lab.spec().through(few.inside()).start();
        let agent = lab.agent(&daemon.url());
        agent.pull().expect(0);
        lab.assert_same();
        for round in 0..5 {
            change(&lab, &format!("round {round}"));
            let pulled = agent.pull().expect(0);
            lab.assert_same();
            assert!(pulled.count("synced") > 30, "{}", pulled.stdout);
        }
        assert!(is_degraded(&watching(&agent)), "a pull is told as well");
    }
}

#[test]
fn without_any_watcher_everything_is_polled_until_there_is_one() {
    let Some(few) = few(1000, 0) else { return };
    let Scene { lab, mut daemon, agent, follower: _follower } = followed(few.inside());
    let said = watching(&agent);
    assert_eq!((&said["watched"], &said["directories"]), (&0.into(), &(DIRECTORIES + 1).into()));
    assert_eq!(said["advice"], "raise it with: sysctl -w user.max_inotify_instances=1024");
    let line = "degraded: none of 301 directories are watched, everything is looked at every 2 s: the limit of watchers";
    assert!(status_text(&agent).contains(line), "{}", status_text(&agent));
    assert!(logged(&mut daemon, line), "{}", daemon.process().all());
    change(&lab, "second");
    lab.wait_same(SOON);
    assert_rests(daemon.pid());
    // One is enough, also when it has to be replaced.
    few.set(Watches { watches: 1000, instances: 1 });
    let well = until(&agent, SOON, |now| !is_degraded(now));
    assert_eq!(well["watched"], well["directories"]);
    change(&lab, "last");
    lab.wait_same(SOON);
}

/// How many events wait for a reader before some are lost; `None` if that is too many to be made.
fn queue_length() -> Option<usize> {
    let text = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").ok()?;
    text.trim().parse().ok().filter(|length| *length <= 200_000)
}

/// Changes what the daemon will never hear of: it stands still, and the queue is full before.
fn change_unheard(lab: &Lab, daemon: &mut Daemon, queue: usize) {
    daemon.process().signal(Signal::STOP);
    let ends = [lab.share.path("d0/burst a"), lab.share.path("d0/burst b")];
    lab.share.file("d0/burst a", "x");
    // Each gives two events.
    for number in 0..queue {
        fs::rename(&ends[number % 2], &ends[(number + 1) % 2]).expect("nobody else has it");
    }
    change(lab, "unheard");
    daemon.process().signal(Signal::CONT);
}

#[test]
fn what_happened_while_the_queue_of_events_was_full_is_found() {
    let Some(queue) = queue_length() else {
        return skip("the queue of events is too long to be filled: only injected losses are tested");
    };
    // In the second round there is one watcher, and all its watches are in use.
    for limits in [None, Some((30, 1))] {
        let few = match limits.map(|(watches, instances)| few(watches, instances)) {
            None => None,
            Some(None) => return,
            Some(few) => few,
        };
        let wrapper = few.iter().flat_map(FewWatches::inside).collect();
        let Scene { lab, mut daemon, agent, follower: _follower } = followed(wrapper);
        let before = watching(&agent);
        assert_eq!((&before["lost"], is_degraded(&before)), (&0.into(), few.is_some()));

        change_unheard(&lab, &mut daemon, queue);
        lab.agent_into(&daemon.url(), "at once").pull().expect(0);
        assert_same(lab.share.root(), &lab.path("at once"));
        lab.wait_same(SOON);

        let after = until(&agent, LATER, |now| now["lost"] != 0 && is_degraded(now) == few.is_some());
        let watched = |said: &Value| (said["watched"] == 29, said["watched"] == said["directories"]);
        assert_eq!((watched(&before), watched(&after)), ((few.is_some(), few.is_none()), watched(&before)));
        assert!(status_text(&agent).contains("; events were lost "), "{}", status_text(&agent));
        assert!(logged(&mut daemon, "events were lost"), "{}", daemon.process().all());
        assert!(logged(&mut daemon, "fs.inotify.max_queued_events"), "{}", daemon.process().all());

        change(&lab, "after that");
        lab.wait_same(SOON);
    }
}
