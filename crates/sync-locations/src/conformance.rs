//! What every location must do, whatever is behind it. Each location's tests make a [`Stage`] and run all of it through
//! [`conformance_tests`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use sync_core::{
    CommitPoint, Content, Cursor, Digest, FeedEvent, Node, NodeChange, NodeId, TreePath, treehash::DirSum,
};
use tokio::sync::mpsc::channel;

use crate::{
    error::LocationError,
    location::{Answer, ByteStream, ChangeStream, FetchFailure, KnownChunks, Location, MOST_RANGES, Want},
};

/// By when anything must have happened.
const SOON: Duration = Duration::from_secs(20);

/// A location, and the hands that change what is in it.
pub(crate) trait Stage: Sync {
    fn location(&self) -> Arc<dyn Location>;
    fn write(&self, path: &str, bytes: &[u8]);
    fn remove(&self, path: &str);
    fn rename(&self, from: &str, to: &str);
}

/// All cases, as tests over the stage that the expression makes.
macro_rules! conformance_tests {
    ($stage:expr) => {
        $crate::conformance::conformance_tests!($stage;
            the_full_tree_comes_once_and_ends, only_changes_come_after_a_cursor, a_cut_feed_goes_on_at_its_resume,
            strange_cursors_are_answered_by_a_reset, a_live_feed_tells_changes_as_they_come,
            a_feed_may_be_waited_for_in_slices, many_wants_are_all_answered, one_failure_does_not_stop_the_others,
            a_file_streams_from_any_offset, a_file_with_other_bytes_is_not_served,
            scattered_parts_of_a_file_come_as_asked, ranges_that_are_none_are_refused, a_large_file_tells_its_parts,
            what_a_changed_file_is_made_of_is_not_told, streams_may_be_dropped_midway);
    };
    ($stage:expr; $($case:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let stage = $stage;
            $crate::conformance::$case(&stage).await;
        }
    )*};
}
pub(crate) use conformance_tests;

/// What a reader of a feed knows.
#[derive(Debug, Default)]
struct Mirror {
    nodes: HashMap<NodeId, Node>,
    resets: usize,
    nodes_received: usize,
    resume: Option<Cursor>,
    commit: Option<CommitPoint>,
}

impl Mirror {
    fn take(&mut self, event: FeedEvent) {
        match event {
            FeedEvent::Reset { .. } => {
                self.nodes.clear();
                self.resets += 1;
            }
            FeedEvent::Nodes { changes, resume } => {
                self.nodes_received += changes.len();
                changes.into_iter().for_each(|change| self.change(change));
                self.resume = Some(resume);
            }
            FeedEvent::Commit(commit) => {
                assert_eq!(
                    self.digest(NodeId::ROOT),
                    commit.root_digest,
                    "the digest is not that of the nodes"
                );
                self.resume = Some(commit.cursor.clone());
                self.commit = Some(commit);
            }
            FeedEvent::Halted { reason } => panic!("it halted: {reason}"),
            FeedEvent::Rules(_) | FeedEvent::Problems(_) | FeedEvent::Watching(_) | FeedEvent::Heartbeat => {}
        }
    }

    fn change(&mut self, change: NodeChange) {
        match change {
            NodeChange::Present(node) => drop(self.nodes.insert(node.id, node)),
            NodeChange::Gone(id) => {
                self.nodes.remove(&id);
                let below: Vec<_> =
                    self.nodes.values().filter(|node| node.parent == id).map(|node| node.id).collect();
                below.into_iter().for_each(|id| self.change(NodeChange::Gone(id)));
            }
        }
    }

    fn digest(&self, dir: NodeId) -> Digest {
        let mut sum = DirSum::default();
        for node in self.nodes.values().filter(|node| node.parent == dir) {
            let below = node.entry.content.is_dir().then(|| self.digest(node.id));
            sum.add(&DirSum::of_child(&node.name, &node.entry, below.as_ref()));
        }
        sum.digest()
    }

    fn path(&self, node: &Node) -> TreePath {
        match node.parent {
            NodeId::ROOT => TreePath::root().join(&node.name),
            parent => self.path(&self.nodes[&parent]).join(&node.name),
        }
    }

    /// Files with their digests.
    fn files(&self) -> BTreeMap<String, Digest> {
        let file = |node: &Node| match &node.entry.content {
            Content::File { digest, .. } => Some((self.path(node).as_str().to_owned(), *digest)),
            _ => None,
        };
        self.nodes.values().filter_map(file).collect()
    }

    #[track_caller]
    fn node(&self, path: &str) -> &Node {
        let found = self.nodes.values().find(|node| self.path(node).as_str() == path);
        found.unwrap_or_else(|| panic!("nothing at {path}"))
    }

    fn want(&self, number: u64, path: &str) -> Want {
        let node = self.node(path);
        let Content::File { digest, .. } = node.entry.content else { panic!("{path} is no file") };
        Want { number, node: node.id, digest }
    }

    fn cursor(&self) -> Cursor {
        self.commit.clone().expect("it came to a commit point").cursor
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("in time")
}

async fn read_on(location: &dyn Location, mirror: &mut Mirror, cursor: Option<&Cursor>) {
    let mut feed = soon(location.changes(cursor, false)).await.unwrap();
    while let Some(event) = soon(feed.next()).await {
        mirror.take(event.unwrap());
    }
    assert!(mirror.commit.is_some(), "it ended before a commit point");
    assert!(soon(feed.next()).await.is_none(), "an end is an end");
}

async fn mirror_of(location: &dyn Location) -> Mirror {
    let mut mirror = Mirror::default();
    read_on(location, &mut mirror, None).await;
    mirror
}

fn few_files(stage: &dyn Stage) -> BTreeMap<String, Digest> {
    let mut files = BTreeMap::new();
    for (path, bytes) in [
        ("empty", Vec::new()),
        ("a/b/c/中文 🎉", b"deep".to_vec()),
        ("a/two", vec![2; 2000]),
        ("a/three", vec![3; 30_000]),
        ("large", (0..200_000_u32).flat_map(u32::to_le_bytes).collect()),
    ] {
        stage.write(path, &bytes);
        files.insert(path.to_owned(), Digest::of(&bytes));
    }
    files
}

pub(crate) async fn the_full_tree_comes_once_and_ends(stage: &dyn Stage) {
    let empty = mirror_of(&*stage.location()).await;
    assert_eq!((empty.nodes.len(), empty.resets), (0, 1));
    let files = few_files(stage);
    let mirror = mirror_of(&*stage.location()).await;
    assert_eq!(mirror.files(), files);
    assert_eq!((mirror.resets, mirror.nodes_received), (1, files.len() + 3));
    let commit = mirror.commit.unwrap();
    assert_eq!((commit.files, commit.bytes), (5, 4 + 2000 + 30_000 + 800_000));
    assert!(!stage.location().describe().is_empty());
}

pub(crate) async fn only_changes_come_after_a_cursor(stage: &dyn Stage) {
    few_files(stage);
    let location = stage.location();
    let mut mirror = mirror_of(&*location).await;
    let (renamed, changed) = (mirror.node("a").id, mirror.node("empty").id);
    stage.rename("a", "moved");
    stage.write("empty", b"no more");
    stage.write("new", b"new");
    stage.remove("large");
    let cursor = mirror.cursor();
    mirror.nodes_received = 0;
    read_on(&*location, &mut mirror, Some(&cursor)).await;
    assert_eq!((mirror.resets, mirror.nodes_received), (1, 4), "{:?}", mirror.files().keys());
    let paths: Vec<_> = mirror.files().into_keys().collect();
    assert_eq!(paths, ["empty", "moved/b/c/中文 🎉", "moved/three", "moved/two", "new"]);
    assert_eq!((mirror.node("moved").id, mirror.node("empty").id), (renamed, changed));

    let cursor = mirror.cursor();
    mirror.nodes_received = 0;
    mirror.commit = None;
    read_on(&*location, &mut mirror, Some(&cursor)).await;
    assert_eq!((mirror.resets, mirror.nodes_received), (1, 0), "nothing new is nothing, and a commit point");
}

pub(crate) async fn a_cut_feed_goes_on_at_its_resume(stage: &dyn Stage) {
    let files = few_files(stage);
    let location = stage.location();
    let mut mirror = Mirror::default();
    let mut cursor = None;
    for _ in 0..100 {
        let mut feed = soon(location.changes(cursor.as_ref(), false)).await.unwrap();
        // Taken up to the first thing that can be gone on from, and dropped.
        let before = mirror.resume.take();
        while mirror.resume.is_none()
            && let Some(event) = soon(feed.next()).await
        {
            mirror.take(event.unwrap());
        }
        cursor = mirror.resume.clone().or(before);
        if mirror.commit.is_some() {
            break;
        }
    }
    assert_eq!(mirror.files(), files);
    assert_eq!((mirror.resets, mirror.nodes_received), (1, files.len() + 3));
}

pub(crate) async fn strange_cursors_are_answered_by_a_reset(stage: &dyn Stage) {
    let files = few_files(stage);
    let location = stage.location();
    let good = mirror_of(&*location).await.cursor();
    let mut ahead = good.0.clone();
    // All shares here have the number in little-endian order after version, epoch and kind.
    let last = ahead.len() - 1;
    ahead[last.min(24)] = 0x7f;
    let mut foreign = good.0.clone();
    foreign[3] ^= 0xff;
    for bytes in [b"rubbish".as_slice().into(), ahead, foreign, good.0[..good.0.len() - 1].into()] {
        let mut mirror = Mirror::default();
        read_on(&*location, &mut mirror, Some(&Cursor(bytes))).await;
        assert_eq!((mirror.resets, mirror.files()), (1, files.clone()));
    }
}

/// Reads until the mirror is as it should be at a commit point.
async fn read_until(feed: &mut dyn ChangeStream, mirror: &mut Mirror, wanted: impl Fn(&Mirror) -> bool) {
    mirror.commit = None;
    while mirror.commit.is_none() || !wanted(mirror) {
        let event = soon(feed.next()).await.expect("a live feed does not end");
        mirror.take(event.unwrap());
    }
}

pub(crate) async fn a_live_feed_tells_changes_as_they_come(stage: &dyn Stage) {
    let location = stage.location();
    let mut mirror = Mirror::default();
    let mut feed = soon(location.changes(None, true)).await.unwrap();
    read_until(&mut *feed, &mut mirror, |_| true).await;
    stage.write("one", b"1");
    read_until(&mut *feed, &mut mirror, |mirror| mirror.files().contains_key("one")).await;
    stage.write("dir/two", b"2");
    stage.rename("one", "dir/one");
    read_until(&mut *feed, &mut mirror, |mirror| {
        mirror.files().into_keys().eq(["dir/one".to_owned(), "dir/two".to_owned()])
    })
    .await;
    stage.remove("dir");
    read_until(&mut *feed, &mut mirror, |mirror| mirror.nodes.is_empty()).await;
    assert_eq!(mirror.resets, 1);
}

pub(crate) async fn a_feed_may_be_waited_for_in_slices(stage: &dyn Stage) {
    let files = few_files(stage);
    let location = stage.location();
    let mut feed = soon(location.changes(None, false)).await.unwrap();
    let mut mirror = Mirror::default();
    let until = tokio::time::Instant::now() + SOON;
    loop {
        // Dropped midway again and again: nothing may be lost by it.
        tokio::select! {
            biased;
            event = feed.next() => match event {
                Some(event) => mirror.take(event.unwrap()),
                None => break,
            },
            () = tokio::task::yield_now() => assert!(tokio::time::Instant::now() < until),
        }
    }
    assert_eq!(mirror.files(), files);
}

async fn fetch_all(location: &dyn Location, wants: Vec<Want>) -> Vec<Answer> {
    let (sender, receiver) = channel(8);
    let mut answers = soon(location.fetch_packed(receiver)).await.unwrap();
    let send = async move {
        for want in wants {
            sender.send(want).await.expect("it takes wants");
        }
    };
    let read = async move {
        let mut all = Vec::new();
        while let Some(some) = soon(answers.next()).await {
            all.extend(some.unwrap());
        }
        assert!(soon(answers.next()).await.is_none(), "an end is an end");
        all
    };
    let ((), mut all) = tokio::join!(send, read);
    all.sort_by_key(|answer| answer.number);
    all
}

pub(crate) async fn many_wants_are_all_answered(stage: &dyn Stage) {
    for number in 0..300 {
        stage.write(
            &format!("dir {}/{number}", number % 7),
            format!("file {number}").repeat(number % 50).as_bytes(),
        );
    }
    let location = stage.location();
    let mirror = mirror_of(&*location).await;
    // More wants than files: the same file may be wanted again.
    let want = |number: u64| mirror.want(number, &format!("dir {}/{}", number % 300 % 7, number % 300));
    let answers = fetch_all(&*location, (0..2000).map(want).collect()).await;
    assert_eq!(answers.len(), 2000);
    for (number, answer) in answers.iter().enumerate() {
        let file = number % 300;
        let bytes = answer.result.as_ref().unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(
            (answer.number, &bytes[..]),
            (number as u64, format!("file {file}").repeat(file % 50).as_bytes())
        );
    }
    assert!(fetch_all(&*location, Vec::new()).await.is_empty());
}

pub(crate) async fn one_failure_does_not_stop_the_others(stage: &dyn Stage) {
    few_files(stage);
    let location = stage.location();
    let too_large = vec![1; usize::try_from(location.max_packed_bytes()).unwrap() + 1];
    stage.write("too large", &too_large);
    let mirror = mirror_of(&*location).await;
    let mut wants = [
        mirror.want(0, "empty"),
        mirror.want(1, "too large"),
        mirror.want(2, "a/two"),
        mirror.want(3, "a/two"),
        mirror.want(4, "a/three"),
    ];
    wants[2].digest = Digest::of(b"never");
    wants[3].node = NodeId(u64::MAX >> 2);
    let answers = fetch_all(&*location, wants.into()).await;
    let results: Vec<_> = answers.into_iter().map(|answer| answer.result.map(|bytes| bytes.len())).collect();
    let want = [
        Ok(0),
        Err(FetchFailure::TooLarge),
        Err(FetchFailure::Changed),
        Err(FetchFailure::Changed),
        Ok(30_000),
    ];
    assert_eq!(results, want);
}

async fn read_file(mut stream: Box<dyn ByteStream>) -> Result<Vec<u8>, LocationError> {
    let mut all = Vec::new();
    while let Some(bytes) = soon(stream.next()).await {
        let bytes = bytes?;
        assert!(!bytes.is_empty());
        all.extend(bytes);
    }
    Ok(all)
}

pub(crate) async fn a_file_streams_from_any_offset(stage: &dyn Stage) {
    few_files(stage);
    let location = stage.location();
    let mirror = mirror_of(&*location).await;
    let whole: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let large = mirror.want(0, "large");
    for offset in [0, 1, 799_999, 800_000] {
        let stream = soon(location.fetch_file(large.node, &large.digest, offset as u64)).await.unwrap();
        assert_eq!(read_file(stream).await.unwrap(), whole[offset..], "from {offset}");
    }
    let beyond = soon(location.fetch_file(large.node, &large.digest, 800_001)).await;
    assert!(matches!(beyond.map(drop), Err(LocationError::Refused { .. })));
    let empty = mirror.want(0, "empty");
    let stream = soon(location.fetch_file(empty.node, &empty.digest, 0)).await.unwrap();
    assert!(read_file(stream).await.unwrap().is_empty());
}

pub(crate) async fn a_file_with_other_bytes_is_not_served(stage: &dyn Stage) {
    few_files(stage);
    let location = stage.location();
    let mirror = mirror_of(&*location).await;
    let large = mirror.want(0, "large");
    for (node, digest) in [
        (large.node, Digest::of(b"never")),
        (NodeId(u64::MAX >> 2), large.digest),
        (mirror.node("a").id, large.digest),
    ] {
        let end = match soon(location.fetch_file(node, &digest, 0)).await {
            Ok(stream) => read_file(stream).await.map(drop),
            Err(error) => Err(error),
        };
        assert!(matches!(end, Err(LocationError::Changed | LocationError::Refused { .. })), "{end:?}");
    }
}

/// Some MiB that do not repeat, with a share of zeros.
fn large_bytes() -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..600_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    bytes[1_000_000..1_300_000].fill(0);
    bytes
}

pub(crate) async fn scattered_parts_of_a_file_come_as_asked(stage: &dyn Stage) {
    let whole = large_bytes();
    stage.write("large", &whole);
    let location = stage.location();
    let mirror = mirror_of(&*location).await;
    let large = mirror.want(0, "large");
    let size = whole.len() as u64;
    let many = (0..MOST_RANGES as u64).map(|number| (number * 7919 % 2_390_000, 1 + number % 500)).collect();
    for ranges in [
        vec![(0, size)],
        vec![(size - 1, 1)],
        // Backwards, overlapping, and more than is read at a time.
        vec![(2_000_000, 400_000), (0, 1), (1_999_999, 2), (0, 900_000), (0, 900_000)],
        many,
    ] {
        let part = |&(offset, length): &(u64, u64)| {
            let begin = usize::try_from(offset).unwrap();
            whole[begin..begin + usize::try_from(length).unwrap()].to_vec()
        };
        let want: Vec<u8> = ranges.iter().flat_map(part).collect();
        let stream = soon(location.fetch_ranges(large.node, &large.digest, ranges)).await.unwrap();
        assert!(read_file(stream).await.unwrap() == want);
    }
    let other = soon(location.fetch_ranges(large.node, &Digest::of(b"never"), vec![(0, 1)])).await;
    assert!(matches!(other.map(drop), Err(LocationError::Changed)));
}

pub(crate) async fn ranges_that_are_none_are_refused(stage: &dyn Stage) {
    few_files(stage);
    let location = stage.location();
    let large = mirror_of(&*location).await.want(0, "large");
    for ranges in [
        vec![],
        vec![(0, 10), (10, 0)],
        vec![(0, 800_001)],
        vec![(800_000, 1)],
        vec![(u64::MAX, 2)],
        vec![(1, u64::MAX - 1), (1, u64::MAX - 1)],
        vec![(0, 1); MOST_RANGES + 1],
    ] {
        let end = soon(location.fetch_ranges(large.node, &large.digest, ranges.clone())).await;
        let first = ranges.first();
        assert!(matches!(end.map(drop), Err(LocationError::Refused { .. })), "{} of {first:?}", ranges.len());
    }
}

pub(crate) async fn a_large_file_tells_its_parts(stage: &dyn Stage) {
    few_files(stage);
    let bytes = large_bytes();
    stage.write("larger", &bytes);
    let location = stage.location();
    let mirror = mirror_of(&*location).await;
    let larger = mirror.want(0, "larger");
    // The second answer may be one that was kept.
    for _ in 0..2 {
        let chunks = soon(location.describe_file(larger.node, &larger.digest, None)).await.unwrap().unwrap();
        assert_eq!(*chunks, sync_tree::chunks::chunk_bytes(&bytes));
    }
    // Nor does it matter what is said to be known, of this or of a content that nobody has heard of.
    for digest in [larger.digest, Digest::of(b"never")] {
        let known = Some(KnownChunks { digest, chunks: sync_tree::chunks::chunk_bytes(&bytes).into() });
        let chunks = soon(location.describe_file(larger.node, &larger.digest, known)).await.unwrap().unwrap();
        assert_eq!(*chunks, sync_tree::chunks::chunk_bytes(&bytes));
    }
    let small = mirror.want(0, "large");
    assert_eq!(soon(location.describe_file(small.node, &small.digest, None)).await.unwrap(), None);
}

pub(crate) async fn what_a_changed_file_is_made_of_is_not_told(stage: &dyn Stage) {
    stage.write("dir/larger", &large_bytes());
    let location = stage.location();
    let mirror = mirror_of(&*location).await;
    let larger = mirror.want(0, "dir/larger");
    for (node, digest) in [
        (larger.node, Digest::of(b"never")),
        (NodeId(u64::MAX >> 2), larger.digest),
        (mirror.node("dir").id, larger.digest),
    ] {
        let end = soon(location.describe_file(node, &digest, None)).await;
        assert!(matches!(end, Err(LocationError::Changed | LocationError::Refused { .. })), "{end:?}");
    }
    // Nothing has told the location of the change when it is asked.
    stage.write("dir/larger", &large_bytes()[..2_000_000]);
    let described = soon(location.describe_file(larger.node, &larger.digest, None)).await;
    assert!(matches!(described, Err(LocationError::Changed)), "{described:?}");
    let end = match soon(location.fetch_ranges(larger.node, &larger.digest, vec![(5, 10), (0, 5)])).await {
        Ok(stream) => read_file(stream).await.map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(end, Err(LocationError::Changed)), "{end:?}");
}

pub(crate) async fn streams_may_be_dropped_midway(stage: &dyn Stage) {
    few_files(stage);
    let location = stage.location();
    let mirror = mirror_of(&*location).await;
    let large = mirror.want(0, "large");
    for _ in 0..20 {
        let mut file = soon(location.fetch_file(large.node, &large.digest, 0)).await.unwrap();
        assert!(soon(file.next()).await.unwrap().is_ok());
        drop(file);
        let mut feed = soon(location.changes(None, true)).await.unwrap();
        assert!(soon(feed.next()).await.unwrap().is_ok());
        drop(feed);
        let (sender, receiver) = channel(1);
        let answers = soon(location.fetch_packed(receiver)).await.unwrap();
        drop(answers);
        // The stream is gone, so its wants are not taken any more.
        soon(sender.closed()).await;
    }
    assert_eq!(mirror_of(&*location).await.files(), mirror.files());
}
