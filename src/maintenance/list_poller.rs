//! List polling: one answer of the provider shows a hundred orders.
//!
//! When more new orders wait than can be checked one by one, one worker at a time reads `GET /internet/list`, page by
//! page, from the newest waiting order back to the oldest. A row is stored like an answer to `check-id`, and the
//! order's sleeping job is woken to act on it. An order whose row shows FULFILLED without the whole card is checked
//! soon. An order whose row shows HANDLING is not checked for a while. An order that no page shows is checked as usual.
//! Redis gets ids and a word for each status, never a row, because a row may contain the card.

mod error;
mod pass;
mod rows;
pub(crate) mod scripts;
mod unreadable;

use std::time::Duration;

use clap::ValueEnum;
use tokio::time::Instant;
use topup_jobs::Timestamp;

use self::error::ListingError;
use self::pass::{Line, Pass, Step, Wanted, Window};
use self::unreadable::Unreadable;
use crate::handlers::Environment;
use crate::provider::{KeyFingerprint, OrderList, RequestKind};
use crate::rate_limit::{RateLimit, SEEN_IN_LIST_FOR};
use crate::redis::{Connection, Names, millis};
use crate::shutdown::Shutdown;

/// The list is read only if at least this number of new orders wait. Fewer are checked one by one.
const FEWEST: usize = 4;
/// Domain time between the starts of two readings of the list, if a reading does not take longer.
const INTERVAL: Duration = Duration::from_secs(8);
/// A pass over the list is interrupted after this domain time, to read the newest orders again. A whole pass takes less
/// time even at a thousand new orders a minute: if it were interrupted, its first pages would only be read twice.
const MAX_STRETCH: Duration = Duration::from_secs(24);
/// Domain time between two checks whether a reading of the list is due.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// If a reading worker dies, another may begin this long after the last page. The lease is longer than the longest wait
/// for a page plus the time limit of its request. It is real time, because requests are not scaled.
const LEASE: Duration = Duration::from_secs(30);
/// A reading is given up if the next page would have to wait this long for its permit (real time, not domain time).
const MAX_WAIT_FOR_PAGE: Duration = Duration::from_secs(10);
/// Domain time within which an interrupted pass may be continued. Later it is dropped: other orders wait by then.
const REST_KEPT: Duration = Duration::from_mins(1);
/// List polling is disabled after this number of readings in a row that failed or were useless (`is_useless`).
const MAX_USELESS: u32 = 3;
/// Domain time for which list polling is disabled after [`MAX_USELESS`] failed or useless readings in a row.
const DISABLED_FOR: Duration = Duration::from_mins(10);
/// What happens to a card of which the list shows only a part, if more such cards wait than can be checked soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CardDetails {
    /// Checks the order first and delivers all three fields of the card
    Complete,
    /// Delivers the card at once with the fields that the list shows
    Fast,
}

pub(crate) struct ListPoller {
    pub(crate) environment: Environment,
    pub(crate) rate_limit: RateLimit,
    pub(crate) keys: Vec<KeyFingerprint>,
    pub(crate) card_details: CardDetails,
    pub(crate) connection: Connection,
    pub(crate) names: Names,
}

/// What one reading of the list found. A reading covers the newest orders, then continues an interrupted pass, if any.
struct Reading {
    /// The reading has seen every listed order created since this time.
    seen_from: Timestamp,
    /// Number of waiting orders that the list showed.
    found: usize,
    /// Whether the list lacked a waiting order where it should be, or too many pages in a row showed no waiting order.
    is_useless: bool,
    /// Average number of listed orders that were created in one second.
    density: f64,
}

/// An interrupted pass over older orders. The next reading continues it, after it has read the newest orders.
struct Rest {
    pass: Pass,
    since: Instant,
}

impl ListPoller {
    /// Reads the list whenever that saves requests, until a shutdown is requested.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let look = self.rate_limit.real(LOOK_INTERVAL).max(Duration::from_millis(20));
        // A density of 0 means that the density is unknown.
        let (mut density, mut useless, mut rest) = (0.0, 0, None);
        // Whether at least `FEWEST` orders may wait. If not, Redis is asked only after an order is denied a permit.
        let mut waiting = true;
        loop {
            let pause = async {
                if !waiting {
                    self.environment.budget.wait_for_contention().await;
                }
                tokio::time::sleep(look).await;
            };
            tokio::select! {
                () = shutdown.requested() => return,
                () = pause => {}
            }
            if self.environment.budget.is_refused() {
                // The provider refuses this worker's keys or address. A worker with other ones can still read the list.
                continue;
            }
            let line = match self.begin().await {
                Ok((enough, line)) => {
                    waiting = enough;
                    line
                }
                Err(error) => {
                    self.connection.failed(&error);
                    continue;
                }
            };
            if line.is_empty() {
                continue;
            }
            let Some(window) = Window::of(&line, density) else { continue };
            let reading = self.read(&line, window, &mut rest, &shutdown).await;
            useless = match &reading {
                Ok(Reading { found: 0, is_useless, .. }) => useless + u32::from(*is_useless),
                Ok(reading) => {
                    density = reading.density;
                    0
                }
                Err(error) if error.refuses_the_list() => MAX_USELESS,
                Err(error) if error.is_no_fault_of_the_list() => useless,
                Err(_) => useless + 1,
            };
            if let Err(error) = &reading {
                tracing::debug!(%error, "could not read the provider's list of orders to the end");
            }
            let off = (useless >= MAX_USELESS).then(|| {
                DISABLED_FOR + reading.as_ref().err().map_or(Duration::ZERO, ListingError::disables_longer)
            });
            if off.is_some() {
                useless = 0;
                rest = None;
                tracing::warn!(
                    "the provider's list fails or does not show the waiting orders; for a while, each is checked by id"
                );
            }
            let seen_from = reading.ok().map(|reading| reading.seen_from);
            if let Err(error) = self.end(seen_from, off).await {
                self.connection.failed(&error);
            }
        }
    }

    /// Begins a reading if one is due and no other worker reads. Returns whether enough orders ([`FEWEST`]) wait for a
    /// reading, and, if a reading begins now, all waiting orders (otherwise an empty list).
    async fn begin(&self) -> redis::RedisResult<(bool, Line)> {
        let allowed = &self.rate_limit;
        let mut call = scripts::LIST_BEGIN.prepare_invoke();
        call.key(self.names.budget()).arg(FEWEST).arg(allowed.requests_per_minute);
        call.arg(millis(allowed.minute)).arg(allowed.burst()).arg(millis(LEASE)).arg(self.keys.len());
        for key in &self.keys {
            call.arg(key.as_str());
        }
        let (enough, waiting): (bool, Vec<(String, i64)>) =
            call.invoke_async(&mut self.connection.get()).await?;
        let read = |(id, at): (String, i64)| Some((id.parse().ok()?, Timestamp::from_timestamp_millis(at)?));
        let mut line: Line = waiting.into_iter().filter_map(read).collect();
        line.sort_by_key(|(_, created_at)| std::cmp::Reverse(*created_at));
        Ok((enough, line))
    }

    /// Reads the newest orders first, then continues the pass over older orders that an earlier reading interrupted. A
    /// long pass is interrupted, so that the newest orders are read often.
    async fn read(
        &self,
        line: &Line,
        window: Window,
        rest: &mut Option<Rest>,
        shutdown: &Shutdown,
    ) -> Result<Reading, ListingError> {
        let (began, turn) = (Instant::now(), self.rate_limit.real(MAX_STRETCH));
        let (mut wanted, mut unreadable) = (Wanted::new(line), Unreadable::default());
        let kept_for = self.rate_limit.real(REST_KEPT);
        let left = rest.take().filter(|rest| rest.since.elapsed() < kept_for);
        let mut pass = Pass::new(window);
        let until = began + if left.is_some() { turn / 2 } else { turn };
        let last = self.go_on(&mut pass, &mut wanted, &mut unreadable, until, shutdown).await?;
        let seen_from = pass.seen_from(last);
        let density = per_second(pass.rows, window.to - seen_from);
        let is_useless = last == Step::Left || wanted.missed_since(seen_from, &window) > 0;
        *rest = match left {
            None => (last == Step::Next).then(|| Rest { pass, since: Instant::now() }),
            Some(mut left) => {
                let until = began + turn;
                let last = self.go_on(&mut left.pass, &mut wanted, &mut unreadable, until, shutdown).await?;
                (last == Step::Next).then(|| Rest { since: Instant::now(), ..left })
            }
        };
        unreadable.warn();
        let found = line.len() - wanted.len();
        Ok(Reading { seen_from, found, is_useless, density })
    }

    /// Reads pages until the pass ends or the time `until` has come. At least one page is read.
    async fn go_on(
        &self,
        pass: &mut Pass,
        wanted: &mut Wanted,
        unreadable: &mut Unreadable,
        until: Instant,
        shutdown: &Shutdown,
    ) -> Result<Step, ListingError> {
        loop {
            let list = self.page(pass.page, pass.window, shutdown).await?;
            let step = pass.take_in(&list, wanted);
            unreadable.add(list.unreadable);
            self.seen(list.orders).await?;
            if step != Step::Next || Instant::now() >= until {
                return Ok(step);
            }
        }
    }

    /// Reads one page as soon as the budget grants a permit for it.
    async fn page(
        &self,
        page: u32,
        Window { from, to }: Window,
        shutdown: &Shutdown,
    ) -> Result<OrderList, ListingError> {
        loop {
            match self.environment.budget.acquire_for_page().await {
                Ok(permit) => {
                    let list = self.environment.api(&permit).list(page, from, to).await;
                    let error = list.as_ref().err();
                    self.environment.metrics.requested(RequestKind::List, error);
                    self.environment.budget.report(&permit, None, error).await;
                    return Ok(list?);
                }
                // So long a wait is no use: the pages read become outdated, and another worker may begin a reading.
                Err(wait) if wait >= MAX_WAIT_FOR_PAGE => return Err(ListingError::GivenUp),
                Err(wait) => tokio::select! {
                    () = shutdown.requested() => return Err(ListingError::GivenUp),
                    () = tokio::time::sleep(wait) => {}
                },
            }
        }
    }

    /// Ends the reading in Redis. `from` is the reading's `seen_from`, or `None` if the reading failed. If list
    /// polling is now disabled, `off` is for how long.
    async fn end(&self, from: Option<Timestamp>, off: Option<Duration>) -> redis::RedisResult<()> {
        let real_ms = |wait| self.rate_limit.real_ms(wait);
        let mut call = scripts::LIST_END.prepare_invoke();
        call.key(self.names.budget());
        match from.filter(|_| off.is_none()) {
            Some(from) => {
                call.arg(from.timestamp_millis())
                    .arg(real_ms(INTERVAL))
                    .arg(real_ms(INTERVAL * 5 / 2))
                    .arg(real_ms(SEEN_IN_LIST_FOR));
            }
            None => {
                call.arg(0).arg(real_ms(INTERVAL)).arg(off.map_or(0, real_ms));
            }
        }
        call.invoke_async::<()>(&mut self.connection.get()).await
    }
}

#[expect(clippy::cast_precision_loss, reason = "rows of a list, far below 2^52")]
fn per_second(rows: usize, span: chrono::TimeDelta) -> f64 {
    rows as f64 / span.to_std().unwrap_or_default().as_secs_f64().max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_density_is_rows_per_second() {
        assert_eq!(per_second(300, chrono::TimeDelta::minutes(1)).to_bits(), 5.0_f64.to_bits());
        assert_eq!(per_second(300, chrono::TimeDelta::zero()).to_bits(), 300.0_f64.to_bits());
    }
}
