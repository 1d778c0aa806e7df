//! What is counted: files and links of the share, each once.
//!
//! A problem is about a place, and not every place is a file of the share: a directory that cannot be listed, or something of
//! the target's own that cannot be removed, is listed as a problem and counted as nothing.

use std::{
    collections::{BTreeMap, HashSet},
    ops::AddAssign,
};

use sync_core::{
    Kind, NodeId, Problem, TreePath,
    plan::{Clear, Plan, Put, Trees},
};

use super::outcome::Outcome;

/// What was done, however it ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Files and links that were brought into place, moved ones included.
    pub synced: u64,
    /// Those that were removed.
    pub deleted: u64,
    /// Those that were moved instead of brought.
    pub renamed: u64,
    /// The sizes of the files that were brought.
    pub bytes_total: u64,
}

impl Done {
    pub(super) fn add(&mut self, outcome: &Outcome) {
        let Outcome { synced, deleted, renamed, bytes_total, .. } = *outcome;
        *self += Self { synced, deleted, renamed, bytes_total };
    }
}

impl AddAssign for Done {
    fn add_assign(&mut self, more: Self) {
        self.synced += more.synced;
        self.deleted += more.deleted;
        self.renamed += more.renamed;
        self.bytes_total += more.bytes_total;
    }
}

/// One place, also one whose name is not UTF-8.
type Spot = (TreePath, Box<[u8]>);

fn spot(problem: &Problem) -> Spot {
    (problem.path.clone(), problem.raw_name.clone())
}

/// Each place once, with what was said about it first: the server's word comes before what followed from it here.
pub(super) fn one_for_each_place(problems: impl IntoIterator<Item = Problem>) -> Vec<Problem> {
    let mut seen = HashSet::new();
    problems.into_iter().filter(|problem| seen.insert(spot(problem))).collect()
}

/// Those of these directories below which none of the other problems is.
pub(super) fn unexplained<'p>(dirs: &[Problem], others: impl Iterator<Item = &'p Problem>) -> Vec<Problem> {
    if dirs.is_empty() {
        return Vec::new();
    }
    let mut above = HashSet::new();
    for problem in others {
        let mut next = problem.path.parent();
        while let Some(dir) = next.filter(|dir| !above.contains(dir)) {
            next = dir.parent();
            above.insert(dir);
        }
    }
    dirs.iter().filter(|dir| !above.contains(&dir.path)).cloned().collect()
}

/// Every place where the target is not as the share says.
pub(super) fn differences(plan: &Plan) -> Vec<Problem> {
    let mut found: BTreeMap<TreePath, &'static str> = BTreeMap::new();
    for clear in &plan.clear {
        let text = match clear {
            Clear::Remove { .. } | Clear::RemoveDir { .. } => "the share does not have it",
            Clear::Move { .. } | Clear::TakeOut { .. } => "the share has it in another place",
        };
        found.insert(clear.path().clone(), text);
    }
    for build in &plan.build {
        found.insert(build.path().clone(), "it is missing");
    }
    for put in &plan.files {
        let text = match put {
            Put::File { over: None, .. } | Put::Link { over: None, .. } => "it is missing",
            Put::File { .. } | Put::Link { .. } => "its content differs",
            Put::Metadata { .. } => "its mode or time differs",
        };
        found.insert(put.path().clone(), text);
    }
    for finish in &plan.finish {
        found.entry(finish.path.clone()).or_insert("its mode or time differs");
    }
    found.into_iter().map(|(path, text)| Problem { unknown: false, ..Problem::new(path, text) }).collect()
}

/// The files and links of the share among the places with problems.
#[derive(Debug, Default)]
pub(super) struct FailedFiles {
    /// Those that the share's tree has.
    pub listed: HashSet<TreePath>,
    /// Those that the server cannot even describe. It says nothing about their kind; they count as files.
    pub unlisted: u64,
}

impl FailedFiles {
    pub(super) fn count(&self) -> u64 {
        self.listed.len() as u64 + self.unlisted
    }

    /// Sorts out the problems of `all`, which names each place once; `remote` are those that the server told.
    pub(super) fn among<T: Trees>(trees: &T, all: &[Problem], remote: &[Problem]) -> Result<Self, T::Error> {
        let told: HashSet<Spot> = remote.iter().map(spot).collect();
        let mut failed = Self::default();
        for problem in all.iter().filter(|problem| is_about_content(problem)) {
            let unlisted = u64::from(told.contains(&spot(problem)));
            if !problem.raw_name.is_empty() {
                failed.unlisted += unlisted;
                continue;
            }
            match kind_of(trees, &problem.path)? {
                Some(Kind::Directory) => {}
                Some(Kind::File | Kind::Symlink) => drop(failed.listed.insert(problem.path.clone())),
                None => failed.unlisted += unlisted,
            }
        }
        Ok(failed)
    }
}

/// Whether content is missing because of it. What is known and wrong about a place, such as too many ignore rules in it,
/// leaves the place as it should be.
fn is_about_content(problem: &Problem) -> bool {
    problem.unknown || !problem.raw_name.is_empty()
}

/// What the share has at a path.
fn kind_of<T: Trees>(trees: &T, path: &TreePath) -> Result<Option<Kind>, T::Error> {
    let (mut at, mut kind) = (NodeId::ROOT, Kind::Directory);
    for name in path.names() {
        let Ok(name) = sync_core::Name::new(name) else { return Ok(None) };
        let Some(node) = trees.remote_child(at, &name)? else { return Ok(None) };
        (at, kind) = (node.id, node.entry.content.kind());
    }
    Ok(Some(kind))
}
