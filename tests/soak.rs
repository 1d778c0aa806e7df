//! Everything at once, for a long time: both sides change, both programs are killed, the line is cut, and now and then all holds
//! still and is compared. Memory and descriptors of both programs are watched.
//!
//! The first half is a storm, in which programs end and begin; in the second half both live on, so that what grows in them shows.
//! `make soak MINUTES=10` runs it; `make test` does not. The seed is told at the start, and
//! `SYNCD_SEED=N` repeats the same choices (not the same moments).

mod common;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Edits, LATER, Lab, fill};
use sync_testkit::{
    moment,
    ops::Chaos,
    programs::{Agent, Daemon, Follower, Outcome, PATIENCE, open_files, open_things, rss_bytes},
    proxy::Proxy,
    rng::Rng,
    seeds::{SEED, setting},
    tree::assert_same,
};

/// How long it takes unless `SYNCD_SOAK_SECONDS` says otherwise.
const USUAL_SECONDS: u64 = 16;
/// Rounds of the second half after which what has not been used yet is.
const WARM_UP: usize = 3;
/// From there on neither program may have more than these on top. Descriptors come and go with connections that were cut and with
/// what is being read; what is lost in each round is found in a minute.
const MORE_BYTES: u64 = 32 << 20;
const MORE_FILES: usize = 48;

/// What a program uses.
#[derive(Debug, Clone, Copy)]
struct Use {
    bytes: u64,
    files: usize,
}

impl Use {
    fn of(pid: u32) -> Self {
        Self { bytes: rss_bytes(pid), files: open_files(pid) }
    }
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} MiB and {} descriptors", self.bytes as f64 / f64::from(1 << 20), self.files)
    }
}

/// What a program used after the warm-up, and at most since.
#[derive(Debug, Clone, Copy)]
struct Watch {
    name: &'static str,
    first: Option<Use>,
    most: Use,
}

impl Watch {
    fn new(name: &'static str) -> Self {
        Self { name, first: None, most: Use { bytes: 0, files: 0 } }
    }

    fn see(&mut self, pid: u32) {
        let now = Use::of(pid);
        let first = *self.first.get_or_insert(now);
        self.most = Use { bytes: self.most.bytes.max(now.bytes), files: self.most.files.max(now.files) };
        let (bytes, files) = (first.bytes + MORE_BYTES, first.files + MORE_FILES);
        assert!(now.bytes <= bytes, "the {} grows: first {first}, now {now}", self.name);
        assert!(
            now.files <= files,
            "the {} keeps files open: first {first}, now {now}: {:#?}",
            self.name,
            open_things(pid)
        );
    }
}

#[derive(Debug, Default)]
struct Counts {
    rounds: usize,
    changes: usize,
    daemon_ends: usize,
    agent_ends: usize,
    cuts: usize,
    pulls: usize,
    cut_pulls: usize,
}

struct Soak {
    lab: Lab,
    daemon: Daemon,
    proxy: Proxy,
    /// Follows into the usual target.
    agent: Agent,
    follower: Option<Follower>,
    /// Pulls into another one, again and again.
    puller: Agent,
    share: Chaos,
    edits: Edits,
    rng: Rng,
    counts: Counts,
    began: Instant,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let lab = Lab::new();
        fill(&lab.share, 40);
        let daemon = lab.daemon();
        let proxy = Proxy::to(daemon.address());
        // Chaos may well delete more than half within ten minutes.
        let to = |target| lab.agent_into(&proxy.url(), target).args(["--allow-mass-delete"]);
        let (agent, puller) = (to("target"), to("pulled"));
        let (share, edits) = (Chaos::new(&lab.share, seed), Edits::new(&lab));
        let follower = Some(agent.follow());
        let (rng, counts, began) = (Rng::new(seed), Counts::default(), Instant::now());
        Self { lab, daemon, proxy, agent, follower, puller, share, edits, rng, counts, began }
    }

    /// One round: changes, and with them whatever a storm brings; then all holds still and is compared.
    fn round(&mut self, storm: bool) {
        for _ in 0..20 + self.rng.below(60) {
            self.share.step();
            self.counts.changes += 1;
            if self.rng.chance(20) {
                moment(Duration::from_millis(self.rng.below(40) as u64));
            }
            if self.rng.chance(2) {
                self.counts.cuts += 1;
                self.proxy.cut_once();
            }
            if storm {
                self.storm();
            }
        }
        if self.edits.count() > 0 && storm {
            // What was edited is put right by an agent that starts.
            self.end_agent();
        }
        self.pull();
        self.hold_still();
        self.counts.rounds += 1;
        self.tell();
    }

    /// What may happen between two changes.
    fn storm(&mut self) {
        match self.rng.below(100) {
            0 => {
                self.counts.daemon_ends += 1;
                if self.rng.chance(70) {
                    self.daemon.process().kill();
                } else {
                    assert_eq!(self.daemon.stop(), Some(0));
                }
                (0..self.rng.below(5)).for_each(|_| self.share.step());
                self.daemon.restart();
            }
            1 | 2 => self.end_agent(),
            3 | 4 => {
                let number = self.edits.count();
                self.edits.save(&format!("my own {number}"), &format!("only mine {number}"));
            }
            _ => {}
        }
    }

    fn end_agent(&mut self) {
        self.counts.agent_ends += 1;
        if let Some(mut follower) = self.follower.take() {
            if self.rng.chance(70) {
                follower.process().kill();
            } else {
                // Without a code if the signal came before it was listened for.
                let ended = follower.stop();
                assert!(matches!(ended.code, Some(0) | None), "{ended:?}");
            }
        }
        self.follower = Some(self.agent.follow());
    }

    /// Sometimes the first attempt is killed.
    fn pull(&mut self) {
        if self.rng.chance(40) {
            self.counts.cut_pulls += 1;
            let mut pull = self.puller.start(&["pull"]);
            moment(Duration::from_millis(self.rng.below(150) as u64));
            pull.kill();
        }
        self.counts.pulls += 1;
        Outcome::read(self.puller.start(&["pull"]).finish(PATIENCE)).expect(0);
        assert_same(self.lab.share.root(), &self.lab.path("pulled"));
    }

    fn hold_still(&mut self) {
        self.lab.wait_same(LATER);
        self.edits.assert_in_trash();
    }

    /// The daemon and the follower.
    fn pids(&mut self) -> (u32, u32) {
        (self.daemon.pid(), self.follower.as_mut().expect("it follows").process().pid())
    }

    fn tell(&mut self) {
        let (daemon, agent) = self.pids();
        let (daemon, agent) = (Use::of(daemon), Use::of(agent));
        let Counts { rounds, changes, daemon_ends, agent_ends, cuts, .. } = self.counts;
        eprintln!(
            "{:5.0} s, round {rounds}: equal after {changes} changes; ended: daemon {daemon_ends}, agent {agent_ends}; \
             {cuts} cuts; daemon {daemon}, agent {agent}",
            self.began.elapsed().as_secs_f64()
        );
    }
}

/// The changes, if the test fails.
impl Drop for Soak {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.share.log();
            eprintln!("the last changes:\n{}", log[log.len().saturating_sub(100)..].join("\n"));
        }
    }
}

#[test]
#[ignore = "it lasts as long as it is given: `make soak`"]
fn both_sides_stay_equal_and_small_whatever_happens() {
    let asked = setting("SYNCD_SOAK_SECONDS");
    let by_the_clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let seed = setting(SEED).unwrap_or_else(|| if asked.is_some() { by_the_clock() } else { 1 });
    let half = Duration::from_secs(asked.unwrap_or(USUAL_SECONDS)) / 2;
    eprintln!("{SEED}={seed}");
    let mut soak = Soak::new(seed);
    while soak.began.elapsed() < half {
        soak.round(true);
    }
    let (mut daemon, mut agent) = (Watch::new("daemon"), Watch::new("agent"));
    let mut number = 0;
    while soak.began.elapsed() < half * 2 || number <= WARM_UP {
        soak.round(false);
        if number >= WARM_UP {
            let (daemon_pid, agent_pid) = soak.pids();
            daemon.see(daemon_pid);
            agent.see(agent_pid);
        }
        number += 1;
    }
    eprintln!("{:?}, {} edits kept", soak.counts, soak.edits.count());
    for watch in [daemon, agent] {
        let first = watch.first.expect("it was watched");
        eprintln!(
            "{}: {first} after the warm-up, at most {} in {} rounds",
            watch.name,
            watch.most,
            number - WARM_UP
        );
    }
    common::expect_code(&soak.follower.take().expect("it follows").stop(), 0);
    assert_eq!(soak.agent.json(&["verify"]).expect(0).count("changed"), 0);
}
