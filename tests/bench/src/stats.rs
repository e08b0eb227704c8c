//! What many measurements of one thing say.

use serde::Serialize;

/// The middle one, or the mean of the two that are in the middle.
pub fn median(values: Vec<f64>) -> f64 {
    let half = values.len() / 2;
    let middle = |at: usize| {
        let mut values = values.clone();
        values.sort_by(f64::total_cmp);
        values.get(at).copied().unwrap_or(f64::NAN)
    };
    if values.len() % 2 == 1 { middle(half) } else { (middle(half.wrapping_sub(1)) + middle(half)) / 2.0 }
}

/// The value that a share `p` of them does not exceed.
pub fn percentile(mut values: Vec<f64>, p: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * p).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Several measurements of one thing.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Summary {
    /// How many there are.
    pub count: usize,
    /// The least.
    pub min: f64,
    /// The middle.
    pub median: f64,
    /// The most.
    pub max: f64,
    /// How wide the middle half lies, as a share of the median; of few values, all of
    /// them, since one of four is not to be left out.
    pub spread: f64,
}

/// What lies wider than this compares nothing.
const WIDE: f64 = 0.25;
/// Of fewer values than this, all count for the spread.
const FEW: usize = 8;

impl Summary {
    /// Of values of which there is one at least.
    pub fn of(values: Vec<f64>) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let at = |p| percentile(values.clone(), p);
        let median = median(values.clone());
        let (low, high) = if values.len() < FEW { (0.0, 1.0) } else { (0.25, 0.75) };
        let spread = (at(high) - at(low)) / median.abs().max(f64::MIN_POSITIVE);
        Some(Self { count: values.len(), min: at(0.0), median, max: at(1.0), spread })
    }

    /// Whether the values lie too far apart to be compared.
    pub fn is_wide(&self) -> bool {
        self.spread > WIDE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(percentile(vec![1.0, 2.0, 3.0, 4.0], 1.0), 4.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5, "neither of the two");
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn widely_spread_values_are_marked_wide() {
        let wide = |values: &[f64]| Summary::of(values.to_vec()).expect("values").is_wide();
        assert!(!wide(&[1.0, 1.0, 1.1, 1.0, 1.0, 1.1, 1.0, 5.0]), "one outlier of many is no spread");
        assert!(wide(&[0.44, 0.92, 0.94, 1.11]), "one of four is");
        assert!(!wide(&[0.94, 0.92, 0.94, 1.11]));
        assert!(wide(&[1.0, 2.0, 3.0, 4.0, 5.0]));
        assert!(Summary::of(Vec::new()).is_none());
    }
}
