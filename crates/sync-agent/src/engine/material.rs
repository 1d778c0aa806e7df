//! Which files of the target may hold parts of a large file that comes, beside the version in its place.
//!
//! Only describing both tells whether two files share chunks, so one file is chosen for each by what is known without reading:
//! what the share's node was here (it was moved and changed), else what makes way in the same plan and has the same name, a
//! name that differs in digits only, or about the same size, else a file that stays beside it and has such a name.
//!
//! Invariants:
//! * What is chosen is opened before anything leaves its place, and read through that handle: where it goes does not matter.
//! * What is to be removed, and whose place nobody needs, is removed only after everything came: a run that is cut finds it
//!   again. But if the disk has no room for both, the old file goes first and is not used.
//! * All of it is a guess. Guesses that were wrong cost time on both sides, so after some in a row ever fewer are made.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    os::fd::AsFd as _,
    sync::{Mutex, PoisonError},
};

use sync_core::{
    Content, Digest, Node, NodeId, TreePath,
    chunk::is_taken_apart,
    plan::{Build, Clear, Over, Plan, Put, Source},
};
use sync_tree::{apply::Expect, index::IndexedNode, platform::free_bytes};

use super::{EngineError, base::local_of, context::Context};

/// How many large files of a plan are looked after: that many handles are held.
const MOST_HELD: usize = 16;
/// How many times as large one file may be as the other.
const LARGER: u64 = 4;
/// Files whose names say nothing must be of the same size but for this part.
const CLOSE_PART: u64 = 8;

/// Files that are held for others, by the remote nodes that may use them.
#[derive(Default)]
pub(super) struct Material(Mutex<HashMap<NodeId, Old>>);

/// A file that may hold parts of another.
pub(super) struct Old {
    pub file: File,
    pub size: u64,
    pub digest: Digest,
    pub relation: Relation,
}

/// How a file is related to the one that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// It is an earlier version.
    Earlier,
    /// It makes way too; nothing but its name or size speaks for it.
    Leaves,
    /// Likewise, but it stays.
    Stays,
}

impl Material {
    /// Opens what may be used, and takes those removals out of the plan that can wait until everything came.
    pub(super) fn hold(context: &Context, plan: &mut Plan) -> Result<(Self, Vec<Clear>), EngineError> {
        let wanted: Vec<&Put> = plan.files.iter().filter(|put| is_wanted(put)).take(MOST_HELD).collect();
        if wanted.is_empty() || !is_room_for(context, plan) {
            return Ok(Default::default());
        }
        let (leaving, mut found, mut used) = (leaving(plan), HashMap::new(), HashSet::new());
        for put in wanted {
            let Some(choice) = choose(context, put, &leaving)? else { continue };
            let Ok(Expect::File(identity)) = context.expect(&choice.node) else { continue };
            match context.applier.open_expected(&choice.path, &identity) {
                Ok(file) => {
                    tracing::debug!(path = %put.path(), old = %choice.path, "may have parts of it");
                    used.insert(choice.node.id);
                    found.insert(put.remote().id, choice.into_old(file));
                }
                Err(error) => tracing::debug!(path = %choice.path, %error, "cannot be used"),
            }
        }
        let later = take_out(plan, &used);
        Ok((Self(Mutex::new(found)), later))
    }

    /// What is held for this node. It is held no longer than its user holds it.
    pub(super) fn take(&self, id: NodeId) -> Option<Old> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }
}

/// Whether guessing is worth its time.
#[derive(Debug, Default)]
pub(super) struct Guesses(Mutex<Record>);

#[derive(Debug, Default)]
struct Record {
    /// Wrong ones since the last right one.
    wrong: u32,
    /// So many are not made.
    skip: u32,
}

/// After so many wrong ones in a row fewer are made; at least one of so many is.
const WRONG: u32 = 3;
const MOST_SKIPPED: u32 = 64;

impl Guesses {
    /// Whether this one is made.
    pub(super) fn may_be_made(&self) -> bool {
        let mut record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = record.skip == 0;
        record.skip = record.skip.saturating_sub(1);
        may
    }

    /// What came of one.
    pub(super) fn was(&self, right: bool) {
        let mut record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        record.wrong = if right { 0 } else { record.wrong.saturating_add(1) };
        let doubled = record.wrong.checked_sub(WRONG).map(|more| 1_u32.checked_shl(more).unwrap_or(u32::MAX));
        record.skip = doubled.unwrap_or(0).min(MOST_SKIPPED);
    }
}

fn is_wanted(put: &Put) -> bool {
    matches!(put, Put::File { source: Source::Fetch, remote, .. } if is_taken_apart(remote.entry.content.size()))
}

/// Whether old and new can be there at the same time.
fn is_room_for(context: &Context, plan: &Plan) -> bool {
    let comes = plan.files.iter().filter(|put| matches!(put, Put::File { .. }));
    let bytes: u64 = comes.map(|put| put.remote().entry.content.size()).sum();
    // Where the system cannot say there is room until the contrary shows.
    free_bytes(context.root.dir().as_fd()).is_none_or(|free| free > bytes)
}

/// A large file of the target that the plan takes away from its place.
struct Candidate {
    path: TreePath,
    node: Node,
}

fn leaving(plan: &Plan) -> Vec<Candidate> {
    let removed = plan.clear.iter().filter_map(|clear| match clear {
        Clear::Remove { path, local, .. } => Some((path, local)),
        _ => None,
    });
    let replaced = plan.files.iter().filter_map(|put| match put {
        Put::File { path, over: Some(Over { local, .. }), .. } => Some((path, local)),
        _ => None,
    });
    let all = removed.chain(replaced).filter(|(_, local)| content_of(local).is_some());
    all.map(|(path, node)| Candidate { path: path.clone(), node: node.clone() }).collect()
}

/// The size and digest of a large file.
fn content_of(node: &Node) -> Option<(u64, Digest)> {
    match node.entry.content {
        Content::File { size, digest } if is_taken_apart(size) => Some((size, digest)),
        _ => None,
    }
}

struct Choice {
    path: TreePath,
    node: Node,
    relation: Relation,
}

impl Choice {
    fn into_old(self, file: File) -> Old {
        let (size, digest) = content_of(&self.node).unwrap_or((0, Digest([0; 32])));
        Old { file, size, digest, relation: self.relation }
    }
}

fn choose(context: &Context, put: &Put, leaving: &[Candidate]) -> Result<Option<Choice>, EngineError> {
    let Put::File { remote, over, .. } = put else { return Ok(None) };
    let over = over.as_ref().map(|over| &over.local);
    let of = |candidate: &Candidate, relation| {
        let Candidate { path, node } = candidate;
        Some(Choice { path: path.clone(), node: node.clone(), relation })
    };
    if !leaving.is_empty()
        && let Some(was) = context.store.index().read(|db| local_of(db, remote.id))?
        && over.is_none_or(|over| over.id != was)
        && let Some(origin) = leaving.iter().find(|candidate| candidate.node.id == was)
    {
        return Ok(of(origin, Relation::Earlier));
    }
    if over.is_some_and(|over| content_of(over).is_some()) {
        return Ok(None);
    }
    let ranked = leaving.iter().filter_map(|candidate| Some((rank(remote, &candidate.node)?, candidate)));
    if let Some((_, best)) = ranked.min_by_key(|(rank, _)| *rank) {
        return Ok(of(best, Relation::Leaves));
    }
    beside(context, put)
}

/// A file that stays in the same directory.
fn beside(context: &Context, put: &Put) -> Result<Option<Choice>, EngineError> {
    let (remote, index) = (put.remote(), context.store.index());
    let near = index.read(|db| match local_of(db, remote.parent)? {
        Some(parent) => index.table().near(db, parent, &remote.name),
        None => Ok(Vec::new()),
    })?;
    let ranked = near.into_iter().filter_map(|IndexedNode { node, .. }| Some((rank(remote, &node)?, node)));
    let best = ranked.filter(|((likeness, _), _)| *likeness != Likeness::None).min_by_key(|(rank, _)| *rank);
    let above = put.path().parent().unwrap_or_default();
    Ok(best.map(|(_, node)| Choice { path: above.join(&node.name), node, relation: Relation::Stays }))
}

/// What a name says about another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Likeness {
    Same,
    /// But for digits, as versions and dates are.
    ButForDigits,
    None,
}

/// How well one file may stand for another: the smaller, the better. `None`: not at all.
fn rank(wanted: &Node, other: &Node) -> Option<(Likeness, u64)> {
    let (size, (of, _)) = (wanted.entry.content.size(), content_of(other)?);
    let apart = size.abs_diff(of);
    let likeness = likeness(&wanted.name, &other.name);
    let fits = match likeness {
        Likeness::None => apart <= size / CLOSE_PART,
        _ => size <= of.saturating_mul(LARGER) && of <= size.saturating_mul(LARGER),
    };
    fits.then_some((likeness, apart))
}

fn likeness(name: &str, other: &str) -> Likeness {
    let text = |name: &str| -> String { name.chars().filter(|letter| !letter.is_ascii_digit()).collect() };
    if name == other {
        Likeness::Same
    } else if text(name) == text(other) {
        Likeness::ButForDigits
    } else {
        Likeness::None
    }
}

/// Takes those of these removals out of the plan whose places are needed by nothing else in it.
fn take_out(plan: &mut Plan, used: &HashSet<NodeId>) -> Vec<Clear> {
    if used.is_empty() {
        return Vec::new();
    }
    let waits = |clear: &Clear| match clear {
        Clear::Remove { path, local, .. } => used.contains(&local.id) && is_nobodys(path, plan),
        _ => false,
    };
    let waiting: HashSet<TreePath> =
        plan.clear.iter().filter(|clear| waits(clear)).map(|clear| clear.path().clone()).collect();
    let (later, now) = std::mem::take(&mut plan.clear)
        .into_iter()
        .partition(|clear| matches!(clear, Clear::Remove { .. }) && waiting.contains(clear.path()));
    plan.clear = now;
    later
}

/// Whether nothing else of the plan is about this place, one above it or one below it.
fn is_nobodys(path: &TreePath, plan: &Plan) -> bool {
    let goes_in = |place: &TreePath| place.is_within(path);
    let clears = |clear: &Clear| match clear {
        Clear::Move { from, to, .. } => goes_in(to) || path.is_within(from),
        Clear::RemoveDir { path: above, .. } | Clear::TakeOut { path: above, .. } => path.is_within(above),
        Clear::Remove { .. } => false,
    };
    let builds = |build: &Build| goes_in(build.path());
    !plan.files.iter().any(|put| goes_in(put.path()))
        && !plan.build.iter().any(builds)
        && !plan.clear.iter().any(clears)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_alike_or_not() {
        for (name, other, want) in [
            ("a", "a", Likeness::Same),
            ("db-2026-11-24.dump", "db-2026-11-25.dump", Likeness::ButForDigits),
            ("app-1.9.iso", "app-1.10.iso", Likeness::ButForDigits),
            ("log", "log.1", Likeness::None),
            ("holiday.mp4", "wedding.mp4", Likeness::None),
        ] {
            assert_eq!(likeness(name, other), want, "{name} {other}");
        }
    }

    #[test]
    fn wrong_guesses_become_rare_and_a_right_one_makes_up_for_them() {
        let guesses = Guesses::default();
        let made = |wrong: usize| {
            (0..wrong).filter(|_| guesses.may_be_made()).inspect(|_| guesses.was(false)).count()
        };
        assert_eq!(made(3), 3, "some are always made");
        let many = made(1000);
        assert!((10..30).contains(&many), "{many} of a thousand");
        while !guesses.may_be_made() {}
        guesses.was(true);
        assert_eq!(made(3), 3);
    }
}
