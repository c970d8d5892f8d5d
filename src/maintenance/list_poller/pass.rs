//! One pass over the list: which pages are read, when it ends, and how far back it has seen everything.
//!
//! A pass goes through a window of time, page by page. It may be interrupted, so that the newest orders are looked at
//! again, and go on later: while the window stays the same, an order that comes meanwhile moves no page.

use std::collections::HashMap;
use std::time::Duration;

use topup_jobs::{Timestamp, TopupId};

use crate::provider::OrderList;

/// Where an id does not tell when its order was created, that was a little before it was handed over.
const BEFORE: Duration = Duration::from_secs(15);
/// An id tells the second in which its order was created.
const AFTER: Duration = Duration::from_secs(5);
/// Where an id does not tell, the clocks of the two sides need not agree.
const MAX_CLOCK_SKEW: Duration = Duration::from_mins(5);
/// An order so much older than the next one is not worth the pages between them: rows for each order from there on.
const WORTH_ROWS: f64 = 50.0;
/// The same where it is not known yet how many rows there are.
const WORTH_TIME: Duration = Duration::from_mins(10);
/// Pages in a row that show no order that waits before the rest is not read.
const MAX_USELESS_PAGES: u32 = 3;
/// The same before the first such order: the list may begin with newer ones.
const MAX_PAGES_AHEAD: u32 = 10;

/// Orders that wait, the newest first.
pub(super) type Line = Vec<(TopupId, Timestamp)>;

/// The time in which the listed orders were created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

impl Window {
    /// From the newest order that waits to the oldest that is worth the pages.
    pub(super) fn of(line: &Line, density: f64) -> Option<Self> {
        let latest = |(topup_id, created_at): &(TopupId, Timestamp)| {
            let is_told = topup_id.created_at().is_some_and(|told| told == *created_at);
            *created_at + if is_told { AFTER } else { MAX_CLOCK_SKEW }
        };
        let to = line.iter().map(latest).max()?;
        Some(Self { from: reach(line, density) - BEFORE, to })
    }

    fn contains(&self, at: Timestamp) -> bool {
        (self.from..=self.to).contains(&at)
    }
}

/// The orders that wait and that no page of this reading has shown yet.
pub(super) struct Wanted(HashMap<TopupId, Timestamp>);

impl Wanted {
    pub(super) fn new(line: &Line) -> Self {
        Self(line.iter().cloned().collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether any was created in this time.
    fn any_in(&self, window: &Window) -> bool {
        self.0.values().any(|at| window.contains(*at))
    }

    /// How many should have been shown by a pass that saw everything from this time on.
    pub(super) fn missed_since(&self, seen_from: Timestamp, window: &Window) -> usize {
        self.0.values().filter(|at| window.contains(**at) && **at >= seen_from).count()
    }
}

/// What comes after a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The next page.
    Next,
    /// No order that waits can stand on a later page: each was shown, or missed, or the window is at its end.
    Whole,
    /// The rest is not worth its pages.
    Left,
}

/// A pass that is under way, or was interrupted.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) window: Window,
    /// The page that is read next.
    pub(super) page: u32,
    pub(super) rows: usize,
    /// Creation of the oldest order that was shown, as far as rows tell it.
    oldest: Option<Timestamp>,
    /// Whether an older row came before a newer one: then a page says nothing about how far back the pass is.
    unordered: bool,
    has_shown_one: bool,
    useless_pages: u32,
}

impl Pass {
    pub(super) fn new(window: Window) -> Self {
        let (page, rows, oldest, useless_pages) = (1, 0, None, 0);
        Self { window, page, rows, oldest, unordered: false, has_shown_one: false, useless_pages }
    }

    /// Takes in a page, and says what comes next.
    pub(super) fn take_in(&mut self, list: &OrderList, wanted: &mut Wanted) -> Step {
        let before = wanted.len();
        self.rows += list.orders.len();
        for row in &list.orders {
            wanted.0.remove(&row.topup_id);
            if let Some(at) = row.created_at {
                // Rows of the same second may come in any order.
                self.unordered |= self.oldest.is_some_and(|oldest| at > oldest + AFTER);
                self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at)));
            }
        }
        let Some(next_page) = list.next_page else { return Step::Whole };
        if !wanted.any_in(&self.unread()) {
            return Step::Whole;
        }
        self.page = next_page;
        if wanted.len() < before {
            (self.has_shown_one, self.useless_pages) = (true, 0);
        } else {
            self.useless_pages += 1;
        }
        let most = if self.has_shown_one { MAX_USELESS_PAGES } else { MAX_PAGES_AHEAD };
        if self.useless_pages >= most { Step::Left } else { Step::Next }
    }

    /// The time in which the orders of the pages to come were created.
    fn unread(&self) -> Window {
        match self.oldest.filter(|_| !self.unordered) {
            Some(oldest) => Window { to: self.window.to.min(oldest + AFTER), ..self.window },
            None => self.window,
        }
    }

    /// From when on everything was seen, if the pass ends with this step.
    pub(super) fn seen_from(&self, last: Step) -> Timestamp {
        match last {
            Step::Whole => self.window.from,
            // Orders of the same seconds may stand on the next page.
            Step::Next | Step::Left => self.unread().to.max(self.window.from),
        }
    }
}

/// How far back the list is read: to the oldest order of the line before a gap that is not worth its pages.
fn reach(line: &Line, density: f64) -> Timestamp {
    let mut oldest = line.first().map(|(_, created_at)| *created_at).unwrap_or_default();
    for (n, (_, created_at)) in line.iter().enumerate() {
        let gap = (oldest - *created_at).to_std().unwrap_or_default();
        // The pages of the gap are for everybody behind it.
        let behind = u32::try_from(line.len() - n).unwrap_or(u32::MAX);
        let worth_rows = WORTH_ROWS * f64::from(behind);
        if density * gap.as_secs_f64() > worth_rows
            || (density <= 0.0 && gap > WORTH_TIME.saturating_mul(behind))
        {
            break;
        }
        oldest = *created_at;
    }
    oldest
}

#[cfg(test)]
#[path = "pass_tests.rs"]
mod tests;
