//! What goes wrong is one clear message with advice and the right exit code, and the rest goes on.

mod common;

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use common::{Lab, SHARE, SYNC_AGENT, SYNCD, assert_clear, counts, expect_code, fill};
use sync_testkit::{
    host::{SmallDisk, skip, without_privileges},
    programs::{Agent, DaemonSpec, Launch, PATIENCE},
};

/// An address of this machine at which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    format!("http://{}", listener.local_addr().expect("a bound socket has an address"))
}

#[test]
fn a_server_that_is_not_there() {
    let lab = Lab::new();
    let url = nobody();
    let began = Instant::now();
    let outcome = lab.agent(&url).pull().expect(1);
    assert!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
    assert_clear(&outcome.stderr, &[url.trim_start_matches("http://")]);
    assert!(!outcome.text("error").is_empty());
    let began = Instant::now();
    let followed = lab.agent(&url).start(&["follow"]).finish(PATIENCE);
    expect_code(&followed, 1);
    assert!((5..20).contains(&began.elapsed().as_secs()), "it gave up after {:?}", began.elapsed());
    assert_clear(&followed.stderr, &[url.trim_start_matches("http://")]);
}

#[test]
fn a_server_that_speaks_something_else() {
    let lab = Lab::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // The thread ends with the test program: there is no way to take an accepting socket back.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _gone = std::io::Write::write_all(&mut &stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let outcome = lab.agent(&url).pull().expect(1);
    assert_clear(&outcome.stderr, &[]);
}

#[test]
fn a_server_that_never_answers() {
    let lab = Lab::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let began = Instant::now();
    let outcome = lab.agent(&url).pull().expect(1);
    assert!(began.elapsed() < Duration::from_secs(45), "it took {:?}", began.elapsed());
    assert_clear(&outcome.stderr, &[]);
}

#[test]
fn addresses_that_make_no_sense() {
    let lab = Lab::new();
    for url in ["not an address", "ftp://127.0.0.1:1", "http://", "http://127.0.0.1:99999"] {
        let outcome = lab.agent(url).plain(&["pull"]);
        expect_code(&outcome, 2);
        assert_clear(&outcome.stderr, &["server"]);
    }
}

#[test]
fn a_share_that_does_not_exist() {
    let lab = Lab::new();
    fill(&lab.share, 2);
    let daemon = lab.daemon();
    let agent = Agent::new(SYNC_AGENT, &daemon.url(), "dosc", lab.path("target"));
    let outcome = agent.pull().expect(2);
    assert_clear(&outcome.stderr, &["dosc", SHARE]);
    expect_code(&agent.start(&["follow"]).finish(PATIENCE), 2);
}

/// Every command that writes into the target fails, and says which path is in the way and what to do.
#[track_caller]
fn assert_refused(agent: &Agent, words: &[&str]) {
    for command in [&["pull"][..], &["pull", "--dry-run"], &["verify"]] {
        let outcome = agent.json(command).expect(1);
        assert_clear(&outcome.stderr, words);
        assert_eq!(outcome.stderr.lines().count(), 2, "one error and one hint: {}", outcome.stderr);
    }
    let followed = agent.start(&["follow"]).finish(PATIENCE);
    expect_code(&followed, 1);
    assert_clear(&followed.stderr, words);
}

#[test]
fn a_target_that_cannot_be_made() {
    let lab = Lab::new();
    fill(&lab.share, 2);
    let daemon = lab.daemon();
    let parent = lab.path("no/such").display().to_string();
    let missing = lab.agent_into(&daemon.url(), "no/such/target");
    assert_refused(&missing, &[&parent, "no/such/target", "hint: make that directory first"]);
    assert!(!lab.tree(".").has("no"));

    lab.tree(".").file("a file", "x");
    let file = lab.path("a file").display().to_string();
    assert_refused(&lab.agent_into(&daemon.url(), "a file"), &[&file, "hint: name a directory as --target"]);
    let below = lab.agent_into(&daemon.url(), "a file/b/c");
    assert_refused(&below, &[&format!("{file} is not a directory"), "hint: name a directory as --target"]);
    assert_eq!(lab.tree(".").read("a file"), b"x");

    lab.tree(".").link("a link", "nowhere");
    let link = lab.path("a link").display().to_string();
    assert_refused(&lab.agent_into(&daemon.url(), "a link"), &[&link, "hint: mount or make"]);
    assert!(!lab.tree(".").has("nowhere"));
}

#[test]
fn a_target_that_cannot_be_written() {
    let Some(prefix) = without_privileges() else { return skip("permission bits mean nothing to this user") };
    let lab = Lab::new();
    fill(&lab.share, 5);
    let daemon = lab.daemon();
    let home = lab.tree("home");
    let agent =
        |target| lab.agent_into(&daemon.url(), target).through(&prefix).env("HOME", home.root().as_os_str());
    let path = |name| lab.path(name).display().to_string();
    let advice = "or choose another --target";

    lab.target().placed(".").mode(0o555);
    assert_refused(&agent("target"), &[&format!("Cannot write into the target {}:", path("target")), advice]);
    lab.target().placed(".").mode(0o755);
    assert!(lab.target().snapshot().is_empty());

    lab.tree("closed").placed(".").mode(0o555);
    assert_refused(&agent("closed/target"), &[&format!("the target in {}:", path("closed")), advice]);

    // What is ours in it was another user's.
    agent("target").pull().expect(0);
    lab.target().placed(".syncd/target.db").mode(0o444);
    lab.target().placed(".syncd/agent.lock").mode(0o444);
    assert_refused(&agent("target"), &[&path("target/.syncd/agent.lock")]);
    lab.target().placed(".syncd/agent.lock").mode(0o600);
    assert_refused(&agent("target"), &[&path("target/.syncd/target.db")]);
    // What SQLite made beside it has its mode.
    for file in ["target.db", "target.db-wal", "target.db-shm"].map(|name| format!(".syncd/{name}")) {
        if lab.target().has(&file) {
            lab.target().placed(&file).mode(0o600);
        }
    }
    agent("target").pull().expect(0);
    assert!(home.snapshot().is_empty(), "nothing was put elsewhere instead: {:?}", home.snapshot());
}

#[test]
fn a_target_on_a_read_only_file_system() {
    let lab = Lab::new();
    fill(&lab.share, 5);
    lab.tree("disk");
    let Some(disk) = SmallDisk::mount(&lab.path("disk"), 8 << 20) else {
        return skip("no file systems can be mounted here");
    };
    let daemon = lab.daemon();
    let agent = |target| lab.agent_into(&daemon.url(), target).through(disk.inside());
    agent("disk/target").pull().expect(0);
    let on_disk = sync_testkit::tree::Tree::at(disk.seen_from_here());
    on_disk.dir("new");
    let remount = Launch::new("mount").args(["-o", "remount,ro"]).args([lab.path("disk")]);
    expect_code(&remount.through(disk.inside()).run(PATIENCE), 0);

    let path = |name| lab.path(name).display().to_string();
    for (target, at) in
        [("disk/target", "disk/target/.syncd"), ("disk/new", "disk/new"), ("disk/newer", "disk")]
    {
        assert_refused(&agent(target), &[&format!("{}:", path(at)), "Read-only", "remount it for writing"]);
    }
    // What asks nobody to write works as ever.
    expect_code(&agent("disk/target").plain(&["status"]), 0);
}

#[test]
fn a_state_directory_that_cannot_be_written() {
    let Some(prefix) = without_privileges() else { return skip("permission bits mean nothing to this user") };
    let lab = Lab::new();
    fill(&lab.share, 5);
    let daemon = lab.daemon();
    lab.tree("closed").placed(".").mode(0o555);
    lab.tree(".").file("a file", "x");
    for place in ["closed", "closed/below", "a file", "a file/below"] {
        let path = lab.path(place).display().to_string();
        let agent = lab.agent(&daemon.url()).through(&prefix).args(["--state-dir", &path]);
        assert_refused(&agent, &[&path, "or choose another --state-dir"]);
    }
}

#[test]
fn a_file_that_the_daemon_cannot_read_is_a_problem_and_the_rest_goes_on() {
    let Some(prefix) = without_privileges() else { return skip("permission bits mean nothing to this user") };
    let lab = Lab::new();
    fill(&lab.share, 10);
    lab.share.file("secret", "version 1").mode(0o000);
    let daemon = lab.spec().through(prefix).start();
    let agent = lab.agent(&daemon.url());
    let outcome = agent.pull().expect(3);
    let problems = outcome.problems();
    assert!(problems.len() == 1 && problems[0].0 == "secret", "{problems:?}");
    assert!(problems[0].1.to_lowercase().contains("permission"), "{problems:?}");
    assert_clear(&outcome.stderr, &["secret"]);
    assert_eq!(lab.target().read("dir 3/sub/file 3"), lab.share.read("dir 3/sub/file 3"));

    lab.share.placed("secret").mode(0o644);
    agent.pull().expect(0);
    lab.assert_same();

    // What is unreadable now keeps its last version in the target.
    lab.share.placed("secret").mode(0o000);
    agent.pull();
    assert_eq!(lab.target().read("secret"), b"version 1");
}

#[test]
fn what_the_daemon_cannot_read_is_counted_and_listed_once() {
    let Some(prefix) = without_privileges() else { return skip("permission bits mean nothing to this user") };
    let lab = Lab::new();
    fill(&lab.share, 10);
    lab.share.file("secret", "never read").mode(0o000);
    lab.share.file("closed/file", "never listed");
    lab.share.placed("closed").mode(0o000);
    lab.share.file("read once", "version 1");
    let daemon = lab.spec().through(prefix).start();
    // Known to the daemon from now on, and to no agent.
    lab.share.placed("read once").mode(0o000);
    let keys = ["checked", "changed", "synced", "failed", "unchanged"];
    // Ten files and a link can be brought, two files cannot; a directory is a problem and no file.
    for (command, counted) in [
        (&["pull", "--dry-run"][..], [13, 13, 11, 2, 0]),
        (&["pull"], [13, 13, 11, 2, 0]),
        (&["pull"], [13, 2, 0, 2, 11]),
        (&["verify"], [13, 2, 0, 2, 11]),
    ] {
        let outcome = lab.agent(&daemon.url()).json(command).expect(3);
        let mut paths: Vec<_> = outcome.problems().into_iter().map(|(path, _)| path).collect();
        paths.sort();
        assert_eq!(paths, ["closed", "read once", "secret"], "{command:?}: {}", outcome.stdout);
        assert_eq!(counts(&outcome, keys), counted, "{command:?}: {}", outcome.stdout);
    }
    lab.share.placed("closed").mode(0o755);
}

#[test]
fn an_unreadable_directory_deletes_nothing_anywhere() {
    let Some(prefix) = without_privileges() else { return skip("permission bits mean nothing to this user") };
    let lab = Lab::new();
    fill(&lab.share, 40);
    let mut daemon = lab.spec().through(prefix).start();
    let agent = lab.agent(&daemon.url());
    agent.pull().expect(0);
    let before = lab.target().look("dir 3/sub/file 3");
    lab.share.placed("dir 3").mode(0o000);
    lab.share.file("another", "x");
    for restarted in [false, true] {
        if restarted {
            daemon.crash_and_restart();
        }
        let outcome = agent.pull().expect(3);
        assert_eq!(outcome.count("deleted"), 0);
        let problems = outcome.problems();
        assert!(problems.iter().any(|(path, _)| path == "dir 3"), "{problems:?}");
        assert_eq!(lab.target().look("dir 3/sub/file 3"), before);
        assert!(lab.target().has("another"));
    }
    lab.share.placed("dir 3").mode(0o755);
    agent.pull().expect(0);
    lab.assert_same();
}

#[test]
fn what_the_daemon_cannot_read_is_moved_and_not_deleted_when_it_is_renamed() {
    let Some(prefix) = without_privileges() else { return skip("permission bits mean nothing to this user") };
    let lab = Lab::new();
    fill(&lab.share, 40);
    lab.share.file("secret", "precious");
    let mut daemon = lab.spec().through(prefix).start();
    let agent = lab.agent(&daemon.url());
    agent.pull().expect(0);
    let before = lab.target().look("dir 3/sub/file 3");
    lab.share.placed("dir 3").mode(0o000);
    lab.share.placed("secret").mode(0o000);
    lab.share.rename("dir 3", "dir 4/moved");
    lab.share.rename("secret", "secret 2");
    for restarted in [false, true] {
        if restarted {
            daemon.crash_and_restart();
        }
        let outcome = agent.pull().expect(3);
        assert_eq!(outcome.count("deleted"), 0);
        let mut problems: Vec<String> = outcome.problems().into_iter().map(|(path, _)| path).collect();
        problems.sort();
        assert_eq!(problems, ["dir 4/moved", "secret 2"]);
        // What the directory holds is hidden in the target too, if the agent's user is not above such things.
        lab.target().placed("dir 4/moved").mode(0o755);
        assert_eq!(lab.target().look("dir 4/moved/sub/file 3"), before);
        assert_eq!(lab.target().read("secret 2"), b"precious");
        assert!(!lab.target().has("dir 3") && !lab.target().has("secret"));
    }
    lab.share.placed("dir 4/moved").mode(0o755);
    lab.share.placed("secret 2").mode(0o644);
    agent.pull().expect(0);
    lab.assert_same();
    assert!(lab.target().trash().is_empty());
}

#[test]
fn damaged_databases_are_made_anew_and_nothing_is_lost() {
    let lab = Lab::new();
    fill(&lab.share, 40);
    let mut daemon = lab.daemon();
    let agent = lab.agent(&daemon.url());
    agent.pull().expect(0);
    lab.target().file("only here", "mine");
    lab.target().file("dir 3/sub/file 3", "edited here");

    let garbage = "this is no database ".repeat(1000);
    lab.target().file(".syncd/target.db", &garbage);
    let outcome = agent.pull().expect(0);
    assert!(outcome.stderr.contains("damaged"), "{}", outcome.stderr);
    assert_eq!(outcome.count("synced"), 1, "only what was edited is brought");
    lab.assert_same();
    let trash = lab.target().trash();
    for kept in ["only here", "dir 3/sub/file 3"] {
        assert!(trash.contains_key(&kept.into()), "{kept} is not in {trash:?}");
    }
    agent.pull().expect(0);

    daemon.stop();
    lab.share.file(".syncd/share.db", &garbage);
    lab.share.file("new", "x");
    daemon.restart();
    let outcome = agent.pull().expect(0);
    assert_eq!((outcome.count("synced"), outcome.count("deleted")), (1, 0));
    lab.assert_same();
}

#[test]
fn one_file_that_the_target_cannot_take_does_not_stop_the_rest() {
    let Some(prefix) = without_privileges() else { return skip("permission bits mean nothing to this user") };
    let lab = Lab::new();
    // Without its owner's help nobody can enter the directory, so its file fails where the agent cannot change the mode.
    fill(&lab.share, 10);
    let daemon = lab.daemon();
    let agent = lab.agent(&daemon.url()).through(prefix);
    agent.pull().expect(0);
    // The agent's user owns the directory and may give itself the right: it must be made to work, or be told.
    lab.target().placed("dir 3").mode(0o000);
    lab.share.file("dir 3/sub/file 3", "changed");
    lab.share.file("dir 4/sub/file 4", "changed");
    let outcome = agent.pull();
    lab.target().placed("dir 3").mode(0o755);
    assert!(matches!(outcome.code, Some(0 | 3)), "{:?}\n{}", outcome.code, outcome.stderr);
    assert_eq!(lab.target().read("dir 4/sub/file 4"), b"changed");
    agent.pull().expect(0);
    lab.assert_same();
}

#[test]
fn a_full_disk_leaves_the_target_as_it_was() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    lab.target();
    let Some(disk) = SmallDisk::mount(&lab.path("target"), 12 << 20) else {
        return skip("no file systems can be mounted here");
    };
    let daemon = lab.daemon();
    let agent = lab.agent(&daemon.url()).through(disk.inside());
    agent.pull().expect(0);
    let on_disk = sync_testkit::tree::Tree::at(disk.seen_from_here());
    let before = on_disk.snapshot();
    assert!(!before.is_empty());

    lab.share.bytes("too large", 30 << 20, 1);
    lab.share.bytes("dir 0/sub/file 0", 40 << 20, 2);
    let outcome = agent.pull().expect(1);
    assert_clear(&outcome.stderr, &["space"]);
    assert_eq!(on_disk.look("dir 0/sub/file 0"), before[&"dir 0/sub/file 0".into()]);
    assert!(!on_disk.has("too large"));
    assert!(on_disk.state_bytes() < 4 << 20, "{} bytes were left in staging", on_disk.state_bytes());

    lab.share.remove("too large");
    lab.share.file("dir 0/sub/file 0", "small again");
    agent.pull().expect(0);
    sync_testkit::tree::assert_same(lab.share.root(), on_disk.root());
}

#[test]
fn a_port_in_use() {
    let lab = Lab::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let finished = lab.spec().listen(&address).run(PATIENCE);
    expect_code(&finished, 1);
    assert_clear(&finished.stderr, &[&address, "--listen"]);
}

#[test]
fn a_share_directory_that_is_missing_or_no_directory() {
    let lab = Lab::new();
    lab.tree(".").file("a file", "x");
    for dir in ["missing", "a file"] {
        let finished = DaemonSpec::new(SYNCD).share(SHARE, lab.path(dir)).run(PATIENCE);
        expect_code(&finished, 1);
        assert_clear(&finished.stderr, &[dir]);
    }
    assert!(!lab.tree(".").has("missing"), "a missing share must not be made");
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_one() {
    let lab = Lab::new();
    let files = lab.tree(".");
    files.file("syncd.toml", "lisen = \"127.0.0.1:0\"\n");
    let finished = lab.launch(SYNCD).run(PATIENCE);
    expect_code(&finished, 2);
    assert_clear(&finished.stderr, &["lisen", "listen", "syncd.toml"]);

    files.file("syncd.toml", "[[share]]\nname = \"x\"\npaht = \"/\"\n");
    let finished = lab.launch(SYNCD).args(["check"]).run(PATIENCE);
    expect_code(&finished, 2);
    assert_clear(&finished.stderr, &["paht", "path"]);

    files.file("sync-agent.toml", "sever = \"http://127.0.0.1:1\"\n");
    let finished = lab.launch(SYNC_AGENT).args(["pull"]).run(PATIENCE);
    expect_code(&finished, 2);
    assert_clear(&finished.stderr, &["sever", "server", "sync-agent.toml"]);
}

#[test]
fn values_that_make_no_sense_are_named() {
    let lab = Lab::new();
    let files = lab.tree(".");
    for (text, word) in [
        ("listen = 7\n", "listen"),
        ("listen = \"somewhere\"\n", "listen"),
        ("share = 5\n", "share"),
        ("[[share]]\nname = \"a/b\"\npath = \"/tmp\"\n", "a/b"),
        (
            "[[share]]\nname = \"twice\"\npath = \"/tmp\"\n[[share]]\nname = \"twice\"\npath = \"/var\"\n",
            "twice",
        ),
        ("[[share]]\nname = \"no path\"\n", "path"),
        ("this is not toml", "syncd.toml"),
    ] {
        files.file("syncd.toml", text);
        let finished = lab.launch(SYNCD).args(["check"]).run(PATIENCE);
        assert_eq!(finished.code, Some(2), "{text:?}: {}", finished.stderr);
        assert_clear(&finished.stderr, &[word]);
    }
    let finished = lab.launch(SYNCD).args(["--config", "no such file.toml"]).run(PATIENCE);
    expect_code(&finished, 2);
    assert_clear(&finished.stderr, &["no such file.toml"]);
}

#[test]
fn a_command_line_that_makes_no_sense() {
    let lab = Lab::new();
    for args in [
        &["pul"][..],
        &["pull", "--ful"],
        &["pull", "--concurrency", "many"],
        &["pull", "--concurrency", "0"],
        &["pull", "--durability", "some"],
        &[],
    ] {
        let finished = lab.launch(SYNC_AGENT).args(args).run(PATIENCE);
        assert_eq!(finished.code, Some(2), "{args:?}: {}", finished.stderr);
        assert!(finished.stdout.is_empty(), "{args:?}: talk on stdout: {}", finished.stdout);
    }
    let no_target = lab.launch(SYNC_AGENT).args(["--share", SHARE, "pull"]).run(PATIENCE);
    expect_code(&no_target, 2);
    assert_clear(&no_target.stderr, &["target"]);
    for args in [&["--share", "no equals sign"][..], &["--listen", "nowhere"], &["serve it"]] {
        let finished = lab.launch(SYNCD).args(args).run(PATIENCE);
        assert_eq!(finished.code, Some(2), "{args:?}: {}", finished.stderr);
    }
}
