//! Directories that are other file systems than their parents.
//!
//! A mount that is missing leaves an empty directory that looks as if everything below had been deleted; one that came over
//! a full directory looks as if everything had been replaced. Neither may travel. So the boundaries are remembered, also
//! across restarts, and where one came or went the subtree is left as it is known until it is back or a person accepts it.
//!
//! Mounting gives no events, so between looks somebody has to ask for [`Mounts::changed`] now and then.

use std::collections::{BTreeMap, BTreeSet};

use sync_core::TreePath;

/// The known boundaries.
#[derive(Debug, Default, Clone)]
pub(super) struct Mounts {
    known: BTreeSet<TreePath>,
    /// Places that the last look stayed out of, and whether there was a boundary then.
    left_alone: BTreeMap<TreePath, bool>,
    /// What [`Mounts::changed`] has told of since; nothing is told twice.
    told: BTreeMap<TreePath, Option<bool>>,
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
        Self { known: known.into_iter().collect(), ..Self::default() }
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

    /// Whether this place, or one above it, is a boundary.
    pub(super) fn is_known_above(&self, path: &TreePath) -> bool {
        self.known.iter().any(|known| path.is_within(known))
    }

    pub(super) fn known(&self) -> Vec<TreePath> {
        self.known.iter().cloned().collect()
    }

    pub(super) fn add(&mut self, path: TreePath) -> bool {
        self.known.insert(path)
    }

    /// Forgets boundaries at or below a place that was looked at and has none any more. What could not be looked at may
    /// still have one: a dead file system cannot be read either, and is an empty directory once it is gone.
    pub(super) fn retain_seen(
        &mut self,
        covered: &TreePath,
        seen: &BTreeSet<TreePath>,
        unknown: &[&TreePath],
    ) -> bool {
        let before = self.known.len();
        let is_unknown = |path: &TreePath| unknown.iter().any(|place| path.is_within(place));
        self.known.retain(|path| !path.is_within(covered) || seen.contains(path) || is_unknown(path));
        before != self.known.len()
    }

    /// A place was looked at, with all that is below it if `deep`. Where that look stayed out is told after.
    pub(super) fn looked_at(&mut self, place: &TreePath, deep: bool) {
        self.left_alone.retain(|path, _| if deep { !path.is_within(place) } else { path != place });
    }

    /// A look stayed out of this place.
    pub(super) fn leave_alone(&mut self, path: TreePath, crosses: bool) {
        self.left_alone.insert(path, crosses);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.left_alone.is_empty()
    }

    /// The places where it is not as the last look found it. `crosses` says whether there is a boundary now, or nothing if
    /// that cannot be told.
    pub(super) fn changed(&mut self, crosses: impl Fn(&TreePath) -> Option<bool>) -> Vec<TreePath> {
        let places: BTreeSet<&TreePath> = self.known.iter().chain(self.left_alone.keys()).collect();
        let told = std::mem::take(&mut self.told);
        let mut changed = Vec::new();
        for path in places {
            let (found, now) = (self.left_alone.get(path).copied().unwrap_or(true), crosses(path));
            if now == Some(found) {
                continue;
            }
            if told.get(path) != Some(&now) {
                changed.push(path.clone());
            }
            self.told.insert(path.clone(), now);
        }
        changed
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

    #[test]
    fn what_cannot_be_looked_at_keeps_its_boundaries() {
        let path = |text| TreePath::new(text).unwrap();
        let (gone, dead, below) = (path("gone"), path("dead"), path("dead/below"));
        let mut mounts = Mounts::new(vec![gone, dead.clone(), below.clone()]);
        assert!(mounts.retain_seen(&TreePath::root(), &BTreeSet::new(), &[&dead]));
        assert_eq!(mounts.known(), [dead, below]);
    }

    #[test]
    fn a_boundary_that_comes_or_goes_is_told_once() {
        let path = TreePath::new("mnt").unwrap();
        let mut mounts = Mounts::new(vec![path.clone()]);
        let told = |mounts: &mut Mounts, now| mounts.changed(|_| now) == std::slice::from_ref(&path);
        assert!(!told(&mut mounts, Some(true)), "as it was found");
        assert!(told(&mut mounts, Some(false)), "unmounted");
        assert!(!told(&mut mounts, Some(false)), "told already");
        mounts.leave_alone(path.clone(), false);
        assert!(!told(&mut mounts, Some(false)), "as it was found");
        assert!(told(&mut mounts, Some(true)), "mounted again");
        assert!(told(&mut mounts, None), "dead");
        mounts.looked_at(&path, false);
        assert!(!told(&mut mounts, Some(true)), "as it was found");
    }
}
