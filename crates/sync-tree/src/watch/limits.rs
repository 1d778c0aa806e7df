//! The limits of the system that watching runs into, and what to tell people about them.
//!
//! On Linux a limit may be set in two places: for the machine, and for the user namespace of a container. The smaller one is what
//! was met. (One that is set for a namespace in between cannot be seen from here.)

/// What there is only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resource {
    /// Watched directories.
    Watches,
    /// Watchers.
    Instances,
}

impl Resource {
    const fn settings(self) -> [&'static str; 2] {
        match self {
            Self::Watches => ["fs.inotify.max_user_watches", "user.max_inotify_watches"],
            Self::Instances => ["fs.inotify.max_user_instances", "user.max_inotify_instances"],
        }
    }
}

/// How many events wait for a reader before some are lost. The same for the whole machine.
const QUEUE: &str = "fs.inotify.max_queued_events";

/// Fewer watches than this are not worth a setting.
const WATCHES_LEAST: u64 = 524_288;

/// The same for watchers, and for events that wait.
const INSTANCES_LEAST: u64 = 1024;
const QUEUE_LEAST: u64 = 65_536;

/// The largest value that the kernel takes.
const MOST: u64 = i32::MAX as u64;

/// What is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// What is wrong.
    pub(crate) reason: String,
    /// What a person may do about it; empty if nothing.
    pub(crate) advice: String,
}

impl Trouble {
    /// Something that nobody can do much about.
    pub(crate) fn only(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), advice: String::new() }
    }

    /// No more directories can be watched. The tree has so many.
    pub(crate) fn no_watches(directories: u64) -> Self {
        let limit = Limit::met(Resource::Watches);
        // Other programs of this user count too, and trees grow.
        Self::limit("the limit of watches is reached", limit, (directories * 2).max(WATCHES_LEAST))
    }

    /// No watcher can be made.
    pub(crate) fn no_instances() -> Self {
        let limit = Limit::met(Resource::Instances);
        Self::limit("the limit of watchers (inotify instances) is reached", limit, INSTANCES_LEAST)
    }

    /// More happened than the system keeps events of.
    pub(crate) fn lost_events() -> Self {
        let reason = "more happened at once than there was room for: events were lost, and everything is being looked at";
        let advice = match read(QUEUE) {
            Some(limit) => {
                let to = raised(limit, QUEUE_LEAST);
                format!(
                    "if it happens often, raise the limit ({QUEUE} = {limit}) with: sysctl -w {QUEUE}={to}"
                )
            }
            None => String::new(),
        };
        Self { reason: reason.to_owned(), advice }
    }

    fn limit(what: &str, limit: Option<Limit>, needed: u64) -> Self {
        let Some(Limit { setting, value, outside }) = limit else { return Self::only(what) };
        let to = raised(value, needed);
        let on = if outside { " outside of the container" } else { "" };
        Self {
            reason: format!("{what} ({setting} = {value})"),
            advice: format!("raise it{on} with: sysctl -w {setting}={to}"),
        }
    }
}

/// A round number above both.
fn raised(limit: u64, needed: u64) -> u64 {
    needed.max(limit.saturating_mul(2)).min(MOST).next_power_of_two().min(MOST)
}

/// A limit, where it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    setting: &'static str,
    value: u64,
    /// It cannot be changed from this user namespace.
    outside: bool,
}

impl Limit {
    /// The one of the two that is met first; `None` where there is no such thing.
    fn met(resource: Resource) -> Option<Self> {
        let settings = resource.settings();
        Self::smaller(settings, settings.map(read), is_contained())
    }

    fn smaller(settings: [&'static str; 2], values: [Option<u64>; 2], contained: bool) -> Option<Self> {
        match (settings, values) {
            ([_, setting], [machine, Some(value)]) if machine.is_none_or(|machine| value < machine) => {
                Some(Self { setting, value, outside: false })
            }
            ([setting, _], [Some(value), _]) => Some(Self { setting, value, outside: contained }),
            _ => None,
        }
    }
}

fn read(setting: &str) -> Option<u64> {
    kernel_file(&format!("/proc/sys/{}", setting.replace('.', "/")))?.trim().parse().ok()
}

/// Whether this is another user namespace than the machine's own, in which every user is itself.
fn is_contained() -> bool {
    kernel_file("/proc/self/uid_map")
        .is_some_and(|map| map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"])
}

fn kernel_file(path: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "a file of the kernel")]
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_limit_is_the_one_that_is_met() {
        let settings = Resource::Watches.settings();
        let limit = |setting, value, outside| Some(Limit { setting, value, outside });
        for (values, contained, want) in [
            // The machine's own namespace: both are one.
            ([Some(8192), Some(8192)], false, limit(settings[0], 8192, false)),
            ([Some(8192), Some(10)], true, limit(settings[1], 10, false)),
            ([Some(8192), Some(2_147_483_647)], true, limit(settings[0], 8192, true)),
            ([None, Some(10)], true, limit(settings[1], 10, false)),
            ([Some(8192), None], false, limit(settings[0], 8192, false)),
            ([None, None], false, None),
        ] {
            assert_eq!(Limit::smaller(settings, values, contained), want, "{values:?} {contained}");
        }
    }

    #[test]
    fn a_limit_is_told_with_its_name_and_what_to_set_it_to() {
        let limit = Limit { setting: "user.max_inotify_watches", value: 10, outside: false };
        let trouble = Trouble::limit("it is reached", Some(limit), 600_000);
        assert_eq!(trouble.reason, "it is reached (user.max_inotify_watches = 10)");
        assert_eq!(trouble.advice, "raise it with: sysctl -w user.max_inotify_watches=1048576");
        let outside = Limit { setting: "fs.inotify.max_user_watches", value: 1 << 20, outside: true };
        assert_eq!(
            Trouble::limit("x", Some(outside), 600_000).advice,
            "raise it outside of the container with: sysctl -w fs.inotify.max_user_watches=2097152"
        );
        assert_eq!(Trouble::limit("x", None, 1), Trouble::only("x"));
    }

    #[test]
    fn the_kernel_takes_no_larger_value_than_is_advised() {
        assert_eq!(raised(u64::MAX, 1), MOST);
        assert_eq!(raised(0, 1024), 1024);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_limits_of_this_machine_are_found() {
        for resource in [Resource::Watches, Resource::Instances] {
            assert!(Limit::met(resource).is_some(), "{resource:?}");
        }
        assert!(Trouble::lost_events().advice.contains(QUEUE));
    }
}
