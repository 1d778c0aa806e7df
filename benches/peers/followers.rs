//! Many followers of one share: each with a connection of its own, as agents have, all in this process.

use std::{
    fs,
    time::{Duration, Instant},
};

use sync_testkit::{
    contest::{
        files::{SMALL, SmallFiles},
        stats::{Spread, quantile},
        working_directory,
    },
    host,
    programs::rss_bytes,
};
use sync_wire::v1::{
    WatchChangesRequest, WatchChangesResponse, sync_service_client::SyncServiceClient,
    watch_changes_response::Event,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
};
use tonic::{Streaming, transport::Endpoint};

use crate::{
    bed::Bed,
    interrupt,
    settings::Settings,
    table::{Check, Line, Table},
};

/// How many files the share has: enough that a follower has something to be told at first.
const FILES: usize = 1_000;
/// How many changes are made, one after the other.
const CHANGES: u64 = 20;
/// The changes are told apart by the changed file's size, which is this and the number of the change.
const FIRST_SIZE: u64 = 100_000;
/// How long connecting, or one change, may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections that are opened at a time.
const AT_ONCE: usize = 50;

/// Told by a follower at each commit point: the size of the last large file it was told of, and when.
type Told = (u64, Instant);

/// One change reaches everybody, and what each costs the daemon.
pub(crate) fn rows(settings: &Settings, table: &mut Table) {
    if !settings.wants("followers") {
        return;
    }
    interrupt::check();
    let (followers, dir) = (settings.followers, working_directory(64 << 20));
    eprintln!("peers: {followers} followers of one share");
    let small = SmallFiles::make(&dir.path().join("small"), FILES, SMALL);
    // Each is a connection here, and the daemon lets itself have as many files open as it may.
    host::raise_open_files();
    let bed = Bed::serve(dir, &["small"], Some(small));
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let mut load = Load::connect(&runtime, &bed, followers);
    let (mut last, mut each) = (Vec::new(), 0.0);
    for number in 1..=CHANGES {
        interrupt::check();
        last.push(load.change(&runtime, &bed, number));
        each = load.growth_kib(&bed);
    }
    let worst = Spread::of(last.iter().copied()).expect("there were changes").most;
    let median = quantile(&mut last, 0.5);
    table.lines.push(Line {
        what: format!("{followers} followers of one share: one change → told to the last, {CHANGES} changes"),
        measured: format!(
            "median {median:.0} ms, worst {worst:.0} ms; daemon +{each:.1} KiB for each follower"
        ),
        checks: vec![
            Check::most("worst", worst, (1000.0, 5000.0), " ms"),
            Check::most("memory", each, (64.0, 512.0), " KiB"),
        ],
    });
}

/// Followers that are up to date. Their tasks end with it.
struct Load {
    followers: usize,
    before_bytes: u64,
    told: UnboundedReceiver<Told>,
    tasks: JoinSet<()>,
}

impl Load {
    fn connect(runtime: &Runtime, bed: &Bed, followers: usize) -> Self {
        let (tell, told) = unbounded_channel();
        let before_bytes = rss_bytes(bed.daemon.pid());
        let mut load = Self { followers, before_bytes, told, tasks: JoinSet::new() };
        let url = bed.daemon.url();
        let mut connected = 0;
        while connected < followers {
            let batch = AT_ONCE.min(followers - connected);
            for _ in 0..batch {
                load.tasks.spawn_on(follow_task(url.clone(), tell.clone()), runtime.handle());
            }
            // Up to date is told by the first commit point.
            load.wait_for(runtime, batch, 0);
            connected += batch;
        }
        load
    }

    /// Waits until that many have told this size; when the last did.
    fn wait_for(&mut self, runtime: &Runtime, followers: usize, size: u64) -> Instant {
        let all = async {
            let (mut count, mut last) = (0, Instant::now());
            while count < followers {
                let (told, when) = self.told.recv().await.expect("followers stay while this waits");
                if told == size {
                    (count, last) = (count + 1, last.max(when));
                }
            }
            last
        };
        let all = async { tokio::time::timeout(PATIENCE, all).await };
        runtime.block_on(all).unwrap_or_else(|_| panic!("not every follower was told within {PATIENCE:?}"))
    }

    /// Makes a change and gives the milliseconds until the last follower knows.
    fn change(&mut self, runtime: &Runtime, bed: &Bed, number: u64) -> f64 {
        let size = FIRST_SIZE + number;
        let contents = vec![b'x'; usize::try_from(size).expect("a small number")];
        let began = Instant::now();
        fs::write(bed.dir().join("small/changing"), contents).expect("a file of the share can be written");
        let last = self.wait_for(runtime, self.followers, size);
        last.saturating_duration_since(began).as_secs_f64() * 1e3
    }

    /// What the daemon has grown by for each follower.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn growth_kib(&self, bed: &Bed) -> f64 {
        let grown = rss_bytes(bed.daemon.pid()).saturating_sub(self.before_bytes);
        grown as f64 / 1024.0 / self.followers as f64
    }
}

async fn follow_task(url: String, tell: UnboundedSender<Told>) {
    let channel = Endpoint::from_shared(url).expect("the daemon has a good address").connect().await;
    let mut client = SyncServiceClient::new(channel.expect("the daemon accepts a follower"));
    let request = WatchChangesRequest { share: "small".into(), live: true, ..Default::default() };
    let stream = client.watch_changes(request).await.expect("the daemon answers a follower").into_inner();
    forward(stream, &tell).await;
}

/// Tells each commit point. Ends when nobody listens.
async fn forward(mut stream: Streaming<WatchChangesResponse>, tell: &UnboundedSender<Told>) {
    let mut last_size = 0;
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            _ if tell.is_closed() => return,
            Ok(None) => panic!("the daemon ended a live feed"),
            Err(status) => panic!("the daemon dropped a follower: {status}"),
        };
        match message.event {
            Some(Event::Nodes(batch)) => {
                let mut large = batch.nodes.iter().map(|node| node.size).filter(|size| *size > FIRST_SIZE);
                last_size = large.next_back().unwrap_or(last_size);
            }
            Some(Event::Commit(_)) if tell.send((last_size, Instant::now())).is_err() => return,
            _ => {}
        }
    }
}
