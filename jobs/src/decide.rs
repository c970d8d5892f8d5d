//! What an observation of an order leads to: what is recorded, what runs next, who is notified.
//!
//! [`decide`] is total and pure: the clock, the randomness and the answer of the provider are
//! arguments. It knows no Redis, no database and no HTTP, and it never waits.

use std::time::Duration;

use crate::schedule::{
    FIRST_RECHECK, HANDLING_LIMIT, HANDLING_OVERDUE_AFTER, NEXT_RECHECK, NOT_FOUND_LIMIT, OVERDUE_AFTER,
    POLL_LIMIT, POLL_LIMIT_COUNT, QUEUED_LIMIT, delayed_wait, not_found_wait, poll_error_wait,
};
use crate::{
    Jitter, JobName, OrderStatus, Outcome, PollStrategy, ProviderOrder, RetryPolicy, Timestamp, TopupStatus,
};

/// What is known of an order between two looks at it. Times are domain time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracking {
    /// Status in the store.
    pub status: OrderStatus,
    /// When this service first saw the order, or took it up again after it was given up.
    pub tracked_at: Timestamp,
    /// Start of the current stretch of fast polling; its five minutes count from here.
    pub polling_since: Timestamp,
    /// Answers of the provider in the current stretch of fast polling.
    pub polls: u32,
    /// Last answer of the provider.
    pub last_checked_at: Option<Timestamp>,
    /// When the order is to be looked at next; nothing once it is final.
    pub next_check_at: Option<Timestamp>,
    /// First QUEUED answer.
    pub scheduled_at: Option<Timestamp>,
    /// When the order became FULFILLED.
    pub fulfilled_at: Option<Timestamp>,
    /// When the order became REFUNDED.
    pub refunded_at: Option<Timestamp>,
    /// How often the order outlived fast polling.
    pub delays: u32,
    /// Answers "not found" of an order for which there was no other answer yet.
    pub not_found: u32,
    /// Whether the operator was notified that the order is overdue.
    pub overdue: bool,
    /// Failed attempts of its job in a row. The job counts them itself; this is what a job begins with that takes the
    /// place of one that Redis has lost.
    pub failed_attempts: u32,
    /// What went wrong at the last look, in words without personal data.
    pub last_error: Option<String>,
}

impl Tracking {
    /// An order seen for the first time.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            status: OrderStatus::Handling,
            tracked_at: now,
            polling_since: now,
            polls: 0,
            last_checked_at: None,
            next_check_at: Some(now),
            scheduled_at: None,
            fulfilled_at: None,
            refunded_at: None,
            delays: 0,
            not_found: 0,
            overdue: false,
            failed_attempts: 0,
            last_error: None,
        }
    }
}

/// What a check of the order brought. What says nothing of this order is no observation of it: a refused key, a rate
/// limit or an outage has the job wait, and nothing is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// The provider answered with the order.
    Answered(ProviderOrder),
    /// The provider does not know the order (404).
    NotFound,
    /// No usable answer: network, time-out, 5xx, not JSON. In words, without personal data.
    Failed(String),
}

/// Everything but the observation and the time that a decision depends on.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    /// `PollTopup` or `RecheckTopup`; every other job is treated as a recheck.
    pub job: JobName,
    /// The order so far.
    pub tracking: &'a Tracking,
    /// Failed attempts of this job before this one.
    pub attempts_made: u32,
    /// Pace of fast polling.
    pub strategy: PollStrategy,
    /// Attempts and backoff of a failing recheck.
    pub retry: RetryPolicy,
    /// Randomness for the pace.
    pub jitter: Jitter,
}

/// The outcome of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The order as it is to be stored.
    pub record: Tracking,
    /// What runs next.
    pub next: Next,
    /// The outcome to notify, if any.
    pub notify: Option<Outcome>,
    /// What an operator reading the log should see, in words without personal data.
    pub warning: Option<String>,
}

/// What runs next for the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing: the order is final.
    Done,
    /// `poll-topup` after this wait.
    Poll(Duration),
    /// `recheck-topup` after this wait.
    Recheck(Duration),
    /// The same job after this wait, as a failed attempt.
    Retry(Duration),
    /// The same job after this wait; no attempt is lost.
    Wait(Duration),
    /// The job goes to the dead letters, where an operator finds it.
    DeadLetter(DeadLetterReason),
}

/// Why an order is no longer tracked without being final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterReason {
    /// The provider does not know it.
    NotFound,
    /// A recheck failed as often as it may.
    RecheckExhausted,
    /// QUEUED for more than seven days.
    QueuedTooLong,
    /// HANDLING, of an unknown status or FULFILLED without a card code for more than seven days.
    HandlingTooLong,
}

impl DeadLetterReason {
    /// The reason as it stands in the dead letters and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::RecheckExhausted => "recheck-exhausted",
            Self::QueuedTooLong => "queued-too-long",
            Self::HandlingTooLong => "handling-too-long",
        }
    }

    /// The reason in words, as it stands in the event.
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::NotFound => "the provider does not know the order",
            Self::RecheckExhausted => {
                "the provider gave no usable answer at any attempt to recheck the order"
            }
            Self::QueuedTooLong => "the order has been QUEUED for more than seven days",
            Self::HandlingTooLong => "the order has been without a final status for more than seven days",
        }
    }
}

/// Decides what an observation leads to. The table stands in the design, one row a match arm.
#[must_use]
pub fn decide(situation: &Situation<'_>, observation: &Observation, now: Timestamp) -> Decision {
    if situation.tracking.status.is_final() {
        return absorbed(situation, observation);
    }
    let mut record = situation.tracking.clone();
    match observation {
        Observation::Answered(order) => {
            if record.last_checked_at.is_none() && record.not_found > 0 {
                // Time in which the provider did not know the order is not time in which it was polled.
                record.polling_since = now;
            }
            record.last_checked_at = Some(now);
            record.last_error = None;
            record.not_found = 0;
            record.failed_attempts = 0;
            answered(situation, record, order, now)
        }
        // The provider has answered for this order before, so it is the provider that is at fault now.
        Observation::NotFound if record.last_checked_at.is_some() => {
            record.last_error = Some("the provider no longer knows this order".to_owned());
            failed(situation, record, now)
        }
        Observation::NotFound => not_found(record, now),
        Observation::Failed(error) => {
            record.last_error = Some(error.clone());
            failed(situation, record, now)
        }
    }
}

impl Decision {
    fn unchanged(situation: &Situation<'_>, next: Next) -> Self {
        Self { record: situation.tracking.clone(), next, notify: None, warning: None }
    }
}

/// Final states absorb: nothing changes them, and an answer that contradicts them is reported.
fn absorbed(situation: &Situation<'_>, observation: &Observation) -> Decision {
    let stored = situation.tracking.status;
    let mut decision = Decision::unchanged(situation, Next::Done);
    if let Observation::Answered(order) = observation {
        let agrees = match order.status {
            TopupStatus::Fulfilled => stored == OrderStatus::Fulfilled,
            TopupStatus::Refunded => stored == OrderStatus::Refunded,
            _ => false,
        };
        if !agrees {
            decision.notify = Some(Outcome::Unresolved);
            decision.warning = Some(format!("the provider contradicts the final status {stored}"));
        }
    }
    decision
}

fn answered(situation: &Situation<'_>, record: Tracking, order: &ProviderOrder, now: Timestamp) -> Decision {
    match (&order.status, &order.card) {
        (TopupStatus::Fulfilled, Some(_)) => finished(record, Outcome::Fulfilled, now),
        (TopupStatus::Refunded, _) => finished(record, Outcome::Refunded, now),
        (TopupStatus::Queued, _) => queued(record, now),
        (TopupStatus::Handling, _) => handling(situation, record, now, None),
        (TopupStatus::Fulfilled, None) => {
            let warning = "the provider says FULFILLED without a card code".to_owned();
            handling(situation, record, now, Some(warning))
        }
        (TopupStatus::Unknown(status), _) => {
            let status: String = status.chars().filter(|c| !c.is_control()).take(40).collect();
            let warning = format!("the provider answered the unknown status {status:?}");
            handling(situation, record, now, Some(warning))
        }
    }
}

fn finished(mut record: Tracking, outcome: Outcome, now: Timestamp) -> Decision {
    record.next_check_at = None;
    if outcome == Outcome::Fulfilled {
        record.status = OrderStatus::Fulfilled;
        record.fulfilled_at = Some(now);
    } else {
        record.status = OrderStatus::Refunded;
        record.refunded_at = Some(now);
    }
    Decision { record, next: Next::Done, notify: Some(outcome), warning: None }
}

fn queued(mut record: Tracking, now: Timestamp) -> Decision {
    let Some(scheduled_at) = record.scheduled_at else {
        record.status = OrderStatus::Scheduled;
        record.scheduled_at = Some(now);
        record.next_check_at = Some(now + FIRST_RECHECK);
        let next = Next::Recheck(FIRST_RECHECK);
        return Decision { record, next, notify: Some(Outcome::Scheduled), warning: None };
    };
    let age = (now - scheduled_at).to_std().unwrap_or_default();
    if age >= QUEUED_LIMIT {
        record.next_check_at = None;
        record.last_error = Some("QUEUED for more than seven days".to_owned());
        return dead_letter(record, DeadLetterReason::QueuedTooLong);
    }
    // A look before its time (the job was repeated after a crash, or a producer sent the order again)
    // keeps the time that was set.
    let wait = match record.next_check_at {
        Some(at) if record.status == OrderStatus::Scheduled && at > now => {
            (at - now).to_std().unwrap_or_default()
        }
        _ => NEXT_RECHECK,
    };
    record.status = OrderStatus::Scheduled;
    record.next_check_at = Some(now + wait);
    let tell = age >= OVERDUE_AFTER && !record.overdue;
    record.overdue |= tell;
    let notify = tell.then_some(Outcome::Overdue);
    Decision { record, next: Next::Recheck(wait), notify, warning: None }
}

/// HANDLING, and everything that is not final although the provider answered.
fn handling(
    situation: &Situation<'_>,
    mut record: Tracking,
    now: Timestamp,
    warning: Option<String>,
) -> Decision {
    record.last_error.clone_from(&warning);
    if situation.job == JobName::PollTopup {
        record.polls += 1;
    } else {
        record.polling_since = now;
        record.polls = 0;
    }
    let (since, overdue_after) = match record.scheduled_at {
        Some(scheduled_at) => (scheduled_at, OVERDUE_AFTER),
        None => (record.tracked_at, HANDLING_OVERDUE_AFTER),
    };
    let age = (now - since).to_std().unwrap_or_default();
    if age >= HANDLING_LIMIT {
        record.next_check_at = None;
        record.last_error =
            Some(warning.clone().unwrap_or_else(|| "HANDLING for more than seven days".to_owned()));
        return Decision { warning, ..dead_letter(record, DeadLetterReason::HandlingTooLong) };
    }
    record.status = OrderStatus::Handling;
    let elapsed = (now - record.polling_since).to_std().unwrap_or_default();
    let wait = situation.jitter.apply(situation.strategy.interval(elapsed));
    let mut decision = if record.polls >= POLL_LIMIT_COUNT || elapsed + wait > POLL_LIMIT {
        delayed(situation, record, now)
    } else {
        record.next_check_at = Some(now + wait);
        Decision { record, next: Next::Poll(wait), notify: None, warning: None }
    };
    decision.warning = warning;
    let first_delay = decision.notify.is_some() && decision.record.delays <= 1;
    if age >= overdue_after && !decision.record.overdue && !first_delay {
        decision.record.overdue = true;
        decision.notify = Some(Outcome::Overdue);
    }
    decision
}

/// The limit of fast polling is reached: the next poll would fall behind it.
fn delayed(situation: &Situation<'_>, mut record: Tracking, now: Timestamp) -> Decision {
    record.status = OrderStatus::Delayed;
    record.failed_attempts = 0;
    let wait = match situation.tracking.next_check_at {
        // The look is repeated after a crash: the time that was set stays.
        Some(at) if situation.tracking.status == OrderStatus::Delayed && at > now => {
            (at - now).to_std().unwrap_or_default()
        }
        _ => {
            record.delays = record.delays.saturating_add(1);
            delayed_wait(record.delays)
        }
    };
    record.next_check_at = Some(now + wait);
    Decision { record, next: Next::Recheck(wait), notify: Some(Outcome::Delayed), warning: None }
}

/// The provider has never known the order: its replica may lag behind, or the order is of the other environment.
fn not_found(mut record: Tracking, now: Timestamp) -> Decision {
    record.last_error = Some("the provider does not know this order".to_owned());
    // A check before its time, for instance one that is repeated after a crash, brings the end no nearer.
    let early = record.next_check_at.filter(|at| record.not_found > 0 && *at > now);
    let wait = if let Some(at) = early {
        (at - now).to_std().unwrap_or_default()
    } else {
        record.not_found = record.not_found.saturating_add(1);
        if record.not_found > NOT_FOUND_LIMIT {
            record.next_check_at = None;
            return dead_letter(record, DeadLetterReason::NotFound);
        }
        not_found_wait(record.not_found)
    };
    record.next_check_at = Some(now + wait);
    Decision { record, next: Next::Wait(wait), notify: None, warning: None }
}

fn failed(situation: &Situation<'_>, mut record: Tracking, now: Timestamp) -> Decision {
    let attempts_made = situation.attempts_made.saturating_add(1);
    let wait = if situation.job == JobName::PollTopup {
        let wait = situation.jitter.apply(poll_error_wait(attempts_made));
        let elapsed = (now - record.polling_since).to_std().unwrap_or_default();
        if elapsed + wait > POLL_LIMIT {
            return delayed(situation, record, now);
        }
        wait
    } else {
        if attempts_made >= situation.retry.attempts {
            record.next_check_at = None;
            return dead_letter(record, DeadLetterReason::RecheckExhausted);
        }
        situation.retry.backoff.wait(attempts_made)
    };
    record.next_check_at = Some(now + wait);
    record.failed_attempts = attempts_made;
    Decision { record, next: Next::Retry(wait), notify: None, warning: None }
}

fn dead_letter(record: Tracking, reason: DeadLetterReason) -> Decision {
    let notify = Some(Outcome::Unresolved);
    Decision { record, next: Next::DeadLetter(reason), notify, warning: None }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
