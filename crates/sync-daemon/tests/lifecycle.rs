//! Starting, ending, and what clients may not do.

mod common;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use common::{DEADLINE, all, by_path, connect, serve, serve_with, settings_for, to_commit, watch};
use sync_cli::{ByteSize, Span};
use sync_core::Hint as _;
use sync_daemon::{App, StartError, settings::ShareSettings};
use sync_testkit::Scratch;
use sync_wire::v1::WatchChangesRequest;
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

#[tokio::test(flavor = "multi_thread")]
async fn ending_tells_open_streams_and_takes_less_than_five_seconds() {
    let mut daemon = serve(|tree| drop(tree.bytes("big", 64 << 20, 1))).await;
    let mut live = daemon.client.watch_changes(watch(true)).await.unwrap().into_inner();
    to_commit(&mut live).await;
    // A client that takes nothing of a large file must not hold the end up.
    let mut other = connect(&daemon.app).await;
    let stuck = other.fetch_file(by_path("big")).await.unwrap().into_inner();

    let start = Instant::now();
    let stopping = tokio::spawn(daemon.app.stop());
    let told = timeout(DEADLINE, async {
        loop {
            match live.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ends with a status"),
                Err(status) => return status,
            }
        }
    });
    let status = told.await.unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("shutting down"), "{status}");
    stopping.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(stuck);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_can_be_served_again_and_keeps_its_cursor() {
    let mut daemon = serve(|tree| drop(tree.file("a", "abc"))).await;
    let cursor = common::cursor_of(&all(&mut daemon.client, watch(false)).await.unwrap());
    let settings = settings_for(daemon.tree.root());
    daemon.app.stop().await;
    daemon.tree.file("b", "while it was down");
    let app = App::start(settings).await.unwrap();
    let mut client = connect(&app).await;
    // Not waiting for the first scan: the feed does.
    let request = WatchChangesRequest { cursor, ..watch(false) };
    let events = all(&mut client, request).await.unwrap();
    assert_eq!(common::nodes_of(&events).iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["b"]);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_it_from_starting_is_told_with_advice() {
    let daemon = serve(|_| {}).await;
    let scratch = Scratch::new();

    let taken = App::start(sync_daemon::DaemonSettings {
        listen: daemon.app.address.to_string(),
        ..settings_for(scratch.path())
    });
    let error = taken.await.err().unwrap();
    assert!(matches!(&error, StartError::Listen { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--listen"));

    let missing = App::start(settings_for(&scratch.path().join("missing"))).await.err().unwrap();
    assert!(missing.to_string().contains("docs") && missing.hint().is_some(), "{missing}");

    let mut locked = settings_for(scratch.path());
    locked.share.push(ShareSettings::new("again", daemon.tree.root()));
    let error = App::start(locked).await.err().unwrap();
    let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(text.contains("again") && text.contains(&std::process::id().to_string()), "{text}");

    // What was opened before the failure is closed again.
    App::start(settings_for(scratch.path())).await.unwrap().stop().await;
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer() {
    let daemon = serve(|_| {}).await;
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", daemon.app.address)).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "sync.v1.SyncService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let answers = reflection.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["sync.v1.SyncService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"] {
        assert!(names.contains(&name), "{names:?}");
    }
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let daemon = serve_with(|_| {}, |settings| settings.limits.max_connections = 3).await;
    // The fixture's client is one.
    let held: Vec<_> = (0..2).map(|_| TcpStream::connect(daemon.app.address).unwrap()).collect();
    let address = daemon.app.address;
    let refused = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let start = Instant::now();
        // An end or a reset, but not silence.
        let closed = !matches!(stream.read(&mut [0; 64]), Ok(1..));
        closed && start.elapsed() < DEADLINE
    });
    assert!(refused.await.unwrap());
    drop(held);
    timeout(DEADLINE, async {
        while !(try_list(address).await) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("places come free again");
    daemon.app.stop().await;
}

async fn try_list(address: std::net::SocketAddr) -> bool {
    let Ok(mut client) = common::Client::connect(format!("http://{address}")).await else { return false };
    client.list_shares(sync_wire::v1::ListSharesRequest {}).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_asks_for_nothing_is_closed() {
    let daemon = serve_with(
        |_| {},
        |settings| {
            settings.network.keepalive = Span::millis(300);
            settings.network.keepalive_timeout = Span::millis(300);
        },
    )
    .await;
    let address = daemon.app.address;
    // One that never speaks, and one that begins well and then only stays.
    for begin in [b"".as_slice(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let closed = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(begin).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut rest = Vec::new();
            let start = Instant::now();
            // An end and a reset are both fine.
            let _ = stream.read_to_end(&mut rest);
            start.elapsed()
        });
        assert!(closed.await.unwrap() < Duration::from_secs(5));
    }
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_beyond_the_limit_is_refused() {
    let small =
        |settings: &mut sync_daemon::DaemonSettings| settings.limits.max_message_bytes = ByteSize::kib(256);
    let mut daemon = serve_with(|_| {}, small).await;
    let request = WatchChangesRequest { cursor: vec![1; 300_000], ..watch(false) };
    let status = daemon.client.watch_changes(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert!(all(&mut daemon.client, watch(false)).await.is_ok());
    daemon.app.stop().await;
}
