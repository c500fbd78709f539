//! What a program held over its phases, and how two runs of it compare.

/// What a program held at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Seconds since the program began.
    pub at_s: f64,
    /// Resident memory, in MB.
    pub mb: f64,
}

/// One run of a program.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// When each phase began, in seconds, and its name; the last one is the end.
    pub phases: Vec<(f64, String)>,
    pub samples: Vec<Sample>,
}

/// A mean over some seconds, beside that of the other run over the same work.
#[derive(Clone, Copy, Debug)]
pub struct Excess {
    pub from_s: f64,
    pub ours_mb: f64,
    pub stock_mb: f64,
}

/// Seconds of the windows over which resident memory is compared.
const WINDOW_S: f64 = 3.0;
/// What ebbtide may hold more on average: the larger of these MB and this share.
const MORE_MB: f64 = 8.0;
const MORE_SHARE: f64 = 0.15;

impl Excess {
    /// MB beyond what may be.
    pub fn beyond_mb(&self) -> f64 {
        self.ours_mb - self.stock_mb - MORE_MB.max(MORE_SHARE * self.stock_mb)
    }
}

impl Course {
    /// When the phase of this name began last.
    pub fn start_of(&self, name: &str) -> f64 {
        let phase = self.phases.iter().rev().find(|(_, phase)| phase == name);
        phase.unwrap_or_else(|| panic!("there is no phase {name}: {:?}", self.phases)).0
    }

    /// Each phase with when it began and what was held then, a line each. Not those that only say how
    /// far a loop is.
    pub fn summary(&self) -> String {
        let phase = |(at_s, name): &(f64, String)| {
            format!("{name} at {at_s:.2} s: {:.1} MB\n      ", self.mb_at(*at_s))
        };
        let is_named = |phase: &&(f64, String)| !phase.1.starts_with("turn ");
        let phases: String = self.phases.iter().filter(is_named).map(phase).collect();
        let rest_s = self.start_of("rest");
        let rest = (0..16).map(|quarter| rest_s + f64::from(quarter) / 4.0);
        let rest: Vec<String> = rest.map(|at_s| format!("{:.0}", self.mb_at(at_s))).collect();
        format!("{phases}rest, MB in quarters of a second: {}\n", rest.join(" "))
    }

    fn end_s(&self) -> f64 {
        self.phases.last().map_or(0.0, |(at_s, _)| *at_s)
    }

    /// What was held at a time, on a straight line between two samples.
    pub fn mb_at(&self, at_s: f64) -> f64 {
        let next = self.samples.partition_point(|sample| sample.at_s < at_s);
        let [before, after] = [next.saturating_sub(1), next.min(self.samples.len() - 1)]
            .map(|index| self.samples[index]);
        let length_s = after.at_s - before.at_s;
        let share = if length_s > 0.0 { (at_s - before.at_s) / length_s } else { 0.0 };
        before.mb + (after.mb - before.mb) * share.clamp(0.0, 1.0)
    }

    /// The most that was held at a time.
    pub fn most_mb(&self) -> f64 {
        self.samples.iter().map(|sample| sample.mb).fold(0.0, f64::max)
    }

    /// When this run was where `other` is at a time: in the same phase, as far in it.
    fn same_work_in(&self, other: &Course, at_s: f64) -> f64 {
        let after = self.phases.partition_point(|(start_s, _)| *start_s <= at_s);
        let phase = after.clamp(1, self.phases.len() - 1) - 1;
        let length_s = self.phases[phase + 1].0 - self.phases[phase].0;
        let share = ((at_s - self.phases[phase].0) / length_s.max(1e-6)).clamp(0.0, 1.0);
        let [start_s, end_s] = [phase, phase + 1].map(|index| other.phases[index].0);
        start_s + share * (end_s - start_s)
    }

    /// The window in which this run held most beyond what it may, beside one of stock LuaJIT.
    pub fn worst_beside(&self, stock: &Course) -> Excess {
        let names = |course: &Course| -> Vec<String> {
            course.phases.iter().map(|(_, name)| name.clone()).collect()
        };
        assert_eq!(names(self), names(stock), "both run through the same phases");
        const STEP_S: f64 = 0.01;
        let count = (self.end_s() / STEP_S) as usize;
        let points: Vec<(f64, f64)> = (0..count)
            .map(|step| {
                let at_s = step as f64 * STEP_S;
                (self.mb_at(at_s), stock.mb_at(self.same_work_in(stock, at_s)))
            })
            .collect();
        let window = ((WINDOW_S / STEP_S) as usize).min(count);
        let windows = points.windows(window).enumerate().map(|(first, window)| {
            let mean = |value: fn(&(f64, f64)) -> f64| {
                window.iter().map(value).sum::<f64>() / window.len() as f64
            };
            let (ours_mb, stock_mb) = (mean(|point| point.0), mean(|point| point.1));
            Excess { from_s: first as f64 * STEP_S, ours_mb, stock_mb }
        });
        windows
            .max_by(|one, other| one.beyond_mb().total_cmp(&other.beyond_mb()))
            .expect("a run has samples")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that holds these MB, each from its time on.
    fn course(phases: &[(f64, &str)], steps: &[(f64, f64)]) -> Course {
        let end_s = phases.last().expect("a course ends").0;
        let held = |at_s: f64| {
            let step = steps.iter().rev().find(|step| step.0 <= at_s);
            Sample { at_s, mb: step.map_or(0.0, |step| step.1) }
        };
        Course {
            phases: phases.iter().map(|(at_s, name)| (*at_s, (*name).to_owned())).collect(),
            samples: (0..=(end_s * 100.0) as usize).map(|step| held(step as f64 / 100.0)).collect(),
        }
    }

    #[test]
    fn the_same_work_is_compared_however_long_it_took() {
        let stock =
            course(&[(0.0, "fill"), (1.0, "rest"), (5.0, "end")], &[(0.0, 100.0), (1.0, 5.0)]);
        let slow =
            course(&[(0.0, "fill"), (4.0, "rest"), (8.0, "end")], &[(0.0, 100.0), (4.0, 5.0)]);
        assert!(slow.worst_beside(&stock).beyond_mb() < -7.0);
    }

    #[test]
    fn what_is_held_for_a_second_longer_is_found_in_its_window() {
        let phases = [(0.0, "fill"), (4.0, "rest"), (8.0, "end")];
        let stock = course(&phases, &[(0.0, 100.0), (4.0, 10.0)]);
        let late = course(&phases, &[(0.0, 100.0), (5.0, 10.0)]);
        let worst = late.worst_beside(&stock);
        // A second of 90 MB in three.
        assert!((20.0..23.0).contains(&worst.beyond_mb()), "{worst:?}");
        assert!((2.0..=4.1).contains(&worst.from_s), "{worst:?}");
        assert!(stock.worst_beside(&stock).beyond_mb() < 0.0);
    }

    #[test]
    fn a_share_of_what_stock_holds_may_be_held_on_top() {
        let phases = [(0.0, "fill"), (4.0, "end")];
        let of = |mb: f64| course(&phases, &[(0.0, mb)]);
        assert!(of(114.0).worst_beside(&of(100.0)).beyond_mb() < 0.0);
        assert!(of(116.0).worst_beside(&of(100.0)).beyond_mb() > 0.0);
    }
}
