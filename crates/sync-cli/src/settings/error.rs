//! What can be wrong with settings, in words that name the place, the key, what was expected and what was found.

use std::{fmt, path::PathBuf};

use figment::error::{Actual, Kind};
use sync_core::{Hint, name::escape};

use super::{Key, key_name};
use crate::show::nearest;

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A line of a file.
    File {
        /// The file as it was named.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(String),
    /// Nowhere: it is the default.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{}, line {line}", escape(&file.to_string_lossy())),
            Self::Variable(name) => write!(f, "environment variable {}", escape(name)),
            Self::Flag(name) => f.write_str(name),
            Self::Default => f.write_str("configuration"),
        }
    }
}

/// A setting that [`super::Settings::validate`] refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct Invalid {
    /// The key with the numbers (from 0) of list items: `share.1.name`.
    pub key: String,
    /// What was expected and what was found.
    pub message: String,
}

impl Invalid {
    /// A setting that is wrong, and why.
    #[must_use]
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }

    /// Refuses what is not between two bounds, both allowed.
    ///
    /// # Errors
    /// Names the bounds and the value.
    pub fn unless_within<V: PartialOrd + fmt::Display>(
        key: &str,
        value: &V,
        least: &V,
        most: &V,
    ) -> Result<(), Self> {
        if value >= least && value <= most {
            return Ok(());
        }
        Err(Self::new(key, format!("expected {least} to {most}, found {value}")))
    }
}

/// Why settings could not be loaded. Every one of them is a usage error.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file that was asked for is not there.
    #[error("There is no configuration file {}", escape(&file.to_string_lossy()))]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// The file cannot be read.
    #[error("Cannot read the configuration file {}", escape(&file.to_string_lossy()))]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}, line {line}, column {column}: {message}", escape(&file.to_string_lossy()))]
    Syntax {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The character in the line, from 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// A key that does not exist.
    #[error("{place}: unknown key `{}`; {}", escape(key), suggest(nearest.as_deref(), known))]
    UnknownKey {
        /// Where it is.
        place: Place,
        /// The key.
        key: String,
        /// The key that was probably meant.
        nearest: Option<String>,
        /// The keys that can stand in its place.
        known: Vec<String>,
    },
    /// A value of the wrong type or form.
    #[error("{place}: {key}: expected {expected}, found {found}")]
    BadValue {
        /// Where it is.
        place: Place,
        /// The key.
        key: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A value that is out of range or does not fit the others.
    #[error("{place}: {key}: {message}")]
    Invalid {
        /// Where it is.
        place: Place,
        /// The key.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// Something that a command needs is not set anywhere.
    #[error("{what}")]
    Required {
        /// What is missing.
        what: &'static str,
        /// How to set it.
        advice: &'static str,
    },
    /// The command line cannot be expressed as settings.
    #[error("The command line cannot be used: {message}")]
    BadFlags {
        /// Why not.
        message: String,
    },
}

impl Hint for SettingsError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing { .. } => {
                Some("check the path given with --config, or leave it out to use the defaults")
            }
            Self::Read { .. } => Some("check the file's permissions and that it is UTF-8 text"),
            Self::Syntax { .. } | Self::UnknownKey { .. } => {
                Some("the files in config/ show every key with its default")
            }
            Self::Required { advice, .. } => Some(advice),
            Self::BadValue { .. } | Self::Invalid { .. } | Self::BadFlags { .. } => None,
        }
    }
}

fn suggest(nearest: Option<&str>, known: &[String]) -> String {
    match nearest {
        Some(key) => format!("did you mean `{key}`?"),
        None => format!("known keys are {}", known.join(", ")),
    }
}

/// An unknown key, with the nearest one: first among its siblings, then anywhere.
pub(super) fn unknown_key(place: Place, key: &str, keys: &[Key]) -> SettingsError {
    let (table, name) = key.rsplit_once('.').map_or((None, key), |(table, name)| (Some(table), name));
    let siblings = siblings_of(table, keys);
    let full = |name: &str| table.map_or_else(|| name.to_owned(), |table| format!("{table}.{name}"));
    let near =
        nearest(name, siblings.iter().copied()).map(full).or_else(|| nearest_anywhere(name, key, keys));
    let known = siblings.into_iter().map(full).collect();
    SettingsError::UnknownKey { place, key: key.to_owned(), nearest: near, known }
}

fn nearest_anywhere(name: &str, key: &str, keys: &[Key]) -> Option<String> {
    let last = |key: &'static str| key.rsplit('.').next().unwrap_or(key);
    let same_name = keys.iter().find(|known| last(known.name) == name).map(|known| known.name);
    let near = same_name.or_else(|| nearest(key, keys.iter().map(|known| known.name)));
    near.map(str::to_owned)
}

/// The names that can stand directly in a table: keys and further tables.
fn siblings_of(table: Option<&str>, keys: &[Key]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for key in keys {
        let below = match table {
            None => Some(key.name),
            Some(table) => key.name.strip_prefix(table).and_then(|rest| rest.strip_prefix('.')),
        };
        let name = below.map(|below| below.split('.').next().unwrap_or(below));
        names.extend(name.filter(|name| !names.contains(name)).into_iter().collect::<Vec<_>>());
    }
    names
}

/// Puts figment's error in our words.
pub(super) fn from_figment(error: figment::Error, place: Place, keys: &[Key]) -> SettingsError {
    let key = key_name(&error.path);
    match error.kind {
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => SettingsError::BadValue {
            place,
            key,
            expected: plain_expected(&expected),
            found: plain_found(&found),
        },
        Kind::UnknownVariant(found, expected) => {
            let near = nearest(&found, expected.iter().copied());
            let near = near.map(|near| format!(" (did you mean \"{near}\"?)")).unwrap_or_default();
            let expected: Vec<String> = expected.iter().map(|word| format!("{word:?}")).collect();
            let found = format!("{found:?}{near}");
            SettingsError::BadValue { place, key, expected: format!("one of {}", expected.join(", ")), found }
        }
        Kind::MissingField(name) => {
            let table = if key.is_empty() { "the configuration".to_owned() } else { format!("`{key}`") };
            let message = format!("`{name}` is missing; every {table} needs it");
            SettingsError::Invalid {
                place,
                key: if key.is_empty() { name.into_owned() } else { key },
                message,
            }
        }
        Kind::UnknownField(name, _) => {
            // The path of this error ends with the field itself.
            let key = if key.ends_with(&name) { key } else { format!("{key}.{name}") };
            unknown_key(place, &key, keys)
        }
        Kind::InvalidLength(found, expected) => {
            SettingsError::BadValue { place, key, expected, found: format!("{found} items") }
        }
        other => SettingsError::Invalid { place, key, message: other.to_string() },
    }
}

/// What serde expected, for people who do not write Rust.
fn plain_expected(expected: &str) -> String {
    let whole = |most: u64| format!("a whole number from 0 to {most}");
    match expected {
        "u8" => whole(u8::MAX.into()),
        "u16" => whole(u16::MAX.into()),
        "u32" => whole(u32::MAX.into()),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "string or map" => "a text in quotes".to_owned(),
        "path string" => "a path in quotes".to_owned(),
        "a sequence" => "a list".to_owned(),
        _ if expected.starts_with("struct ") => "a table".to_owned(),
        _ if expected.starts_with("enum ") || expected.starts_with("variant ") => {
            "one of its words in quotes".to_owned()
        }
        _ => expected.to_owned(),
    }
}

fn plain_found(found: &Actual) -> String {
    match found {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        Actual::Char(value) => format!("{:?}", value.to_string()),
        Actual::Str(value) => format!("{value:?}"),
        Actual::Unit | Actual::Option => "nothing".to_owned(),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}
