//! How costs grow, as a picture: small panels side by side, each with sizes along a logarithmic
//! axis and one cost above it from zero.
#![forbid(unsafe_code)]

use crate::chart::{FAINT_INK, GRID, INK, WIDTH, axis_end, open, put, text, tick_step};

const LEFT: f64 = 24.0;
const GAP: f64 = 24.0;
/// Room for the labels of a vertical axis.
const LABELS: f64 = 44.0;
const TOP: f64 = 124.0;
const BOTTOM: f64 = 332.0;
const HEIGHT: f64 = 396.0;
const COLOURS: &[&str] = &["#0b7a75", "#d1495b", "#30638e"];

/// What the picture shows.
#[derive(Debug, Default)]
pub struct Panels {
    /// The heading.
    pub title: String,
    /// What is drawn.
    pub subtitle: String,
    /// What one should know besides.
    pub footnote: String,
    /// From left to right.
    pub panels: Vec<Panel>,
}

/// One cost, or several with one unit.
#[derive(Debug, Default)]
pub struct Panel {
    /// What it is, and its unit.
    pub title: String,
    /// Each curve by its name.
    pub curves: Vec<(&'static str, Vec<Point>)>,
}

/// A measured point.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Its place along the axis.
    pub x: f64,
    /// What stands below it there.
    pub label: String,
    /// The cost.
    pub y: f64,
}

/// Where a panel is, and what its ends stand for.
struct Plane {
    left: f64,
    right: f64,
    first: f64,
    last: f64,
    end: f64,
}

impl Plane {
    fn of(panel: &Panel, left: f64, right: f64) -> Plane {
        let points = || panel.curves.iter().flat_map(|curve| &curve.1);
        let first = points().map(|point| point.x).fold(f64::INFINITY, f64::min);
        let last = points().map(|point| point.x).fold(0.0, f64::max);
        let end = axis_end(points().map(|point| point.y).fold(1e-9, f64::max));
        Plane { left: left + LABELS, right, first, last, end }
    }

    fn x(&self, x: f64) -> f64 {
        let share = (x / self.first).ln() / (self.last / self.first).ln();
        let share = if share.is_finite() { share } else { 0.5 };
        self.left + (self.right - self.left) * share
    }

    fn y(&self, y: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * y / self.end
    }
}

impl Panels {
    /// Draws it.
    pub fn to_svg(&self) -> String {
        let mut svg = String::new();
        open(&mut svg, HEIGHT, &self.title, &self.subtitle);
        let width = (WIDTH - 2.0 * LEFT + GAP) / self.panels.len().max(1) as f64;
        for (index, panel) in self.panels.iter().enumerate() {
            let left = LEFT + width * index as f64;
            draw(&mut svg, panel, &Plane::of(panel, left, left + width - GAP), left);
        }
        text(&mut svg, (24.0, HEIGHT - 14.0), 11, FAINT_INK, "", &self.footnote);
        svg.push_str("</svg>\n");
        svg
    }
}

fn draw(svg: &mut String, panel: &Panel, plane: &Plane, left: f64) {
    text(svg, (left, TOP - 24.0), 12, INK, "font-weight=\"600\"", &panel.title);
    draw_axes(svg, panel, plane);
    for (index, (name, points)) in panel.curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        draw_curve(svg, plane, points, colour);
        if panel.curves.len() > 1 {
            let x = plane.left + 4.0 + 90.0 * index as f64;
            text(svg, (x, TOP - 6.0), 11, colour, "", name);
        }
    }
}

fn draw_axes(svg: &mut String, panel: &Panel, plane: &Plane) {
    let step = tick_step(plane.end);
    for index in 0..=(plane.end / step + 1e-9) as u32 {
        let value = f64::from(index) * step;
        let (y, left, right) = (plane.y(value), plane.left, plane.right);
        put(
            svg,
            format_args!(
                "<line x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" \
                 stroke=\"{GRID}\"/>"
            ),
        );
        let label = format!("{}", (value * 1e3).round() / 1e3);
        text(svg, (left - 6.0, y + 4.0), 11, FAINT_INK, "text-anchor=\"end\"", &label);
    }
    // Every second label, the last one included, for there is little room.
    let Some((_, points)) = panel.curves.first() else { return };
    for point in points.iter().rev().step_by(2) {
        let at = (plane.x(point.x), BOTTOM + 18.0);
        text(svg, at, 10, FAINT_INK, "text-anchor=\"middle\"", &point.label);
    }
}

fn draw_curve(svg: &mut String, plane: &Plane, points: &[Point], colour: &str) {
    let places: Vec<_> = points.iter().map(|point| (plane.x(point.x), plane.y(point.y))).collect();
    let line: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    put(
        svg,
        format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        ),
    );
    for (x, y) in places {
        put(svg, format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(points: &[(f64, f64)]) -> Panel {
        let point = |&(x, y): &(f64, f64)| Point { x, label: format!("{x} MB"), y };
        let curves = vec![("cost", points.iter().map(point).collect())];
        Panel { title: "ns".to_owned(), curves }
    }

    #[test]
    fn sizes_are_spread_by_their_logarithms() {
        let plane = Plane::of(&panel(&[(1.0, 3.0), (100.0, 96.0)]), 0.0, 144.0);
        assert_eq!((plane.x(1.0), plane.x(10.0), plane.x(100.0)), (44.0, 94.0, 144.0));
        assert_eq!((plane.y(0.0), plane.y(100.0)), (BOTTOM, TOP));
    }

    #[test]
    fn every_point_is_drawn_even_a_single_one() {
        for points in [&[(1.0, 2.0)][..], &[(1.0, 2.0), (2.0, 3.0)]] {
            let svg = Panels { panels: vec![panel(points)], ..Panels::default() }.to_svg();
            assert_eq!(svg.matches("<circle").count(), points.len());
            assert!(!svg.contains("NaN") && !svg.contains("inf"));
        }
        assert!(Panels::default().to_svg().ends_with("</svg>\n"));
    }
}
