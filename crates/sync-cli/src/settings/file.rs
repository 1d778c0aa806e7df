//! The file layer: TOML with the line of everything in it.

use std::{
    io,
    path::{Path, PathBuf},
};

use figment::value::{Dict, Value};
use toml_edit::{Document, Item, TableLike, Value as TomlValue};

use super::{Key, KeyKind, Place, SettingsError, error::unknown_key};

/// A configuration file that parsed.
pub(super) struct File {
    pub(super) path: PathBuf,
    document: Document<String>,
}

/// Reads and parses a file; `None` if there is none.
///
/// # Errors
/// It cannot be read, or is not TOML.
pub(super) fn read(path: &Path) -> Result<Option<File>, SettingsError> {
    #[expect(clippy::disallowed_methods, reason = "the operator names this file, no peer does")]
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SettingsError::Read { file: path.to_owned(), source }),
    };
    match Document::parse(text.clone()) {
        Ok(document) => Ok(Some(File { path: path.to_owned(), document })),
        Err(error) => {
            let offset = error.span().map_or(text.len(), |span| span.start);
            let (line, column) = line_and_column(&text, offset);
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            Err(SettingsError::Syntax { file: path.to_owned(), line, column, message })
        }
    }
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

impl File {
    /// Refuses the first key that is not known.
    pub(super) fn refuse_unknown(&self, keys: &[Key]) -> Result<(), SettingsError> {
        self.refuse_unknown_in(self.document.as_table(), "", keys)
    }

    fn refuse_unknown_in(
        &self,
        table: &dyn TableLike,
        prefix: &str,
        keys: &[Key],
    ) -> Result<(), SettingsError> {
        // In the order of the file, so that the first mistake is reported first.
        let mut found: Vec<_> = table.iter().filter_map(|(name, _)| table.get_key_value(name)).collect();
        found.sort_by_key(|(key, item)| key.span().or_else(|| item.span()).map(|span| span.start));
        for (key, item) in found {
            let name =
                if prefix.is_empty() { key.get().to_owned() } else { format!("{prefix}.{}", key.get()) };
            let is_table = keys
                .iter()
                .any(|known| known.name.strip_prefix(&name).is_some_and(|rest| rest.starts_with('.')));
            if is_table {
                for table in tables_in(item) {
                    self.refuse_unknown_in(table, &name, keys)?;
                }
            } else if !keys.iter().any(|known| known.name == name) {
                let offset = key.span().or_else(|| item.span()).map_or(0, |span| span.start);
                let place = Place::File { file: self.path.clone(), line: self.line_at(offset) };
                return Err(unknown_key(place, &name, keys));
            }
        }
        Ok(())
    }

    /// Everything in the file, with paths made relative to the current directory.
    pub(super) fn values(&self, keys: &[Key]) -> Dict {
        let directory = self.path.parent().unwrap_or(Path::new(""));
        table_values(self.document.as_table(), "", &Context { keys, directory })
    }

    /// The line of the value at this path, or of what is closest around it.
    pub(super) fn line_of(&self, path: &[String]) -> usize {
        let mut at = Node::Item(self.document.as_item());
        let mut offset = 0;
        for step in path {
            let Some((next, start)) = at.child(step) else { break };
            offset = start.unwrap_or(offset);
            at = next;
        }
        self.line_at(offset)
    }

    fn line_at(&self, offset: usize) -> usize {
        line_and_column(self.document.raw(), offset).0
    }
}

/// A step on the way to a value: list items are values or tables, not items.
enum Node<'d> {
    Item(&'d Item),
    Value(&'d TomlValue),
    Table(&'d dyn TableLike),
}

impl<'d> Node<'d> {
    /// What is below under this name or number, and where it starts.
    fn child(&self, step: &str) -> Option<(Node<'d>, Option<usize>)> {
        let number = step.parse::<usize>().ok();
        let table = match self {
            Self::Item(Item::ArrayOfTables(tables)) => {
                let table = tables.get(number?)?;
                return Some((Node::Table(table), table.span().map(|span| span.start)));
            }
            Self::Item(Item::Value(TomlValue::Array(items))) | Self::Value(TomlValue::Array(items)) => {
                let value = items.get(number?)?;
                return Some((Node::Value(value), value.span().map(|span| span.start)));
            }
            Self::Item(item) => item.as_table_like()?,
            Self::Value(value) => value.as_inline_table()? as &dyn TableLike,
            Self::Table(table) => *table,
        };
        let (key, item) = table.get_key_value(step)?;
        Some((Node::Item(item), key.span().or_else(|| item.span()).map(|span| span.start)))
    }
}

/// The tables that an item holds: itself, or its list's.
fn tables_in(item: &Item) -> Vec<&dyn TableLike> {
    match item {
        Item::ArrayOfTables(tables) => tables.iter().map(|table| table as &dyn TableLike).collect(),
        Item::Value(TomlValue::Array(items)) => {
            items.iter().filter_map(|value| Some(value.as_inline_table()? as &dyn TableLike)).collect()
        }
        item => item.as_table_like().into_iter().collect(),
    }
}

struct Context<'c> {
    keys: &'c [Key],
    directory: &'c Path,
}

fn table_values(table: &dyn TableLike, prefix: &str, context: &Context<'_>) -> Dict {
    let value = |(name, item): (&str, &Item)| {
        let full = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        (name.to_owned(), item_value(item, &full, context))
    };
    table.iter().map(value).collect()
}

fn item_value(item: &Item, name: &str, context: &Context<'_>) -> Value {
    match item {
        Item::None => Value::from(Dict::new()),
        Item::Value(value) => toml_value(value, name, context),
        Item::Table(table) => Value::from(table_values(table, name, context)),
        Item::ArrayOfTables(tables) => {
            Value::from(tables.iter().map(|table| table_values(table, name, context)).collect::<Vec<_>>())
        }
    }
}

fn toml_value(value: &TomlValue, name: &str, context: &Context<'_>) -> Value {
    match value {
        TomlValue::String(text) => Value::from(text_value(text.value(), name, context)),
        TomlValue::Integer(number) => Value::from(*number.value()),
        TomlValue::Float(number) => Value::from(*number.value()),
        TomlValue::Boolean(switch) => Value::from(*switch.value()),
        TomlValue::Datetime(time) => Value::from(time.value().to_string()),
        TomlValue::Array(items) => {
            Value::from(items.iter().map(|item| toml_value(item, name, context)).collect::<Vec<_>>())
        }
        TomlValue::InlineTable(table) => Value::from(table_values(table, name, context)),
    }
}

fn text_value(text: &str, name: &str, context: &Context<'_>) -> String {
    let is_path = context.keys.iter().any(|key| key.name == name && key.kind == KeyKind::Path);
    if !is_path || text.is_empty() {
        return text.to_owned();
    }
    // The text stays as it is where the directory cannot be expressed as text.
    context.directory.join(text).into_os_string().into_string().unwrap_or_else(|_| text.to_owned())
}
