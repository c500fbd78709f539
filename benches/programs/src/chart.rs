//! Memory over time as a picture: an SVG that needs nothing but a viewer.
//!
//! Curves are labelled where they end instead of in a legend, and phases are bands in the
//! background. Everything is placed by [`Plane`], which turns seconds and MB into pixels.
#![forbid(unsafe_code)]

use std::fmt::Write;

pub(crate) const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 784.0;
const TOP: f64 = 112.0;
const BOTTOM: f64 = 396.0;
/// Labels at the ends of curves keep this distance, from baseline to baseline.
const LABEL_GAP: f64 = 52.0;

pub(crate) const INK: &str = "#1f2a30";
pub(crate) const FAINT_INK: &str = "#6b7880";
pub(crate) const GRID: &str = "#dfe4e6";
const BAND: &str = "#f3f6f7";
const BAND_HALF: &str = "#f9fbfb";

/// What the picture shows.
#[derive(Debug, Default)]
pub struct Chart {
    /// The heading.
    pub title: String,
    /// What is drawn, and its unit.
    pub subtitle: String,
    /// What one should know besides, line by line below the picture.
    pub footnotes: Vec<String>,
    /// The curves, the ones at the back first.
    pub series: Vec<Series>,
    /// Stretches of time to set off.
    pub bands: Vec<Band>,
}

/// One curve.
#[derive(Debug)]
pub struct Series {
    /// Its name, at its end.
    pub label: String,
    /// An SVG colour.
    pub colour: &'static str,
    /// A pale one, for the area below.
    pub tint: &'static str,
    /// Seconds and MB, in order of time.
    pub points: Vec<(f64, f64)>,
    /// Remarks at some of its points.
    pub notes: Vec<Note>,
}

/// A remark, in lines, to the right of a point and above it.
#[derive(Debug)]
pub struct Note {
    /// Seconds and MB.
    pub at: (f64, f64),
    /// What to say.
    pub lines: Vec<String>,
}

/// A stretch of time.
#[derive(Debug)]
pub struct Band {
    /// Its name, at the top if there is room.
    pub label: String,
    /// In seconds.
    pub from: f64,
    /// In seconds.
    pub to: f64,
    /// How dark its ground is.
    pub shade: Shade,
}

/// How dark a ground is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shade {
    /// White.
    None,
    /// Between the two.
    Half,
    /// Pale grey.
    Full,
}

impl Shade {
    fn colour(self) -> &'static str {
        match self {
            Shade::None => "none",
            Shade::Half => BAND_HALF,
            Shade::Full => BAND,
        }
    }
}

/// About how wide the label of a band is.
fn width_of(label: &str) -> f64 {
    5.4 * label.chars().count() as f64
}

/// Seconds and MB on the drawing area.
struct Plane {
    seconds: f64,
    megabytes: f64,
}

impl Plane {
    fn of(series: &[Series]) -> Plane {
        let points = || series.iter().flat_map(|series| &series.points);
        let seconds = points().map(|point| point.0).fold(1.0, f64::max);
        let megabytes = axis_end(points().map(|point| point.1).fold(1.0, f64::max));
        Plane { seconds, megabytes }
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * seconds / self.seconds
    }

    fn y(&self, megabytes: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * megabytes / self.megabytes
    }
}

/// The distance of round ticks that divide `range` into four to ten.
pub(crate) fn tick_step(range: f64) -> f64 {
    let power = 10f64.powf((range / 5.0).log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * power);
    let fitting = steps.into_iter().find(|step| range / step <= 8.0);
    fitting.unwrap_or(10.0 * power)
}

/// The first round tick that is above `greatest` with a little room.
pub fn axis_end(greatest: f64) -> f64 {
    let step = tick_step(greatest);
    (greatest * 1.04 / step).ceil() * step
}

fn ticks(end: f64) -> impl Iterator<Item = f64> {
    let step = tick_step(end);
    (0..=(end / step + 1e-9) as u32).map(move |index| f64::from(index) * step)
}

impl Chart {
    /// Draws it.
    pub fn to_svg(&self) -> String {
        let plane = Plane::of(&self.series);
        let mut svg = String::new();
        self.open(&mut svg);
        self.draw_bands(&mut svg, &plane);
        for series in &self.series {
            draw_area(&mut svg, &plane, series);
        }
        draw_axes(&mut svg, &plane);
        for series in &self.series {
            draw_line(&mut svg, &plane, series);
        }
        self.draw_labels(&mut svg, &plane);
        svg.push_str("</svg>\n");
        svg
    }

    fn open(&self, svg: &mut String) {
        open(svg, HEIGHT, &self.title, &self.subtitle);
        for (above, line) in self.footnotes.iter().rev().enumerate() {
            let y = HEIGHT - 16.0 - 16.0 * above as f64;
            text(svg, (24.0, y), 11, FAINT_INK, "", line);
        }
    }

    fn draw_bands(&self, svg: &mut String, plane: &Plane) {
        for band in &self.bands {
            let (from, to) = (plane.x(band.from), plane.x(band.to));
            let top = TOP - 24.0;
            put(
                svg,
                format_args!(
                    "<rect x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" \
                     fill=\"{}\"/>",
                    to - from,
                    BOTTOM - top,
                    band.shade.colour()
                ),
            );
            if width_of(&band.label) <= to - from {
                let middle = ((from + to) / 2.0, TOP - 8.0);
                text(svg, middle, 11, FAINT_INK, "text-anchor=\"middle\"", &band.label);
            }
        }
    }

    /// Names and last values, to the right of the last points, moved apart where they would touch.
    fn draw_labels(&self, svg: &mut String, plane: &Plane) {
        let ends = self.series.iter().filter_map(|series| Some((series, *series.points.last()?)));
        let mut ends: Vec<_> = ends.collect();
        ends.sort_by(|a, b| a.1.1.total_cmp(&b.1.1));
        let mut lowest_free = BOTTOM - 2.0;
        for (series, (_, megabytes)) in ends {
            let y = (plane.y(megabytes) + 4.0).min(lowest_free);
            lowest_free = y - LABEL_GAP;
            let value = format!("{megabytes:.1} MB");
            let x = RIGHT + 14.0;
            text(svg, (x, y - 18.0), 13, series.colour, "", &series.label);
            text(svg, (x, y + 2.0), 19, series.colour, "font-weight=\"600\"", &value);
        }
    }
}

/// Begins a picture of this height, with its heading.
pub(crate) fn open(svg: &mut String, height: f64, title: &str, subtitle: &str) {
    let label = escape(title);
    put(
        svg,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-label=\"{label}\" \
             font-family=\"Inter, 'Helvetica Neue', Helvetica, Arial, sans-serif\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
        ),
    );
    text(svg, (24.0, 40.0), 21, INK, "font-weight=\"600\"", title);
    text(svg, (24.0, 63.0), 13, FAINT_INK, "", subtitle);
}

fn draw_axes(svg: &mut String, plane: &Plane) {
    for megabytes in ticks(plane.megabytes) {
        let y = plane.y(megabytes);
        let colour = if megabytes == 0.0 { FAINT_INK } else { GRID };
        put(
            svg,
            format_args!(
                "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\" \
                 stroke=\"{colour}\" stroke-opacity=\"0.7\"/>"
            ),
        );
        let label = match megabytes == plane.megabytes {
            true => format!("{megabytes} MB"),
            false => megabytes.to_string(),
        };
        text(svg, (LEFT - 8.0, y + 4.0), 12, FAINT_INK, "text-anchor=\"end\"", &label);
    }
    for seconds in ticks(plane.seconds) {
        let label = format!("{seconds} s");
        let at = (plane.x(seconds), BOTTOM + 20.0);
        text(svg, at, 12, FAINT_INK, "text-anchor=\"middle\"", &label);
    }
}

fn draw_area(svg: &mut String, plane: &Plane, series: &Series) {
    let (Some(first), Some(last)) = (series.points.first(), series.points.last()) else {
        return;
    };
    put(
        svg,
        format_args!(
            "<path d=\"M{:.1},{BOTTOM} L{} L{:.1},{BOTTOM} Z\" fill=\"{}\"/>",
            plane.x(first.0),
            coordinates(plane, series),
            plane.x(last.0),
            series.tint
        ),
    );
}

fn draw_line(svg: &mut String, plane: &Plane, series: &Series) {
    let Some(last) = series.points.last() else { return };
    let colour = series.colour;
    put(
        svg,
        format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\" \
             stroke-linejoin=\"round\" stroke-linecap=\"round\"/>\n\
             <circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>",
            coordinates(plane, series),
            plane.x(last.0),
            plane.y(last.1)
        ),
    );
    for note in &series.notes {
        draw_note(svg, plane, note, colour);
    }
}

fn coordinates(plane: &Plane, series: &Series) -> String {
    let place = |&(seconds, megabytes): &(f64, f64)| {
        format!("{:.1},{:.1}", plane.x(seconds), plane.y(megabytes))
    };
    series.points.iter().map(place).collect::<Vec<_>>().join(" ")
}

fn draw_note(svg: &mut String, plane: &Plane, note: &Note, colour: &str) {
    let (x, y) = (plane.x(note.at.0) + 8.0, plane.y(note.at.1));
    let height = 14.0;
    for (index, line) in note.lines.iter().enumerate() {
        let lift = height * (note.lines.len() - index) as f64;
        text(svg, (x, y - lift), 11, colour, "", line);
    }
}

pub(crate) fn text(
    svg: &mut String,
    (x, y): (f64, f64),
    size: u32,
    colour: &str,
    more: &str,
    content: &str,
) {
    let content = escape(content);
    put(
        svg,
        format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{colour}\" {more}>\
             {content}</text>"
        ),
    );
}

pub(crate) fn put(svg: &mut String, element: std::fmt::Arguments) {
    let _ = writeln!(svg, "{element}");
}

/// Text as it may stand in an element or an attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escape("a < b & \"c\" > d"), "a &lt; b &amp; &quot;c&quot; &gt; d");
    }

    #[test]
    fn axes_end_on_round_numbers_above_the_greatest() {
        for (greatest, end) in [(1.0, 1.2), (86.8, 100.0), (96.0, 100.0), (99.0, 120.0)] {
            assert!((axis_end(greatest) - end).abs() < 1e-9, "{greatest}: {}", axis_end(greatest));
        }
        assert_eq!(ticks(100.0).collect::<Vec<_>>(), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
    }

    #[test]
    fn the_plane_spans_the_drawing_area() {
        let points = vec![(0.0, 0.0), (10.0, 96.0)];
        let (label, notes) = (String::new(), Vec::new());
        let series = Series { label, colour: "black", tint: "grey", points, notes };
        let plane = Plane::of(&[series]);
        assert_eq!((plane.x(0.0), plane.x(10.0)), (LEFT, RIGHT));
        assert_eq!((plane.y(0.0), plane.y(100.0)), (BOTTOM, TOP));
    }

    #[test]
    fn a_label_without_room_is_left_out() {
        let points = vec![(0.0, 0.0), (100.0, 96.0)];
        let (label, notes) = (String::new(), Vec::new());
        let series = vec![Series { label, colour: "black", tint: "grey", points, notes }];
        let band =
            |label: &str, from, to| Band { label: label.to_owned(), from, to, shade: Shade::Full };
        let bands = vec![band("narrow", 0.0, 1.0), band("wide", 1.0, 100.0)];
        let svg = Chart { series, bands, ..Chart::default() }.to_svg();
        assert!(svg.contains(">wide<") && !svg.contains("narrow"));
    }

    #[test]
    fn an_empty_chart_is_still_a_picture() {
        let svg = Chart { title: "a & b".to_owned(), ..Chart::default() }.to_svg();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("a &amp; b"));
    }
}
