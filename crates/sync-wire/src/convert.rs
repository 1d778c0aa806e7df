//! Messages to values and back.

use sync_core::{
    CommitPoint, Content, Cursor, Digest, Entry, FeedEvent, Name, NameError, Node, NodeChange, NodeId,
    Problem, RuleFile, RuleSet, ShareId, Time, TreePath, Watching,
};

use crate::{limits::MAX_PROBLEMS_SENT, v1};

/// A message that breaks the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A name that no tree may hold.
    #[error("The peer sent node {id} with a name that is not allowed: {source}")]
    Name {
        /// The node.
        id: u64,
        /// The rule it breaks.
        source: NameError,
    },
    /// A path that no tree may hold.
    #[error("The peer sent a path that is not allowed: {source}")]
    Path {
        /// The rule it breaks.
        source: NameError,
    },
    /// A field with a value outside its range.
    #[error("The peer sent a bad {field}")]
    Field {
        /// Which field.
        field: &'static str,
    },
}

/// Reads one message of a feed. `None` for a kind of event that this version does not know.
///
/// # Errors
/// The message breaks the contract.
pub fn feed_event(message: v1::WatchChangesResponse) -> Result<Option<FeedEvent>, WireError> {
    use v1::watch_changes_response::Event;
    let Some(event) = message.event else { return Ok(None) };
    Ok(Some(match event {
        Event::Reset(reset) => FeedEvent::Reset {
            share: ShareId::from_slice(&reset.share_id).ok_or(WireError::Field { field: "share id" })?,
            epoch: reset.epoch.as_slice().try_into().map_err(|_| WireError::Field { field: "epoch" })?,
            reason: reset.reason,
        },
        Event::Nodes(batch) => FeedEvent::Nodes {
            changes: batch.nodes.into_iter().map(node_change).collect::<Result<_, _>>()?,
            resume: cursor(batch.resume),
        },
        Event::Commit(commit) => FeedEvent::Commit(CommitPoint {
            cursor: cursor(commit.cursor),
            root_digest: digest(&commit.root_digest)?,
            files: commit.files,
            bytes: commit.bytes,
        }),
        Event::Heartbeat(_) => FeedEvent::Heartbeat,
        Event::Rules(rules) => FeedEvent::Rules(RuleSet {
            files: rules.files.into_iter().map(rule_file).collect::<Result<_, _>>()?,
        }),
        Event::Problems(list) => {
            FeedEvent::Problems(list.problems.into_iter().map(problem).collect::<Result<_, _>>()?)
        }
        Event::Watching(watching) => FeedEvent::Watching(Watching {
            watched: watching.watched,
            directories: watching.directories,
            poll_secs: watching.poll_seconds,
            lost: watching.lost,
            reason: watching.reason,
            advice: watching.advice,
        }),
        Event::Halted(halted) => FeedEvent::Halted { reason: halted.reason },
    }))
}

fn cursor(bytes: Vec<u8>) -> Cursor {
    Cursor(bytes.into())
}

fn digest(bytes: &[u8]) -> Result<Digest, WireError> {
    Digest::from_slice(bytes).ok_or(WireError::Field { field: "digest" })
}

fn path(text: &str) -> Result<TreePath, WireError> {
    TreePath::new(text).map_err(|source| WireError::Path { source })
}

fn rule_file(file: v1::RuleFile) -> Result<RuleFile, WireError> {
    Ok(RuleFile { dir: path(&file.directory)?, text: file.text })
}

fn problem(problem: v1::PathProblem) -> Result<Problem, WireError> {
    Ok(Problem {
        path: path(&problem.path)?,
        raw_name: problem.raw_name.into(),
        error: problem.error,
        unknown: problem.unknown,
    })
}

fn node_change(node: v1::Node) -> Result<NodeChange, WireError> {
    // Ids are stored as signed numbers, and the negative ones are ours.
    if node.id == NodeId::ROOT.0 || node.id > i64::MAX as u64 || node.parent_id > i64::MAX as u64 {
        return Err(WireError::Field { field: "node id" });
    }
    if node.gone {
        return Ok(NodeChange::Gone(NodeId(node.id)));
    }
    node_from_wire(node).map(NodeChange::Present)
}

/// Reads a node that exists.
///
/// # Errors
/// The message breaks the contract.
pub fn node_from_wire(node: v1::Node) -> Result<Node, WireError> {
    let kind = node.kind();
    let name = Name::try_from(node.name).map_err(|source| WireError::Name { id: node.id, source })?;
    if node.mtime_nanos >= 1_000_000_000 {
        return Err(WireError::Field { field: "time" });
    }
    let content = match kind {
        v1::NodeKind::File => Content::File { size: node.size, digest: digest(&node.digest)? },
        v1::NodeKind::Directory => Content::Directory,
        v1::NodeKind::Symlink => Content::Symlink { target: link_target(node.link_target)? },
        v1::NodeKind::Unspecified => return Err(WireError::Field { field: "node kind" }),
    };
    // Only permission bits are carried, whatever a peer sends: set-id bits must never appear on a target.
    let mode = if matches!(content, Content::Symlink { .. }) { 0 } else { (node.mode & 0o777) as u16 };
    let mtime = Time { secs: node.mtime_seconds, nanos: node.mtime_nanos };
    let entry = Entry { content, mtime, mode };
    Ok(Node { id: NodeId(node.id), parent: NodeId(node.parent_id), name, entry })
}

fn link_target(target: Vec<u8>) -> Result<Box<[u8]>, WireError> {
    // PATH_MAX: a longer target cannot exist on any file system, and NUL ends it.
    if target.is_empty() || target.len() > 4096 || target.contains(&0) {
        return Err(WireError::Field { field: "link target" });
    }
    Ok(target.into())
}

/// Writes a node that exists. The path is left out.
#[must_use]
pub fn node_to_wire(node: &Node) -> v1::Node {
    let mut wire = v1::Node {
        id: node.id.0,
        parent_id: node.parent.0,
        name: node.name.as_str().to_owned(),
        mtime_seconds: node.entry.mtime.secs,
        mtime_nanos: node.entry.mtime.nanos,
        mode: u32::from(node.entry.mode),
        ..v1::Node::default()
    };
    match &node.entry.content {
        Content::File { size, digest } => {
            wire.set_kind(v1::NodeKind::File);
            wire.size = *size;
            wire.digest = digest.0.to_vec();
        }
        Content::Directory => wire.set_kind(v1::NodeKind::Directory),
        Content::Symlink { target } => {
            wire.set_kind(v1::NodeKind::Symlink);
            wire.link_target = target.to_vec();
        }
    }
    wire
}

/// Writes rules.
#[must_use]
pub fn rules_to_wire(rules: &RuleSet) -> v1::Rules {
    let file =
        |file: &RuleFile| v1::RuleFile { directory: file.dir.as_str().to_owned(), text: file.text.clone() };
    v1::Rules { files: rules.files.iter().map(file).collect() }
}

/// Writes one message of a feed.
#[must_use]
pub fn response(event: &FeedEvent) -> v1::WatchChangesResponse {
    use v1::watch_changes_response::Event;
    let event = match event {
        FeedEvent::Reset { share, epoch, reason } => Event::Reset(v1::Reset {
            share_id: share.0.to_vec(),
            epoch: epoch.to_vec(),
            reason: reason.clone(),
        }),
        FeedEvent::Nodes { changes, resume } => Event::Nodes(v1::NodeBatch {
            nodes: changes.iter().map(change_to_wire).collect(),
            resume: cursor_to_wire(resume),
        }),
        FeedEvent::Commit(commit) => Event::Commit(v1::CommitPoint {
            cursor: cursor_to_wire(&commit.cursor),
            root_digest: commit.root_digest.0.to_vec(),
            files: commit.files,
            bytes: commit.bytes,
        }),
        FeedEvent::Rules(rules) => Event::Rules(rules_to_wire(rules)),
        FeedEvent::Problems(problems) => Event::Problems(v1::Problems {
            problems: problems.iter().take(MAX_PROBLEMS_SENT).map(problem_to_wire).collect(),
            total: problems.len() as u64,
        }),
        FeedEvent::Watching(watching) => Event::Watching(watching_to_wire(watching)),
        FeedEvent::Halted { reason } => Event::Halted(v1::Halted { reason: reason.clone() }),
        FeedEvent::Heartbeat => Event::Heartbeat(v1::Heartbeat {}),
    };
    v1::WatchChangesResponse { event: Some(event) }
}

/// Writes how well a share hears of changes.
#[must_use]
pub fn watching_to_wire(watching: &Watching) -> v1::Watching {
    v1::Watching {
        watched: watching.watched,
        directories: watching.directories,
        poll_seconds: watching.poll_secs,
        lost: watching.lost,
        reason: watching.reason.clone(),
        advice: watching.advice.clone(),
    }
}

fn cursor_to_wire(cursor: &Cursor) -> Vec<u8> {
    cursor.0.to_vec()
}

fn change_to_wire(change: &NodeChange) -> v1::Node {
    match change {
        NodeChange::Present(node) => node_to_wire(node),
        NodeChange::Gone(id) => v1::Node { id: id.0, gone: true, ..v1::Node::default() },
    }
}

fn problem_to_wire(problem: &Problem) -> v1::PathProblem {
    v1::PathProblem {
        path: problem.path.as_str().to_owned(),
        raw_name: problem.raw_name.to_vec(),
        error: problem.error.clone(),
        unknown: problem.unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<FeedEvent> {
        let entry = |content| Entry { content, mtime: Time { secs: -5, nanos: 7 }, mode: 0o644 };
        let node = |id, name: &str, content| Node {
            id: NodeId(id),
            parent: NodeId::ROOT,
            name: Name::new(name).unwrap(),
            entry: entry(content),
        };
        let link = Node {
            entry: Entry { mode: 0, ..entry(Content::Symlink { target: b"../\xff".as_slice().into() }) },
            ..node(3, "链接", Content::Directory)
        };
        vec![
            FeedEvent::Reset { share: ShareId([1; 16]), epoch: [2; 16], reason: "new".into() },
            FeedEvent::Rules(RuleSet {
                files: vec![RuleFile { dir: TreePath::new("a/b").unwrap(), text: "*.o\n".into() }],
            }),
            FeedEvent::Nodes {
                changes: vec![
                    NodeChange::Present(node(1, "d", Content::Directory)),
                    NodeChange::Present(node(
                        2,
                        "f\n",
                        Content::File { size: 3, digest: Digest::of(b"abc") },
                    )),
                    NodeChange::Present(link),
                    NodeChange::Gone(NodeId(9)),
                ],
                resume: Cursor(b"x".as_slice().into()),
            },
            FeedEvent::Commit(CommitPoint {
                cursor: Cursor(b"y".as_slice().into()),
                root_digest: Digest::of(b""),
                files: 2,
                bytes: 3,
            }),
            FeedEvent::Problems(vec![Problem::new(TreePath::new("p").unwrap(), "cannot read")]),
            FeedEvent::Watching(Watching {
                watched: 3,
                directories: 9,
                poll_secs: 2,
                lost: 1,
                reason: "a limit is reached".into(),
                advice: "raise it".into(),
            }),
            FeedEvent::Halted { reason: "gone".into() },
            FeedEvent::Heartbeat,
        ]
    }

    #[test]
    fn every_event_survives_the_wire() {
        for event in samples() {
            assert_eq!(feed_event(response(&event)), Ok(Some(event)));
        }
    }

    #[test]
    fn hostile_nodes_are_refused() {
        let good =
            v1::Node { id: 1, name: "a".into(), kind: v1::NodeKind::Directory.into(), ..v1::Node::default() };
        assert!(node_from_wire(good.clone()).is_ok());
        for name in ["", "..", "a/b", "a\0", ".SYNCD"] {
            assert!(node_from_wire(v1::Node { name: name.into(), ..good.clone() }).is_err(), "{name:?}");
        }
        let file = v1::Node { kind: v1::NodeKind::File.into(), ..good.clone() };
        assert!(node_from_wire(file).is_err(), "a file without a digest");
        assert!(node_from_wire(v1::Node { mtime_nanos: 1_000_000_000, ..good.clone() }).is_err());
        assert!(node_from_wire(v1::Node { kind: 77, ..good.clone() }).is_err());
        assert_eq!(node_from_wire(v1::Node { mode: 0o104_755, ..good }).unwrap().entry.mode, 0o755);
    }
}
