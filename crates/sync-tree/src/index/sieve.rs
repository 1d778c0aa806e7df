//! A sieve in memory, which tells of most contents that no file has them, without looking.
//!
//! Whoever plans many new files asks for each whether some file on this disk has its content already, and mostly in vain: two
//! searches of the database, and a third of what planning them took. A sieve may let something pass that is not there, but it
//! holds back nothing that is: what is looked for after that decides.

use std::sync::{
    PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

/// A full sieve has so many bits for each key, and a key sets so many of them. One in 200 that are not there passes then.
const BITS: u64 = 16;
const PROBES: u32 = 3;
/// The smallest has room for so many keys. Tests have few.
const FEW_KEYS: u64 = if cfg!(debug_assertions) { 8 } else { 8192 };
/// With more keys there is none: it would be 24 MiB.
const MOST_KEYS: u64 = 1 << 23;
/// To make one costs as much as a question for one of so many files.
const FILES_FOR_A_QUESTION: u64 = if cfg!(debug_assertions) { 4 } else { 64 };

/// Keys that are made of digests, so their bits are as good as random.
#[derive(Debug)]
pub(super) struct Sieve {
    words: Vec<u64>,
    /// So many more have room.
    room: u64,
}

impl Sieve {
    /// An empty one with room for so many keys, and half as many again; `None` if they are too many.
    pub(super) fn with_room_for(keys: u64) -> Option<Self> {
        if keys > MOST_KEYS {
            return None;
        }
        let room = (keys + keys / 2).max(FEW_KEYS);
        let words = usize::try_from((room * BITS).div_ceil(64)).ok()?;
        Some(Self { words: vec![0; words], room })
    }

    pub(super) fn add(&mut self, key: i64) {
        for place in self.places(key) {
            self.words[place / 64] |= 1 << (place % 64);
        }
        self.room = self.room.saturating_sub(1);
    }

    fn may_have(&self, key: i64) -> bool {
        self.places(key).all(|place| self.words[place / 64] & (1 << (place % 64)) != 0)
    }

    fn places(&self, key: i64) -> impl Iterator<Item = usize> + use<> {
        let bits = self.words.len() as u64 * 64;
        let (first, step) = ((key >> 32) as u32, key as u32);
        let spread = move |probe: u32| u64::from(first.wrapping_add(probe.wrapping_mul(step)));
        // As a part of all that a number of 32 bits can be.
        (0..PROBES).map(move |probe| ((spread(probe) * bits) >> 32) as usize)
    }
}

/// The sieve of an index, once it was worth it to make one.
///
/// It has at least the keys that are committed: they are added before that, and one that is given up stays in it.
#[derive(Debug, Default)]
pub(super) struct Sifting {
    sieve: RwLock<Option<Sieve>>,
    /// How many were announced since one was made.
    questions: AtomicU64,
}

impl Sifting {
    /// So many questions follow. Answers whether a sieve should be made for them, beside so many files.
    pub(super) fn announce(&self, questions: usize, files: u64) -> bool {
        let questions = questions as u64;
        let all = self.questions.fetch_add(questions, Ordering::Relaxed).saturating_add(questions);
        all.saturating_mul(FILES_FOR_A_QUESTION) >= files && self.read(Option::is_none)
    }

    /// This one has all keys that are there. Those that come from now on have to be [added](Self::add).
    pub(super) fn begin(&self, sieve: Option<Sieve>) {
        self.questions.store(0, Ordering::Relaxed);
        self.write(|there| *there = sieve);
    }

    /// Until the next [`begin`](Self::begin) everything passes.
    pub(super) fn end(&self) {
        self.write(|there| *there = None);
    }

    /// To be called before anybody can find them. If they have no room it ends.
    pub(super) fn add(&self, keys: impl Iterator<Item = i64>) {
        self.write(|there| {
            if let Some(sieve) = there {
                keys.for_each(|key| sieve.add(key));
            }
            there.take_if(|sieve| sieve.room == 0);
        });
    }

    /// Whether it is worth it to look for one.
    pub(super) fn may_have(&self, key: i64) -> bool {
        self.read(|sieve| sieve.as_ref().is_none_or(|sieve| sieve.may_have(key)))
    }

    fn read<T>(&self, work: impl FnOnce(&Option<Sieve>) -> T) -> T {
        work(&self.sieve.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, work: impl FnOnce(&mut Option<Sieve>)) {
        work(&mut self.sieve.write().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use sync_testkit::rng::Rng;

    use super::*;

    fn sifting(keys: &[i64]) -> Sifting {
        let mut sieve = Sieve::with_room_for(keys.len() as u64).unwrap();
        keys.iter().for_each(|key| sieve.add(*key));
        let sifting = Sifting::default();
        sifting.begin(Some(sieve));
        sifting
    }

    #[test]
    fn what_is_there_passes_and_little_else_does() {
        assert!(Sifting::default().may_have(1), "without one everything passes");
        let mut rng = Rng::new(1);
        let mut keys =
            |count: usize| -> Vec<i64> { (0..count).map(|_| rng.next_u64().cast_signed()).collect() };
        for count in [0, 1, 7, 1000, 20_000] {
            // As full as it gets.
            let late = (count / 2).max(FEW_KEYS as usize - count.min(FEW_KEYS as usize)) - 1;
            let (early, late, others) = (keys(count), keys(late), keys(100_000));
            let sifting = sifting(&early);
            sifting.add(late.iter().copied());
            assert!(early.iter().chain(&late).all(|key| sifting.may_have(*key)), "{count}");
            let passed = others.iter().filter(|key| sifting.may_have(**key)).count();
            assert!(passed < others.len() / 50, "{count}: {passed}");
            assert!(sifting.read(Option::is_some), "{count}");
        }
    }

    #[test]
    fn with_more_than_has_room_it_ends_and_everything_passes() {
        let sifting = sifting(&[]);
        sifting.add(0..FEW_KEYS as i64 - 1);
        assert!(!sifting.may_have(i64::MAX));
        sifting.add([5].into_iter());
        assert!(sifting.may_have(i64::MAX));
    }

    #[test]
    fn it_is_made_once_there_were_enough_questions_and_has_a_bound() {
        let sifting = Sifting::default();
        let files = 10 * FILES_FOR_A_QUESTION;
        assert!(!sifting.announce(9, files));
        assert!(sifting.announce(1, files));
        sifting.begin(Sieve::with_room_for(0));
        assert!(!sifting.announce(100, files), "there is one");
        sifting.end();
        assert!(sifting.announce(0, files));
        sifting.begin(Sieve::with_room_for(MOST_KEYS + 1));
        assert!(!sifting.announce(9, files), "too many files, and too few questions to try again");
    }
}
