//! Limits of watching that are as small as a test wants, for its own processes and for nobody else.
//!
//! The kernel counts watches and watchers for each user namespace, and a new one may set limits of its own. Nothing is ever written from
//! the namespace that the test itself runs in: each write first makes sure that it is in another one.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
};

/// Sets both limits, unless that would be done where everybody is.
const SET: &str = r#"test -n "$1" && test "$(readlink /proc/self/ns/user)" != "$1" || exit 9
    echo "$2" > /proc/sys/user/max_inotify_watches && echo "$3" > /proc/sys/user/max_inotify_instances"#;

/// How much may be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watches {
    /// Directories, by all programs together.
    pub watches: u32,
    /// Watchers.
    pub instances: u32,
}

/// A user namespace with limits of its own. It vanishes with the handle, also when the test is killed.
#[derive(Debug)]
pub struct FewWatches {
    holder: Child,
    /// Its end ends the holder.
    _stdin: ChildStdin,
    outside: PathBuf,
}

impl FewWatches {
    /// Makes one. `None` if this machine does not allow it.
    #[must_use]
    pub fn new(limits: Watches) -> Option<Self> {
        let outside = fs::read_link("/proc/self/ns/user").ok()?;
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "sh", "-c", "echo made && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let stdin = holder.stdin.take()?;
        let mut line = String::new();
        let said = holder.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        let few = Self { holder, _stdin: stdin, outside };
        (matches!(said, Some(Ok(_))) && line == "made\n" && few.try_set(limits)).then_some(few)
    }

    /// The command prefix of a program that shall have these limits.
    #[must_use]
    pub fn inside(&self) -> Vec<String> {
        let holder = self.holder.id().to_string();
        ["nsenter", "--target", &holder, "--user", "--preserve-credentials"].map(str::to_owned).to_vec()
    }

    /// Changes the limits. What is watched stays so.
    ///
    /// # Panics
    /// If the kernel does not take what it took before.
    pub fn set(&self, limits: Watches) {
        assert!(self.try_set(limits), "the limits cannot be set to {limits:?}");
    }

    fn try_set(&self, limits: Watches) -> bool {
        let inside = self.inside();
        let set = Command::new(&inside[0])
            .args(&inside[1..])
            .args(["sh", "-c", SET, "sh"])
            .arg(&self.outside)
            .args([limits.watches, limits.instances].map(|limit| limit.to_string()))
            .stderr(Stdio::null())
            .status();
        set.is_ok_and(|status| status.success())
    }
}

impl Drop for FewWatches {
    fn drop(&mut self) {
        let _it_may_have_ended = self.holder.kill();
        let _ended = self.holder.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::skip;

    fn limit(prefix: &[String]) -> String {
        let file = "/proc/sys/user/max_inotify_watches".to_owned();
        let words: Vec<_> = prefix.iter().cloned().chain(["cat".to_owned(), file]).collect();
        let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn a_limit_holds_inside_and_nowhere_else() {
        let before = limit(&[]);
        let Some(few) = FewWatches::new(Watches { watches: 7, instances: 3 }) else {
            return skip("no user namespaces with limits of their own here");
        };
        assert_eq!(limit(&few.inside()), "7");
        few.set(Watches { watches: 9, instances: 3 });
        assert_eq!((limit(&few.inside()).as_str(), limit(&[])), ("9", before));
    }

    #[test]
    fn nothing_is_set_in_the_namespace_of_the_test() {
        let before = limit(&[]);
        let here = fs::read_link("/proc/self/ns/user").unwrap();
        let status = Command::new("sh").args(["-c", SET, "sh"]).arg(here).args(["no number"; 2]).status();
        assert_eq!(status.unwrap().code(), Some(9));
        assert_eq!(limit(&[]), before);
    }
}
