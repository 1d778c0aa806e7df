//! The daemon as a whole: shares opened, address bound, requests served, everything ended.
//!
//! It can be run in any process, which is how most tests do it; the program around it is [`crate::program`].

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use sync_cli::HostPort;
use sync_core::{Hint, name::escape};
use sync_tree::{
    described::Described,
    live::{LiveOptions, LiveTree, TreeError, TreeState, TreeStatus},
};
use tokio::{
    net::TcpListener,
    sync::{broadcast::error::RecvError, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    connections::{Ends, Incoming},
    console::{self, Console},
    services::{Health, serve},
    settings::{DaemonSettings, ShareSettings},
    shares::{Share, Shares},
    tasks::Tasks,
};

/// How long open streams have for their last message. Together with [`TREES_END_WITHIN`] it stays below five seconds.
const STREAMS_END_WITHIN: Duration = Duration::from_millis(2500);
/// How long the trees have to end what they are doing.
const TREES_END_WITHIN: Duration = Duration::from_millis(1500);

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be used.
    #[error("Cannot listen on {address}")]
    Listen {
        /// The address as configured.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A share cannot be opened.
    #[error("Cannot serve share {} ({})", escape(name), escape(&dir.to_string_lossy()))]
    Share {
        /// Its name.
        name: String,
        /// Its directory.
        dir: PathBuf,
        /// What is wrong.
        source: TreeError,
    },
}

impl Hint for StartError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Listen { source, .. } => Some(match source.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "another program uses it, perhaps another syncd: stop that, or choose another with --listen"
                }
                std::io::ErrorKind::PermissionDenied => "choose a port above 1023 with --listen",
                _ => "choose an address of this machine with --listen, such as 127.0.0.1:7420",
            }),
            Self::Share { source, .. } => source.hint(),
        }
    }
}

/// The daemon.
#[derive(Debug)]
pub struct App;

/// A daemon that serves. It goes on until [`RunningApp::stop`] is called.
pub struct RunningApp {
    /// Where it listens, with the real port.
    pub address: SocketAddr,
    shares: Shares,
    tasks: Arc<Tasks>,
    cut: CancellationToken,
    health: Health,
    console: Console,
    server: JoinSet<()>,
    ready: watch::Receiver<bool>,
}

impl App {
    /// Binds the address, opens the shares and serves. The shares are scanned meanwhile, see [`RunningApp::ready`].
    ///
    /// # Errors
    /// The address or a share cannot be used; nothing runs then.
    pub async fn start(settings: DaemonSettings) -> Result<RunningApp, StartError> {
        Self::start_with(settings, Console::silent()).await
    }

    /// The same with a console.
    ///
    /// # Errors
    /// As [`App::start`].
    pub async fn start_with(settings: DaemonSettings, console: Console) -> Result<RunningApp, StartError> {
        let listener = listen(&settings.listen).await?;
        let address = listener.local_addr().map_err(|source| listen_error(&settings.listen, source))?;
        let shares = open_shares(&settings).await?;
        console.say(console::greeting(address));

        let tasks = Arc::new(Tasks::default());
        let cut = CancellationToken::new();
        let health = Health::new().await;
        let (ready_sender, ready) = watch::channel(false);
        let network = &settings.network;
        let patience = network.keepalive.duration() + network.keepalive_timeout.duration();
        let ends = Ends { stop: tasks.stop.clone(), cut: cut.clone(), patience };
        let incoming = Incoming::new(listener, settings.limits.max_connections as usize, ends);

        tasks.spawn(announce_task(Announcement {
            shares: shares.clone(),
            address,
            health: health.clone(),
            console: console.clone(),
            changes: settings.changes,
            ready: ready_sender,
            tasks: Arc::clone(&tasks),
        }));
        let mut server = JoinSet::new();
        let (of, with, said) = (shares.clone(), Arc::clone(&tasks), health.clone());
        server.spawn(async move {
            if let Err(error) = serve(incoming, of, with, &said, &settings).await {
                error!(%error, "the server failed");
            }
        });
        Ok(RunningApp { address, shares, tasks, cut, health, console, server, ready })
    }
}

async fn listen(address: &str) -> Result<TcpListener, StartError> {
    let failed = |source| listen_error(address, source);
    let HostPort { host, port } = address
        .parse()
        .map_err(|error| failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, error)))?;
    TcpListener::bind((host.as_str(), port)).await.map_err(failed)
}

fn listen_error(address: &str, source: std::io::Error) -> StartError {
    StartError::Listen { address: address.to_owned(), source }
}

/// Opens all shares, or none.
async fn open_shares(settings: &DaemonSettings) -> Result<Shares, StartError> {
    let described = Arc::default();
    let mut opened: Vec<Share> = Vec::with_capacity(settings.share.len());
    for share in &settings.share {
        match open_share(share, settings, &described).await {
            Ok(share) => opened.push(share),
            Err(error) => {
                stop_trees(&Shares::new(opened, described)).await;
                return Err(error);
            }
        }
    }
    Ok(Shares::new(opened, described))
}

/// How a share is kept up with.
pub(crate) fn live_options(share: &ShareSettings, settings: &DaemonSettings) -> LiveOptions {
    LiveOptions {
        root: share.path.clone(),
        state_dir: settings.state_dir_of(share),
        ignore: share.ignore.clone(),
        force_poll: share.poll,
        rescan: share.rescan.duration(),
        tombstone_retention: settings.limits.tombstone_retention.duration(),
        described: Arc::default(),
    }
}

async fn open_share(
    share: &ShareSettings,
    settings: &DaemonSettings,
    described: &Arc<Described>,
) -> Result<Share, StartError> {
    let options = LiveOptions { described: Arc::clone(described), ..live_options(share, settings) };
    let started = tokio::task::spawn_blocking(move || LiveTree::start(options)).await;
    // Panics are bugs, and nobody aborts it.
    let started = started.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
    let (name, dir) = (share.name.clone(), share.path.clone());
    let tree = started.map_err(|source| StartError::Share { name: name.clone(), dir, source })?;
    Ok(Share { name, tree, newest: Default::default() })
}

impl RunningApp {
    /// Waits until the first scan of all shares is over. A share that halts counts as scanned.
    pub async fn ready(&self) {
        let mut ready = self.ready.clone();
        // An error means that the daemon is stopping, which is the end of waiting too.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// Ends the server: streams are told, then connections are cut, then the shares are closed. Takes less than five
    /// seconds.
    pub async fn stop(mut self) {
        info!("shutting down");
        self.health.ending().await;
        self.tasks.stop.cancel();
        let served = timeout(STREAMS_END_WITHIN, self.server.join_next()).await;
        if served.is_err() {
            warn!("clients do not end their connections; cutting them");
        }
        self.cut.cancel();
        // A connection that was cut ends as soon as it is polled, which is now.
        let _ =
            timeout(Duration::from_millis(500), async { while self.server.join_next().await.is_some() {} })
                .await;
        self.tasks.finish(Duration::from_millis(200)).await;
        stop_trees(&self.shares).await;
        self.console.finish().await;
    }
}

/// Stops all trees at the same time.
async fn stop_trees(shares: &Shares) {
    let mut stopping = JoinSet::new();
    for share in shares.iter() {
        let tree = Arc::clone(&share.tree);
        stopping.spawn_blocking(move || tree.stop());
    }
    let stopped = timeout(TREES_END_WITHIN, async { while stopping.join_next().await.is_some() {} });
    if stopped.await.is_err() {
        // What is not committed is found again by the next scan.
        warn!("a share is still busy; leaving it");
    }
}

/// What [`announce_task`] needs.
struct Announcement {
    shares: Shares,
    address: SocketAddr,
    health: Health,
    console: Console,
    changes: bool,
    ready: watch::Sender<bool>,
    tasks: Arc<Tasks>,
}

/// Tells when each share is scanned, then that all are; from then on what changes.
async fn announce_task(this: Announcement) {
    for share in this.shares.iter() {
        if !scanned(share, &this.tasks.stop).await {
            return;
        }
        this.console.say(console::share_line(share));
    }
    this.health.serving().await;
    for share in this.shares.iter() {
        this.tasks.spawn(tell_states_task(Arc::clone(share), this.console.clone(), this.tasks.stop.clone()));
        this.tasks.spawn(tell_problems_task(Arc::clone(share), this.tasks.stop.clone()));
        if this.changes {
            this.tasks.spawn(tell_changes_task(
                Arc::clone(share),
                this.console.clone(),
                this.tasks.stop.clone(),
            ));
        }
    }
    this.console.say(console::ready_line(this.address));
    this.ready.send_replace(true);
}

/// Waits until a share's first scan is over; false if the daemon ends before.
async fn scanned(share: &Share, stop: &CancellationToken) -> bool {
    let mut status = share.tree.status();
    tokio::select! {
        scanned = status.wait_for(|status| status.state != TreeState::Scanning) => scanned.is_ok(),
        () = stop.cancelled() => false,
    }
}

async fn tell_changes_task(share: Arc<Share>, console: Console, stop: CancellationToken) {
    let mut changes = share.tree.changes();
    loop {
        let notes = tokio::select! {
            notes = changes.recv() => notes,
            () = stop.cancelled() => return,
        };
        match notes {
            Ok(notes) if notes.is_empty() => {}
            Ok(notes) => console.say(console::change_lines(&share.name, &notes, SystemTime::now())),
            Err(RecvError::Lagged(_)) => console.say(console::left_out_line(&share.name, SystemTime::now())),
            Err(RecvError::Closed) => return,
        }
    }
}

/// Says when a share halts, is degraded, or is well again.
async fn tell_states_task(share: Arc<Share>, console: Console, stop: CancellationToken) {
    let mut status = share.tree.status();
    let mut known = status.borrow().clone();
    loop {
        tokio::select! {
            changed = status.wait_for(|status| status.state != known.state) => match changed {
                Ok(status) => known = status.clone(),
                Err(_) => return,
            },
            () = stop.cancelled() => return,
        }
        // The tree logs it too.
        console.say(console::state_line(&share.name, &known));
    }
}

/// Logs what cannot be read or carried and which ignore patterns are not understood, when that is new.
async fn tell_problems_task(share: Arc<Share>, stop: CancellationToken) {
    let mut status = share.tree.status();
    let versions = |status: &TreeStatus| (status.problems_version, status.rules_version);
    let (mut problems, mut bad_rules) = (Vec::new(), Vec::new());
    loop {
        let known = versions(&status.borrow_and_update());
        let tree = Arc::clone(&share.tree);
        let read = move || (tree.problems(), tree.bad_rules());
        let Ok((problems_now, bad_now)) = tokio::task::spawn_blocking(read).await else { return };
        let lines = console::rule_lines(&bad_rules, &bad_now);
        for line in lines.into_iter().chain(console::problem_lines(&problems, &problems_now)) {
            warn!("{}: {line}", escape(&share.name));
        }
        (problems, bad_rules) = (problems_now, bad_now);
        tokio::select! {
            changed = status.wait_for(|status| versions(status) != known) => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}
