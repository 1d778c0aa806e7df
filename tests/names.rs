//! Everything that a tree can hold arrives: every name, depth, kind, mode and time.

mod common;

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

use common::{Lab, counts};
use sync_testkit::{ops::names, tree::Kind};

#[test]
fn all_names_arrive_as_files_directories_and_links() {
    let lab = Lab::new();
    for (number, name) in names().iter().enumerate() {
        lab.share.file(name, format!("file {number}"));
        let mut inside = std::path::Path::new("directories").join(name);
        lab.share.dir(&inside);
        inside.push(name);
        lab.share.file(&inside, format!("inside {number}"));
        lab.share.link(std::path::Path::new("links").join(name), name);
    }
    let (_daemon, agent) = lab.pulled();
    let again = agent.pull().expect(0);
    let files = 3 * names().len() as u64;
    assert_eq!(counts(&again, ["checked", "changed", "unchanged", "failed"]), [files, 0, files, 0]);
}

#[test]
fn names_that_differ_only_in_case_or_composition_are_different() {
    let lab = Lab::new();
    for name in ["readme", "README", "ReadMe", "é", "e\u{301}", "K", "\u{212a}"] {
        lab.share.file(name, name);
    }
    lab.pulled();
    assert_eq!(lab.target().read("\u{212a}"), "\u{212a}".as_bytes());
}

#[test]
fn sixty_levels_deep() {
    let lab = Lab::new();
    let deep = (0..60).map(|level| format!("level {level}")).collect::<Vec<_>>().join("/");
    lab.share.file(format!("{deep}/leaf"), "deep").mtime(1_000_000_000, 0);
    lab.share.dir(format!("{deep}/empty"));
    let (_daemon, agent) = lab.pulled();
    lab.share.file(format!("{deep}/leaf"), "deeper");
    agent.pull().expect(0);
    lab.assert_same();
}

#[test]
fn files_of_every_shape_arrive() {
    let lab = Lab::new();
    lab.share.file("empty", "");
    lab.share.dir("empty dir/in empty dir");
    lab.share.sparse("sparse", 24 << 20);
    lab.share.file("zeros", vec![0; 100_000]);
    // Around the sizes at which packing, messages and windows change.
    for size in [1, 4095, 4096, 65_535, 65_536, 262_144, 262_145, 1 << 20, (1 << 20) + 1, 5_000_000] {
        lab.share.bytes(format!("sizes/{size}"), size, size as u64);
    }
    lab.pulled();
}

#[test]
fn hard_links_arrive_as_separate_files() {
    let lab = Lab::new();
    lab.share.file("one", "shared");
    lab.share.hard_link("one", "two");
    lab.share.hard_link("one", "dir/three");
    let (_daemon, agent) = lab.pulled();
    let target = lab.target();
    assert_ne!(target.inode("one"), target.inode("two"));
    assert_ne!(target.inode("one"), target.inode("dir/three"));

    // A write through one name changes all of them, and only one name has an event.
    lab.share.file("two", "changed through two");
    agent.pull().expect(0);
    assert_eq!(target.read("two"), b"changed through two");
}

#[test]
fn links_are_carried_as_links_wherever_they_point() {
    let lab = Lab::new();
    lab.share.file("dir/file", "text");
    for (name, target) in [
        ("relative", "dir/file"),
        ("up", "../share/dir"),
        ("absolute", "/etc/passwd"),
        ("dangling", "no such place"),
        ("itself", "itself"),
        ("loop a", "loop b"),
        ("loop b", "loop a"),
        ("dir/parent", ".."),
        ("to a directory", "dir"),
        ("out of the tree", "../../../../etc"),
        ("strange 中文", "new\nline -> \"x\""),
    ] {
        lab.share.link(name, target);
    }
    lab.share.link("not utf-8", OsStr::from_bytes(b"caf\xe9"));
    lab.share.link("long", "x/".repeat(1000));
    let (_daemon, agent) = lab.pulled();

    lab.share.remove("relative");
    lab.share.link("relative", "elsewhere");
    agent.pull().expect(0);
    lab.assert_same();
}

#[test]
fn nothing_is_read_or_written_through_a_link() {
    let lab = Lab::new();
    let outside = lab.tree("outside");
    outside.file("secret", "not for the share");
    lab.share.link("door", outside.root());
    lab.share.file("in/file", "1");
    let (_daemon, agent) = lab.pulled();
    assert!(!lab.target().look("door").link.unwrap().is_empty());

    // The target's user plants a link where the share has a directory; the pull must not write through it.
    let target = lab.target();
    target.remove("in");
    target.link("in", outside.root());
    lab.share.file("in/file", "2");
    lab.share.file("in/secret", "from the share");
    agent.pull().expect(0);
    lab.assert_same();
    assert_eq!(outside.read("secret"), b"not for the share");
    assert!(!outside.has("file"));
}

#[test]
fn modes_arrive_without_set_id_bits() {
    let lab = Lab::new();
    for mode in [0o600, 0o644, 0o755, 0o400, 0o444, 0o640, 0o777, 0o200] {
        lab.share.file(format!("file {mode:o}"), format!("{mode}")).mode(mode);
        lab.share.file(format!("dir {mode:o}/inside"), "x");
    }
    for mode in [0o700, 0o755, 0o777, 0o555, 0o500, 0o750] {
        lab.share.file(format!("d{mode:o}/inside"), "x");
        lab.share.placed(format!("d{mode:o}")).mode(mode);
    }
    let (_daemon, agent) = lab.pulled();

    lab.share.file("setuid", "x").mode(0o4755);
    lab.share.file("setgid", "x").mode(0o2755);
    lab.share.file("d555/new in a read-only directory", "x");
    agent.pull().expect(0);
    let target = lab.target();
    assert_eq!([target.look("setuid").mode, target.look("setgid").mode], [0o755, 0o755]);
    assert!(target.has("d555/new in a read-only directory"));
    assert_eq!(target.look("d555").mode, 0o555);
    let again = agent.pull().expect(0);
    assert_eq!(again.count("changed"), 0, "dropped bits must not look like a change for ever");
}

#[test]
fn times_arrive_to_the_nanosecond() {
    let lab = Lab::new();
    for (name, secs, nanos) in [
        ("before 1970", -1, 999_999_999),
        ("long before", -2_000_000_000, 1),
        ("at 1970", 0, 0),
        ("with nanoseconds", 1_700_000_000, 123_456_789),
        ("in 2099", 4_076_000_000, 987_654_321),
    ] {
        lab.share.file(name, name).mtime(secs, nanos);
        lab.share.file(format!("dir {name}/file"), name).mtime(secs, nanos);
        lab.share.placed(format!("dir {name}")).mtime(secs, nanos);
        lab.share.link(format!("link {name}"), name).mtime(secs, nanos);
    }
    let (_daemon, agent) = lab.pulled();

    lab.share.placed("at 1970").mtime(0, 1);
    lab.share.placed("dir at 1970").mtime(-5, 5);
    agent.pull().expect(0);
    lab.assert_same();
}

#[test]
fn a_name_that_is_not_utf_8_is_a_problem_and_the_rest_goes_on() {
    let lab = Lab::new();
    lab.share.file("good", "good");
    lab.share.file(OsStr::from_bytes(b"bad \xff name"), "bad");
    lab.share.file(OsStr::from_bytes(b"dir/bad \xc3\x28 dir/file"), "below");
    lab.share.file("dir/also good", "good");
    let daemon = lab.daemon();
    let agent = lab.agent(&daemon.url());
    for _ in 0..2 {
        let outcome = agent.pull().expect(3);
        let problems = outcome.problems();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.iter().any(|(path, _)| path.starts_with("bad ")), "{problems:?}");
        assert!(problems.iter().any(|(path, _)| path.starts_with("dir/bad ")), "{problems:?}");
        assert!(problems.iter().all(|(_, error)| error.contains("UTF-8")), "{problems:?}");
    }
    assert_eq!(
        lab.target().snapshot().keys().map(|path| path.0.as_slice()).collect::<Vec<_>>(),
        [b"dir".as_slice(), b"dir/also good", b"good"]
    );

    lab.share.rename(OsStr::from_bytes(b"bad \xff name"), "good now");
    lab.share.remove(OsStr::from_bytes(b"dir/bad \xc3\x28 dir"));
    agent.pull().expect(0);
    lab.assert_same();
}

#[test]
fn a_name_of_the_targets_own_that_is_not_utf_8_is_no_failed_file_of_the_share() {
    let lab = Lab::new();
    lab.share.file("good", "good");
    let (_daemon, agent) = lab.pulled();
    let own = OsStr::from_bytes(b"own \xff name");
    lab.target().file(own, "mine");
    let outcome = agent.pull().expect(3);
    assert_eq!(outcome.problems().len(), 1, "{}", outcome.stdout);
    let keys = ["checked", "changed", "failed", "unchanged"];
    assert_eq!(common::counts(&outcome, keys), [1, 0, 0, 1], "{}", outcome.stdout);
    assert_eq!(lab.target().read(own), b"mine");
}

#[test]
fn sockets_and_fifos_are_skipped_without_harm() {
    let lab = Lab::new();
    lab.share.file("file", "x");
    lab.share.fifo("fifo");
    lab.share.socket("dir/socket");
    let daemon = lab.daemon();
    let agent = lab.agent(&daemon.url());
    agent.pull().expect(0);
    let target = lab.target();
    assert!(!target.has("fifo") && !target.has("dir/socket"));
    assert_eq!(target.look("dir").kind, Kind::Dir);

    // A FIFO becomes a file: now it counts. It must never have been opened, which would have blocked.
    lab.share.remove("fifo");
    lab.share.file("fifo", "a file now");
    agent.pull().expect(0);
    assert_eq!(target.read("fifo"), b"a file now");
}
