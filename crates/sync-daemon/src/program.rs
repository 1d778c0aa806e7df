//! The program around [`App`]: arguments, logging, signals, exit codes.

use std::{process::ExitCode as ProcessExit, time::Duration};

use anyhow::{Context as _, anyhow};
use sync_cli::{
    Advise as _, ExitCode, Loaded, SettingsError, Stdout, error_chain, logging,
    settings::to_toml,
    show,
    signals::{ENDED_BY_FORCE, signals},
};
use sync_core::name::escape;
use sync_tree::{
    live::LiveTree,
    look::bad_root_lines,
    rooted::Root,
    rules::{Rules, rule_set},
};
use tokio::runtime::Runtime;
use tracing::warn;

use crate::{
    app::{App, live_options},
    console::{Console, bad_line_words},
    settings::{
        DaemonSettings, ShareSettings,
        cli::{DaemonCli, DaemonCommand},
    },
};

/// How long threads that are stuck in a read have once everything else has ended.
const RUNTIME_ENDS_WITHIN: Duration = Duration::from_millis(100);

/// Runs `syncd` with the arguments and the environment of this process.
#[must_use]
pub fn main() -> ProcessExit {
    let cli = match sync_cli::cli::parse::<DaemonCli>() {
        Ok(cli) => cli,
        Err(code) => return code.into(),
    };
    match run(&cli) {
        Ok(()) => ExitCode::Ok.into(),
        Err(error) => {
            eprintln!("{}", error_chain(&error));
            ExitCode::of(&error).into()
        }
    }
}

fn run(cli: &DaemonCli) -> anyhow::Result<()> {
    // The log has a thread.
    let allowed = sync_tree::platform::allow_many_open_files();
    let Loaded { settings, warnings, .. } = cli.load()?;
    let log = logging::Logging {
        format: settings.log.format,
        default_filter: "info",
        file: settings.log.file.as_deref(),
        writer: None,
    };
    let _guard = logging::init(log).advised()?;
    for warning in &warnings {
        warn!("{warning}");
    }
    allowed.unwrap_or_else(|error| tracing::debug!(%error, "the limit of open files stays as it is"));
    #[cfg(feature = "failpoints")]
    sync_tree::probe::arm(|name| std::env::var(name).ok()).expect("the tester's variables are right");
    match &cli.command {
        None => serve(settings),
        Some(DaemonCommand::Check) => check(&settings),
        Some(DaemonCommand::Accept { name }) => accept(&settings, name),
    }
}

/// Prints the settings as they count. What they refer to must be there as well.
fn check(settings: &DaemonSettings) -> anyhow::Result<()> {
    settings.require_share()?;
    Stdout::new().text(&to_toml(settings)).context("Cannot print the configuration")?;
    for share in &settings.share {
        #[expect(
            clippy::disallowed_methods,
            reason = "the operator names this path, and it is only looked at"
        )]
        let found = std::fs::metadata(&share.path).map(|found| found.is_dir());
        let name = escape(&share.name);
        let path = share.path.to_string_lossy();
        let missing = || format!("Share {name} cannot be served: {}", escape(&path));
        let is_dir = found.advise("make the directory, or correct share.path").with_context(missing)?;
        if !is_dir {
            return Err(anyhow!("It is not a directory"))
                .advise("name a directory as share.path")
                .with_context(missing);
        }
        warn_of_bad_rules(share);
    }
    Ok(())
}

/// Names the ignore patterns that are not understood, as far as they are known without a scan.
fn warn_of_bad_rules(share: &ShareSettings) {
    let name = escape(&share.name);
    for bad in Rules::compile(&rule_set(&share.ignore, [])).bad_lines() {
        warn!("{name}: the pattern {:?} of share.ignore is left out: {}", bad.text, escape(&bad.error));
    }
    let Ok(root) = Root::open(&share.path) else { return };
    for bad in bad_root_lines(&root) {
        warn!("{name}: {}", bad_line_words(&bad));
    }
}

/// Lets a halted share go on with the directory as it is.
fn accept(settings: &DaemonSettings, name: &str) -> anyhow::Result<()> {
    let known = || settings.share.iter().map(|share| share.name.as_str());
    let Some(share) = settings.share.iter().find(|share| share.name == name) else {
        let advice = match show::nearest(name, known()) {
            Some(near) => format!("did you mean {}?", escape(near)),
            None => "name it with --share NAME=DIR, or use the configuration that serves it".to_owned(),
        };
        let unknown = SettingsError::Required { what: "The share is not configured", advice: "" };
        return Err(unknown).advise(advice);
    };
    LiveTree::accept(&live_options(share, settings)).advised()?;
    let line = format!("{}: accepted; it goes on within a second, or at its next start", escape(name));
    Stdout::new().line(&line).context("Cannot print")
}

fn serve(settings: DaemonSettings) -> anyhow::Result<()> {
    settings.require_share()?;
    use_threads(settings.threads);
    let runtime = Runtime::new()
        .advise("let it have more files open (ulimit -n) and more threads (ulimit -u)")
        .context("Cannot start threads")?;
    let served = runtime.block_on(serve_until_signal(settings));
    // Reads that hang on a dead disk do not keep the process.
    runtime.shutdown_timeout(RUNTIME_ENDS_WITHIN);
    served
}

/// Sizes the pool that scans and hashes.
fn use_threads(threads: u32) {
    // 0 is the pool's own word for one for each core. An error says that the pool exists, which is as good.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads as usize).build_global();
}

async fn serve_until_signal(settings: DaemonSettings) -> anyhow::Result<()> {
    // First of all, so that a signal during the start ends it in order too.
    let mut signals = signals()?;
    let app = App::start_with(settings, Console::stdout()).await.advised()?;
    signals.recv().await;
    tokio::select! {
        () = app.stop() => Ok(()),
        _ = signals.recv() => {
            warn!("second signal: ending at once");
            // Nothing can be lost: what is not committed is found again by the next scan.
            std::process::exit(ENDED_BY_FORCE);
        }
    }
}
