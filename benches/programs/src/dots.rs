//! Ratios as a picture: a row for each program, a dot in it for each allocator.
#![forbid(unsafe_code)]

use crate::chart::{FAINT_INK, GRID, INK, WIDTH, axis_end, open, put, text, tick_step};

const LEFT: f64 = 168.0;
const RIGHT: f64 = WIDTH - 40.0;
const TOP: f64 = 124.0;
const ROW: f64 = 24.0;
/// What is further out is drawn at the edge.
const MOST: f64 = 3.0;

/// Colours that are told apart by most eyes; the first is for ours.
const COLOURS: &[&str] =
    &["#0b7a75", "#d1495b", "#edae49", "#30638e", "#8e5572", "#6b7880", "#1f2a30"];

/// What the picture shows.
#[derive(Debug, Default)]
pub struct Dots {
    /// The heading.
    pub title: String,
    /// What is drawn, and what is better.
    pub subtitle: String,
    /// What one should know besides.
    pub footnote: String,
    /// The allocators, ours first.
    pub names: Vec<String>,
    /// Each program with the ratio on each allocator, in the order of the names.
    pub rows: Vec<(String, Vec<Option<f64>>)>,
}

struct Plane {
    end: f64,
    bottom: f64,
}

impl Plane {
    fn x(&self, ratio: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * ratio.min(self.end) / self.end
    }
}

impl Dots {
    /// Draws it.
    pub fn to_svg(&self) -> String {
        let greatest = self.rows.iter().flat_map(|row| &row.1).flatten().fold(1.0, |a, b| b.max(a));
        let bottom = TOP + ROW * self.rows.len() as f64;
        let plane = Plane { end: axis_end(greatest.min(MOST)), bottom };
        let mut svg = String::new();
        open(&mut svg, bottom + 64.0, &self.title, &self.subtitle);
        self.draw_legend(&mut svg);
        draw_axis(&mut svg, &plane);
        for (index, row) in self.rows.iter().enumerate() {
            draw_row(&mut svg, &plane, TOP + ROW * (index as f64 + 0.5), row);
        }
        text(&mut svg, (24.0, bottom + 48.0), 11, FAINT_INK, "", &self.footnote);
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_legend(&self, svg: &mut String) {
        let mut x = LEFT;
        for (index, name) in self.names.iter().enumerate() {
            draw_dot(svg, (x, 88.0), index);
            text(svg, (x + 10.0, 92.0), 12, INK, "", name);
            x += 32.0 + 7.0 * name.chars().count() as f64;
        }
    }
}

fn draw_axis(svg: &mut String, plane: &Plane) {
    let step = tick_step(plane.end);
    for index in 0..=(plane.end / step + 1e-9) as u32 {
        let ratio = f64::from(index) * step;
        let (x, bottom) = (plane.x(ratio), plane.bottom);
        put(
            svg,
            format_args!(
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom:.1}\" \
                 stroke=\"{GRID}\"/>"
            ),
        );
        let label = format!("{}", (ratio * 100.0).round() / 100.0);
        text(svg, (x, bottom + 20.0), 12, FAINT_INK, "text-anchor=\"middle\"", &label);
    }
    let (x, bottom) = (plane.x(1.0), plane.bottom);
    put(
        svg,
        format_args!(
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\" \
             stroke=\"{FAINT_INK}\"/>",
            TOP - 6.0
        ),
    );
    text(svg, (x, TOP - 10.0), 11, FAINT_INK, "text-anchor=\"middle\"", "built-in");
}

/// Ours last, on top of the others.
fn draw_row(svg: &mut String, plane: &Plane, y: f64, (name, ratios): &(String, Vec<Option<f64>>)) {
    text(svg, (LEFT - 12.0, y + 4.0), 12, INK, "text-anchor=\"end\"", name);
    for (index, ratio) in ratios.iter().enumerate().rev() {
        if let Some(ratio) = ratio {
            draw_dot(svg, (plane.x(*ratio), y), index);
        }
    }
}

fn draw_dot(svg: &mut String, (x, y): (f64, f64), index: usize) {
    let (radius, opacity) = if index == 0 { (6.0, 1.0) } else { (4.0, 0.8) };
    let colour = COLOURS[index % COLOURS.len()];
    put(
        svg,
        format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\" \
             fill-opacity=\"{opacity}\"/>"
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ratio_is_a_dot_and_every_name_is_there() {
        let dots = Dots {
            names: vec!["ours".to_owned(), "theirs".to_owned()],
            rows: vec![
                ("first".to_owned(), vec![Some(1.5), Some(9.0)]),
                ("second".to_owned(), vec![Some(0.5), None]),
            ],
            ..Dots::default()
        };
        let svg = dots.to_svg();
        assert_eq!(svg.matches("<circle").count(), 2 + 3);
        assert!(["ours", "theirs", "first", "second"].iter().all(|name| svg.contains(name)));
    }

    #[test]
    fn what_is_too_far_out_is_drawn_at_the_edge() {
        let plane = Plane { end: 3.0, bottom: 0.0 };
        assert_eq!((plane.x(3.0), plane.x(9.0), plane.x(0.0)), (RIGHT, RIGHT, LEFT));
    }
}
