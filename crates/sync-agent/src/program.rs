//! The program around the commands: arguments, logging, signals, exit code.

use std::{process::ExitCode as ProcessExit, sync::Arc, time::Duration};

use anyhow::Context as _;
use sync_cli::{
    Advise as _, ExitCode, Loaded, error_chain, logging,
    signals::{ENDED_BY_FORCE, signals},
};
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    commands::{self, Invocation},
    console::{Console, Manner},
    failure::{Failure, advised},
    settings::{
        AgentSettings,
        cli::{AgentCli, AgentCommand},
    },
};

/// How long threads that are stuck in a read or write have once everything else has ended.
const RUNTIME_ENDS_WITHIN: Duration = Duration::from_millis(500);

/// What to do where not even threads can be started.
const FEWER_LIMITS: &str = "let it have more files open (ulimit -n) and more threads (ulimit -u)";

/// Runs `sync-agent` with the arguments and the environment of this process.
#[must_use]
pub fn main() -> ProcessExit {
    match sync_cli::cli::parse::<AgentCli>() {
        Ok(cli) => run(&cli).into(),
        Err(code) => code.into(),
    }
}

fn run(cli: &AgentCli) -> ExitCode {
    // The log has a thread.
    let allowed = sync_tree::platform::allow_many_open_files();
    let manner = Manner { json: cli.json, quiet: cli.quiet, verbose: cli.verbose > 0 };
    let console = Arc::new(match cli.command {
        AgentCommand::Follow => Console::of_follow(manner),
        _ => Console::of_run(manner),
    });
    let loaded = cli.load().map_err(|error| Failure::other(advised(error)));
    let settings = match loaded.and_then(|loaded| with_logging(cli, &console, loaded)) {
        Ok(settings) => settings,
        Err(failure) => return commands::failed_early(&cli.command, &console, &failure),
    };
    // Dropped last: what is logged meanwhile is written.
    let (settings, _guard) = settings;
    sync_tree::platform::keep_freed_memory();
    allowed.unwrap_or_else(|error| tracing::debug!(%error, "the limit of open files stays as it is"));
    #[cfg(feature = "failpoints")]
    sync_tree::probe::arm(|name| std::env::var(name).ok()).expect("the tester's variables are right");
    let invocation = Invocation { settings, console, allow_mass_delete: cli.allow_mass_delete };
    match &cli.command {
        AgentCommand::Status => commands::status::run(&invocation),
        command => with_runtime(command, &invocation),
    }
}

fn with_logging(
    cli: &AgentCli,
    console: &Console,
    loaded: Loaded<AgentSettings>,
) -> Result<(AgentSettings, logging::LogGuard), Failure> {
    let Loaded { settings, warnings, .. } = loaded;
    let log = logging::Logging {
        format: settings.log.format,
        default_filter: cli.default_filter(),
        file: None,
        writer: console.progress.log_writer(),
    };
    let guard = logging::init(log).map_err(|error| Failure::other(advised(error)))?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    Ok((settings, guard))
}

fn with_runtime(command: &AgentCommand, invocation: &Invocation) -> ExitCode {
    let runtime = match Runtime::new().advise(FEWER_LIMITS).context("Cannot start threads") {
        Ok(runtime) => runtime,
        Err(error) => return commands::failed_early(command, &invocation.console, &Failure::other(error)),
    };
    let cancel = CancellationToken::new();
    let code = runtime.block_on(async {
        match signals() {
            Ok(signals) => drop(tokio::spawn(signals_task(signals, cancel.clone()))),
            Err(error) => {
                return commands::failed_early(command, &invocation.console, &Failure::other(error));
            }
        }
        match command {
            AgentCommand::Pull(flags) => commands::pull::run(invocation, flags, cancel).await,
            AgentCommand::Follow => commands::follow::run(invocation, cancel).await,
            AgentCommand::Verify => commands::verify::run(invocation, cancel).await,
            AgentCommand::Status => commands::status::run(invocation),
        }
    });
    runtime.shutdown_timeout(RUNTIME_ENDS_WITHIN);
    code
}

/// The first signal asks everybody to come to an end, the second is the end.
async fn signals_task(mut signals: mpsc::Receiver<()>, cancel: CancellationToken) {
    if signals.recv().await.is_some() {
        cancel.cancel();
    }
    if signals.recv().await.is_some() {
        // What is in place is complete, and what is staged is found by the next run.
        std::process::exit(ENDED_BY_FORCE);
    }
}

/// Says on stderr why a command ended.
pub(crate) fn say(console: &Console, failure: &Failure) {
    console.progress.finish();
    console.talk(&error_chain(&failure.error));
}
