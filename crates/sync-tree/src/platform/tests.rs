use std::{fs, io::ErrorKind, os::fd::AsFd, path::Path};

use super::{Place, portable};

/// Both ways to rename, so that the fallback is tested on file systems that never need it.
type Rename = fn(Place<'_>, Place<'_>) -> std::io::Result<()>;
const NOREPLACE: [Rename; 2] = [super::rename_noreplace, portable::rename_noreplace];
const EXCHANGE: [Rename; 2] = [super::rename_exchange, portable::rename_exchange];

fn rename(how: Rename, dir: &Path, from: &str, to: &str) -> std::io::Result<()> {
    let held = fs::File::open(dir).unwrap();
    how(Place { dir: held.as_fd(), name: from }, Place { dir: held.as_fd(), name: to })
}

fn text(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

#[test]
fn noreplace_moves_files_and_directories_but_replaces_nothing() {
    for how in NOREPLACE {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path();
        fs::write(dir.join("a"), "a").unwrap();
        fs::write(dir.join("b"), "b").unwrap();
        fs::create_dir(dir.join("d")).unwrap();
        fs::create_dir(dir.join("empty")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.join("dangling")).unwrap();
        for (from, to) in
            [("a", "b"), ("a", "empty"), ("a", "dangling"), ("d", "empty"), ("d", "b"), ("d", "dangling")]
        {
            let error = rename(how, dir, from, to).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{from} -> {to}");
        }
        rename(how, dir, "a", "c").unwrap();
        rename(how, dir, "d", "e").unwrap();
        rename(how, dir, "dangling", "link").unwrap();
        assert_eq!((text(dir, "c"), text(dir, "b")), ("a".into(), "b".into()));
        assert!(dir.join("e").is_dir() && !dir.join("a").exists() && !dir.join("d").exists());
        assert_eq!(fs::read_link(dir.join("link")).unwrap(), Path::new("nowhere"));
        assert_eq!(rename(how, dir, "none", "x").unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[test]
fn exchange_swaps_any_two_kinds_and_leaves_nothing_behind() {
    for how in EXCHANGE {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path();
        fs::write(dir.join("a"), "a").unwrap();
        fs::write(dir.join("b"), "b").unwrap();
        rename(how, dir, "a", "b").unwrap();
        assert_eq!((text(dir, "a"), text(dir, "b")), ("b".into(), "a".into()));

        fs::create_dir(dir.join("d")).unwrap();
        fs::write(dir.join("d/x"), "x").unwrap();
        rename(how, dir, "a", "d").unwrap();
        assert_eq!((text(dir, "a/x"), text(dir, "d")), ("x".into(), "b".into()));

        for (from, to) in [("a", "none"), ("none", "a")] {
            assert_eq!(rename(how, dir, from, to).unwrap_err().kind(), ErrorKind::NotFound);
        }
        assert_eq!(fs::read_dir(dir).unwrap().count(), 3);
    }
}

#[test]
fn copy_takes_the_first_bytes_of_any_length() {
    let tmp = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..700_000u32).map(|i| (i % 251) as u8).collect();
    let source = tmp.path().join("source");
    fs::write(&source, &bytes).unwrap();
    let source = fs::File::open(source).unwrap();
    for size in [0, 1, 4095, 4096, 300_000, 700_000, 900_000] {
        let path = tmp.path().join(format!("copy-{size}"));
        let copy = fs::File::create_new(&path).unwrap();
        let expected = &bytes[..size.min(bytes.len())];
        assert_eq!(super::copy(&source, &copy, size as u64).unwrap(), expected.len() as u64);
        assert_eq!(fs::read(&path).unwrap(), expected);

        let path = tmp.path().join(format!("slow-{size}"));
        let copy = fs::File::create_new(&path).unwrap();
        portable::copy_from(&source, &copy, 0, size as u64).unwrap();
        assert_eq!(fs::read(&path).unwrap(), expected);
    }
}

#[test]
fn a_local_disk_is_no_network_file_system() {
    let tmp = tempfile::tempdir().unwrap();
    assert!(!super::is_network_fs(fs::File::open(tmp.path()).unwrap().as_fd()).unwrap());
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_without_a_name_gets_one_only_where_nothing_is() {
    use super::{create_unnamed, link_unnamed, linux};

    let tmp = tempfile::tempdir().unwrap();
    let dir = fs::File::open(tmp.path()).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let link: [fn(&fs::File, Place<'_>) -> std::io::Result<()>; 2] = [link_unnamed, linux::link_through_proc];
    for (number, link) in link.into_iter().enumerate() {
        let Ok(file) = create_unnamed(dir.as_fd(), mode) else { return };
        let name = format!("file {number}");
        let place = Place { dir: dir.as_fd(), name: &name };
        link(&file, place).unwrap();
        let other = create_unnamed(dir.as_fd(), mode).unwrap();
        assert_eq!(link(&other, place).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), number + 1);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_has_no_disk_is_known_and_what_is_in_memory_is_read_at_once() {
    let read = |dir: &Path| {
        let tmp = tempfile::tempdir_in(dir).unwrap();
        fs::write(tmp.path().join("f"), b"some bytes").unwrap();
        let file = fs::File::open(tmp.path().join("f")).unwrap();
        let mut bytes = [0; 10];
        let read = super::read_cached(&file, &mut bytes, 5).map(|count| bytes[..count].to_vec());
        (super::is_in_memory(&file), read)
    };
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        assert!(read(memory).0);
    }
    // Wherever this is: it was just written, so it is in memory, if the system can say so.
    match read(&std::env::temp_dir()) {
        (_, Ok(bytes)) => assert_eq!(bytes, b"bytes"),
        (_, Err(error)) => assert_eq!(error.kind(), ErrorKind::Unsupported),
    }
}
