//! Decides what an observation of an order leads to: the new record, the next job and the outcome to notify. [`decide`]
//! is total and pure: time, randomness and the provider's answer are arguments. It does no I/O and never waits.

use std::time::Duration;

use crate::schedule::{
    FIRST_RECHECK, HANDLING_LIMIT, HANDLING_OVERDUE_AFTER, NEXT_RECHECK, NOT_FOUND_LIMIT, OVERDUE_AFTER,
    POLL_LIMIT, POLL_LIMIT_COUNT, QUEUED_LIMIT, delayed_wait, not_found_wait, poll_error_wait,
};
use crate::{
    Jitter, JobName, OrderStatus, Outcome, PollStrategy, ProviderOrder, RetryPolicy, Timestamp, TopupStatus,
};

/// The state of an order between two checks. Times are domain time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracking {
    /// Status in the store.
    pub status: OrderStatus,
    /// When tracking began: at the order's first hand-over or, after the order was given up, at the next one.
    pub tracked_at: Timestamp,
    /// Start of the current period of fast polling. The limit of five minutes counts from here.
    pub polling_since: Timestamp,
    /// Number of the provider's answers in the current period of fast polling.
    pub polls: u32,
    /// Time of the provider's last answer for the order; `None` if the provider has never known the order.
    pub last_checked_at: Option<Timestamp>,
    /// Time of the next check; `None` once the order is final or given up.
    pub next_check_at: Option<Timestamp>,
    /// Time of the first QUEUED answer.
    pub scheduled_at: Option<Timestamp>,
    /// When the order became FULFILLED.
    pub fulfilled_at: Option<Timestamp>,
    /// When the order became REFUNDED.
    pub refunded_at: Option<Timestamp>,
    /// Number of times that fast polling ended before the order was final.
    pub delays: u32,
    /// Number of answers "not found" before the provider's first other answer for the order.
    pub not_found: u32,
    /// Whether the operator was notified that the order is overdue.
    pub overdue: bool,
    /// Failed attempts in a row of the order's job. If Redis loses the job, the order's new job starts at this count.
    pub failed_attempts: u32,
    /// Error of the last check, in words without personal data.
    pub last_error: Option<String>,
}

impl Tracking {
    /// The state of an order whose tracking begins now.
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

/// The result of a check. A refused key, a rate limit or an outage gives no result; the job then waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// The provider answered with the order.
    Answered(ProviderOrder),
    /// The provider does not know the order (404).
    NotFound,
    /// The provider gave no usable answer (network, time-out, 5xx, not JSON). The text is free of personal data.
    Failed(String),
}

/// The inputs of a decision, apart from the observation and the time.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    /// `PollTopup` or `RecheckTopup`; every other job is treated as a recheck.
    pub job: JobName,
    /// The state of the order before the check.
    pub tracking: &'a Tracking,
    /// Number of failed attempts of this job before the present attempt.
    pub attempts_made: u32,
    /// Pace of fast polling.
    pub strategy: PollStrategy,
    /// Attempts and backoff of a failing recheck.
    pub retry: RetryPolicy,
    /// Random part of the waits.
    pub jitter: Jitter,
}

/// The consequences of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The new state of the order, for the store.
    pub record: Tracking,
    /// The job that runs next, if any.
    pub next: Next,
    /// The outcome to notify of, if any.
    pub notify: Option<Outcome>,
    /// A warning for the operator's log, in words without personal data.
    pub warning: Option<String>,
}

/// The job that runs next for the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing: the order is final.
    Done,
    /// `poll-topup` after this wait.
    Poll(Duration),
    /// `recheck-topup` after this wait.
    Recheck(Duration),
    /// The same job after this wait. The check counts as a failed attempt.
    Retry(Duration),
    /// The same job after this wait. The check does not count as an attempt.
    Wait(Duration),
    /// The job is dead-lettered, for the operator to replay or discard.
    DeadLetter(DeadLetterReason),
}

/// Why an order that is not final is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterReason {
    /// The provider has never known the order.
    NotFound,
    /// A recheck used up its attempts.
    RecheckExhausted,
    /// QUEUED for more than seven days.
    QueuedTooLong,
    /// For more than seven days HANDLING, of an unknown status, or FULFILLED without a card code.
    HandlingTooLong,
}

impl DeadLetterReason {
    /// The reason as stored in the dead letters.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::RecheckExhausted => "recheck-exhausted",
            Self::QueuedTooLong => "queued-too-long",
            Self::HandlingTooLong => "handling-too-long",
        }
    }

    /// The reason in words, for the event.
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

/// Decides what an observation of an order leads to. The README lists the rules in a table.
#[must_use]
pub fn decide(situation: &Situation<'_>, observation: &Observation, now: Timestamp) -> Decision {
    if situation.tracking.status.is_final() {
        return absorbed(situation, observation);
    }
    let mut record = situation.tracking.clone();
    match observation {
        Observation::Answered(order) => {
            if record.last_checked_at.is_none() && record.not_found > 0 {
                // Time before the provider knew the order does not count as fast polling.
                record.polling_since = now;
            }
            record.last_checked_at = Some(now);
            record.last_error = None;
            record.not_found = 0;
            record.failed_attempts = 0;
            answered(situation, record, order, now)
        }
        // The provider has known this order before, so "not found" is the provider's fault and a failed attempt.
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

/// Decides for a final order. Its record never changes. An answer that contradicts its status causes `Unresolved`.
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
    // A check may run before `next_check_at`, after a crash or a second hand-over. It does not postpone the next check.
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

/// Decides for HANDLING, for an unknown status and for FULFILLED without a card code.
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

/// Ends fast polling, because the next poll would exceed the limit of fast polling, and schedules a recheck.
fn delayed(situation: &Situation<'_>, mut record: Tracking, now: Timestamp) -> Decision {
    record.status = OrderStatus::Delayed;
    record.failed_attempts = 0;
    let wait = match situation.tracking.next_check_at {
        // A check that is repeated after a crash finds the order DELAYED already, and keeps the time of the recheck.
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

/// Decides for an order that the provider has never known: its data may lag, or our environment setting may be wrong.
fn not_found(mut record: Tracking, now: Timestamp) -> Decision {
    record.last_error = Some("the provider does not know this order".to_owned());
    // A check before `next_check_at`, such as a repeat after a crash, does not count towards `NOT_FOUND_LIMIT`.
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
