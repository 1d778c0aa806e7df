//! The command line and standard output.
//!
//! Parsing is clap's; this adds the exit code for usage errors and survival of a closed pipe. Flags that are to work
//! before and after the command are `#[arg(global = true)]` in the derive structs of the programs.

use std::{
    ffi::OsString,
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

use clap::Parser;

use crate::report::ExitCode;

/// Parses the arguments of this process. `Err` is the code to end with: help and version were printed on stdout, a usage
/// error on stderr.
///
/// # Errors
/// [`ExitCode::Ok`] after help and version, [`ExitCode::Usage`] after a usage error.
pub fn parse<C: Parser>() -> Result<C, ExitCode> {
    parse_from(std::env::args_os())
}

/// Parses these arguments, the first of which is the program.
///
/// # Errors
/// As [`parse`].
pub fn parse_from<C: Parser>(arguments: impl IntoIterator<Item = OsString>) -> Result<C, ExitCode> {
    C::try_parse_from(arguments).map_err(|error| {
        // Nobody is left to hear that the message could not be printed.
        let _ = error.print();
        if error.use_stderr() { ExitCode::Usage } else { ExitCode::Ok }
    })
}

/// Standard output that survives its reader: after a broken pipe (`… | head`) everything written is dropped, so that a
/// program neither panics nor leaves its work half done because nobody reads the report.
///
/// Lines of concurrent callers do not mix.
#[derive(Debug)]
pub struct Stdout<W: Write = io::Stdout> {
    out: Mutex<State<W>>,
}

#[derive(Debug)]
struct State<W> {
    writer: W,
    closed: bool,
}

impl Stdout {
    /// The standard output of this process.
    #[must_use]
    pub fn new() -> Self {
        Self::over(io::stdout())
    }
}

impl Default for Stdout {
    fn default() -> Self {
        Self::new()
    }
}

impl<W: Write> Stdout<W> {
    /// The same over another writer.
    pub fn over(writer: W) -> Self {
        Self { out: Mutex::new(State { writer, closed: false }) }
    }

    /// Writes a line and flushes it.
    ///
    /// # Errors
    /// What the writer says, a broken pipe excepted.
    pub fn line(&self, text: &str) -> io::Result<()> {
        self.attempt(|writer| {
            // One write for the line: half a line must not appear beside another process's output.
            writer.write_all(format!("{text}\n").as_bytes())?;
            writer.flush()
        })
    }

    /// Writes text as it is and flushes it.
    ///
    /// # Errors
    /// What the writer says, a broken pipe excepted.
    pub fn text(&self, text: &str) -> io::Result<()> {
        self.attempt(|writer| {
            writer.write_all(text.as_bytes())?;
            writer.flush()
        })
    }

    /// Whether the reader has gone, so that a program whose only purpose is to print may end.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.out.lock().unwrap_or_else(PoisonError::into_inner).closed
    }

    fn attempt(&self, write: impl FnOnce(&mut W) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Ok(());
        }
        match write(&mut state.writer) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                state.closed = true;
                Ok(())
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "demo", version)]
    struct Demo {
        #[arg(long, global = true)]
        config: Option<String>,
        #[command(subcommand)]
        command: Command,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Command {
        Pull,
    }

    fn parse_words(words: &str) -> Result<Demo, ExitCode> {
        parse_from(words.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_work_before_and_after_the_command() {
        for words in ["demo --config x pull", "demo pull --config x", "demo pull --config=x"] {
            let demo = parse_words(words).unwrap();
            assert_eq!(demo.config.as_deref(), Some("x"), "{words}");
            assert!(matches!(demo.command, Command::Pull));
        }
    }

    #[test]
    fn usage_errors_and_help_have_their_codes() {
        for (words, code) in [
            ("demo", ExitCode::Usage),
            ("demo pul", ExitCode::Usage),
            ("demo pull --confg x", ExitCode::Usage),
            ("demo --help", ExitCode::Ok),
            ("demo --version", ExitCode::Ok),
        ] {
            assert_eq!(parse_words(words).unwrap_err(), code, "{words}");
        }
    }

    struct Pipe {
        room: usize,
        got: Vec<u8>,
        error: io::ErrorKind,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(self.error.into());
            }
            self.room -= 1;
            self.got.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_ends_the_output_and_nothing_else() {
        let out = Stdout::over(Pipe { room: 2, got: Vec::new(), error: io::ErrorKind::BrokenPipe });
        for line in ["one", "two", "three", "four"] {
            out.line(line).unwrap();
            assert_eq!(out.is_closed(), line.len() > 3);
        }
        let state = out.out.into_inner().unwrap();
        assert_eq!(state.writer.got, b"one\ntwo\n");
    }

    #[test]
    fn other_failures_are_told() {
        let out = Stdout::over(Pipe { room: 0, got: Vec::new(), error: io::ErrorKind::StorageFull });
        assert_eq!(out.line("x").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(!out.is_closed());
    }
}
