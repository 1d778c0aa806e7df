//! Ignore rules that a look finds on its way.

use std::time::{Duration, Instant};

use super::*;
use crate::{
    probe::{self, Call, OpKind, Probe},
    rules::{MAX_SET_BYTES, MAX_TEXT_BYTES, SYNCIGNORE},
};

/// Whether the files of one directory are in the index.
#[track_caller]
fn assert_known(scene: &Scene, dir: &str, files: &[(&str, bool)]) {
    for (name, known) in files {
        assert_eq!(scene.id(&format!("{dir}/{name}")).is_some(), *known, "{name}");
    }
}

#[test]
fn many_rule_files_that_change_at_once_apply_in_the_look_that_finds_them() {
    const DIRS: usize = 1500;
    let scene = Scene::new();
    scene.write(".syncignore", "*.tmp\n");
    let dir = |number: usize| format!("a/{}/{number}", number % 10);
    for number in 0..DIRS {
        let dir = dir(number);
        scene.write(&format!("{dir}/.syncignore"), &format!("*.log\nonly{number}\n!keep.tmp\n"));
        for name in ["x.log", "x.tmp", "keep.tmp", &format!("only{number}")] {
            scene.write(&format!("{dir}/{name}"), "x");
        }
    }
    scene.look_at_all();
    assert_eq!(scene.looker.index().head().unwrap().files as usize, 1 + 2 * DIRS);
    assert_known(
        &scene,
        "a/8/8",
        &[("x.log", false), ("x.tmp", false), ("keep.tmp", true), ("only8", false)],
    );

    for number in 0..DIRS {
        scene.write(&format!("{}/.syncignore", dir(number)), &format!("only{number}\n"));
    }
    let began = Instant::now();
    scene.look_at_all();
    // Compiling all rules again for each of them takes minutes.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_known(
        &scene,
        "a/8/8",
        &[("x.log", true), ("x.tmp", false), ("keep.tmp", false), ("only8", false)],
    );

    fs::remove_file(scene.root.join("a/8/8/.syncignore")).unwrap();
    scene.write("a/.syncignore", "x.log\n");
    scene.look_at_all();
    assert_known(
        &scene,
        "a/8/8",
        &[("x.log", false), ("x.tmp", false), ("keep.tmp", false), ("only8", true)],
    );
}

#[test]
fn rules_that_find_no_room_hide_nothing() {
    let scene = Scene::new();
    let text = format!("*.log\n{}\n", "#".repeat(MAX_TEXT_BYTES - 20));
    let fit = MAX_SET_BYTES / MAX_TEXT_BYTES - 1;
    for number in 0..fit + 3 {
        scene.write(&format!("{number:03}/.syncignore"), &text);
        scene.write(&format!("{number:03}/x.log"), "x");
    }
    let hidden = |scene: &Scene| -> Vec<usize> {
        (0..fit + 3).filter(|number| scene.id(&format!("{number:03}/x.log")).is_none()).collect()
    };
    let first: Vec<usize> = (0..fit).collect();
    scene.look_at_all();
    assert_eq!(hidden(&scene), first);
    // One more, where there is no room.
    scene.write("zzz/.syncignore", "*.log\n");
    scene.write("zzz/x.log", "x");
    scene.look_at_all();
    assert!(scene.id("zzz/x.log").is_some());
    assert_eq!(hidden(&scene), first);
    // There is room again.
    fs::remove_file(scene.root.join("000/.syncignore")).unwrap();
    scene.look_at_all();
    assert_eq!(hidden(&scene), (1..=fit).collect::<Vec<_>>());
}

/// Nothing can be found out about rule files.
struct NoRules;

impl Probe for NoRules {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        match call.op.kind() == OpKind::Reads && call.name == SYNCIGNORE.as_bytes() {
            true => Err(rustix::io::Errno::IO.into()),
            false => Ok(()),
        }
    }
}

#[test]
fn of_a_directory_whose_rules_cannot_even_be_looked_at_nothing_is_taken_in() {
    let scene = Scene::new();
    scene.write("private/known", "x");
    scene.look_at_all();
    scene.write("private/.syncignore", "secret\n");
    scene.write("private/secret", "nobody's business");
    let new = Scope::Places(vec![Dirty { path: path("private/secret"), deep: true }]);
    {
        let _listening = probe::install(&scene.root, Arc::new(NoRules));
        for scope in [&new, &Scope::Everything] {
            scene.look(scope);
            assert_eq!(scene.unknown(), ["private/.syncignore"]);
            assert_known(&scene, "private", &[("known", true), ("secret", false)]);
        }
    }
    scene.look_at_all();
    assert_known(&scene, "private", &[("known", true), ("secret", false)]);
}
