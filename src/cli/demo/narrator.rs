//! What is worth a line the first time it is seen, in the words of a merchant's developer.
//!
//! Each line is said of what has happened, never of what is going to. Orders are not named: sixty of them
//! would bury the story.

use std::time::Duration;

use super::TIME_SCALE;
use super::ledger::Counts;
use super::shop::Book;

/// What can be seen at one moment.
pub(super) struct Scene<'a> {
    pub(super) counts: &'a Counts,
    pub(super) shop: &'a Book,
    /// Messages that were rejected.
    pub(super) rejected: usize,
    /// Whether the provider was asked for an order that has been QUEUED for a day.
    pub(super) looked_again: bool,
}

/// Remembers what has been said.
#[derive(Default)]
pub(super) struct Narrator {
    said: Vec<&'static str>,
}

impl Narrator {
    /// The lines that are due now and were not said before.
    pub(super) fn lines(&mut self, scene: &Scene<'_>) -> Vec<&'static str> {
        let mut lines = happened(scene);
        lines.retain(|line| !self.said.contains(line));
        self.said.extend(&lines);
        lines
    }
}

fn happened(scene: &Scene<'_>) -> Vec<&'static str> {
    let shop = scene.shop;
    let lines = [
        ("QUEUED: stored as SCHEDULED, the shop is told; next look in 24 hours", shop.heard_of("scheduled")),
        (
            "still HANDLING after 5 minutes: DELAYED, the shop is told; looked at again later",
            shop.heard_of("delayed"),
        ),
        ("REFUNDED: stored, and the shop is told", shop.heard_of("refunded")),
        ("FULFILLED: the card is stored encrypted and sent to the shop, signed", shop.heard_of("fulfilled")),
        ("the shop answered 503; it was told again, with the same id and body", shop.taken_after_trouble()),
        ("a message that is not JSON: put aside with the reason, nothing is dropped", scene.rejected > 0),
        (
            "QUEUED orders were looked at a day later; where they still are, next look in 12 hours",
            scene.looked_again,
        ),
        (
            "an order that was QUEUED is FULFILLED: its card is on its way to the shop",
            scene.counts.fulfilled_later > 0,
        ),
    ];
    lines.into_iter().filter_map(|(line, happened)| happened.then_some(line)).collect()
}

/// A number of jobs in words.
pub(super) fn jobs(count: usize) -> String {
    if count == 1 { "1 job".to_owned() } else { format!("{count} jobs") }
}

/// Domain time since the first order: `day 2, 07:12`.
pub(super) fn domain_clock(real: Duration) -> String {
    let minutes = real.mul_f64(TIME_SCALE).as_secs() / 60;
    format!("day {}, {:02}:{:02}", minutes / 1440 + 1, minutes / 60 % 24, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_counts_days_from_one() {
        assert_eq!(domain_clock(Duration::ZERO), "day 1, 00:00");
        assert_eq!(domain_clock(Duration::from_millis(24_500)), "day 2, 00:30");
    }

    #[test]
    fn a_line_is_said_once_and_only_of_what_happened() {
        let (counts, shop) = (Counts::default(), Book::default());
        let scene = |rejected| Scene { counts: &counts, shop: &shop, rejected, looked_again: false };
        let mut narrator = Narrator::default();
        assert!(narrator.lines(&scene(0)).is_empty());
        assert_eq!(narrator.lines(&scene(1)).len(), 1);
        assert!(narrator.lines(&scene(1)).is_empty());
    }
}
