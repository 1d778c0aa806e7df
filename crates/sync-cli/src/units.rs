//! Sizes and durations as people write them in a configuration: `"64 MiB"`, `"30s"`.
//!
//! A unit is required for durations, because `timeout = 30` has been read as seconds, milliseconds and minutes by
//! different programs. A plain number is fine for sizes, where it can only mean bytes. Display gives back a form that
//! parses to the same value.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes. Written as `"64 MiB"`, `"1.5 GiB"`, `"10 MB"` (decimal), `"4096"` or plain `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

/// A length of time. Written as `"250ms"`, `"30s"`, `"5m"`, `"1h30m"`, `"30d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub Duration);

const SIZE_EXPECTED: &str = "a size such as \"64 MiB\" or a number of bytes";
const SPAN_EXPECTED: &str = "a duration such as \"30s\", \"5m\" or \"1h30m\"";

/// The text is no size or no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Expected {expected}, found {found:?}")]
pub struct UnitError {
    expected: &'static str,
    found: String,
}

/// Binary units, largest first, so that Display can take the first that divides.
const BINARY: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const DECIMAL: [(&str, u64); 4] =
    [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];

impl ByteSize {
    /// So many KiB.
    #[must_use]
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// So many MiB.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as an index type; the largest one where it does not fit.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// The number of bytes in 32 bits; the largest such number where it does not fit.
    #[must_use]
    pub fn as_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match BINARY.iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse_size(text.trim())
            .map(Self)
            .ok_or_else(|| UnitError { expected: SIZE_EXPECTED, found: text.to_owned() })
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit.trim() {
        "" | "B" | "b" => 1,
        name => BINARY.iter().chain(&DECIMAL).find(|(known, _)| known.eq_ignore_ascii_case(name))?.1,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // Six places keep the arithmetic exact and are more than anybody writes. Sizes stay below 2^63 because a TOML
    // integer does.
    if whole.is_empty() || fraction.len() > 6 || number.ends_with('.') {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let bytes = digits.checked_mul(u128::from(unit))? / scale;
    i64::try_from(bytes).ok()?.try_into().ok()
}

impl Span {
    /// So many milliseconds.
    #[must_use]
    pub const fn millis(n: u64) -> Self {
        Self(Duration::from_millis(n))
    }

    /// So many seconds.
    #[must_use]
    pub const fn secs(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }

    /// So many hours.
    #[must_use]
    pub const fn hours(n: u64) -> Self {
        Self::secs(n * 3_600)
    }

    /// So many days of 24 hours.
    #[must_use]
    pub const fn days(n: u64) -> Self {
        Self::hours(n * 24)
    }

    /// The length as the standard library has it.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

/// Units in milliseconds, largest first; `ms` comes before `m` when parsing because names are compared whole.
const SPANS: [(&str, u128); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, unit) in SPANS {
            if rest >= unit {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse_span(text.trim())
            .map(Self)
            .ok_or_else(|| UnitError { expected: SPAN_EXPECTED, found: text.to_owned() })
    }
}

fn parse_span(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut last = usize::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let after = rest[digits..].trim_start();
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let at = SPANS.iter().position(|(name, _)| *name == &after[..end])?;
        // Units go down, each once: "30m1h" is more likely a slip than a wish.
        if last != usize::MAX && at <= last {
            return None;
        }
        last = at;
        total = total.checked_add(number.checked_mul(u64::try_from(SPANS[at].1).ok()?)?)?;
        rest = after[end..].trim_start();
    }
    (last != usize::MAX).then(|| Duration::from_millis(total))
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SpanVisitor)
    }
}

struct SizeVisitor;

impl de::Visitor<'_> for SizeVisitor {
    type Value = ByteSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SIZE_EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
        text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
        Ok(ByteSize(bytes))
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
        u64::try_from(bytes).map(ByteSize).map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
    }
}

struct SpanVisitor;

impl de::Visitor<'_> for SpanVisitor {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SPAN_EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
        text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_and_print_back() {
        for (text, bytes, shown) in [
            ("0", 0, "0 B"),
            ("4096", 4096, "4 KiB"),
            ("1500 B", 1500, "1500 B"),
            ("64 MiB", 64 << 20, "64 MiB"),
            ("64mib", 64 << 20, "64 MiB"),
            (" 1.5 GiB ", 3 << 29, "1536 MiB"),
            ("10 MB", 10_000_000, "10000000 B"),
            ("2 TiB", 2 << 40, "2 TiB"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size, ByteSize(bytes), "{text}");
            assert_eq!(size.to_string(), shown);
            assert_eq!(shown.parse::<ByteSize>().unwrap(), size);
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in
            ["", "MiB", "-1", "64 M", "1.", ".5 MiB", "1.2.3", "64 MiB x", "99999999999 TiB", "1,5 MiB"]
        {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains("64 MiB") && error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn spans_parse_and_print_back() {
        for (text, millis, shown) in [
            ("0s", 0, "0s"),
            ("250ms", 250, "250ms"),
            ("30s", 30_000, "30s"),
            ("90s", 90_000, "1m30s"),
            ("5m", 300_000, "5m"),
            ("1h 30m", 5_400_000, "1h30m"),
            ("30d", 2_592_000_000, "30d"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span, Span::millis(millis), "{text}");
            assert_eq!(span.to_string(), shown);
            assert_eq!(shown.parse::<Span>().unwrap(), span);
        }
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in
            ["", "30", "s", "-5s", "5 parsecs", "30m1h", "1s1s", "99999999999999999999s", "1.5h", "5M"]
        {
            let error = text.parse::<Span>().unwrap_err().to_string();
            assert!(error.contains("30s"), "{error}");
        }
    }
}
