//! A plot of the growth of costs: two panels, time and memory, over the number of files; all scales are logarithmic, so
//! that what grows with the tree is a straight line as steep as the grey one.

use std::fmt::Write as _;

use crate::growth::Point;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 60.0;
/// Colours that are told apart also by those who see fewer.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

type Series = (&'static str, fn(&Point) -> f64);

/// The plot as an SVG document.
pub(crate) fn svg(points: &[Point]) -> String {
    let times: [Series; 4] = [
        ("cold pull", |point| point.cold),
        ("no-op pull", |point| point.noop),
        ("one change", |point| point.one_change),
        ("daemon restart", |point| point.restart),
    ];
    let memory: [Series; 2] = [("agent", |point| point.agent_mib), ("daemon", |point| point.daemon_mib)];
    let mut text = String::new();
    let (width, height) = (2.0 * (WIDTH + MARGIN) + MARGIN, HEIGHT + 2.0 * MARGIN);
    let _infallible = writeln!(
        text,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>"##
    );
    panel(&mut text, MARGIN, "seconds", (points, &times));
    panel(&mut text, WIDTH + 2.0 * MARGIN, "peak memory, MiB", (points, &memory));
    text.push_str("</svg>\n");
    text
}

/// Maps logarithms to a length.
struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    /// Whole decades around the values.
    fn around(values: impl Iterator<Item = f64> + Clone) -> Self {
        let logs = values.filter(|value| *value > 0.0).map(f64::log10);
        let least = logs.clone().fold(f64::INFINITY, f64::min).floor();
        let most = logs.fold(f64::NEG_INFINITY, f64::max).ceil();
        Self { least, most: most.max(least + 1.0) }
    }

    fn place(&self, value: f64, length: f64) -> f64 {
        (value.log10().clamp(self.least, self.most) - self.least) / (self.most - self.least) * length
    }

    fn decades(&self) -> impl Iterator<Item = f64> {
        #[expect(clippy::cast_possible_truncation, reason = "whole and small")]
        let range = self.least as i32..=self.most as i32;
        range.map(|power| 10f64.powi(power))
    }
}

fn panel(text: &mut String, left: f64, title: &str, (points, series): (&[Point], &[Series])) {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let files = |point: &Point| point.files as f64;
    let across = Scale::around(points.iter().map(files));
    let up = Scale::around(series.iter().flat_map(|(_, of)| points.iter().map(of)));
    let bottom = MARGIN + HEIGHT;
    let x = |value: f64| left + across.place(value, WIDTH);
    let y = |value: f64| bottom - up.place(value, HEIGHT);
    let mut line = |x: [f64; 2], y: [f64; 2], colour: &str| {
        let [(x1, x2), (y1, y2)] = [(x[0], x[1]), (y[0], y[1])];
        let _infallible = writeln!(
            text,
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}"/>"#
        );
    };
    across.decades().for_each(|value| line([x(value); 2], [MARGIN, bottom], "#ddd"));
    up.decades().for_each(|value| line([left, left + WIDTH], [y(value); 2], "#ddd"));
    // As steep as what grows with the tree, from the lower left corner.
    let decades = (across.most - across.least).min(up.most - up.least);
    let (right, top) = (10f64.powf(across.least + decades), 10f64.powf(up.least + decades));
    line([left, x(right)], [bottom, y(top)], "#999");

    let mut label = |x: f64, y: f64, (anchor, colour): (&str, &str), words: &str| {
        let _infallible = writeln!(
            text,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{colour}">{words}</text>"#
        );
    };
    across.decades().for_each(|value| label(x(value), bottom + 18.0, ("middle", "#333"), &value.to_string()));
    up.decades().for_each(|value| label(left - 6.0, y(value) + 4.0, ("end", "#333"), &value.to_string()));
    label(left + WIDTH / 2.0, bottom + 40.0, ("middle", "#333"), "files");
    label(left, MARGIN - 34.0, ("start", "#000"), title);
    for (number, (name, _)) in series.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let place = left + number as f64 * 105.0;
        label(place, MARGIN - 12.0, ("start", COLOURS[number]), name);
    }
    for (number, (_, of)) in series.iter().enumerate() {
        let places: Vec<String> =
            points.iter().map(|point| format!("{:.1},{:.1}", x(files(point)), y(of(point)))).collect();
        let (places, colour) = (places.join(" "), COLOURS[number]);
        let _infallible =
            writeln!(text, r#"<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>"#);
    }
}
