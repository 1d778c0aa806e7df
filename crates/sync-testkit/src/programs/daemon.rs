//! `syncd` as a process.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Finished, Launch, PATIENCE, Process};

/// What the daemon's last line before serving begins with.
const READY: &str = "ready http://";

/// How to start a daemon.
#[derive(Debug, Clone)]
pub struct DaemonSpec {
    launch: Launch,
    shares: Vec<(String, PathBuf)>,
    listen: String,
}

impl DaemonSpec {
    /// A daemon without shares, on a free port.
    #[must_use]
    pub fn new(bin: impl Into<PathBuf>) -> Self {
        Self { launch: Launch::new(bin), shares: Vec::new(), listen: "127.0.0.1:0".into() }
    }

    /// Adds a share.
    #[must_use]
    pub fn share(mut self, name: &str, dir: impl Into<PathBuf>) -> Self {
        self.shares.push((name.into(), dir.into()));
        self
    }

    /// Listens elsewhere.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = address.into();
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, args: I) -> Self {
        self.launch = self.launch.args(args);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.launch = self.launch.env(key, value);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn in_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.launch = self.launch.in_dir(dir);
        self
    }

    /// Starts through another program, see [`Launch::through`].
    #[must_use]
    pub fn through<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, wrapper: I) -> Self {
        self.launch = self.launch.through(wrapper);
        self
    }

    fn launch(&self) -> Launch {
        let mut launch = self.launch.clone().args(["--listen", &self.listen]);
        for (name, dir) in &self.shares {
            let mut share = std::ffi::OsString::from(name);
            share.push("=");
            share.push(dir);
            launch = launch.args([OsStr::new("--share"), &share]);
        }
        launch
    }

    /// Starts it and waits until it serves.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Daemon {
        let (process, address) = launch_until_ready(&self);
        Daemon { spec: self, process, address }
    }

    /// Starts it and waits for nothing.
    #[must_use]
    pub fn launch_only(&self) -> Process {
        self.launch().start()
    }

    /// Runs a daemon that is expected to end by itself, such as one that cannot start.
    #[must_use]
    #[track_caller]
    pub fn run(&self, deadline: Duration) -> Finished {
        self.launch().run(deadline)
    }
}

#[track_caller]
fn launch_until_ready(spec: &DaemonSpec) -> (Process, String) {
    let process = spec.launch().start();
    let (_, line) = process.wait_for_line(0, PATIENCE, |line| line.starts_with(READY));
    let address = line.trim_start_matches(READY).trim().to_owned();
    (process, address)
}

/// A daemon that serves.
#[derive(Debug)]
pub struct Daemon {
    spec: DaemonSpec,
    process: Process,
    address: String,
}

impl Daemon {
    /// Where agents reach it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The directory of a share.
    #[must_use]
    pub fn share_dir(&self, name: &str) -> &Path {
        let found = self.spec.shares.iter().find(|(share, _)| share == name);
        &found.expect("the test gave this share").1
    }

    /// Crashes it, and starts it again on the same port.
    #[track_caller]
    pub fn crash_and_restart(&mut self) {
        self.process.kill();
        self.restart();
    }

    /// Starts it again on the same port, after it ended.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(!self.process.is_running(), "restart is for a daemon that has ended");
        self.spec.listen = self.address.clone();
        (self.process, self.address) = launch_until_ready(&self.spec);
    }

    /// Ends it in order and gives the exit code.
    #[track_caller]
    pub fn stop(&mut self) -> Option<i32> {
        self.process.terminate();
        self.process.wait(PATIENCE).code()
    }

    /// The process, for signals, output and memory.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}
