//! The last step of a check: stores its decision and event. Rows of the list and given-up orders are stored here, too.

use topup_jobs::{
    DeadLetterReason, Decision, JobName, Next, NotifyCustomer, Observation, Outcome, ProviderOrder,
    RetryPolicy, Situation, Timestamp, TopupId, TopupStatus, Tracking, decide,
};

use super::environment::Environment;
use crate::job::NextJob;
use crate::orders::{Applied, Change, NewEvent, Order, StoreError};
use crate::provider::RequestKind;

/// Stores what a row of the provider's list shows about an order. Returns whether the order's job should run now.
pub(crate) async fn seen_in_list(
    env: &Environment,
    topup_id: &TopupId,
    seen: ProviderOrder,
) -> Result<bool, StoreError> {
    let Some(order) = env.store.order(topup_id).await? else { return Ok(false) };
    let tracking = &order.tracking;
    if order.cancelled_at.is_some() {
        return Ok(false);
    }
    if tracking.status.is_final() {
        return Ok(true);
    }
    if seen.status == TopupStatus::Queued && tracking.scheduled_at.is_some() {
        // An earlier QUEUED answer is stored. This row repeats it, or is outdated because the status has changed since.
        return Ok(false);
    }
    let job = JobName::tracking(tracking.status);
    let now = env.clock.now();
    let situation = Situation {
        job,
        tracking,
        attempts_made: 0,
        strategy: env.strategy,
        retry: RetryPolicy::default(),
        jitter: (env.jitter)(),
    };
    let observation = Observation::Answered(seen);
    let decision = decide(&situation, &observation, now);
    Ok(apply(env, job, &order, (RequestKind::List, &observation), &decision, now).await?.is_some())
}

/// The event that a change stored, if it stored one, and the order's pending notifications.
pub(super) struct Stored {
    pub(super) event: Option<NewEvent>,
    pub(super) pending: Vec<NotifyCustomer>,
}

/// Stores a decision and logs it. Stores nothing and returns `None` if the order has changed since the check read it.
pub(super) async fn apply(
    env: &Environment,
    job: JobName,
    order: &Order,
    (source, observation): (RequestKind, &Observation),
    decision: &Decision,
    now: Timestamp,
) -> Result<Option<Stored>, StoreError> {
    if let Some(warning) = &decision.warning {
        tracing::warn!(order.id = %order.topup_id, warning, "the provider gave an unexpected answer for the order");
    }
    let seen = match observation {
        Observation::Answered(seen) => Some(seen),
        _ => None,
    };
    let record = &decision.record;
    let dead_letter = match decision.next {
        Next::DeadLetter(reason) => Some(reason),
        _ => None,
    };
    let given_up = dead_letter.map(DeadLetterReason::as_str);
    let in_words = dead_letter.map(DeadLetterReason::in_words);
    let event = decision.notify.map(|outcome| env.announce(outcome, order, seen, record, in_words, now));
    let change = Change { job, at: now, order, record, seen, given_up, event: event.clone() };
    let (applied, pending) = env.store.apply(change).await?;
    match (applied, &event) {
        (Applied::Conflict, _) => return Ok(None),
        (Applied::Stored, Some(event)) => env.report_unreachable(order, event),
        (Applied::Stored | Applied::Repeated, _) => {}
    }
    report(decision, observation);
    let tracking = &order.tracking;
    if record.status != tracking.status {
        // `polls` counts the answers to earlier polls, not rows of the list. A check by id adds one.
        let requests = tracking.polls + u32::from(source == RequestKind::CheckId);
        env.metrics.status_changed(tracking.status, record.status, requests);
    }
    if decision.next == Next::Done && !tracking.status.is_final() && tracking.scheduled_at.is_none() {
        let age = |at: Timestamp| (at - tracking.tracked_at).to_std().unwrap_or_default();
        env.budget.completed(tracking.last_checked_at.map(age).unwrap_or_default(), age(now)).await;
    }
    let event = event.filter(|_| applied == Applied::Stored);
    Ok(Some(Stored { event, pending }))
}

/// Stores that an order is given up, after the queue has dead-lettered its job. Returns the jobs that notify of it.
pub(crate) async fn give_up(
    env: &Environment,
    topup_id: &TopupId,
    reason: &str,
) -> Result<Vec<NextJob>, StoreError> {
    let Some(order) = env.store.order(topup_id).await? else { return Ok(Vec::new()) };
    if order.tracking.status.is_final() || order.tracking.next_check_at.is_none() {
        return Ok(Vec::new());
    }
    let now = env.clock.now();
    let last_error = Some(reason.to_owned());
    let record = Tracking { next_check_at: None, last_error, ..order.tracking.clone() };
    let event = env.announce(Outcome::Unresolved, &order, None, &record, Some(reason), now);
    let change = Change {
        job: JobName::tracking(order.tracking.status),
        at: now,
        order: &order,
        record: &record,
        seen: None,
        given_up: Some(reason),
        event: Some(event),
    };
    let (applied, pending) = env.store.apply(change).await?;
    if applied == Applied::Conflict {
        return Ok(Vec::new());
    }
    tracing::error!(order.id = %topup_id, reason, "the queue dead-lettered the job; the order is given up");
    Ok(pending.iter().map(NextJob::notify).collect())
}

/// Whether a check, not the queue, gave this dead-letter reason. A check gives up the order in the store first and then
/// dead-letters the job. So if the store still tracks the order, an operator has begun to replay the dead letter.
pub(crate) fn is_by_a_check(reason: &str) -> bool {
    [
        DeadLetterReason::NotFound,
        DeadLetterReason::RecheckExhausted,
        DeadLetterReason::QueuedTooLong,
        DeadLetterReason::HandlingTooLong,
    ]
    .iter()
    .any(|known| known.as_str() == reason)
}

fn report(decision: &Decision, observation: &Observation) {
    let status = decision.record.status;
    match (&decision.next, observation) {
        (Next::DeadLetter(reason), _) => {
            tracing::error!(
                order.status = %status,
                reason = reason.as_str(),
                "the order is given up; its job is kept as a dead letter"
            );
        }
        (_, Observation::Failed(error)) => {
            tracing::warn!(error, "the provider gave no usable answer; the order is checked again");
        }
        _ => tracing::debug!(order.status = %status, "the order was checked and the result is stored"),
    }
}
