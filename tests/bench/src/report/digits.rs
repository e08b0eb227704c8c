//! How numbers are shown.

use crate::stats::Summary;

/// Three digits that matter.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// A ratio.
pub fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

/// The value of a ratio to a reader, who sees no more digits.
pub fn as_shown(value: f64) -> f64 {
    ratio(value).parse().unwrap_or(value)
}

/// Ratios with their span, and whether they lie wide.
pub fn spanned(ratios: &Summary) -> String {
    let [median, min, max] = [ratios.median, ratios.min, ratios.max].map(ratio);
    format!("{median} ({min} to {max}){}", if ratios.is_wide() { ", wide" } else { "" })
}
