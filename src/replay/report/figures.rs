//! Numbers as a reader sees them.

/// A value with about four figures: `0.4123`, `12.34`, `3.2e-7`.
pub fn value(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if !value.is_finite() {
        return if value.is_nan() { "NaN".into() } else { format!("{}∞", if value < 0.0 { "-" } else { "" }) };
    }
    let exponent = value.abs().log10().floor();
    if (-3.0..6.0).contains(&exponent) {
        let decimals = (3.0 - exponent).clamp(0.0, 4.0) as usize;
        format!("{value:.decimals$}")
    } else {
        format!("{value:.1e}")
    }
}

/// Two values that differ, with as many figures as it takes to see it.
pub fn pair(a: f64, b: f64) -> (String, String) {
    let (short_a, short_b) = (value(a), value(b));
    if short_a != short_b || a.to_bits() == b.to_bits() { (short_a, short_b) } else { (format!("{a:?}"), format!("{b:?}")) }
}

/// A wall time or an age.
pub fn milliseconds(seconds: f64) -> String {
    let ms = seconds * 1e3;
    if !ms.is_finite() {
        return value(ms);
    }
    let decimals = if ms.abs() < 10.0 { 2 } else { usize::from(ms.abs() < 100.0) };
    format!("{ms:.decimals$}")
}

/// `12,345`
pub fn count(count: usize) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 chunk`, `2 chunks`
pub fn counted(number: usize, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Nanoseconds since the epoch as seconds of the bag, which begins at `origin`.
pub fn bag_time(stamp: i64, origin: i64) -> f64 {
    stamp.saturating_sub(origin) as f64 / 1e9
}

/// A stamp as ROS prints it: seconds and nanoseconds.
pub fn stamp(stamp: i64) -> String {
    format!("{}.{:09}", stamp.div_euclid(1_000_000_000), stamp.rem_euclid(1_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_four_figures_and_small_ones_an_exponent() {
        let found = [0.0, 0.41234, -1.5, 12.3456, 1234.56, 3.21e-7, 1.5e9, 0.0012345].map(value);
        assert_eq!(found, ["0", "0.4123", "-1.500", "12.35", "1235", "3.2e-7", "1.5e9", "0.0012"]);
        assert_eq!([f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(value), ["NaN", "∞", "-∞"]);
    }

    #[test]
    fn different_values_look_different() {
        assert_eq!(pair(0.1, 0.2), ("0.1000".into(), "0.2000".into()));
        let (a, b) = pair(0.1, 0.1 + 1e-12);
        assert_ne!(a, b);
        assert_eq!(pair(0.5, 0.5), ("0.5000".into(), "0.5000".into()));
    }

    #[test]
    fn counts_are_grouped_and_have_their_plural() {
        assert_eq!([0, 999, 1000, 30_000, 1_234_567].map(count), ["0", "999", "1,000", "30,000", "1,234,567"]);
        assert_eq!([counted(1, "chunk"), counted(2, "chunk")], ["1 chunk", "2 chunks"]);
    }

    #[test]
    fn stamps_keep_their_nanoseconds_before_the_epoch_too() {
        assert_eq!([stamp(1_767_225_600_040_000_001), stamp(-1)], ["1767225600.040000001", "-1.999999999"]);
        assert_eq!(milliseconds(0.0123456), "12.3");
    }
}
