//! The wants of one stream that wait for their answers.
//!
//! Several packers take from them at a time, a few wants at once: what the client asks for in a row is mostly in one
//! directory, and is found sooner if one packer has it together. What was taken and not looked at goes back to the front,
//! whatever ended the packing: no want is lost, and none is taken twice.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sync_core::NodeId;
use sync_wire::v1::Want;

/// A queue of wants.
#[derive(Debug, Default)]
pub(super) struct Wants(Mutex<VecDeque<Want>>);

impl Wants {
    pub(super) fn add(&self, wants: Vec<Want>) {
        self.lock().extend(wants);
    }

    /// How many nobody has taken.
    pub(super) fn waiting(&self) -> usize {
        self.lock().len()
    }

    /// Takes the first ones, if there are any.
    pub(super) fn take(&self, most: usize) -> Taken<'_> {
        let mut queue = self.lock();
        let count = queue.len().min(most);
        Taken { from: self, wants: queue.drain(..count).collect() }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Want>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wants that one packer answers, one after the other. Those that it does not come to go back when this is dropped.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    from: &'a Wants,
    wants: VecDeque<Want>,
}

impl Taken<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.wants.is_empty()
    }

    /// The nodes they are for.
    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.wants.iter().map(|want| NodeId(want.node_id))
    }

    pub(super) fn next(&mut self) -> Option<Want> {
        self.wants.pop_front()
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.wants.is_empty() {
            return;
        }
        let mut queue = self.from.lock();
        while let Some(want) = self.wants.pop_back() {
            queue.push_front(want);
        }
    }
}

#[cfg(test)]
mod tests {
    use sync_testkit::rng::Rng;

    use super::*;

    fn numbered(numbers: impl IntoIterator<Item = u64>) -> Vec<Want> {
        numbers.into_iter().map(|number| Want { number, node_id: number, ..Want::default() }).collect()
    }

    fn numbers(mut taken: Taken<'_>) -> Vec<u64> {
        std::iter::from_fn(|| taken.next()).map(|want| want.number).collect()
    }

    #[test]
    fn what_is_taken_and_not_answered_goes_back_in_its_order() {
        let wants = Wants::default();
        assert!(wants.take(5).is_empty());
        wants.add(numbered(0..10));
        let (mut first, mut second) = (wants.take(4), wants.take(4));
        assert_eq!(first.ids().collect::<Vec<_>>(), [0, 1, 2, 3].map(NodeId));
        assert_eq!(wants.waiting(), 2);
        assert_eq!(first.next().map(|want| want.number), Some(0));
        assert_eq!(second.next().map(|want| want.number), Some(4));
        wants.add(numbered([10]));
        drop(second);
        drop(first);
        assert_eq!(wants.waiting(), 9);
        drop(wants.take(100));
        assert_eq!(numbers(wants.take(100)), [1, 2, 3, 5, 6, 7, 8, 9, 10]);
        assert_eq!(wants.waiting(), 0);
    }

    #[test]
    fn what_ends_badly_goes_back_too() {
        let wants = Wants::default();
        wants.add(numbered(0..5));
        let ended = std::thread::scope(|scope| {
            let packer = || {
                let mut taken = wants.take(4);
                taken.next();
                panic!("the packing ends");
            };
            scope.spawn(packer).join()
        });
        assert!(ended.is_err());
        assert_eq!(numbers(wants.take(100)), [1, 2, 3, 4]);
    }

    /// What one packer answers if it gives some back each time, until nothing waits.
    fn answer_some(wants: &Wants, seed: u64) -> Vec<u64> {
        let mut rng = Rng::new(seed);
        let mut answered = Vec::new();
        loop {
            let mut taken = wants.take(1 + rng.below(16));
            if taken.is_empty() {
                return answered;
            }
            let count = rng.below(18);
            answered.extend(std::iter::from_fn(|| taken.next()).take(count).map(|want| want.number));
        }
    }

    #[test]
    fn many_who_take_answer_each_want_once() {
        let wants = Wants::default();
        let mut answered = std::thread::scope(|scope| {
            wants.add(numbered(0..1000));
            let packers: Vec<_> = (0..8)
                .map(|seed| {
                    let wants = &wants;
                    scope.spawn(move || answer_some(wants, seed))
                })
                .collect();
            for from in (1000..20_000).step_by(100) {
                wants.add(numbered(from..from + 100));
            }
            packers.into_iter().flat_map(|packer| packer.join().unwrap()).collect::<Vec<_>>()
        });
        // Whoever found nothing left before the last of them came, or was given back.
        answered.extend(numbers(wants.take(usize::MAX)));
        answered.sort_unstable();
        assert!(answered.into_iter().eq(0..20_000));
    }
}
