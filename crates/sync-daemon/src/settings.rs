//! What can be set about `syncd`, with the defaults and the reasons for them. `config/syncd.toml` says the same to users.
//!
//! Every bound on what a client can make the daemon hold is here and has a name. Whether a share's directory exists is not
//! checked: a missing disk is a failure of the day (exit 1), not a mistake in the configuration (exit 2).

pub mod cli;

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use sync_cli::{
    ByteSize, HostPort, LogFormat, Settings, SettingsError, Span,
    settings::{Invalid, Key},
};
use sync_core::name::{STATE_DIR, escape};

/// Everything that can be set about the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DaemonSettings {
    /// Where to listen: host and port; port 0 lets the system choose.
    pub listen: String,
    /// Where the state of shares goes instead of into the shares: a directory by the share's name is made in it.
    pub state_dir: Option<PathBuf>,
    /// Threads for scanning and hashing; 0 is one for each core.
    pub threads: u32,
    /// Whether each change is a line on stdout.
    pub changes: bool,
    /// What is served.
    pub share: Vec<ShareSettings>,
    /// Bounds on what clients can ask for.
    pub limits: LimitSettings,
    /// HTTP/2 windows and time limits.
    pub network: NetworkSettings,
    /// Logging.
    pub log: LogSettings,
}

/// A directory tree that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareSettings {
    /// What agents call it.
    pub name: String,
    /// The directory.
    pub path: PathBuf,
    /// What is not served, in the syntax of `.gitignore`.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// Where this share's state goes instead of into the share.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    /// Whether to look at the disk at intervals instead of watching it.
    #[serde(default)]
    pub poll: bool,
    /// How often the whole tree is looked at for changes that gave no event.
    #[serde(default = "ShareSettings::default_rescan")]
    pub rescan: Span,
}

/// Bounds on what clients can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Connections at a time; further ones are refused.
    pub max_connections: u32,
    /// Requests at a time on one connection.
    pub max_streams_per_connection: u32,
    /// The size of one request message.
    pub max_message_bytes: ByteSize,
    /// Files asked for and not yet answered on one `FetchFiles` stream.
    pub max_wants_in_flight: u32,
    /// The largest file that is packed with others into one message.
    pub max_packed_file_bytes: ByteSize,
    /// How long deletions are remembered; an agent that was away for longer gets the full tree.
    pub tombstone_retention: Span,
}

/// HTTP/2 windows and time limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSettings {
    /// Bytes that may be on their way on one stream.
    pub stream_window: ByteSize,
    /// Bytes that may be on their way on one connection.
    pub connection_window: ByteSize,
    /// The largest HTTP/2 frame that is accepted.
    pub max_frame: ByteSize,
    /// How long a connection may be silent before it is asked whether it lives.
    pub keepalive: Span,
    /// How long the answer to that may take.
    pub keepalive_timeout: Span,
    /// How often a live feed without changes says that it lives.
    pub heartbeat: Span,
    /// Whether agents may have bytes sent compressed.
    pub compression: bool,
}

/// Logging.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// How lines look.
    pub format: LogFormat,
    /// A file that gets the lines as well, a new one each day.
    pub file: Option<PathBuf>,
}

/// A larger packed file would make messages of more than 1 MiB, where a stream of its own is as fast.
const MOST_PACKED: ByteSize = ByteSize::kib(512);
/// HTTP/2 windows are 31 bits wide.
const MOST_WINDOW: ByteSize = ByteSize((1 << 31) - 1);
/// The smallest window that HTTP/2 starts with.
const LEAST_WINDOW: ByteSize = ByteSize((1 << 16) - 1);
/// HTTP/2 frames are 2^14 to 2^24 - 1 bytes.
const LEAST_FRAME: ByteSize = ByteSize(1 << 14);
const MOST_FRAME: ByteSize = ByteSize((1 << 24) - 1);
/// Agents give a silent feed up after 25 s unless told otherwise.
const MOST_HEARTBEAT: Span = Span::secs(20);
/// The longest share name, in bytes; it is part of file names and messages.
const MOST_NAME_BYTES: usize = 64;

impl Default for DaemonSettings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7420".to_owned(),
            state_dir: None,
            threads: 0,
            changes: true,
            share: Vec::new(),
            limits: LimitSettings::default(),
            network: NetworkSettings::default(),
            log: LogSettings::default(),
        }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_streams_per_connection: 256,
            max_message_bytes: ByteSize::mib(4),
            max_wants_in_flight: 4096,
            max_packed_file_bytes: ByteSize::kib(128),
            tombstone_retention: Span::days(30),
        }
    }
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            stream_window: ByteSize::mib(8),
            connection_window: ByteSize::mib(32),
            max_frame: ByteSize::mib(1),
            keepalive: Span::secs(10),
            keepalive_timeout: Span::secs(10),
            heartbeat: Span::secs(10),
            compression: true,
        }
    }
}

impl ShareSettings {
    /// A share with nothing but a name and a directory.
    #[must_use]
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            ignore: Vec::new(),
            state_dir: None,
            poll: false,
            rescan: Self::default_rescan(),
        }
    }

    const fn default_rescan() -> Span {
        Span::hours(1)
    }
}

impl DaemonSettings {
    /// Refuses to go on without a share.
    ///
    /// # Errors
    /// There is none.
    pub fn require_share(&self) -> Result<(), SettingsError> {
        if !self.share.is_empty() {
            return Ok(());
        }
        let advice = "name one with --share NAME=DIR, or with [[share]] in syncd.toml";
        Err(SettingsError::Required { what: "No share is configured", advice })
    }

    /// The directory for a share's state, if the settings say one: the share's own, or one by its name in the common one.
    #[must_use]
    pub fn state_dir_of(&self, share: &ShareSettings) -> Option<PathBuf> {
        let common = || self.state_dir.as_ref().map(|dir| dir.join(&share.name));
        share.state_dir.clone().or_else(common)
    }
}

impl Settings for DaemonSettings {
    const KEYS: &'static [Key] = &[
        Key::text("listen"),
        Key::path("state_dir"),
        Key::number("threads"),
        Key::switch("changes"),
        Key::number("limits.max_connections"),
        Key::number("limits.max_streams_per_connection"),
        Key::text("limits.max_message_bytes"),
        Key::number("limits.max_wants_in_flight"),
        Key::text("limits.max_packed_file_bytes"),
        Key::text("limits.tombstone_retention"),
        Key::text("network.stream_window"),
        Key::text("network.connection_window"),
        Key::text("network.max_frame"),
        Key::text("network.keepalive"),
        Key::text("network.keepalive_timeout"),
        Key::text("network.heartbeat"),
        Key::switch("network.compression"),
        Key::text("log.format"),
        Key::path("log.file"),
        Key::tables("share"),
        Key::text("share.name"),
        Key::path("share.path"),
        Key::texts("share.ignore"),
        Key::path("share.state_dir"),
        Key::switch("share.poll"),
        Key::text("share.rescan"),
    ];

    fn validate(&self) -> Result<(), Invalid> {
        self.listen.parse::<HostPort>().map_err(|error| Invalid::new("listen", error.to_string()))?;
        Invalid::unless_within("threads", &self.threads, &0, &1024)?;
        self.limits.validate()?;
        self.network.validate()?;
        for (i, share) in self.share.iter().enumerate() {
            share.validate(i)?;
            if let Some(first) = self.share[..i].iter().find(|other| other.name == share.name) {
                let message = format!("expected a name of its own, found {:?} twice", first.name);
                return Err(Invalid::new(format!("share.{i}.name"), message));
            }
        }
        self.refuse_overlaps()
    }
}

impl ShareSettings {
    fn validate(&self, number: usize) -> Result<(), Invalid> {
        let key = |name: &str| format!("share.{number}.{name}");
        if let Some(wrong) = wrong_with_name(&self.name) {
            let message = format!("expected a name without {wrong}, found {:?}", self.name);
            return Err(Invalid::new(key("name"), message));
        }
        if self.path.as_os_str().is_empty() {
            return Err(Invalid::new(key("path"), "expected a directory, found \"\""));
        }
        Invalid::unless_within(&key("rescan"), &self.rescan, &Span::secs(1), &Span::days(365))
    }
}

/// What a share's name must not have. It is part of paths, commands and printed lines.
fn wrong_with_name(name: &str) -> Option<String> {
    let wrong = match name {
        "" => "emptiness",
        "." | ".." => "only dots",
        _ if name.contains(['/', '\\']) => "slashes",
        _ if escape(name) != name => "control characters",
        _ if name.trim() != name => "spaces around it",
        _ if name.len() > MOST_NAME_BYTES => return Some(format!("more than {MOST_NAME_BYTES} bytes")),
        _ => return None,
    };
    Some(wrong.to_owned())
}

impl LimitSettings {
    fn validate(&self) -> Result<(), Invalid> {
        let within = Invalid::unless_within;
        within("limits.max_connections", &self.max_connections, &1, &1_000_000)?;
        // One stream for a feed, and one for files.
        within("limits.max_streams_per_connection", &self.max_streams_per_connection, &2, &65_536)?;
        // A request for as many ranges as the contract allows has up to 200 KiB.
        let (least, most) = (ByteSize::kib(256), ByteSize::mib(64));
        Invalid::unless_within("limits.max_message_bytes", &self.max_message_bytes, &least, &most)?;
        within("limits.max_wants_in_flight", &self.max_wants_in_flight, &1, &1_000_000)?;
        let (least, packed) = (ByteSize(1), "limits.max_packed_file_bytes");
        Invalid::unless_within(packed, &self.max_packed_file_bytes, &least, &MOST_PACKED)?;
        let (least, most) = (Span::secs(1), Span::days(3650));
        Invalid::unless_within("limits.tombstone_retention", &self.tombstone_retention, &least, &most)
    }
}

impl NetworkSettings {
    fn validate(&self) -> Result<(), Invalid> {
        let window = "network.stream_window";
        Invalid::unless_within(window, &self.stream_window, &LEAST_WINDOW, &MOST_WINDOW)?;
        let window = "network.connection_window";
        Invalid::unless_within(window, &self.connection_window, &self.stream_window, &MOST_WINDOW)?;
        Invalid::unless_within("network.max_frame", &self.max_frame, &LEAST_FRAME, &MOST_FRAME)?;
        let (least, most) = (Span::millis(100), Span::hours(1));
        Invalid::unless_within("network.keepalive", &self.keepalive, &least, &most)?;
        Invalid::unless_within("network.keepalive_timeout", &self.keepalive_timeout, &least, &most)?;
        Invalid::unless_within("network.heartbeat", &self.heartbeat, &least, &MOST_HEARTBEAT)
    }
}

impl DaemonSettings {
    /// Two shares in one place would each serve, watch and keep state in the other's tree; state inside a served tree
    /// would be served.
    fn refuse_overlaps(&self) -> Result<(), Invalid> {
        let places: Vec<PathBuf> = self.share.iter().map(|share| real_place(&share.path)).collect();
        for (i, place) in places.iter().enumerate() {
            for (j, earlier) in places[..i].iter().enumerate() {
                if place.starts_with(earlier) || earlier.starts_with(place) {
                    let (this, other) = (&self.share[i], &self.share[j]);
                    let message = format!(
                        "expected a directory apart from those of other shares, found {} and {} ({:?})",
                        escape(&this.path.to_string_lossy()),
                        escape(&other.path.to_string_lossy()),
                        other.name
                    );
                    return Err(Invalid::new(format!("share.{i}.path"), message));
                }
            }
        }
        self.refuse_state_overlaps(&places)
    }

    fn refuse_state_overlaps(&self, places: &[PathBuf]) -> Result<(), Invalid> {
        let mut seen: Vec<PathBuf> = Vec::new();
        for (i, share) in self.share.iter().enumerate() {
            let Some(asked) = self.state_dir_of(share) else { continue };
            let key =
                if share.state_dir.is_some() { format!("share.{i}.state_dir") } else { "state_dir".into() };
            let state = real_place(&asked);
            let shown = escape(&asked.to_string_lossy()).into_owned();
            if seen.contains(&state) {
                let message = format!("expected a directory of its own, found {shown} for two shares");
                return Err(Invalid::new(key, message));
            }
            let served = |place: &PathBuf| state.strip_prefix(place).is_ok_and(|below| !in_state_dir(below));
            if let Some(at) = places.iter().position(served) {
                let message = format!(
                    "expected a directory outside all shares, found {shown} in {:?}",
                    self.share[at].name
                );
                return Err(Invalid::new(key, message));
            }
            seen.push(state);
        }
        Ok(())
    }
}

fn in_state_dir(below: &Path) -> bool {
    below.iter().any(|name| name.eq_ignore_ascii_case(STATE_DIR))
}

/// Where a path leads: links resolved as far as it exists, the rest taken as it is written.
fn real_place(path: &Path) -> PathBuf {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let existing = full.ancestors().find_map(|ancestor| {
        #[expect(
            clippy::disallowed_methods,
            reason = "the operator names this path, and only names are compared"
        )]
        let real = ancestor.canonicalize().ok()?;
        Some((ancestor, real))
    });
    let (ancestor, mut real) = existing.unwrap_or((Path::new(""), PathBuf::new()));
    for step in full.strip_prefix(ancestor).unwrap_or(&full).components() {
        match step {
            Component::ParentDir => {
                real.pop();
            }
            Component::CurDir => {}
            step => real.push(step),
        }
    }
    real
}

#[cfg(test)]
mod tests;
