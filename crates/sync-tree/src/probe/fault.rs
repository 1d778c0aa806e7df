//! Refuses calls, or holds them, as a disk or a system does that is in trouble. For the programs themselves.
//!
//! What happens is said by rules, separated by `;`:
//!
//! ```text
//! WHAT OP AREA WHICH [of PART]
//!
//! ENOSPC write lane 3              the third write to a lane finds the disk full
//! EROFS changes * from 10          from the tenth change on the disk is read-only
//! EMFILE open-file * every 5       each fifth file cannot be opened
//! EIO reads tree random 7 30       one read in 30 fails; 7 is the seed
//! EIO read tree from 1 of bad      the files whose path has "bad" in it cannot be read
//! hold read tree 1 of big          the first read of "big" waits until the switch is off
//! ```
//!
//! OP is a call's name, `changes`, `flushes` or `reads`, or `*`; AREA is as in [`Call::site`], or `*`. A moment can be held, and
//! not refused. With a switch, a file that is named by [`SWITCH`], rules count and act only while that file exists. Held
//! calls say so by making a file of that name with `.held` after it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use rustix::io::Errno;

use super::{Call, Op, OpKind, Probe};

/// The variable that holds the rules.
pub const FAULT: &str = "SYNCD_FAULT";

/// The variable that names the switch.
pub const SWITCH: &str = "SYNCD_FAULT_SWITCH";

/// How often the switch is looked at by whoever is held.
const LOOK: Duration = Duration::from_millis(5);

const ERRNOS: [(&str, Errno); 11] = [
    ("EACCES", Errno::ACCESS),
    ("EDQUOT", Errno::DQUOT),
    ("EINTR", Errno::INTR),
    ("EIO", Errno::IO),
    ("EMFILE", Errno::MFILE),
    ("ENFILE", Errno::NFILE),
    ("ENOENT", Errno::NOENT),
    ("ENOSPC", Errno::NOSPC),
    ("EPERM", Errno::PERM),
    ("EROFS", Errno::ROFS),
    ("ESTALE", Errno::STALE),
];

/// Rules, and whether they count.
#[derive(Debug)]
pub(super) struct Faults {
    rules: Vec<Rule>,
    switch: Option<PathBuf>,
}

#[derive(Debug)]
struct Rule {
    what: What,
    calls: Calls,
    area: String,
    which: Which,
    /// What the path has in it.
    part: String,
    seen: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Refuse(Errno),
    Hold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Calls {
    All,
    Kind(OpKind),
    One(Op),
}

/// Which of the calls that a rule is about; they are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    This(u64),
    From(u64),
    Every(u64),
    Random { seed: u64, one_in: u64 },
}

impl Faults {
    pub(super) fn parse(text: &str, switch: Option<&Path>) -> Option<Self> {
        let rules = text.split(';').map(|rule| Rule::parse(rule.trim())).collect::<Option<_>>()?;
        Some(Self { rules, switch: switch.map(Path::to_owned) })
    }

    fn are_on(&self) -> bool {
        self.switch.as_ref().is_none_or(|file| is_there(file))
    }

    /// Waits until the switch is off. Without one nothing would ever end it.
    fn hold(&self) {
        let Some(switch) = &self.switch else { return };
        let mut held = switch.clone().into_os_string();
        held.push(".held");
        #[expect(clippy::disallowed_methods, reason = "the tester names this path")]
        std::fs::write(held, b"").expect("the tester's file can be written");
        while is_there(switch) {
            thread::park_timeout(LOOK);
        }
    }
}

impl Probe for Faults {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        if !self.are_on() {
            return Ok(());
        }
        for rule in self.rules.iter().filter(|rule| rule.is_about(call)) {
            match rule.what {
                What::Refuse(errno) => return Err(errno.into()),
                What::Hold => self.hold(),
            }
        }
        Ok(())
    }
}

impl Rule {
    fn parse(text: &str) -> Option<Self> {
        let (rule, part) = text.split_once(" of ").unwrap_or((text, ""));
        let mut words = rule.split(' ');
        let what = match words.next()? {
            "hold" => What::Hold,
            name => What::Refuse(ERRNOS.iter().find(|(known, _)| *known == name)?.1),
        };
        let calls = Calls::parse(words.next()?)?;
        let area = words.next()?.to_owned();
        let which = Which::parse(&words.collect::<Vec<_>>())?;
        Some(Self { what, calls, area, which, part: part.to_owned(), seen: AtomicU64::new(0) })
    }

    /// Whether this call is meant; it is counted if it might be.
    fn is_about(&self, call: &Call<'_>) -> bool {
        let kind_fits = call.op.kind() != OpKind::Moment || self.what == What::Hold;
        if !kind_fits || !self.calls.contain(call.op) {
            return false;
        }
        let area_fits =
            self.area == "*" || call.site().split_once(' ').is_some_and(|(_, area)| area == self.area);
        let part_fits = || self.part.is_empty() || call.path().to_string_lossy().contains(&self.part);
        area_fits && part_fits() && self.which.is_it(self.seen.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

impl Calls {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "*" => Self::All,
            "changes" => Self::Kind(OpKind::Changes),
            "flushes" => Self::Kind(OpKind::Flushes),
            "reads" => Self::Kind(OpKind::Reads),
            name => Self::One(*Op::ALL.iter().find(|op| op.name() == name)?),
        })
    }

    fn contain(self, op: Op) -> bool {
        match self {
            Self::All => true,
            Self::Kind(kind) => op.kind() == kind,
            Self::One(one) => op == one,
        }
    }
}

impl Which {
    fn parse(words: &[&str]) -> Option<Self> {
        let number = |text: &str| text.parse().ok().filter(|number: &u64| *number > 0);
        Some(match words {
            [this] => Self::This(number(this)?),
            ["from", first] => Self::From(number(first)?),
            ["every", count] => Self::Every(number(count)?),
            ["random", seed, count] => Self::Random { seed: seed.parse().ok()?, one_in: number(count)? },
            _ => return None,
        })
    }

    fn is_it(self, number: u64) -> bool {
        match self {
            Self::This(this) => number == this,
            Self::From(first) => number >= first,
            Self::Every(count) => number.is_multiple_of(count),
            Self::Random { seed, one_in } => mixed(seed, number).is_multiple_of(one_in),
        }
    }
}

/// A number that looks random and is the same for the same call of the same seed (the end of splitmix64).
fn mixed(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn is_there(file: &Path) -> bool {
    #[expect(clippy::disallowed_methods, reason = "the tester names this path")]
    let found = std::fs::symlink_metadata(file);
    found.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_or_refused() {
        let faults =
            Faults::parse("ENOSPC write lane 3; hold read tree from 1 of a b; EIO reads * random 0 9", None)
                .unwrap();
        let [full, hold, random] = &faults.rules[..] else { panic!("{faults:?}") };
        assert_eq!(
            (full.what, full.calls, full.area.as_str(), full.which),
            (What::Refuse(Errno::NOSPC), Calls::One(Op::Write), "lane", Which::This(3))
        );
        assert_eq!((hold.what, hold.which, hold.part.as_str()), (What::Hold, Which::From(1), "a b"));
        assert_eq!(
            (random.calls, random.which),
            (Calls::Kind(OpKind::Reads), Which::Random { seed: 0, one_in: 9 })
        );
        for bad in [
            "",
            "ENOSPC",
            "ENOSPC write lane",
            "ENOSPC write lane 0",
            "ENOSPC write lane 1 2",
            "ENOWHERE write lane 1",
            "ENOSPC wrote lane 1",
            "ENOSPC write lane 1;",
            "ENOSPC write lane random 1",
        ] {
            assert!(Faults::parse(bad, None).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_is_meant_is_counted() {
        let meant = |which: &str| {
            let which = Which::parse(&which.split(' ').collect::<Vec<_>>()).unwrap();
            (1..=1000).filter(|number| which.is_it(*number)).collect::<Vec<u64>>()
        };
        assert_eq!(meant("7"), [7]);
        assert_eq!(meant("from 998"), [998, 999, 1000]);
        assert_eq!(meant("every 400"), [400, 800]);
        let random = meant("random 1 10");
        assert!((70..130).contains(&random.len()), "{random:?}");
        assert_eq!(random, meant("random 1 10"));
        assert_ne!(random, meant("random 2 10"));
    }
}
