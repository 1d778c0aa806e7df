//! Text for people: sizes, rates, durations, counts, times, and the nearest word to a misspelt one.
//!
//! Every function takes a value and gives a string that means the same without colour and in any locale. Times are UTC in
//! RFC 3339, computed here: two dozen lines are less to maintain than a calendar library.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A number of bytes with one decimal in the unit that fits: `512 B`, `118.2 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    // Tenths, rounded; 1023.96 KiB must become 1.0 MiB and not 1024.0 KiB.
    let mut unit = 0;
    let mut tenths = tenths_of(count, 1024);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        unit += 1;
        tenths = tenths_of(count, 1024_u128.pow(u32::try_from(unit).unwrap_or(0) + 1));
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

fn tenths_of(count: u64, unit: u128) -> u128 {
    (u128::from(count) * 10 + unit / 2) / unit
}

/// Bytes a second: `26.3 MiB/s`. Over no time at all it is the bytes themselves a second.
#[must_use]
pub fn rate(count: u64, time: Duration) -> String {
    let per_second = (u128::from(count) * 1_000_000_000).checked_div(time.as_nanos()).unwrap_or(count.into());
    format!("{}/s", bytes(u64::try_from(per_second).unwrap_or(u64::MAX)))
}

/// A length of time as precise as anybody wants to read it: `35 ms`, `4.5 s`, `2 min 5 s`, `1 h 3 min`, `3 d 4 h`.
#[must_use]
pub fn duration(time: Duration) -> String {
    let millis = time.as_millis();
    let seconds = (millis + 500) / 1000;
    match seconds {
        // 59.95 s and above round to a minute.
        _ if millis < 1_000 => format!("{millis} ms"),
        _ if millis < 59_950 => {
            let tenths = (millis + 50) / 100;
            format!("{}.{} s", tenths / 10, tenths % 10)
        }
        0..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A count with its noun: `1 file`, `2 files`, `0 files`; nouns in `-y` become `-ies`.
#[must_use]
pub fn count(number: u64, noun: &str) -> String {
    match noun.strip_suffix('y') {
        _ if number == 1 => format!("1 {noun}"),
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{number} {stem}ies"),
        _ => format!("{number} {noun}s"),
    }
}

/// A time in UTC to the second: `2026-11-20T16:09:00Z`.
#[must_use]
pub fn time(at: SystemTime) -> String {
    unix_time(unix_seconds(at))
}

/// A time in UTC to the millisecond: `2026-11-20T16:09:00.123Z`.
#[must_use]
pub fn time_ms(at: SystemTime) -> String {
    let seconds = unix_seconds(at);
    let millis = match at.duration_since(UNIX_EPOCH) {
        Ok(since) => since.subsec_millis(),
        Err(before) => (1_000 - before.duration().subsec_millis()) % 1_000,
    };
    let mut text = unix_time(seconds);
    text.truncate(text.len() - 1);
    format!("{text}.{millis:03}Z")
}

/// The time of the clock, to the second.
#[must_use]
pub fn now() -> String {
    time(SystemTime::now())
}

fn unix_seconds(at: SystemTime) -> i64 {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = before.duration();
            let up = i64::from(before.subsec_millis() > 0);
            i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds - up)
        }
    }
}

/// Seconds since 1970 (negative before) as a time in UTC.
#[must_use]
pub fn unix_time(seconds: i64) -> String {
    let (days, in_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (in_day / 3_600, in_day % 3_600 / 60, in_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The proleptic Gregorian date of a day counted from 1970-01-01.
fn civil_date(days: i64) -> (i64, i64, i64) {
    // Counted from 0000-03-01, a leap day is the last of its year and 400 years are always 146,097 days.
    let days = i128::from(days) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i128::from(month <= 2);
    let narrow = |number| i64::try_from(number).unwrap_or(i64::MAX);
    (narrow(year), narrow(month), narrow(day))
}

/// The candidate that `word` was most likely meant to be; `None` if none is near.
///
/// Near is at most a third of the letters wrong (two for short words), or one being the beginning of the other.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let score = |candidate: &str| {
        let candidate = candidate.to_lowercase();
        let distance = strsim::damerau_levenshtein(&word, &candidate);
        let starts = word.len() >= 3
            && candidate.len() >= 3
            && (candidate.starts_with(&word) || word.starts_with(&candidate));
        let limit = (word.chars().count().max(candidate.chars().count()) / 3).max(2);
        let near = starts || (distance <= limit && distance < candidate.chars().count());
        near.then_some(distance)
    };
    let scored = candidates.into_iter().filter_map(|c| Some((score(c)?, c)));
    scored.min_by_key(|(distance, _)| *distance).map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_the_unit_that_fits() {
        for (count, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (123_941_683, "118.2 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), want);
        }
    }

    #[test]
    fn rates_survive_no_time() {
        assert_eq!(rate(123_941_683, Duration::from_millis(4_500)), "26.3 MiB/s");
        assert_eq!(rate(10, Duration::ZERO), "10 B/s");
        assert_eq!(rate(u64::MAX, Duration::from_nanos(1)), "16.0 EiB/s");
    }

    #[test]
    fn durations_lose_what_nobody_reads() {
        for (millis, want) in [
            (0, "0 ms"),
            (35, "35 ms"),
            (4_500, "4.5 s"),
            (59_949, "59.9 s"),
            (59_950, "1 min 0 s"),
            (125_000, "2 min 5 s"),
            (3_780_000, "1 h 3 min"),
            (273_600_000, "3 d 4 h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), want);
        }
    }

    #[test]
    fn counts_agree_with_their_noun() {
        assert_eq!(count(0, "file"), "0 files");
        assert_eq!(count(1, "directory"), "1 directory");
        assert_eq!(count(2, "directory"), "2 directories");
    }

    #[test]
    fn times_are_right_at_the_edges_of_the_calendar() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-2_203_891_200, "1900-03-01T00:00:00Z"),
            (-62_135_596_800, "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(unix_time(seconds), want);
        }
        assert_eq!(time_ms(UNIX_EPOCH + Duration::from_millis(1_234)), "1970-01-01T00:00:01.234Z");
        assert_eq!(time_ms(UNIX_EPOCH - Duration::from_millis(1)), "1969-12-31T23:59:59.999Z");
        assert!(!unix_time(i64::MIN).is_empty() && !unix_time(i64::MAX).is_empty());
    }

    #[test]
    fn the_nearest_word_is_near() {
        let keys = ["listen", "limits", "share", "state_dir", "threads"];
        for (word, want) in [
            ("lisen", Some("listen")),
            ("Listen", Some("listen")),
            ("listen_address", Some("listen")),
            ("shares", Some("share")),
            ("statedir", Some("state_dir")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, keys), want, "{word}");
        }
    }
}
