//! The daemon: serves directory trees over gRPC until it is told to stop.
//!
//! It owns no knowledge of trees (that is `sync-tree`) and none of what agents do with them. Invariants:
//! * What a client can make it hold is bounded by the settings: connections, streams, messages, unanswered wants. A
//!   client that takes nothing costs a place, never a thread and never more than a few messages of memory.
//! * A share that halts, a client that misbehaves or a stdout that is gone stops nobody else.
//! * It ends within five seconds of a signal, whatever clients do.
//!
//! Reading order: [`program`] (arguments to exit code), [`app`] (start and stop), `connections` (who gets a place),
//! `services` (the gRPC handlers; there `watch` and `newest` for the feed, `fetch_file` and `fetch_files` for bytes),
//! [`settings`].

pub mod app;
mod connections;
mod console;
mod line;
pub mod program;
mod services;
pub mod settings;
mod shares;
mod tasks;

pub use app::{App, RunningApp, StartError};
pub use console::Console;
pub use program::main;
pub use settings::DaemonSettings;
