//! What the end-to-end tests share: a laboratory with one share, and the words to check what a command reported.
#![allow(dead_code, reason = "every test program includes this file and uses its own part of it")]

#[cfg(feature = "failpoints")]
#[expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "the trees are the test's own")]
pub(crate) mod scene;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use sync_testkit::{
    Scratch,
    programs::{Agent, Daemon, DaemonSpec, Finished, Follower, Launch, Outcome},
    tree::{Tree, assert_same, try_snapshot, wait_same},
};

/// The daemon under test, always freshly built.
pub(crate) const SYNCD: &str = env!("CARGO_BIN_EXE_syncd");
/// The agent under test.
pub(crate) const SYNC_AGENT: &str = env!("CARGO_BIN_EXE_sync-agent");

/// The name of the share that every laboratory has.
pub(crate) const SHARE: &str = "docs";

/// By when a change must have arrived on a machine whose two cores run other tests too.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// By when something large, or something that needs a reconnect after a long silence, must have.
pub(crate) const LATER: Duration = Duration::from_secs(90);

/// A directory of its own with a share in it. Targets are made beside it by the agents.
pub(crate) struct Lab {
    scratch: Scratch,
    /// The served directory.
    pub(crate) share: Tree,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new();
        let share = Tree::at(scratch.path().join("share"));
        Self { scratch, share }
    }

    /// A path beside the share.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A tree beside the share.
    pub(crate) fn tree(&self, name: &str) -> Tree {
        Tree::at(self.path(name))
    }

    /// The usual target.
    pub(crate) fn target(&self) -> Tree {
        self.tree("target")
    }

    pub(crate) fn spec(&self) -> DaemonSpec {
        DaemonSpec::new(SYNCD).share(SHARE, self.share.root())
    }

    /// A daemon that serves the share.
    #[track_caller]
    pub(crate) fn daemon(&self) -> Daemon {
        self.spec().start()
    }

    /// The usual agent. Nothing here outlives a crash of the machine, so nothing is flushed.
    pub(crate) fn agent(&self, url: &str) -> Agent {
        self.agent_into(url, "target")
    }

    pub(crate) fn agent_into(&self, url: &str, target: &str) -> Agent {
        Agent::new(SYNC_AGENT, url, SHARE, self.path(target)).args(["--durability", "none"])
    }

    /// A daemon, and an agent that has pulled.
    #[track_caller]
    pub(crate) fn pulled(&self) -> (Daemon, Agent) {
        let daemon = self.daemon();
        let agent = self.agent(&daemon.url());
        agent.pull().expect(0);
        self.assert_same();
        (daemon, agent)
    }

    /// A daemon, and an agent that follows and has caught up.
    #[track_caller]
    pub(crate) fn followed(&self) -> (Daemon, Follower) {
        let daemon = self.daemon();
        let mut follower = self.agent(&daemon.url()).follow();
        follower.caught_up();
        self.assert_same();
        (daemon, follower)
    }

    #[track_caller]
    pub(crate) fn assert_same(&self) {
        assert_same(self.share.root(), &self.path("target"));
    }

    #[track_caller]
    pub(crate) fn wait_same(&self, deadline: Duration) {
        wait_same(self.share.root(), &self.path("target"), deadline);
    }

    /// A program that is started in the laboratory's directory, so that it finds the files put there.
    pub(crate) fn launch(&self, bin: &str) -> Launch {
        Launch::new(bin).in_dir(self.scratch.path())
    }
}

/// A few files, directories and links; `files` regular files in all, with 2 KiB each.
pub(crate) fn fill(tree: &Tree, files: usize) {
    for number in 0..files {
        tree.bytes(format!("dir {}/sub/file {number}", number % 7), 2048, number as u64);
    }
    tree.link("link", "dir 0/sub");
    tree.dir("empty dir");
}

/// The counts of a report, in the order in which people read them.
#[track_caller]
pub(crate) fn counts<const N: usize>(outcome: &Outcome, keys: [&str; N]) -> [u64; N] {
    keys.map(|key| outcome.count(key))
}

/// Edits that somebody makes in the usual target, each put there complete, as editors save. None of them may be lost.
pub(crate) struct Edits {
    outside: Tree,
    target: Tree,
    written: Vec<(String, [u8; 32])>,
}

impl Edits {
    pub(crate) fn new(lab: &Lab) -> Self {
        Self { outside: lab.tree("outside"), target: lab.target(), written: Vec::new() }
    }

    /// Saves a file. If something is in the way there is no such edit. (A temporary name in the target would itself be somebody's
    /// own file.)
    pub(crate) fn save(&mut self, place: &str, text: &str) {
        self.outside.file("saving", text);
        self.bring("saving", "saving", place);
    }

    /// Saves a file in a new directory, which comes with it: one that is empty is nobody's loss, and may be gone before the file
    /// would be in it.
    pub(crate) fn save_with_dir(&mut self, dir: &str, name: &str, text: &str) {
        let file = format!("saving dir/{name}");
        self.outside.file(&file, text);
        self.bring("saving dir", &file, dir);
    }

    fn bring(&mut self, from: &str, file: &str, place: &str) {
        let digest = self.outside.look(file).digest.expect("it is a file");
        #[expect(clippy::disallowed_methods, reason = "the trees are the test's own")]
        let saved = std::fs::rename(self.outside.path(from), self.target.path(place));
        if saved.is_ok() {
            self.written.push((place.to_owned(), digest));
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.written.len()
    }

    /// Every edit is in the trash. Each must have had a content of its own, and none have been saved over.
    #[track_caller]
    pub(crate) fn assert_in_trash(&self) {
        let trash = try_snapshot(&self.target.path(".syncd/trash")).unwrap_or_default();
        let kept: BTreeSet<_> = trash.values().filter_map(|seen| seen.digest).collect();
        let lost: Vec<_> = self.written.iter().filter(|(_, digest)| !kept.contains(digest)).collect();
        assert!(lost.is_empty(), "{} of {} edits are nowhere: {lost:?}", lost.len(), self.count());
    }
}

/// What any failure owes the user: no panic, no backtrace, no debug output, and a word that says what it was about.
#[track_caller]
pub(crate) fn assert_clear(stderr: &str, words: &[&str]) {
    for ugly in ["panicked", "backtrace", "RUST_BACKTRACE", "unwrap()", "Os {", "Status {", "Custom {"] {
        assert!(!stderr.contains(ugly), "{ugly:?} in the message:\n{stderr}");
    }
    for word in words {
        assert!(stderr.contains(word), "the message lacks {word:?}:\n{stderr}");
    }
    let lines = stderr.lines().count();
    assert!((1..=15).contains(&lines), "{lines} lines are not one clear message:\n{stderr}");
}

/// An expected end of a program that was run for people.
#[track_caller]
pub(crate) fn expect_code(finished: &Finished, code: i32) {
    let Finished { stdout, stderr, .. } = finished;
    assert_eq!(finished.code, Some(code), "--- stdout\n{stdout}\n--- stderr\n{stderr}\n---");
}
