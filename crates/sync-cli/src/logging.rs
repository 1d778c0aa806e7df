//! Talk for operators: `tracing` events on stderr, and on request in a daily log file.
//!
//! Stdout is data and never gets a log line. Text is complete without colour; colour is an addition on a terminal unless
//! `NO_COLOR` is set. File names come from disks and peers: callers escape them (`sync_core::name::escape`).
//! A day's file is never deleted: how long logs are kept is the operator's decision.

use std::{
    ffi::OsStr,
    fmt,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sync_core::{Hint, name::escape};
use tracing::Subscriber;
use tracing_appender::{non_blocking::WorkerGuard, rolling};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt::MakeWriter, layer::SubscriberExt as _, registry::LookupSpan,
};

/// A way for log lines to go, such as [`Logging::writer`] takes it.
pub use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// What to log, how and where.
pub struct Logging<'a> {
    /// How lines look.
    pub format: LogFormat,
    /// What is logged if `RUST_LOG` does not say: `"warn"`, `"info"`, or any filter that it understands.
    pub default_filter: &'a str,
    /// The log file. Lines go there as well, into `FILE.YYYY-MM-DD` (UTC); `FILE` is a symbolic link to the newest.
    pub file: Option<&'a Path>,
    /// Where lines go instead of stderr, such as around a progress bar.
    pub writer: Option<BoxMakeWriter>,
}

/// Keeps logging alive. Dropping it writes what is still buffered for the file.
#[derive(Debug, Default)]
#[must_use = "the log file ends when this is dropped"]
pub struct LogGuard {
    _worker: Option<WorkerGuard>,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// `RUST_LOG` is not a filter.
    #[error("RUST_LOG={found:?} is not a log filter")]
    Filter {
        /// What it holds.
        found: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The log file cannot be opened.
    #[error("Cannot open the log file {}", escape(&file.to_string_lossy()))]
    File {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Logging was already set up.
    #[error("Logging is set up already")]
    Twice {
        /// What `tracing` says.
        source: tracing::subscriber::SetGlobalDefaultError,
    },
}

impl Hint for LoggingError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Filter { .. } => {
                Some("use error, warn, info, debug or trace, or TARGET=LEVEL pairs with commas")
            }
            Self::File { .. } => Some("choose a file in a directory that this user can write to"),
            Self::Twice { .. } => None,
        }
    }
}

/// Sets up logging for the process.
///
/// # Errors
/// `RUST_LOG` is no filter, the file cannot be opened, or it was called twice.
pub fn init(logging: Logging<'_>) -> Result<LogGuard, LoggingError> {
    let rust_log = std::env::var("RUST_LOG").ok();
    let no_color = std::env::var_os("NO_COLOR");
    let colour = logging.writer.is_none() && wants_colour(no_color.as_deref(), io::stderr().is_terminal());
    let (subscriber, guard) = build(logging, rust_log.as_deref(), colour)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|source| LoggingError::Twice { source })?;
    Ok(guard)
}

/// Whether text may be coloured: on a terminal, and unless `NO_COLOR` holds anything.
#[must_use]
pub fn wants_colour(no_color: Option<&OsStr>, is_terminal: bool) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

type DynLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn build(
    logging: Logging<'_>,
    rust_log: Option<&str>,
    colour: bool,
) -> Result<(impl Subscriber + Send + Sync + use<>, LogGuard), LoggingError> {
    let filter = filter_from(rust_log, logging.default_filter)?;
    let writer = logging.writer.unwrap_or_else(|| BoxMakeWriter::new(io::stderr));
    let mut layers: Vec<DynLayer> = vec![layer(logging.format, writer, colour)];
    let mut guard = LogGuard::default();
    if let Some(file) = logging.file {
        let (writer, worker) = tracing_appender::non_blocking(open_daily(file)?);
        layers.push(layer(logging.format, writer, false));
        guard._worker = Some(worker);
    }
    let subscriber = Registry::default().with(layers).with(filter);
    Ok((subscriber, guard))
}

fn filter_from(rust_log: Option<&str>, default: &str) -> Result<EnvFilter, LoggingError> {
    let text = rust_log.map(str::trim).filter(|text| !text.is_empty()).unwrap_or(default);
    EnvFilter::try_new(text).map_err(|source| LoggingError::Filter { found: text.to_owned(), source })
}

fn layer<S, W>(format: LogFormat, writer: W, colour: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // `log_internal_errors` would print to stderr when stderr is what cannot be written to, and panic.
    let layer =
        tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colour).log_internal_errors(false);
    match format {
        LogFormat::Text => layer.with_target(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(true).boxed(),
    }
}

fn open_daily(file: &Path) -> Result<rolling::RollingFileAppender, LoggingError> {
    let fail = |source: Box<dyn std::error::Error + Send + Sync>| LoggingError::File {
        file: file.to_owned(),
        source,
    };
    let name =
        file.file_name().and_then(OsStr::to_str).ok_or_else(|| fail("it has no name in UTF-8".into()))?;
    // The link beside the files must not depend on the current directory.
    let full = std::path::absolute(file).map_err(|error| fail(error.into()))?;
    let directory = full.parent().unwrap_or(Path::new("/"));
    let mut builder = rolling::Builder::new().rotation(rolling::Rotation::DAILY).filename_prefix(name);
    // The appender removes whatever is in the place of its link: an ordinary file there is somebody's log.
    #[expect(clippy::disallowed_methods, reason = "the operator names this file, no peer does")]
    let is_free = full.symlink_metadata().map_or(true, |found| found.is_symlink());
    if is_free {
        builder = builder.latest_symlink(name);
    }
    builder.build(directory).map_err(|error| fail(error.into()))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests look at their own log files")]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, rust_log: Option<&str>, file: Option<&Path>) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let writer = Some(BoxMakeWriter::new(move || writer.clone()));
        let logging = Logging { format, default_filter: "warn", file, writer };
        let (subscriber, guard) = build(logging, rust_log, false).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(path = "a/b", "Cannot read");
            tracing::info!("detail");
        });
        drop(guard);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_is_plain_and_filtered() {
        let text = logged(LogFormat::Text, None, None);
        assert!(text.contains("WARN") && text.contains("Cannot read") && text.contains("a/b"), "{text}");
        assert!(!text.contains("detail") && !text.contains('\u{1b}'), "{text}");
        assert!(logged(LogFormat::Text, Some("info"), None).contains("detail"));
        assert!(!logged(LogFormat::Text, Some(" "), None).contains("detail"));
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(LogFormat::Json, Some("info"), None);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["level"], "WARN");
        assert_eq!(lines[0]["message"], "Cannot read");
        assert_eq!(lines[0]["path"], "a/b");
    }

    #[test]
    fn a_bad_filter_is_named() {
        let error = filter_from(Some("info,=,x=loud"), "warn").unwrap_err();
        assert!(error.to_string().contains("x=loud"), "{error}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn the_file_has_the_lines_and_a_stable_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("logs/syncd.log");
        logged(LogFormat::Text, None, Some(&file));
        logged(LogFormat::Text, None, Some(&file));
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.matches("Cannot read").count(), 2, "{text}");
        assert!(file.is_symlink());
    }

    #[test]
    fn an_ordinary_file_in_place_of_the_link_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("syncd.log");
        std::fs::write(&file, "mine").unwrap();
        logged(LogFormat::Text, None, Some(&file));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("plain");
        std::fs::write(&file, "").unwrap();
        let error = open_daily(&file.join("syncd.log")).unwrap_err();
        assert!(error.to_string().contains("plain/syncd.log"), "{error}");
    }

    #[test]
    fn colour_needs_a_terminal_and_consent() {
        assert!(wants_colour(None, true));
        assert!(wants_colour(Some(OsStr::new("")), true));
        assert!(!wants_colour(Some(OsStr::new("1")), true));
        assert!(!wants_colour(None, false));
    }
}
