//! One check of an order, for `poll-topup` and `recheck-topup` alike: load → ask → decide → apply.

use std::time::Duration;

use futures_util::future::OptionFuture;
use topup_jobs::{
    Decision, JobName, Next, Observation, OrderStatus, Outcome, ProviderOrder, Secret, Situation,
    TopupStatus, TrackTopup, Tracking, Waited, decide,
};

use super::announce::ANOTHER_CARD;
use super::apply::apply;
use super::environment::{Environment, TROUBLE_PAUSE, log_store_failure};
use super::observe::{Answered, Observed, observe};
use crate::job::{Disposition, Job, NextJob, Settlement, encode};
use crate::orders::{Order, StoreError};
use crate::provider::RequestKind;

/// The order's id, if it must replace another `id` of the job. `None` for the job of a message about a known order.
pub(super) fn other_id_of_order(id: &[u8], payload: &[u8]) -> Option<String> {
    if names_first(id, payload) {
        return None;
    }
    // If the payload cannot be parsed, the job keeps its id and becomes a dead letter.
    let order: TrackTopup = serde_json::from_slice(payload).ok()?;
    let right = order.instruction.is_none().then(|| String::from(order.topup_id));
    right.filter(|right| right.as_bytes() != id)
}

/// Whether the payload begins with a `topupId` equal to `id`, as payloads from workers do. Then it is not parsed.
fn names_first(id: &[u8], payload: &[u8]) -> bool {
    let behind_id = payload.strip_prefix(br#"{"topupId":""#).and_then(|rest| rest.strip_prefix(id));
    behind_id.is_some_and(|rest| rest.starts_with(b"\""))
}

pub(super) async fn check(env: &Environment, name: JobName, job: &Job<TrackTopup>) -> Settlement {
    tracing::Span::current().record("order.id", job.payload.topup_id.as_str());
    match try_check(env, name, job).await {
        Ok(settlement) => settlement,
        Err(error) => {
            // The store is at fault, not the order: the job waits and loses no attempt.
            log_store_failure(&error);
            Settlement::new(Disposition::Snooze(TROUBLE_PAUSE))
        }
    }
}

async fn try_check(
    env: &Environment,
    name: JobName,
    job: &Job<TrackTopup>,
) -> Result<Settlement, StoreError> {
    let request = &job.payload;
    let mut order = env.store.track(request, env.clock.now()).await?;
    if let Some(end) = ended_before(&order) {
        let next = env.jobs_to_notify(&order).await?;
        return Ok(Settlement { next, ..stays(request, &order, Waited::default(), end) });
    }
    if let Some(mut next) = decided_before(env, name, request, &order) {
        tracing::debug!(order.status = %order.tracking.status, "the order needs no request now; its job completes");
        next.extend(env.jobs_to_notify(&order).await?);
        return Ok(Settlement { next, ..Settlement::new(Disposition::Complete) });
    }
    let now = env.clock.now();
    let waited = request.waited.until(now);
    if name == JobName::PollTopup {
        // Time without a permit does not count as fast polling, so the start of polling moves forward by that time.
        order.tracking.polling_since += waited.total();
    }
    let (retry, jitter) = (order.retry.or(request.retry).unwrap_or_default(), (env.jitter)());
    let decide_on = |tracking: &Tracking, observation: &Observation, now| {
        let (attempts_made, strategy) = (job.attempts_made, env.strategy);
        decide(&Situation { job: name, tracking, attempts_made, strategy, retry, jitter }, observation, now)
    };
    let handling = Observation::Answered(ProviderOrder::new(TopupStatus::Handling));
    let as_before = decide_on(&order.tracking, &handling, now);
    // The list may be stale, so a HANDLING row of it is used only if the next step is another poll. If HANDLING would make
    // the order DELAYED, the provider is asked for the order itself.
    let list_counts = matches!(as_before.next, Next::Poll(_));
    let (observation, source, waited_in_slot, reporting) = match observe(env, name, &order, list_counts).await
    {
        Observed::Answer(Answered { observation, waited, reporting }) => {
            (observation, RequestKind::CheckId, waited, reporting)
        }
        Observed::SeenInList(waited) => (handling, RequestKind::List, waited, None),
        // The check learned nothing about the order, so it stores nothing.
        Observed::Wait(wait) => {
            return Ok(stays(request, &order, request.waited.on(now), Disposition::Snooze(wait)));
        }
    };
    if name == JobName::PollTopup {
        order.tracking.polling_since += waited_in_slot;
    }
    let now = env.clock.now();
    let mut decision = match source {
        RequestKind::CheckId => decide_on(&order.tracking, &observation, now),
        RequestKind::List => as_before,
    };
    if shows_another_card(env, &order, &observation).await? {
        decision.notify = Some(Outcome::Unresolved);
        decision.warning = Some(ANOTHER_CARD.to_owned());
    }
    if let (RequestKind::List, JobName::PollTopup, Next::Poll(wait)) = (source, name, &decision.next)
        && order.tracking.last_checked_at.is_some()
    {
        // A row without news is stored only if it is the first answer: it proves that the provider knows the order.
        return Ok(stays(request, &order, waited, Disposition::Snooze(env.clock.real(*wait))));
    }
    let stored = apply(env, name, &order, (source, &observation), &decision, now).await?;
    let notifying = async {
        match stored {
            Some(stored) => Some(env.notify(&order, stored).await),
            None => None,
        }
    };
    // A panic in `reporting` ends only the report.
    let (jobs_to_notify, _) = tokio::join!(notifying, OptionFuture::from(reporting));
    let Some(jobs_to_notify) = jobs_to_notify else {
        tracing::debug!("another worker or command changed the order during its check; it is checked again");
        return Ok(Settlement::new(Disposition::Snooze(Duration::ZERO)));
    };
    let mut settlement = settle(env, request, &order, decision);
    settlement.next.extend(jobs_to_notify);
    Ok(settlement)
}

/// Whether the provider shows another card than the stored one. A stored card that cannot be decrypted counts as equal.
async fn shows_another_card(
    env: &Environment,
    order: &Order,
    observation: &Observation,
) -> Result<bool, StoreError> {
    let Observation::Answered(ProviderOrder { card: Some(shown), .. }) = observation else {
        return Ok(false);
    };
    if order.tracking.status != OrderStatus::Fulfilled {
        return Ok(false);
    }
    match env.store.card(&order.topup_id).await {
        Ok(stored) => Ok(stored.is_some_and(|stored| !same_code(&stored.card_code, &shown.card_code))),
        Err(error) if error.is_of_one_row() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether two card codes are the same, ignoring spaces.
fn same_code(one: &Secret, other: &Secret) -> bool {
    let plain = |code: &Secret| code.reveal().split_whitespace().collect::<String>();
    plain(one) == plain(other)
}

/// How to settle the job of an order that was given up or cancelled; `None` for other orders. Such a job is still in a
/// queue if a crash prevented its settlement, or if the order was cancelled or its dead letter discarded meanwhile.
fn ended_before(order: &Order) -> Option<Disposition> {
    let tracking = &order.tracking;
    if tracking.status.is_final() || tracking.next_check_at.is_some() {
        return None;
    }
    Some(match &order.given_up {
        Some(reason) if order.cancelled_at.is_none() => Disposition::DeadLetter(reason.clone()),
        _ => Disposition::Complete,
    })
}

/// The follow-up jobs of an order that needs no request; `None` if one is needed. A final order needs none. Nor does an
/// order that is still polled although a row of the list, or a check that was not settled, has put it off to a recheck.
fn decided_before(
    env: &Environment,
    name: JobName,
    request: &TrackTopup,
    order: &Order,
) -> Option<Vec<NextJob>> {
    let tracking = &order.tracking;
    if request.force {
        return None;
    }
    if tracking.status.is_final() {
        return Some(Vec::new());
    }
    let later = matches!(tracking.status, OrderStatus::Scheduled | OrderStatus::Delayed);
    let wait = (tracking.next_check_at? - env.clock.now()).to_std().ok()?;
    let continued = || request.continued(tracking.tracked_at);
    (later && name == JobName::PollTopup)
        .then(|| vec![NextJob::check(JobName::RecheckTopup, continued(), env.clock.real(wait))])
}

/// The settlement that follows from the decision. Follow-up jobs carry no customer or metadata, as the store has both.
fn settle(env: &Environment, request: &TrackTopup, order: &Order, decision: Decision) -> Settlement {
    let continued = |job, wait| {
        let next = NextJob::check(job, request.continued(order.tracking.tracked_at), env.clock.real(wait));
        Settlement { next: vec![next], ..Settlement::new(Disposition::Complete) }
    };
    let stays = |end| stays(request, order, Waited::default(), end);
    match decision.next {
        Next::Done => Settlement::new(Disposition::Complete),
        Next::Poll(wait) => continued(JobName::PollTopup, wait),
        Next::Recheck(wait) => continued(JobName::RecheckTopup, wait),
        Next::Retry(wait) => {
            let error = decision.record.last_error.unwrap_or_default();
            stays(Disposition::Retry(env.clock.real(wait), error))
        }
        Next::Wait(wait) => stays(Disposition::Snooze(env.clock.real(wait))),
        Next::DeadLetter(reason) => stays(Disposition::DeadLetter(reason.as_str().to_owned())),
    }
}

/// A settlement without follow-up jobs. Its payload serves the job's next run, or a replay by the operator.
fn stays(request: &TrackTopup, order: &Order, waited: Waited, disposition: Disposition) -> Settlement {
    let continued = request.continued(order.tracking.tracked_at);
    let payload = TrackTopup { force: request.force, waited, ..continued };
    Settlement { payload: Some(encode(&payload)), ..Settlement::new(disposition) }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
