//! Which places have to be looked at.
//!
//! Bounded: beyond [`MOST_PLACES`] distinct places the set collapses to "everything", which is always a correct answer.

use std::{
    collections::HashMap,
    path::{Component, Path},
};

use sync_core::{Name, NameError, TreePath};

/// More distinct places than this cost more than looking at everything.
pub(crate) const MOST_PLACES: usize = 100_000;

/// A set of places to look at.
#[derive(Debug, Default)]
pub(crate) struct DirtySet {
    everything: bool,
    /// Whether everything below the place has to be looked at too.
    places: HashMap<TreePath, bool>,
}

/// What a [`DirtySet`] held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dirt {
    /// The whole tree.
    Everything,
    /// These places, in path order, none below a deep one; true: with all that is below.
    Places(Vec<(TreePath, bool)>),
}

impl DirtySet {
    /// Adds a place; `deep` takes everything below it along.
    pub(crate) fn mark(&mut self, path: TreePath, deep: bool) {
        if self.everything {
            return;
        }
        if deep && path.is_root() {
            return self.mark_everything();
        }
        *self.places.entry(path).or_default() |= deep;
        if self.places.len() > MOST_PLACES {
            self.mark_everything();
        }
    }

    /// Adds the whole tree.
    pub(crate) fn mark_everything(&mut self) {
        self.everything = true;
        self.places = HashMap::new();
    }

    /// Whether nothing has to be looked at.
    pub(crate) fn is_empty(&self) -> bool {
        !self.everything && self.places.is_empty()
    }

    /// Whether it is the whole tree.
    pub(crate) fn is_everything(&self) -> bool {
        self.everything
    }

    /// Empties the set.
    pub(crate) fn take(&mut self) -> Dirt {
        let set = std::mem::take(self);
        if set.everything {
            return Dirt::Everything;
        }
        let mut places: Vec<_> = set.places.into_iter().collect();
        places.sort_unstable_by(|(a, _), (b, _)| a.cmp_in_walk(b));
        let mut cover: Option<TreePath> = None;
        places.retain(|(path, deep)| {
            if cover.as_ref().is_some_and(|cover| path.is_within(cover)) {
                return false;
            }
            if *deep {
                cover = Some(path.clone());
            }
            true
        });
        Dirt::Places(places)
    }
}

/// Where in the tree a path of an event lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Located {
    /// There.
    At(TreePath),
    /// Its name (or one above) cannot be an entry's: the directory that holds it has to be looked at instead.
    In(TreePath),
    /// In the tree's own state directory, or not in the tree at all: of no interest.
    Elsewhere,
}

/// Finds the place of a path below `root`.
pub(crate) fn locate(root: &Path, path: &Path) -> Located {
    let Ok(relative) = path.strip_prefix(root) else { return Located::Elsewhere };
    let mut at = TreePath::root();
    for component in relative.components() {
        let Component::Normal(name) = component else { return Located::Elsewhere };
        match Name::from_bytes(name.as_encoded_bytes()) {
            Ok(name) => at = at.join(&name),
            Err(NameError::Reserved) => return Located::Elsewhere,
            Err(_) => return Located::In(at),
        }
    }
    Located::At(at)
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    fn places(list: &[(&str, bool)]) -> Dirt {
        Dirt::Places(list.iter().map(|(text, deep)| (path(text), *deep)).collect())
    }

    #[test]
    fn a_deep_place_covers_what_is_below_it_and_nothing_else() {
        let mut set = DirtySet::default();
        for (text, deep) in [
            ("a/b", false),
            ("a", true),
            ("a-b", false),
            ("ab/c", false),
            ("a/c/d", true),
            ("z", false),
            ("z", true),
        ] {
            set.mark(path(text), deep);
        }
        assert_eq!(set.take(), places(&[("a", true), ("a-b", false), ("ab/c", false), ("z", true)]));
        assert!(set.is_empty());
        assert_eq!(set.take(), places(&[]));
    }

    #[test]
    fn a_shallow_place_covers_only_itself() {
        let mut set = DirtySet::default();
        set.mark(path("a"), false);
        set.mark(path("a/b"), false);
        set.mark(TreePath::root(), false);
        assert_eq!(set.take(), places(&[("", false), ("a", false), ("a/b", false)]));
    }

    #[test]
    fn too_many_places_are_everything() {
        let mut set = DirtySet::default();
        for number in 0..MOST_PLACES {
            set.mark(path(&format!("f{number}")), false);
        }
        set.mark(path("f0"), false);
        assert!(!set.everything);
        set.mark(path("one-more"), false);
        assert_eq!(set.take(), Dirt::Everything);
        set.mark(TreePath::root(), true);
        set.mark(path("a"), false);
        assert_eq!(set.take(), Dirt::Everything);
    }

    #[test]
    fn events_are_located_in_the_tree() {
        let root = Path::new("/srv/share");
        let at = |text: &str| Located::At(path(text));
        let odd = root.join("a").join(OsStr::from_bytes(b"\xff")).join("b");
        for (event, want) in [
            (root.to_path_buf(), at("")),
            (root.join("a/b"), at("a/b")),
            (root.join("中/文"), at("中/文")),
            (odd, Located::In(path("a"))),
            (root.join(".syncd/cookies/1"), Located::Elsewhere),
            (root.join("a/.SYNCD"), Located::Elsewhere),
            ("/srv/share2/a".into(), Located::Elsewhere),
        ] {
            assert_eq!(locate(root, &event), want, "{}", event.display());
        }
    }
}
