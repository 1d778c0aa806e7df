//! Which new directories of a plan can be filled where nobody sees them, and appear whole.
//!
//! Such a directory is new, and so is all that comes into it: small files, and nothing else. So whoever carries the plan out may
//! make it elsewhere, without looking at each place in it, and give it its name in the end. Large directories are left out: what
//! came of one must neither wait long for the rest nor be held in memory.

use std::collections::HashMap;

use super::{Build, Finish, Plan, Put, Source};
use crate::{
    entry::{Node, NodeId},
    name::TreePath,
};

/// More files are not held back for each other: what is known of each is in memory meanwhile.
pub(super) const MOST_FILES: usize = 1024;
/// Nor more bytes: a run that is killed brings them again.
const MOST_BYTES: u64 = 4 << 20;

/// What the owner of a directory needs to move it.
const OWNER_BITS: u16 = 0o700;

/// A new directory that appears with its files in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// Its place.
    pub path: TreePath,
    /// What it should be like.
    pub remote: Node,
    /// How many of the plan's files come into it.
    pub files: usize,
}

impl Whole {
    /// The same for whoever makes it in its place.
    #[must_use]
    pub fn in_place(self) -> (Build, Finish) {
        let Self { path, remote, .. } = self;
        (Build::MakeDir { path: path.clone(), remote: remote.clone() }, Finish { path, remote })
    }
}

/// Takes the directories that can appear whole out of a plan, which keeps their files. `is_leaf` says of a directory whether the
/// plan has all that comes into it.
pub fn take_wholes(plan: &mut Plan, is_leaf: impl Fn(NodeId) -> bool) -> Vec<Whole> {
    // Where something makes way first, the order of the phases matters.
    if !plan.clear.is_empty() || !plan.captures.is_empty() {
        return Vec::new();
    }
    let found = suitable(plan, is_leaf);
    if found.is_empty() {
        return Vec::new();
    }
    plan.finish.retain(|finish| !found.contains_key(&finish.remote.id));
    let mut wholes = Vec::with_capacity(found.len());
    plan.build = std::mem::take(&mut plan.build)
        .into_iter()
        .filter_map(|build| match build {
            Build::MakeDir { path, remote } if found.contains_key(&remote.id) => {
                wholes.push(Whole { files: found[&remote.id].files, path, remote });
                None
            }
            other => Some(other),
        })
        .collect();
    wholes
}

/// What comes into a new directory.
#[derive(Default)]
struct Content {
    files: usize,
    bytes: u64,
    others: bool,
}

fn suitable(plan: &Plan, is_leaf: impl Fn(NodeId) -> bool) -> HashMap<NodeId, Content> {
    let mut found: HashMap<NodeId, Content> = HashMap::new();
    for build in &plan.build {
        if let Build::MakeDir { remote, .. } = build
            && remote.entry.mode & OWNER_BITS == OWNER_BITS
            && is_leaf(remote.id)
        {
            found.insert(remote.id, Content::default());
        }
    }
    for build in &plan.build {
        let (Build::MakeDir { remote, .. } | Build::PutIn { remote, .. }) = build;
        found.remove(&remote.parent);
    }
    for put in &plan.files {
        let Some(content) = found.get_mut(&put.remote().parent) else { continue };
        match put {
            Put::File { remote, over: None, source: Source::Fetch, .. } => {
                content.files += 1;
                content.bytes = content.bytes.saturating_add(remote.entry.content.size());
            }
            _ => content.others = true,
        }
    }
    let fits = |content: &Content| {
        !content.others && (1..=MOST_FILES).contains(&content.files) && content.bytes <= MOST_BYTES
    };
    found.retain(|_, content| fits(content));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        entry::{self, Digest, Entry, Time},
        name::Name,
        plan::{Clear, Displaced, Over},
    };

    fn node(id: u64, parent: u64, content: entry::Content, mode: u16) -> Node {
        let name = Name::new(&format!("n{id}")).unwrap();
        let entry = Entry { content, mtime: Time::default(), mode };
        Node { id: NodeId(id), parent: NodeId(parent), name, entry }
    }

    fn path(node: &Node) -> TreePath {
        TreePath::new(&format!("{}/{}", node.parent.0, node.name.as_str())).unwrap()
    }

    fn file(id: u64, parent: u64, size: u64) -> Put {
        let digest = Digest::of(&id.to_le_bytes());
        let remote = node(id, parent, entry::Content::File { size, digest }, 0o644);
        Put::File { path: path(&remote), remote, over: None, source: Source::Fetch }
    }

    fn with_dirs(dirs: &[(u64, u64, u16)], files: Vec<Put>) -> Plan {
        let mut plan = Plan { files, ..Plan::default() };
        for (id, parent, mode) in dirs {
            let remote = node(*id, *parent, entry::Content::Directory, *mode);
            plan.build.push(Build::MakeDir { path: path(&remote), remote: remote.clone() });
            plan.finish.push(Finish { path: path(&remote), remote });
        }
        plan
    }

    fn taken(plan: &mut Plan, is_leaf: impl Fn(NodeId) -> bool) -> Vec<(u64, usize)> {
        let (dirs, files) = (plan.build.len(), plan.files.len());
        let wholes = take_wholes(plan, is_leaf);
        assert_eq!(plan.build.len() + wholes.len(), dirs);
        assert_eq!(plan.finish.len() + wholes.len(), dirs);
        assert_eq!(plan.files.len(), files, "the files stay in the plan");
        wholes.iter().map(|whole| (whole.remote.id.0, whole.files)).collect()
    }

    #[test]
    fn only_leaves_that_get_files_and_nothing_else_are_taken() {
        let dirs = [(1, 0, 0o755), (2, 1, 0o755), (3, 1, 0o555), (4, 1, 0o700)];
        let files = || vec![file(11, 1, 5), file(12, 2, 5), file(13, 2, 6), file(14, 3, 5)];
        assert_eq!(taken(&mut with_dirs(&dirs, files()), |_| true), [(2, 2)]);
        assert_eq!(taken(&mut with_dirs(&dirs, files()), |id| id.0 != 2), []);
        // A file in a directory that was here before is nobody's concern.
        assert_eq!(taken(&mut with_dirs(&[], vec![file(11, 1, 5)]), |_| true), []);
    }

    #[test]
    fn large_ones_and_those_with_what_is_here_are_left_out() {
        let dirs = [(1, 0, 0o755)];
        let many = |count: usize| (0..count as u64).map(|id| file(10 + id, 1, 1)).collect::<Vec<_>>();
        assert_eq!(taken(&mut with_dirs(&dirs, many(MOST_FILES)), |_| true), [(1, MOST_FILES)]);
        assert_eq!(taken(&mut with_dirs(&dirs, many(MOST_FILES + 1)), |_| true), []);
        assert_eq!(taken(&mut with_dirs(&dirs, vec![file(2, 1, MOST_BYTES)]), |_| true), [(1, 1)]);
        assert_eq!(taken(&mut with_dirs(&dirs, vec![file(2, 1, MOST_BYTES), file(3, 1, 1)]), |_| true), []);
        let Put::File { path, remote, .. } = file(2, 1, 1) else { unreachable!() };
        let over = Some(Over { local: remote.clone(), displaced: Displaced::Trash });
        for other in [
            Put::Link { path: path.clone(), remote: remote.clone(), over: None },
            Put::Metadata { path: path.clone(), remote: remote.clone(), local: remote.clone() },
            Put::File { path: path.clone(), remote: remote.clone(), over, source: Source::Fetch },
            Put::File { path, remote, over: None, source: Source::Captured },
        ] {
            assert_eq!(taken(&mut with_dirs(&dirs, vec![file(3, 1, 1), other]), |_| true), []);
        }
    }

    #[test]
    fn nothing_is_taken_where_something_makes_way() {
        let mut plan = with_dirs(&[(1, 0, 0o755)], vec![file(2, 1, 1)]);
        let local = node(9, 0, entry::Content::Directory, 0o755);
        plan.clear.push(Clear::RemoveDir { path: path(&local), local });
        assert_eq!(taken(&mut plan, |_| true), []);
    }
}
