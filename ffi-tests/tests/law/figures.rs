//! Figures that are promised: programs of exact sizes, and what they hold at most, by the kernel's
//! account of the whole process, some seconds after they have dropped all.

use crate::course::Course;
use crate::programs::{Door, run, run_stock};
use crate::{TRIES_ALONE, alone};

/// What a program may hold.
struct Figure {
    /// What it makes and drops, and how much of that.
    kind: &'static str,
    waits: &'static [&'static str],
    door: Door,
    /// After the collection.
    after_s: f64,
    most_mb: f64,
}

/// Where nobody sees the program wait, where it waits for another program, and where it works a
/// little.
const WAITS: &[&str] = &["nanosleep", "read", "lightly"];

const FIGURES: [Figure; 3] = [
    // 360 MB.
    Figure {
        kind: "strings:360000",
        waits: WAITS,
        door: Door::Preload,
        after_s: 4.0,
        most_mb: 24.0,
    },
    Figure {
        kind: "tables:1200000",
        waits: WAITS,
        door: Door::Preload,
        after_s: 4.0,
        most_mb: 20.0,
    },
    // 700 MB.
    Figure {
        kind: "block:700000000",
        waits: &["lightly"],
        door: Door::Attach,
        after_s: 2.0,
        most_mb: 60.0,
    },
];

/// The samples are as far apart, and after the last of these seconds comes a full reclaim.
const SAMPLE_S: f64 = 0.1;

impl Figure {
    fn held_mb(&self, course: &Course) -> f64 {
        course.mb_at(course.start_of("rest") + self.after_s - SAMPLE_S)
    }

    /// What it holds too much in a way to wait, in the best of some tries.
    fn breach(&self, wait: &str) -> Option<String> {
        let Figure { kind, door, after_s, most_mb, .. } = *self;
        let stock_mb = self.held_mb(&run_stock(kind, wait, door.luajit()));
        let mut said = Vec::new();
        for _ in 0..=TRIES_ALONE {
            let ours = run(kind, wait, door);
            let held_mb = self.held_mb(&ours);
            let line = format!(
                "{kind}, {wait}, {door:?}: {held_mb:.1} of {most_mb} MB after {after_s} s, stock \
                 {stock_mb:.1}; at most {:.1}",
                ours.most_mb()
            );
            println!("{line}");
            if held_mb <= most_mb {
                return None;
            }
            said.push(line);
        }
        Some(said.join("; "))
    }
}

mod full {
    use super::*;

    #[test]
    #[ignore = "takes longer"]
    fn programs_hold_what_is_promised_at_most() {
        let _alone = alone();
        let ways = FIGURES.iter().flat_map(|figure| figure.waits.iter().map(move |w| (figure, w)));
        let breaches: Vec<String> = ways.filter_map(|(figure, wait)| figure.breach(wait)).collect();
        assert!(breaches.is_empty(), "{breaches:#?}");
    }
}
