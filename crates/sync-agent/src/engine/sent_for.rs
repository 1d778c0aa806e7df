//! Small contents that are sent for while the look at the target still goes on.
//!
//! What changed in the share is known before the look is over, and a plan nearly always wants the contents of a file that both
//! sides agreed on and that nothing in the target has. They wait in memory; the plan's items take them, and they are verified
//! like all others. What no item wants is dropped. Nothing in the target changes before there is a plan.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use sync_core::{Content, Digest, Node, NodeId, plan::Base};
use sync_locations::{Answer, Location, Want};
use tokio::{sync::mpsc, task::JoinSet};

use super::{Engine, cycle::Run, foreseen::Foreseen, part::Item, threads::in_place};

/// More bytes do not wait.
const MOST_BYTES: u64 = 16 << 20;

impl Engine {
    /// Sends for what a plan will want, if that is small and little beside what is being looked at. What cannot be read now is
    /// asked for later, and whoever asks is told why.
    pub(super) fn send_for_small(&mut self, run: &Run<'_>) {
        if self.filling.is_some() || self.looking.is_none() {
            return;
        }
        let read = in_place(|| Foreseen::beforehand(self.store()));
        let read = read.inspect_err(|error| tracing::debug!(%error, "nothing is sent for"));
        let Ok(Some(foreseen)) = read else { return };
        let known =
            foreseen.pending().iter().filter_map(|id| Some((foreseen.remote(*id)??, foreseen.base(*id)??)));
        let nobody_has = |digest: &Digest| foreseen.local_with(digest) == Some(None);
        let wants = wants(known, nobody_has, run.remote.max_packed_bytes());
        self.sent_for = (!wants.is_empty()).then(|| SentFor::begin(run.remote, wants));
        self.foreseen = Some(foreseen);
    }
}

/// What to ask for of these remote nodes and what was agreed on about them.
fn wants(
    nodes: impl Iterator<Item = (Node, Base)>,
    nobody_has: impl Fn(&Digest) -> bool,
    most_packed: u64,
) -> Vec<Want> {
    let mut room = MOST_BYTES;
    let mut wants = Vec::new();
    for (node, base) in nodes {
        let Content::File { size, digest } = node.entry.content else { continue };
        let is_known = base.entry.content == node.entry.content;
        if is_known || size > most_packed || size > room || !nobody_has(&digest) {
            continue;
        }
        room -= size;
        wants.push(Want { number: wants.len() as u64, node: node.id, digest });
    }
    wants
}

/// Whether an item has its bytes.
#[derive(Debug)]
pub(super) enum Found {
    /// Here they are.
    Here(Item, Bytes),
    /// They are on their way.
    Comes,
    /// They have to be asked for.
    Nowhere(Item),
}

/// What is on its way or here. Dropping it gives up what is on its way.
#[derive(Debug)]
pub(super) struct SentFor {
    /// By the numbers of the wants.
    nodes: Vec<NodeId>,
    /// What is on its way, and no item wants it yet.
    asked: HashMap<NodeId, Digest>,
    /// The items that wait for what is on its way.
    waiting: HashMap<NodeId, Item>,
    /// What is here, and no item wanted it yet.
    came: HashMap<NodeId, (Digest, Bytes)>,
    answers: mpsc::UnboundedReceiver<Vec<Answer>>,
    _fetching: JoinSet<()>,
}

impl SentFor {
    /// Asks for these, whose numbers are their places in the list.
    fn begin(remote: &Arc<dyn Location>, wants: Vec<Want>) -> Self {
        let nodes = wants.iter().map(|want| want.node).collect();
        let asked = wants.iter().map(|want| (want.node, want.digest)).collect();
        let (sender, answers) = mpsc::unbounded_channel();
        let mut fetching = JoinSet::new();
        fetching.spawn(fetch(remote.clone(), wants, sender));
        let (waiting, came) = Default::default();
        Self { nodes, asked, waiting, came, answers, _fetching: fetching }
    }

    /// The bytes for an item, if they were sent for.
    pub(super) fn find(&mut self, item: Item) -> Found {
        let id = item.node().id;
        let wanted = item.content().map(|(_, digest)| digest);
        if self.came.get(&id).is_some_and(|(digest, _)| Some(*digest) == wanted)
            && let Some((_, bytes)) = self.came.remove(&id)
        {
            return Found::Here(item, bytes);
        }
        if self.asked.get(&id).copied() == wanted && self.asked.remove(&id).is_some() {
            self.waiting.insert(id, item);
            return Found::Comes;
        }
        Found::Nowhere(item)
    }

    /// Whether an item waits for something.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes more of what comes. Answers what items waited for, and with [`Found::Nowhere`] those that wait in vain; `None` if
    /// nothing more comes, and no item waits. May be dropped midway.
    pub(super) async fn next(&mut self) -> Option<Vec<Found>> {
        match self.answers.recv().await {
            Some(answers) => Some(answers.into_iter().filter_map(|answer| self.take(answer)).collect()),
            None => {
                self.asked.clear();
                let in_vain: Vec<_> = self.waiting.drain().map(|(_, item)| Found::Nowhere(item)).collect();
                (!in_vain.is_empty()).then_some(in_vain)
            }
        }
    }

    /// Why a file cannot be had is told to whoever asks for it again.
    fn take(&mut self, answer: Answer) -> Option<Found> {
        let id = self.nodes.get(usize::try_from(answer.number).ok()?)?;
        if let Some(item) = self.waiting.remove(id) {
            return Some(match answer.result {
                Ok(bytes) => Found::Here(item, bytes),
                Err(_) => Found::Nowhere(item),
            });
        }
        // Nobody may answer twice.
        let digest = self.asked.remove(id)?;
        if let Ok(bytes) = answer.result {
            self.came.insert(*id, (digest, bytes));
        }
        None
    }
}

/// A failure ends it: who wants what did not come asks again, and is told.
async fn fetch(remote: Arc<dyn Location>, wants: Vec<Want>, sender: mpsc::UnboundedSender<Vec<Answer>>) {
    let (asked, queue) = mpsc::channel(wants.len());
    for want in wants {
        // There is room for all.
        let _ = asked.try_send(want);
    }
    drop(asked);
    let mut answers = match remote.fetch_packed(queue).await {
        Ok(answers) => answers,
        Err(error) => return tracing::debug!(%error, "nothing comes before it is planned"),
    };
    let mut room = MOST_BYTES;
    while let Some(batch) = answers.next().await {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return tracing::debug!(%error, "no more comes before it is planned"),
        };
        let bytes: usize =
            batch.iter().filter_map(|answer| answer.result.as_ref().ok()).map(Bytes::len).sum();
        // Somebody may send more than they were asked for, or nobody wants it any more.
        let Some(left) = room.checked_sub(bytes as u64) else { return };
        if sender.send(batch).is_err() {
            return;
        }
        room = left;
    }
}
