use std::{
    fs,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use super::*;
use crate::live::tests::Scene;

fn digest_of(scene: &Scene, path: &str) -> (NodeId, Digest) {
    let node = scene.tree.index().find(&TreePath::new(path).unwrap()).unwrap().unwrap().node;
    let Content::File { digest, .. } = node.entry.content else { panic!("{path} is no file") };
    (node.id, digest)
}

fn read_packed(
    scene: &Scene,
    id: NodeId,
    digest: &Digest,
    max: u64,
    out: &mut Vec<u8>,
) -> Result<u64, ServeError> {
    scene.tree.pack(|packer| packer.append(id, digest, max, out)).unwrap()
}

fn read_all(file: &mut ServedFile) -> Vec<u8> {
    let mut all = Vec::new();
    let mut part = [0; 1000];
    loop {
        match file.read_at(all.len() as u64, &mut part).unwrap() {
            0 => return all,
            count => all.extend(&part[..count]),
        }
    }
}

/// From now on what was read by a look has to be read again.
fn forget_contents(scene: &Scene) {
    scene.tree.site().fresh.forget_old(Instant::now() + Duration::from_secs(10));
}

fn settle(scene: &Scene, path: &str) {
    let path = TreePath::new(path).unwrap();
    scene.until("it is vouched for", || scene.tree.index().find(&path).unwrap().unwrap().vouched);
}

/// A scene where nothing is noticed until somebody asks.
fn unwatched(prepare: impl FnOnce(&Path)) -> Scene {
    let meddler = crate::watch::fake::Meddler::with_limit(usize::MAX);
    let scene = Scene::meddled(&meddler, prepare);
    scene.barrier().unwrap();
    meddler.mute(true);
    scene
}

#[test]
fn small_files_are_packed_one_after_the_other() {
    let scene = Scene::start();
    for number in 0..600 {
        scene.write(&format!("d{number}/f"), &format!("content {number}"));
    }
    scene.write("empty", "");
    scene.barrier().unwrap();
    let mut out = b"before".to_vec();
    let mut want = out.clone();
    let fetching = scene.tree.fetching();
    for number in (0..600).chain([3, 1, 2]) {
        let (id, digest) = digest_of(&scene, &format!("d{number}/f"));
        let content = format!("content {number}");
        assert_eq!(read_packed(&scene, id, &digest, 100, &mut out).unwrap(), content.len() as u64);
        want.extend(content.bytes());
    }
    let (id, digest) = digest_of(&scene, "empty");
    assert_eq!(read_packed(&scene, id, &digest, 0, &mut out).unwrap(), 0);
    assert_eq!(out, want);
    let held = || scene.tree.site().handles.lock().dirs.len();
    assert!((1..=MOST_HANDLES).contains(&held()), "{}", held());
    drop(fetching);
    assert_eq!(held(), 0, "nobody fetches any more");
}

/// What each of these answers, and the bytes of all, if `expected` is named before.
fn packed(
    scene: &Scene,
    expected: &[(NodeId, Digest)],
    asked: &[(NodeId, Digest)],
) -> (Vec<String>, Vec<u8>) {
    let mut out = Vec::new();
    let answers = scene.tree.pack(|packer| {
        packer.expect(expected.iter().map(|(id, _)| *id));
        let append =
            |(id, digest): &(NodeId, Digest)| format!("{:?}", packer.append(*id, digest, 20, &mut out));
        asked.iter().map(append).collect()
    });
    (answers.unwrap(), out)
}

/// Reads the feed from its beginning to its end.
fn read_feed(scene: &Scene) {
    use crate::feed::{FeedReader, Step};
    let mut reader = FeedReader::start(scene.tree.index(), &[]).unwrap();
    while let Step::Events(_) = reader.step(&scene.tree).unwrap() {}
}

#[test]
fn what_a_feed_has_just_told_is_packed_as_it_is_in_the_index() {
    let scene = unwatched(|root| {
        for number in 0..100 {
            fs::write(root.join(format!("f{number}")), format!("content {number}")).unwrap();
        }
    });
    let is_empty = || scene.tree.site().told.is_empty();
    read_feed(&scene);
    assert!(is_empty(), "nobody follows");
    let _following = scene.tree.following();
    read_feed(&scene);
    let known: Vec<_> = (0..100).map(|number| digest_of(&scene, &format!("f{number}"))).collect();
    scene.write("f7", "changed since");
    scene.tree.site().told.forget_old(Instant::now() + Duration::from_secs(10));
    let singly: Vec<_> = known.iter().map(|one| packed(&scene, &[], &[*one])).collect();
    let answers: Vec<_> = singly.iter().flat_map(|(answers, _)| answers.clone()).collect();
    let bytes: Vec<_> = singly.into_iter().flat_map(|(_, bytes)| bytes).collect();
    assert_eq!((&*answers[6], &*answers[7]), ("Ok(9)", "Err(Changed)"));
    // A commit may come in between.
    scene.until("all of them are found there", || {
        scene.tree.site().told.forget_old(Instant::now() + Duration::from_secs(10));
        read_feed(&scene);
        assert_eq!(packed(&scene, &known[..50], &known), (answers.clone(), bytes.clone()));
        is_empty()
    });
    // The rest of what was named is looked up.
    read_feed(&scene);
    scene.barrier().unwrap();
    let [old, new] = [known[7], digest_of(&scene, "f7")];
    let (answers, bytes) = packed(&scene, &known, &[known[5], old, new, known[8]]);
    assert_eq!(answers, ["Ok(9)", "Err(Changed)", "Ok(13)", "Ok(9)"]);
    assert_eq!(bytes, b"content 5changed sincecontent 8");
}

#[test]
fn what_a_feed_has_told_and_nobody_asks_for_is_forgotten() {
    let scene = unwatched(|root| fs::write(root.join("f"), "content").unwrap());
    let _following = scene.tree.following();
    scene.until("it is kept", || {
        read_feed(&scene);
        !scene.tree.site().told.is_empty()
    });
    scene.until("it is forgotten", || scene.tree.site().told.is_empty());
}

#[test]
fn what_a_look_has_just_read_is_packed_without_reading_it_again() {
    let meddler = crate::watch::fake::Meddler::with_limit(usize::MAX);
    let scene = Scene::meddled(&meddler, |root| fs::write(root.join("old"), "as it was").unwrap());
    scene.barrier().unwrap();
    scene.write("unasked", "nobody follows");
    scene.barrier().unwrap();
    let _following = scene.tree.following();
    scene.write("d/new", "content");
    scene.write("large", &"x".repeat(70_000));
    scene.barrier().unwrap();
    let paths = ["d/new", "old", "large", "unasked"];
    let known = paths.map(|path| digest_of(&scene, path));
    meddler.mute(true);
    for path in paths {
        fs::remove_file(scene.root.join(path)).unwrap();
    }
    let mut out = Vec::new();
    let mut pack = |at: usize, max| read_packed(&scene, known[at].0, &known[at].1, max, &mut out);
    assert!(matches!(pack(0, 6), Err(ServeError::TooLarge)));
    assert_eq!(pack(0, 100).unwrap(), 7);
    // They were there before anybody followed, or are too large to be kept.
    for at in [1, 2, 3] {
        assert!(matches!(pack(at, 100_000), Err(ServeError::Changed | ServeError::NoSuchNode)));
    }
    assert_eq!(out, b"content");
    forget_contents(&scene);
    let gone = read_packed(&scene, known[0].0, &known[0].1, 100, &mut out);
    assert!(matches!(gone, Err(ServeError::Changed | ServeError::NoSuchNode)), "{gone:?}");
    assert_eq!(out, b"content");
}

#[test]
fn files_that_are_expected_are_packed_like_any_other() {
    let scene = Scene::start();
    for number in 0..120 {
        scene.write(&format!("d{}/f{number}", number / 25), &format!("content {number}"));
    }
    scene.write("d1/large", "more than is allowed");
    scene.write("d1/larger", "more than what is allowed");
    scene.write("d2/gone", "content");
    scene.barrier().unwrap();
    let mut asked: Vec<_> = (0..120).map(|at| digest_of(&scene, &format!("d{}/f{at}", at / 25))).collect();
    asked.extend(["d1/large", "d1/larger", "d2/gone"].map(|path| digest_of(&scene, path)));
    asked.sort_by_key(|(id, _)| *id);
    fs::remove_file(scene.root.join("d2/gone")).unwrap();
    scene.barrier().unwrap();
    let dir = scene.id("d3").unwrap();
    asked.insert(60, (dir, asked[0].1));
    asked.insert(30, (NodeId::ROOT, asked[0].1));
    asked.insert(20, (asked[20].0, asked[21].1));
    asked.push((NodeId(u64::MAX), asked[0].1));
    let count = asked.len();
    let descending: Vec<_> = asked.iter().rev().copied().collect();
    let twice: Vec<_> = asked.iter().flat_map(|want| [*want, *want]).collect();
    for asked in [asked, descending, twice] {
        let singly = packed(&scene, &[], &asked);
        let failed = singly.0.iter().filter(|answer| answer.starts_with("Err")).count();
        assert_eq!(failed * count, 6 * asked.len(), "{:?}", singly.0);
        assert_eq!(packed(&scene, &asked, &asked), singly);
        assert_eq!(packed(&scene, &asked[5..], &asked), singly, "others are expected");
    }
}

#[test]
fn a_directory_that_is_replaced_while_its_files_are_packed_is_found_again() {
    let scene = unwatched(|root| {
        fs::create_dir(root.join("d")).unwrap();
        for name in ["a", "b", "c", "e"] {
            fs::write(root.join("d").join(name), format!("content of {name}")).unwrap();
        }
    });
    let wants = ["d/a", "d/b", "d/c", "d/e"].map(|path| digest_of(&scene, path));
    let _fetching = scene.tree.fetching();
    let mut out = Vec::new();
    let answers = scene.tree.pack(|packer| {
        packer.expect(wants.iter().map(|(id, _)| *id));
        let mut append = |(id, digest): (NodeId, Digest)| packer.append(id, &digest, 100, &mut out);
        let before = [append(wants[0]), append(wants[1])];
        fs::rename(scene.root.join("d"), scene.root.with_extension("aside")).unwrap();
        fs::remove_file(scene.root.with_extension("aside").join("c")).unwrap();
        scene.write("d/c", "content of c");
        scene.write("d/e", "content of e");
        (before, [append(wants[2]), append(wants[3])])
    });
    let (before, after) = answers.unwrap();
    assert!(before.iter().chain(&after).all(|size| matches!(size, Ok(12))), "{before:?} {after:?}");
    assert_eq!(out, b"content of acontent of bcontent of ccontent of e");
}

/// A directory that is held cannot be unmounted, and if it is removed its place on the disk is not free.
#[test]
fn no_directory_is_held_when_nobody_fetches() {
    let scene = Scene::start();
    scene.write("d/f", "content");
    scene.write("e/f", "content");
    scene.barrier().unwrap();
    let ((one, digest), (other, _)) = (digest_of(&scene, "d/f"), digest_of(&scene, "e/f"));
    let held = || scene.tree.site().handles.lock().dirs.len();
    read_packed(&scene, one, &digest, 100, &mut Vec::new()).unwrap();
    drop(scene.tree.open_file(one, None).unwrap());
    assert_eq!(held(), 0);
    let (first, second) = (scene.tree.fetching(), scene.tree.fetching());
    for id in [one, other] {
        read_packed(&scene, id, &digest, 100, &mut Vec::new()).unwrap();
    }
    drop(first);
    assert_eq!(held(), 2, "somebody else fetches");
    drop(second);
    assert_eq!(held(), 0);
}

#[test]
fn what_cannot_be_packed_leaves_the_buffer_alone() {
    let scene = Scene::start();
    scene.write("d/f", "content");
    scene.barrier().unwrap();
    let (id, digest) = digest_of(&scene, "d/f");
    let mut out = b"before".to_vec();
    let dir = scene.id("d").unwrap();
    for (id, digest, max, want) in [
        (NodeId(u64::MAX >> 2), digest, 100, "no such node"),
        (dir, digest, 100, "not a file"),
        (id, Digest::of(b"other"), 100, "has changed"),
        (id, digest, 6, "too large"),
    ] {
        let error = read_packed(&scene, id, &digest, max, &mut out).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
    }
    assert_eq!(out, b"before");
}

#[test]
fn a_changed_file_is_never_served_as_the_old_one_and_is_looked_at_again() {
    let scene = unwatched(|root| {
        for name in ["rewritten", "shorter", "gone", "dir"] {
            fs::write(root.join(name), "old content").unwrap();
        }
    });
    let names = ["rewritten", "shorter", "gone", "dir"];
    let known = names.map(|name| digest_of(&scene, name));
    fs::write(scene.root.join("rewritten"), "new content").unwrap();
    fs::write(scene.root.join("shorter"), "old").unwrap();
    fs::remove_file(scene.root.join("gone")).unwrap();
    fs::remove_file(scene.root.join("dir")).unwrap();
    fs::create_dir(scene.root.join("dir")).unwrap();
    let mut out = Vec::new();
    for ((id, digest), name) in known.iter().zip(names) {
        let error = read_packed(&scene, *id, digest, 100, &mut out).unwrap_err();
        assert!(
            matches!(error, ServeError::Changed | ServeError::NoSuchNode | ServeError::NotAFile),
            "{name}: {error}"
        );
        assert!(out.is_empty());
    }
    // No event told of it: only having been asked for did.
    scene.until("the new states", || {
        scene.id("gone").is_none() && digest_of(&scene, "rewritten").1 == Digest::of(b"new content")
    });
}

#[test]
fn a_replaced_directory_is_found_again() {
    let scene = Scene::start();
    scene.write("d/f", "content");
    scene.barrier().unwrap();
    let mut out = Vec::new();
    let (id, digest) = digest_of(&scene, "d/f");
    read_packed(&scene, id, &digest, 100, &mut out).unwrap();
    // The held handle is now on another directory.
    fs::rename(scene.root.join("d"), scene.root.with_extension("aside")).unwrap();
    scene.write("d/f", "another content");
    scene.barrier().unwrap();
    let (id, digest) = digest_of(&scene, "d/f");
    out.clear();
    read_packed(&scene, id, &digest, 100, &mut out).unwrap();
    assert_eq!(out, b"another content");
}

#[test]
fn a_large_file_is_read_piece_by_piece() {
    let scene = Scene::start();
    let content = "0123456789".repeat(1000);
    scene.write("f", &content);
    scene.barrier().unwrap();
    let (id, digest) = digest_of(&scene, "f");
    for settled in [false, true] {
        if settled {
            settle(&scene, "f");
        }
        let mut file = scene.tree.open_file(id, Some(&digest)).unwrap();
        assert_eq!(file.node.id, id);
        assert_eq!(read_all(&mut file), content.as_bytes());
        file.finish().unwrap();
        let mut part = [0; 10];
        let mut file = scene.tree.open_file(id, None).unwrap();
        assert_eq!(file.read_at(9_995, &mut part).unwrap(), 5);
        assert_eq!(&part[..5], b"56789");
        file.finish().unwrap();
    }
    assert!(matches!(scene.tree.open_file(id, Some(&Digest::of(b""))), Err(ServeError::Changed)));
}

/// All that either way of reading gives, in turns, in pieces of these sizes.
fn read_both_ways(file: &mut ServedFile, sizes: &[usize]) -> Vec<u8> {
    let mut all = Vec::new();
    for (turn, size) in sizes.iter().cycle().enumerate() {
        let (at, mut part) = (all.len() as u64, vec![0; *size]);
        let cached = (turn % 3 < 2).then(|| file.read_cached_at(at, &mut part));
        let count = match cached {
            Some(Ok(count)) => Ok(count),
            Some(Err(_)) | None => file.read_at(at, &mut part),
        };
        match count.unwrap() {
            0 => break,
            count => all.extend(&part[..count]),
        }
    }
    all
}

#[test]
fn what_is_in_memory_is_read_without_waiting_and_is_the_same() {
    let scene = Scene::start();
    fs::write(scene.root.join("f"), large(1)).unwrap();
    scene.barrier().unwrap();
    let (id, digest) = digest_of(&scene, "f");
    for settled in [false, true] {
        if settled {
            settle(&scene, "f");
        }
        for sizes in [&[4096][..], &[1 << 20], &[100_000, 1, 4095, 70_000]] {
            let mut file = scene.tree.open_file(id, Some(&digest)).unwrap();
            assert!(read_both_ways(&mut file, sizes) == large(1), "{sizes:?}");
            file.finish().unwrap();
        }
    }
}

#[test]
fn the_end_of_a_file_that_was_cut_short_is_not_told_from_memory() {
    let scene = unwatched(|root| fs::write(root.join("f"), "content").unwrap());
    settle(&scene, "f");
    let (id, _) = digest_of(&scene, "f");
    let mut file = scene.tree.open_file(id, None).unwrap();
    fs::write(scene.root.join("f"), "").unwrap();
    file.read_cached_at(0, &mut [0; 10]).unwrap_err();
    assert_eq!(file.read_at(0, &mut [0; 10]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn what_is_appended_does_no_harm_and_what_is_overwritten_does() {
    let scene = unwatched(|root| fs::write(root.join("log"), "first line\n").unwrap());
    let (id, digest) = digest_of(&scene, "log");
    let append = || {
        fs::OpenOptions::new().append(true).open(scene.root.join("log")).unwrap().write_all(b"more").unwrap();
    };
    append();
    let mut file = scene.tree.open_file(id, Some(&digest)).unwrap();
    append();
    assert_eq!(read_all(&mut file), b"first line\n");
    file.finish().unwrap();
    let mut file = scene.tree.open_file(id, Some(&digest)).unwrap();
    fs::write(scene.root.join("log"), "other line\n").unwrap();
    read_all(&mut file);
    assert!(matches!(file.finish(), Err(ServeError::Changed)));
}

#[test]
fn a_file_that_is_cut_short_while_it_is_sent_ends_with_an_error() {
    let scene = unwatched(|root| fs::write(root.join("f"), "content").unwrap());
    let (id, _) = digest_of(&scene, "f");
    let mut file = scene.tree.open_file(id, None).unwrap();
    fs::write(scene.root.join("f"), "").unwrap();
    let error = file.read_at(0, &mut [0; 10]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(file.finish().is_err());
}

/// Two MiB that differ with the seed.
fn large(seed: u8) -> Vec<u8> {
    (0..2_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed).collect()
}

#[test]
fn the_parts_of_a_file_are_told_whether_it_vouches_for_itself_or_not() {
    let scene = Scene::start();
    fs::write(scene.root.join("f"), large(1)).unwrap();
    scene.write("small", "content");
    scene.barrier().unwrap();
    let (id, digest) = digest_of(&scene, "f");
    for settled in [false, true] {
        if settled {
            settle(&scene, "f");
        }
        let file = scene.tree.open_file(id, Some(&digest)).unwrap();
        assert_eq!(file.describe(|| true).unwrap(), Some(crate::chunks::Parts::of(&large(1))));
    }
    let file = scene.tree.open_file(id, Some(&digest)).unwrap();
    assert_eq!(file.describe(|| false).unwrap(), None, "it is told to stop");
    let (small, _) = digest_of(&scene, "small");
    assert_eq!(scene.tree.open_file(small, None).unwrap().describe(|| true).unwrap(), None);
}

#[test]
fn the_parts_of_a_file_that_changed_are_not_told() {
    let scene = unwatched(|root| {
        for name in ["rewritten", "shorter"] {
            fs::write(root.join(name), large(1)).unwrap();
        }
    });
    for (name, bytes) in [("rewritten", large(2)), ("shorter", b"short".to_vec())] {
        let (id, digest) = digest_of(&scene, name);
        let before = scene.tree.open_file(id, Some(&digest)).unwrap();
        fs::write(scene.root.join(name), bytes).unwrap();
        assert!(matches!(before.describe(|| true), Err(ServeError::Changed)), "{name}: it was open before");
        let after = scene.tree.open_file(id, Some(&digest)).and_then(|file| file.describe(|| true));
        assert!(matches!(after, Err(ServeError::Changed)), "{name}: {after:?}");
    }
}

#[test]
fn a_file_that_changes_while_it_is_taken_apart_is_not_told() {
    let scene = unwatched(|root| fs::write(root.join("f"), large(1)).unwrap());
    settle(&scene, "f");
    let (id, digest) = digest_of(&scene, "f");
    let file = scene.tree.open_file(id, Some(&digest)).unwrap();
    let rewrite = || {
        fs::write(scene.root.join("f"), large(2)).unwrap();
        true
    };
    assert!(matches!(file.describe(rewrite), Err(ServeError::Changed)));
}

#[test]
fn parts_are_good_while_the_file_is_the_one_that_was_looked_at_or_has_its_bytes() {
    let scene = unwatched(|root| fs::write(root.join("f"), large(1)).unwrap());
    let (id, digest) = digest_of(&scene, "f");
    let path = scene.root.join("f");
    let open = || {
        let mut file = scene.tree.open_file(id, Some(&digest)).unwrap();
        assert_eq!(file.read_at(5000, &mut [0; 100]).unwrap(), 100);
        file
    };
    open().finish_parts().unwrap();
    let (early, modified) = (open(), fs::metadata(&path).unwrap().modified().unwrap());
    fs::write(&path, large(1)).unwrap();
    early.finish_parts().unwrap();
    fs::write(&path, large(2)).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert!(matches!(early.finish_parts(), Err(ServeError::Changed)), "its change time tells");
}
