//! Settings as TOML again, for `check` and for bug reports.

use figment::value::{Num, Value};
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value as TomlValue};

use super::{Key, Settings};

/// The settings as a TOML file that yields them, keys in the order of [`Settings::KEYS`].
///
/// What is not set is left out, as it would be in a file.
#[must_use]
pub fn to_toml<T: Settings>(settings: &T) -> String {
    let Ok(value) = Value::serialize(settings) else { return String::new() };
    let mut document = DocumentMut::new();
    fill(document.as_table_mut(), &value, "", T::KEYS);
    document.to_string()
}

fn fill(table: &mut Table, value: &Value, prefix: &str, keys: &[Key]) {
    let Value::Dict(_, dict) = value else { return };
    for name in names_below(prefix, keys) {
        let full = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        if let Some(item) = dict.get(name).and_then(|value| item_of(value, &full, keys)) {
            table.insert(name, item);
        }
    }
}

/// The names directly below a table, in the order of the keys.
fn names_below(prefix: &str, keys: &[Key]) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for key in keys {
        let below = if prefix.is_empty() {
            Some(key.name)
        } else {
            key.name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'))
        };
        if let Some(name) = below.and_then(|below| below.split('.').next())
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

fn item_of(value: &Value, name: &str, keys: &[Key]) -> Option<Item> {
    match value {
        Value::Dict(..) => {
            let mut table = Table::new();
            fill(&mut table, value, name, keys);
            Some(Item::Table(table))
        }
        Value::Array(_, items) if items.iter().any(|item| matches!(item, Value::Dict(..))) => {
            let mut tables = ArrayOfTables::new();
            for item in items {
                let mut table = Table::new();
                fill(&mut table, item, name, keys);
                tables.push(table);
            }
            Some(Item::ArrayOfTables(tables))
        }
        value => scalar(value).map(Item::Value),
    }
}

fn scalar(value: &Value) -> Option<TomlValue> {
    Some(match value {
        Value::String(_, text) => TomlValue::from(text.as_str()),
        Value::Char(_, character) => TomlValue::from(character.to_string()),
        Value::Bool(_, switch) => TomlValue::from(*switch),
        Value::Num(_, number) => number_of(*number),
        Value::Array(_, items) => TomlValue::Array(items.iter().filter_map(scalar).collect::<Array>()),
        Value::Empty(..) | Value::Dict(..) => return None,
    })
}

fn number_of(number: Num) -> TomlValue {
    match number {
        Num::F32(float) => TomlValue::from(f64::from(float)),
        Num::F64(float) => TomlValue::from(float),
        // Settings hold no number beyond what TOML can express; sizes are text.
        other => {
            let signed = other.to_i128().and_then(|n| i64::try_from(n).ok());
            let unsigned = other.to_u128().and_then(|n| i64::try_from(n).ok());
            TomlValue::from(signed.or(unsigned).unwrap_or(i64::MAX))
        }
    }
}
