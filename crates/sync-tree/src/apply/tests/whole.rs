//! New directories, filled in staging.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use sync_core::{Name, Node, NodeId};

use super::*;

fn node(name: &str, entry: Entry) -> Node {
    Node { id: NodeId(1), parent: NodeId(2), name: Name::new(name).unwrap(), entry }
}

fn write(new: &NewDir, name: &str, text: &str, mode: u16) -> Result<Stat, ApplyError> {
    new.write(&node(name, file_entry(text.as_bytes(), mode)), text.as_bytes())
}

/// A directory with two files that waits for its place.
fn filled(target: &Target) -> NewDir {
    let new = target.applier.new_dir().unwrap();
    write(&new, "one", "1", 0o640).unwrap();
    write(&new, "two", "2", 0o400).unwrap();
    new.dress(&dir_entry(0o750)).unwrap();
    target.applier.flush_staged(&mut [], &[(&new, 2)]).unwrap();
    new
}

const ALL: [Durability; 3] = [Durability::None, Durability::Batch, Durability::File];

#[test]
fn it_appears_with_its_files_and_is_what_was_told() {
    for durability in ALL {
        for most_held in [0, 100] {
            let tmp = tempfile::tempdir().unwrap();
            let root = Root::open(tmp.path()).unwrap();
            let mut applier = applier(&root, durability, RUN);
            applier.staging.most_held = most_held;
            let target = Target::of(tmp, root, applier);
            let new = target.applier.new_dir().unwrap();
            let one = write(&new, "one", "1", 0o666).unwrap();
            let large = target.applier.place_in(
                &new,
                target.stage("large"),
                &node("large", file_entry(b"large", 0o400)),
                &TreePath::new("p/large").unwrap(),
            );
            assert_eq!(target.content(), [], "nobody sees it");
            new.dress(&dir_entry(0o755)).unwrap();
            target.applier.flush_staged(&mut [], &[(&new, 2)]).unwrap();
            let told = target.applier.place_dir(&new, &target.at("p").place()).unwrap();
            drop(new);
            assert_eq!(target.content(), pairs(&[("p/large", "large"), ("p/one", "1")]));
            assert_eq!((target.stat("p/one"), target.stat("p/large")), (one, large.unwrap()));
            assert_eq!((one.mode, one.mtime), (0o666, TIME));
            let now = target.stat("p");
            assert_eq!((now.ino, now.mode, now.mtime), (told.ino, 0o755, TIME), "{durability:?}");
            assert_eq!((told.mode, told.mtime), (0o755, TIME));
            assert_eq!(target.staging(), []);
        }
    }
}

#[test]
fn what_is_not_right_is_not_in_it() {
    let target = target();
    let new = filled(&target);
    let entry = file_entry(b"right", 0o644);
    assert!(matches!(new.write(&node("x", entry.clone()), b"wrong"), Err(ApplyError::Digest { .. })));
    assert!(matches!(
        new.write(&node("x", entry.clone()), b"right and more"),
        Err(ApplyError::Digest { .. })
    ));
    assert!(matches!(new.write(&node("one", entry), b"right"), Err(ApplyError::Stale { .. })));
    target.applier.place_dir(&new, &target.at("p").place()).unwrap();
    assert_eq!(target.content(), pairs(&[("p/one", "1"), ("p/two", "2")]));
}

#[test]
fn nothing_that_is_in_its_place_is_replaced_and_its_files_can_go_there_singly() {
    type Make = fn(&Target);
    let in_the_way: [Make; 4] = [
        |target| target.write("p", "mine"),
        |target| target.write("p/one", "mine"),
        |target| fs::create_dir(target.path.join("p")).unwrap(),
        |target| std::os::unix::fs::symlink("elsewhere", target.path.join("p")).unwrap(),
    ];
    for make in in_the_way {
        let target = target();
        let new = filled(&target);
        make(&target);
        let before = target.content();
        let refused = target.applier.place_dir(&new, &target.at("p").place());
        assert!(matches!(refused, Err(ApplyError::Stale { .. })), "{refused:?}");
        assert_eq!(target.content(), before);
        if !target.stat("p").kind.eq(&StatKind::Directory) {
            drop(new);
            assert_eq!((target.content(), target.staging()), (before, vec![]));
            continue;
        }
        let had_one = target.path.join("p/one").exists();
        let one = target.applier.place_out(&new, &target.at("p/one").place());
        assert_eq!(one.is_err(), had_one, "{one:?}");
        let two = target.applier.place_out(&new, &target.at("p/two").place()).unwrap();
        assert_eq!((two.mode, two.mtime, two), (0o400, TIME, target.stat("p/two")));
        assert_eq!(target.read("p/one"), if had_one { "mine" } else { "1" });
        drop(new);
        assert_eq!(target.staging(), []);
    }
}

#[test]
fn what_comes_into_the_way_at_the_last_moment_stays() {
    let target = target();
    let new = filled(&target);
    let path = target.path.join("p");
    target.hook.set(Op::Checked, move || {
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o711)).unwrap();
    });
    let refused = target.applier.place_dir(&new, &target.at("p").place());
    assert!(matches!(refused, Err(ApplyError::Stale { .. })), "{refused:?}");
    assert_eq!(fs::metadata(target.path.join("p")).unwrap().mode() & 0o777, 0o711);
}

#[test]
fn without_a_place_it_is_removed_and_so_is_what_an_ended_run_left_of_it() {
    let target = target();
    drop(filled(&target));
    assert_eq!(target.staging(), []);
    let left = filled(&target);
    assert_eq!(target.staging().len(), 2);
    assert_eq!(crash::next_run(&target.root), []);
    assert_eq!((target.staging(), target.trash(), target.content()), (vec![], vec![], vec![]));
    drop(left);
}

/// Refuses what would remove, and what sets times.
struct Broken;

impl Probe for Broken {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        match call.op {
            Op::RemoveFile | Op::SetTimes => Err(io::Error::other("broken")),
            _ => Ok(()),
        }
    }
}

#[test]
fn one_that_holds_what_could_not_be_written_to_its_end_never_appears() {
    let target = target();
    let new = filled(&target);
    let broken = probe::install(&target.path, Arc::new(Broken));
    assert!(write(&new, "three", "3", 0o644).is_err());
    drop(broken);
    let refused = target.applier.place_dir(&new, &target.at("p").place());
    assert!(matches!(refused, Err(ApplyError::Io { .. })), "{refused:?}");
    fs::create_dir(target.path.join("p")).unwrap();
    target.applier.place_out(&new, &target.at("p/one").place()).unwrap();
    drop(new);
    assert_eq!((target.content(), target.staging()), (pairs(&[("p/one", "1")]), vec![]));
}

#[test]
fn nothing_is_filled_in_staging_where_either_place_hands_something_down() {
    let target = target();
    let dir = target.root.dir();
    assert!(target.applier.fills_alike(&dir));
    dir.make_dir("d", 0o755).unwrap();
    dir.set_mode("d", 0o2755).unwrap();
    assert!(!target.applier.fills_alike(&dir.open_dir("d").unwrap()));
}

#[test]
fn nothing_is_filled_in_staging_that_hands_something_down() {
    let target = target();
    // As the target's own directory may have handed it down to all that is in it.
    let staging = target.path.join(".syncd/staging");
    let runs = fs::read_dir(&staging).unwrap().map(|run| run.unwrap().path());
    for dir in runs.chain([staging.clone()]).filter(|path| path.is_dir()) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o2700)).unwrap();
    }
    assert!(!target.applier.fills_alike(&target.root.dir()));
}
