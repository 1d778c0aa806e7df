//! The command line of `sync-agent`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use serde::Serialize;
use sync_cli::{Loaded, LogFormat, SettingsError, Spec};

use super::{AgentSettings, Compression, Durability};

/// Keeps a directory equal to a share that a syncd serves.
///
/// Settings come from flags, else from SYNC_AGENT_… environment variables, else from the configuration file. Flags work
/// before and after the command.
#[derive(Debug, Clone, Parser)]
#[command(name = "sync-agent", version)]
pub struct AgentCli {
    /// Configuration file [default: ./sync-agent.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The daemon [default: http://127.0.0.1:7420]
    #[arg(long, global = true, value_name = "URL")]
    pub server: Option<String>,

    /// The share's name [default: the server's share, if it has just one]
    #[arg(long, global = true, value_name = "NAME")]
    pub share: Option<String>,

    /// The directory to keep equal to the share; it is created if its parent exists
    #[arg(long, global = true, value_name = "DIR")]
    pub target: Option<PathBuf>,

    /// Files in flight at a time [default: 8]
    #[arg(long, global = true, value_name = "N")]
    pub concurrency: Option<u32>,

    /// What survives a power failure [default: batch]
    #[arg(long, global = true, value_name = "WHEN")]
    pub durability: Option<Durability>,

    /// Whether files may come compressed [default: auto]
    #[arg(long, global = true, value_name = "MODE")]
    pub compression: Option<Compression>,

    /// Directory for state instead of .syncd in the target
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Let this run remove or replace more than the guards allow
    #[arg(long, global = true)]
    pub allow_mass_delete: bool,

    /// Print the result as JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,

    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say more; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// How log lines look on stderr
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// What to do
    #[command(subcommand)]
    pub command: AgentCommand,
}

/// What `sync-agent` can do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum AgentCommand {
    /// Make the target equal to the share once
    Pull(PullFlags),
    /// Pull, then apply changes as they come
    Follow,
    /// Show what is configured, when the target was last verified equal, and what is pending
    Status,
    /// Read the whole target again and compare it with the share; changes nothing
    Verify,
}

/// Flags of `pull`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct PullFlags {
    /// Transfer every file again, whatever the target holds
    #[arg(long)]
    pub full: bool,

    /// Show what would be done and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What the flags say, nested like [`AgentSettings`].
#[derive(Debug, Serialize)]
struct Overlay<'a> {
    server: Option<&'a str>,
    share: Option<&'a str>,
    target: Option<&'a PathBuf>,
    concurrency: Option<u32>,
    durability: Option<Durability>,
    compression: Option<Compression>,
    state_dir: Option<&'a PathBuf>,
    log: LogOverlay,
}

#[derive(Debug, Serialize)]
struct LogOverlay {
    format: Option<LogFormat>,
}

impl AgentCli {
    /// Reads the settings that this command line asks for.
    ///
    /// # Errors
    /// What is wrong with them; a usage error.
    pub fn load(&self) -> Result<Loaded<AgentSettings>, SettingsError> {
        sync_cli::load(&self.spec())
    }

    /// The log filter when `RUST_LOG` does not say: errors with `-q`, more with each `-v`, else warnings.
    #[must_use]
    pub fn default_filter(&self) -> &'static str {
        match (self.quiet, self.verbose) {
            (true, _) => "error",
            (false, 0) => "warn",
            (false, 1) => "info,h2=warn,hyper=warn,tonic=warn",
            // The transport's own talk would drown what is being looked for; RUST_LOG can still ask for it.
            (false, _) => "debug,h2=info,hyper=info,tonic=info",
        }
    }

    /// Where the settings come from.
    fn spec(&self) -> Spec<impl Serialize> {
        let flags = Overlay {
            server: self.server.as_deref(),
            share: self.share.as_deref(),
            target: self.target.as_ref(),
            concurrency: self.concurrency,
            durability: self.durability,
            compression: self.compression,
            state_dir: self.state_dir.as_ref(),
            log: LogOverlay { format: self.log_format },
        };
        Spec {
            default_file: "sync-agent.toml",
            explicit_file: self.config.clone(),
            env_prefix: "SYNC_AGENT_",
            flags,
        }
    }

    /// [`AgentCli::load`] with this environment.
    #[cfg(test)]
    pub(super) fn load_with(
        &self,
        variables: &[(&str, &str)],
    ) -> Result<Loaded<AgentSettings>, SettingsError> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        sync_cli::settings::load_with(&self.spec(), variables)
    }
}
