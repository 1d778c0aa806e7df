//! What a test needs from the machine, and whether it is there: root, a small disk, a program without privileges.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Says on stderr why a test does less than it could. The caller returns.
pub fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}

/// Whether the test runs as root, to whom permission bits mean nothing.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Lets this process have as many files open as its user may.
///
/// # Panics
/// If the kernel refuses what it said that it allows.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, raised).expect("a limit can be raised to its own maximum");
}

/// The command prefix that makes permission bits count: empty for a normal user, dropping all capabilities for root.
/// `None` if root cannot drop them.
#[must_use]
pub fn without_privileges() -> Option<Vec<String>> {
    if !is_root() {
        return Some(Vec::new());
    }
    let prefix = vec!["setpriv".to_owned(), "--bounding-set=-all".to_owned()];
    let works = Command::new(&prefix[0]).args(&prefix[1..]).arg("true").output();
    works.is_ok_and(|output| output.status.success()).then_some(prefix)
}

/// A file system of a given size in a mount namespace of its own. It vanishes with the handle, also when the test is
/// killed, and nobody else on the machine ever sees it.
#[derive(Debug)]
pub struct SmallDisk {
    holder: Child,
    dir: PathBuf,
    own_user: bool,
}

impl SmallDisk {
    /// Mounts a tmpfs of that size at an existing directory. `None` if this machine does not allow it.
    #[must_use]
    pub fn mount(dir: &Path, size_bytes: u64) -> Option<Self> {
        let own_user = !is_root();
        let script = r#"mount -t tmpfs -o size="$2" none "$1" && echo mounted && exec cat"#;
        let mut holder = Command::new("unshare")
            .args(if own_user { &["--user", "--map-root-user", "--mount"][..] } else { &["--mount"] })
            .args(["sh", "-c", script, "sh"])
            .arg(dir)
            .arg(size_bytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let said = holder.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        let disk = Self { holder, dir: dir.to_owned(), own_user };
        (matches!(said, Some(Ok(_))) && line == "mounted\n").then_some(disk)
    }

    /// The command prefix of a program that shall see the disk at the directory it was mounted at.
    #[must_use]
    pub fn inside(&self) -> Vec<String> {
        let mut prefix =
            vec!["nsenter".into(), "--target".into(), self.holder.id().to_string(), "--mount".into()];
        if self.own_user {
            prefix.extend(["--user".into(), "--preserve-credentials".into()]);
        }
        prefix
    }

    /// Where the test itself sees what is on it.
    #[must_use]
    pub fn seen_from_here(&self) -> PathBuf {
        let inside = self.dir.strip_prefix("/").expect("a mount point is an absolute path");
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(inside)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The end of its stdin ends the holder, and with the last process the namespace and the mount go.
        if let Some(mut stdin) = self.holder.stdin.take() {
            let _nothing_to_flush = stdin.flush();
        }
        let _ended = self.holder.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn without_privileges_permission_bits_count() {
        let Some(prefix) = without_privileges() else { return skip("setpriv cannot drop capabilities here") };
        let dir = tempfile::tempdir().unwrap();
        let tree = crate::tree::Tree::at(dir.path());
        tree.file("secret", "x").mode(0o000);
        let mut words = prefix.iter().map(String::as_str).chain(["cat"]);
        let mut cat = Command::new(words.next().unwrap());
        let output = cat.args(words).arg(tree.path("secret")).output().unwrap();
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("denied"), "{output:?}");
    }

    #[test]
    fn a_small_disk_fills_up_and_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let mount_point = fs::canonicalize(dir.path()).unwrap();
        let Some(disk) = SmallDisk::mount(&mount_point, 1 << 20) else {
            return skip("no mount namespaces here");
        };
        let seen = disk.seen_from_here();
        fs::write(seen.join("fits"), [0; 1000]).unwrap();
        assert!(fs::write(seen.join("too large"), vec![0; 2 << 20]).is_err());
        let inside = disk.inside();
        let listed =
            Command::new(&inside[0]).args(&inside[1..]).arg("ls").arg(&mount_point).output().unwrap();
        assert!(String::from_utf8_lossy(&listed.stdout).contains("fits"), "{listed:?}");
        assert_eq!(fs::read_dir(&mount_point).unwrap().count(), 0, "the mount is not seen outside");
    }
}
