//! The metrics: what the API budget is spent on, how it stands, and which notifications were not delivered.
//!
//! Two kinds of them. What this worker did is counted from its start on, each label at zero: requests, waits, changes
//! of orders, notifications that were given up. The state of the deployment's budget is read from Redis at each scrape, and
//! at no other time; where Redis does not say, it is left out, since unknown is not zero.
//!
//! A job that a worker runs in a process of its own (`run-job`) is not counted: that process has no endpoint and is
//! gone with its job.
//!
//! A label is the word for a value of an enum. Nothing that came from outside this program becomes one, and no id.

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

/// A label and the word of an enum.
type Label = (&'static str, &'static str);

/// Bounds of the time in line, in seconds: from "hardly waited" to twice as long as fast polling may take.
const WAIT_BOUNDS: [f64; 10] = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Bounds of the requests for an order; fast polling ends after 60.
const REQUEST_BOUNDS: [f64; 10] = [0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 60.0];

/// Why a notification was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UndeliveredReason {
    /// The receiver refused it.
    Refused,
    /// Every attempt failed.
    Exhausted,
    /// The queue made its job a dead letter: its process died again and again, or its handler failed.
    DeadLettered,
    /// No channel reaches the customer or the merchant of the order.
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

/// What this worker did. Clones count together.
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
    /// Everything at zero.
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
            "Requests to the provider that this worker made, by what came of them",
            Family::clone(&requests),
        );
        registry.register_with_unit(
            "topup_api_wait",
            "Time that an order waited for its request, without the time in which no order is checked",
            Unit::Seconds,
            Family::clone(&waits),
        );
        registry.register(
            "topup_order_requests",
            "Requests check-id for one order until it was HANDLING no more: those that told HANDLING since fast \
             polling began, and the one that ended it, unless the list did",
            order_requests.clone(),
        );
        registry.register(
            "topup_order_status_changes",
            "Changes of the status of an order that this worker stored, by the new status",
            Family::clone(&status_changes),
        );
        registry.register(
            "topup_notifications_undelivered",
            "Notifications that this worker gave up, by channel and reason",
            Family::clone(&undelivered),
        );
        let (rejected, rejected_dropped) = (Counter::default(), Counter::default());
        registry.register(
            "topup_messages_rejected",
            "Messages that this worker could not accept",
            rejected.clone(),
        );
        registry.register(
            "topup_messages_rejected_dropped",
            "Rejected messages that this worker dropped, the oldest first, since there were too many",
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
            "1 where Redis is not set up so that it keeps every order, by what was looked at; doctor says more",
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
    /// A request was answered, or ended in this error.
    pub(crate) fn requested(&self, kind: RequestKind, error: Option<&ApiError>) {
        self.requests.get_or_create(&request_labels(kind, AnswerKind::of(error))).inc();
    }

    /// The order of this job got its request after this wait of domain time.
    pub(crate) fn waited(&self, job: JobName, wait: Duration) {
        self.waits.get_or_create(&queue_label(job)).observe(wait.as_secs_f64());
    }

    /// The status of an order became another one, and is stored. `requests` were made for it while it was HANDLING.
    pub(crate) fn status_changed(&self, from: OrderStatus, to: OrderStatus, requests: u32) {
        self.status_changes.get_or_create(&status_label(to)).inc();
        if from == OrderStatus::Handling {
            self.order_requests.observe(f64::from(requests));
        }
    }

    /// A notification by this channel was given up, and that is stored.
    pub(crate) fn undelivered(&self, channel: ChannelName, why: UndeliveredReason) {
        self.undelivered.get_or_create(&undelivered_labels(channel, why)).inc();
    }

    /// So many messages were rejected.
    pub(crate) fn rejected(&self, messages: u64) {
        self.rejected.inc_by(messages);
    }

    /// So many rejected messages were dropped.
    pub(crate) fn rejected_dropped(&self, messages: u64) {
        self.rejected_dropped.inc_by(messages);
    }

    /// The clock of this host is so many seconds ahead of the time of the deployment, or behind it.
    pub(crate) fn clock_ahead(&self, seconds: f64) {
        self.clock_ahead.set(seconds);
    }

    /// Whether Redis passed this check of its set-up.
    pub(crate) fn redis_check(&self, check: &'static str, is_ok: bool) {
        self.redis_checks.get_or_create(&[("check", check)]).set((!is_ok).into());
    }

    /// All metrics in Prometheus' text format, of which every scraper can read this version; without those of the
    /// budget where its state is not known.
    #[must_use]
    pub(crate) fn encode(&self, budget: Option<&BudgetState>) -> String {
        let mut text = String::new();
        let written = prometheus_text::encode(&mut text, &self.registry);
        let written = written.and_then(|()| match budget {
            Some(state) => prometheus_text::encode(&mut text, &gauges(state)),
            None => Ok(()),
        });
        // Invariant: writing to a String does not fail, and nothing registered here has an encoder that does.
        written.expect("metrics are encoded");
        text
    }
}

/// The budget of the whole deployment. Made anew at each scrape: a value that was known once must not be shown for ever.
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
        "Requests that all workers together may still make in the present minute, for each key there is",
        of(tokens.collect()),
    );
    registry.register(
        "topup_api_key_in_use",
        "1 for the key that requests are made with",
        of(in_use.collect()),
    );
    registry.register(
        "topup_api_breaker",
        "1 for the state of the circuit breaker before the provider",
        of(breaker.into()),
    );
    registry.register(
        "topup_api_waiting_orders",
        "Orders in the wait queue for a request",
        of(waiting.into()),
    );
    registry.register("topup_api_list", "1 for what is done with the list of orders", of(list.into()));
    registry
}

fn request_labels(kind: RequestKind, answer: AnswerKind) -> [Label; 2] {
    [("kind", kind.as_str()), ("answer", answer.as_str())]
}

/// Not `job`: Prometheus gives every series a label of that name.
fn queue_label(job: JobName) -> [Label; 1] {
    [("queue", job.as_str())]
}

/// Every channel with every reason for which it may not deliver.
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
