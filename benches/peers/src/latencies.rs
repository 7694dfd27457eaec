//! Many durations in little memory: counts in buckets that are 3 % wide.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::findings::Figures;

/// Steps within a doubling.
const STEPS: u64 = 32;
/// Words that one histogram takes.
pub const WORDS: usize = (64 * STEPS) as usize;

/// The quantiles that findings hold, in percent, for tables and for the chart.
pub const QUANTILES: [f64; 12] = [
    1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99,
];

/// Counts one duration. The words are this process's own until it has reported.
#[inline]
pub fn count(words: &[AtomicU64], nanoseconds: u64) {
    let word = &words[bucket(nanoseconds)];
    // Relaxed: one writer; read by the parent after this process has reported through a pipe.
    word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

fn bucket(nanoseconds: u64) -> usize {
    if nanoseconds < STEPS {
        return nanoseconds as usize;
    }
    let doubling = u64::from(nanoseconds.ilog2() - STEPS.ilog2());
    (doubling * STEPS + (nanoseconds >> doubling)) as usize
}

/// Middle of a bucket, nanoseconds.
fn middle(bucket: usize) -> f64 {
    let (bucket, steps) = (bucket as u64, STEPS);
    if bucket < 2 * steps {
        return bucket as f64;
    }
    let doubling = bucket / steps - 1;
    let low = (steps + bucket % steps) << doubling;
    low as f64 + (1u64 << doubling) as f64 / 2.0
}

/// Puts the quantiles of several histograms together into `figures`, microseconds, as `p50_us`.
pub fn quantiles(words: &[AtomicU64], figures: &mut Figures) {
    let mut counts = vec![0; WORDS];
    for histogram in words.chunks_exact(WORDS) {
        // Relaxed: see `count`.
        let values = histogram.iter().map(|word| word.load(Ordering::Relaxed));
        counts
            .iter_mut()
            .zip(values)
            .for_each(|(sum, value)| *sum += value);
    }
    let total: u64 = counts.iter().sum();
    for percent in QUANTILES {
        let rank = (total as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = counts.iter().position(|&count| {
            seen += count;
            seen >= rank
        });
        if let Some(bucket) = found {
            figures.insert(name(percent), middle(bucket) / 1e3);
        }
    }
}

/// What a quantile is called in the findings.
pub fn name(percent: f64) -> String {
    format!("p{percent}_us")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_within_its_bucket() {
        for nanoseconds in
            (0..4096).chain((12..40).map(|shift| (1u64 << shift) + 12_345 % (1 << shift)))
        {
            let middle = middle(bucket(nanoseconds));
            let off = (middle - nanoseconds as f64).abs();
            assert!(
                off <= nanoseconds as f64 / STEPS as f64,
                "{nanoseconds} counts as {middle}"
            );
        }
    }

    #[test]
    fn quantiles_of_a_thousand_even_durations() {
        let words: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        (1..=1000).for_each(|step| count(&words, step * 1000));
        let mut figures = Figures::new();
        quantiles(&words, &mut figures);
        for (percent, want) in [(50.0, 500.0), (99.0, 990.0)] {
            let got = figures[&name(percent)];
            assert!((got / want - 1.0).abs() < 0.04, "p{percent} is {got}");
        }
    }
}
