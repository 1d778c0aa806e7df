//! Finds the node that moved to where something was found: one with its inode whose own place is empty now.

use sync_core::{Content, Node, TreePath};

use super::walk::{Walker, is_gone};
use crate::{
    index::{IndexedNode, Inodes},
    rooted::{Dir, Stat},
};

/// A node and the place that it had.
pub(super) type Claim = (IndexedNode, TreePath);

/// Fewer new names are asked for one by one.
const FEW: usize = 4;

impl Walker<'_> {
    /// What is known of the inodes of new names. Most were made where they are, and their inodes lie close together.
    pub(super) fn inodes_among(&self, new: &[u64]) -> Inodes {
        if new.len() < FEW {
            return Inodes::default();
        }
        // If the index cannot tell, it is asked again for each.
        self.index.inodes_among(new).unwrap_or_default()
    }

    /// The node that moved to where this inode was found: one whose own place lost it.
    pub(super) fn claim(&self, ino: u64, alike: impl Fn(&Node) -> bool) -> Option<Claim> {
        for candidate in self.index.with_inode(ino).ok()? {
            if !alike(&candidate.node) {
                continue;
            }
            let Some(from) = self.index.path_of(candidate.node.id).ok()? else { continue };
            if !self.is_empty_place(&from) {
                continue;
            }
            let mut claimed = self.claimed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if claimed.insert(candidate.node.id) {
                return Some((candidate, from));
            }
        }
        None
    }

    /// Inode numbers are used again soon, and what is in a new directory often has the names of what was in the old one. So it
    /// must have its time, or have something in it that was there and has not changed: a rename touches neither. If it moved
    /// and all of that changed since, it is a new one, and what is still the same in it is found to be so later.
    pub(super) fn claim_dir(&self, stat: &Stat, dir: &Dir) -> Option<Claim> {
        let is_the_same = |child: &IndexedNode| {
            let (ino, mtime) = (child.identity.ino, child.node.entry.mtime);
            dir.stat(&child.node.name).is_ok_and(|seen| (seen.ino, seen.mtime) == (ino, mtime))
        };
        self.claim(stat.ino, |node| {
            node.entry.content.is_dir()
                && (node.entry.mtime == stat.mtime
                    || self
                        .index
                        .children(node.id)
                        .is_ok_and(|children| children.is_empty() || children.iter().any(is_the_same)))
        })
    }

    /// A directory that cannot be read has only its time in common with the one it was; a rename does not change that.
    pub(super) fn claim_unread_dir(&self, stat: &Stat) -> Option<Claim> {
        self.claim(stat.ino, |node| node.entry.content.is_dir() && node.entry.mtime == stat.mtime)
    }

    /// The file that was renamed, if it cannot be read where it is now. A rename changes its change time only.
    pub(super) fn claim_unread_file(&self, stat: &Stat) -> Option<Claim> {
        self.claim(stat.ino, |node| is_unchanged_file(node, stat))
    }

    /// What is known of a file that cannot be read, wherever that was.
    pub(super) fn known_unread_file(&self, stat: &Stat) -> Option<IndexedNode> {
        let candidates = self.index.with_inode(stat.ino).ok()?;
        candidates.into_iter().find(|candidate| is_unchanged_file(&candidate.node, stat))
    }

    fn is_empty_place(&self, path: &TreePath) -> bool {
        match self.root.open_parent(path).and_then(|(dir, name)| dir.stat(&name)) {
            Ok(_) => false,
            Err(error) => is_gone(&error),
        }
    }
}

fn is_unchanged_file(node: &Node, stat: &Stat) -> bool {
    matches!(node.entry.content, Content::File { size, .. } if size == stat.size)
        && node.entry.mtime == stat.mtime
}
