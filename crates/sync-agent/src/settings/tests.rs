#![expect(clippy::disallowed_methods, reason = "tests write their own configuration files")]

use std::{ffi::OsString, fs};

use clap::{CommandFactory as _, Parser as _};
use sync_cli::{Loaded, settings::check_keys, settings::to_toml};

use super::{
    cli::{AgentCli, AgentCommand, PullFlags},
    *,
};

const CONFIG: &str = include_str!("../../../../config/sync-agent.toml");

/// Loads for `status` with a file of this text, these flags and these variables.
fn load(file: &str, words: &[&str], variables: &[(&str, &str)]) -> Result<Loaded<AgentSettings>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sync-agent.toml");
    fs::write(&path, file).unwrap();
    let arguments = ["sync-agent", "status"].iter().chain(words).map(OsString::from);
    let arguments = arguments.chain(["--config".into(), path.into_os_string()]);
    let cli = AgentCli::try_parse_from(arguments).map_err(|error| error.to_string())?;
    let cut = |text: String| text.replace(&format!("{}/", dir.path().display()), "");
    cli.load_with(variables).map_err(|error| cut(error.to_string()))
}

fn settings(file: &str) -> Result<AgentSettings, String> {
    load(file, &[], &[]).map(|loaded| loaded.settings)
}

/// The configuration file with the commented-out keys in force: `#key = …`, without a space.
fn uncommented() -> String {
    let is_key = |rest: &str| rest.starts_with(|c: char| c.is_ascii_lowercase());
    let line = |line: &'static str| line.strip_prefix('#').filter(|rest| is_key(rest)).unwrap_or(line);
    CONFIG.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_configuration_file_says_the_defaults() {
    assert_eq!(settings(CONFIG).unwrap(), AgentSettings::default());
}

#[test]
fn the_configuration_file_has_every_key() {
    let full = settings(&uncommented()).unwrap();
    check_keys(&full).unwrap();
    assert_eq!(full.share.as_deref(), Some("docs"));
    assert_eq!(full.require_target().unwrap(), Path::new("/srv/docs-copy"));
    for key in AgentSettings::KEYS {
        let name = key.name.rsplit('.').next().unwrap();
        assert!(uncommented().contains(&format!("\n{name} = ")), "{}", key.name);
    }
    assert_eq!(settings(&to_toml(&full)).unwrap(), full);
}

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let file =
        "server = \"http://a:1\"\nconcurrency = 1\ndurability = \"file\"\nshare = \"f\"\ntarget = \"/f\"";
    let variables = [
        ("SYNC_AGENT_SERVER", "http://b:2"),
        ("SYNC_AGENT_CONCURRENCY", "2"),
        ("SYNC_AGENT_COMPRESSION", "on"),
        ("SYNC_AGENT_SHARE", "2024"),
        ("SYNC_AGENT_LOG__FORMAT", "json"),
    ];
    let words = ["--server", "http://[::1]:3/", "--durability", "none"];
    let settings = load(file, &words, &variables).unwrap().settings;
    assert_eq!(settings.server, "http://[::1]:3/");
    assert_eq!(settings.server_address(), Some(HostPort { host: "::1".into(), port: 3 }));
    assert_eq!((settings.concurrency, settings.durability), (2, Durability::None));
    assert_eq!(settings.compression, Compression::On);
    let off = load(file, &["--compression", "off"], &variables).unwrap().settings;
    assert_eq!(off.compression, Compression::Off);
    assert_eq!(settings.share.as_deref(), Some("2024"));
    assert_eq!(settings.target.as_deref(), Some(Path::new("/f")));
    assert_eq!(settings.log.format, LogFormat::Json);
}

#[test]
fn unknown_variables_only_warn() {
    let loaded = load("", &[], &[("SYNC_AGENT_SEVRER", "x"), ("SYNCD_LISTEN", "y")]).unwrap();
    assert_eq!(loaded.settings, AgentSettings::default());
    let want = "Unknown environment variable SYNC_AGENT_SEVRER is ignored; did you mean SYNC_AGENT_SERVER?";
    assert_eq!(loaded.warnings, [want]);
}

#[test]
fn mistakes_are_named_with_their_line() {
    for (file, want) in [
        ("\nsevrer = 1", "sync-agent.toml, line 2: unknown key `sevrer`; did you mean `server`?"),
        (
            "allow_mass_delete = true",
            "line 1: unknown key `allow_mass_delete`; known keys are server, share, target, \
          concurrency, durability, compression, state_dir, trash_days, rescan, connect_timeout, idle_timeout, log",
        ),
        ("concurrency = 0", "line 1: concurrency: expected 1 to 1024, found 0"),
        (
            "concurrency = \"8\"",
            "line 1: concurrency: expected a whole number from 0 to 4294967295, found \"8\"",
        ),
        (
            "durability = \"bach\"",
            "line 1: durability: expected one of \"none\", \"batch\", \"file\", found \"bach\" (did you mean \"batch\"?)",
        ),
        (
            "compression = \"zstd\"",
            "line 1: compression: expected one of \"auto\", \"off\", \"on\", found \"zstd\"",
        ),
        ("share = \"\"", "line 1: share: expected the name of a share, found \"\""),
        ("target = \"\"", "line 1: target: expected a directory, found \"\""),
        ("idle_timeout = \"0s\"", "line 1: idle_timeout: expected 100ms to 1h, found 0s"),
        (
            "rescan = 3600",
            "line 1: rescan: expected a duration such as \"30s\", \"5m\" or \"1h30m\", found 3600",
        ),
    ] {
        let error = settings(file).expect_err(file);
        assert!(error.ends_with(want), "{file}\n got {error}\nwant {want}");
    }
}

#[test]
fn the_server_is_a_plain_http_address() {
    for url in ["http://localhost:1", "http://10.0.0.7:7420/", "http://[::1]:7420"] {
        settings(&format!("server = \"{url}\"")).unwrap();
    }
    for url in [
        "",
        "localhost:7420",
        "http://localhost",
        "http://:1",
        "http://a:0",
        "http://a:1/x",
        "http://u@a:1",
        "ftp://a:1",
    ] {
        let error = settings(&format!("server = \"{url}\"")).expect_err(url);
        let want =
            format!("server: expected http://HOST:PORT such as \"http://127.0.0.1:7420\", found {url:?}");
        assert!(error.ends_with(&want), "{error}");
    }
    let error = load("", &["--server", "https://a:1"], &[]).unwrap_err();
    assert!(
        error.starts_with("--server: server: https is not yet supported; expected http://HOST:PORT"),
        "{error}"
    );
}

#[test]
fn a_target_is_required() {
    assert_eq!(
        AgentSettings::default().require_target().unwrap_err().to_string(),
        "No target directory is set"
    );
}

#[test]
fn the_command_line_takes_flags_on_both_sides_of_the_command() {
    AgentCli::command().debug_assert();
    let parse = |words: &str| AgentCli::try_parse_from(words.split(' '));
    for words in
        ["sync-agent --json -vv --share s pull --full", "sync-agent pull --full --share=s --json -v -v"]
    {
        let cli = parse(words).unwrap();
        assert!(cli.json && !cli.quiet && !cli.allow_mass_delete);
        assert_eq!((cli.share.as_deref(), cli.verbose), (Some("s"), 2));
        assert_eq!(cli.command, AgentCommand::Pull(PullFlags { full: true, dry_run: false }));
    }
    for (words, filter) in [
        ("-q follow", "error"),
        ("status", "warn"),
        ("verify --verbose", "info,h2=warn,hyper=warn,tonic=warn"),
    ] {
        assert_eq!(parse(&format!("sync-agent {words}")).unwrap().default_filter(), filter);
    }
    for words in [
        "sync-agent",
        "sync-agent follow --full",
        "sync-agent -q -v pull",
        "sync-agent pull --durability fast",
        "sync-agent pull x",
    ] {
        assert!(parse(words).is_err(), "{words}");
    }
}
