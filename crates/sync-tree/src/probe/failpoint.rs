//! Ends the process at one call, as a crash would. For the programs themselves.

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

use super::{Call, OpKind, Probe, install};

/// The variable that names a point: `SIDE OP AREA COUNT`, for example `after exchange swap>tree 2`.
pub const FAILPOINT: &str = "SYNCD_FAILPOINT";

/// The variable that names a file, to which a line `SIDE OP AREA` is added for each point that is reached.
pub const TRACE: &str = "SYNCD_FAILPOINT_TRACE";

/// Reads both variables. Called once, when a program starts. A value that cannot be read ends the program: a test that
/// believes it has crashed it must not pass.
///
/// # Errors
/// The file cannot be made, or the point is none.
pub fn arm(variable: impl Fn(&str) -> Option<String>) -> io::Result<()> {
    let everything = Path::new("/");
    if let Some(point) = variable(FAILPOINT) {
        let point = Failpoint::parse(&point)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("no point: {point}")))?;
        std::mem::forget(install(everything, Arc::new(point)));
    }
    if let Some(path) = variable(TRACE) {
        #[expect(clippy::disallowed_methods, reason = "the tester names this path")]
        let file = std::fs::File::create(path)?;
        std::mem::forget(install(everything, Arc::new(Trace(Mutex::new(file)))));
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
struct Trace(Mutex<std::fs::File>);

impl Trace {
    fn add(&self, side: &str, call: &Call<'_>) -> io::Result<()> {
        if !matches!(call.op.kind(), OpKind::Changes | OpKind::Flushes) {
            return Ok(());
        }
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
