//! What could not be read before, and a look at some places.

use std::time::{Duration, Instant};

use sync_core::Problem;

use super::*;

fn problem(place: &str) -> Problem {
    Problem { unknown: false, ..Problem::new(path(place), "somebody forbids it") }
}

impl Scene {
    fn has_problems(&self, places: impl IntoIterator<Item = String>) {
        let problems: Vec<_> = places.into_iter().map(|place| problem(&place)).collect();
        let all: Vec<_> = problems.iter().collect();
        self.looker.index().write(|tx| tx.change_problems(&[], &all)).unwrap();
    }

    fn troubled(&self) -> Vec<String> {
        let problems = self.looker.index().problems().unwrap();
        problems.into_iter().map(|problem| problem.path.as_str().to_owned()).collect()
    }
}

#[test]
fn only_problems_of_places_that_were_looked_at_are_void() {
    let all = ["a", "a b", "a!/x", "a/b", "a/b/c", "a/bc", "a0", "z"];
    for (place, deep, stay) in [
        ("a", true, &["a b", "a!/x", "a0", "z"][..]),
        ("a/b", true, &["a", "a b", "a!/x", "a/bc", "a0", "z"]),
        ("a0", false, &["a", "a b", "a!/x", "a/b", "a/b/c", "a/bc", "z"]),
        ("", true, &[]),
    ] {
        let scene = Scene::new();
        for file in ["a/b/c", "a0", "z"] {
            scene.write(file, "text");
        }
        scene.look_at_all();
        scene.has_problems(all.map(str::to_owned));
        let looked = Scope::Places(vec![Dirty { path: path(place), deep }]);
        assert!(scene.look(&looked).problems_changed);
        assert_eq!(scene.troubled(), stay, "{place:?}");
        assert!(!scene.look(&looked).problems_changed, "{place:?}: nothing is new");
    }
}

#[test]
fn a_directory_that_could_not_be_read_is_read_once_somebody_looks() {
    let scene = Scene::new();
    scene.write("dir/file", "text");
    scene.look_at_all();
    scene.has_problems(["dir".to_owned()]);
    scene.write("dir/file", "changed");
    scene.look(&Scope::Places(vec![Dirty { path: path("dir"), deep: false }]));
    assert!(scene.troubled().is_empty());
    assert_eq!(scene.find("dir/file").unwrap().node.entry.content.size(), 7);
}

/// A small change costs the same however much cannot be read elsewhere.
#[test]
fn problems_elsewhere_cost_nothing() {
    let scene = Scene::new();
    scene.write("file", "text");
    scene.look_at_all();
    let looked = Scope::Places(vec![Dirty { path: path("file"), deep: false }]);
    let least = || {
        let time = |_| {
            let began = Instant::now();
            scene.look(&looked);
            began.elapsed()
        };
        (0..20).map(time).min().unwrap()
    };
    let before = least();
    scene.has_problems((0..100_000).map(|number| format!("dir/unreadable {number}")));
    let after = least();
    assert!(after < before * 4 + Duration::from_millis(10), "{before:?} without, {after:?} with");
    assert_eq!(scene.troubled().len(), 100_000);
}
