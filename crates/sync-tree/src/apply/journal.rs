//! Notes of where something in staging came from, so that an ended run can be undone.
//!
//! A note is a file `NAME.from` beside `NAME`: a line with the format's version, then the path. It is written before the
//! thing is moved and removed after it is settled. A note that a power cut spoiled costs the name, never the content.

use std::{
    fs::File,
    io::{self, Read},
};

use sync_core::TreePath;

use crate::{
    probe::probed,
    rooted::{Dir, write_file_at},
};

const SUFFIX: &str = ".from";
const HEADER: &[u8] = b"syncd-from 1\n";

/// No path that a system can work with is longer.
const MAX_NOTE_BYTES: u64 = 64 * 1024;

/// Notes that `name` in `dir` will be what is at `path`. A left-over note of that name is replaced. Answers the note, to be
/// flushed.
pub(super) fn write(dir: &Dir, name: &str, path: &TreePath) -> io::Result<File> {
    let note = note_name(name);
    let file = match dir.create_new(&note, 0o600) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            dir.remove_file(&note)?;
            dir.create_new(&note, 0o600)?
        }
        other => other?,
    };
    let mut bytes = HEADER.to_vec();
    bytes.extend_from_slice(path.as_str().as_bytes());
    write_file_at(&file, &bytes, 0)?;
    Ok(file)
}

/// Where `name` in `dir` came from, if that is known.
///
/// # Errors
/// There may be a note, and it cannot be read now.
pub(super) fn read(dir: &Dir, name: &str) -> io::Result<Option<TreePath>> {
    let note = match dir.open_file(&note_name(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    probed!(Read { file: &note, at: 0 } => (&note).take(MAX_NOTE_BYTES).read_to_end(&mut bytes))?;
    let path = bytes.strip_prefix(HEADER).and_then(|path| std::str::from_utf8(path).ok());
    Ok(path.and_then(|path| TreePath::new(path).ok()).filter(|path| !path.is_root()))
}

/// Removes the note. It may be missing; one that stays is removed at the next start.
pub(super) fn remove(dir: &Dir, name: &str) {
    let _ = dir.remove_file(&note_name(name));
}

/// Whether this is the name of a note.
pub(super) fn is_note(name: &str) -> bool {
    name.ends_with(SUFFIX)
}

fn note_name(name: &str) -> String {
    format!("{name}{SUFFIX}")
}
