//! The agent: keeps a directory equal to a share, once or for as long as it runs.
//!
//! Two parts that know little of each other: the [`engine`] makes one target equal over one connection and reports values;
//! the shell around it (everything else here) connects and connects again, prints, and turns what came of it into an exit
//! code. Invariants of the shell:
//! * Stdout is data: the closing line, the status, or JSON and nothing else. Talk, progress and errors are on stderr.
//! * Every way to end has a message, advice where there is any, and one of the documented exit codes.
//! * The first signal ends in order: what is in place stays and is recorded. The second ends at once.
//!
//! Reading order: [`program`] (arguments to exit code), `commands` (one file each), `session` (connections and their loss),
//! `console` and `progress` (what is said meanwhile), `report` (what is said in the end), [`settings`].

mod backoff;
mod commands;
mod console;
pub mod engine;
mod failure;
pub mod program;
mod progress;
mod report;
mod session;
pub mod settings;

pub use program::main;
