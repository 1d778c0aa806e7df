//! Large files whose transfer is cut.

use std::{fs::FileTimes, io::Write as _, os::unix::fs::MetadataExt as _, sync::Arc, time::SystemTime};

use super::*;
use crate::apply::pieces::Piece;

const PART: usize = 512 << 10;

/// Some content of so many parts, one of them a hole.
fn content(parts: usize) -> Vec<u8> {
    let byte = |at: usize| if at / PART == 3 { 0 } else { (at / 7) as u8 };
    (0..parts * PART).map(byte).collect()
}

/// Receives the parts from where it stands on, up to `end`.
fn receive(staged: &mut StagedFile, bytes: &[u8], end: usize) {
    let have = usize::try_from(staged.size()).unwrap();
    bytes[have..end * PART].chunks(PART).for_each(|part| staged.append(part).unwrap());
}

fn begin(applier: &Applier, bytes: &[u8]) -> StagedFile {
    applier.resume(bytes.len() as u64, &Digest::of(bytes)).unwrap()
}

fn partial_of(target: &Target, bytes: &[u8]) -> PathBuf {
    target.path.join(".syncd/staging/partial").join(Digest::of(bytes).to_hex())
}

#[test]
fn what_came_before_a_cut_is_not_received_again() {
    let target = target();
    let bytes = content(8);
    for end in 2..=8 {
        let mut staged = begin(&target.applier, &bytes);
        assert_eq!(staged.size(), if end == 2 { 0 } else { (end - 1) * PART } as u64);
        receive(&mut staged, &bytes, end);
        drop(staged);
        assert_eq!(target.staging().len(), 1, "cut after {end} parts");
        // The next run finds it too.
        applier(&target.root, Durability::None, RUN).recover().unwrap();
    }
    let staged = begin(&target.applier, &bytes);
    assert_eq!(staged.size(), bytes.len() as u64, "all of it was there");
    let staged = staged.finish(bytes.len() as u64, &Digest::of(&bytes)).unwrap();
    let (at, entry) = (target.at("large"), file_entry(&bytes, 0o644));
    target.applier.place(staged, &at.place(), &entry, &Expect::Nothing, Displaced::Delete).unwrap();
    assert!(fs::read(target.path.join("large")).unwrap() == bytes);
    assert_eq!(target.staging(), []);
}

#[test]
fn little_is_not_kept_and_nothing_that_is_wrong() {
    let target = target();
    let bytes = content(4);
    let mut staged = begin(&target.applier, &bytes);
    staged.append(&bytes[..60_000]).unwrap();
    drop(staged);
    assert_eq!(target.staging(), [], "a small message is soon sent again");
    let mut staged = begin(&target.applier, &bytes);
    staged.append(&bytes[..70_000]).unwrap();
    drop(staged);
    assert_eq!(begin(&target.applier, &bytes).size(), 70_000);

    let mut staged = begin(&target.applier, &bytes);
    receive(&mut staged, &bytes, 3);
    drop(staged);
    let mut damaged = fs::read(partial_of(&target, &bytes)).unwrap();
    damaged[1000] ^= 1;
    fs::write(partial_of(&target, &bytes), &damaged).unwrap();
    let mut staged = begin(&target.applier, &bytes);
    receive(&mut staged, &bytes, 4);
    let error = staged.finish(bytes.len() as u64, &Digest::of(&bytes)).unwrap_err();
    assert!(matches!(error, ApplyError::Digest { .. }), "{error:?}");
    assert_eq!(target.staging(), [], "the next attempt begins anew");

    fs::write(partial_of(&target, &bytes), vec![1; 5 * PART]).unwrap();
    assert_eq!(begin(&target.applier, &bytes).size(), 0, "longer than the whole");
    fs::write(target.path.join("users own"), vec![1; 3 * PART]).unwrap();
    fs::hard_link(target.path.join("users own"), partial_of(&target, &bytes)).unwrap();
    let mut staged = begin(&target.applier, &bytes);
    assert_eq!(staged.size(), 0, "a file that has another name too");
    receive(&mut staged, &bytes, 4);
    drop(staged);
    assert_eq!(fs::read(target.path.join("users own")).unwrap(), vec![1; 3 * PART]);
}

#[test]
fn two_files_of_one_content_do_not_write_into_one_partial() {
    let target = target();
    let bytes = content(4);
    let mut first = begin(&target.applier, &bytes);
    receive(&mut first, &bytes, 3);
    let mut second = begin(&target.applier, &bytes);
    assert_eq!(second.size(), 0);
    receive(&mut second, &bytes, 4);
    receive(&mut first, &bytes, 4);
    let finish = |file: StagedFile| file.finish(bytes.len() as u64, &Digest::of(&bytes)).unwrap();
    let (first, second) = (finish(first), finish(second));
    // Complete is not in place yet.
    let mut third = begin(&target.applier, &bytes);
    assert_eq!(third.size(), 0);
    receive(&mut third, &bytes, 4);
    for (name, mode, staged) in [("1", 0o600, first), ("2", 0o640, second), ("3", 0o644, finish(third))] {
        let (at, entry) = (target.at(name), file_entry(&bytes, mode));
        let stat =
            target.applier.place(staged, &at.place(), &entry, &Expect::Nothing, Displaced::Delete).unwrap();
        assert_eq!((stat.mode, fs::read(target.path.join(name)).unwrap() == bytes), (mode, true), "{name}");
    }
    assert_eq!(target.staging(), []);
    assert_eq!(begin(&target.applier, &bytes).size(), 0, "nothing is left of it, and it can be begun again");
}

#[test]
fn old_partials_go_and_so_do_all_when_there_is_no_room() {
    let target = target();
    let (old, new) = (content(3), content(4));
    for bytes in [&old, &new] {
        receive(&mut begin(&target.applier, bytes), bytes, 3);
    }
    let file = fs::File::options().write(true).open(partial_of(&target, &old)).unwrap();
    let eight_days = SystemTime::now() - Duration::from_secs(8 * 86_400);
    file.set_times(FileTimes::new().set_modified(eight_days)).unwrap();
    applier(&target.root, Durability::None, RUN).recover().unwrap();
    assert!(!partial_of(&target, &old).exists() && partial_of(&target, &new).exists());
    target.applier.clear_partials();
    assert_eq!(target.staging(), []);
}

#[test]
fn partials_are_kept_for_a_week_and_the_oldest_go_when_all_are_too_large() {
    let target = target();
    let bytes = content(3);
    receive(&mut begin(&target.applier, &bytes), &bytes, 3);
    let days = |days: u64| SystemTime::now() + Duration::from_secs(days * 86_400);
    target.applier.prune_partials(days(6), &mut 100).unwrap();
    assert_eq!(begin(&target.applier, &bytes).size(), bytes.len() as u64, "days later it is still there");
    target.applier.prune_partials(days(8), &mut 100).unwrap();
    assert_eq!(target.staging(), []);

    // Holes, so they take no room.
    for (name, age) in [("oldest", 3), ("older", 2), ("newest", 1)] {
        let dir = target.path.join(".syncd/staging/partial");
        let file = fs::File::create(dir.join(name)).unwrap();
        file.set_len(30 << 30).unwrap();
        let modified = SystemTime::now() - Duration::from_secs(age * 3600);
        file.set_times(FileTimes::new().set_modified(modified)).unwrap();
    }
    target.applier.prune_partials(SystemTime::now(), &mut 100).unwrap();
    let left = |name: &str| target.path.join(".syncd/staging/partial").join(name).exists();
    assert_eq!(["oldest", "older", "newest"].map(left), [false, true, true]);
}

#[test]
fn what_came_of_other_contents_can_be_read_newest_first() {
    let target = target();
    let (first, second, third) = (content(3), content(4), content(5));
    for (bytes, hours) in [(&first, 2), (&second, 1), (&third, 3)] {
        receive(&mut begin(&target.applier, bytes), bytes, 3);
        let file = fs::File::options().write(true).open(partial_of(&target, bytes)).unwrap();
        let modified = SystemTime::now() - Duration::from_secs(hours * 3600);
        file.set_times(FileTimes::new().set_modified(modified)).unwrap();
    }
    fs::write(target.path.join(".syncd/staging/partial/small"), b"x").unwrap();
    fs::write(target.path.join("users own"), vec![1; 3 * PART]).unwrap();
    let linked = target.path.join(".syncd/staging/partial/linked");
    fs::hard_link(target.path.join("users own"), &linked).unwrap();
    let found = |but: &[u8], most: usize| -> Vec<(u64, u64)> {
        let found = target.applier.other_partials(&Digest::of(but), most);
        found.into_iter().map(|(file, size)| (file.metadata().unwrap().ino(), size)).collect()
    };
    let ino = |bytes: &[u8]| fs::metadata(partial_of(&target, bytes)).unwrap().ino();
    let size = (3 * PART) as u64;
    assert_eq!(found(&third, 3), [(ino(&second), size), (ino(&first), size)], "a user's file is none");
    assert_eq!(found(&second, 2), [(ino(&first), size)], "of the two newest one is not ours");
    assert_eq!(begin(&target.applier, &first).size(), size, "they stay what they are");
}

/// Pieces of `bytes`, by turns given and read from a file that holds them behind some others.
fn pieces(bytes: &[u8], from: usize, end: usize) -> Vec<Piece<Vec<u8>>> {
    let mut material = tempfile::tempfile().unwrap();
    material.write_all(&[&[7; 1000], bytes].concat()).unwrap();
    let of = Arc::new(material);
    let piece = |number: usize| {
        let (at, len) = (from + number * 200_001, 200_001.min(end - from - number * 200_001));
        match number % 3 {
            0 => Piece::Bytes(bytes[at..at + len].to_vec()),
            _ => Piece::Part { of: of.clone(), at: 1000 + at as u64, len: len as u64 },
        }
    };
    (0..(end - from).div_ceil(200_001)).map(piece).collect()
}

#[test]
fn pieces_from_here_and_elsewhere_become_the_file_also_after_a_cut() {
    let target = target();
    let bytes = content(8);
    let mut have = 0;
    for end in [3 * PART + 77, 5 * PART, bytes.len()] {
        let staged = begin(&target.applier, &bytes);
        assert_eq!(staged.size(), have as u64);
        let staged = staged.append_pieces(pieces(&bytes, have, end).into_iter()).unwrap();
        assert_eq!(staged.size(), end as u64);
        have = end;
    }
    let staged = begin(&target.applier, &bytes).finish(bytes.len() as u64, &Digest::of(&bytes)).unwrap();
    let (at, entry) = (target.at("large"), file_entry(&bytes, 0o644));
    target.applier.place(staged, &at.place(), &entry, &Expect::Nothing, Displaced::Delete).unwrap();
    assert!(fs::read(target.path.join("large")).unwrap() == bytes);
}

/// Where blocks cannot be shared the kernel copies, which is the same to all that is tested here.
#[test]
fn parts_are_shared_where_they_fit_and_hashed_where_they_went() {
    const SHIFT: u64 = 1000;
    let bytes = content(8);
    let mut material = tempfile::tempfile().unwrap();
    material.write_all(&[&vec![7; SHIFT as usize][..], &bytes].concat()).unwrap();
    let of = Arc::new(material);
    // Where each part begins, and whether it lies there as it will lie in the file.
    for (shift, shared) in [(SHIFT, false), (0, true)] {
        let target = target();
        let asked = std::cell::Cell::new(0);
        let may_share = |_: &fs::File| {
            asked.set(asked.get() + 1);
            true
        };
        let whole: Vec<u8> = match shared {
            true => [&vec![7; SHIFT as usize][..], &bytes].concat()[..bytes.len()].to_vec(),
            false => bytes.clone(),
        };
        let piece = |number: usize| {
            let (at, len) = (number * 700_001, 700_001.min(whole.len() - number * 700_001));
            match number {
                2 => Piece::Bytes(whole[at..at + len].to_vec()),
                _ => Piece::Part { of: of.clone(), at: shift + at as u64, len: len as u64 },
            }
        };
        let pieces = (0..whole.len().div_ceil(700_001)).map(piece);
        let staged = begin(&target.applier, &whole).append_pieces_sharing(pieces, &may_share).unwrap();
        assert_eq!((staged.size(), asked.get()), (whole.len() as u64, u32::from(shared)));
        let staged = staged.finish(whole.len() as u64, &Digest::of(&whole)).unwrap();
        let (at, entry) = (target.at("large"), file_entry(&whole, 0o644));
        target.applier.place(staged, &at.place(), &entry, &Expect::Nothing, Displaced::Delete).unwrap();
        assert!(fs::read(target.path.join("large")).unwrap() == whole);
    }
}

/// The old version is cut short under the reader's hands: nothing is made up in its place.
#[test]
fn a_shared_part_of_a_file_that_is_too_short_ends_the_file() {
    let target = target();
    let bytes = content(4);
    let mut material = tempfile::tempfile().unwrap();
    material.write_all(&bytes[..3 * PART]).unwrap();
    let part: Piece<Vec<u8>> = Piece::Part { of: Arc::new(material), at: 0, len: bytes.len() as u64 };
    let failed = begin(&target.applier, &bytes).append_pieces_sharing([part].into_iter(), &|_| true);
    assert!(matches!(failed, Err(ApplyError::Io { .. })), "{failed:?}");
    assert_eq!(target.staging(), []);
}

#[test]
fn a_piece_that_is_not_there_ends_the_file() {
    let target = target();
    let bytes = content(6);
    let mut pieces = pieces(&bytes, 0, bytes.len());
    let Some(Piece::Part { at, .. }) = pieces.iter_mut().rfind(|piece| matches!(piece, Piece::Part { .. }))
    else {
        panic!("there is a part")
    };
    *at = bytes.len() as u64;
    let failed = begin(&target.applier, &bytes).append_pieces(pieces.into_iter());
    assert!(matches!(failed, Err(ApplyError::Io { .. })), "{failed:?}");
    assert_eq!(target.staging(), [], "nothing that is not sure stays");
}
