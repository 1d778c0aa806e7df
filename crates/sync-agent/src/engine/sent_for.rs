//! Small contents that are sent for before there is a plan that wants them.
//!
//! What changed in the share is known before the look at the target is over and before a plan of it is made, and that nearly always
//! wants the contents that are not what was agreed on and that nothing in the target has. They wait in memory; the plan's items
//! take them, and they are verified like all others. What no item wants is dropped. Nothing in the target changes before there is a plan.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use sync_core::{
    Content, Digest, Node, NodeId,
    plan::{Base, Scope},
};
use sync_locations::{Answer, Location, Want};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Engine,
    catch_up::Looking,
    cycle::Run,
    foreseen::{self, Foreseen},
    part::Item,
    threads::in_place,
};

/// More bytes do not wait.
const MOST_BYTES: u64 = 16 << 20;

impl Engine {
    /// Reads what a plan will ask for and sends for what it will want, while the target is looked at, if that is little beside
    /// what is being looked at.
    pub(super) fn foresee_while_looking(&mut self, run: &Run<'_>) {
        let index = self.store().index();
        if self.filling.is_some() || self.looking.is_none() || !index.is_searchable() {
            return;
        }
        if let (Ok(scope), Ok(head)) = (self.store().scope(), index.head())
            && Foreseen::is_little_beside(&scope, head.files)
        {
            self.sent_for = self.foresee(&scope, Some(run.remote));
        }
    }

    /// Reads what a plan of these will ask for, unless that was done, and keeps it. Answers what the plan will want, which was sent
    /// for if there is a remote to send to. What cannot be read now is read later, and whoever reads it is told why.
    pub(super) fn foresee(&mut self, scope: &Scope, remote: Option<&Arc<dyn Location>>) -> Option<SentFor> {
        let mut sent_for = None;
        let foreseen = in_place(|| {
            let store = self.store();
            if !Foreseen::is_worth_it(scope) {
                return Ok(None);
            }
            if let Some(foreseen) = &self.foreseen
                && foreseen.is_still_for(store, scope)?
            {
                return Ok(None);
            }
            store.index().make_searchable()?;
            if let (None, Scope::Nodes { remote, .. }) = (&self.looking, scope) {
                // The look would have to wait with what it found, or this for it.
                store.index().prepare_searches(remote.len())?;
            }
            let look_goes_on = || self.looking.as_ref().is_some_and(Looking::goes_on);
            let read = Foreseen::read(store, scope, look_goes_on, |piece, ids| {
                if let Some(remote) = remote {
                    send_for(remote, &mut sent_for, wanted(piece, ids));
                }
            });
            read.map(Some)
        });
        match foreseen {
            Ok(Some(foreseen)) => self.foreseen = Some(foreseen),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "not all is read ahead"),
        }
        sent_for.map(SentFor::with_no_more)
    }
}

/// What a plan of these nodes will want: contents that are not what was agreed on, and that nothing in the target has.
fn wanted<'p>(piece: &'p Foreseen, ids: &'p [NodeId]) -> impl Iterator<Item = (NodeId, Digest, u64)> + 'p {
    ids.iter().filter_map(|id| {
        let (node, base): (Node, Option<Base>) = (piece.remote(*id)??, piece.base(*id)?);
        let Content::File { size, digest } = node.entry.content else { return None };
        let is_known = base.is_some_and(|base| base.entry.content == node.entry.content);
        (!is_known && piece.local_with(&digest) == Some(None)).then_some((*id, digest, size))
    })
}

/// Asks for those that are small, on a stream that is opened for the first of them.
fn send_for(
    remote: &Arc<dyn Location>,
    sent_for: &mut Option<SentFor>,
    wanted: impl Iterator<Item = (NodeId, Digest, u64)>,
) {
    for (node, digest, size) in wanted.filter(|(_, _, size)| *size <= remote.max_packed_bytes()) {
        sent_for.get_or_insert_with(|| SentFor::begin(remote)).ask(node, digest, size);
    }
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
    /// Where more can be asked for, until all is.
    wants: Option<mpsc::Sender<Want>>,
    /// How many bytes more may be asked for.
    room: u64,
    /// By the numbers of the wants.
    nodes: Vec<NodeId>,
    /// What is on its way, and no item wants it yet.
    asked: HashMap<NodeId, Digest>,
    /// The items that wait for what is on its way, in the order in which they are asked for once more if nobody answers.
    waiting: BTreeMap<NodeId, Item>,
    /// What is here, and no item wanted it yet.
    came: HashMap<NodeId, (Digest, Bytes)>,
    answers: mpsc::UnboundedReceiver<Vec<Answer>>,
    _fetching: JoinSet<()>,
}

impl SentFor {
    /// Opens a stream to ask for what comes to be wanted.
    fn begin(remote: &Arc<dyn Location>) -> Self {
        let (wants, queue) = mpsc::channel(foreseen::MOST);
        let (sender, answers) = mpsc::unbounded_channel();
        let mut fetching = JoinSet::new();
        fetching.spawn(fetch(remote.clone(), queue, sender));
        Self {
            wants: Some(wants),
            room: MOST_BYTES,
            nodes: Vec::new(),
            asked: HashMap::new(),
            waiting: BTreeMap::new(),
            came: HashMap::new(),
            answers,
            _fetching: fetching,
        }
    }

    /// Asks for a file, if there is room for it.
    fn ask(&mut self, node: NodeId, digest: Digest, size: u64) {
        let (Some(wants), Some(room)) = (&self.wants, self.room.checked_sub(size)) else { return };
        // The number is its place in the list.
        if wants.try_send(Want { number: self.nodes.len() as u64, node, digest }).is_ok() {
            self.room = room;
            self.nodes.push(node);
            self.asked.insert(node, digest);
        }
    }

    /// All is asked for.
    fn with_no_more(self) -> Self {
        Self { wants: None, ..self }
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
                let in_vain: Vec<_> =
                    std::mem::take(&mut self.waiting).into_values().map(Found::Nowhere).collect();
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
async fn fetch(
    remote: Arc<dyn Location>,
    wants: mpsc::Receiver<Want>,
    sender: mpsc::UnboundedSender<Vec<Answer>>,
) {
    let mut answers = match remote.fetch_packed(wants).await {
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
