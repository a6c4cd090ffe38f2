//! Curves as SVG paths that stay small however long the bag is.

use std::fmt::Write;

use super::scale::Scale;

/// Every drawing is so many units wide and high, and stretched to its place on the page.
pub const WIDTH: f64 = 1000.0;
pub const HEIGHT: f64 = 100.0;
/// A curve with more points than this is drawn by its least and its largest value in each of `WIDTH` columns.
pub const POINTS: usize = 2 * WIDTH as usize;

/// Values over seconds.
pub type Curve = [(f64, f64)];

/// The path of a curve, broken where it has no finite value and where its points are more than `longest` seconds apart. A reader of the path
/// gets time and value back to a thousandth and to a ten-thousandth of the scales.
pub fn path(curve: &Curve, time: Scale, values: Scale, longest: f64) -> String {
    let mut path = String::new();
    for part in curve.chunk_by(|a, b| b.0 - a.0 <= longest && a.1.is_finite() == b.1.is_finite()) {
        if part[0].1.is_finite() {
            let points = part.iter().map(|&(at, value)| (time.at(at) * WIDTH, (1.0 - values.at(value)) * HEIGHT));
            if curve.len() > POINTS { draw(&mut path, columns(points)) } else { draw(&mut path, points) }
        }
    }
    path
}

/// The least and the largest value of each column, in the order in which they came.
fn columns(points: impl Iterator<Item = (f64, f64)>) -> impl Iterator<Item = (f64, f64)> {
    let points: Vec<_> = points.map(|(x, y)| (x.floor(), y)).collect();
    let extremes = |column: &[(f64, f64)]| {
        let ends = |choose: fn(&f64, &f64) -> bool| {
            (1..column.len()).fold(0, |best, index| if choose(&column[index].1, &column[best].1) { index } else { best })
        };
        let (least, largest) = (ends(|a, b| a < b), ends(|a, b| a > b));
        let (first, second) = (column[least.min(largest)], column[least.max(largest)]);
        std::iter::once(first).chain((first != second).then_some(second)).collect::<Vec<_>>()
    };
    points.chunk_by(|a, b| a.0 == b.0).flat_map(extremes).collect::<Vec<_>>().into_iter()
}

fn draw(path: &mut String, points: impl Iterator<Item = (f64, f64)>) {
    let mut drawn = 0;
    for (x, y) in points {
        // Writing to a string does not fail. A path goes on with lines after its start.
        let _ = write!(path, "{}{} {}", if drawn == 0 { 'M' } else { ' ' }, decimal(x, 1), decimal(y, 2));
        drawn += 1;
    }
    if drawn == 1 {
        // A point alone shows by its round ends.
        path.push_str("h0");
    }
}

/// A number without the zeros that say nothing.
pub fn decimal(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The stretches of time in which something holds: `(from, to)` in seconds, for points that hold for `period` seconds each.
pub fn stretches(points: impl Iterator<Item = (f64, bool)>, period: f64) -> Vec<(f64, f64)> {
    let mut found: Vec<(f64, f64)> = Vec::new();
    for (at, _) in points.filter(|(_, holds)| *holds) {
        match found.last_mut() {
            Some((_, to)) if at - *to <= period * 0.5 => *to = at + period,
            _ => found.push((at, at + period)),
        }
    }
    found
}

/// Rectangles over the whole height for stretches of time, none narrower than two units; those that (nearly) touch become one.
pub fn spans(stretches: &[(f64, f64)], time: Scale, class: &str) -> String {
    let mut merged: Vec<(f64, f64)> = Vec::new();
    for &(from, to) in stretches {
        let from = (time.at(from) * WIDTH).min(WIDTH - 2.0);
        let to = (time.at(to) * WIDTH).max(from + 2.0);
        match merged.last_mut() {
            Some((_, end)) if from <= *end + 2.0 => *end = end.max(to),
            _ => merged.push((from, to)),
        }
    }
    if merged.is_empty() {
        return String::new();
    }
    let mut d = String::new();
    for (from, to) in merged {
        let _ = write!(d, "M{} 0V{HEIGHT}H{}V0Z", decimal(from, 1), decimal(to, 1));
    }
    format!("<path class=\"{class}\" d=\"{d}\"/>")
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: Scale = Scale { low: 0.0, high: 1.0 };

    #[test]
    fn a_short_curve_keeps_every_point_and_breaks_where_it_is_not_there() {
        let curve = [(0.0, 0.0), (0.1, 0.5), (0.2, f64::NAN), (0.3, 1.0), (0.8, 0.25), (0.9, f64::INFINITY)];
        assert_eq!(path(&curve, UNIT, UNIT, 0.2), "M0 100 100 50M300 0h0M800 75h0");
    }

    /// One in ten thousand commands jumps: it has to be seen.
    #[test]
    fn a_long_curve_stays_small_and_keeps_every_peak() {
        let curve: Vec<_> = (0..30_000).map(|i| (f64::from(i) / 30_000.0, if i == 12_345 { 1.0 } else { 0.5 })).collect();
        let path = path(&curve, UNIT, UNIT, 0.1);
        assert!(path.len() < 12_000, "{}", path.len());
        assert!(path.contains("411 50 411 0 "), "{path}");
        assert!(!path.contains("NaN"));
    }

    #[test]
    fn neighbours_that_hold_are_one_stretch() {
        let points = [(0.0, true), (0.1, true), (0.2, false), (0.3, true), (0.7, true)];
        let found = stretches(points.into_iter(), 0.1);
        assert_eq!(found.len(), 3);
        assert!((found[0].0, found[0].1) == (0.0, 0.2));
        let drawn = spans(&found, UNIT, "outside");
        assert_eq!(drawn.matches('M').count(), 3);
        assert!(spans(&[], UNIT, "outside").is_empty());
    }
}
