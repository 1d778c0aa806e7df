//! For tests: a test in a process of its own, without privileges or with mounts that nobody else sees.

use std::process::Command;

/// Set in the process in which the test really runs.
const MARK: &str = "SYNC_TREE_TEST_APART";

/// Runs the calling test (its full name) once more, alone, behind a command prefix. Answers whether the caller is in that
/// process; anybody else is done.
pub(crate) fn is_apart(test: &str, prefix: Option<Vec<String>>) -> bool {
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let Some(prefix) = prefix else {
        sync_testkit::host::skip("this user cannot run a test apart here");
        return false;
    };
    let program = std::env::current_exe().unwrap().into_os_string();
    let mut words = prefix.into_iter().map(Into::into).chain([program]);
    let mut command = Command::new(words.next().unwrap());
    let output = command.args(words).args(["--exact", test, "--nocapture"]).env(MARK, "1").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    // Or the name is wrong, and nothing ran.
    assert!(out.contains("1 passed"), "{out}\n{err}");
    false
}
