//! What a run that was ended in the middle may leave: two versions of a share that make the next run do everything that a run
//! can do, and the words to judge a target by in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::tree::{Kind, PathBytes, Seen, Snapshot, Tree, snapshot, try_snapshot};

/// What a path holds, apart from mode and time; `None` for a directory.
type Held = Option<(Option<[u8; 32]>, Option<Vec<u8>>)>;

/// New small files of the second version: more than are flushed one by one.
const NEW_FILES: usize = 20;
/// Too large to come packed with others, and to go on with after a cut.
const LARGE: usize = 1_300_000;
/// Files of the target that only it has, with their content: they must never be lost.
const OWN: [(&str, &str); 3] =
    [("edited", "my own version"), ("my own", "only mine"), ("my dir/deep/file", "mine too")];

/// Two versions of a share, and what their target may hold.
#[derive(Debug)]
pub struct Versions {
    first: Snapshot,
    second: Snapshot,
    allowed: BTreeMap<PathBytes, BTreeSet<Held>>,
}

/// The first version.
pub fn first(share: &Tree) {
    for number in 0..4 {
        share.file(format!("changed {number}"), format!("old {number}"));
    }
    share.file("edited", "the share's first");
    share.bytes("large", LARGE, 1);
    share.bytes("source", 200_000, 3);
    share.file("gone", "gone");
    share.file("gone dir/file", "gone too");
    share.file("moved dir/one", "one");
    share.file("moved dir/two", "two");
    share.file("swap a", "content a");
    share.file("swap b", "content b");
    share.file("swap dir a/in", "in a");
    share.file("swap dir b/in", "in b");
    share.file("mode", "mode").mode(0o600);
    share.file("time", "time").mtime(1000, 7);
    share.link("link", "old target");
    share.file("read only/file", "read only");
    share.placed("read only").mode(0o555);
}

/// Edits of the target that only it has.
pub fn edit(target: &Tree) {
    for (path, text) in OWN {
        target.file(path, text);
    }
}

/// The second version. `seen` returns when whoever watches the share has seen it as it is then: of two names that change places
/// only that tells a move.
pub fn second(share: &Tree, seen: impl Fn()) {
    for number in 0..4 {
        share.save(format!("changed {number}"), format!("new {number}, and longer"));
    }
    for number in 0..NEW_FILES {
        share.file(format!("new dir/sub/new {number}"), format!("quite new {number}"));
    }
    share.save("edited", "the share's second");
    share.bytes("large", LARGE, 2);
    let mut holed = crate::rng::Rng::new(4).bytes(LARGE);
    // Up to where a hole can end.
    holed.resize(26 * 64 * 1024, 0);
    share.file("new large", holed);
    let copied = share.read("source");
    share.file("copy", copied);
    share.remove("gone");
    share.remove("gone dir");
    share.rename("moved dir", "moved there");
    for [one, two] in [["swap a", "swap b"], ["swap dir a", "swap dir b"]] {
        for (from, to) in [(one, "swap in progress"), (two, one), ("swap in progress", two)] {
            share.rename(from, to);
            seen();
        }
    }
    share.placed("mode").mode(0o640);
    share.placed("time").mtime(2000, 8);
    share.remove("link");
    share.link("link", "new target");
    share.link("new link", "anywhere");
    share.placed("read only").mode(0o755);
    share.save("read only/file", "written all the same");
    share.placed("read only").mode(0o555);
}

impl Versions {
    /// What both versions and the edits hold, for the judgements below.
    #[must_use]
    pub fn new(first: Snapshot, second: Snapshot) -> Self {
        let mut allowed: BTreeMap<PathBytes, BTreeSet<Held>> = BTreeMap::new();
        for (path, seen) in first.iter().chain(&second) {
            allowed.entry(path.clone()).or_default().insert(held(seen));
        }
        for (path, text) in OWN {
            let digest = *blake3::hash(text.as_bytes()).as_bytes();
            allowed.entry(path.into()).or_default().insert(Some((Some(digest), None)));
            for (at, _) in path.match_indices('/') {
                allowed.entry((&path[..at]).into()).or_default().insert(None);
            }
        }
        Self { first, second, allowed }
    }

    /// Whether a version, or an edit, has this path.
    #[must_use]
    pub fn knows(&self, path: &str) -> bool {
        self.allowed.contains_key(&path.into())
    }

    /// Every path holds one of its complete versions, and what was only replaced is there.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self, target: &Path) -> Result<(), String> {
        let now = snapshot(target);
        for (path, seen) in &now {
            let Some(allowed) = self.allowed.get(path) else {
                return Err(format!("no version has {path:?}"));
            };
            if !allowed.contains(&held(seen)) {
                return Err(format!("{path:?} with {} bytes is no complete version", seen.size));
            }
        }
        // What crosses each other is out of the tree for a moment.
        let stays = |path: &&PathBytes| {
            self.second.contains_key(*path) && !path.0.starts_with(b"swap ") && !now.contains_key(*path)
        };
        match self.first.keys().find(stays) {
            Some(path) => Err(format!("{path:?} is not there, though both versions have it")),
            None => Ok(()),
        }
    }

    /// Whatever only the target had is somewhere in it, under any name.
    ///
    /// # Errors
    /// Says what is lost.
    pub fn check_own(&self, target: &Path) -> Result<(), String> {
        let everywhere = contents(target);
        match OWN.iter().find(|(_, text)| !everywhere.contains(blake3::hash(text.as_bytes()).as_bytes())) {
            Some((path, text)) => Err(format!("{text:?} of {path:?} is lost")),
            None => Ok(()),
        }
    }

    /// In the end all that only the target had is in the trash.
    ///
    /// # Errors
    /// Says what is not.
    pub fn check_trash(&self, target: &Tree) -> Result<(), String> {
        let trash: BTreeSet<_> = target.trash().values().filter_map(|seen| seen.digest).collect();
        match OWN.iter().find(|(_, text)| !trash.contains(blake3::hash(text.as_bytes()).as_bytes())) {
            Some((path, _)) => Err(format!("{path:?} is not in the trash")),
            None => Ok(()),
        }
    }

    /// The paths in the trash that hold what the share had or has: nobody's own work.
    #[must_use]
    pub fn untidy(&self, target: &Tree) -> Vec<PathBytes> {
        let own: BTreeSet<_> =
            OWN.iter().map(|(_, text)| *blake3::hash(text.as_bytes()).as_bytes()).collect();
        let is_own = |seen: &Seen| seen.digest.is_some_and(|digest| own.contains(&digest));
        target.trash().into_iter().filter(|(_, seen)| !is_own(seen)).map(|(path, _)| path).collect()
    }

    /// How many bytes of the second version are in no file of the target, staging included.
    #[must_use]
    pub fn missing_bytes(&self, target: &Path) -> u64 {
        let mut there = contents(target);
        let is_new = |seen: &&Seen| seen.digest.is_some_and(|digest| there.insert(digest));
        self.second.values().filter(is_new).map(|seen| seen.size).sum()
    }
}

fn held(seen: &Seen) -> Held {
    (seen.kind != Kind::Dir).then(|| (seen.digest, seen.link.clone()))
}

/// The digests of all files of a target and its state.
fn contents(target: &Path) -> BTreeSet<[u8; 32]> {
    let state = try_snapshot(&target.join(".syncd")).unwrap_or_default();
    snapshot(target).values().chain(state.values()).filter_map(|seen| seen.digest).collect()
}
