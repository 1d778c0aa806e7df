//! A disk that exists becomes a model of one.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

use super::{Attr, Disk, Ino, ROOT, What};

/// The directory at this path with all that is in it, everything of it safe, and the model's numbers of the inodes. Names for
/// which `is_left_out` are not in it.
///
/// # Errors
/// Something cannot be read.
pub fn scan(root: &Path, is_left_out: impl Fn(&Path) -> bool) -> io::Result<(Disk, HashMap<u64, Ino>)> {
    let mut disk = Disk::new();
    let mut numbers = HashMap::from([(fs::metadata(root)?.ino(), ROOT)]);
    let mut todo = vec![(root.to_owned(), ROOT)];
    while let Some((path, dir)) = todo.pop() {
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            if is_left_out(&path) {
                continue;
            }
            let found = fs::symlink_metadata(&path)?;
            let what = match found.file_type() {
                kind if kind.is_dir() => What::Directory,
                kind if kind.is_symlink() => {
                    What::Link(fs::read_link(&path)?.as_os_str().as_bytes().to_vec())
                }
                _ => What::File,
            };
            let known = numbers.get(&found.ino()).copied();
            let ino = known.unwrap_or_else(|| disk.make(what.clone(), (found.mode() & 0o7777) as u16));
            numbers.insert(found.ino(), ino);
            let name = path.file_name().unwrap_or_default().as_bytes().to_vec();
            disk.first.insert((dir, name.clone()), ino);
            disk.names.insert((dir, name), ino);
            let inode = &mut disk.inodes[ino];
            inode.names += 1;
            inode.mtime = Attr::new(0, Some((found.mtime(), found.mtime_nsec() as u32)));
            match what {
                What::File => inode.bytes = Attr::new(0, fs::read(&path)?.into()),
                What::Directory => todo.push((path, ino)),
                What::Link(_) => {}
            }
        }
    }
    Ok((disk, numbers))
}
