//! Nodes of a tree that a target is being filled from, until they are planned: they were just written down, and to read them back
//! costs more than to keep them.
//!
//! What is here was committed before, and comes in the order in which its rows would. It is a copy that may be dropped at any time:
//! where it ends or has a gap, the rows are read. Whether a piece that could not be committed is among the rows is not known, so such
//! an error has to end the filling, as it ends the pull.

use std::{
    collections::VecDeque,
    iter, mem,
    sync::{Mutex, MutexGuard, PoisonError},
    vec,
};

use sync_core::{
    Content, Node, NodeChange, NodeId,
    plan::{Fresh, Slot},
};
use sync_tree::index::IndexError;

use super::{store::Store, trees::Keeper};

/// More bytes do not wait, which are about 70,000 nodes with short names: they come faster than files are put in place, and memory must
/// not grow with the tree.
const MOST_BYTES: usize = 8 << 20;

/// Nodes that came, for whoever plans them on another thread.
pub(super) struct Arrived(Mutex<Option<Waiting>>);

/// A row of nodes, by their ids and with none left out.
struct Waiting {
    /// What is here begins after this one.
    after: NodeId,
    /// None of them is empty.
    pieces: VecDeque<vec::IntoIter<Node>>,
    nodes: usize,
    bytes: usize,
    /// The last node that came, be it here or not.
    last: NodeId,
    /// The last ones that came found no room.
    is_cut: bool,
    most_bytes: usize,
}

/// It is among the rows.
struct NotHere;

impl Arrived {
    /// For a tree of which nothing has come yet.
    pub(super) fn from_the_first() -> Self {
        Self::with_room_for(MOST_BYTES)
    }

    /// For a tree that is among the rows already.
    pub(super) fn nothing() -> Self {
        Self(Mutex::new(None))
    }

    fn with_room_for(most_bytes: usize) -> Self {
        Self(Mutex::new(Some(Waiting {
            after: NodeId::ROOT,
            pieces: VecDeque::new(),
            nodes: 0,
            bytes: 0,
            last: NodeId::ROOT,
            is_cut: false,
            most_bytes,
        })))
    }

    /// Takes the next piece of the tree, all of which is committed. What does not come by the ids ends it: the rows have an order.
    pub(super) fn take(&self, changes: Vec<NodeChange>) {
        let mut waiting = self.lock();
        let is_next = waiting.as_mut().is_some_and(|waiting| waiting.take(changes));
        if !is_next {
            *waiting = None;
        }
    }

    /// The next places, from the nodes that are here and else from the rows.
    ///
    /// # Errors
    /// Reading the rows failed.
    pub(super) fn next_part(
        &self,
        store: &Store,
        fresh: &mut Fresh,
        least: usize,
    ) -> Result<Option<Vec<Slot>>, IndexError> {
        match fresh.next_part_of(|after, most| self.page(after, most).ok_or(NotHere), least) {
            Ok(slots) => Ok(slots),
            // They are read as they are by now: all that ever was here is among them.
            Err(NotHere) => store.with_trees(&Keeper::of_nothing(), |trees| fresh.next_part(trees, least)),
        }
    }

    fn page(&self, after: NodeId, most: usize) -> Option<Vec<Node>> {
        self.lock().as_mut()?.page(after, most)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Answers whether they came by the ids.
    fn take(&mut self, changes: Vec<NodeChange>) -> bool {
        let (before, mut bytes) = (self.last, 0);
        let by_id = changes.into_iter().map(|change| match change {
            NodeChange::Present(node) if node.id > mem::replace(&mut self.last, node.id) => {
                bytes += bytes_of(&node);
                Some(node)
            }
            NodeChange::Present(_) | NodeChange::Gone(_) => None,
        });
        let Some(piece) = by_id.collect::<Option<Vec<Node>>>() else { return false };
        if self.is_cut && self.pieces.is_empty() {
            // Whoever has read the rows up to here goes on with these.
            (self.after, self.is_cut) = (before, false);
        }
        self.is_cut |= self.bytes + bytes > self.most_bytes;
        if !self.is_cut && !piece.is_empty() {
            self.nodes += piece.len();
            self.bytes += bytes;
            self.pieces.push_back(piece.into_iter());
        }
        true
    }

    /// The same page that the rows would give; `None` if that is not known here.
    fn page(&mut self, after: NodeId, most: usize) -> Option<Vec<Node>> {
        if after < self.after {
            return None;
        }
        // The rows may have been read further than what is here begins.
        while self.first().is_some_and(|node| node.id <= after) {
            self.pop();
        }
        if self.is_cut && self.nodes < most {
            // The page goes on with what found no room.
            self.pieces.clear();
            (self.nodes, self.bytes) = (0, 0);
            return None;
        }
        let mut page = Vec::with_capacity(self.nodes.min(most));
        page.extend(iter::from_fn(|| self.pop()).take(most));
        self.after = page.last().map_or(after, |node: &Node| node.id);
        Some(page)
    }

    fn first(&self) -> Option<&Node> {
        self.pieces.front()?.as_slice().first()
    }

    fn pop(&mut self) -> Option<Node> {
        let piece = self.pieces.front_mut()?;
        let node = piece.next()?;
        if piece.as_slice().is_empty() {
            self.pieces.pop_front();
        }
        self.nodes -= 1;
        self.bytes -= bytes_of(&node);
        Some(node)
    }
}

/// What a node takes of the memory.
fn bytes_of(node: &Node) -> usize {
    let target = match &node.entry.content {
        Content::Symlink { target } => target.len(),
        Content::File { .. } | Content::Directory => 0,
    };
    size_of::<Node>() + node.name.as_str().len() + target
}

#[cfg(test)]
mod tests {
    use sync_core::{Cursor, Digest, Entry, Name, ShareId, Time};
    use sync_testkit::rng::Rng;
    use sync_tree::index::Index;

    use super::*;

    fn node(id: u64, parent: u64, content: Content) -> Node {
        let entry = Entry { content, mtime: Time { secs: -5, nanos: 6 }, mode: 0o644 };
        let name = Name::new(&format!("{id:05}")).unwrap();
        Node { id: NodeId(id), parent: NodeId(parent), name, entry }
    }

    fn file(id: u64) -> Node {
        node(id, 0, Content::File { size: id, digest: Digest::of(&id.to_le_bytes()) })
    }

    fn piece(ids: impl IntoIterator<Item = u64>) -> Vec<NodeChange> {
        ids.into_iter().map(|id| NodeChange::Present(file(id))).collect()
    }

    /// Room for so many files.
    fn room_for(files: usize) -> Arrived {
        Arrived::with_room_for(files * bytes_of(&file(1)))
    }

    fn page(arrived: &Arrived, after: u64, most: usize) -> Option<Vec<u64>> {
        let page = arrived.page(NodeId(after), most)?;
        Some(page.into_iter().map(|node| node.id.0).collect())
    }

    fn store(dir: &tempfile::TempDir) -> Store {
        let store = Store::open(Index::open(&dir.path().join("target.db")).unwrap()).unwrap();
        store.begin_tree(ShareId([1; 16]), [2; 16]).unwrap();
        assert!(store.receive_in_place().unwrap());
        store
    }

    #[test]
    fn what_came_is_here_once_and_in_pages() {
        let arrived = room_for(9);
        assert_eq!(page(&arrived, 0, 4), Some(vec![]));
        arrived.take(piece([2, 3, 5]));
        arrived.take(piece([]));
        arrived.take(piece([7, 8]));
        assert_eq!(page(&arrived, 0, 4), Some(vec![2, 3, 5, 7]));
        assert_eq!(page(&arrived, 0, 4), None, "it is not kept");
        assert_eq!(page(&arrived, 7, 4), Some(vec![8]));
        assert_eq!(page(&arrived, 8, 4), Some(vec![]));
        arrived.take(piece([9]));
        assert_eq!(page(&arrived, 8, 4), Some(vec![9]));
    }

    #[test]
    fn rows_may_be_read_further_than_what_is_here() {
        let arrived = room_for(9);
        arrived.take(piece([1, 2, 3]));
        assert_eq!(page(&arrived, 2, 4), Some(vec![3]));
        // Those that were committed, and read, before they were here.
        assert_eq!(page(&arrived, 5, 4), Some(vec![]));
        arrived.take(piece([4, 5, 6]));
        assert_eq!(page(&arrived, 5, 4), Some(vec![6]));
    }

    #[test]
    fn what_finds_no_room_is_among_the_rows_and_later_ones_are_here_again() {
        let arrived = room_for(5);
        arrived.take(piece([1, 2, 3]));
        arrived.take(piece([4, 5, 6]));
        arrived.take(piece([7]));
        assert_eq!(page(&arrived, 0, 2), Some(vec![1, 2]));
        assert_eq!(page(&arrived, 2, 2), None, "the page goes on with others");
        arrived.take(piece([8, 9]));
        for before in [2, 6] {
            assert_eq!(page(&arrived, before, 2), None, "there is a gap");
        }
        assert_eq!(page(&arrived, 7, 2), Some(vec![8, 9]));
        // More at once than there is room for.
        arrived.take(piece(10..20));
        assert_eq!(page(&arrived, 9, 2), None);
        arrived.take(piece([20]));
        assert_eq!(page(&arrived, 9, 2), None);
        assert_eq!(page(&arrived, 19, 2), Some(vec![20]));
    }

    #[test]
    fn there_is_a_bound_also_where_nothing_is_planned() {
        let arrived = room_for(50);
        for id in 1..1000 {
            arrived.take(piece([id]));
        }
        let waiting = arrived.lock();
        let waiting = waiting.as_ref().unwrap();
        assert_eq!((waiting.nodes, waiting.pieces.len()), (50, 50));
        assert!(waiting.is_cut && waiting.bytes <= waiting.most_bytes);
        let long = node(1, 0, Content::Symlink { target: vec![b'x'; 4000].as_slice().into() });
        assert!(bytes_of(&long) > 4000);
    }

    #[test]
    fn what_does_not_come_by_the_ids_is_left_to_the_rows() {
        let gone = vec![NodeChange::Gone(NodeId(9))];
        for odd in [piece([6, 5]), piece([3]), piece([0]), piece([2]), gone] {
            let arrived = room_for(99);
            arrived.take(piece([1, 3]));
            arrived.take(odd);
            arrived.take(piece([20, 21]));
            for after in [0, 3, 9, 19, 20] {
                assert_eq!(page(&arrived, after, 4), None);
            }
        }
        let nothing = Arrived::nothing();
        nothing.take(piece([1]));
        assert_eq!(page(&nothing, 0, 4), None);
    }

    #[test]
    fn what_is_here_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        // There are no rows.
        let (store, arrived, mut fresh) = (store(&dir), room_for(9), Fresh::default());
        arrived.take(piece([1, 2, 3]));
        arrived.take(piece([4]));
        assert_eq!(
            arrived.next_part(&store, &mut fresh, 3).unwrap(),
            None,
            "their directory is not complete"
        );
        assert_eq!(fresh.last_part().len(), 4);
    }

    /// Directories, files and links, of which some come before their directory or long after it.
    fn tree(rng: &mut Rng) -> Vec<NodeChange> {
        let (mut id, mut dirs, mut near) = (0, vec![0], 0);
        let nodes = (0..rng.below(6000)).map(|_| {
            id += 1 + rng.below(3) as u64;
            if rng.chance(10) {
                near = dirs[rng.below(dirs.len())];
            }
            let parent = if rng.chance(1) { id + rng.below(9) as u64 } else { near };
            let content = match rng.below(10) {
                0 => {
                    dirs.push(id);
                    Content::Directory
                }
                1 => Content::Symlink { target: rng.bytes(1 + id as usize % 40).as_slice().into() },
                _ => Content::File { size: id, digest: Digest::of(&id.to_le_bytes()) },
            };
            NodeChange::Present(node(id, parent, content))
        });
        nodes.collect()
    }

    /// The same parts, of the same nodes, whether they are here, among the rows, or some of them here.
    #[test]
    fn the_same_is_planned_as_from_the_rows_however_far_that_lags() {
        let (mut was_here, mut was_cut) = (0, 0);
        for seed in 0..15 {
            let mut rng = Rng::new(seed);
            let dir = tempfile::tempdir().unwrap();
            let (store, tree) = (store(&dir), tree(&mut rng));
            let arrived = Arrived::with_room_for(1 << (10 + rng.below(12)));
            let (mut some, mut rows) = (Fresh::default(), Fresh::default());
            let (most, lag) = (50 + rng.below(2000), rng.below(8));
            let mut to_come = tree.iter();
            loop {
                for _ in 0..=rng.below(1 + lag) {
                    let piece: Vec<_> = to_come.by_ref().take(1 + rng.below(most)).cloned().collect();
                    store.take_nodes(&piece, &Cursor(vec![1].into())).unwrap();
                    arrived.take(piece);
                }
                let is_over = to_come.as_slice().is_empty();
                let least = 1 + rng.below(2048);
                if let Some(waiting) = &*arrived.lock() {
                    was_here += usize::from(waiting.nodes > 0);
                    was_cut += usize::from(waiting.is_cut);
                }
                let part = arrived.next_part(&store, &mut some, least).unwrap();
                let same = store.with_trees(&Keeper::of_nothing(), |trees| rows.next_part(trees, least));
                assert_eq!(part, same.unwrap(), "seed {seed}");
                let ids = tree.iter().map(NodeChange::id);
                assert!(ids.into_iter().all(|id| some.is_leaf(*id) == rows.is_leaf(*id)), "seed {seed}");
                if is_over && part.is_none() {
                    break;
                }
            }
            assert_eq!(some.last_part(), rows.last_part(), "seed {seed}");
            assert_eq!(some.has_late(), rows.has_late(), "seed {seed}");
            let late = |fresh: &Fresh| store.with_trees(&Keeper::of_nothing(), |trees| fresh.late(trees));
            assert_eq!(late(&some).unwrap(), late(&rows).unwrap(), "seed {seed}");
        }
        assert!(was_here > 20 && was_cut > 20, "{was_here} times here, {was_cut} times cut");
    }
}
