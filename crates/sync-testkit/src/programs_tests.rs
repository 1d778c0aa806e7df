//! The handles against shell scripts that play the programs.

use std::{os::unix::fs::PermissionsExt as _, path::PathBuf};

use super::*;
use crate::eventually;

struct Scripts(tempfile::TempDir);

impl Scripts {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

#[test]
fn a_daemon_is_ready_when_it_says_so_and_keeps_its_port() {
    let scripts = Scripts::new();
    let bin = scripts.script(
        "syncd",
        r#"for a; do case $last in --listen) listen=$a;; esac; last=$a; done
        case $listen in *:0) listen=127.0.0.1:4711;; esac
        echo "args $*"; echo "ready http://$listen"; exec sleep 1000"#,
    );
    let mut daemon = DaemonSpec::new(bin).share("docs", "/tmp").start();
    assert_eq!(daemon.url(), "http://127.0.0.1:4711");
    assert_eq!(daemon.process().stdout()[0], "args --listen 127.0.0.1:0 --share docs=/tmp");
    let first = daemon.pid();
    // Right after its word the shell becomes `sleep`, and its numbers begin anew.
    eventually(Duration::from_secs(10), || {
        let (rss, peak, files) = (rss_bytes(first), peak_rss_bytes(first), open_files(first));
        if rss > 0 && peak >= rss && files > 0 { Ok(()) } else { Err(format!("{rss} {peak} {files}")) }
    });
    daemon.crash_and_restart();
    assert_ne!(daemon.pid(), first);
    assert_eq!(daemon.process().stdout()[0], "args --listen 127.0.0.1:4711 --share docs=/tmp");
    assert_eq!(daemon.stop(), None, "sleep dies of SIGTERM");
}

#[test]
fn dropping_a_handle_ends_the_process() {
    let process = Launch::new("/bin/sleep").args(["1000"]).start();
    let proc_dir = format!("/proc/{}", process.pid());
    assert!(fs::exists(&proc_dir).unwrap());
    drop(process);
    assert!(!fs::exists(&proc_dir).unwrap());
}

#[test]
fn an_outcome_has_code_json_and_stderr() {
    let scripts = Scripts::new();
    let bin = scripts.script(
        "sync-agent",
        r#"echo "$*" >&2; echo '{"exit_code":3,"synced":7,"error":null,"problems":[{"path":"a","error":"b"}]}'; exit 3"#,
    );
    let agent = Agent::new(bin, "http://x", "docs", "/t").args(["-v"]);
    let outcome = agent.pull().expect(3);
    assert_eq!(outcome.stderr, "--server http://x --share docs --target /t -v --json pull");
    assert_eq!((outcome.count("synced"), outcome.text("error").as_str()), (7, ""));
    assert_eq!(outcome.problems(), [("a".to_owned(), "b".to_owned())]);
    let plain = agent.plain(&["pull", "--full"]);
    assert!(plain.stderr.ends_with("-v pull --full"), "{plain:?}");
}

#[test]
#[should_panic(expected = "stdout is not JSON only")]
fn talk_on_stdout_is_noticed() {
    let scripts = Scripts::new();
    let bin = scripts.script("sync-agent", "echo hello");
    Agent::bare(bin).pull();
}

#[test]
fn events_are_waited_for_in_order() {
    let scripts = Scripts::new();
    let bin = scripts.script(
        "sync-agent",
        r#"trap 'exit 0' TERM
        echo '{"event":"connected"}'; echo '{"event":"caught_up","n":1}'; echo '{"event":"caught_up","n":2}'
        while :; do sleep 0.02; done"#,
    );
    let mut follower = Agent::bare(bin).follow();
    assert_eq!(follower.caught_up()["n"], 1);
    assert_eq!(follower.caught_up()["n"], 2);
    assert_eq!(follower.events().len(), 3);
    assert_eq!(follower.stop().code, Some(0));
}

#[test]
fn variables_of_the_programs_are_not_inherited_but_given() {
    let finished = Launch::new("/usr/bin/env").env("SYNCD_LISTEN", "x").in_dir("/tmp").run(PATIENCE);
    let of_programs: Vec<_> = finished.stdout.lines().filter(|line| line.starts_with("SYNC")).collect();
    assert_eq!(of_programs, ["SYNCD_LISTEN=x"]);
}
