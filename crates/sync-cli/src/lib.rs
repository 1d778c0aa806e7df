//! What the two programs share above the libraries: configuration, logging, the command line, and how things are said
//! to people.
//!
//! The daemon and the agent never see each other; what both must do alike (which setting wins, how a bad one is reported,
//! what an exit code means, how a size is written) lives here so that it cannot drift apart. Nothing here knows what a
//! share or a target is.
//!
//! Reading order: [`settings`] (layers and their errors), [`units`] and [`address`] (what is written in them), [`cli`] (arguments and
//! standard output), [`show`] (text for people), [`report`] (errors, advice and exit codes), [`logging`], [`signals`].

pub mod address;
pub mod cli;
pub mod logging;
pub mod report;
pub mod settings;
pub mod show;
pub mod signals;
pub mod units;

pub use address::HostPort;
pub use cli::Stdout;
pub use logging::LogFormat;
pub use report::{Advise, ExitCode, error_chain};
pub use settings::{Loaded, Settings, SettingsError, Spec, load};
pub use units::{ByteSize, Span};
