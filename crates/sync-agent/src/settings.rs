//! What can be set about `sync-agent`, with the defaults and the reasons for them. `config/sync-agent.toml` says the same
//! to users.
//!
//! What lets a single run do more than usual (`--allow-mass-delete`, `--full`) is a flag and nothing else: in a file or in
//! the environment it would be forgotten there, and the guard would be gone when it is needed.

pub mod cli;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sync_cli::{
    HostPort, LogFormat, Settings, SettingsError, Span,
    settings::{Invalid, Key},
};

/// Everything that can be set about the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentSettings {
    /// The daemon: `http://HOST:PORT`.
    pub server: String,
    /// The share's name; without it, the server's only share.
    pub share: Option<String>,
    /// The directory to keep equal to the share.
    pub target: Option<PathBuf>,
    /// Files in flight at a time.
    pub concurrency: u32,
    /// What survives a power failure.
    pub durability: Durability,
    /// Whether files may come compressed.
    pub compression: Compression,
    /// Where the target's state goes instead of into the target.
    pub state_dir: Option<PathBuf>,
    /// Days for which replaced and removed files are kept; 0 until the next run.
    pub trash_days: u32,
    /// How often `follow` looks at the whole target for edits.
    pub rescan: Span,
    /// How long a connection attempt may take.
    pub connect_timeout: Span,
    /// How long a connection may be silent before it counts as lost.
    pub idle_timeout: Span,
    /// Logging.
    pub log: LogSettings,
}

/// Logging.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// How lines look.
    pub format: LogFormat,
}

/// What has reached the disk when a file counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Nothing: fastest, and after a power failure recent files may be empty.
    None,
    /// A batch of files is flushed together before any of them gets its name.
    #[default]
    Batch,
    /// Each file is flushed before it gets its name.
    File,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Batch => "batch",
            Self::File => "file",
        })
    }
}

/// Whether files may come compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Where that saves time: on a slow line, and what gets smaller.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Whatever gets smaller, on any line.
    On,
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self {
            server: "http://127.0.0.1:7420".to_owned(),
            share: None,
            target: None,
            concurrency: 8,
            durability: Durability::default(),
            compression: Compression::default(),
            state_dir: None,
            trash_days: 30,
            rescan: Span::hours(1),
            connect_timeout: Span::secs(10),
            idle_timeout: Span::secs(25),
            log: LogSettings::default(),
        }
    }
}

impl AgentSettings {
    /// The target, which every command needs.
    ///
    /// # Errors
    /// There is none.
    pub fn require_target(&self) -> Result<&Path, SettingsError> {
        let advice = "name the directory with --target DIR, or as target in sync-agent.toml";
        self.target.as_deref().ok_or(SettingsError::Required { what: "No target directory is set", advice })
    }

    /// The server as host and port; `None` only for settings that were not validated.
    #[must_use]
    pub fn server_address(&self) -> Option<HostPort> {
        parse_server(&self.server).ok()
    }
}

impl Settings for AgentSettings {
    const KEYS: &'static [Key] = &[
        Key::text("server"),
        Key::text("share"),
        Key::path("target"),
        Key::number("concurrency"),
        Key::text("durability"),
        Key::text("compression"),
        Key::path("state_dir"),
        Key::number("trash_days"),
        Key::text("rescan"),
        Key::text("connect_timeout"),
        Key::text("idle_timeout"),
        Key::text("log.format"),
    ];

    fn validate(&self) -> Result<(), Invalid> {
        parse_server(&self.server).map_err(|message| Invalid::new("server", message))?;
        if self.share.as_deref() == Some("") {
            return Err(Invalid::new("share", "expected the name of a share, found \"\""));
        }
        for (key, path) in [("target", &self.target), ("state_dir", &self.state_dir)] {
            if path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
                return Err(Invalid::new(key, "expected a directory, found \"\""));
            }
        }
        Invalid::unless_within("concurrency", &self.concurrency, &1, &1024)?;
        Invalid::unless_within("trash_days", &self.trash_days, &0, &36_500)?;
        Invalid::unless_within("rescan", &self.rescan, &Span::secs(1), &Span::days(365))?;
        let (least, most) = (Span::millis(100), Span::hours(1));
        Invalid::unless_within("connect_timeout", &self.connect_timeout, &least, &most)?;
        Invalid::unless_within("idle_timeout", &self.idle_timeout, &least, &most)
    }
}

fn parse_server(url: &str) -> Result<HostPort, String> {
    const EXPECTED: &str = "expected http://HOST:PORT such as \"http://127.0.0.1:7420\"";
    if url.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://")) {
        return Err(format!("https is not yet supported; {EXPECTED}, found {url:?}"));
    }
    let address = url.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let address = address.and_then(|address| address.parse::<HostPort>().ok());
    // Nobody can connect to port 0.
    address.filter(|address| address.port != 0).ok_or_else(|| format!("{EXPECTED}, found {url:?}"))
}

#[cfg(test)]
mod tests;
