//! One pass over the list: which pages are read, when it ends, and since when it has seen every order.
//!
//! A pass covers a window of creation times, page by page. It may be interrupted to read the newest orders, and then be
//! continued, because orders that arrive meanwhile are outside its window and do not shift its pages.

use std::collections::HashMap;
use std::time::Duration;

use topup_jobs::{Timestamp, TopupId};

use crate::provider::OrderList;

/// The window of creation times begins this long before the oldest order's. If an order's id contains no time, the time
/// at which a worker received the order is taken for its creation time, although it is a little later.
const BEFORE: Duration = Duration::from_secs(15);
/// Margin after a creation time that was read from an order's id. Such a time is exact only to a second.
const AFTER: Duration = Duration::from_secs(5);
/// Margin after a creation time that is not from the order's id, because the provider's clock may be ahead of ours.
const MAX_CLOCK_SKEW: Duration = Duration::from_mins(5);
/// A gap is a part of the list without waiting orders. To reach the older waiting orders behind a gap, a pass reads the
/// gap if it has at most this number of rows for each of them.
const WORTH_ROWS: f64 = 50.0;
/// Takes the place of [`WORTH_ROWS`] while the rows per second are unknown: longest gap per waiting order behind it.
const WORTH_TIME: Duration = Duration::from_mins(10);
/// A pass that has found a waiting order ends after this many pages in a row without another one.
const MAX_USELESS_PAGES: u32 = 3;
/// A pass that has found no waiting order ends after this many pages. It reads more pages than [`MAX_USELESS_PAGES`],
/// because the first pages may show only orders that are newer than all waiting ones.
const MAX_PAGES_AHEAD: u32 = 10;

/// Waiting orders with their creation times, the newest first.
pub(super) type Line = Vec<(TopupId, Timestamp)>;

/// A range of creation times, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

impl Window {
    /// The window from the oldest waiting order worth reading (see `reach`) to the newest. `None` if no order waits.
    pub(super) fn of(line: &Line, density: f64) -> Option<Self> {
        let latest = |(topup_id, created_at): &(TopupId, Timestamp)| {
            let is_in_id = topup_id.created_at().is_some_and(|of_id| of_id == *created_at);
            *created_at + if is_in_id { AFTER } else { MAX_CLOCK_SKEW }
        };
        let to = line.iter().map(latest).max()?;
        Some(Self { from: reach(line, density) - BEFORE, to })
    }

    fn contains(&self, at: Timestamp) -> bool {
        (self.from..=self.to).contains(&at)
    }
}

/// The waiting orders that no page has shown yet, with their creation times.
pub(super) struct Wanted(HashMap<TopupId, Timestamp>);

impl Wanted {
    pub(super) fn new(line: &Line) -> Self {
        Self(line.iter().cloned().collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn any_in(&self, window: &Window) -> bool {
        self.0.values().any(|at| window.contains(*at))
    }

    /// Number of waiting orders in the window that no page showed, although the pass saw all orders since `seen_from`.
    pub(super) fn missed_since(&self, seen_from: Timestamp, window: &Window) -> usize {
        self.0.values().filter(|at| window.contains(**at) && **at >= seen_from).count()
    }
}

/// What a pass does after a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Next,
    /// Ends, because this was the last page, or the rest of the window has no waiting order that is still to be found.
    Whole,
    /// Ends, because too many pages in a row showed no waiting order.
    Left,
}

/// A pass in progress, or an interrupted one.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) window: Window,
    /// The next page to read.
    pub(super) page: u32,
    pub(super) rows: usize,
    /// The oldest creation time of the rows that were read so far.
    oldest: Option<Timestamp>,
    /// Whether a newer row followed an older one. If so, the rows do not show how far back the pass has read.
    unordered: bool,
    has_shown_one: bool,
    useless_pages: u32,
}

impl Pass {
    pub(super) fn new(window: Window) -> Self {
        let (page, rows, oldest, useless_pages) = (1, 0, None, 0);
        Self { window, page, rows, oldest, unordered: false, has_shown_one: false, useless_pages }
    }

    /// Evaluates a page, and returns what the pass does next.
    pub(super) fn take_in(&mut self, list: &OrderList, wanted: &mut Wanted) -> Step {
        let before = wanted.len();
        self.rows += list.orders.len();
        for row in &list.orders {
            wanted.0.remove(&row.topup_id);
            if let Some(at) = row.created_at {
                // Rows that are only seconds apart may come in any sequence.
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

    /// The range of creation times on the pages that are not read yet.
    fn unread(&self) -> Window {
        match self.oldest.filter(|_| !self.unordered) {
            Some(oldest) => Window { to: self.window.to.min(oldest + AFTER), ..self.window },
            None => self.window,
        }
    }

    /// The time since which the pass has seen every listed order, if it ends with this step.
    pub(super) fn seen_from(&self, last: Step) -> Timestamp {
        match last {
            Step::Whole => self.window.from,
            // Orders created within seconds of the oldest row may be on the next page, so they do not count as seen.
            Step::Next | Step::Left => self.unread().to.max(self.window.from),
        }
    }
}

/// Returns the creation time back to which the list is read. Seen from the newest waiting order, it is that of the last
/// order on this side of the first gap that is too long to be read.
fn reach(line: &Line, density: f64) -> Timestamp {
    let mut oldest = line.first().map(|(_, created_at)| *created_at).unwrap_or_default();
    for (n, (_, created_at)) in line.iter().enumerate() {
        let gap = (oldest - *created_at).to_std().unwrap_or_default();
        // Reading the gap leads to this number of waiting orders. The more there are, the longer the gap may be.
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
