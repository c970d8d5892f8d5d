//! The budget in Redis: what the provider allows, shared by all workers.
//!
//! The provider counts the requests of a key in a minute and locks an address out after five failed
//! authentications. Two things keep both: a log of the requests of the last minute, in which a request counts from
//! the moment it may be sent until a minute after its answer, so that it is never counted here for a shorter time
//! than there; and a gate, closed while nobody may ask, and opened by one that asks alone. Few requests are under
//! way at once, so that a key that is revoked is refused hardly more often than that.
//!
//! An order that gets no request waits in line. There are two lines: that of new orders, which the most urgent lead, and
//! the backlog. While both wait, the backlog gets every fifth request; what one line leaves, the other takes. In each line
//! an order that came first stays urgent, so none starves.

mod state;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use redis::{RedisResult, ScriptInvocation, Value};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::Instant;
use topup_jobs::Completions;

pub use self::state::{ApiKey, BudgetState, Gate, ListUse};
use super::{ApiError, Budget, Permission, Ticket, Wish};
use crate::queue::{Connection, Names, millis, scripts};

/// Longest time a request may be under way; the client's own limits are below it.
const REQUEST: Duration = Duration::from_secs(20);
/// How long the others wait before they look whether a probe has come back.
const PROBE_LOOK: Duration = Duration::from_millis(200);
/// Longest wait before a job asks again: the line may have become shorter meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long to wait where Redis cannot say anything.
const UNKNOWN: Duration = Duration::from_secs(1);
/// Longest that an order which is hardly final yet may wait compared with one that asks now.
const MOST_PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait of an order of the backlog before it asks again. Thousands of orders that ask more often would keep the
/// workers busy with nothing but that.
const LONGEST_BACKLOG_WAIT: Duration = Duration::from_mins(5);
/// How often a worker reads what all have learned.
const LEARN_EVERY: Duration = Duration::from_secs(5);
/// Orders after which what was learned counts half.
const MOST_COUNTED: u32 = 4_000;
/// Requests in a row without a usable answer before nobody asks for a while.
const MOST_FAILURES: u32 = 8;
/// How long then, doubling, up to …
const FIRST_CLOSURE: Duration = Duration::from_secs(5);
/// … this.
const LONGEST_CLOSURE: Duration = Duration::from_mins(1);

/// How long a worker does not ask whose keys were replaced and are refused: as long as a lock-out.
const OUTDATED: Duration = Duration::from_mins(15);

/// What the provider allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    /// Requests in a minute, for each key.
    pub requests_per_minute: u32,
    /// Requests under way at once.
    pub under_way: u32,
    /// Keys there are: one, or two.
    pub keys: usize,
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

/// Tells whether the keys are others than before, and nothing of the keys.
pub struct KeysFingerprint(String);

impl KeysFingerprint {
    /// Of these keys.
    #[must_use]
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a SecretString>) -> Self {
        let mut hash = Sha256::new();
        for key in keys {
            hash.update(key.expose_secret().trim());
            hash.update([0]);
        }
        // Few enough bytes that nothing can be made of them, and enough to differ.
        Self(hex::encode(&hash.finalize()[..6]))
    }
}

/// For so long an order that the list showed HANDLING need not be asked for.
pub(crate) const SIGHTING: Duration = Duration::from_secs(12);

/// The budget of one deployment.
pub struct RedisBudget {
    connection: Connection,
    key: String,
    allowance: Allowance,
    keys: KeysFingerprint,
    learned: Mutex<Learned>,
    told_to_wait: Notify,
    /// Whether Redis has not heard yet that the keys are in doubt.
    doubt_unheard: AtomicBool,
    /// Until when this worker does not ask: its keys are refused, and others have newer ones.
    outdated_until: Mutex<Option<Instant>>,
}

/// What was learned about completion, and when it was read.
#[derive(Default)]
struct Learned {
    completions: Completions,
    read_at: Option<Instant>,
}

impl RedisBudget {
    /// The budget under these names, for a worker with these keys.
    #[must_use]
    pub fn new(connection: Connection, names: &Names, allowance: Allowance, keys: KeysFingerprint) -> Self {
        Self {
            connection,
            key: names.budget(),
            allowance,
            keys,
            learned: Mutex::default(),
            told_to_wait: Notify::new(),
            doubt_unheard: AtomicBool::default(),
            outdated_until: Mutex::default(),
        }
    }

    /// Has the next one ask alone, as after a closure: at its start a worker does not know whether its key is any
    /// good. With other keys than before, a closure that those brought about is over. Where Redis is away, that is
    /// made up for before this worker asks for anything.
    pub async fn doubt(&self) {
        let mut call = scripts::BUDGET_DOUBT.prepare_invoke();
        call.key(&self.key).arg(&self.keys.0);
        let heard = self.heard(call.invoke_async::<()>(&mut self.connection.get()).await);
        self.doubt_unheard.store(heard.is_none(), Ordering::Relaxed);
    }

    fn heard<T>(&self, answer: RedisResult<T>) -> Option<T> {
        answer.inspect_err(|error| self.connection.failed(error)).ok()
    }
}

#[async_trait]
impl Budget for RedisBudget {
    async fn ask(&self, wish: &Wish) -> Permission {
        if let Some(left) = self.outdated_for() {
            return Permission::Wait(left.min(self.allowance.real(LONGEST_WAIT)));
        }
        self.learn().await;
        let sighting = if self.allowance.coalesce && wish.list_counts { SIGHTING } else { Duration::ZERO };
        let created_at = wish.created_at.timestamp_millis();
        let permission = self
            .request(wish.topup_id.as_str(), created_at, sighting, self.patience(wish), wish.backlog)
            .await;
        if !matches!(permission, Permission::Ask(_)) {
            self.told_to_wait.notify_one();
        }
        permission
    }

    async fn somebody_waits(&self) {
        self.told_to_wait.notified().await;
    }

    async fn ask_for_page(&self) -> Result<Ticket, Duration> {
        if let Some(left) = self.outdated_for() {
            return Err(left);
        }
        match self.request("", 0, Duration::ZERO, Duration::ZERO, false).await {
            Permission::Ask(ticket) => Ok(ticket),
            Permission::Wait(wait) | Permission::Closed(wait) => Err(wait),
            // Never: only an order is sighted.
            Permission::Sighted => Err(UNKNOWN),
        }
    }

    async fn answered(&self, ticket: &Ticket, error: Option<&ApiError>) -> bool {
        let mut call = scripts::BUDGET_ANSWER.prepare_invoke();
        call.key(&self.key).arg(&ticket.number).arg(ticket.key);
        call.arg(millis(self.allowance.minute)).arg(self.allowance.keys).arg(&self.keys.0);
        self.write_verdict(&mut call, error);
        let refused = matches!(error, Some(ApiError::Unauthorized(_)));
        let became: Option<String> = loop {
            match self.heard(call.invoke_async(&mut self.connection.get()).await) {
                // Whoever asks next would be refused as well, and five of these lock the address out. While Redis is
                // away nobody asks.
                None if refused => tokio::time::sleep(UNKNOWN).await,
                became => break became,
            }
        };
        let became = became.as_deref().unwrap_or_default();
        report(ticket, became, error);
        if became == "outdated" {
            let until = Instant::now() + self.allowance.real(OUTDATED);
            *self.outdated_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        }
        matches!(became, "other-key" | "outdated")
    }

    async fn completed(&self, last: Duration, age: Duration) {
        let mut call = scripts::BUDGET_LEARN.prepare_invoke();
        call.key(&self.key).arg(Completions::span(last, age)).arg(MOST_COUNTED);
        self.heard(call.invoke_async::<()>(&mut self.connection.get()).await);
    }
}

impl RedisBudget {
    /// Asks for one request.
    async fn request(
        &self,
        order: &str,
        created_at_ms: i64,
        sighting: Duration,
        patience: Duration,
        backlog: bool,
    ) -> Permission {
        if self.doubt_unheard.load(Ordering::Relaxed) {
            self.doubt().await;
            if self.doubt_unheard.load(Ordering::Relaxed) {
                return Permission::Closed(UNKNOWN);
            }
        }
        let allowed = &self.allowance;
        let mut call = scripts::BUDGET_ASK.prepare_invoke();
        call.key(&self.key).arg(order).arg(created_at_ms);
        call.arg(millis(allowed.real(sighting))).arg(millis(allowed.real(patience))).arg(u8::from(backlog));
        call.arg(allowed.requests_per_minute).arg(millis(allowed.minute)).arg(allowed.burst());
        call.arg(allowed.under_way).arg(millis(REQUEST)).arg(millis(PROBE_LOOK));
        let longest_wait = if backlog { LONGEST_BACKLOG_WAIT } else { LONGEST_WAIT };
        call.arg(allowed.real_ms(longest_wait)).arg(allowed.keys);
        let answer: Option<Vec<Value>> = self.heard(call.invoke_async(&mut self.connection.get()).await);
        answer.and_then(|answer| read(&answer)).unwrap_or(Permission::Closed(UNKNOWN))
    }

    /// How much longer this worker does not ask, if it does not.
    fn outdated_for(&self) -> Option<Duration> {
        let until = (*self.outdated_until.lock().unwrap_or_else(PoisonError::into_inner))?;
        until.checked_duration_since(Instant::now())
    }

    /// How long an order may wait compared with one that asks now: the less likely it is final, the longer.
    fn patience(&self, wish: &Wish) -> Duration {
        if wish.backlog {
            return Duration::ZERO;
        }
        let Some(last) = wish.last else { return Duration::ZERO };
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        MOST_PATIENCE.mul_f64(1.0 - learned.completions.chance(last, wish.age))
    }

    /// Reads what was learned, now and then.
    async fn learn(&self) {
        let now = Instant::now();
        {
            let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
            if learned.read_at.is_some_and(|at| now.duration_since(at) < LEARN_EVERY) {
                return;
            }
            learned.read_at = Some(now);
        }
        let mut read = redis::cmd("HGETALL");
        read.arg(format!("{}:completions", self.key));
        let counts: Option<Vec<(String, u64)>> =
            self.heard(read.query_async(&mut self.connection.get()).await);
        if let Some(counts) = counts {
            let spans = counts.into_iter().filter_map(|(span, count)| Some((span.parse().ok()?, count)));
            let completions = Completions::new(spans);
            self.learned.lock().unwrap_or_else(PoisonError::into_inner).completions = completions;
        }
    }

    fn write_verdict(&self, call: &mut ScriptInvocation<'_>, error: Option<&ApiError>) {
        let real_ms = |wait| self.allowance.real_ms(wait);
        match error.map(|error| (error, error.closes_gate())) {
            Some((ApiError::Unauthorized(_), Some(wait))) => call.arg("refused").arg(real_ms(wait)),
            Some((_, Some(wait))) => call.arg("closed").arg(real_ms(wait)),
            Some((error, None)) if error.says_nothing() => call
                .arg("failed")
                .arg(MOST_FAILURES)
                .arg(real_ms(FIRST_CLOSURE))
                .arg(real_ms(LONGEST_CLOSURE)),
            _ => call.arg("usable"),
        };
    }
}

fn read(answer: &[Value]) -> Option<Permission> {
    let text = |n: usize| answer.get(n).and_then(|value| redis::from_redis_value_ref::<String>(value).ok());
    let number = |n: usize| text(n)?.parse::<u64>().ok();
    let wait = |n: usize| number(n).map(Duration::from_millis);
    match text(0)?.as_str() {
        "ask" => Some(Permission::Ask(Ticket {
            number: text(1)?,
            key: usize::try_from(number(2)?).ok()?,
            probe: number(3)? == 1,
            waited: wait(4)?,
        })),
        "sighted" => Some(Permission::Sighted),
        "wait" => wait(1).map(Permission::Wait),
        "closed" => wait(1).map(Permission::Closed),
        _ => None,
    }
}

/// Says once what an operator should know.
fn report(ticket: &Ticket, became: &str, error: Option<&ApiError>) {
    let Some(error) = error else {
        if ticket.probe {
            tracing::info!("the provider lets this service ask");
        }
        return;
    };
    match became {
        "outdated" => {
            tracing::warn!(%error, "the provider refuses a key that was replaced; workers with the new one ask");
        }
        "other-key" => tracing::warn!(%error, "the provider refuses a key; the other one is used"),
        "closed-anew" => tracing::error!(%error, "nobody asks the provider for a while; orders wait"),
        "closed" => tracing::debug!(%error, "nobody asks the provider for a while longer"),
        _ => {}
    }
}
