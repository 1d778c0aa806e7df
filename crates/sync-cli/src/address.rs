//! A host with a port, as people write it: `127.0.0.1:7420`, `localhost:0`, `[::1]:7420`.

use std::{fmt, net::Ipv6Addr, str::FromStr};

/// A host (name or address, IPv6 without its brackets) and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The host.
    pub host: String,
    /// The port; 0 lets the system choose where something listens.
    pub port: u16,
}

/// The text is no host with a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST:PORT such as \"127.0.0.1:7420\" or \"[::1]:7420\", found {found:?}")]
pub struct HostPortError {
    found: String,
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        parse(text).ok_or_else(|| HostPortError { found: text.to_owned() })
    }
}

fn parse(text: &str) -> Option<HostPort> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(rest) => {
            let host = rest.strip_suffix(']')?;
            // A zone (`%eth0`) is the system's to judge.
            host.split('%').next()?.parse::<Ipv6Addr>().ok()?;
            host
        }
        None => host,
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    let in_brackets = text.starts_with('[');
    if host.is_empty() || !host.chars().all(is_name) || (host.contains([':', '%']) && !in_brackets) {
        return None;
    }
    // `parse` would take a sign as well.
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    Some(HostPort { host: host.to_owned(), port: port.parse().ok().filter(|_| digits)? })
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_ports_pass_and_print_back() {
        for (text, host, port) in [
            ("127.0.0.1:7420", "127.0.0.1", 7420),
            ("0.0.0.0:0", "0.0.0.0", 0),
            ("localhost:65535", "localhost", 65535),
            ("my-nas_2.lan:80", "my-nas_2.lan", 80),
            ("[::1]:7420", "::1", 7420),
            ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ] {
            let parsed: HostPort = text.parse().unwrap();
            assert_eq!((parsed.host.as_str(), parsed.port), (host, port));
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn everything_else_is_refused_with_an_example() {
        for text in [
            "",
            "7420",
            ":7420",
            "localhost",
            "localhost:",
            "a:65536",
            "a:+1",
            "::1:7420",
            "[::1]",
            "[x]:1",
            "a b:1",
            "a/b:1",
        ] {
            let error = text.parse::<HostPort>().unwrap_err().to_string();
            assert!(error.contains("127.0.0.1:7420") && error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
