//! Learns how long orders take to become final, and estimates how likely an order is final by now. A check shows only
//! that an order became final since the check before; the middle between both counts as its time. Ages are domain time
//! since tracking began. Until many orders are counted, the estimate follows the provider's page, which states 3–45 s.

use std::time::Duration;

/// Upper ends, in seconds, of the age ranges (spans) in which final orders are counted. One more span has no end.
const SPANS: [u64; 22] =
    [2, 4, 6, 8, 10, 13, 16, 19, 22, 25, 28, 31, 35, 39, 43, 47, 55, 65, 90, 120, 180, 300];
/// Number of age ranges in which final orders are counted.
pub const SPAN_COUNT: usize = SPANS.len() + 1;
/// Number of assumed orders that stand for the provider's page, spread evenly from `PAGE_FIRST` to `PAGE_LAST` seconds.
const PAGE_WEIGHT: f64 = 20.0;
const PAGE_FIRST: f64 = 3.0;
const PAGE_LAST: f64 = 45.0;

/// For each age range (span), the number of orders that became final at an age in that range.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Completions([u64; SPAN_COUNT]);

impl Completions {
    /// Takes pairs: span (index of an age range) and number of orders. Missing spans count 0; unknown ones are ignored.
    #[must_use]
    pub fn new(counts: impl IntoIterator<Item = (usize, u64)>) -> Self {
        let mut all = [0; SPAN_COUNT];
        for (span, count) in counts {
            if let Some(place) = all.get_mut(span) {
                *place = count;
            }
        }
        Self(all)
    }

    /// Index of the age range (span) that counts an order found not final at age `last` and final at age `now`.
    #[must_use]
    pub fn span(last: Duration, now: Duration) -> usize {
        let middle = last + now.saturating_sub(last) / 2;
        SPANS.iter().position(|end| middle.as_secs() < *end).unwrap_or(SPANS.len())
    }

    /// Chance (0 to 1) that an order not final at age `last` is final at `now`; 0 if no order took more than `last`.
    #[must_use]
    pub fn chance(&self, last: Duration, now: Duration) -> f64 {
        let (left, still) = (self.after(last.as_secs_f64()), self.after(now.as_secs_f64()));
        if left <= f64::EPSILON { 0.0 } else { ((left - still) / left).clamp(0.0, 1.0) }
    }

    /// How many orders took longer than `age` seconds, of the counted orders and the `PAGE_WEIGHT` assumed ones.
    fn after(&self, age: f64) -> f64 {
        let mut start = 0.0;
        let mut longer = 0.0;
        for (span, count) in self.0.iter().enumerate() {
            let (end, count) = (end_of(span), as_float(*count));
            longer += count * (1.0 - share(start, end, age));
            start = end;
        }
        longer + PAGE_WEIGHT * (1.0 - share(PAGE_FIRST, PAGE_LAST, age))
    }
}

fn end_of(span: usize) -> f64 {
    // The last span has no end, so the estimate assumes one day.
    as_float(SPANS.get(span).copied().unwrap_or(24 * 3600))
}

/// The fraction (0 to 1) of the range from `start` to `end` that lies below `age`.
fn share(start: f64, end: f64, age: f64) -> f64 {
    ((age - start) / (end - start)).clamp(0.0, 1.0)
}

#[expect(clippy::cast_precision_loss, reason = "counts and seconds, far below 2^52")]
fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn without_counts_the_chance_follows_the_providers_page() {
        let page = Completions::default();
        assert!(page.chance(seconds(0), seconds(3)) < 0.01);
        assert!((page.chance(seconds(0), seconds(24)) - 0.5).abs() < 0.01);
        assert!(page.chance(seconds(24), seconds(45)) > 0.99);
        assert!(page.chance(seconds(300), seconds(301)) < f64::EPSILON, "older than any");
    }

    #[test]
    fn counts_outweigh_the_providers_page() {
        let span = Completions::span(seconds(118), seconds(126));
        let slow = Completions::new([(span, 2_000)]);
        assert!(slow.chance(seconds(0), seconds(60)) < 0.02);
        assert!(slow.chance(seconds(100), seconds(180)) > 0.95);
    }

    #[test]
    fn a_completion_counts_in_the_middle_between_two_checks() {
        assert_eq!(Completions::span(seconds(0), seconds(0)), 0);
        assert_eq!(Completions::span(seconds(3), seconds(9)), 3);
        assert_eq!(Completions::span(seconds(4_000), seconds(5_000)), SPAN_COUNT - 1);
    }

    proptest! {
        #[test]
        fn a_chance_is_from_0_to_1_and_grows_with_the_time(
            counts in proptest::collection::vec(0_u64..10_000, SPAN_COUNT),
            last in 0_u64..2_000,
            first in 0_u64..2_000,
            more in 0_u64..2_000,
        ) {
            let completions = Completions::new(counts.into_iter().enumerate());
            let last = seconds(last);
            let sooner = completions.chance(last, last + seconds(first));
            let later = completions.chance(last, last + seconds(first + more));
            prop_assert!((0.0..=1.0).contains(&sooner) && sooner <= later + 1e-9);
        }
    }
}
