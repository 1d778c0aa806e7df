//! Directories that are other file systems than their parents.
//!
//! A mount that is missing leaves an empty directory that looks as if everything below had been deleted; one that came over
//! a full directory looks as if everything had been replaced. Neither may travel. So the boundaries are remembered, also
//! across restarts, and where one came or went the subtree is left as it is known until it is back or a person accepts it.

use std::collections::BTreeSet;

use sync_core::TreePath;

/// The known boundaries.
#[derive(Debug, Default, Clone)]
pub(super) struct Mounts {
    known: BTreeSet<TreePath>,
}

/// What to do with a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Boundary {
    /// Go in.
    Enter,
    /// Go in, and remember that it is a boundary.
    EnterMount,
    /// Stay out: the mount that was here is gone.
    Missing,
    /// Stay out: something was mounted over what is known.
    Covered,
}

impl Mounts {
    pub(super) fn new(known: Vec<TreePath>) -> Self {
        Self { known: known.into_iter().collect() }
    }

    /// Decides about one directory. `crosses`: its device is not its parent's. `holds`: the index knows something below it.
    pub(super) fn decide(&self, path: &TreePath, crosses: bool, holds: bool) -> Boundary {
        match (crosses, self.known.contains(path)) {
            (false, false) => Boundary::Enter,
            (true, true) => Boundary::EnterMount,
            (false, true) if holds => Boundary::Missing,
            (true, false) if holds => Boundary::Covered,
            (false, true) => Boundary::Enter,
            (true, false) => Boundary::EnterMount,
        }
    }

    pub(super) fn is_known(&self, path: &TreePath) -> bool {
        self.known.contains(path)
    }

    pub(super) fn known(&self) -> Vec<TreePath> {
        self.known.iter().cloned().collect()
    }

    pub(super) fn add(&mut self, path: TreePath) -> bool {
        self.known.insert(path)
    }

    /// Forgets boundaries at or below a place that was looked at and has none any more.
    pub(super) fn retain_seen(&mut self, covered: &TreePath, seen: &BTreeSet<TreePath>) -> bool {
        let before = self.known.len();
        self.known.retain(|path| !path.is_within(covered) || seen.contains(path));
        before != self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundary_truth_table() {
        let path = TreePath::new("mnt").unwrap();
        let known = Mounts::new(vec![path.clone()]);
        let none = Mounts::default();
        for (mounts, crosses, holds, want) in [
            (&none, false, true, Boundary::Enter),
            (&none, false, false, Boundary::Enter),
            (&none, true, false, Boundary::EnterMount),
            (&none, true, true, Boundary::Covered),
            (&known, true, true, Boundary::EnterMount),
            (&known, true, false, Boundary::EnterMount),
            (&known, false, true, Boundary::Missing),
            (&known, false, false, Boundary::Enter),
        ] {
            assert_eq!(mounts.decide(&path, crosses, holds), want, "{crosses} {holds}");
        }
    }
}
