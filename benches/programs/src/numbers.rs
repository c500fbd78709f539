//! The little statistics that comparing programs takes.
#![forbid(unsafe_code)]

/// Median, least and greatest of some measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// By how much the values differ from the middle of their range, in percent of the median.
    pub fn percent(&self) -> f64 {
        (self.max - self.min) / 2.0 / self.median * 100.0
    }

    /// The spread of `values`; nothing when there are none.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        };
        Some(Spread { median, min, max })
    }
}

/// The geometric mean; nothing when there are no values.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    let logarithms: f64 = values.iter().map(|value| value.ln()).sum();
    (!values.is_empty()).then(|| (logarithms / values.len() as f64).exp())
}

/// By which power of x a cost grows: the slope of the line through the logarithms of points
/// (x, cost), 1 for a cost in proportion. Nothing with fewer than two different x.
pub fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let logarithms: Vec<_> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = logarithms.len() as f64;
    let mean_x = logarithms.iter().map(|point| point.0).sum::<f64>() / count;
    let mean_y = logarithms.iter().map(|point| point.1).sum::<f64>() / count;
    let spread: f64 = logarithms.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let together: f64 = logarithms.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    (spread > 0.0).then_some(together / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_order_and_outliers() {
        let odd = Spread::of(&[9.0, 1.0, 2.0]);
        assert_eq!(odd, Some(Spread { median: 2.0, min: 1.0, max: 9.0 }));
        let even = Spread::of(&[4.0, 1.0, 2.0, 100.0]);
        assert_eq!(even, Some(Spread { median: 3.0, min: 1.0, max: 100.0 }));
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread { median: 2.0, min: 1.0, max: 3.0 }.percent(), 50.0);
    }

    #[test]
    fn exponents_are_those_of_powers() {
        let power = |p: f64| [1.0f64, 10.0, 1000.0].map(|x| (x, 7.0 * x.powf(p)));
        for p in [0.0, 1.0, 2.0] {
            let exponent = exponent(&power(p)).expect("three points");
            assert!((exponent - p).abs() < 1e-9, "{p}: {exponent}");
        }
        assert_eq!((exponent(&[(2.0, 3.0)]), exponent(&[])), (None, None));
    }

    #[test]
    fn twice_and_half_make_one() {
        let mean = geometric_mean(&[2.0, 0.5]).expect("two values");
        assert!((mean - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[]), None);
    }
}
