//! What a run that ends badly is tried on: two versions of a share, a daemon that serves the second, and as many targets of
//! the first as are wanted, with edits of their own.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use sync_testkit::{
    crash::{self, Versions},
    programs::{Agent, Daemon, Outcome, PATIENCE},
    tree::{Tree, same},
};

use super::{Lab, SHARE, SYNC_AGENT};

/// What a pull may receive beyond missing content: the feed, headers, the answers to wants.
pub(crate) const TALK_BYTES: u64 = 32 * 1024;

/// Two versions of a share and a target that has the first, with edits of its own. Each case works on a copy of it.
pub(crate) struct Scene {
    pub(crate) lab: Lab,
    daemon: Daemon,
    pub(crate) versions: Versions,
    next: AtomicUsize,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let lab = Lab::new();
        crash::first(&lab.share);
        let daemon = lab.daemon();
        lab.agent_into(&daemon.url(), "template").pull().expect(0);
        let first = lab.share.snapshot();
        crash::edit(&lab.tree("template"));
        let witness = lab.agent_into(&daemon.url(), "witness");
        crash::second(&lab.share, || drop(witness.pull().expect(0)));
        let versions = Versions::new(first, lab.share.snapshot());
        // From here on the share stays as it is, so runs that are ended at the same step do the same.
        witness.pull().expect(0);
        Self { lab, daemon, versions, next: AtomicUsize::new(0) }
    }

    /// A path that no other case has.
    pub(crate) fn free_path(&self) -> PathBuf {
        self.lab.path(&format!("case {}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// A target of the first version, with edits.
    pub(crate) fn target(&self) -> Tree {
        let to = self.free_path();
        let copied = Command::new("cp").arg("-a").args([&self.lab.path("template"), &to]).status();
        assert!(copied.is_ok_and(|status| status.success()), "cp failed");
        Tree::at(to)
    }

    pub(crate) fn agent(&self, target: &Tree, durability: &str) -> Agent {
        let agent = Agent::new(SYNC_AGENT, &self.daemon.url(), SHARE, target.root());
        agent.args(["--durability", durability])
    }

    /// The next pull ends equal and is content with what is there.
    pub(crate) fn go_on(&self, target: &Tree, durability: &str) -> Result<(), String> {
        let missing = self.versions.missing_bytes(target.root());
        let outcome = Outcome::read(self.agent(target, durability).start(&["pull"]).finish(PATIENCE));
        if outcome.code != Some(0) {
            return Err(format!("exit code {:?}\n{}\n{}", outcome.code, outcome.stdout, outcome.stderr));
        }
        let received = outcome.count("bytes_received");
        if received > missing + TALK_BYTES {
            return Err(format!("{received} bytes were received where {missing} were missing"));
        }
        self.check_end(target)
    }

    pub(crate) fn check_end(&self, target: &Tree) -> Result<(), String> {
        same(self.lab.share.root(), target.root(), Default::default())?;
        self.versions.check_trash(target)?;
        let mut untidy = self.versions.untidy(target);
        // Of two that cross each other one may be in its new place already; the other cannot go back then.
        untidy.retain(|path| !path.0.starts_with(b"swap "));
        if untidy.is_empty() {
            Ok(())
        } else {
            Err(format!("the share's own versions in the trash: {untidy:?}"))
        }
    }

    /// Every path of a target is complete, and what only it had is somewhere in it.
    pub(crate) fn check_between(&self, target: &Tree) -> Result<(), String> {
        self.versions.check(target.root())?;
        self.versions.check_own(target.root())
    }
}

/// Removes a target that was judged.
pub(crate) fn discard(target: &Tree) -> Result<(), String> {
    // Read-only directories in it do not stop its owner here, and may stop the test's end.
    if target.has("read only") {
        target.placed("read only").mode(0o755);
    }
    fs::remove_dir_all(target.root()).map_err(|error| error.to_string())
}

/// Judges all these cases, several at a time, and fails with all that went wrong.
pub(crate) fn judge_all<T: Send>(
    cases: impl IntoIterator<Item = T>,
    name: impl Fn(&T) -> String + Sync,
    judge: impl Fn(&T) -> Result<(), String> + Sync,
) {
    let cases: Mutex<Vec<_>> = Mutex::new(cases.into_iter().collect());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(case) = { cases.lock().unwrap().pop() } {
                    if let Err(error) = judge(&case) {
                        failures.lock().unwrap().push(format!("{}: {error}", name(&case)));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures.join("\n"));
}
