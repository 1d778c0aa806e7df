//! From slots to a plan.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{
    Build, Capture, Clear, Decision, Displaced, FOREIGN_LIMIT, Finish, Guard, Keep, MASS_DELETE_FLOOR, Over,
    Plan, Policy, Put, Record, Side, Slot, Source, decide,
};
use crate::{
    entry::{Content, Entry, Node, NodeId},
    name::TreePath,
    problem::Halt,
};

/// Plans what has to be done in these slots.
///
/// # Errors
/// The result would look like a disaster, see [`Guard`].
pub fn plan(slots: Vec<Slot>, policy: Policy, guard: &Guard) -> Result<Plan, Halt> {
    let mut plan = plan_in_order(slots, policy);
    plan.files.sort_by(|a, b| a.path().cmp(b.path()));
    check(&plan, guard)?;
    Ok(plan)
}

/// Plans what has to come into a side that has nothing in these slots. Files come in the order of the slots. Nothing can be deleted
/// or put aside by that, so no guard is asked.
#[must_use]
pub fn plan_filling(slots: Vec<Slot>) -> Plan {
    debug_assert!(slots.iter().all(|slot| slot.occupant().is_none()), "something is in the way");
    plan_in_order(slots, Policy::LeftWins)
}

fn plan_in_order(slots: Vec<Slot>, policy: Policy) -> Plan {
    let mut planner = Planner { policy, plan: Plan::default(), moves: Vec::new(), coming: Vec::new() };
    for slot in slots {
        planner.slot(slot);
    }
    planner.pair_up();
    planner.settle_moves();
    planner.settle_sources();
    let mut plan = planner.plan;
    // Stable sorts: what is equally deep stays in the order of discovery, and the same slots give the same plan.
    plan.clear.sort_by_key(|clear| std::cmp::Reverse(clear.path().depth()));
    plan.build.sort_by_key(|build| build.path().depth());
    plan.finish.sort_by_key(|finish| std::cmp::Reverse(finish.path.depth()));
    plan
}

/// Something that goes from one place to another, before it is known whether it can go straight there.
struct Moving {
    from: TreePath,
    to: TreePath,
    local: Node,
    remote: Node,
    /// The new place is free and its directory is where it will be.
    straight: bool,
}

/// A file or link that comes to a place where nothing is in its way.
struct Coming {
    /// Which of the plan's files it is.
    put: usize,
    straight: bool,
}

struct Planner {
    policy: Policy,
    plan: Plan,
    moves: Vec<Moving>,
    coming: Vec<Coming>,
}

impl Planner {
    fn slot(&mut self, slot: Slot) {
        match slot.remote.clone() {
            None => self.absent(&slot),
            Some(remote) if slot.arrives.is_some() => self.arriving(slot, remote),
            Some(remote) => self.present(slot, remote),
        }
    }

    /// The remote has nothing here.
    fn absent(&mut self, slot: &Slot) {
        let Some(local) = slot.occupant() else { return };
        match slot.keep {
            Some(Keep::Ignored) => {
                if let Some(base) = &slot.base {
                    self.plan.records.push(Record::Drop { id: base.id });
                }
            }
            Some(Keep::Unknown) => self.plan.kept.push(slot.path.clone()),
            None => self.clear(slot, local.clone()),
        }
    }

    /// The remote's node is on this side already, in another place.
    fn arriving(&mut self, slot: Slot, remote: Node) {
        if let Some(occupant) = slot.occupant().cloned() {
            self.clear(&slot, occupant);
        }
        let straight = slot.is_free_now();
        let Some(arrival) = slot.arrives else { return };
        if self.policy == Policy::LeftWinsAnew && matches!(remote.entry.content, Content::File { .. }) {
            let over = Some(Over { local: arrival.local.clone(), displaced: Displaced::Delete });
            let (path, remote) = (slot.path.clone(), remote.clone());
            self.plan.files.push(Put::File { path, remote, over, source: Source::Fetch });
        } else {
            self.metadata(&slot.path, &remote, &arrival.local);
        }
        self.moves.push(Moving { from: arrival.path, to: slot.path, local: arrival.local, remote, straight });
    }

    /// The remote has something here that does not come from another place on this side.
    fn present(&mut self, slot: Slot, remote: Node) {
        let Some(occupant) = slot.occupant().cloned() else { return self.create(slot, remote, None) };
        let (want, have) = (&remote.entry.content, &occupant.entry.content);
        if want == have {
            if self.policy == Policy::LeftWinsAnew && matches!(want, Content::File { .. }) {
                let over = Over { local: occupant, displaced: Displaced::Delete };
                return self.create(slot, remote, Some(over));
            }
            self.plan.records.push(Record::Agree { remote: remote.clone(), local: occupant.id });
            return self.metadata(&slot.path, &remote, &occupant);
        }
        if want.is_dir() || have.is_dir() {
            self.clear(&slot, occupant);
            return self.create(slot, remote, None);
        }
        let displaced = displaced(&slot, &occupant);
        self.create(slot, remote, Some(Over { local: occupant, displaced }));
    }

    fn create(&mut self, slot: Slot, remote: Node, over: Option<Over>) {
        let can_move = over.is_none() && !remote.entry.content.is_dir() && self.policy == Policy::LeftWins;
        if can_move {
            self.coming.push(Coming { put: self.plan.files.len(), straight: slot.is_free_now() });
        }
        let path = slot.path;
        match &remote.entry.content {
            Content::Directory => {
                self.plan.finish.push(Finish { path: path.clone(), remote: remote.clone() });
                self.plan.build.push(Build::MakeDir { path, remote });
            }
            Content::Symlink { .. } => self.plan.files.push(Put::Link { path, remote, over }),
            Content::File { .. } => {
                let source = match slot.copy {
                    Some(copy) if self.policy != Policy::LeftWinsAnew => Source::Copy(copy),
                    _ => Source::Fetch,
                };
                self.plan.files.push(Put::File { path, remote, over, source });
            }
        }
    }

    fn metadata(&mut self, path: &TreePath, remote: &Node, local: &Node) {
        if remote.entry.same_metadata(&local.entry) {
            return;
        }
        let (path, remote) = (path.clone(), remote.clone());
        if remote.entry.content.is_dir() {
            self.plan.finish.push(Finish { path, remote });
        } else {
            self.plan.files.push(Put::Metadata { path, remote, local: local.clone() });
        }
    }

    fn clear(&mut self, slot: &Slot, local: Node) {
        let path = slot.local_path.clone().unwrap_or_else(|| slot.path.clone());
        self.plan.clear.push(if local.entry.content.is_dir() {
            Clear::RemoveDir { path, local }
        } else {
            let displaced = displaced(slot, &local);
            Clear::Remove { path, local, displaced }
        });
    }

    /// What goes in one place and comes the same in another has moved: the daemon saw the two at different times, and did not
    /// know them for one. A rename keeps content, time and mode; with another time or mode it may as well be a copy, and is
    /// treated as one.
    fn pair_up(&mut self) {
        let mut going: HashMap<&Entry, Vec<usize>> = HashMap::new();
        for (at, clear) in self.plan.clear.iter().enumerate() {
            // What only this side had goes to the trash, whatever else is like it.
            if let Clear::Remove { local, displaced: Displaced::Delete, .. } = clear {
                going.entry(&local.entry).or_default().push(at);
            }
        }
        if going.is_empty() {
            return;
        }
        let (mut pairs, files) = (Vec::new(), &self.plan.files);
        for coming in std::mem::take(&mut self.coming) {
            if let Some(at) = going.get_mut(&files[coming.put].remote().entry).and_then(Vec::pop) {
                pairs.push((at, coming));
            }
        }
        let mut clear: Vec<Option<Clear>> =
            std::mem::take(&mut self.plan.clear).into_iter().map(Some).collect();
        let mut files: Vec<Option<Put>> =
            std::mem::take(&mut self.plan.files).into_iter().map(Some).collect();
        for (at, Coming { put, straight }) in pairs {
            if let (Some(Clear::Remove { path: from, local, .. }), Some(put)) =
                (clear[at].take(), files[put].take())
            {
                let (to, remote) = (put.path().clone(), put.remote().clone());
                self.moves.push(Moving { from, to, local, remote, straight });
            }
        }
        self.plan.clear = clear.into_iter().flatten().collect();
        self.plan.files = files.into_iter().flatten().collect();
    }

    /// Decides which moves go straight and which through staging: those whose way is not free yet.
    fn settle_moves(&mut self) {
        let mut unsteady: BTreeSet<TreePath> =
            self.plan.clear.iter().map(|clear| clear.path().clone()).collect();
        unsteady.extend(self.moves.iter().map(|moving| moving.from.clone()));
        for moving in std::mem::take(&mut self.moves) {
            let Moving { from, to, local, remote, straight } = moving;
            if straight && !is_below_any(&to, &unsteady) {
                self.plan.clear.push(Clear::Move { from, to, local, remote });
            } else {
                let out = Clear::TakeOut { path: from.clone(), local: local.clone(), remote: remote.clone() };
                self.plan.clear.push(out);
                self.plan.build.push(Build::PutIn { path: to, from, local, remote });
            }
        }
    }

    /// Content whose only copy here is about to be disturbed is captured first.
    fn settle_sources(&mut self) {
        let cleared: BTreeSet<TreePath> = self.plan.clear.iter().map(|clear| clear.path().clone()).collect();
        let replaced: HashSet<NodeId> = self.plan.files.iter().filter_map(replaces).collect();
        for put in &mut self.plan.files {
            let Put::File { remote, source, .. } = put else { continue };
            let Source::Copy(copy) = source else { continue };
            if replaced.contains(&copy.local)
                || cleared.contains(&copy.path)
                || is_below_any(&copy.path, &cleared)
            {
                self.plan.captures.push(Capture { id: remote.id, from: copy.clone() });
                *source = Source::Captured;
            }
        }
    }
}

fn replaces(put: &Put) -> Option<NodeId> {
    match put {
        Put::File { over, .. } | Put::Link { over, .. } => over.as_ref().map(|over| over.local.id),
        // Its content stays, but what vouches for it changes while it might be copied.
        Put::Metadata { local, .. } => Some(local.id),
    }
}

fn is_below_any(path: &TreePath, places: &BTreeSet<TreePath>) -> bool {
    std::iter::successors(path.parent(), TreePath::parent).any(|above| places.contains(&above))
}

/// What becomes of what is here: it may go if the other side had it.
fn displaced(slot: &Slot, local: &Node) -> Displaced {
    let remote = slot.remote.as_ref().map(|remote| &remote.entry.content);
    match decide(slot.base_content(), remote, Some(&local.entry.content)) {
        Decision::Take(Side::Left) | Decision::Agree => Displaced::Delete,
        Decision::Take(Side::Right) | Decision::Conflict => Displaced::Trash,
    }
}

fn check(plan: &Plan, guard: &Guard) -> Result<(), Halt> {
    if guard.allow {
        return Ok(());
    }
    if guard.first_run {
        let count = foreign(plan);
        return if count > FOREIGN_LIMIT { Err(Halt::ForeignTarget { count }) } else { Ok(()) };
    }
    let now = deletions(plan);
    let deletions = now + guard.deleted_since;
    // Nothing to delete now never halts, however much went before.
    if now > 0 && deletions > MASS_DELETE_FLOOR && deletions * 2 > guard.files_then {
        return Err(Halt::MassDelete { deletions, files: guard.files_then });
    }
    Ok(())
}

/// Files and links of the target that would be put aside.
fn foreign(plan: &Plan) -> u64 {
    let removed =
        plan.clear.iter().filter(|clear| matches!(clear, Clear::Remove { displaced: Displaced::Trash, .. }));
    let replaced = plan.files.iter().filter(|put| match put {
        Put::File { over, .. } | Put::Link { over, .. } => {
            over.as_ref().is_some_and(|over| over.displaced == Displaced::Trash)
        }
        Put::Metadata { .. } => false,
    });
    (removed.count() + replaced.count()) as u64
}

/// Files and links that would be gone.
fn deletions(plan: &Plan) -> u64 {
    let reused = plan.reused();
    let gone = plan.clear.iter().filter(|clear| match clear {
        Clear::Remove { local, .. } => !reused.contains(&local.id),
        _ => false,
    });
    gone.count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        entry::{Digest, Time},
        name::Name,
    };

    /// Which is that of their ids, as the tree comes: what is written down of them is added to the ends of tables then.
    #[test]
    fn files_of_a_filling_stay_in_the_order_of_their_slots() {
        let paths = ["d/x", "d/a", "b", "e/c", "a/z"];
        let slots = || {
            let slot = |(id, path): (u64, &&str)| {
                let content = Content::File { size: id, digest: Digest::of(&id.to_le_bytes()) };
                let entry = Entry { content, mtime: Time::default(), mode: 0o644 };
                let name = Name::new(path.rsplit('/').next().expect("a name")).expect("a valid one");
                let node = Node { id: NodeId(id), parent: NodeId::ROOT, name, entry };
                Slot::of_new(TreePath::new(path).expect("a valid path"), false, node)
            };
            (1..).zip(&paths).map(slot).collect::<Vec<_>>()
        };
        let order = |plan: &Plan| plan.files.iter().map(|put| put.path().to_string()).collect::<Vec<_>>();
        assert_eq!(order(&plan_filling(slots())), paths);
        let guard = Guard { allow: false, first_run: false, files_then: 0, deleted_since: 0 };
        let planned = plan(slots(), Policy::LeftWins, &guard).expect("nothing goes");
        assert_eq!(order(&planned), ["a/z", "b", "d/a", "d/x", "e/c"]);
    }
}
