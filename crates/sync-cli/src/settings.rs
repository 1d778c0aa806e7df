//! Layered settings: defaults < TOML file < environment < flags, merged by figment.
//!
//! A settings type states its keys once, in [`Settings::KEYS`]; [`check_keys`] holds that list against what serde sees, in
//! a test of each type. From the list come the answer to an unknown key (the nearest one), the names of environment
//! variables, and which texts are paths.
//!
//! Invariants: whatever is wrong is reported with where it came from (file and line, variable, or flag), what was expected
//! and what was found. Every [`SettingsError`] is a usage error. An unknown key in the file is an error, because a
//! misspelt setting that is silently ignored is found when it matters; an unknown variable only warns, because the
//! environment is shared with other programs. Paths in the file are relative to the file, all others to the current
//! directory. Lists replace those of the layer below.

mod environment;
mod error;
mod file;
mod print;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use figment::{
    Figment,
    providers::Serialized,
    value::{Dict, Value},
};
use serde::{Serialize, de::DeserializeOwned};

pub use error::{Invalid, Place, SettingsError};
pub use print::to_toml;

/// A type that holds a program's settings. Its `Default` is the lowest layer.
pub trait Settings: Serialize + DeserializeOwned + Default {
    /// Every key, in the order in which [`to_toml`] prints them.
    const KEYS: &'static [Key];

    /// Checks what types cannot express: ranges, and values that must fit each other.
    ///
    /// # Errors
    /// Names the first setting that is wrong.
    fn validate(&self) -> Result<(), Invalid>;
}

/// One key of a settings type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its name with the tables it is in: `limits.max_connections`. Items of a list of tables have no number: `share.name`.
    pub name: &'static str,
    kind: KeyKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    Text,
    Path,
    Number,
    Switch,
    Texts,
    Tables,
}

impl Key {
    /// A key whose value is text, or a newtype written as text.
    #[must_use]
    pub const fn text(name: &'static str) -> Self {
        Self { name, kind: KeyKind::Text }
    }

    /// A key whose value is a path; in a file it is relative to that file.
    #[must_use]
    pub const fn path(name: &'static str) -> Self {
        Self { name, kind: KeyKind::Path }
    }

    /// A key whose value is a number.
    #[must_use]
    pub const fn number(name: &'static str) -> Self {
        Self { name, kind: KeyKind::Number }
    }

    /// A key whose value is true or false.
    #[must_use]
    pub const fn switch(name: &'static str) -> Self {
        Self { name, kind: KeyKind::Switch }
    }

    /// A key whose value is a list of texts.
    #[must_use]
    pub const fn texts(name: &'static str) -> Self {
        Self { name, kind: KeyKind::Texts }
    }

    /// A key whose value is a list of tables; the keys of its items are listed beside it.
    #[must_use]
    pub const fn tables(name: &'static str) -> Self {
        Self { name, kind: KeyKind::Tables }
    }
}

/// Where settings come from.
#[derive(Debug, Clone)]
pub struct Spec<F> {
    /// The file that is read if it is there and no other is named.
    pub default_file: &'static str,
    /// The file that was asked for. It must be there.
    pub explicit_file: Option<PathBuf>,
    /// What the program's variables begin with, such as `SYNCD_`; `__` in a variable separates a table from its key.
    pub env_prefix: &'static str,
    /// What the command line says: nested like the settings, with `None` for what it does not say.
    pub flags: F,
}

/// Settings and how they came about.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The settings, validated.
    pub settings: T,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// What a person should hear about once logging is up.
    pub warnings: Vec<String>,
}

/// Reads all layers with the environment of this process.
///
/// # Errors
/// Names the place, the setting, what was expected and what was found.
pub fn load<T: Settings>(spec: &Spec<impl Serialize>) -> Result<Loaded<T>, SettingsError> {
    load_with(spec, std::env::vars_os())
}

/// Reads all layers with these variables as the environment.
///
/// # Errors
/// As [`load`].
pub fn load_with<T: Settings>(
    spec: &Spec<impl Serialize>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded<T>, SettingsError> {
    let file = match &spec.explicit_file {
        Some(path) => Some(file::read(path)?.ok_or_else(|| SettingsError::Missing { file: path.clone() })?),
        None => file::read(Path::new(spec.default_file))?,
    };
    if let Some(file) = &file {
        file.refuse_unknown(T::KEYS)?;
    }
    let environment = environment::read(spec.env_prefix, T::KEYS, variables)?;
    let layers = Layers {
        file_values: file.as_ref().map(|file| file.values(T::KEYS)).unwrap_or_default(),
        file,
        env_prefix: spec.env_prefix,
        environment: environment.values,
        flags: flag_values(&spec.flags)?,
    };
    let settings: T = layers.merge::<T>().extract().map_err(|error| layers.explain(error, T::KEYS))?;
    settings.validate().map_err(|invalid| layers.place_invalid(invalid))?;
    Ok(Loaded { settings, file: layers.file.map(|file| file.path), warnings: environment.warnings })
}

/// The layers above the defaults, kept apart to tell which of them a value came from.
struct Layers {
    file: Option<file::File>,
    file_values: Dict,
    env_prefix: &'static str,
    environment: Dict,
    flags: Dict,
}

impl Layers {
    fn merge<T: Settings>(&self) -> Figment {
        Figment::from(Serialized::defaults(T::default()))
            .merge(Serialized::defaults(&self.file_values))
            .merge(Serialized::defaults(&self.environment))
            .merge(Serialized::defaults(&self.flags))
    }

    /// Where the value at this path came from: the highest layer that has it.
    fn place(&self, path: &[String]) -> Place {
        if holds(&self.flags, path) {
            return Place::Flag(flag_name(path));
        }
        if holds(&self.environment, path) {
            return Place::Variable(environment::variable_of(self.env_prefix, &settable_name(path)));
        }
        match &self.file {
            Some(file) if holds(&self.file_values, path) => {
                Place::File { file: file.path.clone(), line: file.line_of(path) }
            }
            _ => Place::Default,
        }
    }

    fn explain(&self, error: figment::Error, keys: &[Key]) -> SettingsError {
        let place = self.place(&error.path);
        error::from_figment(error, place, keys)
    }

    fn place_invalid(&self, invalid: Invalid) -> SettingsError {
        let mut path: Vec<String> = invalid.key.split('.').map(str::to_owned).collect();
        let key = key_name(&path);
        let mut place = self.place(&path);
        // A default can only be wrong beside something that was set: the closest table around it says where.
        while place == Place::Default && path.pop().is_some() && !path.is_empty() {
            place = self.place(&path);
        }
        SettingsError::Invalid { place, key, message: invalid.message }
    }
}

fn flag_values(flags: &impl Serialize) -> Result<Dict, SettingsError> {
    let value =
        Value::serialize(flags).map_err(|error| SettingsError::BadFlags { message: error.to_string() })?;
    Ok(without_empty(value).and_then(Value::into_dict).unwrap_or_default())
}

/// Takes out what a flag overlay does not say, so that it does not hide the layers below.
fn without_empty(value: Value) -> Option<Value> {
    match value {
        Value::Empty(..) => None,
        Value::Dict(tag, dict) => {
            let said = dict.into_iter().filter_map(|(key, value)| Some((key, without_empty(value)?)));
            let said: Dict = said.collect();
            (!said.is_empty()).then_some(Value::Dict(tag, said))
        }
        Value::Array(tag, items) => {
            Some(Value::Array(tag, items.into_iter().filter_map(without_empty).collect()))
        }
        other => Some(other),
    }
}

/// Whether a layer says anything at this path; an empty path is everything.
fn holds(layer: &Dict, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    let mut at = layer.get(first);
    for step in rest {
        at = match at {
            Some(Value::Dict(_, dict)) => dict.get(step),
            // What lies below a list is the list's: a missing item key must still lead to the layer that made the item.
            Some(Value::Array(_, items)) => step.parse::<usize>().ok().and_then(|i| items.get(i)),
            _ => return at.is_some(),
        };
    }
    at.is_some()
}

/// A path as a key's name: without the numbers of list items.
fn key_name(path: &[String]) -> String {
    let names: Vec<&str> =
        path.iter().map(String::as_str).filter(|step| step.parse::<usize>().is_err()).collect();
    names.join(".")
}

/// The key by which a variable or flag can set this: of an item in a list, the list's.
fn settable_name(path: &[String]) -> String {
    let in_list = path.iter().position(|step| step.parse::<usize>().is_ok());
    path[..in_list.unwrap_or(path.len())].join(".")
}

/// The flag that sets a key, by convention: `log.format` is `--log-format`, and items of `share` are `--share`.
fn flag_name(path: &[String]) -> String {
    format!("--{}", settable_name(path).replace(['.', '_'], "-"))
}

/// Holds a type's [`Settings::KEYS`] against what serde sees. For tests: `full` needs an item in every list of tables.
///
/// # Errors
/// Lists the keys that only one side has.
pub fn check_keys<T: Settings>(full: &T) -> Result<(), String> {
    let value = Value::serialize(full).map_err(|error| error.to_string())?;
    let mut seen = Vec::new();
    collect_keys("", &value, &mut seen);
    let unlisted = seen.iter().filter(|name| !T::KEYS.iter().any(|key| key.name == name.as_str()));
    let unseen = T::KEYS.iter().map(|key| key.name).filter(|name| !seen.iter().any(|s| s == name));
    let wrong: Vec<String> = unlisted
        .map(|name| format!("{name} is not in KEYS"))
        .chain(unseen.map(|name| format!("{name} is in KEYS only")))
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join(", ")) }
}

fn collect_keys(prefix: &str, value: &Value, seen: &mut Vec<String>) {
    let note = |name: &str, seen: &mut Vec<String>| {
        if !name.is_empty() && !seen.iter().any(|s| s == name) {
            seen.push(name.to_owned());
        }
    };
    match value {
        Value::Dict(_, dict) => {
            for (key, value) in dict {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                collect_keys(&name, value, seen);
            }
        }
        Value::Array(_, items) if items.iter().any(|item| matches!(item, Value::Dict(..))) => {
            note(prefix, seen);
            items.iter().for_each(|item| collect_keys(prefix, item, seen));
        }
        _ => note(prefix, seen),
    }
}

#[cfg(test)]
mod tests;
