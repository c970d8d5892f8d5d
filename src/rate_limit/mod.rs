//! The budget of requests to the provider: a rate limit and circuit breakers in Redis, shared by all workers.
//!
//! The provider counts the requests of each API key per minute and blocks an address after five failed authentications.
//! The window log of a key counts a request from its permit until a minute after its answer, and never for less time
//! than the provider does. Few requests are in flight at once, so few are refused when a key is revoked.
//!
//! One breaker guards the provider, and one guards each key. An open breaker stops the requests that it guards; a
//! half-open one lets one request at a time through. A refused key stops the workers that use it. A refused address
//! stops only its own worker, so that state is not in Redis but in the process (module `standing`).
//!
//! An order without a permit joins one of two wait queues: new orders, the most urgent first, or the backlog (rechecks
//! and old orders). While both hold orders, the backlog gets every fifth request. An order keeps its place in its
//! queue, so none starves. This module makes no requests and does not judge what an answer means for an order.
//!
//! # Keys
//!
//! All keys begin with `{topup}:budget:`. Times are milliseconds by the clock of Redis. A minute is the
//! provider's; it is shorter if time is scaled.
//!
//! | key | type | meaning | written by | expires |
//! |---|---|---|---|---|
//! | `breaker` | string | the breaker of the provider is open; the value is its duration | `report` | after that duration |
//! | `half-open` | string | the breaker of the provider is half-open: one request at a time is made | `report` | never; a usable answer deletes it |
//! | `probe` | string | permit number of the one request of a half-open breaker, while in flight | `acquire`, `renew` | after 5 s without a renewal |
//! | `failures` | string | requests in a row without a usable answer | `report` | 10 minutes after the last |
//! | `failed-orders` | sorted set | orders whose requests had no usable answer (`""` for the list), scored by time | `report` | 10 minutes after the last |
//! | `failing-since` | string | time of the first request in a row without a usable answer | `report` | after 2 hours |
//! | `breaker-reported` | string | the opening of the breaker has been logged | `report` | never; an answer for an order deletes it |
//! | `able-workers` | sorted set | workers that can check orders, scored by when that expires | `acquire`, `report`, `able` | each after 90 s |
//! | `permit-number` | string | number of the last permit | `acquire` | never |
//! | `waiting-new` | sorted set | wait queue of new orders, scored by when each becomes urgent | `acquire`, `list_seen` | 10 s after an order should have requested again |
//! | `waiting-backlog` | sorted set | wait queue of the backlog, scored likewise | `acquire`, `list_seen` | likewise |
//! | `new-since-backlog` | string | permits of new orders since the last one of the backlog, while the backlog waits | `acquire` | never |
//! | `eligible-at` | sorted set | waiting orders, scored by when each should request again | `acquire`, `list_seen` | when the order leaves the queue, unless it then waits for the list |
//! | `waiting-since` | hash | start of each waiting order's wait | `acquire` | when the order leaves the queue |
//! | `created-at` | hash | creation time of each waiting new order; readings of the list go back to the oldest of these times | `acquire` | when the order leaves the queue, unless it then waits for the list |
//! | `details-missing` | set | waiting new orders that the list showed FULFILLED without the whole card | `list_seen` | when the order leaves the queue |
//! | `details-requested:<id>` | string | the order was added to `details-missing` and is not added again | `list_seen` | after a minute |
//! | `seen-in-list` | sorted set | orders that the list showed HANDLING, scored by time | `list_seen` | each after a reading of the list |
//! | `list-state` | hash | `begin` of the current reading of the list; `began`, `from`, `until`, `took` of the last complete reading; earliest start of the `next` reading | `list_begin`, `list_end` | never |
//! | `list-lock` | string | a worker is reading the list | `list_begin`, `list_seen` | 30 s after its last page |
//! | `list-reserved` | string | the next free request is reserved for a page of the list | `acquire` | when that request is free |
//! | `list-served` | string | the last permit was for a page, so orders get the next | `acquire` | after the time of two requests; of five while many orders lack card details |
//! | `list-disabled` | string | the list is not read, since it does not show the waiting orders | `list_end` | after 10 minutes or a day |
//! | `completions` | hash | number of orders that became final, by their age then | `learn` | never |
//!
//! Of each API key; its fingerprint follows the name, after a colon:
//!
//! | key | type | meaning | written by | expires |
//! |---|---|---|---|---|
//! | `verified` | string | the provider has accepted the key | `report` | after 30 days; never if the provider refuses only the list |
//! | `refused` | string | the provider refuses the key; the value is how long it is not tried | `report` | after that duration |
//! | `breaker` | string | the breaker of the key is open; the value is its duration | `report` | after that duration |
//! | `probe` | string | permit number of the request that verifies the key, while it is in flight | `acquire`, `renew` | after 5 s without a renewal |
//! | `knows` | string | the provider has answered for an order with this key | `report` | after 30 days |
//! | `unknown` | set | orders in a row that the provider did not know | `report` | 1 hour after the last |
//! | `mistrusted` | string | the answer "not found" is not believed; the value is for how long | `report` | after that duration |
//! | `mistrust-rounds` | string | number of times that the duration of `mistrusted` was prolonged | `report` | 1 hour after the last |
//! | `mistrust-reported` | string | the mistrust has been logged | `report` | after 1 hour |
//! | `next-slot-at` | string | earliest time at which the next request keeps an even pace (GCRA) | `acquire` | a minute after that |
//! | `window-log` | sorted set | requests of the last minute, scored by when each stops counting | `acquire`, `report` | two minutes after the last |
//! | `in-flight` | sorted set | requests in flight, scored by the end of their lease | `acquire`, `renew`, `report` | after 5 s without a renewal |

mod acquire;
mod in_flight;
mod learned;
mod permit;
pub(crate) mod scripts;
mod standing;
mod state;
mod verdict;
mod verification;

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use redis::{RedisResult, ScriptInvocation};
use tokio::sync::{Notify, watch};
use topup_jobs::Completions;

use self::acquire::Purpose;
use self::in_flight::InFlight;
use self::learned::{Learned, Uncounted};
pub use self::permit::{Budget, Checked, Meaning, Permit, PermitDecision, PermitRequest};
pub(crate) use self::scripts::SHARED;
pub(crate) use self::standing::Standing;
pub use self::state::{ApiKey, Breaker, BudgetState, ListUse};
use crate::claim_pause::ClaimPause;
use crate::provider::{ApiError, Concern, KeyFingerprint};
use crate::redis::{Connection, Names, millis};

/// Longest time a request may take; the client's own limits are below it.
const REQUEST: Duration = Duration::from_secs(20);
/// Longest wait before a job requests a permit again, because the queue may have become shorter.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Wait before a job requests a permit again if Redis does not answer.
const UNKNOWN: Duration = Duration::from_secs(1);
/// As `MAX_WAIT`, for the backlog (rechecks, old orders): longer, or its thousands of jobs would keep workers busy.
const MAX_BACKLOG_WAIT: Duration = Duration::from_mins(5);
/// Once this many final orders are counted, all counts are halved, so that recent orders weigh more.
const MAX_COUNTED: u32 = 4_000;

/// Final orders are counted in one call, this long after the first. If the worker ends before, they are not counted.
const COUNT_DELAY: Duration = Duration::from_millis(100);

/// The provider refused the key, but another key of the worker takes over: the order is checked again at once.
const OTHER_KEY: Meaning = Meaning::SaysNothing(Duration::ZERO);

/// The limits of requests to the provider, from the settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// Requests per minute and API key.
    pub requests_per_minute: u32,
    /// Requests in flight at once with one API key, of all workers together.
    pub max_in_flight: u32,
    /// Real length of a minute of the provider; shorter than a minute if time is scaled.
    pub minute: Duration,
    /// Whether the worker may read pages of the provider's list instead of checking each order.
    pub list_polling: bool,
}

impl RateLimit {
    /// Converts a duration of the provider's time, which may be scaled, to real time.
    pub(crate) fn real(&self, wait: Duration) -> Duration {
        wait.mul_f64(self.minute.as_secs_f64() / 60.0)
    }

    /// Converts to real milliseconds, at least 1: a Redis key needs a positive time to live.
    pub(crate) fn real_ms(&self, wait: Duration) -> u64 {
        millis(self.real(wait)).max(1)
    }

    /// Number of requests that may be made without a pause. It is small, to save requests for the rest of the minute.
    pub(crate) fn burst(&self) -> u32 {
        (self.requests_per_minute / 20).max(1)
    }
}

/// An order that the list showed HANDLING needs no request of its own for this long.
pub(crate) const SEEN_IN_LIST_FOR: Duration = Duration::from_secs(12);

/// One worker's access to the budget that all workers share.
pub struct RedisBudget {
    connection: Connection,
    key: String,
    /// Random id of this process; empty in a process that runs suspects (jobs that ran when their worker died).
    worker: String,
    rate_limit: RateLimit,
    keys: Vec<KeyFingerprint>,
    learned: Mutex<Learned>,
    uncounted: Uncounted,
    contention: Notify,
    in_flight: InFlight,
    standing: Standing,
}

impl RedisBudget {
    /// The budget of a worker with these API keys, the primary one first. Starts a task, so it needs a tokio runtime.
    #[must_use]
    pub fn new(
        connection: Connection,
        names: &Names,
        rate_limit: RateLimit,
        keys: Vec<KeyFingerprint>,
    ) -> Self {
        let key = names.budget();
        Self {
            in_flight: InFlight::renewed_by(connection.clone(), key.clone()),
            connection,
            key,
            worker: ulid::Ulid::generate().to_string(),
            rate_limit,
            keys,
            learned: Mutex::default(),
            uncounted: Uncounted::default(),
            contention: Notify::new(),
            standing: Standing::default(),
        }
    }

    /// Removes the id, for a process of suspects (see `worker`): it claims no jobs, so others must leave no jobs to it.
    #[must_use]
    pub(crate) fn for_suspects(self) -> Self {
        Self { worker: String::new(), ..self }
    }

    pub(crate) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The pause in which this worker claims no jobs, because it cannot check orders and another worker can.
    pub(crate) fn claim_pause(&self) -> ClaimPause {
        self.standing.claim_pause()
    }

    fn heard<T>(&self, answer: RedisResult<T>) -> Option<T> {
        answer.inspect_err(|error| self.connection.failed(error)).ok()
    }

    fn write_keys(&self, call: &mut ScriptInvocation<'_>) {
        call.arg(self.keys.len());
        for key in &self.keys {
            call.arg(key.as_str());
        }
    }
}

#[async_trait]
impl Budget for RedisBudget {
    async fn acquire(&self, request: &PermitRequest) -> PermitDecision {
        self.learn().await;
        let seen_for = if self.rate_limit.list_polling && request.list_counts {
            SEEN_IN_LIST_FOR
        } else {
            Duration::ZERO
        };
        let order = Purpose::Order {
            id: request.topup_id.as_str(),
            created_at_ms: request.created_at.timestamp_millis(),
            seen_for,
            patience: self.patience(request),
            backlog: request.backlog,
        };
        let decision = self.request(order).await;
        if !matches!(decision, PermitDecision::Granted(_)) {
            self.contention.notify_one();
        }
        decision
    }

    fn is_refused(&self) -> bool {
        self.standing.refused_for().is_some()
    }

    fn ended_requests(&self) -> watch::Receiver<()> {
        self.in_flight.ended_requests()
    }

    fn has_request_in_flight(&self) -> bool {
        self.in_flight.has_any()
    }

    async fn wait_for_contention(&self) {
        self.contention.notified().await;
    }

    async fn acquire_for_page(&self) -> Result<Permit, Duration> {
        self.request_for_list(Purpose::Page).await
    }

    async fn acquire_to_verify(&self) -> Result<Permit, Duration> {
        self.request_for_list(Purpose::Verification).await
    }

    async fn report(&self, permit: &Permit, order: Option<Checked<'_>>, error: Option<&ApiError>) -> Meaning {
        let mut call = scripts::BUDGET_REPORT.prepare_invoke();
        call.key(&self.key).arg(&permit.number).arg(permit.key);
        call.arg(millis(self.rate_limit.minute)).arg(&self.worker);
        call.arg(order.map(|order| order.topup_id.as_str()).unwrap_or_default());
        call.arg(u8::from(order.is_some_and(|order| order.known)));
        self.write_keys(&mut call);
        let concern = error.map(ApiError::concern);
        self.write_verdict(&mut call, concern);
        let refused = matches!(concern, Some(Concern::KeyRefused(_)));
        let said: Option<(String, u64)> = loop {
            match self.heard(call.invoke_async(&mut self.connection.get()).await) {
                // The refusal must reach Redis, to stop all workers with this key: five refusals block an address.
                None if refused => tokio::time::sleep(UNKNOWN).await,
                said => break said,
            }
        };
        self.in_flight.ended(&permit.number);
        let (became, number) = said.unwrap_or_default();
        let wait = Duration::from_millis(number);
        self.log_verdict(permit, &became, wait, error);
        if let Some(Concern::Address(wait)) = concern {
            self.standing.address_refused(error, self.rate_limit.real(wait));
        } else if became == "refused" {
            self.standing.keys_refused(error, wait);
        } else if became.starts_with("mistrusted") {
            self.standing.keys_mistrusted();
        } else if matches!(concern, None | Some(Concern::Order | Concern::UnknownOrder)) {
            self.standing.admitted(order.is_some());
        }
        if self.standing.reached(error) && self.others_can_ask().await {
            // The network of this host seems to be at fault, so the jobs are left to workers that reach the provider.
            self.standing.pause_claims();
        }
        match became.as_str() {
            "failed" => Meaning::Failing(u32::try_from(number).unwrap_or(u32::MAX)),
            "other-key" => OTHER_KEY,
            "refused" | "address" => Meaning::SaysNothing(self.cannot_ask().await.unwrap_or(UNKNOWN)),
            "mistrusted" | "mistrusted-first" => Meaning::SaysNothing(self.leave_to_others(wait).await),
            "open" | "opened" => Meaning::SaysNothing(wait.min(self.rate_limit.real(MAX_WAIT))),
            // Redis did not answer, or says nothing against the key or the provider. Then the error itself decides.
            _ => match error.and_then(ApiError::closes_for) {
                Some(_) => Meaning::SaysNothing(UNKNOWN),
                None => Meaning::AboutOrder,
            },
        }
    }

    async fn completed(&self, last: Duration, age: Duration) {
        if !self.uncounted.add(Completions::span(last, age)) {
            return;
        }
        let (uncounted, key, connection) =
            (self.uncounted.clone(), self.key.clone(), self.connection.clone());
        tokio::spawn(async move {
            tokio::time::sleep(COUNT_DELAY).await;
            let mut call = scripts::BUDGET_LEARN.prepare_invoke();
            call.key(&key).arg(MAX_COUNTED);
            for span in uncounted.take() {
                call.arg(span);
            }
            if let Err(error) = call.invoke_async::<()>(&mut connection.get()).await {
                connection.failed(&error);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_lists_every_key_of_the_budget_with_its_type() {
        let names: Names = "{topup}".parse().unwrap();
        let (of_all, of_api_key) = include_str!("mod.rs").split_once("//! Of each API key").unwrap();
        let rows = |table: &str, suffix: &str| -> BTreeSet<String> {
            let rows = table.lines().filter_map(|line| line.strip_prefix("//! | `")?.split_once("` | "));
            // Skips keys that contain an order's id (`<id>` in the table), because `Names::layout` does not list them.
            let rows = rows.filter(|(key, _)| !key.contains('<'));
            rows.map(|(key, row)| {
                let kind = row.split(" |").next().unwrap().replace("sorted set", "zset");
                format!("{}:{key}{suffix} {kind}", names.budget())
            })
            .collect()
        };
        let mut listed = rows(of_all, "");
        listed.extend(rows(of_api_key.split("\nmod ").next().unwrap(), ":0123"));
        let known = names.layout(&["0123"]).into_iter().map(|(key, kind)| format!("{key} {kind}"));
        let known: BTreeSet<String> = known.filter(|key| key.starts_with(&names.budget())).collect();
        assert_eq!(listed, known);
        let read_by_name = [names.breakers("0123").as_slice(), &[names.details_missing()]].concat();
        let layout: BTreeSet<String> = names.layout(&["0123"]).into_iter().map(|(key, _)| key).collect();
        assert_eq!(read_by_name.iter().find(|key| !layout.contains(*key)), None);
    }
}
