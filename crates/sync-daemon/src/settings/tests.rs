#![expect(clippy::disallowed_methods, reason = "tests write their own configuration files")]

use std::{ffi::OsString, fs};

use clap::{CommandFactory as _, Parser as _};
use sync_cli::{Loaded, settings::check_keys, settings::to_toml};

use super::{
    cli::{DaemonCli, DaemonCommand},
    *,
};

const CONFIG: &str = include_str!("../../../../config/syncd.toml");

/// Loads with a file of this text, which is the last of the words as `--config`, and these variables.
fn load(file: &str, words: &[&str], variables: &[(&str, &str)]) -> Result<Loaded<DaemonSettings>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("syncd.toml");
    fs::write(&path, file).unwrap();
    let arguments = ["syncd"].iter().chain(words).map(OsString::from);
    let arguments = arguments.chain(["--config".into(), path.into_os_string()]);
    let cli = DaemonCli::try_parse_from(arguments).map_err(|error| error.to_string())?;
    let cut = |text: String| text.replace(&format!("{}/", dir.path().display()), "");
    cli.load_with(variables).map_err(|error| cut(error.to_string()))
}

fn settings(file: &str) -> Result<DaemonSettings, String> {
    load(file, &[], &[]).map(|loaded| loaded.settings)
}

/// The configuration file with the commented-out keys in force: `#key = …`, without a space.
fn uncommented() -> String {
    let is_key = |rest: &str| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    let line = |line: &'static str| line.strip_prefix('#').filter(|rest| is_key(rest)).unwrap_or(line);
    CONFIG.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_configuration_file_says_the_defaults() {
    assert_eq!(settings(CONFIG).unwrap(), DaemonSettings::default());
}

#[test]
fn the_configuration_file_has_every_key() {
    let full = settings(&uncommented()).unwrap();
    check_keys(&full).unwrap();
    assert_eq!(full.state_dir.as_deref(), Some(Path::new("/var/lib/syncd")));
    assert!(full.log.file.is_some() && full.share[0].state_dir.is_some());
    // An optional key that is not in the file would still be seen by serde, as nothing.
    let printed = to_toml(&full);
    for key in DaemonSettings::KEYS {
        let name = key.name.rsplit('.').next().unwrap();
        let is_there = |text: &str| {
            text.contains(&format!("\n{name} = ")) || text.contains("[[share]]") && name == "share"
        };
        assert!(is_there(&format!("\n{}", uncommented())), "{}", key.name);
        assert!(is_there(&format!("\n{printed}")), "{} in\n{printed}", key.name);
    }
    let plain = ShareSettings::new("docs", "/srv/docs");
    let ignore = vec!["*.tmp".to_owned(), "node_modules/".to_owned()];
    let state_dir = Some("/var/lib/syncd-docs".into());
    assert_eq!(full.share, [ShareSettings { ignore, state_dir, ..plain }]);
}

#[test]
fn what_check_prints_loads_as_itself() {
    let full = settings(&uncommented()).unwrap();
    assert_eq!(settings(&to_toml(&full)).unwrap(), full);
}

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let file = "listen = \"a:1\"\nthreads = 1\nchanges = false\n[[share]]\nname = \"f\"\npath = \"/f\"\n[log]\nformat = \"json\"";
    let variables = [("SYNCD_LISTEN", "b:2"), ("SYNCD_THREADS", "2"), ("SYNCD_LOG__FILE", "/v.log")];
    let words = ["--listen", "[::1]:0", "--share", "docs=/d=1", "--share=pics=/p", "--log-format", "text"];
    let settings = load(file, &words, &variables).unwrap().settings;
    assert_eq!((settings.listen.as_str(), settings.threads, settings.changes), ("[::1]:0", 2, false));
    assert_eq!(settings.share, [ShareSettings::new("docs", "/d=1"), ShareSettings::new("pics", "/p")]);
    assert_eq!(settings.log, LogSettings { format: LogFormat::Text, file: Some("/v.log".into()) });
}

#[test]
fn shares_can_come_from_a_variable() {
    let variables =
        [("SYNCD_SHARE", "[{name = \"docs\", path = \"/d\"}]"), ("SYNCD_LIMITS__MAX_CONECTIONS", "1")];
    let loaded = load("", &[], &variables).unwrap();
    assert_eq!(loaded.settings.share, [ShareSettings::new("docs", "/d")]);
    assert!(
        loaded.warnings[0].ends_with("did you mean SYNCD_LIMITS__MAX_CONNECTIONS?"),
        "{:?}",
        loaded.warnings
    );
}

#[test]
fn mistakes_are_named_with_their_line() {
    for (file, want) in [
        ("lisen = \"a:1\"", "syncd.toml, line 1: unknown key `lisen`; did you mean `listen`?"),
        (
            "[[share]]\nname = \"a\"\npaths = \"/a\"",
            "syncd.toml, line 3: unknown key `share.paths`; did you mean `share.path`?",
        ),
        (
            "[limits]\nmax_connection = 1",
            "line 2: unknown key `limits.max_connection`; did you mean `limits.max_connections`?",
        ),
        (
            "listen = \"7420\"",
            "line 1: listen: expected HOST:PORT such as \"127.0.0.1:7420\" or \"[::1]:7420\", found \"7420\"",
        ),
        ("\n[limits]\nmax_connections = 0", "line 3: limits.max_connections: expected 1 to 1000000, found 0"),
        (
            "[limits]\nmax_packed_file_bytes = \"1 MiB\"",
            "line 2: limits.max_packed_file_bytes: expected 1 B to 512 KiB, found 1 MiB",
        ),
        ("[network]\nheartbeat = \"1m\"", "line 2: network.heartbeat: expected 100ms to 20s, found 1m"),
        // The default that does not fit is beside what was set.
        (
            "\n[network]\nstream_window = \"64 MiB\"",
            "line 2: network.connection_window: expected 64 MiB to 2147483647 B, found 32 MiB",
        ),
        (
            "[log]\nformat = \"jsn\"",
            "line 2: log.format: expected one of \"text\", \"json\", found \"jsn\" (did you mean \"json\"?)",
        ),
        ("[[share]]\nname = \"a\"", "line 1: share: `path` is missing; every `share` needs it"),
        ("[[share]]\nname = \"a\"\npath = \"\"", "line 3: share.path: expected a directory, found \"\""),
        (
            "[[share]]\nname = \"a\"\npath = \"/a\"\nrescan = \"0s\"",
            "line 4: share.rescan: expected 1s to 365d, found 0s",
        ),
    ] {
        let error = settings(file).expect_err(file);
        assert!(error.ends_with(want), "{file}\n got {error}\nwant {want}");
    }
    let error = load("", &["--listen", "nowhere"], &[]).unwrap_err();
    assert!(error.starts_with("--listen: listen: expected HOST:PORT"), "{error}");
}

#[test]
fn share_names_are_checked() {
    let long = "x".repeat(65);
    for (name, wrong) in [
        ("", "emptiness"),
        ("..", "only dots"),
        ("a/b", "slashes"),
        ("a\\nb", "control characters"),
        (" a", "spaces around it"),
        (&long, "more than 64 bytes"),
    ] {
        let error = settings(&format!("[[share]]\npath = \"/a\"\nname = \"{name}\"")).expect_err(name);
        assert!(error.contains(&format!("line 3: share.name: expected a name without {wrong}")), "{error}");
    }
    let names = ["中文", "a b", "a=b", "2024", ".hidden", &"x".repeat(64)];
    let share = |(i, name): (usize, &&str)| format!("[[share]]\nname = \"{name}\"\npath = \"/s/{i}\"\n");
    settings(&names.iter().enumerate().map(share).collect::<String>()).unwrap();
    let twice = "[[share]]\nname = \"a\"\npath = \"/a\"\n[[share]]\nname = \"a\"\npath = \"/b\"";
    assert!(settings(twice).unwrap_err().contains("line 5: share.name: expected a name of its own"));
}

#[test]
fn shares_and_their_state_keep_apart() {
    for (first, second, fails) in [
        ("/data/a", "/data/b", false),
        ("/data/a", "/data/ab", false),
        ("/data/a", "/data/a", true),
        ("/data/a", "/data/a/", true),
        ("/data/a/b", "/data/a", true),
        ("/data/a", "/data/a/b", true),
        ("/data/x/../a", "/data/a", true),
        ("rel", "./rel", true),
    ] {
        let file =
            format!("[[share]]\nname = \"a\"\npath = '{first}'\n[[share]]\nname = \"b\"\npath = '{second}'");
        let got = settings(&file);
        assert_eq!(got.is_err(), fails, "{first} {second}");
        assert!(
            got.map_or_else(
                |error| error.contains("line 6: share.path: expected a directory apart"),
                |_| true
            )
        );
    }
    let share = |name: &str, state: &str| {
        format!("[[share]]\nname = '{name}'\npath = '/{name}'\nstate_dir = '{state}'\n")
    };
    for (file, want) in [
        (share("a", "/a/state"), "line 4: share.state_dir: expected a directory outside all shares"),
        (
            share("a", "/b") + &share("b", "/s"),
            "line 4: share.state_dir: expected a directory outside all shares",
        ),
        (share("a", "/s") + &share("b", "/s"), "line 8: share.state_dir: expected a directory of its own"),
        (
            format!("state_dir = '/a/x'\n{}", share("b", "/s") + "[[share]]\nname='a'\npath='/a'"),
            "line 1: state_dir: expected",
        ),
    ] {
        let error = settings(&file).expect_err(&file);
        assert!(error.contains(want), "{file}\n got {error}");
    }
    settings(&share("a", "/a/.syncd/state")).unwrap();
    let common =
        settings("state_dir = '/s'\n[[share]]\nname = 'a'\npath = '/a'\n[[share]]\nname = 'b'\npath = '/b'")
            .unwrap();
    assert_eq!(common.state_dir_of(&common.share[1]), Some("/s/b".into()));
}

#[cfg(unix)]
#[test]
fn a_link_to_another_share_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
    let share = |name: &str| format!("{name}={}", dir.path().join(name).display());
    let error = load("", &["--share", &share("real"), "--share", &share("link")], &[]).unwrap_err();
    assert!(error.starts_with("--share: share.path: expected a directory apart"), "{error}");
}

#[test]
fn a_share_is_required_to_serve() {
    let none = DaemonSettings::default().require_share().unwrap_err();
    assert_eq!(none.to_string(), "No share is configured");
    let some = DaemonSettings { share: vec![ShareSettings::new("a", "/a")], ..DaemonSettings::default() };
    some.require_share().unwrap();
}

#[test]
fn the_command_line_takes_flags_on_both_sides_of_the_command() {
    DaemonCli::command().debug_assert();
    let parse = |words: &str| DaemonCli::try_parse_from(words.split(' '));
    assert_eq!(parse("syncd").unwrap().command, None);
    for words in ["syncd --listen a:1 check", "syncd check --listen a:1"] {
        let cli = parse(words).unwrap();
        assert_eq!((cli.listen.as_deref(), cli.command), (Some("a:1"), Some(DaemonCommand::Check)));
    }
    let accept = parse("syncd accept docs --share docs=/d").unwrap();
    assert_eq!(accept.command, Some(DaemonCommand::Accept { name: "docs".into() }));
    assert_eq!(accept.share.len(), 1);
    for words in
        ["syncd accept", "syncd --share docs", "syncd --share =/d", "syncd serve", "syncd --log-format xml"]
    {
        assert!(parse(words).is_err(), "{words}");
    }
}
