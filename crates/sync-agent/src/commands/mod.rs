//! The commands: what each asks the engine, and how what came of it is said.

pub(crate) mod follow;
pub(crate) mod pull;
pub(crate) mod status;
pub(crate) mod verify;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sync_cli::ExitCode;
use sync_locations::ConnectOptions;
use sync_tree::apply;
use tokio_util::sync::CancellationToken;

use crate::{
    console::{Console, Talk},
    engine::{Done, Engine, EngineError, EngineOptions, Summary},
    failure::{Failure, advised},
    program::say,
    report::{Report, Run, json_line, problem_lines},
    session::{DialSyncd, Dialed, Job, Patience, Session, Work, within_reason},
    settings::{AgentSettings, Compression, Durability, cli::AgentCommand},
};

/// How long a command that was asked to end may take for what it has begun.
const ENDS_WITHIN: Duration = Duration::from_secs(8);

/// What a command has to go by.
pub(crate) struct Invocation {
    pub settings: AgentSettings,
    pub console: Arc<Console>,
    pub allow_mass_delete: bool,
}

impl Invocation {
    /// The target's engine for a share.
    fn open(&self, dialed: &Dialed) -> Result<Box<dyn Work>, EngineError> {
        let settings = &self.settings;
        let options = EngineOptions {
            target: settings.target.clone().unwrap_or_default(),
            state_dir: settings.state_dir.clone(),
            share: dialed.share.clone(),
            share_id: dialed.share_id,
            durability: durability(settings.durability),
            concurrency: settings.concurrency as usize,
            allow_mass_delete: self.allow_mass_delete,
            trash_keep: Duration::from_secs(u64::from(settings.trash_days) * 24 * 60 * 60),
            rescan: settings.rescan.duration(),
        };
        Ok(Box::new(Engine::open(options)?))
    }

    fn dial(&self) -> DialSyncd {
        let options = ConnectOptions {
            connect_timeout: self.settings.connect_timeout.duration(),
            idle_timeout: self.settings.idle_timeout.duration(),
            compression: compression(self.settings.compression),
            ..ConnectOptions::default()
        };
        DialSyncd { url: self.settings.server.clone(), options }
    }

    fn patience(&self) -> Patience {
        Patience::with_attempts_of(self.settings.connect_timeout.duration())
    }

    fn require_target(&self) -> Result<(), Failure> {
        self.settings.require_target().map(drop).map_err(|error| Failure::other(advised(error)))
    }
}

fn durability(setting: Durability) -> apply::Durability {
    match setting {
        Durability::None => apply::Durability::None,
        Durability::Batch => apply::Durability::Batch,
        Durability::File => apply::Durability::File,
    }
}

fn compression(setting: Compression) -> sync_locations::Compression {
    match setting {
        Compression::Auto => sync_locations::Compression::Auto,
        Compression::Off => sync_locations::Compression::Off,
        Compression::On => sync_locations::Compression::On,
    }
}

/// What came of a job: its summary or why there is none, and then what it did nevertheless and the bytes that it took.
struct Ended {
    result: Result<Summary, Failure>,
    done: Done,
    received: u64,
}

/// Does a job that ends.
async fn run_job(invocation: &Invocation, job: Job, cancel: CancellationToken) -> Ended {
    if let Err(failure) = invocation.require_target() {
        return Ended { result: Err(failure), done: Done::default(), received: 0 };
    }
    let (dial, open) = (invocation.dial(), |dialed: &Dialed| invocation.open(dialed));
    let talk = Arc::clone(&invocation.console) as Arc<dyn Talk>;
    let mut session = Session::new(&dial, &open, invocation.patience(), talk);
    session.share.clone_from(&invocation.settings.share);
    session.cancel = cancel.clone();
    let done = within_reason(&cancel, ENDS_WITHIN, session.run(job)).await;
    let result = done.unwrap_or(Err(EngineError::Cancelled)).map_err(Failure::from);
    Ended { result, done: session.done, received: session.received }
}

/// Says what came of a job, and with which code that ends.
fn tell(
    console: &Console,
    ended: &Ended,
    run: Run,
    judge: impl FnOnce(&Summary) -> ExitCode,
    line: impl FnOnce(&Summary, Run) -> String,
) -> ExitCode {
    console.progress.finish();
    let summary = match &ended.result {
        Ok(summary) => summary,
        Err(failure) => {
            say(console, failure);
            if console.manner.json {
                let unfinished = Summary::unfinished(ended.done, ended.received);
                console.line(&json_line(&Report::of_failure(failure, &unfinished, run)));
            }
            return failure.code;
        }
    };
    let code = judge(summary);
    for text in problem_lines(&summary.problems) {
        console.talk(&text);
    }
    if console.manner.json {
        console.line(&json_line(&Report::of_summary(summary, code, run)));
    } else if !console.manner.quiet {
        console.line(&line(summary, run));
    }
    code
}

/// Says why a command did not even begin.
pub(crate) fn failed_early(command: &AgentCommand, console: &Console, failure: &Failure) -> ExitCode {
    say(console, failure);
    let dry_run = matches!(command, AgentCommand::Pull(flags) if flags.dry_run);
    let has_report = matches!(command, AgentCommand::Pull(_) | AgentCommand::Verify);
    if console.manner.json && has_report {
        let run = Run { took: Duration::ZERO, dry_run };
        console.line(&json_line(&Report::of_failure(failure, &Summary::default(), run)));
    } else if console.manner.json && *command == AgentCommand::Status {
        console.line(&status::failure_json(failure));
    }
    failure.code
}

/// A run that began then.
fn since(began: Instant, dry_run: bool) -> Run {
    Run { took: began.elapsed(), dry_run }
}

#[cfg(test)]
mod tests;
