//! rsync, the peer that is compared with.

use std::{fs, net::TcpStream, path::Path, process::Command, time::Duration};

use super::free_port;
use crate::{
    eventually, host,
    programs::{Launch, Process},
};

/// A running rsync daemon. Dropping it ends it.
#[derive(Debug)]
pub struct RsyncDaemon {
    process: Process,
    port: u16,
}

/// The version of the rsync that is installed.
#[must_use]
pub fn version() -> Option<String> {
    let output = Command::new("rsync").arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next()?.split_whitespace().nth(2).map(str::to_owned)
}

impl RsyncDaemon {
    /// A daemon with a module for each share, a directory below `dir` of that name; `None` without rsync.
    #[must_use]
    pub fn start(dir: &Path, shares: &[&str]) -> Option<Self> {
        version()?;
        let mut config =
            "use chroot = no\nread only = yes\nexclude = /.syncd\nreverse lookup = no\n".to_owned();
        if host::is_root() {
            // Otherwise it would become "nobody", who may not read the trees.
            config.push_str("uid = 0\ngid = 0\n");
        }
        for share in shares {
            config.push_str(&format!("[{share}]\npath = {}\n", dir.join(share).display()));
        }
        let path = dir.join("rsyncd.conf");
        fs::write(&path, config).expect("a configuration can be written");
        let port = free_port();
        let launch = Launch::new("rsync")
            .args(["--daemon", "--no-detach", "--address=127.0.0.1"])
            .args([format!("--port={port}"), format!("--config={}", path.display())])
            .args([format!("--log-file={}", dir.join("rsyncd.log").display())]);
        let process = launch.start();
        eventually(Duration::from_secs(10), || {
            TcpStream::connect(("127.0.0.1", port)).map_err(|error| format!("rsync does not listen: {error}"))
        });
        Some(Self { process, port })
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// `rsync -a` of a share of the daemon at that address.
#[must_use]
pub fn pull(address: &str, share: &str, target: &Path) -> Launch {
    Launch::new("rsync").args(["-a", &format!("rsync://{address}/{share}/")]).args([target])
}
