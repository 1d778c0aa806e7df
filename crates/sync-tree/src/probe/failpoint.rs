//! Ends the process at one call, as a crash would, and writes down which calls there are. For the programs themselves.

use std::{
    io::{self, Write},
    os::fd::BorrowedFd,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::process::{Signal, getpid, kill_process};

use super::{Call, FAULT, OpKind, Probe, SWITCH, fault::Faults, install};

/// The variable that names a point: `SIDE OP AREA COUNT`, for example `after exchange swap>tree 2`.
pub const FAILPOINT: &str = "SYNCD_FAILPOINT";

/// The variable that names a file, to which a line `SIDE OP AREA` is added for each point that is reached.
pub const TRACE: &str = "SYNCD_FAILPOINT_TRACE";

/// The same, with the calls that read.
pub const ALL_TRACE: &str = "SYNCD_FAULT_TRACE";

/// Reads these variables, and [`FAULT`] with [`SWITCH`]. Called once, when a program starts. A value that cannot be read ends
/// the program: a test that believes it has crashed it must not pass.
///
/// # Errors
/// The file cannot be made, or the point or the rules are none.
pub fn arm(variable: impl Fn(&str) -> Option<String>) -> io::Result<()> {
    let everything = Path::new("/");
    if let Some(point) = variable(FAILPOINT) {
        let point = Failpoint::parse(&point)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("no point: {point}")))?;
        std::mem::forget(install(everything, Arc::new(point)));
    }
    if let Some(text) = variable(FAULT) {
        let switch = variable(SWITCH);
        let faults = Faults::parse(&text, switch.as_deref().map(Path::new))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("no faults: {text}")))?;
        std::mem::forget(install(everything, Arc::new(faults)));
    }
    for (name, reads) in [(TRACE, false), (ALL_TRACE, true)] {
        let Some(path) = variable(name) else { continue };
        #[expect(clippy::disallowed_methods, reason = "the tester names this path")]
        let file = Mutex::new(std::fs::File::create(path)?);
        std::mem::forget(install(everything, Arc::new(Trace { file, reads })));
    }
    Ok(())
}

#[derive(Debug)]
struct Failpoint {
    after: bool,
    site: String,
    count: u64,
    seen: AtomicU64,
}

impl Failpoint {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (side, op, area) = (words.next()?, words.next()?, words.next()?);
        let count = words.next()?.parse().ok().filter(|count| *count > 0)?;
        let known = side == "before" || side == "after";
        let complete = known && words.next().is_none();
        let site = format!("{op} {area}");
        complete.then(|| Self { after: side == "after", site, count, seen: AtomicU64::new(0) })
    }

    fn reached(&self, call: &Call<'_>) {
        if call.site() == self.site && self.seen.fetch_add(1, Ordering::SeqCst) + 1 == self.count {
            // Nothing of this process comes after: no handler, no destructor, no flush.
            let _ = kill_process(getpid(), Signal::KILL);
            loop {
                std::thread::park();
            }
        }
    }
}

impl Probe for Failpoint {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        if !self.after {
            self.reached(call);
        }
        Ok(())
    }

    fn after(&self, call: &Call<'_>, _made: Option<BorrowedFd<'_>>) {
        if self.after {
            self.reached(call);
        }
    }
}

#[derive(Debug)]
struct Trace {
    file: Mutex<std::fs::File>,
    reads: bool,
}

impl Trace {
    fn add(&self, side: &str, call: &Call<'_>) -> io::Result<()> {
        let is_meant = match call.op.kind() {
            OpKind::Changes | OpKind::Flushes => true,
            OpKind::Reads => self.reads,
            OpKind::Moment => false,
        };
        if !is_meant {
            return Ok(());
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{side} {}", call.site())
    }
}

impl Probe for Trace {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        self.add("before", call)
    }

    fn after(&self, call: &Call<'_>, _made: Option<BorrowedFd<'_>>) {
        self.add("after", call).expect("the tester's file can be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_or_refused() {
        let point = Failpoint::parse("after exchange swap>tree 2").unwrap();
        assert_eq!((point.after, point.site.as_str(), point.count), (true, "exchange swap>tree", 2));
        for bad in [
            "",
            "before exchange",
            "within exchange swap>tree 1",
            "before write lane 0",
            "before write lane 1 x",
        ] {
            assert!(Failpoint::parse(bad).is_none(), "{bad}");
        }
    }
}
