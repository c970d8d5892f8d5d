//! The lines that the demo prints about its events, each once, in the words of a merchant's developer. A line reports
//! only what has happened. No line names an order, because sixty ids would hide the rest of the output.

use std::time::Duration;

use super::TIME_SCALE;
use super::ledger::Counts;
use super::shop::Book;

/// What the demo observes at one moment.
pub(super) struct Scene<'a> {
    pub(super) counts: &'a Counts,
    pub(super) shop: &'a Book,
    pub(super) rejected: usize,
    /// Whether an order was still QUEUED when it was checked again after 24 hours of domain time.
    pub(super) looked_again: bool,
}

/// Remembers the printed lines, so that each line is printed once.
#[derive(Default)]
pub(super) struct Narrator {
    said: Vec<&'static str>,
}

impl Narrator {
    /// Returns a line for each event that has happened since the last call.
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
        ("QUEUED: stored as SCHEDULED, shop notified; next check in 24 hours", shop.heard_of("scheduled")),
        ("HANDLING for 5 minutes: DELAYED, shop notified; checked again later", shop.heard_of("delayed")),
        ("REFUNDED: stored, and the shop is notified", shop.heard_of("refunded")),
        ("FULFILLED: the card is stored encrypted and sent to the shop, signed", shop.heard_of("fulfilled")),
        ("the shop answered 503; the event was sent again, same id and body", shop.taken_after_trouble()),
        ("a message that is not JSON: stored as rejected, with the reason", scene.rejected > 0),
        (
            "QUEUED orders were checked a day later; those still QUEUED are checked again in 12 hours",
            scene.looked_again,
        ),
        (
            "an order that was QUEUED is FULFILLED: its card is on its way to the shop",
            scene.counts.fulfilled_later > 0,
        ),
    ];
    lines.into_iter().filter_map(|(line, happened)| happened.then_some(line)).collect()
}

pub(super) fn jobs(count: usize) -> String {
    if count == 1 { "1 job".to_owned() } else { format!("{count} jobs") }
}

/// Domain time since the first order, such as `day 2, 07:12`.
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
    fn a_line_is_printed_once_and_only_after_its_event() {
        let (counts, shop) = (Counts::default(), Book::default());
        let scene = |rejected| Scene { counts: &counts, shop: &shop, rejected, looked_again: false };
        let mut narrator = Narrator::default();
        assert!(narrator.lines(&scene(0)).is_empty());
        assert_eq!(narrator.lines(&scene(1)).len(), 1);
        assert!(narrator.lines(&scene(1)).is_empty());
    }
}
