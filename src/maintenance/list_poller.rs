//! List polling: one answer of the provider shows a hundred orders.
//!
//! When more new orders wait than can be asked for one by one, one worker at a time reads `GET /internet/list`, page by
//! page, from the newest order that waits back to the oldest. What a row shows is stored as an answer to `check-id` would be, and the
//! order's job, which sleeps meanwhile, carries it out. A row that shows FULFILLED and not all of the card has its order
//! asked for soon; one that shows HANDLING spares its order from asking for a while; an order that is in no page
//! is asked for as ever. Redis gets ids and the word for a status, never a row: the card may be in it.

mod pass;
mod rows;
pub(crate) mod scripts;
mod unreadable;

use std::time::Duration;

use clap::ValueEnum;
use tokio::time::Instant;
use topup_jobs::Timestamp;

use self::pass::{Line, Pass, Step, Wanted, Window};
use self::unreadable::Unreadable;

use crate::handlers::Environment;
use crate::orders::StoreError;
use crate::provider::{ApiError, Concern, KeyFingerprint, OrderList, RequestKind};
use crate::rate_limit::{RateLimit, SEEN_IN_LIST_FOR};
use crate::redis::{Connection, Names, millis};
use crate::shutdown::Shutdown;

/// Fewer orders than this are asked for one by one.
const FEWEST: usize = 4;
/// The list is read again this long after the last reading began, in domain time; an order is known to be final
/// so much later at most, once it is read regularly.
const INTERVAL: Duration = Duration::from_secs(8);
/// A pass is interrupted after this domain time, so that the newest orders are read again. A pass over all orders that
/// wait while a thousand come in a minute takes less: interrupting that one would only read its first pages twice.
const MAX_STRETCH: Duration = Duration::from_secs(24);
/// How often to look whether it is time.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Another worker may begin a reading this long after the last page, in real time: the worker that reads may have died.
/// Longer than the longest wait for a page and its request together.
const LEASE: Duration = Duration::from_secs(30);
/// A reading is given up where its next page would have to wait this long, in real time.
const MAX_WAIT_FOR_PAGE: Duration = Duration::from_secs(10);
/// What a pass left is worth reading for this long. Later the orders in it have become others.
const REST_KEPT: Duration = Duration::from_mins(1);
/// Readings in a row of which nothing came before it is left for a while.
const MAX_USELESS: u32 = 3;
/// For how long then.
const DISABLED_FOR: Duration = Duration::from_mins(10);
/// The same where the provider refuses the list: its account has to be changed there.
const REFUSED: Duration = Duration::from_hours(24);

/// What goes first where a row of the list shows a part of a card and no request is free soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CardDetails {
    /// The card is delivered with all three fields, once its order could be asked for.
    Complete,
    /// The card is delivered at once, as far as the list shows it.
    Fast,
}

/// Reads the list of orders, see the module.
pub(crate) struct ListPoller {
    pub(crate) environment: Environment,
    pub(crate) rate_limit: RateLimit,
    /// Of the keys that this worker asks with.
    pub(crate) keys: Vec<KeyFingerprint>,
    pub(crate) card_details: CardDetails,
    pub(crate) connection: Connection,
    pub(crate) names: Names,
}

/// What came of one reading.
struct Reading {
    /// From when on everything was seen that is in the list.
    seen_from: Timestamp,
    /// Orders that wait and that the list showed.
    found: usize,
    /// Whether the list did not show an order where it would stand, or is not worth the pages back to those that wait.
    is_useless: bool,
    /// Rows for each second of the provider's time.
    density: f64,
}

/// A pass that was interrupted, so that the newest orders are looked at again.
struct Rest {
    pass: Pass,
    since: Instant,
}

#[derive(Debug, thiserror::Error)]
enum ListingError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Redis did not answer")]
    Redis(#[from] redis::RedisError),
    #[error(transparent)]
    Provider(#[from] ApiError),
    #[error("the reading is given up, since no order may be checked or the worker stops")]
    GivenUp,
}

impl ListingError {
    /// Whether the provider refuses the list alone, as far as can be known: so it is not asked for the list again
    /// when it lets this service ask. A key that is refused, or too many requests, is no fault of the list.
    fn refuses_the_list(&self) -> bool {
        matches!(self, Self::Provider(ApiError::ListForbidden(_) | ApiError::Unavailable { .. }))
    }

    /// Whether it says nothing of the list: the reading was given up, or the key or the address of this worker, its
    /// database or Redis is at fault.
    fn is_no_fault_of_the_list(&self) -> bool {
        match self {
            Self::Provider(error) => matches!(
                error.concern(),
                Concern::KeyRefused(_) | Concern::KeyLimited(_) | Concern::Address(_)
            ),
            Self::GivenUp | Self::Store(_) | Self::Redis(_) => true,
        }
    }
}

impl ListPoller {
    /// Reads the list whenever that saves requests, until asked to stop.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let look = self.rate_limit.real(LOOK_INTERVAL).max(Duration::from_millis(20));
        // Rows for each second of the provider's time, as far as is known.
        let (mut density, mut useless, mut rest) = (0.0, 0, None);
        // Whether enough orders may wait. While no order waits Redis is not asked either.
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
                // Another worker can read it.
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
                tracing::debug!(%error, "the list of orders could not be read to its end");
            }
            let off = (useless >= MAX_USELESS).then(|| DISABLED_FOR + left_longer(&reading));
            if off.is_some() {
                useless = 0;
                rest = None;
                tracing::warn!(
                    "the list of orders does not show those that wait; each is asked for by itself"
                );
            }
            let seen_from = reading.ok().map(|reading| reading.seen_from);
            if let Err(error) = self.end(seen_from, off).await {
                self.connection.failed(&error);
            }
        }
    }

    /// Whether enough orders wait that the list may be read soon, and which, if it is time and no other worker reads it.
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

    /// Reads the newest orders first, and then what an earlier reading left. A reading that takes long is interrupted, so
    /// that the newest are never long out of sight.
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

    /// Reads page after page until the pass ends, or is interrupted at this time. One page is always read.
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

    /// One page, once there is a request for it.
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
                // What was read so far would be old by then, and another worker may have begun anew.
                Err(wait) if wait >= MAX_WAIT_FOR_PAGE => return Err(ListingError::GivenUp),
                Err(wait) => tokio::select! {
                    () = shutdown.requested() => return Err(ListingError::GivenUp),
                    () = tokio::time::sleep(wait) => {}
                },
            }
        }
    }

    /// The reading is over: from this time on everybody was seen who is in the list, or it failed.
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

/// For how much longer than usual the list is not read: as long as no order may be checked, or the list is refused.
fn left_longer(reading: &Result<Reading, ListingError>) -> Duration {
    match reading {
        Err(ListingError::Provider(ApiError::ListForbidden(_))) => REFUSED,
        Err(ListingError::Provider(error)) => error.closes_for().unwrap_or_default(),
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

    #[test]
    fn a_list_that_is_refused_is_left_for_a_day() {
        let refused = |error| {
            let error = ListingError::Provider(error);
            (error.refuses_the_list(), left_longer(&Err(error)))
        };
        let answer = crate::provider::Answer::default;
        assert_eq!(refused(ApiError::ListForbidden(answer())), (true, Duration::from_hours(24)));
        let limited = ApiError::RateLimited { answer: answer(), retry_after: None };
        assert_eq!(refused(limited), (false, Duration::from_secs(10)));
    }

    #[test]
    fn a_refused_key_or_address_is_no_fault_of_the_list() {
        let answer =
            |code: &str| crate::provider::Answer { code: Some(code.to_owned()), ..Default::default() };
        for (error, innocent) in [
            (ApiError::Unauthorized(answer("ERR_AUTH")), true),
            (ApiError::Forbidden(answer("IP_BLOCKED")), true),
            (ApiError::Forbidden(answer("API_DISABLED")), true),
            (ApiError::ListForbidden(answer("ERR_SCOPE")), false),
            (ApiError::Failed(answer("INTERNAL_ERROR")), false),
        ] {
            let error = ListingError::Provider(error);
            assert_eq!(error.is_no_fault_of_the_list(), innocent, "{error}");
        }
        assert!(ListingError::GivenUp.is_no_fault_of_the_list());
    }

    #[test]
    fn rows_are_counted_for_each_second() {
        assert_eq!(per_second(300, chrono::TimeDelta::minutes(1)).to_bits(), 5.0_f64.to_bits());
        assert_eq!(per_second(300, chrono::TimeDelta::zero()).to_bits(), 300.0_f64.to_bits());
    }
}
