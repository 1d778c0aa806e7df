//! The program ends in the middle: at a step, the next run's recovery does its work.

use super::*;

/// Recovers as the next run does, and says what it found.
pub(super) fn next_run(root: &Root) -> Vec<Recovered> {
    applier(root, Durability::None, RUN).recover().unwrap()
}

/// Runs `act`, and at `step` lets the next run recover and `check` what it left. What `act` does after that does not count.
fn ends_at(
    target: &Target,
    step: Op,
    check: impl Fn(&Target, &[Recovered]) + Send + Sync,
    act: impl FnOnce(),
) {
    let found: Arc<Mutex<Option<Vec<Recovered>>>> = Arc::default();
    let (root, keep) = (target.root.clone(), found.clone());
    target.hook.set(step, move || {
        *keep.lock().unwrap() = Some(next_run(&root));
        std::panic::resume_unwind(Box::new("the program ends here"));
    });
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).is_err(), "{step:?} was not reached");
    check(target, found.lock().unwrap().as_ref().unwrap());
    assert_eq!(target.staging(), [], "{step:?}");
    assert_eq!(next_run(&target.root), [], "nothing is left for a second recovery");
}

fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

fn trashed(text: &str) -> Recovered {
    Recovered::Trashed { path: path(text) }
}

#[test]
fn while_files_are_received() {
    let target = target();
    let mut partial = target.applier.stage().unwrap();
    partial.append(b"part").unwrap();
    let staged = target.stage("whole");
    assert_eq!(next_run(&target.root), []);
    assert_eq!(target.staging(), []);
    assert_eq!(target.trash(), []);
    drop((partial, staged));
}

#[test]
fn while_a_file_gets_its_place() {
    let target = target();
    ends_at(
        &target,
        Op::Checked,
        |target, found| {
            assert_eq!((found, target.content()), (&[][..], vec![]));
            assert_eq!(target.trash(), []);
        },
        || drop(target.place("p", "new", &Expect::Nothing, Displaced::Delete)),
    );
}

#[test]
fn while_a_file_is_replaced() {
    for what in [Displaced::Delete, Displaced::Trash] {
        for link in [false, true] {
            let act = |target: &Target| {
                target.write("a/p", "old");
                let expect = target.expect("a/p");
                let at = target.at("a/p");
                if link {
                    let _ =
                        target.applier.place_link(b"new", &at.place(), &link_entry(b"new"), &expect, what);
                } else {
                    let _ = target.place("a/p", "new", &expect, what);
                }
            };
            let target = target();
            let before = |target: &Target, found: &[Recovered]| {
                assert_eq!((found, target.read("a/p").as_str()), (&[][..], "old"));
                assert_eq!(target.trash(), [], "our own copy is known and deleted");
            };
            ends_at(&target, Op::Checked, before, || act(&target));

            let target = self::target();
            let after = |target: &Target, found: &[Recovered]| {
                let new = if link { "-> new" } else { "new" };
                assert_eq!(target.content(), pairs(&[("a/p", new)]));
                let kept = what == Displaced::Trash;
                assert_eq!(found, if kept { vec![trashed("a/p")] } else { vec![] });
                assert_eq!(target.trash(), if kept { pairs(&[("a/p", "old")]) } else { vec![] });
            };
            ends_at(&target, Op::Taken, after, || act(&target));
        }
    }
}

#[test]
fn while_a_file_is_removed() {
    for step in [Op::Checked, Op::Taken] {
        let target = target();
        target.write("p", "old");
        let check = |target: &Target, found: &[Recovered]| {
            let left = if step == Op::Checked { pairs(&[("p", "old")]) } else { vec![] };
            assert_eq!((target.content(), target.trash(), found), (left, vec![], &[][..]));
        };
        ends_at(&target, step, check, || drop(target.remove("p", &target.expect("p"), Displaced::Delete)));
    }
}

#[test]
fn what_was_about_to_be_deleted_is_deleted_only_if_it_is_still_that() {
    for removed in [false, true] {
        let target = target();
        target.write("p", "old");
        let expect = target.expect("p");
        let swap = target.path.join(".syncd/staging/swap");
        let root = target.root.clone();
        let found: Arc<Mutex<Vec<Recovered>>> = Arc::default();
        let keep = found.clone();
        target.hook.set(Op::Taken, move || {
            let taken = fs::read_dir(&swap).unwrap().next().unwrap().unwrap().path();
            // An edit in the last moment, through a handle that somebody held.
            let before = fs::metadata(&taken).unwrap().modified().unwrap();
            fs::write(&taken, "edited").unwrap();
            let file = fs::File::options().write(true).open(&taken).unwrap();
            file.set_modified(before).unwrap();
            *keep.lock().unwrap() = next_run(&root);
        });
        if removed {
            drop(target.remove("p", &expect, Displaced::Delete));
        } else {
            drop(target.place("p", "new", &expect, Displaced::Delete));
        }
        assert_eq!(found.lock().unwrap().len(), 1);
        assert_eq!(target.trash().iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), ["edited"]);
    }
}

#[test]
fn while_things_are_moved() {
    for step in [Op::Checked, Op::Taken] {
        let target = target();
        target.write("a/f", "old");
        let back = |target: &Target, found: &[Recovered]| {
            assert_eq!(target.content(), pairs(&[("a/f", "old")]));
            let moved = [Recovered::PutBack { path: path("a") }];
            assert_eq!(found, if step == Op::Taken { &moved[..] } else { &[] });
        };
        ends_at(&target, step, back, || {
            drop(target.applier.take_out(&target.at("a").place(), &target.expect("a"), 1));
        });

        let target = self::target();
        target.write("a/f", "old");
        target.applier.take_out(&target.at("a").place(), &target.expect("a"), 1).unwrap();
        let there = |target: &Target, found: &[Recovered]| {
            let (place, count) = if step == Op::Taken { ("b/f", 0) } else { ("a/f", 1) };
            assert_eq!(target.content(), pairs(&[(place, "old")]));
            assert_eq!(found.len(), count);
        };
        ends_at(&target, step, there, || drop(target.applier.put_in(1, &target.at("b").place())));

        let target = self::target();
        target.write("a", "old");
        let once = |target: &Target, found: &[Recovered]| {
            assert_eq!(target.content(), pairs(&[(if step == Op::Taken { "b" } else { "a" }, "old")]));
            assert_eq!(found, []);
        };
        ends_at(&target, step, once, || {
            drop(target.applier.move_new(
                &target.at("a").place(),
                &target.at("b").place(),
                &target.expect("a"),
            ));
        });
    }
}

#[test]
fn moves_go_back_parents_first_and_to_the_trash_if_their_place_is_taken() {
    let target = target();
    for (name, text) in [("a/b/f", "1"), ("a/g", "2"), ("x", "3"), ("gone/y", "4")] {
        target.write(name, text);
    }
    for (key, name) in [(9, "a/b/f"), (3, "a/b"), (5, "a"), (1, "x"), (2, "gone/y"), (4, "gone")] {
        target.applier.take_out(&target.at(name).place(), &target.expect(name), key).unwrap();
    }
    target.write("x", "newer");
    target.write("gone", "a file now");
    fs::remove_file(target.path.join(".syncd/staging/moves/9.from")).unwrap();
    let put_back = |text| Recovered::PutBack { path: path(text) };
    let mut found = next_run(&target.root);
    found.sort_by_key(|found| format!("{found:?}"));
    assert_eq!(
        found,
        [
            put_back("a"),
            put_back("a/b"),
            trashed("gone"),
            trashed("gone/y"),
            trashed("recovered/9"),
            trashed("x")
        ]
    );
    assert_eq!(
        target.content(),
        pairs(&[("a/b/", ""), ("a/g", "2"), ("gone", "a file now"), ("x", "newer")])
    );
    assert_eq!(target.trash(), pairs(&[("gone/y", "4"), ("recovered/9", "1"), ("x", "3")]));
    assert_eq!(target.staging(), []);
}

#[test]
fn what_waits_keeps_its_note() {
    let target = target();
    target.write("a", "1");
    target.write("b", "2");
    let (a, b) = (target.at("a"), target.at("b"));
    target.applier.take_out(&a.place(), &target.expect("a"), 1).unwrap();
    target.applier.note_moves(&[(1, &b.path)]).unwrap();
    assert!(target.applier.take_out(&b.place(), &target.expect("b"), 1).is_err(), "the key is in use");
    assert_eq!(next_run(&target.root), [Recovered::PutBack { path: path("a") }]);
    assert_eq!(target.content(), pairs(&[("a", "1"), ("b", "2")]));
}

#[test]
fn a_note_is_dropped_only_after_its_move_is_flushed() {
    let target = target_with(Durability::Batch);
    target.write("a", "text");
    target.applier.take_out(&target.at("a").place(), &target.expect("a"), 1).unwrap();
    target.applier.put_in(1, &target.at("b").place()).unwrap();
    let (note, seen) = (target.path.join(".syncd/staging/moves/1.from"), Arc::new(Mutex::new(None)));
    let keep = seen.clone();
    target.hook.set(Op::SyncFs, move || *keep.lock().unwrap() = Some(note.exists()));
    assert_eq!(applier(&target.root, Durability::Batch, RUN).recover().unwrap(), []);
    assert_eq!(*seen.lock().unwrap(), Some(true), "until then a power cut may take it back to staging");
    assert_eq!(target.staging(), []);
}

#[test]
fn notes_that_lead_elsewhere_are_not_believed() {
    let target = target();
    for (key, note) in [
        (1, "syncd-from 1\n../../evil"),
        (2, "syncd-from 1\n"),
        (3, "syncd-from 2\nf"),
        (4, "syncd-from 1\n.syncd/f"),
    ] {
        target.write("f", "text");
        target.applier.take_out(&target.at("f").place(), &target.expect("f"), key).unwrap();
        target.write(&format!(".syncd/staging/moves/{key}.from"), note);
        assert_eq!(next_run(&target.root), [trashed(&format!("recovered/{key}"))]);
        assert_eq!(target.content(), []);
    }
    assert_eq!(target.trash().len(), 4);
}
