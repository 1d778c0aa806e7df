//! Writing a small file so that, whatever happens, either the old or the new one is there, complete.
//!
//! Temp beside the target → write → fsync → rename → fsync of the directory. This is the only place that does it for
//! files of our own; files of a tree are flushed in batches when they are applied.

use std::io;

use crate::rooted::{Dir, set_file_mode, sync_file, write_file_at};

/// Writes `bytes` to `name` in `dir`, replacing what is there. When this returns, it survives a power cut.
///
/// # Errors
/// Nothing was replaced, unless only the flush of the directory failed at the end. No temporary file stays behind.
pub fn write(dir: &Dir, name: &str, bytes: &[u8], mode: u16) -> io::Result<()> {
    let temp = temp_name(name)?;
    let placed = fill(dir, &temp, bytes, mode).and_then(|()| dir.rename_to(&temp, dir, name));
    if let Err(error) = placed {
        // It may never have come to be; the first error is the one that matters.
        let _ = dir.remove_file(&temp);
        return Err(error);
    }
    dir.sync()
}

fn fill(dir: &Dir, temp: &str, bytes: &[u8], mode: u16) -> io::Result<()> {
    let file = dir.create_new(temp, 0o600)?;
    write_file_at(&file, bytes, 0)?;
    set_file_mode(&file, mode)?;
    sync_file(&file)
}

/// A name that nobody else has, recognisable for what it is if a crash leaves it behind.
fn temp_name(name: &str) -> io::Result<String> {
    let random = getrandom::u64().map_err(io::Error::other)?;
    Ok(format!("{}{random:016x}{TEMP}", temp_prefix(name)))
}

const TEMP: &str = ".tmp";

/// The digits of the random number in a temporary name.
const RANDOM_DIGITS: usize = 16;

fn temp_prefix(name: &str) -> String {
    format!(".{}.", &name[..name.floor_char_boundary(200)])
}

/// Removes what a killed process left of [`write()`]s to `name`. Nobody may be writing it meanwhile: call it under the lock
/// that those who write it hold.
///
/// # Errors
/// The directory cannot be listed, or a left-over cannot be removed.
pub fn sweep(dir: &Dir, name: &str) -> io::Result<()> {
    let prefix = temp_prefix(name);
    for entry in dir.list()? {
        let Ok(left) = std::str::from_utf8(&entry.name) else { continue };
        let random = left.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(TEMP));
        let ours =
            |random: &str| random.len() == RANDOM_DIGITS && random.bytes().all(|b| b.is_ascii_hexdigit());
        if random.is_some_and(ours) {
            dir.remove_file(left)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make and look at their own trees")]
mod tests {
    use std::fs;

    use super::*;
    use crate::rooted::Root;

    #[test]
    fn replaces_whole_files_and_leaves_nothing_behind() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Root::open(tmp.path()).unwrap().dir();
        let long = "\u{6587}".repeat(85);
        for name in ["f", &long] {
            write(&dir, name, b"one, and rather long", 0o644).unwrap();
            write(&dir, name, b"two", 0o640).unwrap();
            assert_eq!(fs::read(tmp.path().join(name)).unwrap(), b"two");
            assert_eq!(dir.stat(name).unwrap().mode, 0o640);
        }
        fs::create_dir_all(tmp.path().join("taken/x")).unwrap();
        assert!(write(&dir, "taken", b"", 0o600).is_err());
        assert!(write(&dir, "../f", b"", 0o600).is_err());
        assert_eq!(dir.list().unwrap().len(), 3);
    }

    #[test]
    fn what_a_killed_write_left_is_swept_and_nothing_else() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Root::open(tmp.path()).unwrap().dir();
        let temp = temp_name("share-id").unwrap();
        let others = [
            "share-id".to_owned(),
            temp_name("share").unwrap(),
            temp_name("share-id.more").unwrap(),
            ".share-id.tmp".to_owned(),
            ".share-id.0123456789abcdeg.tmp".to_owned(),
            ".share-id.0123456789abcdef0.tmp".to_owned(),
        ];
        for name in others.iter().chain([&temp]) {
            fs::write(tmp.path().join(name), "x").unwrap();
        }
        sweep(&dir, "share-id").unwrap();
        assert!(!tmp.path().join(&temp).exists());
        for name in &others {
            assert!(tmp.path().join(name).exists(), "{name}");
        }
    }

    #[test]
    fn a_symlink_is_replaced_and_not_written_through() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Root::open(tmp.path()).unwrap().dir();
        fs::write(tmp.path().join("victim"), "safe").unwrap();
        dir.symlink(b"victim", "f").unwrap();
        write(&dir, "f", b"new", 0o600).unwrap();
        assert_eq!(fs::read(tmp.path().join("victim")).unwrap(), b"safe");
        assert_eq!(fs::read(tmp.path().join("f")).unwrap(), b"new");
    }
}
