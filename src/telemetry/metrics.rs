//! The metrics: use and state of the API budget, changes of orders, rejected messages and undelivered notifications.
//!
//! The counters of this worker start at zero for every label. The budget, which all workers share, is read from Redis
//! only when the metrics are scraped. If Redis does not answer, the budget's metrics are omitted, because 0 would be
//! wrong. Isolated processes (`run-job`) do not count their jobs: they serve no metrics and end with the job.
//!
//! A label value must be a constant of this program, such as the name of an enum variant, and never an id or input.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use topup_jobs::{JobName, OrderStatus};

use crate::notify::ChannelName;
use crate::provider::{AnswerKind, ApiError, RequestKind};
use crate::rate_limit::{ApiKey, Breaker, BudgetState, ListUse};
use crate::redis::server;

type Label = (&'static str, &'static str);

/// Bounds, in seconds, of the histogram of waits for a request. The last is twice the limit of fast polling.
const WAIT_BOUNDS: [f64; 10] = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Bounds of the histogram of requests for one order. Fast polling ends after 60 requests, so 60 is the last bound.
const REQUEST_BOUNDS: [f64; 10] = [0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 60.0];

/// Why a notification was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UndeliveredReason {
    /// The receiver refused the notification.
    Refused,
    /// Every attempt to deliver the notification failed.
    Exhausted,
    /// The queue dead-lettered the notification's job, because its process died repeatedly or its handler failed.
    DeadLettered,
    /// No channel reaches the order's customer or merchant.
    NoChannel,
    /// The database does not hold the notification.
    NotStored,
}

impl UndeliveredReason {
    const ALL: [Self; 5] =
        [Self::Refused, Self::Exhausted, Self::DeadLettered, Self::NoChannel, Self::NotStored];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Exhausted => "exhausted",
            Self::DeadLettered => "dead-lettered",
            Self::NoChannel => "no-channel",
            Self::NotStored => "not-stored",
        }
    }
}

/// The metrics of this worker. Clones share all counts.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<[Label; 2], Counter>,
    waits: Family<[Label; 1], Histogram>,
    order_requests: Histogram,
    status_changes: Family<[Label; 1], Counter>,
    undelivered: Family<[Label; 2], Counter>,
    rejected: Counter,
    rejected_dropped: Counter,
    clock_ahead: Gauge<f64, AtomicU64>,
    redis_checks: Family<[Label; 1], Gauge>,
    registry: Arc<Registry>,
}

impl Default for Metrics {
    fn default() -> Self {
        let requests = Family::default();
        for kind in RequestKind::ALL {
            for answer in AnswerKind::ALL {
                drop(requests.get_or_create(&request_labels(kind, answer)));
            }
        }
        let waits = Family::new_with_constructor((|| Histogram::new(WAIT_BOUNDS)) as fn() -> Histogram);
        for job in JobName::TRACKING {
            drop(waits.get_or_create(&queue_label(job)));
        }
        let order_requests = Histogram::new(REQUEST_BOUNDS);
        let status_changes = Family::default();
        for status in OrderStatus::ALL {
            drop(status_changes.get_or_create(&status_label(status)));
        }
        let undelivered = Family::default();
        for (channel, why) in undelivered_kinds() {
            drop(undelivered.get_or_create(&undelivered_labels(channel, why)));
        }
        let mut registry = Registry::default();
        registry.register(
            "topup_api_requests",
            "Requests of this worker to the provider, by kind and answer",
            Family::clone(&requests),
        );
        registry.register_with_unit(
            "topup_api_wait",
            "Time that an order waited for its request, excluding pauses of all checks",
            Unit::Seconds,
            Family::clone(&waits),
        );
        registry.register(
            "topup_order_requests",
            "Answered check-id requests for one order, from the start of fast polling until it left HANDLING",
            order_requests.clone(),
        );
        registry.register(
            "topup_order_status_changes",
            "Status changes of orders that this worker stored, by new status",
            Family::clone(&status_changes),
        );
        registry.register(
            "topup_notifications_undelivered",
            "Notifications that this worker gave up, by channel and reason",
            Family::clone(&undelivered),
        );
        let (rejected, rejected_dropped) = (Counter::default(), Counter::default());
        registry.register("topup_messages_rejected", "Messages that this worker rejected", rejected.clone());
        registry.register(
            "topup_messages_rejected_dropped",
            "Rejected messages that this worker dropped, oldest first, because too many were stored",
            rejected_dropped.clone(),
        );
        let clock_ahead = Gauge::default();
        registry.register_with_unit(
            "topup_clock_ahead",
            "How far the clock of this host is ahead of the time of the deployment",
            Unit::Seconds,
            clock_ahead.clone(),
        );
        let redis_checks = Family::default();
        for check in server::NAMES {
            drop(redis_checks.get_or_create(&[("check", check)]));
        }
        registry.register(
            "topup_redis_check_failed",
            "1 if this check of the Redis setup failed, so that orders may be lost; run doctor for details",
            Family::clone(&redis_checks),
        );
        Self {
            requests,
            waits,
            order_requests,
            status_changes,
            undelivered,
            rejected,
            rejected_dropped,
            clock_ahead,
            redis_checks,
            registry: Arc::new(registry),
        }
    }
}

impl Metrics {
    /// Counts a request, by kind and by the error it ended in, if any.
    pub(crate) fn requested(&self, kind: RequestKind, error: Option<&ApiError>) {
        self.requests.get_or_create(&request_labels(kind, AnswerKind::of(error))).inc();
    }

    /// Records how long an order waited for its request, in domain time.
    pub(crate) fn waited(&self, job: JobName, wait: Duration) {
        self.waits.get_or_create(&queue_label(job)).observe(wait.as_secs_f64());
    }

    /// Counts a stored change of an order's status. `requests` were made for the order while it was HANDLING.
    pub(crate) fn status_changed(&self, from: OrderStatus, to: OrderStatus, requests: u32) {
        self.status_changes.get_or_create(&status_label(to)).inc();
        if from == OrderStatus::Handling {
            self.order_requests.observe(f64::from(requests));
        }
    }

    /// Counts a notification that is stored as given up.
    pub(crate) fn undelivered(&self, channel: ChannelName, why: UndeliveredReason) {
        self.undelivered.get_or_create(&undelivered_labels(channel, why)).inc();
    }

    pub(crate) fn rejected(&self, messages: u64) {
        self.rejected.inc_by(messages);
    }

    pub(crate) fn rejected_dropped(&self, messages: u64) {
        self.rejected_dropped.inc_by(messages);
    }

    /// Sets how many seconds this host's clock is ahead of the deployment's time; negative if it is behind.
    pub(crate) fn clock_ahead(&self, seconds: f64) {
        self.clock_ahead.set(seconds);
    }

    /// Sets whether Redis passed this check of its setup.
    pub(crate) fn redis_check(&self, check: &'static str, is_ok: bool) {
        self.redis_checks.get_or_create(&[("check", check)]).set((!is_ok).into());
    }

    /// All metrics in the Prometheus text format. `budget` adds the metrics of the API budget that all workers share.
    #[must_use]
    pub(crate) fn encode(&self, budget: Option<&BudgetState>) -> String {
        let mut text = String::new();
        let written = prometheus_text::encode(&mut text, &self.registry);
        let written = written.and_then(|()| match budget {
            Some(state) => prometheus_text::encode(&mut text, &gauges(state)),
            None => Ok(()),
        });
        // Invariant: writing to a String cannot fail, and no metric registered here has a fallible encoder.
        written.expect("metrics are encoded");
        text
    }
}

/// Metrics of the deployment's budget. They are built anew at each scrape, so that no outdated value is shown.
fn gauges(state: &BudgetState) -> Registry {
    let of = |values: Vec<(Label, i64)>| {
        let family = Family::<[Label; 1], Gauge>::default();
        for (label, value) in values {
            family.get_or_create(&[label]).set(value);
        }
        family
    };
    let keys = state.tokens.iter().map(|(key, left)| (*key, *left));
    let tokens = keys.clone().map(|(key, left)| (key_label(key), left.into()));
    let in_use = keys.map(|(key, _)| (key_label(key), (key == state.key).into()));
    let breaker =
        Breaker::ALL.map(|breaker| (("state", breaker.as_str()), (breaker == state.breaker).into()));
    let list = ListUse::ALL.map(|list| (("state", list.as_str()), (list == state.list).into()));
    let waiting = [("new", state.new_waiting), ("backlog", state.backlog_waiting)]
        .map(|(class, orders)| (("class", class), i64::try_from(orders).unwrap_or(i64::MAX)));

    let mut registry = Registry::default();
    registry.register(
        "topup_api_tokens",
        "Requests that all workers together may still make in the current minute, by key",
        of(tokens.collect()),
    );
    registry.register("topup_api_key_in_use", "1 for the key in use", of(in_use.collect()));
    registry.register(
        "topup_api_breaker",
        "1 for the current state of the circuit breaker",
        of(breaker.into()),
    );
    registry.register("topup_api_waiting_orders", "Orders in the wait queue, by class", of(waiting.into()));
    registry.register("topup_api_list", "1 for the current use of the list of orders", of(list.into()));
    registry
}

fn request_labels(kind: RequestKind, answer: AnswerKind) -> [Label; 2] {
    [("kind", kind.as_str()), ("answer", answer.as_str())]
}

/// The label is named `queue`, because Prometheus adds a label `job` to every series.
fn queue_label(job: JobName) -> [Label; 1] {
    [("queue", job.as_str())]
}

/// Every channel with each reason that can apply to it.
fn undelivered_kinds() -> impl Iterator<Item = (ChannelName, UndeliveredReason)> {
    ChannelName::ALL.into_iter().flat_map(|channel| {
        let whys = UndeliveredReason::ALL.into_iter();
        whys.filter(move |why| (channel == ChannelName::None) == (*why == UndeliveredReason::NoChannel))
            .map(move |why| (channel, why))
    })
}

fn undelivered_labels(channel: ChannelName, why: UndeliveredReason) -> [Label; 2] {
    [("channel", channel.as_str()), ("why", why.as_str())]
}

fn status_label(status: OrderStatus) -> [Label; 1] {
    [("status", status.as_str())]
}

fn key_label(key: ApiKey) -> Label {
    ("key", key.as_str())
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
