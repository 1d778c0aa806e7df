//! The environment layer: `PREFIX_TABLE__KEY=value`.
//!
//! What a variable holds is read by the kind of its key: text stays text (a share may be called `2024`), everything else
//! is read as in a TOML value. An empty variable counts as not set, which is what `VAR= program` usually means.

use std::{convert::Infallible, ffi::OsString};

use figment::value::{Dict, Value};

use super::{Key, KeyKind, Place, SettingsError};
use crate::show::nearest;

/// What the environment says.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) values: Dict,
    pub(super) warnings: Vec<String>,
}

/// Takes the variables that begin with the prefix.
///
/// # Errors
/// A value of a known key that is not UTF-8.
pub(super) fn read(
    prefix: &str,
    keys: &[Key],
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Environment, SettingsError> {
    let mut environment = Environment::default();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) else { continue };
        let Some(key) = find_key(prefix, name, keys) else {
            environment.warnings.push(unknown(prefix, name, keys));
            continue;
        };
        let Some(text) = value.to_str() else {
            return Err(SettingsError::BadValue {
                place: Place::Variable(name.to_owned()),
                key: key.name.to_owned(),
                expected: "UTF-8 text".to_owned(),
                found: format!("{:?}", value.to_string_lossy()),
            });
        };
        if !text.is_empty() {
            insert(&mut environment.values, key.name, parse(key.kind, text));
        }
    }
    Ok(environment)
}

/// The variable that sets a key; for an item of a list, the list's.
pub(super) fn variable_of(prefix: &str, key: &str) -> String {
    format!("{prefix}{}", key.replace('.', "__").to_uppercase())
}

fn find_key<'k>(prefix: &str, name: &str, keys: &'k [Key]) -> Option<&'k Key> {
    settable(keys).find(|key| variable_of(prefix, key.name) == name)
}

/// All keys but those of list items, which only a list as a whole can set.
fn settable(keys: &[Key]) -> impl Iterator<Item = &Key> {
    let in_list = |key: &Key| {
        let lists = keys.iter().filter(|list| list.kind == KeyKind::Tables);
        lists
            .into_iter()
            .any(|list| key.name.strip_prefix(list.name).is_some_and(|rest| rest.starts_with('.')))
    };
    keys.iter().filter(move |key| !in_list(key))
}

fn unknown(prefix: &str, name: &str, keys: &[Key]) -> String {
    let shown = sync_core::name::escape(name);
    // The prefix is common to all and would make everything near.
    let known: Vec<String> = settable(keys).map(|key| variable_of("", key.name)).collect();
    match nearest(&name[prefix.len()..], known.iter().map(String::as_str)) {
        Some(near) => {
            format!("Unknown environment variable {shown} is ignored; did you mean {prefix}{near}?")
        }
        // All of them would be a page.
        None => format!("Unknown environment variable {shown} is ignored; no setting has a name like it"),
    }
}

fn parse(kind: KeyKind, text: &str) -> Value {
    let as_toml = |text: &str| -> Value {
        let parsed: Result<Value, Infallible> = text.parse();
        parsed.unwrap_or_else(|never| match never {})
    };
    match kind {
        KeyKind::Text | KeyKind::Path => Value::from(text),
        KeyKind::Texts if !text.trim_start().starts_with('[') => Value::from(vec![text]),
        KeyKind::Number | KeyKind::Switch | KeyKind::Texts | KeyKind::Tables => as_toml(text.trim()),
    }
}

fn insert(values: &mut Dict, name: &str, value: Value) {
    match name.split_once('.') {
        None => {
            values.insert(name.to_owned(), value);
        }
        Some((table, rest)) => {
            let table = values.entry(table.to_owned()).or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, dict) = table {
                insert(dict, rest, value);
            }
        }
    }
}
