//! Syncthing: two of them on loopback that know each other, without discovery, relays or a web page.

use std::{fs, path::Path, time::SystemTime};

use sync_testkit::{
    contest::{files::SmallFiles, free_port},
    programs::{Launch, Process},
};

use crate::{
    others::{Places, until_all_there},
    settings::DEADLINE,
};

/// One of the two.
struct Device {
    home: std::path::PathBuf,
    id: String,
    port: u16,
}

/// The seconds from the receiver's start until it has everything that the sender has scanned before.
pub(crate) fn copy(tree: &SmallFiles, places: &Places) -> f64 {
    let devices = ["sender", "receiver"].map(|name| Device::make(&places.notes.join(name)));
    devices[0].configure(&devices, "sendonly", tree.root());
    devices[1].configure(&devices, "receiveonly", &places.target);
    let sender = devices[0].start();
    sender.wait_for_line(0, DEADLINE, |line| line.contains("Completed initial scan"));
    let began = SystemTime::now();
    let receiver = devices[1].start();
    until_all_there(tree, places, began, &[&sender, &receiver])
}

impl Device {
    fn make(home: &Path) -> Self {
        let (home_text, port) = (home.display().to_string(), free_port());
        let made = Launch::new("syncthing").args(["generate", "--no-default-folder", "--home", &home_text]);
        assert_eq!(made.run(DEADLINE).code, Some(0), "syncthing can make its keys");
        let asked = Launch::new("syncthing").args(["--home", &home_text, "--device-id"]).run(DEADLINE);
        Self { home: home.into(), id: asked.stdout.trim().to_owned(), port }
    }

    fn configure(&self, devices: &[Self; 2], kind: &str, dir: &Path) {
        let members: String =
            devices.iter().map(|device| format!(r#"<device id="{}"/>"#, device.id)).collect();
        let known: String = devices
            .iter()
            .map(|Self { id, port, .. }| {
                format!(r#"<device id="{id}"><address>tcp://127.0.0.1:{port}</address></device>"#)
            })
            .collect();
        // Times are checked anew as seldom as with the others: never. Nothing leaves loopback.
        let text = format!(
            r#"<configuration version="36">
<folder id="bench" path="{dir}" type="{kind}" rescanIntervalS="0" fsWatcherEnabled="false">
{members}<minDiskFree unit="%">0</minDiskFree><disableFsync>true</disableFsync></folder>
{known}<gui enabled="false"/>
<options><listenAddress>tcp://127.0.0.1:{port}</listenAddress>
<globalAnnounceEnabled>false</globalAnnounceEnabled><localAnnounceEnabled>false</localAnnounceEnabled>
<relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled><startBrowser>false</startBrowser>
<urAccepted>-1</urAccepted><crashReportingEnabled>false</crashReportingEnabled>
<autoUpgradeIntervalH>0</autoUpgradeIntervalH><setLowPriority>false</setLowPriority>
<reconnectionIntervalS>1</reconnectionIntervalS></options></configuration>
"#,
            dir = dir.display(),
            port = self.port
        );
        fs::write(self.home.join("config.xml"), text).expect("a configuration can be written");
    }

    fn start(&self) -> Process {
        let launch = Launch::new("syncthing").env("STNOUPGRADE", "1").args(["--no-browser", "--no-restart"]);
        launch.args(["--home"]).args([&self.home]).start()
    }
}
