//! What a person was told already, so that nothing is said twice and no flood of lines hides what matters.
//!
//! A round is what lies between two moments at which all was done. Programs (`--json`) hear of every change; people see
//! the first of a round, and how many more there were.

use std::collections::HashSet;

use sync_core::Halt;

/// Changes that are named in a round.
const CHANGES_IN_A_ROUND: u64 = 100;
/// Problems that are named in a round.
const PROBLEMS_IN_A_ROUND: u64 = 10;

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    halt: Option<Halt>,
    /// The problems that stand, as their lines.
    problems: HashSet<String>,
    changes: u64,
    new_problems: u64,
}

/// What was not named in a round.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unsaid {
    pub(super) changes: u64,
    pub(super) problems: u64,
}

impl Told {
    /// Whether a halt, or its absence, is news.
    pub(super) fn halt(&mut self, halt: Option<&Halt>) -> bool {
        let news = self.halt.as_ref() != halt;
        self.halt = halt.cloned();
        news
    }

    /// Counts a change; whether it is still one to be named.
    pub(super) fn change(&mut self) -> bool {
        self.changes += 1;
        self.changes <= CHANGES_IN_A_ROUND
    }

    /// Whether this problem is news.
    pub(super) fn problem(&mut self, line: &str) -> bool {
        let news = self.problems.insert(line.to_owned());
        self.new_problems += u64::from(news);
        news
    }

    /// Whether the newest problem is still one to be named.
    pub(super) fn has_room(&self) -> bool {
        self.new_problems <= PROBLEMS_IN_A_ROUND
    }

    /// Ends a round. These problems stand; others are over, and would be news again.
    pub(super) fn end_round(&mut self, standing: HashSet<String>) -> Unsaid {
        self.problems = standing;
        Unsaid {
            changes: std::mem::take(&mut self.changes).saturating_sub(CHANGES_IN_A_ROUND),
            problems: std::mem::take(&mut self.new_problems).saturating_sub(PROBLEMS_IN_A_ROUND),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(lines: &[&str]) -> HashSet<String> {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn a_halt_is_news_once_until_it_is_over() {
        let mut told = Told::default();
        let halt = Halt::Share { reason: "gone".into() };
        assert!(told.halt(Some(&halt)));
        assert!(!told.halt(Some(&halt)));
        assert!(told.halt(Some(&Halt::Share { reason: "emptied".into() })));
        assert!(told.halt(None));
        assert!(told.halt(Some(&halt)));
    }

    #[test]
    fn a_problem_is_news_once_until_it_is_over() {
        let mut told = Told::default();
        assert!(told.problem("a: no"));
        assert!(!told.problem("a: no"));
        told.end_round(standing(&["a: no"]));
        assert!(!told.problem("a: no"));
        told.end_round(standing(&[]));
        assert!(told.problem("a: no"));
    }

    #[test]
    fn a_flood_is_counted_and_the_next_round_has_room_again() {
        let mut told = Told::default();
        let named = (0..250).filter(|_| told.change()).count() as u64;
        let problems = (0..12).filter(|i| told.problem(&i.to_string()) && told.has_room()).count() as u64;
        assert_eq!((named, problems), (CHANGES_IN_A_ROUND, PROBLEMS_IN_A_ROUND));
        assert_eq!(told.end_round(HashSet::new()), Unsaid { changes: 150, problems: 2 });
        assert!(told.change());
        assert_eq!(told.end_round(HashSet::new()), Unsaid { changes: 0, problems: 0 });
    }
}
