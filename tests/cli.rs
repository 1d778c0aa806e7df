//! What scripts and people rely on: JSON, exit codes, output, flags, variables, files.

mod common;

use std::{collections::BTreeSet, net::TcpListener};

use common::{LATER, Lab, SHARE, SOON, SYNC_AGENT, SYNCD, counts, expect_code, fill};
use sync_testkit::{
    eventually,
    programs::{Agent, Daemon, Launch, Outcome, PATIENCE},
};

const REPORT_KEYS: [&str; 18] = [
    "outcome",
    "exit_code",
    "error",
    "checked",
    "changed",
    "synced",
    "failed",
    "unchanged",
    "skipped",
    "deleted",
    "renamed",
    "bytes_received",
    "bytes_total",
    "seconds",
    "cursor",
    "root_digest",
    "problems",
    "dry_run",
];

#[track_caller]
fn assert_report(outcome: &Outcome) {
    let object = outcome.json.as_object().unwrap_or_else(|| panic!("no single object: {}", outcome.stdout));
    let keys: BTreeSet<_> = object.keys().map(String::as_str).collect();
    assert_eq!(keys, BTreeSet::from(REPORT_KEYS), "{}", outcome.stdout);
    assert!(object["outcome"].is_string() && object["seconds"].is_f64() && object["dry_run"].is_boolean());
    assert_eq!(object["exit_code"].as_i64(), outcome.code.map(i64::from));
    let [checked, changed, unchanged] = counts(outcome, ["checked", "changed", "unchanged"]);
    assert_eq!(checked, changed + unchanged, "{}", outcome.stdout);
    let [synced, failed, renamed] = counts(outcome, ["synced", "failed", "renamed"]);
    assert!(changed == synced + failed && renamed <= synced, "{}", outcome.stdout);
}

#[test]
fn every_report_has_the_same_keys() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    let daemon = lab.daemon();
    let agent = lab.agent(&daemon.url());
    for command in [&["pull", "--dry-run"][..], &["pull"], &["pull"], &["pull", "--full"], &["verify"]] {
        let outcome = agent.json(command).expect(0);
        assert_report(&outcome);
        assert!(outcome.json["error"].is_null());
        if command != ["pull", "--dry-run"] {
            let digest = outcome.text("root_digest");
            assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{digest}");
        }
    }
    assert!(!agent.pull().text("cursor").is_empty());

    let unknown = Agent::new(SYNC_AGENT, &daemon.url(), "unknown", lab.path("t")).pull().expect(2);
    assert_report(&unknown);
    assert!(!unknown.text("error").is_empty());
    drop(daemon);
    let unreachable = agent.pull().expect(1);
    assert_report(&unreachable);
    assert!(!unreachable.text("error").is_empty());
}

#[test]
fn the_root_digest_depends_on_the_tree_only() {
    let lab = Lab::new();
    fill(&lab.share, 30);
    let (mut daemon, agent) = lab.pulled();
    let digest = agent.pull().text("root_digest");
    lab.share.file("more", "x");
    assert_ne!(agent.pull().text("root_digest"), digest);
    lab.share.remove("more");
    assert_eq!(agent.pull().text("root_digest"), digest);

    daemon.stop();
    lab.share.remove(".syncd");
    daemon.restart();
    assert_eq!(agent.pull().text("root_digest"), digest, "a rebuilt index gives another digest");
}

#[test]
fn verify_reads_everything_and_changes_nothing() {
    let lab = Lab::new();
    fill(&lab.share, 50);
    let (_daemon, agent) = lab.pulled();
    let verified = agent.json(&["verify"]).expect(0);
    assert_eq!(counts(&verified, ["checked", "changed"]), [51, 0]);

    lab.target().rewrite_quietly("dir 1/sub/file 1", 7);
    lab.target().remove("dir 2/sub/file 2");
    lab.target().file("unknown", "x");
    let before = lab.target().snapshot();
    let different = agent.json(&["verify"]).expect(3);
    let mut paths: Vec<_> = different.problems().into_iter().map(|(path, _)| path).collect();
    paths.sort();
    // A directory that lost a name has another time than the share's. The root's own is not carried.
    assert_eq!(paths, ["dir 1/sub/file 1", "dir 2/sub", "dir 2/sub/file 2", "unknown"]);
    assert_eq!(before, lab.target().snapshot());
    assert_report(&different);
    assert!(lab.target().trash().is_empty());

    agent.pull().expect(0);
    agent.json(&["verify"]).expect(0);
}

#[test]
fn status_works_offline_and_beside_a_running_agent() {
    let lab = Lab::new();
    fill(&lab.share, 10);
    let daemon = lab.daemon();
    let agent = lab.agent(&daemon.url());
    let never = agent.plain(&["status"]);
    expect_code(&never, 0);
    assert!(never.stdout.contains(SHARE) && never.stdout.contains(&daemon.url()), "{}", never.stdout);

    let mut follower = agent.follow();
    follower.caught_up();
    let beside = agent.plain(&["status"]);
    expect_code(&beside, 0);
    assert!(beside.stdout.contains(&lab.path("target").display().to_string()), "{}", beside.stdout);
    assert!(follower.process().is_running());
    expect_code(&follower.stop(), 0);

    drop(daemon);
    let offline = agent.plain(&["status"]);
    expect_code(&offline, 0);
    assert!(offline.stdout.to_lowercase().contains("equal"), "{}", offline.stdout);
    let json = agent.json(&["status"]).expect(0);
    assert!(json.json.is_object(), "{}", json.stdout);
}

#[test]
fn status_does_not_make_anything() {
    let lab = Lab::new();
    let finished = lab.agent("http://127.0.0.1:9").plain(&["status"]);
    expect_code(&finished, 0);
    assert!(!lab.tree(".").has("target"));
}

#[test]
fn quiet_is_silent_but_for_errors() {
    let lab = Lab::new();
    fill(&lab.share, 10);
    let daemon = lab.daemon();
    let agent = lab.agent(&daemon.url());
    let quiet = agent.plain(&["pull", "-q"]);
    expect_code(&quiet, 0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    drop(daemon);
    let failed = agent.plain(&["-q", "pull"]);
    expect_code(&failed, 1);
    assert!(!failed.stderr.is_empty() && failed.stdout.is_empty());
}

#[test]
fn the_closing_line_tells_the_counts() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    let daemon = lab.daemon();
    let agent = lab.agent(&daemon.url());
    let finished = agent.plain(&["pull"]);
    expect_code(&finished, 0);
    let all = format!("{}\n{}", finished.stdout, finished.stderr);
    assert!(all.contains("21 of 21 files changed: 21 synced, 0 failed, 0 unchanged; 40.0 KiB in "), "{all}");
    lab.share.file("new", "x");
    let finished = agent.plain(&["pull"]);
    let all = format!("{}\n{}", finished.stdout, finished.stderr);
    assert!(all.contains("1 of 22 files changed: 1 synced, 0 failed, 21 unchanged"), "{all}");
    assert!(
        !all.contains('\r') && !all.contains('\u{1b}'),
        "no terminal, so no bars and no colours: {all:?}"
    );
}

#[test]
fn flags_work_before_and_after_the_command() {
    let lab = Lab::new();
    fill(&lab.share, 5);
    let daemon = lab.daemon();
    let target = lab.path("target").display().to_string();
    let flags =
        ["--server", &daemon.url(), "--share", SHARE, "--target", &target, "--json", "--concurrency", "2"];
    let before: Vec<_> = flags.iter().copied().chain(["pull"]).collect();
    let after: Vec<_> = ["pull"].into_iter().chain(flags).collect();
    for args in [before, after] {
        Outcome::read(lab.launch(SYNC_AGENT).args(args).run(PATIENCE)).expect(0);
        lab.assert_same();
    }
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let lab = Lab::new();
    fill(&lab.share, 5);
    let daemon = lab.daemon();
    let wrong = "http://127.0.0.1:9";
    let pull = |launch: Launch| Outcome::read(launch.args(["--json", "pull"]).run(PATIENCE)).expect(0);
    let target = |name: &str| lab.path(name).display().to_string();

    let file = |url: &str, name: &str| {
        let text = format!("server = \"{url}\"\nshare = \"{SHARE}\"\ntarget = \"{}\"\n", target(name));
        lab.tree(".").file("sync-agent.toml", text);
    };
    file(&daemon.url(), "from file");
    pull(lab.launch(SYNC_AGENT));
    assert!(lab.tree("from file").has("link"));

    file(wrong, "from file 2");
    pull(
        lab.launch(SYNC_AGENT)
            .env("SYNC_AGENT_SERVER", daemon.url())
            .env("SYNC_AGENT_TARGET", target("from variable")),
    );
    assert!(lab.tree("from variable").has("link"));

    let variables =
        lab.launch(SYNC_AGENT).env("SYNC_AGENT_SERVER", wrong).env("SYNC_AGENT_TARGET", target("no"));
    pull(variables.args(["--server", &daemon.url(), "--target", &target("from flag")]));
    assert!(lab.tree("from flag").has("link"));
    assert!(!lab.tree(".").has("no") && !lab.tree(".").has("from file 2"));
}

#[test]
fn an_unknown_variable_only_warns() {
    let lab = Lab::new();
    fill(&lab.share, 5);
    let daemon = lab.daemon();
    let outcome = lab.agent(&daemon.url()).env("SYNC_AGENT_SERVR", "x").pull().expect(0);
    assert!(outcome.stderr.contains("SYNC_AGENT_SERVR"), "{}", outcome.stderr);
}

#[test]
fn a_state_directory_elsewhere_leaves_nothing_in_the_target() {
    let lab = Lab::new();
    fill(&lab.share, 5);
    let daemon = lab.daemon();
    let state = lab.path("state").display().to_string();
    let agent = lab.agent(&daemon.url()).args(["--state-dir", &state]);
    agent.pull().expect(0);
    lab.assert_same();
    assert!(lab.tree(".").has("state"));
    assert!(!lab.target().has(".syncd/target.db"));
    assert_eq!(agent.pull().expect(0).count("changed"), 0);
}

#[test]
fn both_programs_tell_version_and_help() {
    for bin in [SYNCD, SYNC_AGENT] {
        let version = Launch::new(bin).args(["--version"]).run(PATIENCE);
        expect_code(&version, 0);
        assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{}", version.stdout);
        let help = Launch::new(bin).args(["--help"]).run(PATIENCE);
        expect_code(&help, 0);
        assert!(help.stdout.contains("--config"), "{}", help.stdout);
    }
}

#[test]
fn the_daemon_tells_what_it_serves_and_what_changes() {
    let lab = Lab::new();
    lab.share.file("one", "12345");
    lab.share.file("two", "12345");
    let mut daemon: Daemon = lab.daemon();
    let address = daemon.address().to_owned();
    let process = daemon.process();
    let head = process.stdout();
    let ready = head.iter().position(|line| *line == format!("ready http://{address}")).expect("it is ready");
    let head = head[..ready].join("\n");
    assert!(head.contains(env!("CARGO_PKG_VERSION")) && head.contains(SHARE), "{head}");
    assert!(head.contains(&lab.share.root().display().to_string()) && head.contains('2'), "{head}");

    let next = ready + 1;
    lab.share.file("three", "123");
    process.wait_for_line(next, SOON, |line| line.contains(SHARE) && line.contains("three"));
    lab.share.file("evil\u{1b}[2J\nname", "x");
    let (_, line) = process.wait_for_line(next, SOON, |line| line.contains("evil"));
    assert!(line.contains("name") && !line.contains('\u{1b}'), "{line:?}");
    lab.share.remove("two");
    process.wait_for_line(next, SOON, |line| line.contains("two"));
}

#[test]
fn a_daemon_ends_in_order_on_both_signals() {
    use sync_testkit::programs::Signal;
    let lab = Lab::new();
    fill(&lab.share, 5);
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = lab.daemon();
        daemon.process().signal(signal);
        assert_eq!(daemon.process().wait(std::time::Duration::from_secs(6)).code(), Some(0), "{signal:?}");
    }
}

#[test]
fn ipv6_addresses_are_in_brackets() {
    if TcpListener::bind("[::1]:0").is_err() {
        return sync_testkit::host::skip("no IPv6 on loopback");
    }
    let lab = Lab::new();
    fill(&lab.share, 5);
    let daemon = lab.spec().listen("[::1]:0").start();
    assert!(daemon.url().starts_with("http://[::1]:"), "{}", daemon.url());
    lab.agent(&daemon.url()).pull().expect(0);
    lab.assert_same();
}

#[test]
fn check_validates_and_prints_the_configuration() {
    let lab = Lab::new();
    let dir = lab.share.root().display();
    lab.tree(".").file(
        "syncd.toml",
        format!("listen = \"127.0.0.1:7777\"\n[[share]]\nname = \"{SHARE}\"\npath = \"{dir}\"\n"),
    );
    let finished = lab.launch(SYNCD).args(["check"]).run(PATIENCE);
    expect_code(&finished, 0);
    assert!(
        finished.stdout.contains("127.0.0.1:7777") && finished.stdout.contains(SHARE),
        "{}",
        finished.stdout
    );
    let finished = lab.launch(SYNCD).env("SYNCD_LISTEN", "127.0.0.1:8888").args(["check"]).run(PATIENCE);
    assert!(finished.stdout.contains("127.0.0.1:8888"), "{}", finished.stdout);
    assert!(!lab.share.has(".syncd"), "check makes no state");
}

#[test]
fn check_warns_of_ignore_patterns_that_are_not_understood() {
    let lab = Lab::new();
    let dir = lab.share.root().display();
    lab.share.file(".syncignore", "*.log\n[b-a]\n");
    lab.tree(".").file(
        "syncd.toml",
        format!("[[share]]\nname = \"{SHARE}\"\npath = \"{dir}\"\nignore = [\"*.tmp\", \"[z-y]\"]\n"),
    );
    let finished = lab.launch(SYNCD).args(["check"]).run(PATIENCE);
    expect_code(&finished, 0);
    let warnings: Vec<_> = finished.stderr.lines().filter(|line| line.contains("is left out")).collect();
    assert_eq!(warnings.len(), 2, "{}", finished.stderr);
    assert!(warnings[0].contains("[z-y]") && warnings[0].contains("share.ignore"), "{warnings:?}");
    assert!(warnings[1].contains("[b-a]") && warnings[1].contains(".syncignore"), "{warnings:?}");
}

#[test]
fn logs_are_json_when_asked_for_and_never_on_stdout() {
    let lab = Lab::new();
    fill(&lab.share, 5);
    let log = lab.path("syncd.log");
    let args = ["--log-format".as_ref(), "json".as_ref(), "--log-file".as_ref(), log.as_os_str()];
    let mut daemon = lab.spec().args(args).env("RUST_LOG", "debug").start();
    let agent = lab.agent(&daemon.url()).args(["--log-format", "json"]).env("RUST_LOG", "debug");
    agent.pull().expect(0);
    for line in daemon.process().stderr() {
        serde_like(&line);
    }
    // A rolling log's name may carry its date.
    eventually(LATER, || {
        let names: Vec<_> =
            lab.tree(".").snapshot().into_keys().filter(|path| path.0.starts_with(b"syncd")).collect();
        if names.is_empty() { Err("no log file".to_owned()) } else { Ok(()) }
    });
}

#[track_caller]
fn serde_like(line: &str) {
    let value: Result<sync_testkit::programs::Value, _> = line.parse();
    assert!(value.is_ok_and(|value| value.is_object()), "not a JSON object: {line}");
}
