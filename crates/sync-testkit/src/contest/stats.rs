//! Numbers for people.

/// The value below which that part of the values lies. Sorts them.
///
/// # Panics
/// If there are none.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    reason = "few values"
)]
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

/// The middle of some values and how far they lie apart.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// The middle value.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Of these values; `None` if there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        if values.is_empty() {
            return None;
        }
        let [least, median, most] = [0.0, 0.5, 1.0].map(|part| quantile(&mut values, part));
        Some(Self { median, least, most })
    }
}

/// Bytes in MiB.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_middle() {
        let spread = Spread::of([3.0, 1.0, 2.0, 9.0, 4.0]).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 3.0, 9.0));
        assert_eq!(quantile(&mut [5.0, 1.0, 2.0], 0.99), 5.0);
        assert!(Spread::of([]).is_none());
    }
}
