//! `ListShares` and `WatchChanges`, seen from a client.

mod common;

use std::time::{Duration, Instant};

use common::{
    DEADLINE, Daemon, all, connect, cursor_of, kinds, next, nodes_of, serve, serve_with, to_commit, watch,
};
use sync_cli::Span;
use sync_wire::v1::{
    ListSharesRequest, NodeKind, ShareState, WatchChangesRequest, watch_changes_response::Event,
};
use tokio::{task::JoinSet, time::timeout};
use tonic::Code;

async fn small_tree() -> Daemon {
    serve(|tree| {
        tree.file("a.txt", "one");
        tree.file("sub/b.txt", "second");
        tree.link("link", "a.txt");
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_are_listed_with_their_counts() {
    let mut daemon = small_tree().await;
    let list = daemon.client.list_shares(ListSharesRequest {}).await.unwrap().into_inner();
    let [share] = list.shares.as_slice() else { panic!("{list:?}") };
    assert_eq!((share.name.as_str(), share.files, share.bytes, share.problems), ("docs", 3, 9, 0));
    assert_eq!((share.id.len(), share.root_digest.len()), (16, 32));
    assert!(matches!(share.state(), ShareState::Ready | ShareState::Degraded), "{share:?}");
    let limits = list.limits.unwrap();
    assert!(limits.max_wants_in_flight > 0 && limits.max_packed_file_bytes > 0);
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_nothing_is_the_whole_tree_and_ends() {
    let mut daemon = small_tree().await;
    let request = WatchChangesRequest { paths: true, ..watch(false) };
    let events = all(&mut daemon.client, request).await.unwrap();
    assert_eq!(kinds(&events), ["reset", "rules", "nodes", "problems", "watching", "commit"]);
    let mut nodes: Vec<_> =
        nodes_of(&events).into_iter().map(|node| (node.path.clone(), node.kind())).collect();
    nodes.sort();
    let want = [
        ("a.txt", NodeKind::File),
        ("link", NodeKind::Symlink),
        ("sub", NodeKind::Directory),
        ("sub/b.txt", NodeKind::File),
    ];
    assert_eq!(nodes, want.map(|(path, kind)| (path.to_owned(), kind)));
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_brings_only_what_changed_even_just_before() {
    let mut daemon = small_tree().await;
    let cursor = cursor_of(&all(&mut daemon.client, watch(false)).await.unwrap());
    let resume = |cursor: &[u8]| WatchChangesRequest { cursor: cursor.to_vec(), ..watch(false) };

    let events = all(&mut daemon.client, resume(&cursor)).await.unwrap();
    assert_eq!(kinds(&events), ["rules", "problems", "watching", "commit"]);

    for round in 0..20 {
        // Nothing waits between the write and the request: the barrier does.
        daemon.tree.file("new.txt", format!("round {round}"));
        let events = all(&mut daemon.client, resume(&cursor)).await.unwrap();
        // The state of the round before may come first; the newest comes last.
        let nodes = nodes_of(&events);
        assert!(nodes.iter().all(|node| node.name == "new.txt"), "{events:?}");
        assert_eq!(nodes.last().unwrap().digest, blake3_of(&format!("round {round}")));
    }
    daemon.app.stop().await;
}

fn blake3_of(text: &str) -> Vec<u8> {
    sync_core::Digest::of(text.as_bytes()).0.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_that_mean_nothing_here_are_answered_by_a_reset() {
    let mut daemon = small_tree().await;
    let mut other = small_tree().await;
    let foreign = cursor_of(&all(&mut other.client, watch(false)).await.unwrap());
    for cursor in [foreign, b"garbage".to_vec(), vec![0xff; 5000]] {
        let request = WatchChangesRequest { cursor, ..watch(false) };
        let events = all(&mut daemon.client, request).await.unwrap();
        assert_eq!(kinds(&events)[0], "reset");
        assert_eq!(nodes_of(&events).len(), 4);
    }
    daemon.app.stop().await;
    other.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_share_is_told_with_the_known_ones() {
    let mut daemon = small_tree().await;
    let request = WatchChangesRequest { share: "dosc\n".to_owned(), ..watch(true) };
    let status = daemon.client.watch_changes(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(
        status.message().contains("docs") && status.message().contains("dosc\\n"),
        "{}",
        status.message()
    );
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_watch_sees_changes_rules_and_heartbeats() {
    let quick = |settings: &mut sync_daemon::DaemonSettings| settings.network.heartbeat = Span::millis(100);
    let mut daemon = serve_with(|tree| drop(tree.file("a.txt", "one")), quick).await;
    let mut stream = daemon.client.watch_changes(watch(true)).await.unwrap().into_inner();
    let (nodes, first) = to_commit(&mut stream).await;
    assert_eq!(nodes.len(), 1);

    daemon.tree.file("b.txt", "two");
    let (nodes, second) = to_commit(&mut stream).await;
    assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["b.txt"]);
    assert_ne!(first, second);

    // What becomes ignored is gone, and the rules that say so come before the commit point.
    daemon.tree.file(".syncignore", "b.txt\n");
    let (mut ruled, mut gone) = (false, false);
    while !gone {
        match next(&mut stream).await.unwrap().unwrap() {
            Event::Rules(rules) => ruled = rules.files.iter().any(|file| file.text.contains("b.txt")),
            Event::Nodes(batch) => gone = batch.nodes.iter().any(|node| node.gone),
            Event::Commit(_) => assert!(ruled || !gone),
            _ => {}
        }
    }
    while !matches!(next(&mut stream).await.unwrap().unwrap(), Event::Commit(_)) {}
    assert!(ruled);

    let quiet = timeout(DEADLINE, async {
        loop {
            let event = stream.message().await.unwrap().unwrap().event;
            if matches!(event, Some(Event::Heartbeat(_))) {
                return;
            }
        }
    });
    quiet.await.expect("a heartbeat comes");
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_live_watchers_all_see_a_change_soon() {
    followers_see_a_change(200).await;
}

/// The promise is that a thousand followers of one share have a change within a second.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_live_watchers_all_see_a_change_soon() {
    followers_see_a_change(1000).await;
}

async fn followers_see_a_change(followers: usize) {
    let daemon = serve(|tree| {
        for i in 0..100 {
            tree.file(format!("f{i}"), format!("{i}"));
        }
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..followers.div_ceil(100) {
        clients.push(connect(&daemon.app).await);
    }
    let mut streams = Vec::new();
    for i in 0..followers {
        let mut client = clients[i / 100].clone();
        let mut stream = client.watch_changes(watch(true)).await.expect("it is watched").into_inner();
        assert_eq!(to_commit(&mut stream).await.0.len(), 100);
        streams.push(stream);
    }
    let mut waiting = JoinSet::new();
    let start = Instant::now();
    daemon.tree.file("new", "new");
    for mut stream in streams {
        waiting.spawn(async move { to_commit(&mut stream).await.0.len() });
    }
    while let Some(nodes) = waiting.join_next().await {
        assert_eq!(nodes.expect("the follower ends well"), 1);
    }
    let took = start.elapsed();
    println!("{followers} followers had a change after {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_share_halts_and_comes_back() {
    let mut daemon = serve(|tree| {
        for i in 0..20 {
            tree.file(format!("f{i}"), "x");
        }
    })
    .await;
    let mut live = daemon.client.watch_changes(watch(true)).await.unwrap().into_inner();
    to_commit(&mut live).await;
    let away = daemon.tree.root().with_file_name("away");
    let home = daemon.tree.root().to_path_buf();
    rename(&home, &away);
    loop {
        match next(&mut live).await.unwrap().unwrap() {
            Event::Halted(_) => break,
            Event::Nodes(batch) => panic!("nothing is published: {batch:?}"),
            _ => {}
        }
    }
    let events = all(&mut daemon.client, watch(false)).await.unwrap();
    assert_eq!(kinds(&events), ["halted"]);
    rename(&away, &home);
    // Back again, a change is seen.
    daemon.tree.file("after", "x");
    let seen = timeout(DEADLINE, async {
        while !to_commit(&mut live).await.0.iter().any(|node| node.name == "after") {}
    });
    seen.await.expect("the feed goes on");
    daemon.app.stop().await;
}

#[expect(clippy::disallowed_methods, reason = "the test's own directory")]
fn rename(from: &std::path::Path, to: &std::path::Path) {
    std::fs::rename(from, to).expect("the directory can be moved");
}
