//! A daemon in this process, and what tests ask of it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::{path::Path, time::Duration};

use sync_daemon::{App, DaemonSettings, RunningApp, settings::ShareSettings};
use sync_testkit::{Scratch, tree::Tree};
use sync_wire::v1::{
    self, FetchFileRequest, WatchChangesRequest, WatchChangesResponse, fetch_file_request::File,
    fetch_file_response::Part, sync_service_client::SyncServiceClient, watch_changes_response::Event,
};
use tokio::time::timeout;
use tonic::{Status, Streaming, transport::Channel};

/// Long enough for a busy machine, short enough that a test which hangs is noticed.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub type Client = SyncServiceClient<Channel>;

/// One share, "docs", served from a directory of its own.
pub struct Daemon {
    pub app: RunningApp,
    pub tree: Tree,
    pub client: Client,
    _scratch: Scratch,
}

/// Serves what `fill` makes.
pub async fn serve(fill: impl FnOnce(&Tree)) -> Daemon {
    serve_with(fill, |_| {}).await
}

/// The same with other settings.
pub async fn serve_with(fill: impl FnOnce(&Tree), change: impl FnOnce(&mut DaemonSettings)) -> Daemon {
    let scratch = Scratch::new();
    let tree = Tree::at(scratch.path().join("docs"));
    tree.dir("");
    fill(&tree);
    let mut settings = settings_for(tree.root());
    change(&mut settings);
    let app = App::start(settings).await.expect("the daemon starts");
    timeout(DEADLINE, app.ready()).await.expect("the first scan ends");
    let client = connect(&app).await;
    Daemon { app, tree, client, _scratch: scratch }
}

pub fn settings_for(dir: &Path) -> DaemonSettings {
    DaemonSettings {
        listen: "127.0.0.1:0".to_owned(),
        share: vec![ShareSettings::new("docs", dir)],
        ..DaemonSettings::default()
    }
}

pub async fn connect(app: &RunningApp) -> Client {
    Client::connect(format!("http://{}", app.address)).await.expect("the daemon accepts connections")
}

pub fn watch(live: bool) -> WatchChangesRequest {
    WatchChangesRequest { share: "docs".to_owned(), live, ..WatchChangesRequest::default() }
}

/// All events of a watch that ends by itself.
pub async fn all(client: &mut Client, request: WatchChangesRequest) -> Result<Vec<Event>, Status> {
    let mut stream = client.watch_changes(request).await?.into_inner();
    let mut events = Vec::new();
    while let Some(event) = next(&mut stream).await? {
        events.push(event);
    }
    Ok(events)
}

/// The next event that is no heartbeat.
pub async fn next(stream: &mut Streaming<WatchChangesResponse>) -> Result<Option<Event>, Status> {
    loop {
        let message = timeout(DEADLINE, stream.message()).await.expect("an event comes in time")?;
        match message.map(|message| message.event.expect("every message has an event")) {
            Some(Event::Heartbeat(_)) => {}
            event => return Ok(event),
        }
    }
}

/// Reads on to a commit point; gives the nodes on the way and the cursor.
pub async fn to_commit(stream: &mut Streaming<WatchChangesResponse>) -> (Vec<v1::Node>, Vec<u8>) {
    let mut nodes = Vec::new();
    loop {
        match next(stream).await.expect("the stream goes on").expect("the stream does not end") {
            Event::Nodes(batch) => nodes.extend(batch.nodes),
            Event::Commit(commit) => return (nodes, commit.cursor.to_vec()),
            _ => {}
        }
    }
}

pub fn nodes_of(events: &[Event]) -> Vec<v1::Node> {
    let batches = events.iter().filter_map(|event| match event {
        Event::Nodes(batch) => Some(batch.nodes.clone()),
        _ => None,
    });
    batches.flatten().collect()
}

pub fn cursor_of(events: &[Event]) -> Vec<u8> {
    let Some(Event::Commit(commit)) = events.last() else {
        panic!("the last event is a commit point: {events:?}")
    };
    commit.cursor.to_vec()
}

/// The kinds of events in order, each run of the same kind once.
pub fn kinds(events: &[Event]) -> Vec<&'static str> {
    let mut kinds: Vec<_> = events.iter().map(kind).collect();
    kinds.dedup();
    kinds
}

fn kind(event: &Event) -> &'static str {
    match event {
        Event::Reset(_) => "reset",
        Event::Nodes(_) => "nodes",
        Event::Commit(_) => "commit",
        Event::Heartbeat(_) => "heartbeat",
        Event::Rules(_) => "rules",
        Event::Problems(_) => "problems",
        Event::Watching(_) => "watching",
        Event::Halted(_) => "halted",
    }
}

pub fn by_path(path: &str) -> FetchFileRequest {
    FetchFileRequest {
        share: "docs".to_owned(),
        file: Some(File::Path(path.to_owned())),
        ..FetchFileRequest::default()
    }
}

/// A whole answer of `FetchFile`.
pub async fn fetch(
    client: &mut Client,
    request: FetchFileRequest,
) -> Result<(v1::FileHeader, Vec<u8>), Status> {
    let mut stream = client.fetch_file(request).await?.into_inner();
    let first = stream.message().await?.and_then(|message| message.part);
    let Some(Part::Header(header)) = first else { panic!("the header comes first: {first:?}") };
    let mut data = Vec::new();
    while let Some(message) = timeout(DEADLINE, stream.message()).await.expect("data comes in time")? {
        match message.part {
            Some(Part::Data(bytes)) => data.extend_from_slice(&bytes),
            other => panic!("only data follows the header: {other:?}"),
        }
    }
    Ok((header, data))
}
