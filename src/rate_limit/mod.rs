//! The budget in Redis: what the provider allows, shared by all workers.
//!
//! The provider counts the requests of a key in a minute, and blocks an address after five failed authentications.
//! So each key, known by its fingerprint, has a log of the requests of the last minute. A request counts from the
//! moment it may be sent until a minute after its answer, so that it is never counted here for a shorter time than
//! there. Few requests are in flight at once, so that a key that is revoked is refused hardly more often than that.
//!
//! A breaker for the provider and one for each key are open while no order may be checked, and half-open while one
//! request at a time is made. What concerns one key concerns the workers that use it. What concerns the address of
//! one worker concerns that worker alone; that part is not in Redis, see `standing`.
//!
//! An order that gets no request waits in line. There are two lines: that of new orders, which the most urgent lead, and
//! the backlog. While both wait, the backlog gets every fifth request; what one line leaves, the other takes. In each line
//! an order that came first stays urgent, so none starves.

mod in_flight;
mod learned;
mod permission;
mod permits;
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

use self::in_flight::InFlight;
use self::learned::Learned;
pub use self::permission::{Budget, Checked, Meaning, Permission, Ticket, Wish};
use self::permits::Purpose;
pub(crate) use self::scripts::SHARED;
pub(crate) use self::standing::Standing;
pub use self::state::{ApiKey, BudgetState, Gate, ListUse};
use crate::claim_pause::ClaimPause;
use crate::provider::{ApiError, Concern, KeyFingerprint};
use crate::redis::{Connection, Names, millis};

/// Longest time a request may take; the client's own limits are below it.
const REQUEST: Duration = Duration::from_secs(20);
/// Longest wait before a job asks again: the line may have become shorter meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long to wait where Redis cannot say anything.
const UNKNOWN: Duration = Duration::from_secs(1);
/// Longest wait of an order of the backlog before it asks again. Thousands of orders that ask more often would keep the
/// workers busy with nothing but that.
const LONGEST_BACKLOG_WAIT: Duration = Duration::from_mins(5);
/// Orders after which what was learned counts half.
const MOST_COUNTED: u32 = 4_000;

/// The key was refused, and another one takes over at once.
const OTHER_KEY: Meaning = Meaning::SaysNothing(Duration::ZERO);

/// What the provider allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    /// Requests in a minute, for each key.
    pub requests_per_minute: u32,
    /// Requests in flight at once.
    pub under_way: u32,
    /// A minute of the provider, in real time.
    pub minute: Duration,
    /// Whether the list of orders may be read in place of asking for each.
    pub coalesce: bool,
}

impl Allowance {
    /// A wait of the provider in real time.
    pub(crate) fn real(&self, wait: Duration) -> Duration {
        wait.mul_f64(self.minute.as_secs_f64() / 60.0)
    }

    /// The same in whole milliseconds, for a key that must have a time to live: one at least.
    pub(crate) fn real_ms(&self, wait: Duration) -> u64 {
        millis(self.real(wait)).max(1)
    }

    /// How many requests may follow each other at once after a pause. Few enough that a burst leaves something
    /// for whoever comes later in the same minute.
    pub(crate) fn burst(&self) -> u32 {
        (self.requests_per_minute / 20).max(1)
    }
}

/// For so long an order that the list showed HANDLING need not be asked for.
pub(crate) const SIGHTING: Duration = Duration::from_secs(12);

/// The budget of one deployment, as one worker uses it.
pub struct RedisBudget {
    connection: Connection,
    key: String,
    /// Of this start of the worker.
    worker: String,
    allowance: Allowance,
    keys: Vec<KeyFingerprint>,
    learned: Mutex<Learned>,
    told_to_wait: Notify,
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
        allowance: Allowance,
        keys: Vec<KeyFingerprint>,
    ) -> Self {
        let key = names.budget();
        Self {
            in_flight: InFlight::renewed_by(connection.clone(), key.clone()),
            connection,
            key,
            worker: ulid::Ulid::generate().to_string(),
            allowance,
            keys,
            learned: Mutex::default(),
            told_to_wait: Notify::new(),
            standing: Standing::default(),
        }
    }

    /// The same for a process that runs suspects for a worker: no other worker waits for it.
    #[must_use]
    pub(crate) fn for_suspects(self) -> Self {
        Self { worker: String::new(), ..self }
    }

    /// What this worker may do, as the provider's answers to its own requests say.
    pub(crate) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Keeps queues from claiming jobs for as long as this worker cannot check orders and another worker can.
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
    async fn ask(&self, wish: &Wish) -> Permission {
        self.learn().await;
        let sighting = if self.allowance.coalesce && wish.list_counts { SIGHTING } else { Duration::ZERO };
        let order = Purpose::Order {
            id: wish.topup_id.as_str(),
            created_at_ms: wish.created_at.timestamp_millis(),
            sighting,
            patience: self.patience(wish),
            backlog: wish.backlog,
        };
        let permission = self.request(order).await;
        if !matches!(permission, Permission::Ask(_)) {
            self.told_to_wait.notify_one();
        }
        permission
    }

    fn is_refused(&self) -> bool {
        self.standing.refused_for().is_some()
    }

    async fn somebody_waits(&self) {
        self.told_to_wait.notified().await;
    }

    async fn ask_for_page(&self) -> Result<Ticket, Duration> {
        self.request_for_list(Purpose::Page).await
    }

    async fn ask_to_verify(&self) -> Result<Ticket, Duration> {
        self.request_for_list(Purpose::Verification).await
    }

    async fn answered(
        &self,
        ticket: &Ticket,
        order: Option<Checked<'_>>,
        error: Option<&ApiError>,
    ) -> Meaning {
        self.in_flight.ended(&ticket.number);
        let mut call = scripts::BUDGET_ANSWER.prepare_invoke();
        call.key(&self.key).arg(&ticket.number).arg(ticket.key);
        call.arg(millis(self.allowance.minute)).arg(&self.worker);
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
        self.report(ticket, &became, wait, error);
        if let Some(Concern::Address(wait)) = concern {
            self.standing.address_refused(error, self.allowance.real(wait));
        } else if became == "refused" {
            self.standing.keys_refused(error, wait);
        } else if became.starts_with("doubted") {
            self.standing.keys_doubted();
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
            "doubted" | "doubted-first" => Meaning::SaysNothing(self.leave_to_others(wait).await),
            "open" | "opened" => Meaning::SaysNothing(wait.min(self.allowance.real(LONGEST_WAIT))),
            // Redis is away; what the error itself says is known all the same.
            _ => match error.and_then(ApiError::closes_for) {
                Some(_) => Meaning::SaysNothing(UNKNOWN),
                None => Meaning::AboutOrder,
            },
        }
    }

    async fn completed(&self, last: Duration, age: Duration) {
        let mut call = scripts::BUDGET_LEARN.prepare_invoke();
        call.key(&self.key).arg(Completions::span(last, age)).arg(MOST_COUNTED);
        self.heard(call.invoke_async::<()>(&mut self.connection.get()).await);
    }
}
