use super::*;

fn spot(dir: Ino, name: &str) -> Spot {
    (dir, name.into())
}

fn file(disk: &mut Disk, at: Option<Spot>, text: &str) -> Ino {
    let ino = disk.apply(&Event::New { what: What::File, mode: 0o600, at }).unwrap();
    disk.apply(&Event::Bytes(ino, text.as_bytes().into()));
    ino
}

fn dir(disk: &mut Disk, at: Spot) -> Ino {
    disk.apply(&Event::New { what: What::Directory, mode: 0o700, at: Some(at) }).unwrap()
}

fn sync(disk: &mut Disk, ino: Ino) {
    let since = disk.events();
    disk.apply(&Event::Sync { ino, since });
}

fn text(view: &View, path: &str) -> Option<String> {
    view.get(path.as_bytes()).map(|held| String::from_utf8_lossy(&held.bytes).into_owned())
}

/// All that a path may hold after a cut.
fn possible(disk: &Disk, path: &str) -> Vec<Option<String>> {
    let cuts = disk.after_cut((20, 60), &mut crate::rng::Rng::new(1));
    let mut found: Vec<_> = cuts.iter().map(|cut| text(&cut.view, path)).collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn only_what_was_flushed_is_sure() {
    let mut disk = Disk::new();
    let ino = file(&mut disk, Some(spot(ROOT, "f")), "text");
    assert_eq!(text(&disk.live(), "f").unwrap(), "text");
    assert_eq!(disk.safe(), View::new());
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(possible(&disk, "f"), [None, some(""), some("\0\0\0\0"), some("te"), some("text")]);
    sync(&mut disk, ino);
    assert_eq!(possible(&disk, "f"), [None, some("text")]);
    sync(&mut disk, ROOT);
    assert_eq!(possible(&disk, "f"), [some("text")]);
    assert_eq!(disk.safe(), disk.live());
}

#[test]
fn mode_and_time_are_flushed_with_the_inode_and_not_with_its_name() {
    let mut disk = Disk::new();
    let ino = file(&mut disk, Some(spot(ROOT, "f")), "text");
    sync(&mut disk, ROOT);
    disk.apply(&Event::Mode(ino, 0o644));
    disk.apply(&Event::Time(ino, (5, 6)));
    sync(&mut disk, ROOT);
    let safe = disk.safe()[&b"f"[..]].clone();
    assert_eq!((&safe.bytes[..], safe.mode, safe.mtime), (&b""[..], 0o600, None));
    sync(&mut disk, ino);
    let safe = disk.safe()[&b"f"[..]].clone();
    assert_eq!((&safe.bytes[..], safe.mode, safe.mtime), (&b"text"[..], 0o644, Some((5, 6))));
}

#[test]
fn what_has_no_name_is_flushed_only_with_everything() {
    let mut disk = Disk::new();
    let one = file(&mut disk, None, "one");
    sync(&mut disk, one);
    disk.apply(&Event::Link { ino: one, at: spot(ROOT, "one") });
    sync(&mut disk, ROOT);
    assert_eq!(text(&disk.safe(), "one").unwrap(), "");
    let two = file(&mut disk, None, "two");
    disk.apply(&Event::SyncAll { since: disk.events() });
    disk.apply(&Event::Link { ino: two, at: spot(ROOT, "two") });
    sync(&mut disk, ROOT);
    assert_eq!(text(&disk.safe(), "two").unwrap(), "two");
}

#[test]
fn a_rename_is_there_as_a_whole_or_not_at_all() {
    let mut disk = Disk::new();
    let (a, b) = (dir(&mut disk, spot(ROOT, "a")), dir(&mut disk, spot(ROOT, "b")));
    file(&mut disk, Some(spot(a, "f")), "text");
    disk.apply(&Event::SyncAll { since: disk.events() });
    disk.apply(&Event::Rename(spot(a, "f"), spot(b, "f")));
    for cut in disk.after_cut((20, 9), &mut crate::rng::Rng::new(2)) {
        let names = (text(&cut.view, "a/f"), text(&cut.view, "b/f"));
        assert!(names.0.is_some() != names.1.is_some(), "{names:?}");
    }
    sync(&mut disk, a);
    assert_eq!(disk.safe(), disk.live());
}

#[test]
fn a_change_that_is_there_brings_what_it_needs() {
    let mut disk = Disk::new();
    let sub = dir(&mut disk, spot(ROOT, "sub"));
    file(&mut disk, Some(spot(sub, "f")), "");
    let below: Vec<_> = disk.after_cut((20, 20), &mut crate::rng::Rng::new(3));
    assert!(below.iter().any(|cut| cut.view.is_empty()));
    assert!(below.iter().all(|cut| text(&cut.view, "sub").is_some() || text(&cut.view, "sub/f").is_none()));
    // Nothing promised the name of the directory, though what is in it cannot be there without.
    sync(&mut disk, sub);
    assert_eq!(disk.safe(), View::new());
    assert_eq!(possible(&disk, "sub/f"), [Some(String::new())]);
    disk.apply(&Event::SyncAll { since: disk.events() });
    disk.apply(&Event::Rename(spot(sub, "f"), spot(ROOT, "f")));
    disk.apply(&Event::Remove(spot(ROOT, "sub")));
    for cut in disk.after_cut((20, 20), &mut crate::rng::Rng::new(4)) {
        assert!(text(&cut.view, "sub/f").is_some() || text(&cut.view, "f").is_some(), "{}", cut.story);
    }
}

#[test]
fn a_flush_promises_nothing_for_what_comes_meanwhile() {
    let mut disk = Disk::new();
    let since = disk.events();
    file(&mut disk, Some(spot(ROOT, "f")), "text");
    disk.apply(&Event::SyncAll { since });
    assert_eq!(disk.safe(), View::new());
}

#[test]
fn a_disk_is_placed_and_scanned_again() {
    let scratch = crate::Scratch::new();
    let mut disk = Disk::new();
    let sub = dir(&mut disk, spot(ROOT, "sub"));
    let ino = file(&mut disk, Some(spot(sub, "f")), "text");
    disk.apply(&Event::Mode(ino, 0o440));
    disk.apply(&Event::Time(ino, (-5, 6)));
    disk.apply(&Event::Link { ino, at: spot(ROOT, &format!("again-@{ino}-@77")) });
    disk.apply(&Event::New { what: What::Link(b"f".to_vec()), mode: 0o777, at: Some(spot(sub, "l")) });
    disk.apply(&Event::Mode(sub, 0o750));
    let to = scratch.path().join("placed");
    let numbers = place(&disk.live(), &to).unwrap();
    let (found, known) = scan(&to, |_| false).unwrap();
    let found = found.live();
    assert_eq!(text(&found, "sub/f").unwrap(), "text");
    assert_eq!(text(&found, &format!("again-{}-0", numbers[&ino])).unwrap(), "text");
    let held = &found[&b"sub/f"[..]];
    assert_eq!((held.mode, held.mtime, held.ino), (0o440, Some((-5, 6)), known[&numbers[&ino]]));
    assert_eq!(found[&b"sub/l"[..]].what, What::Link(b"f".to_vec()));
    assert_eq!(found[&b"sub"[..]].mode, 0o750);
}

#[test]
fn only_what_is_written_down_and_may_be_lost_is_ahead() {
    let mut disk = Disk::new();
    let ino = file(&mut disk, Some(spot(ROOT, "f")), "text");
    let row = |text: &str, mode| Recorded {
        what: What::File,
        digest: Some(*blake3::hash(text.as_bytes()).as_bytes()),
        mode: Some(mode),
        mtime: None,
    };
    let check = |disk: &Disk, row: Option<Recorded>| {
        ahead(&row.into_iter().map(|row| (b"f".to_vec(), row)).collect(), &disk.live(), &disk.safe()).len()
    };
    assert_eq!(check(&disk, None), 0);
    assert_eq!(check(&disk, Some(row("other", 0o600))), 0);
    assert_eq!(check(&disk, Some(row("text", 0o600))), 1);
    sync(&mut disk, ROOT);
    assert_eq!(check(&disk, Some(row("text", 0o600))), 1);
    sync(&mut disk, ino);
    assert_eq!(check(&disk, Some(row("text", 0o600))), 0);
    disk.apply(&Event::Mode(ino, 0o640));
    assert_eq!(check(&disk, Some(row("text", 0o600))), 0);
    assert_eq!(check(&disk, Some(row("text", 0o640))), 1);
    disk.apply(&Event::Remove(spot(ROOT, "f")));
    assert_eq!(check(&disk, None), 1);
}
