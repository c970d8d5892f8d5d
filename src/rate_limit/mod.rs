//! The budget of requests to the provider: a rate limit and circuit breakers in Redis, shared by all workers.
//!
//! The provider counts the requests of an API key in a minute, and blocks an address after five failed authentications.
//! Each key, known by its fingerprint, therefore has a log of the requests of the last minute. A request counts from the
//! moment at which it may be sent until a minute after its answer: never for a shorter time than the provider counts it.
//! Few requests are in flight at once, so that a revoked key is refused hardly more often than that.
//!
//! One circuit breaker stands before the provider and one before each key. It is open while no order may be checked, and
//! half-open while one request at a time is made. A fault of a key stops the workers that use that key. A fault of the
//! address of one worker stops that worker alone; that part is not in Redis, see `standing`.
//!
//! An order that gets no permit waits in one of two queues: that of new orders, the most urgent first, and the backlog.
//! While orders wait in both, the backlog gets every fifth request. What one queue leaves, the other takes. An order
//! keeps the place at which it came, so that none starves.
//!
//! What this module does not do: make a request, or judge what an answer means for an order.
//!
//! # Keys
//!
//! All begin with `{topup}:budget:`. Times are milliseconds of the clock of Redis; "a minute" is one of the provider,
//! which is shorter where time is scaled.
//!
//! | key | type | meaning | written by | expires |
//! |---|---|---|---|---|
//! | `breaker` | string | the breaker before the provider is open; the value is how long it was to stay so | `report` | when that is over |
//! | `half-open` | string | one request at a time is made, until an answer is usable | `report` | never |
//! | `probe` | string | number of the permit of that request, while it is in flight | `acquire`, `renew` | after 5 s without a renewal |
//! | `failures` | string | requests in a row without a usable answer | `report` | 10 minutes after the last |
//! | `failed-orders` | sorted set | the orders of these requests, and `""` for the list, scored by when | `report` | 10 minutes after the last |
//! | `failing-since` | string | when these requests began | `report` | after 2 hours |
//! | `breaker-reported` | string | it has been logged that the breaker opened | `report` | never; an answer for an order deletes it |
//! | `able-workers` | sorted set | workers that can check orders, scored by until when that counts | `acquire`, `report`, `able` | each after 90 s |
//! | `permit-number` | string | number of the last permit | `acquire` | never |
//! | `waiting-new` | sorted set | the queue of new orders, scored by when each is urgent | `acquire`, `list_seen` | an order that does not come back leaves it 10 s later |
//! | `waiting-backlog` | sorted set | the queue of the backlog, scored likewise | `acquire`, `list_seen` | likewise |
//! | `new-since-backlog` | string | permits of new orders since the last one of the backlog, while orders wait there | `acquire` | never |
//! | `eligible-at` | sorted set | waiting orders, scored by when each comes back | `acquire`, `list_seen` | with the order's place |
//! | `waiting-since` | hash | since when each of them waits | `acquire` | with the order's place |
//! | `created-at` | hash | when the provider created each waiting new order: so far back the list is read | `acquire` | with the order's place |
//! | `details-missing` | set | waiting new orders that the list showed FULFILLED without the whole card | `list_seen` | with the order's place |
//! | `details-requested:<id>` | string | this order has been put there, and is not put there again | `list_seen` | after a minute |
//! | `seen-in-list` | sorted set | orders that the list showed HANDLING, scored by when | `list_seen` | each after a reading |
//! | `list-state` | hash | of the reading under way `begin`; of the last whole one `began`, `from`, `until`, `took`; `next`, when the next may begin | `list_begin`, `list_end` | never |
//! | `list-lock` | string | a worker reads the list | `list_begin`, `list_seen` | 30 s after its last page |
//! | `list-reserved` | string | the next request is for a page of the list | `acquire` | when a request is free |
//! | `list-served` | string | a page has had its request, and orders come first | `acquire` | after as many requests |
//! | `list-disabled` | string | the list is not read, since it does not help | `list_end` | after 10 minutes or a day |
//! | `completions` | hash | orders by the age at which they became final | `learn` | never |
//!
//! Of each API key, with its fingerprint behind a further colon:
//!
//! | key | type | meaning | written by | expires |
//! |---|---|---|---|---|
//! | `verified` | string | the key is good | `report` | after 30 days; never where the provider refuses the list alone |
//! | `refused` | string | the provider refuses the key; the value is how long it is not tried | `report` | when that is over |
//! | `breaker` | string | the breaker before the key is open; the value is how long it was to stay so | `report` | when that is over |
//! | `probe` | string | number of the permit of the request that verifies the key, while it is in flight | `acquire`, `renew` | after 5 s without a renewal |
//! | `knows` | string | the provider has known an order with this key | `report` | after 30 days |
//! | `unknown` | set | orders in a row that it has not known | `report` | 1 hour after the last |
//! | `mistrusted` | string | "not found" is not believed; the value is how long | `report` | when that is over |
//! | `mistrust-rounds` | string | how often that has been prolonged | `report` | 1 hour after the last |
//! | `mistrust-reported` | string | it has been logged | `report` | after 1 hour |
//! | `next-slot-at` | string | when the next request would keep an even pace (GCRA) | `acquire` | a minute after that |
//! | `window-log` | sorted set | requests of the last minute, scored by until when each counts | `acquire`, `report` | two minutes after the last |
//! | `in-flight` | sorted set | requests in flight, scored by when their lease ends | `acquire`, `renew`, `report` | after 5 s without a renewal |

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
use tokio::sync::Notify;
use topup_jobs::Completions;

use self::acquire::Purpose;
use self::in_flight::InFlight;
use self::learned::Learned;
pub use self::permit::{Budget, Checked, Meaning, Permit, PermitDecision, PermitRequest};
pub(crate) use self::scripts::SHARED;
pub(crate) use self::standing::Standing;
pub use self::state::{ApiKey, Breaker, BudgetState, ListUse};
use crate::claim_pause::ClaimPause;
use crate::provider::{ApiError, Concern, KeyFingerprint};
use crate::redis::{Connection, Names, millis};

/// Longest time a request may take; the client's own limits are below it.
const REQUEST: Duration = Duration::from_secs(20);
/// Longest wait before a job asks again: the queue may have become shorter meanwhile.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Wait where Redis gives no answer.
const UNKNOWN: Duration = Duration::from_secs(1);
/// The same for an order of the backlog: thousands of orders that asked more often would keep the workers busy.
const MAX_BACKLOG_WAIT: Duration = Duration::from_mins(5);
/// Orders after which what was learned counts half.
const MAX_COUNTED: u32 = 4_000;

/// The provider refused the key, and another key of the worker takes over at once.
const OTHER_KEY: Meaning = Meaning::SaysNothing(Duration::ZERO);

/// What the provider allows, as the settings say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// Requests in a minute, for each key.
    pub requests_per_minute: u32,
    /// Requests in flight at once.
    pub max_in_flight: u32,
    /// A minute of the provider, in real time.
    pub minute: Duration,
    /// Whether the list of orders may be read in place of one request for each.
    pub list_polling: bool,
}

impl RateLimit {
    /// A wait of the provider in real time.
    pub(crate) fn real(&self, wait: Duration) -> Duration {
        wait.mul_f64(self.minute.as_secs_f64() / 60.0)
    }

    /// The same in whole milliseconds, at least one: a key of Redis needs a time to live.
    pub(crate) fn real_ms(&self, wait: Duration) -> u64 {
        millis(self.real(wait)).max(1)
    }

    /// Requests that may follow each other without a pause. Few enough that a burst leaves some for orders that come later
    /// in the same minute.
    pub(crate) fn burst(&self) -> u32 {
        (self.requests_per_minute / 20).max(1)
    }
}

/// An order that the list showed HANDLING needs no request of its own for this long.
pub(crate) const SEEN_IN_LIST_FOR: Duration = Duration::from_secs(12);

/// The budget of a deployment, as one worker uses it.
pub struct RedisBudget {
    connection: Connection,
    key: String,
    /// Name of this start of the worker.
    worker: String,
    rate_limit: RateLimit,
    keys: Vec<KeyFingerprint>,
    learned: Mutex<Learned>,
    contention: Notify,
    in_flight: InFlight,
    standing: Standing,
}

impl RedisBudget {
    /// The budget under these names, for a worker with these keys: the primary one, then the secondary one. Must be
    /// called on a tokio runtime.
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
            contention: Notify::new(),
            standing: Standing::default(),
        }
    }

    /// The budget of a process that runs suspects for a worker: it does not count as a worker that can check orders.
    #[must_use]
    pub(crate) fn for_suspects(self) -> Self {
        Self { worker: String::new(), ..self }
    }

    /// What the provider's answers to this worker's own requests say of it.
    pub(crate) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Pauses the claims of this worker while it cannot check orders and another worker can.
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
        self.in_flight.ended(&permit.number);
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
                // The next request would be refused as well, and five of these have the address blocked. While Redis is
                // away no request is made.
                None if refused => tokio::time::sleep(UNKNOWN).await,
                said => break said,
            }
        };
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
            // The network of this host is at fault: workers that reach the provider go first.
            self.standing.pause_claims();
        }
        match became.as_str() {
            "failed" => Meaning::Failing(u32::try_from(number).unwrap_or(u32::MAX)),
            "other-key" => OTHER_KEY,
            "refused" | "address" => Meaning::SaysNothing(self.cannot_ask().await.unwrap_or(UNKNOWN)),
            "mistrusted" | "mistrusted-first" => Meaning::SaysNothing(self.leave_to_others(wait).await),
            "open" | "opened" => Meaning::SaysNothing(wait.min(self.rate_limit.real(MAX_WAIT))),
            // Redis is away; what the error itself says is known all the same.
            _ => match error.and_then(ApiError::closes_for) {
                Some(_) => Meaning::SaysNothing(UNKNOWN),
                None => Meaning::AboutOrder,
            },
        }
    }

    async fn completed(&self, last: Duration, age: Duration) {
        let mut call = scripts::BUDGET_LEARN.prepare_invoke();
        call.key(&self.key).arg(Completions::span(last, age)).arg(MAX_COUNTED);
        self.heard(call.invoke_async::<()>(&mut self.connection.get()).await);
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
            // A key of one order has no name that is known beforehand.
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
    }
}
