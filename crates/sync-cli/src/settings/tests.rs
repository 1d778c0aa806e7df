#![expect(clippy::disallowed_methods, reason = "tests write their own configuration files")]

use std::fs;

use serde::Deserialize;

use super::*;
use crate::units::{ByteSize, Span};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Demo {
    listen: String,
    state_dir: Option<PathBuf>,
    threads: u32,
    share: Vec<Item>,
    limits: Limits,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    name: String,
    path: PathBuf,
    #[serde(default)]
    ignore: Vec<String>,
    #[serde(default)]
    poll: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Limits {
    size: ByteSize,
    wait: Span,
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    None,
    Batch,
}

impl Default for Demo {
    fn default() -> Self {
        let listen = "127.0.0.1:7420".to_owned();
        Self { listen, state_dir: None, threads: 0, share: Vec::new(), limits: Limits::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { size: ByteSize::mib(4), wait: Span::secs(10), mode: Mode::Batch }
    }
}

impl Settings for Demo {
    const KEYS: &'static [Key] = &[
        Key::text("listen"),
        Key::path("state_dir"),
        Key::number("threads"),
        Key::text("limits.size"),
        Key::text("limits.wait"),
        Key::text("limits.mode"),
        Key::tables("share"),
        Key::text("share.name"),
        Key::path("share.path"),
        Key::texts("share.ignore"),
        Key::switch("share.poll"),
    ];

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("threads", &self.threads, &0, &64)?;
        for (i, item) in self.share.iter().enumerate() {
            if item.name.is_empty() {
                return Err(Invalid::new(format!("share.{i}.name"), "expected a name, found nothing"));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Default, Serialize)]
struct Flags {
    listen: Option<String>,
    threads: Option<u32>,
    limits: LimitFlags,
}

#[derive(Debug, Default, Serialize)]
struct LimitFlags {
    mode: Option<String>,
}

/// Loads with a file of this text (none if empty), these variables and flags. Errors come as text, the directory cut off.
fn try_load(file: &str, variables: &[(&str, &str)], flags: Flags) -> Result<Loaded<Demo>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("demo.toml");
    let explicit_file = (!file.is_empty()).then(|| path.clone());
    fs::write(&path, file).unwrap();
    let spec = Spec { default_file: "no-such-demo.toml", explicit_file, env_prefix: "DEMO_", flags };
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    load_with(&spec, variables)
        .map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
}

fn from_file(file: &str) -> Result<Demo, String> {
    try_load(file, &[], Flags::default()).map(|loaded| loaded.settings)
}

fn from_variable(name: &str, value: &str) -> Result<Loaded<Demo>, String> {
    try_load("", &[(name, value)], Flags::default())
}

fn full() -> Demo {
    let item = Item { name: "docs".into(), path: "/srv/docs".into(), ignore: vec!["*.o".into()], poll: true };
    Demo { share: vec![item], state_dir: Some("/var/lib/demo".into()), ..Demo::default() }
}

#[test]
fn keys_are_those_of_serde() {
    check_keys(&full()).unwrap();
    assert_eq!(check_keys(&Demo::default()).unwrap_err().matches("share.").count(), 4);
}

#[test]
fn without_anything_the_defaults_stand() {
    let loaded = try_load("", &[], Flags::default()).unwrap();
    assert_eq!(loaded.settings, Demo::default());
    assert_eq!((loaded.file, loaded.warnings), (None, Vec::new()));
}

#[test]
fn each_layer_wins_over_the_one_below() {
    let file = "listen = \"file:1\"\nthreads = 1\n[limits]\nwait = \"1s\"\nmode = \"none\"\n";
    let variables = [("DEMO_THREADS", "2"), ("DEMO_LIMITS__MODE", "batch"), ("DEMO_LISTEN", "env:1")];
    let flags = Flags { listen: Some("flag:1".into()), ..Flags::default() };
    let settings = try_load(file, &variables, flags).unwrap().settings;
    assert_eq!(settings.listen, "flag:1");
    assert_eq!(settings.threads, 2);
    assert_eq!(settings.limits, Limits { size: ByteSize::mib(4), wait: Span::secs(1), mode: Mode::Batch });
}

#[test]
fn unknown_keys_are_named_with_the_nearest() {
    for (file, want) in [
        ("\nlisen = \"x\"", "demo.toml, line 2: unknown key `lisen`; did you mean `listen`?"),
        ("[limit]\nsize = 1", "demo.toml, line 1: unknown key `limit`; did you mean `limits`?"),
        ("[limits]\n\nsise = 1", "demo.toml, line 3: unknown key `limits.sise`; did you mean `limits.size`?"),
        ("limits.wiat = 1", "demo.toml, line 1: unknown key `limits.wiat`; did you mean `limits.wait`?"),
        ("limits = { mod = 1 }", "demo.toml, line 1: unknown key `limits.mod`; did you mean `limits.mode`?"),
        (
            "[limits]\nlisten = \"x\"",
            "demo.toml, line 2: unknown key `limits.listen`; did you mean `listen`?",
        ),
        (
            "[[share]]\nname = \"a\"\npath = \"a\"\n[[share]]\nnmae = \"b\"",
            "demo.toml, line 5: unknown key `share.nmae`; did you mean `share.name`?",
        ),
        (
            "share = [{ paht = \"b\" }]",
            "demo.toml, line 1: unknown key `share.paht`; did you mean `share.path`?",
        ),
        ("[[shares]]", "demo.toml, line 1: unknown key `shares`; did you mean `share`?"),
        (
            "colour = 1",
            "demo.toml, line 1: unknown key `colour`; known keys are listen, state_dir, threads, limits, share",
        ),
        // The first in the file, whatever its name.
        (
            "zzz = 1\naaa = 1",
            "demo.toml, line 1: unknown key `zzz`; known keys are listen, state_dir, threads, limits, share",
        ),
    ] {
        assert_eq!(from_file(file).unwrap_err(), want, "{file}");
    }
}

#[test]
fn bad_values_say_what_was_expected_and_found() {
    for (file, want) in [
        ("\n\nlisten = 7", "demo.toml, line 3: listen: expected a text in quotes, found 7"),
        (
            "threads = \"many\"",
            "line 1: threads: expected a whole number from 0 to 4294967295, found \"many\"",
        ),
        ("threads = -1", "line 1: threads: expected a whole number from 0 to 4294967295, found -1"),
        (
            "threads = 5000000000",
            "line 1: threads: expected a whole number from 0 to 4294967295, found 5000000000",
        ),
        ("threads = 65", "line 1: threads: expected 0 to 64, found 65"),
        (
            "[limits]\nsize = \"big\"",
            "line 2: limits.size: expected a size such as \"64 MiB\" or a number of bytes, found \"big\"",
        ),
        (
            "[limits]\nwait = 5",
            "line 2: limits.wait: expected a duration such as \"30s\", \"5m\" or \"1h30m\", found 5",
        ),
        (
            "limits.mode = \"bach\"",
            "line 1: limits.mode: expected one of \"none\", \"batch\", found \"bach\" (did you mean \"batch\"?)",
        ),
        ("limits = 3", "line 1: limits: expected a table, found 3"),
        ("[share]\nname = \"a\"", "line 1: share: expected a list, found a table"),
        ("[[share]]\nname = \"a\"", "line 1: share: `path` is missing; every `share` needs it"),
        (
            "[[share]]\nname = \"a\"\npath = \"a\"\n[[share]]\nname = \"b\"\npath = \"b\"\nignore = [\n  \"x\",\n  1]",
            "line 9: share.ignore: expected a text in quotes, found 1",
        ),
        (
            "[[share]]\nname = \"a\"\npath = \"a\"\npoll = \"yes\"",
            "line 4: share.poll: expected true or false, found \"yes\"",
        ),
        ("[[share]]\npath = \"a\"\nname = \"\"", "line 3: share.name: expected a name, found nothing"),
    ] {
        let error = from_file(file).expect_err(file);
        assert!(
            error.starts_with("demo.toml, ") && error.ends_with(want),
            "{file}\n got {error}\nwant {want}"
        );
    }
}

#[test]
fn syntax_errors_have_line_and_column() {
    for (file, want) in [
        ("a = 1\nlisten = \"x", "demo.toml, line 2, column "),
        ("listen =", "demo.toml, line 1, column 9: "),
        ("[limits\n", "demo.toml, line 1, column 8: "),
        ("threads = 1\nthreads = 2", "demo.toml, line 2, column 1: "),
        // Columns count characters, not bytes.
        ("listen = \"中文\" x", "demo.toml, line 1, column 15: "),
    ] {
        let error = from_file(file).unwrap_err();
        assert!(error.starts_with(want) && !error.contains('\n'), "{file}: {error}");
    }
}

#[test]
fn files_that_cannot_be_read_are_errors_and_absent_defaults_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let load_file = |path: PathBuf| {
        let spec = Spec { default_file: "", explicit_file: Some(path), env_prefix: "DEMO_", flags: () };
        load_with::<Demo>(&spec, []).map(|loaded| loaded.settings)
    };
    assert!(matches!(load_file(dir.path().join("none.toml")), Err(SettingsError::Missing { .. })));
    assert!(matches!(load_file(dir.path().to_owned()), Err(SettingsError::Read { .. })));
    fs::write(dir.path().join("latin1.toml"), b"listen = \"\xe4\"").unwrap();
    assert!(matches!(load_file(dir.path().join("latin1.toml")), Err(SettingsError::Read { .. })));
    fs::write(dir.path().join("empty.toml"), "").unwrap();
    assert_eq!(load_file(dir.path().join("empty.toml")).unwrap(), Demo::default());
}

#[test]
fn the_default_file_is_read_if_it_is_there_and_no_other_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("demo.toml");
    let default_file: &'static str = path.to_str().unwrap().to_owned().leak();
    let mut spec = Spec { default_file, explicit_file: None, env_prefix: "DEMO_", flags: () };
    assert_eq!(load_with::<Demo>(&spec, []).unwrap().file, None);
    fs::write(&path, "threads = 3").unwrap();
    let loaded = load_with::<Demo>(&spec, []).unwrap();
    assert_eq!((loaded.settings.threads, loaded.file), (3, Some(path)));
    let other = dir.path().join("other.toml");
    fs::write(&other, "").unwrap();
    spec.explicit_file = Some(other);
    assert_eq!(load_with::<Demo>(&spec, []).unwrap().settings.threads, 0);
}

#[test]
fn paths_in_a_file_are_relative_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("demo.toml");
    fs::write(&path, "state_dir = \"s\"\n[[share]]\nname = \"n\"\npath = \"/abs\"\n[[share]]\nname = \"m\"\npath = \"../d\"\n")
        .unwrap();
    let spec = Spec { default_file: "", explicit_file: Some(path), env_prefix: "DEMO_", flags: () };
    let settings = load_with::<Demo>(&spec, []).unwrap().settings;
    assert_eq!(settings.state_dir, Some(dir.path().join("s")));
    assert_eq!(settings.share[0].path, Path::new("/abs"));
    assert_eq!(settings.share[1].path, dir.path().join("../d"));
    assert_eq!(settings.share[1].name, "m");
}

#[test]
fn variables_are_read_by_the_kind_of_their_key() {
    assert_eq!(from_variable("DEMO_LISTEN", "2024").unwrap().settings.listen, "2024");
    assert_eq!(from_variable("DEMO_LIMITS__SIZE", "1 KiB").unwrap().settings.limits.size, ByteSize(1024));
    assert_eq!(from_variable("DEMO_LIMITS__SIZE", "4096").unwrap().settings.limits.size, ByteSize(4096));
    assert_eq!(from_variable("DEMO_THREADS", "").unwrap().settings, Demo::default());
    assert_eq!(from_variable("DEMO_STATE_DIR", "s").unwrap().settings.state_dir, Some("s".into()));
    let shares =
        from_variable("DEMO_SHARE", "[{name=\"docs\", path=\"/srv/docs\", ignore=[\"*.o\"]}]").unwrap();
    assert_eq!(shares.settings.share[0], Item { poll: false, ..full().share[0].clone() });
}

#[test]
fn bad_variables_and_flags_are_named() {
    let error = from_variable("DEMO_LIMITS__WAIT", "5").unwrap_err();
    assert_eq!(
        error,
        "environment variable DEMO_LIMITS__WAIT: limits.wait: expected a duration such as \"30s\", \"5m\" or \"1h30m\", found \"5\""
    );
    let error = from_variable("DEMO_SHARE", "[{name=\"a\"}]").unwrap_err();
    assert_eq!(error, "environment variable DEMO_SHARE: share: `path` is missing; every `share` needs it");
    let error = from_variable("DEMO_SHARE", "[{name=\"a\",path=\"b\",paht=\"c\"}]").unwrap_err();
    assert_eq!(
        error,
        "environment variable DEMO_SHARE: unknown key `share.paht`; did you mean `share.path`?"
    );
    let flags = Flags { limits: LimitFlags { mode: Some("x".into()) }, ..Flags::default() };
    let error = try_load("limits.mode = \"none\"", &[("DEMO_LIMITS__MODE", "batch")], flags).unwrap_err();
    assert_eq!(error, "--limits-mode: limits.mode: expected one of \"none\", \"batch\", found \"x\"");
    let flags = Flags { threads: Some(99), ..Flags::default() };
    assert_eq!(try_load("", &[], flags).unwrap_err(), "--threads: threads: expected 0 to 64, found 99");
}

#[test]
fn unknown_variables_only_warn() {
    let loaded =
        try_load("", &[("DEMO_LISTN", "x"), ("OTHER", "y"), ("DEMO_SHARE__NAME", "z")], Flags::default())
            .unwrap();
    assert_eq!(loaded.settings, Demo::default());
    assert_eq!(loaded.warnings.len(), 2);
    assert_eq!(
        loaded.warnings[0],
        "Unknown environment variable DEMO_LISTN is ignored; did you mean DEMO_LISTEN?"
    );
    assert!(loaded.warnings[1].contains("DEMO_SHARE__NAME"), "{}", loaded.warnings[1]);
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf8_is_named() {
    use std::os::unix::ffi::OsStringExt as _;
    let spec =
        Spec { default_file: "no-such-demo.toml", explicit_file: None, env_prefix: "DEMO_", flags: () };
    let bad = |name: &str| [(OsString::from(name), OsString::from_vec(vec![0xff]))];
    let error = load_with::<Demo>(&spec, bad("DEMO_LISTEN")).unwrap_err().to_string();
    assert!(error.starts_with("environment variable DEMO_LISTEN: listen: expected UTF-8"), "{error}");
    assert!(load_with::<Demo>(&spec, bad("ELSE")).is_ok());
}

#[test]
fn printed_settings_load_as_themselves() {
    let text = to_toml(&full());
    assert_eq!(from_file(&text).unwrap(), full(), "{text}");
    assert!(text.starts_with("listen = \"127.0.0.1:7420\"\nstate_dir = "), "{text}");
    assert_eq!(from_file(&to_toml(&Demo::default())).unwrap(), Demo::default());
}
