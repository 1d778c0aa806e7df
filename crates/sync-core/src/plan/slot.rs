//! One place as all three trees see it.

use crate::{
    entry::{Content, Entry, Node, NodeId},
    name::TreePath,
};

/// What both sides last agreed on about one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The node's id on the remote.
    pub id: NodeId,
    /// The node's id here.
    pub local: NodeId,
    /// What both had.
    pub entry: Entry,
}

/// A file on this side that has the wanted content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Which.
    pub local: NodeId,
    /// Where it is before the plan.
    pub path: TreePath,
}

/// The wanted node is on this side already, in another place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// It.
    pub local: Node,
    /// Where it is before the plan.
    pub path: TreePath,
}

/// One place: a name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Where it is when the plan is done (or before it, in a directory that goes).
    pub path: TreePath,
    /// Where it is before the plan; `None` if its directory is not here yet.
    pub local_path: Option<TreePath>,
    /// What the remote has there.
    pub remote: Option<Node>,
    /// What is there now.
    pub local: Option<Node>,
    /// What both agreed on about the local node; if there is none, about the remote node.
    pub base: Option<Base>,
    /// The remote node is in another place here, and will be moved.
    pub arrives: Option<Arrival>,
    /// The local node is one that the remote has in another place: it will be moved there.
    pub leaves: bool,
    /// A file on this side with the remote node's content.
    pub copy: Option<Copy>,
    /// Nothing may be removed here.
    pub keep: Option<super::Keep>,
}

impl Slot {
    /// Of something that this side has never had, where nothing is. `in_dir` says whether its directory is here already.
    #[must_use]
    pub fn of_new(path: TreePath, in_dir: bool, remote: Node) -> Self {
        Self {
            local_path: in_dir.then(|| path.clone()),
            path,
            remote: Some(remote),
            local: None,
            base: None,
            arrives: None,
            leaves: false,
            copy: None,
            keep: None,
        }
    }

    /// What is here now and does not move away.
    #[must_use]
    pub fn occupant(&self) -> Option<&Node> {
        if self.leaves { None } else { self.local.as_ref() }
    }

    /// Whether something can come straight here: nothing is in the place, and its directory is where it will be.
    #[must_use]
    pub fn is_free_now(&self) -> bool {
        self.local.is_none() && self.local_path.as_ref() == Some(&self.path)
    }

    /// Whether all three trees have the same here, and it is recorded so.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let (Some(remote), Some(local), Some(base)) = (&self.remote, &self.local, &self.base) else {
            return false;
        };
        let same_node = base.id == remote.id && base.local == local.id;
        let stays = self.arrives.is_none() && !self.leaves;
        same_node && stays && remote.entry == local.entry && remote.entry == base.entry
    }

    /// The content that both agreed on.
    #[must_use]
    pub fn base_content(&self) -> Option<&Content> {
        self.base.as_ref().map(|base| &base.entry.content)
    }
}

/// Whether a node that is here in another place is moved to where the remote has it. If its content differs there is
/// nothing to gain: the old one goes as any removed file does and the new one comes as any new file does.
#[must_use]
pub fn is_move(remote: &Node, local: &Node) -> bool {
    remote.entry.content == local.entry.content
}
