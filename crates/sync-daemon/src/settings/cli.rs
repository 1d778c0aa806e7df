//! The command line of `syncd`.

use std::{path::PathBuf, str::FromStr};

use clap::{Parser, Subcommand};
use serde::Serialize;
use sync_cli::{Loaded, LogFormat, SettingsError, Spec};

use super::{DaemonSettings, ShareSettings};

/// Serves directories to sync-agents.
///
/// Settings come from flags, else from SYNCD_… environment variables, else from the configuration file.
#[derive(Debug, Clone, Parser)]
#[command(name = "syncd", version)]
pub struct DaemonCli {
    /// Configuration file [default: ./syncd.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Address to listen on [default: 127.0.0.1:7420]; port 0 takes a free one
    #[arg(long, global = true, value_name = "ADDR")]
    pub listen: Option<String>,

    /// Directory to serve, and its name; can be given several times, and replaces the shares of the file
    #[arg(long = "share", global = true, value_name = "NAME=DIR")]
    pub share: Vec<ShareFlag>,

    /// Directory for state instead of .syncd in each share
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// How log lines look on stderr
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// File that gets the log as well; each day gets its own
    #[arg(long, global = true, value_name = "FILE")]
    pub log_file: Option<PathBuf>,

    /// What to do; without it, serve
    #[command(subcommand)]
    pub command: Option<DaemonCommand>,
}

/// What `syncd` can do other than serve.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum DaemonCommand {
    /// Check the configuration and print it
    Check,
    /// Let a halted share go on with the directory as it is now
    Accept {
        /// The share's name
        #[arg(value_name = "SHARE")]
        name: String,
    },
}

/// `NAME=DIR` of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareFlag {
    /// What agents call the share.
    pub name: String,
    /// The directory.
    pub path: PathBuf,
}

impl FromStr for ShareFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok(Self { name: name.to_owned(), path: path.into() })
            }
            _ => Err("expected NAME=DIR such as docs=/srv/docs".to_owned()),
        }
    }
}

/// What the flags say, nested like [`DaemonSettings`].
#[derive(Debug, Serialize)]
struct Overlay<'a> {
    listen: Option<&'a str>,
    state_dir: Option<&'a PathBuf>,
    share: Option<Vec<ShareSettings>>,
    log: LogOverlay<'a>,
}

#[derive(Debug, Serialize)]
struct LogOverlay<'a> {
    format: Option<LogFormat>,
    file: Option<&'a PathBuf>,
}

impl DaemonCli {
    /// Reads the settings that this command line asks for.
    ///
    /// # Errors
    /// What is wrong with them; a usage error.
    pub fn load(&self) -> Result<Loaded<DaemonSettings>, SettingsError> {
        sync_cli::load(&self.spec())
    }

    /// Where the settings come from.
    fn spec(&self) -> Spec<impl Serialize> {
        let share = |flag: &ShareFlag| ShareSettings::new(&flag.name, &flag.path);
        let flags = Overlay {
            listen: self.listen.as_deref(),
            state_dir: self.state_dir.as_ref(),
            share: (!self.share.is_empty()).then(|| self.share.iter().map(share).collect()),
            log: LogOverlay { format: self.log_format, file: self.log_file.as_ref() },
        };
        Spec { default_file: "syncd.toml", explicit_file: self.config.clone(), env_prefix: "SYNCD_", flags }
    }

    /// [`DaemonCli::load`] with this environment.
    #[cfg(test)]
    pub(super) fn load_with(
        &self,
        variables: &[(&str, &str)],
    ) -> Result<Loaded<DaemonSettings>, SettingsError> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        sync_cli::settings::load_with(&self.spec(), variables)
    }
}
