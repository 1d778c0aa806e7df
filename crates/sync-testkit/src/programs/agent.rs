//! `sync-agent` as a process.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::{Finished, Launch, PATIENCE, Process};

/// An agent's configuration: server, share, target and whatever else.
#[derive(Debug, Clone)]
pub struct Agent {
    launch: Launch,
    target: PathBuf,
}

impl Agent {
    /// An agent that keeps `target` equal to a share of the daemon at `url`.
    #[must_use]
    pub fn new(bin: impl Into<PathBuf>, url: &str, share: &str, target: impl Into<PathBuf>) -> Self {
        let target = target.into();
        let launch = Launch::new(bin).args(["--server", url, "--share", share, "--target"]).args([&target]);
        Self { launch, target }
    }

    /// An agent that is configured by `args`, `env` or a file only.
    #[must_use]
    pub fn bare(bin: impl Into<PathBuf>) -> Self {
        Self { launch: Launch::new(bin), target: PathBuf::new() }
    }

    /// Adds flags before the command.
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

    /// The target directory.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// `pull --json`.
    #[track_caller]
    pub fn pull(&self) -> Outcome {
        self.json(&["pull"])
    }

    /// A command with its flags, and `--json`.
    #[track_caller]
    pub fn json(&self, command: &[&str]) -> Outcome {
        Outcome::read(self.start(command).finish(PATIENCE))
    }

    /// A command with its flags, for people.
    #[track_caller]
    pub fn plain(&self, command: &[&str]) -> Finished {
        self.launch.clone().args(command).run(PATIENCE)
    }

    /// Starts a command with `--json` and does not wait for it.
    #[must_use]
    pub fn start(&self, command: &[&str]) -> Process {
        self.launch.clone().args(["--json"]).args(command).start()
    }

    /// `follow --json`.
    #[must_use]
    pub fn follow(&self) -> Follower {
        Follower { process: self.start(&["follow"]), seen: 0 }
    }
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// The object on stdout; `Null` if there was none.
    pub json: Value,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Outcome {
    /// Reads the JSON out of what a command printed. Several objects, one a line, become an array.
    #[must_use]
    #[track_caller]
    pub fn read(finished: Finished) -> Self {
        let Finished { code, stdout, stderr } = finished;
        let mut values = Vec::new();
        for value in serde_json::Deserializer::from_str(&stdout).into_iter::<Value>() {
            match value {
                Ok(value) => values.push(value),
                Err(error) => panic!("stdout is not JSON only ({error}):\n{stdout}\n--- stderr\n{stderr}"),
            }
        }
        let json = if values.len() > 1 { Value::Array(values) } else { values.pop().unwrap_or_default() };
        Self { code, json, stdout, stderr }
    }

    /// Panics, with all that was said, if the exit code is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        let told = self.json.get("exit_code").and_then(Value::as_i64);
        let agrees = told.is_none_or(|told| told == i64::from(code));
        assert!(
            self.code == Some(code) && agrees,
            "exit code {:?} (JSON says {told:?}) instead of {code}\n--- stdout\n{}\n--- stderr\n{}\n---",
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }

    /// A count of the JSON object.
    #[must_use]
    #[track_caller]
    pub fn count(&self, key: &str) -> u64 {
        match self.json.get(key).and_then(Value::as_u64) {
            Some(count) => count,
            None => panic!("no count {key:?} in\n{}\n--- stderr\n{}", self.stdout, self.stderr),
        }
    }

    /// A text of the JSON object; empty if it is null.
    #[must_use]
    #[track_caller]
    pub fn text(&self, key: &str) -> String {
        match self.json.get(key) {
            Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            other => panic!("no text {key:?} but {other:?} in\n{}\n--- stderr\n{}", self.stdout, self.stderr),
        }
    }

    /// The paths with problems, and what is wrong with them.
    #[must_use]
    #[track_caller]
    pub fn problems(&self) -> Vec<(String, String)> {
        let list = self.json.get("problems").and_then(Value::as_array);
        let list = list.unwrap_or_else(|| panic!("no problems in\n{}", self.stdout));
        let text =
            |problem: &Value, key: &str| problem[key].as_str().expect("a problem has texts").to_owned();
        list.iter().map(|problem| (text(problem, "path"), text(problem, "error"))).collect()
    }
}

/// An agent that follows. Dropping it kills it.
#[derive(Debug)]
pub struct Follower {
    process: Process,
    seen: usize,
}

impl Follower {
    /// Waits for the next event that `wanted` accepts; earlier ones are passed over and not looked at again.
    #[track_caller]
    pub fn wait_for(&mut self, deadline: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let (line, text) = self.process.wait_for_line(self.seen, deadline, |line| wanted(&parse(line)));
        self.seen = line + 1;
        parse(&text)
    }

    /// Waits for the next event of that name.
    #[track_caller]
    pub fn wait_for_event(&mut self, event: &str, deadline: Duration) -> Value {
        self.wait_for(deadline, |value| value["event"] == event)
    }

    /// Waits until it says that it has caught up.
    #[track_caller]
    pub fn caught_up(&mut self) -> Value {
        self.wait_for_event("caught_up", PATIENCE)
    }

    /// All events so far.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.process.stdout().iter().map(|line| parse(line)).collect()
    }

    /// Ends it in order.
    #[track_caller]
    pub fn stop(mut self) -> Finished {
        self.process.terminate();
        self.process.finish(PATIENCE)
    }

    /// The process, for signals, output and memory.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// An event; what is not JSON becomes `Null`, which no test waits for and `events` shows.
fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_default()
}
