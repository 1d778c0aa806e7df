//! What is measured on: shares in memory, the daemon that serves them, and an rsync daemon beside it.

use std::path::{Path, PathBuf};

use sync_testkit::{
    Link,
    contest::{
        files::SmallFiles,
        keep_memory,
        large::LargeFile,
        meter::{Meter, Peaks, Sample, peaks},
        remove,
        rsync::{self, RsyncDaemon},
        stats::Spread,
    },
    programs::{Agent, Daemon, DaemonSpec, Process, Signal},
    proxy::Proxy,
    tree::{Compare, differences, snapshot},
};
use tempfile::TempDir;

use crate::{interrupt, settings::DEADLINE, table::Cost};

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Rsync,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Ours => Self::Rsync,
            Self::Rsync => Self::Ours,
        }
    }
}

/// What a run finds at its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nothing.
    Fresh,
    /// The share as it was before.
    Kept,
}

/// What both sides have to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    pub(crate) share: &'a str,
    pub(crate) target: Target,
    /// The agent's command.
    pub(crate) ours: &'a [&'a str],
    /// What is added to `rsync -a`.
    pub(crate) rsync: &'a [&'a str],
    /// What happens to the share before each run.
    pub(crate) change: Option<fn(&mut Bed)>,
    /// How much memory a run fills, with the change before it.
    pub(crate) fills: u64,
    /// The line in between; loopback itself if there is none.
    pub(crate) line: Option<Link>,
    pub(crate) rounds: usize,
}

impl<'a> Work<'a> {
    /// A pull into an empty target.
    pub(crate) fn cold(share: &'a str, rounds: usize) -> Self {
        Self {
            share,
            target: Target::Fresh,
            ours: &["pull"],
            rsync: &[],
            change: None,
            fills: 0,
            line: None,
            rounds,
        }
    }
}

/// The costs of both sides at some work.
#[derive(Debug)]
pub(crate) struct Contest {
    pub(crate) ours: Cost,
    /// `None` without rsync.
    pub(crate) rsync: Option<Cost>,
}

impl Contest {
    /// Our share of what rsync takes, by some measure.
    pub(crate) fn ratio(&self, of: impl Fn(&Cost) -> f64) -> Option<f64> {
        self.rsync.as_ref().map(|rsync| of(&self.ours) / of(rsync))
    }
}

/// Both daemons. Dropping it ends them and removes the trees.
pub(crate) struct Bed {
    // Before `dir`, so that the programs end first.
    pub(crate) daemon: Daemon,
    rsync: Option<RsyncDaemon>,
    pub(crate) small: Option<SmallFiles>,
    pub(crate) large: Option<LargeFile>,
    dir: TempDir,
}

impl Bed {
    /// Serves directories of `dir`, by their names; `small` is the tree in one of them.
    pub(crate) fn serve(dir: TempDir, shares: &[&str], small: Option<SmallFiles>) -> Self {
        interrupt::check();
        let mut spec = DaemonSpec::new(env!("CARGO_BIN_EXE_syncd"));
        for share in shares {
            spec = spec.share(share, dir.path().join(share));
        }
        let daemon = spec.start();
        let rsync = RsyncDaemon::start(dir.path(), shares);
        Self { daemon, rsync, small, large: None, dir }
    }

    /// Whether rsync is here to compare with.
    pub(crate) fn has_rsync(&self) -> bool {
        self.rsync.is_some()
    }

    /// Where everything is.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The tree of small files.
    pub(crate) fn small(&mut self) -> &mut SmallFiles {
        self.small.as_mut().expect("rows about small files run on a bed with small files")
    }

    /// The large file that changes.
    pub(crate) fn large(&mut self) -> &mut LargeFile {
        self.large.as_mut().expect("rows about a large file run on a bed with one")
    }

    /// An agent without fsync, as rsync is.
    pub(crate) fn agent(&self, share: &str, target: &Path) -> Agent {
        self.agent_of(&self.daemon.url(), share, target)
    }

    fn agent_of(&self, url: &str, share: &str, target: &Path) -> Agent {
        let agent = Agent::new(env!("CARGO_BIN_EXE_sync-agent"), url, share, target);
        agent.args(["--durability", "none"])
    }

    /// Where a side keeps its target of a share.
    pub(crate) fn target(&self, side: Side, share: &str) -> PathBuf {
        self.dir().join(format!("target of {side:?}, {share}"))
    }

    /// Both sides at some work, in turns.
    pub(crate) fn contest(&mut self, work: &Work<'_>) -> Contest {
        let sides: &[Side] = if self.rsync.is_some() { &[Side::Ours, Side::Rsync] } else { &[Side::Ours] };
        if work.target == Target::Kept {
            sides.iter().for_each(|side| self.bring_up_to_date(*side, work));
        }
        // What a run fills, and some more for everything else that comes and goes.
        let _memory = keep_memory(self.dir(), work.fills / 4 * 5);
        let mut samples = [Vec::new(), Vec::new()];
        for round in 0..work.rounds {
            for turn in 0..sides.len() {
                let side = sides[(turn + round) % sides.len()];
                samples[side as usize].push(self.timed(side, work));
            }
        }
        let mut cost = |side: Side| {
            let taken = work.line.is_none().then(|| self.memory_and_wire(side, work));
            let samples = &samples[side as usize];
            let spread = |of: fn(&Sample) -> f64| Spread::of(samples.iter().map(of));
            let seconds = spread(|sample| sample.seconds)?;
            Some(Cost {
                seconds,
                cpu_seconds: spread(|sample| sample.cpu_seconds)?,
                memory_and_wire: taken.map(|(peaks, wire)| (peaks.client, peaks.server, wire)),
            })
        };
        let ours = cost(Side::Ours).expect("there is at least one round");
        let rsync = sides.get(1).and_then(|side| cost(*side));
        Contest { ours, rsync }
    }

    /// One run on the clock.
    pub(crate) fn timed(&mut self, side: Side, work: &Work<'_>) -> Sample {
        let line = work.line.map(|line| Proxy::over(line, &self.address(side)));
        let address = line.as_ref().map_or_else(|| self.address(side), Proxy::address);
        self.prepare(side, work);
        let meter = Meter::start(Some(self.server(side)));
        self.change(side, work);
        let sample = meter.run(|| self.start(side, work, &address), DEADLINE);
        self.settle(side, work);
        sample
    }

    /// One more run for what it takes but time, through a proxy that counts; then a look at what it made.
    fn memory_and_wire(&mut self, side: Side, work: &Work<'_>) -> (Peaks, u64) {
        let proxy = Proxy::to(&self.address(side));
        self.prepare(side, work);
        self.change(side, work);
        let peaks = peaks(Some(self.server(side)), || self.start(side, work, &proxy.address()), DEADLINE);
        if side == Side::Ours {
            self.check_equal(work);
        }
        self.settle(side, work);
        (peaks, proxy.to_client_bytes() + proxy.to_server_bytes())
    }

    fn prepare(&self, side: Side, work: &Work<'_>) {
        interrupt::check();
        if work.target == Target::Fresh {
            remove(&self.target(side, work.share));
        }
    }

    /// Changes the share. While rsync is at work our daemon rests: what it does about the change is not rsync's.
    fn change(&mut self, side: Side, work: &Work<'_>) {
        let Some(change) = work.change else { return };
        if side == Side::Rsync {
            self.daemon.process().signal(Signal::STOP);
        }
        change(self);
    }

    /// Leaves everything as the next run wants to find it.
    fn settle(&mut self, side: Side, work: &Work<'_>) {
        interrupt::check();
        if work.target == Target::Fresh {
            remove(&self.target(side, work.share));
        }
        if work.change.is_some() {
            self.daemon.process().signal(Signal::CONT);
            if self.rsync.is_some() {
                self.bring_up_to_date(side.other(), work);
            }
        }
    }

    fn bring_up_to_date(&self, side: Side, work: &Work<'_>) {
        let work = Work { ours: &["pull"], rsync: &["--delete"], ..*work };
        let process = self.start(side, &work, &self.address(side));
        let finished = process.finish(DEADLINE);
        assert_eq!(
            finished.code,
            Some(0),
            "{side:?} could not bring its target up to date: {}",
            finished.stderr
        );
    }

    fn start(&self, side: Side, work: &Work<'_>, address: &str) -> Process {
        let target = self.target(side, work.share);
        match side {
            Side::Ours => self.agent_of(&format!("http://{address}"), work.share, &target).start(work.ours),
            Side::Rsync => rsync::pull(address, work.share, &target).args(work.rsync).start(),
        }
    }

    fn address(&self, side: Side) -> String {
        match (side, &self.rsync) {
            (Side::Rsync, Some(rsync)) => rsync.address(),
            _ => self.daemon.address().to_owned(),
        }
    }

    fn server(&self, side: Side) -> u32 {
        match (side, &self.rsync) {
            (Side::Rsync, Some(rsync)) => rsync.pid(),
            _ => self.daemon.pid(),
        }
    }

    /// A speed counts only if the result is right.
    fn check_equal(&self, work: &Work<'_>) {
        let (share, target) = (self.dir().join(work.share), self.target(Side::Ours, work.share));
        let found = differences(&snapshot(&share), &snapshot(&target), Compare::default());
        assert!(found.is_empty(), "the target is not equal to share {}:\n{}", work.share, found.join("\n"));
    }
}
