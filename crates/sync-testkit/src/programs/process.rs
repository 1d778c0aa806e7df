//! One child process whose output is read as it comes.

use std::{
    ffi::{OsStr, OsString},
    io::{BufRead as _, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How often a child is asked whether it has ended, where the system does not tell.
const WAIT_STEP: Duration = Duration::from_millis(5);

/// What to start and how. The environment is the test's own, without the variables of the programs; the working directory
/// is `/`, so that no configuration file is found by chance.
#[derive(Debug, Clone)]
pub struct Launch {
    bin: PathBuf,
    wrapper: Vec<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: PathBuf,
}

impl Launch {
    /// This program without arguments.
    #[must_use]
    pub fn new(bin: impl Into<PathBuf>) -> Self {
        Self { bin: bin.into(), wrapper: Vec::new(), args: Vec::new(), env: Vec::new(), dir: "/".into() }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn in_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = dir.into();
        self
    }

    /// Starts the program through another one that replaces itself by it (`setpriv …`), so that the process id stays.
    #[must_use]
    pub fn through<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, wrapper: I) -> Self {
        self.wrapper = wrapper.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        self
    }

    /// Starts it.
    #[must_use]
    pub fn start(&self) -> Process {
        let mut words = self.wrapper.iter().map(OsString::as_os_str).chain([self.bin.as_os_str()]);
        let mut command = Command::new(words.next().expect("there is at least the program"));
        command.args(words).args(&self.args).current_dir(&self.dir);
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if name.starts_with("SYNCD_") || name.starts_with("SYNC_AGENT_") || name.starts_with("RUST_") {
                command.env_remove(&key);
            }
        }
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match command.spawn() {
            Ok(child) => Process::new(&self.bin, child),
            Err(error) => panic!("{}: {error}", self.bin.display()),
        }
    }

    /// Starts it and waits for its end.
    #[must_use]
    #[track_caller]
    pub fn run(&self, deadline: Duration) -> Finished {
        self.start().finish(deadline)
    }
}

/// How a program ended and what it said.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

#[derive(Debug, Default)]
struct Output {
    lines: Vec<String>,
    ended: bool,
}

/// The lines of one stream so far.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<(Mutex<Output>, Condvar)>);

impl Lines {
    fn read(from: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let filled = lines.clone();
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while matches!(from.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned();
                filled.lock().lines.push(text);
                filled.0.1.notify_all();
                line.clear();
            }
            filled.lock().ended = true;
            filled.0.1.notify_all();
        });
        lines
    }

    fn lock(&self) -> MutexGuard<'_, Output> {
        self.0.0.lock().expect("no reader panics")
    }

    /// The index of the first line at or after `from` that `wanted` accepts; `None` after the deadline or the end.
    fn find(
        &self,
        from: usize,
        deadline: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Option<(usize, String)> {
        let end = Instant::now() + deadline;
        let mut next = from;
        let mut output = self.lock();
        loop {
            while let Some(line) = output.lines.get(next) {
                if wanted(line) {
                    return Some((next, line.clone()));
                }
                next += 1;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || output.ended {
                return None;
            }
            output = self.0.1.wait_timeout(output, left).expect("no reader panics").0;
        }
    }

    fn wait_for_end(&self, deadline: Duration) {
        self.find(usize::MAX, deadline, |_| false);
    }
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    bin: PathBuf,
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

impl Process {
    fn new(bin: &Path, mut child: Child) -> Self {
        let stdout = Lines::read(child.stdout.take().expect("stdout is piped"));
        let stderr = Lines::read(child.stderr.take().expect("stderr is piped"));
        Self { bin: bin.to_owned(), child, stdout, stderr }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal, if it is still running.
    pub fn signal(&mut self, signal: Signal) {
        // The id cannot have been given to another process: only `try_wait` frees it, and it said "running".
        if self.is_running()
            && let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw)
        {
            kill_process(pid, signal).expect("a running child can be signalled");
        }
    }

    /// Asks it to end, as Ctrl-C or a service manager does.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Ends it as a crash does, and waits for that.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ended = self.child.wait();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            if Instant::now() > end {
                self.kill();
                panic!("{} did not end within {deadline:?}; it said\n{}", self.bin.display(), self.all());
            }
            wait_for_exit(self.pid(), end.saturating_duration_since(Instant::now()));
        }
    }

    /// Waits for its end and takes what it said.
    #[track_caller]
    pub fn finish(mut self, deadline: Duration) -> Finished {
        let status = self.wait(deadline);
        // The readers see the end of the pipes at once, unless a grandchild holds them.
        self.stdout.wait_for_end(Duration::from_secs(1));
        self.stderr.wait_for_end(Duration::from_secs(1));
        let joined = |lines: &Lines| lines.lock().lines.join("\n");
        Finished { code: status.code(), stdout: joined(&self.stdout), stderr: joined(&self.stderr) }
    }

    /// Waits for a line on stdout, from line number `from` on; gives its number and text.
    #[track_caller]
    pub fn wait_for_line(
        &self,
        from: usize,
        deadline: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> (usize, String) {
        match self.stdout.find(from, deadline, wanted) {
            Some(found) => found,
            None => panic!(
                "{} did not print what was waited for (from line {from}) within {deadline:?}; it said\n{}",
                self.bin.display(),
                self.all()
            ),
        }
    }

    /// The lines of stdout so far.
    #[must_use]
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.lock().lines.clone()
    }

    /// The lines of stderr so far.
    #[must_use]
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lock().lines.clone()
    }

    /// All that it said so far, for messages.
    #[must_use]
    pub fn all(&self) -> String {
        let shown = |lines: Vec<String>| {
            let skipped = lines.len().saturating_sub(60);
            let head = if skipped > 0 { format!("({skipped} lines before)\n") } else { String::new() };
            head + &lines[skipped..].join("\n")
        };
        format!("--- stdout\n{}\n--- stderr\n{}\n---", shown(self.stdout()), shown(self.stderr()))
    }
}

/// Returns as soon as a child has ended, or after a while. At once matters where its time is measured.
#[cfg(target_os = "linux")]
fn wait_for_exit(pid: u32, most: Duration) {
    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        process::{PidfdFlags, pidfd_open},
    };
    let handle =
        i32::try_from(pid).ok().and_then(Pid::from_raw).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
    let (Some(Ok(handle)), Ok(timeout)) = (handle, Timespec::try_from(most)) else {
        return thread::sleep(WAIT_STEP);
    };
    // An interrupted wait is no harm: the caller asks again.
    let _ready = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&timeout));
}

#[cfg(not(target_os = "linux"))]
fn wait_for_exit(_pid: u32, most: Duration) {
    thread::sleep(WAIT_STEP.min(most));
}

impl Drop for Process {
    fn drop(&mut self) {
        let running = self.is_running();
        if running {
            self.kill();
        }
        if thread::panicking() {
            eprintln!(
                "{} ({}):\n{}",
                self.bin.display(),
                if running { "running" } else { "ended" },
                self.all()
            );
        }
    }
}
