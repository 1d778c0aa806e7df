//! When to look: decisions about time, with the time as an argument.
//!
//! * [`Pace`]: events are let rest for a moment, so that one save is one look; the moment grows while events keep coming.
//! * [`Later`]: places that were not settled when they were looked at come up again, and a file that changes all the time
//!   is read for at most a quarter of the time, whatever the events say.
//! * [`Polls`]: what cannot be watched is looked at every few seconds, more rarely the more that costs.
//! * [`Recent`]: how many files the tree had within the last minute.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

use sync_core::TreePath;

use crate::look::MAX_REVISITS;

/// The quiet time when little happens.
const QUIET_LEAST: Duration = Duration::from_millis(2);

/// The quiet time in a storm.
const QUIET_MOST: Duration = Duration::from_millis(50);

/// After this long without events a storm is over.
const CALM: Duration = Duration::from_millis(200);

/// How long events are let rest before they are looked at.
#[derive(Debug)]
pub(super) struct Pace {
    quiet: Duration,
    looked: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { quiet: QUIET_LEAST, looked: None }
    }
}

impl Pace {
    /// When to look, if the first unseen event came at `first` and the newest at `last`. Events that keep coming cannot
    /// put it off for more than twice the quiet time.
    pub(super) fn due(&mut self, first: Instant, last: Instant) -> Instant {
        if self.looked.is_none_or(|looked| first.saturating_duration_since(looked) >= CALM) {
            self.quiet = QUIET_LEAST;
        }
        (last + self.quiet).min(first + self.quiet * 2)
    }

    /// A look ended; `more`: events came meanwhile.
    pub(super) fn looked(&mut self, now: Instant, more: bool) {
        self.looked = Some(now);
        self.quiet = if more { self.quiet * 2 } else { self.quiet / 2 }.clamp(QUIET_LEAST, QUIET_MOST);
    }
}

/// A place is looked at again after this time at the earliest: then its change time can vouch for what was read.
const REVISIT: Duration = Duration::from_millis(100);

/// If one look leaves more places than this, they come up later: whoever hears of so many is about to fetch them, and reading
/// them once more takes the processor and the disk from that.
const FEW: usize = 32;
const REVISIT_MANY: Duration = Duration::from_secs(1);

/// So do those that were left before, for the same reason, but for no longer than this, and not if more wait: in a storm they
/// would soon be too many.
const PUT_OFF_MOST: Duration = Duration::from_secs(4);
const MOST_PUT_OFF: usize = MAX_REVISITS / 2;

/// A place that is never settled is looked at again ever more rarely: the time doubles this often at most.
const MOST_DOUBLINGS: u32 = 6;

/// More places than this that wait are looked at together with everything else. Twice what one look may leave: what comes then need
/// not wait until all of that has come up.
const MOST_LATER: usize = 2 * MAX_REVISITS;

/// So many places that nobody said anything of come up at once, or so many bytes in them: what changes meanwhile waits for no more than
/// a look at these.
const MOST_AT_ONCE: usize = 256;
const MOST_BYTES_AT_ONCE: u64 = 64 << 20;

/// A file is left alone for this many times as long as reading it took: it is read for a quarter of the time.
const REST: u32 = 3;

/// Places that are to be looked at, but not now.
#[derive(Debug, Default)]
pub(super) struct Later {
    waiting: HashMap<TreePath, Waiting>,
    /// Of those that wait the ones that changed, in the order in which they come up, and the others.
    changed: Queue,
    unsettled: Queue,
    /// Until then those are put off, as many more were left.
    put_off: Option<Instant>,
    everything_at: Option<Instant>,
    /// Files that are not read before then.
    resting: HashMap<TreePath, Instant>,
    tries: HashMap<TreePath, u32>,
    /// Whether the last time others went before what is only unsettled.
    passed_over: bool,
}

type Queue = BTreeSet<(Instant, TreePath)>;

#[derive(Debug, Clone, Copy)]
struct Waiting {
    at: Instant,
    /// Whether an event said that it changed. If not, its content is known and only not vouched for.
    changed: bool,
}

/// What has come up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Everything,
    Places(Vec<TreePath>),
}

impl Later {
    /// Whether a changed place may be looked at now. If not, it waits here.
    pub(super) fn admit(&mut self, path: &TreePath, now: Instant) -> bool {
        match self.resting.get(path) {
            Some(until) if *until > now => {
                let at = *until;
                self.wait(path, at, true);
                false
            }
            _ => true,
        }
    }

    /// A look at these places ended (`None`: at everything), and these are to be looked at again.
    pub(super) fn looked(&mut self, places: Option<&[TreePath]>, revisit: &[TreePath], now: Instant) {
        match places {
            Some(places) => places.iter().for_each(|path| self.forget(path)),
            None => self.forget_all(),
        }
        let unsettled: HashMap<TreePath, u32> = revisit
            .iter()
            .map(|path| (path.clone(), self.tries.get(path).copied().unwrap_or(0) + 1))
            .collect();
        match places {
            Some(places) => {
                for path in places {
                    self.tries.remove(path);
                }
            }
            None => self.tries.clear(),
        }
        let many = unsettled.len() > FEW;
        for (path, tries) in unsettled {
            let mut delay = REVISIT * (1 << (tries - 1).min(MOST_DOUBLINGS));
            if many {
                delay = delay.max(REVISIT_MANY);
            }
            let at = self.resting.get(&path).map_or(now + delay, |until| (*until).max(now + delay));
            self.wait(&path, at, false);
            self.tries.insert(path, tries);
        }
        if many && self.waiting.len() <= MOST_PUT_OFF {
            self.put_off = Some(now + REVISIT_MANY);
        }
        if self.tries.len() > MOST_LATER {
            self.tries.clear();
        }
    }

    /// Reading a file took this long: it rests, unless that is nothing.
    pub(super) fn rest(&mut self, path: &TreePath, cost: Duration, now: Instant) {
        if self.resting.len() >= MOST_LATER {
            self.resting.retain(|_, until| *until > now);
        }
        if cost >= Duration::from_micros(500) && self.resting.len() < MOST_LATER {
            self.resting.insert(path.clone(), now + cost * REST);
        }
    }

    /// What has come up by now, taken out; of places that nobody said anything of not too many, the others come up right after, and
    /// none if `others` are to be looked at, but not twice in a row. `size_of` tells how large what is in such a place is. One that is
    /// not there any more is left to the event that will tell of it: looked at alone, a file that is being moved would be
    /// taken for deleted, and so would what is in a file system that was unmounted.
    pub(super) fn due(
        &mut self,
        now: Instant,
        others: bool,
        mut size_of: impl FnMut(&TreePath) -> Option<u64>,
    ) -> Due {
        if self.everything_at.is_some_and(|at| at <= now) {
            return Due::Everything;
        }
        let mut due = Vec::new();
        while let Some(path) = pop(&mut self.changed, now) {
            self.waiting.remove(&path);
            due.push(path);
        }
        self.passed_over = others && !self.passed_over;
        if self.passed_over {
            return Due::Places(due);
        }
        let is_put_off = self.put_off.is_some_and(|until| now < until);
        let since = if is_put_off { now.checked_sub(PUT_OFF_MOST) } else { Some(now) };
        let mut bytes = 0;
        for _ in 0..MOST_AT_ONCE {
            if bytes >= MOST_BYTES_AT_ONCE {
                break;
            }
            let Some(path) = since.and_then(|since| pop(&mut self.unsettled, since)) else { break };
            self.waiting.remove(&path);
            if let Some(size) = size_of(&path) {
                bytes += size;
                due.push(path);
            }
        }
        Due::Places(due)
    }

    /// All that changed and waits, taken out: a barrier cannot wait for it.
    pub(super) fn changed(&mut self) -> Due {
        if self.everything_at.is_some() {
            return Due::Everything;
        }
        let changed: Vec<_> = std::mem::take(&mut self.changed).into_iter().map(|(_, path)| path).collect();
        for path in &changed {
            self.waiting.remove(path);
        }
        Due::Places(changed)
    }

    /// When something comes up next.
    pub(super) fn next(&self) -> Option<Instant> {
        let [changed, unsettled] =
            [&self.changed, &self.unsettled].map(|queue| queue.first().map(|(at, _)| *at));
        let put_off = |at: Instant| self.put_off.map_or(at, |until| at.max(until.min(at + PUT_OFF_MOST)));
        [changed, unsettled.map(put_off)].into_iter().chain([self.everything_at]).flatten().min()
    }

    fn wait(&mut self, path: &TreePath, at: Instant, changed: bool) {
        if self.everything_at.is_some() {
            return;
        }
        let earlier = self.waiting.get(path).copied();
        self.forget(path);
        let at = earlier.map_or(at, |earlier| earlier.at.min(at));
        let changed = changed || earlier.is_some_and(|earlier| earlier.changed);
        self.waiting.insert(path.clone(), Waiting { at, changed });
        self.queue(changed).insert((at, path.clone()));
        if self.waiting.len() > MOST_LATER {
            let lasts = [&self.changed, &self.unsettled].map(|queue| queue.last().map(|(at, _)| *at));
            let latest = lasts.into_iter().flatten().fold(at, Instant::max);
            self.forget_all();
            self.everything_at = Some(latest);
        }
    }

    fn forget(&mut self, path: &TreePath) {
        if let Some(waiting) = self.waiting.remove(path) {
            self.queue(waiting.changed).remove(&(waiting.at, path.clone()));
        }
    }

    fn forget_all(&mut self) {
        self.waiting = HashMap::new();
        self.changed.clear();
        self.unsettled.clear();
        self.everything_at = None;
    }

    fn queue(&mut self, changed: bool) -> &mut Queue {
        if changed { &mut self.changed } else { &mut self.unsettled }
    }
}

/// The first that has come up, taken out.
fn pop(queue: &mut Queue, now: Instant) -> Option<TreePath> {
    let is_due = queue.first().is_some_and(|(at, _)| *at <= now);
    is_due.then(|| queue.pop_first())?.map(|(_, path)| path)
}

/// Polling is never more frequent than this.
pub(super) const POLL_LEAST: Duration = Duration::from_secs(2);

/// Polling takes at most a tenth of the time.
const POLL_SHARE: u32 = 10;

/// When to poll.
#[derive(Debug)]
pub(super) struct Polls {
    next: Instant,
    every: Duration,
}

impl Polls {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now + POLL_LEAST, every: POLL_LEAST }
    }

    /// What is polled was looked at, and that took this long. The time in between only doubles each time: what took long
    /// may have been reading what is new, such as everything at first.
    pub(super) fn polled(&mut self, now: Instant, took: Duration) {
        let mut every = POLL_LEAST;
        while every < took * POLL_SHARE && every <= self.every {
            every *= 2;
        }
        self.every = every;
        self.next = now + every;
    }

    /// When to poll again.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// How often is polled.
    pub(super) fn every(&self) -> Duration {
        self.every
    }
}

/// For how long a tree's size is remembered.
const RECENTLY: Duration = Duration::from_secs(60);

/// The most files within the last minute. Only sizes that no later one exceeds are kept, so it stays short.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(Instant, u64)>);

impl Recent {
    /// The tree has this many files now.
    pub(super) fn note(&mut self, now: Instant, files: u64) {
        while self.0.back().is_some_and(|(_, smaller)| *smaller <= files) {
            self.0.pop_back();
        }
        self.0.push_back((now, files));
        // The size of a minute ago held until the next one was noted, so the one before the cut still counts.
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) > RECENTLY) {
            self.0.pop_front();
        }
        // One look in a minute or a thousand: the memory is the same.
        if self.0.len() > 1000 {
            self.0.remove(1);
        }
    }

    /// The most files that the tree had within the last minute.
    pub(super) fn most(&mut self, now: Instant) -> u64 {
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) > RECENTLY) {
            self.0.pop_front();
        }
        self.0.front().map_or(0, |(_, files)| *files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    fn places(count: usize) -> Vec<TreePath> {
        (0..count).map(|number| path(&format!("f{number}"))).collect()
    }

    fn named(due: Due) -> Vec<TreePath> {
        match due {
            Due::Places(places) => places,
            Due::Everything => panic!("everything"),
        }
    }

    #[test]
    fn a_single_event_waits_for_two_milliseconds() {
        let now = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.due(now, now), now + 2 * MS);
    }

    #[test]
    fn the_quiet_time_grows_in_a_storm_and_ends_with_it() {
        let mut now = Instant::now();
        let mut pace = Pace::default();
        for want in [2, 4, 8, 16, 32, 50, 50] {
            assert_eq!(pace.due(now, now), now + want * MS);
            pace.looked(now, true);
        }
        pace.looked(now, false);
        assert_eq!(pace.due(now, now), now + 25 * MS);
        now += CALM;
        assert_eq!(pace.due(now, now), now + 2 * MS);
    }

    #[test]
    fn events_without_end_cannot_put_a_look_off() {
        let first = Instant::now();
        let mut pace = Pace::default();
        for passed in 0..1000 {
            assert!(pace.due(first, first + passed * MS) <= first + 4 * MS);
        }
    }

    #[test]
    fn unsettled_places_come_up_again_ever_more_rarely() {
        let mut now = Instant::now();
        let mut later = Later::default();
        for want in [100, 200, 400, 800, 1600, 3200, 6400, 6400] {
            later.looked(Some(&[path("a")]), &[path("a")], now);
            assert_eq!(later.next(), Some(now + want * MS));
            assert_eq!(later.due(now + (want - 1) * MS, false, |_| Some(1)), Due::Places(vec![]));
            now += want * MS;
            assert_eq!(later.due(now, false, |_| Some(1)), Due::Places(vec![path("a")]));
        }
        later.looked(Some(&[path("a")]), &[], now);
        assert_eq!(later.next(), None);
        later.looked(Some(&[path("a")]), &[path("a")], now);
        assert_eq!(later.next(), Some(now + 100 * MS), "it was settled in between");
    }

    #[test]
    fn many_unsettled_places_wait_until_they_were_fetched() {
        let now = Instant::now();
        for (count, want) in [(1, REVISIT), (FEW, REVISIT), (FEW + 1, REVISIT_MANY), (1000, REVISIT_MANY)] {
            let mut later = Later::default();
            later.looked(None, &places(count), now);
            assert_eq!(later.next(), Some(now + want), "{count}");
        }
    }

    #[test]
    fn unsettled_places_are_put_off_when_many_more_are_left_but_not_for_ever() {
        let mut now = Instant::now();
        let mut later = Later::default();
        later.looked(Some(&[]), &[path("first")], now);
        let first = now + REVISIT;
        // Many more every half a second.
        while now < first + PUT_OFF_MOST {
            later.looked(Some(&[]), &places(FEW + 1), now);
            assert_eq!(later.due(now, false, |_| Some(1)), Due::Places(vec![]), "{now:?}");
            assert_eq!(later.next(), Some((now + REVISIT_MANY).min(first + PUT_OFF_MOST)));
            now += REVISIT_MANY / 2;
        }
        later.looked(Some(&[]), &places(FEW + 1), now);
        assert_eq!(later.due(now, false, |_| Some(1)), Due::Places(vec![path("first")]));
        // And no more.
        let Due::Places(rest) = later.due(now + REVISIT_MANY, false, |_| Some(1)) else {
            panic!("everything")
        };
        assert_eq!((rest.len(), later.next()), (FEW + 1, None));

        let mut later = Later::default();
        later.looked(Some(&[]), &[path("first")], now);
        later.looked(Some(&[]), &places(MOST_PUT_OFF), now);
        assert_eq!(later.next(), Some(now + REVISIT), "too many wait");
    }

    #[test]
    fn a_busy_file_rests_three_times_as_long_as_it_was_read() {
        let now = Instant::now();
        let mut later = Later::default();
        later.rest(&path("log"), 50 * MS, now);
        assert!(!later.admit(&path("log"), now + 10 * MS));
        assert!(later.admit(&path("other"), now + 10 * MS));
        assert_eq!(later.next(), Some(now + 150 * MS));
        assert!(later.admit(&path("log"), now + 150 * MS));
        assert_eq!(later.due(now + 150 * MS, false, |_| Some(1)), Due::Places(vec![path("log")]));
    }

    #[test]
    fn a_barrier_gets_what_changed_and_not_what_is_only_unsettled() {
        let now = Instant::now();
        let mut later = Later::default();
        later.looked(Some(&[]), &[path("unsettled"), path("log")], now);
        later.rest(&path("log"), 50 * MS, now);
        assert!(!later.admit(&path("log"), now));
        assert_eq!(later.changed(), Due::Places(vec![path("log")]));
        assert_eq!(later.changed(), Due::Places(vec![]));
        assert_eq!(later.due(now + 100 * MS, false, |_| Some(1)), Due::Places(vec![path("unsettled")]));
    }

    #[test]
    fn of_many_unsettled_places_some_come_up_at_a_time_and_what_changed_before_them() {
        let now = Instant::now();
        let mut later = Later::default();
        let many = places(2 * MOST_AT_ONCE + 1);
        later.looked(None, &many, now);
        let due = now + REVISIT_MANY;
        later.rest(&path("log"), due - now, now);
        assert!(!later.admit(&path("log"), now));
        let due = due + REVISIT_MANY * REST;
        let mut seen = Vec::new();
        for want in [MOST_AT_ONCE + 1, MOST_AT_ONCE, 1] {
            assert!(later.next().is_some_and(|at| at <= due), "the others come up right after");
            let some = named(later.due(due, false, |_| Some(1)));
            assert_eq!(some.len(), want);
            seen.extend(some);
        }
        assert_eq!((seen[0].as_str(), later.next()), ("log", None));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), many.len() + 1);
    }

    #[test]
    fn of_unsettled_places_only_so_many_are_asked_for_at_once() {
        let now = Instant::now();
        let mut later = Later::default();
        let many = places(MOST_AT_ONCE + 1);
        later.looked(None, &many, now);
        let mut asked = 0;
        let gone = |_: &TreePath| {
            asked += 1;
            None
        };
        assert_eq!(later.due(now + REVISIT_MANY, false, gone), Due::Places(vec![]));
        assert_eq!((asked, later.next()), (MOST_AT_ONCE, Some(now + REVISIT_MANY)));
    }

    #[test]
    fn of_large_unsettled_files_fewer_come_up_at_once() {
        let now = Instant::now();
        let mut later = Later::default();
        let many = places(FEW + 1);
        later.looked(None, &many, now);
        let mut counts = Vec::new();
        while later.next().is_some() {
            let some = later.due(now + REVISIT_MANY, false, |_| Some(MOST_BYTES_AT_ONCE / 16 + 1));
            counts.push(named(some).len());
        }
        assert_eq!(counts, [16, 16, 1]);
    }

    #[test]
    fn what_is_only_unsettled_lets_others_go_first_but_not_twice_in_a_row() {
        let now = Instant::now();
        let mut later = Later::default();
        let many = places(2 * MOST_AT_ONCE);
        later.looked(None, &many, now);
        later.rest(&path("log"), MS, now);
        assert!(!later.admit(&path("log"), now));
        let counts = [true, true, true, false]
            .map(|others| named(later.due(now + REVISIT_MANY, others, |_| Some(1))).len());
        assert_eq!(counts, [1, MOST_AT_ONCE, 0, MOST_AT_ONCE], "what changed is passed over by nobody");
        assert_eq!(later.next(), None);
    }

    #[test]
    fn very_many_unsettled_places_are_everything() {
        let now = Instant::now();
        let mut later = Later::default();
        let many = places(MOST_LATER + 1);
        later.looked(None, &many, now);
        assert_eq!(later.due(now, false, |_| Some(1)), Due::Places(vec![]));
        assert_eq!(later.next(), Some(now + REVISIT_MANY));
        assert_eq!(later.due(now + REVISIT_MANY, false, |_| Some(1)), Due::Everything);
        later.looked(None, &[], now);
        assert_eq!(later.next(), None);
    }

    #[test]
    fn polling_takes_a_tenth_of_the_time() {
        let now = Instant::now();
        let mut polls = Polls::new(now);
        polls.polled(now, MS);
        assert_eq!(polls.next(), now + POLL_LEAST);
        for (took_ms, want_s) in
            [(3000, 4), (3000, 8), (3000, 16), (3000, 32), (3000, 32), (3300, 64), (250, 4), (0, 2)]
        {
            polls.polled(now, took_ms * MS);
            assert_eq!((polls.every().as_secs(), polls.next()), (want_s, now + polls.every()), "{took_ms}");
        }
    }

    #[test]
    fn one_slow_look_does_not_put_off_the_next_poll_for_long() {
        let mut polls = Polls::new(Instant::now());
        polls.polled(Instant::now(), Duration::from_secs(600));
        assert_eq!(polls.every(), 2 * POLL_LEAST);
    }

    #[test]
    fn the_most_files_of_a_minute_are_remembered() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut recent = Recent::default();
        assert_eq!(recent.most(start), 0);
        for (secs, files) in [(0, 100), (10, 500), (20, 40), (30, 3)] {
            recent.note(at(secs), files);
        }
        assert_eq!(recent.most(at(30)), 500);
        assert_eq!(recent.most(at(79)), 500, "they were there until second 20");
        assert_eq!(recent.most(at(81)), 40);
        assert_eq!(recent.most(at(500)), 3);
    }
}
