//! Coalesced polling: one answer of the provider tells of a hundred orders.
//!
//! When more orders wait than can be asked for one by one, one worker at a time reads `GET /internet/list`, page by
//! page, back to the oldest order that waits. What a row shows is stored as an answer to `check-id` would be, and the
//! order's job, which sleeps meanwhile, carries it out. A row that shows FULFILLED and not all of the card has its order
//! asked for soon; one that shows HANDLING spares its order from asking for a while; an order that is in no page
//! is asked for as ever. Redis gets ids and the word for a status, never a row: the card may be in it.

mod rows;

use std::collections::HashSet;
use std::time::Duration;

use topup_jobs::{Timestamp, TopupId};

use crate::config::CardDetails;
use crate::handlers::Environment;
use crate::orders::StoreError;
use crate::queue::{Connection, Names, millis, scripts};
use crate::shutdown::Shutdown;
use crate::topup_api::{Allowance, ApiError, OrderList, RequestKind, SIGHTING};

/// Fewer orders than this are asked for one by one.
const FEWEST: usize = 4;
/// The list is read again this long after the last reading began, in domain time; an order is known to be final
/// so much later at most, once it is read regularly.
const EVERY: Duration = Duration::from_secs(8);
/// How often to look whether it is time.
const LOOK: Duration = Duration::from_millis(500);
/// One reading may take this long before another worker begins one, in real time: its worker may have died.
const LEASE: Duration = Duration::from_mins(2);
/// Where an id does not tell when its order was created, that was a little before it was handed over.
const BEFORE: Duration = Duration::from_secs(15);
/// The clocks of the two sides need not agree.
const AHEAD: Duration = Duration::from_mins(5);
/// An order so much older than the next one is not worth the pages between them: rows for each order from there on.
const WORTH_ROWS: f64 = 50.0;
/// The same where it is not known yet how many rows there are.
const WORTH_TIME: Duration = Duration::from_mins(10);
/// Pages in a row that show nobody who waits before the rest is not read.
const MOST_USELESS_PAGES: u32 = 3;
/// Readings in a row of which nothing came before it is left for a while.
const MOST_USELESS: u32 = 3;
/// For how long then.
const UNLISTED: Duration = Duration::from_mins(10);
/// The same where the provider refuses it: somebody has to change something there.
const REFUSED: Duration = Duration::from_hours(24);

/// See the module.
pub(crate) struct Coalescer {
    pub(crate) environment: Environment,
    pub(crate) allowance: Allowance,
    pub(crate) card_details: CardDetails,
    pub(crate) connection: Connection,
    pub(crate) names: Names,
}

/// Orders that wait, the newest first.
type Line = Vec<(TopupId, Timestamp)>;

/// What came of one reading.
struct Reading {
    rows: usize,
    found: usize,
}

#[derive(Debug, thiserror::Error)]
enum ListingError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Redis did not answer")]
    Redis(#[from] redis::RedisError),
    #[error(transparent)]
    Provider(#[from] ApiError),
    #[error("it is given up, since nobody may ask or the worker stops")]
    GivenUp,
}

impl ListingError {
    /// Whether the provider refuses the list alone, as far as can be known: so it is not asked for the list again
    /// when it lets this service ask. A key that is refused, or too many requests, is no fault of the list.
    fn refuses_the_list(&self) -> bool {
        matches!(self, Self::Provider(ApiError::ListForbidden(_) | ApiError::Unavailable { .. }))
    }
}

impl Coalescer {
    /// Reads the list whenever that saves requests, until asked to stop.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let look = self.allowance.real(LOOK).max(Duration::from_millis(20));
        // Rows for each second of the provider's time, as far as is known.
        let (mut density, mut useless) = (0.0, 0);
        // Whether enough orders may wait. Where nobody waits Redis is not asked either.
        let mut waiting = true;
        loop {
            let pause = async {
                if !waiting {
                    self.environment.budget.somebody_waits().await;
                }
                tokio::time::sleep(look).await;
            };
            tokio::select! {
                () = shutdown.requested() => return,
                () = pause => {}
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
            let now = self.environment.clock.now();
            let from = reach(&line, density) - BEFORE;
            let reading = self.read(&line, from, now + AHEAD, &shutdown).await;
            useless = match &reading {
                Ok(Reading { rows, found }) if *found > 0 => {
                    density = per_second(*rows, now - from);
                    0
                }
                Err(error) if error.refuses_the_list() => MOST_USELESS,
                Err(ListingError::GivenUp | ListingError::Provider(ApiError::Unauthorized(_))) => useless,
                _ => useless + 1,
            };
            if let Err(error) = &reading {
                tracing::debug!(%error, "the list of orders could not be read to its end");
            }
            let off = (useless >= MOST_USELESS).then(|| UNLISTED + left_longer(&reading));
            if off.is_some() {
                useless = 0;
                tracing::warn!(
                    "the list of orders does not show those that wait; each is asked for by itself"
                );
            }
            if let Err(error) = self.end(reading.is_ok().then_some(from), off).await {
                self.connection.failed(&error);
            }
        }
    }

    /// Whether enough orders wait that the list may be read soon, and who, if it is time and nobody else reads it.
    async fn begin(&self) -> redis::RedisResult<(bool, Line)> {
        let allowed = &self.allowance;
        let mut call = scripts::LIST_BEGIN.prepare_invoke();
        call.key(self.names.budget()).arg(FEWEST).arg(allowed.requests_per_minute);
        call.arg(millis(allowed.minute)).arg(allowed.burst()).arg(millis(LEASE)).arg(allowed.keys);
        let (enough, waiting): (bool, Vec<(String, i64)>) =
            call.invoke_async(&mut self.connection.get()).await?;
        let read = |(id, at): (String, i64)| Some((id.parse().ok()?, Timestamp::from_timestamp_millis(at)?));
        let mut line: Line = waiting.into_iter().filter_map(read).collect();
        line.sort_by_key(|(_, created_at)| std::cmp::Reverse(*created_at));
        Ok((enough, line))
    }

    /// Reads page after page until everybody who waits has been seen.
    async fn read(
        &self,
        line: &Line,
        from: Timestamp,
        to: Timestamp,
        shutdown: &Shutdown,
    ) -> Result<Reading, ListingError> {
        let mut wanted: HashSet<&TopupId> =
            line.iter().filter(|(_, created_at)| *created_at >= from).map(|(id, _)| id).collect();
        let (all, mut rows, mut page, mut useless_pages) = (wanted.len(), 0, 1, 0);
        loop {
            let list = self.page(page, from, to, shutdown).await?;
            let wanted_before = wanted.len();
            rows += list.orders.len();
            for row in &list.orders {
                wanted.remove(&row.topup_id);
            }
            self.seen(list.orders).await?;
            useless_pages = if wanted.len() < wanted_before { 0 } else { useless_pages + 1 };
            match list.next_page {
                Some(next) if !wanted.is_empty() && useless_pages < MOST_USELESS_PAGES => page = next,
                _ => return Ok(Reading { rows, found: all - wanted.len() }),
            }
        }
    }

    /// One page, once there is a request for it.
    async fn page(
        &self,
        page: u32,
        from: Timestamp,
        to: Timestamp,
        shutdown: &Shutdown,
    ) -> Result<OrderList, ListingError> {
        loop {
            match self.environment.budget.ask_for_page().await {
                Ok(ticket) => {
                    let list = self.environment.api(&ticket).list(page, from, to).await;
                    let error = list.as_ref().err();
                    self.environment.metrics.requested(RequestKind::List, error);
                    self.environment.budget.answered(&ticket, error).await;
                    return Ok(list?);
                }
                // What was read so far would be old by then, and another worker may have begun anew.
                Err(wait) if wait >= LEASE => return Err(ListingError::GivenUp),
                Err(wait) => tokio::select! {
                    () = shutdown.requested() => return Err(ListingError::GivenUp),
                    () = tokio::time::sleep(wait) => {}
                },
            }
        }
    }

    /// The reading is over: from this time on everybody was seen who is in the list, or it failed.
    async fn end(&self, from: Option<Timestamp>, off: Option<Duration>) -> redis::RedisResult<()> {
        let real_ms = |wait| self.allowance.real_ms(wait);
        let mut call = scripts::LIST_END.prepare_invoke();
        call.key(self.names.budget());
        match from.filter(|_| off.is_none()) {
            Some(from) => {
                call.arg(from.timestamp_millis())
                    .arg(real_ms(EVERY))
                    .arg(real_ms(EVERY * 5 / 2))
                    .arg(real_ms(SIGHTING));
            }
            None => {
                call.arg(0).arg(real_ms(EVERY)).arg(off.map_or(0, real_ms));
            }
        }
        call.invoke_async::<()>(&mut self.connection.get()).await
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

/// For how much longer than usual the list is left: as long as nobody may ask, or it is refused.
fn left_longer(reading: &Result<Reading, ListingError>) -> Duration {
    match reading {
        Err(ListingError::Provider(ApiError::ListForbidden(_))) => REFUSED,
        Err(ListingError::Provider(error)) => error.closes_gate().unwrap_or_default(),
        _ => Duration::ZERO,
    }
}

#[expect(clippy::cast_precision_loss, reason = "rows of a list, far below 2^52")]
fn per_second(rows: usize, span: chrono::TimeDelta) -> f64 {
    rows as f64 / span.to_std().unwrap_or_default().as_secs_f64().max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seconds: &[i64]) -> Line {
        let id = |n: usize| format!("{n:024x}").parse().unwrap();
        let at = |seconds: &i64| Timestamp::from_timestamp(1_000_000 + seconds, 0).unwrap();
        seconds.iter().enumerate().map(|(n, seconds)| (id(n), at(seconds))).collect()
    }

    #[test]
    fn a_list_that_is_refused_is_left_for_a_day() {
        let refused = |error| {
            let error = ListingError::Provider(error);
            (error.refuses_the_list(), left_longer(&Err(error)))
        };
        let answer = crate::topup_api::Answer::default;
        assert_eq!(refused(ApiError::ListForbidden(answer())), (true, Duration::from_hours(24)));
        let limited = ApiError::RateLimited { answer: answer(), retry_after: None };
        assert_eq!(refused(limited), (false, Duration::from_secs(10)));
    }

    #[test]
    fn a_lone_old_order_is_not_worth_the_pages_to_it() {
        let reached = |seconds, density| reach(&line(seconds), density).timestamp() - 1_000_000;
        assert_eq!(reached(&[100, 98, 95, 60], 1.0), 60);
        assert_eq!(reached(&[100, 98, 95, -300], 1.0), 95);
        assert_eq!(reached(&[100, 98, 95, -300], 0.0), -300, "nothing is known of the list yet");
        assert_eq!(reached(&[100, 98, 95, -900], 0.0), 95, "nor is it worth everything");
        let crowd = [100, 98, 95, -300, -301, -302, -303, -304, -305, -306, -307];
        assert_eq!(reached(&crowd, 1.0), -307, "eight are worth 400 rows");
        let and_one = [crowd.as_slice(), &[-900]].concat();
        assert_eq!(reached(&and_one, 1.0), -307, "one more is not worth 600");
        assert_eq!(reached(&[100, 98, 95, -900, -901], 0.0), -901, "two are worth twenty minutes");
        assert_eq!(per_second(300, chrono::TimeDelta::minutes(1)).to_bits(), 5.0_f64.to_bits());
    }
}
