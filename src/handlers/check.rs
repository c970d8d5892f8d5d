//! One check of an order: load → ask → decide → apply. Shared by `poll-topup` and `recheck-topup`, which
//! differ only in what `decide` makes of the answer.

use std::time::Duration;

use topup_jobs::{
    DeadLetterReason, Decision, JobName, Next, Observation, OrderStatus, Outcome, ProviderOrder, RetryPolicy,
    Secret, Situation, Timestamp, TopupId, TopupStatus, TrackTopup, Tracking, Waited, decide,
};

use super::announce::ANOTHER_CARD;
use super::environment::{Environment, TROUBLE_PAUSE, log_store_failure};
use crate::job::{Disposition, Job, NextJob, Settlement, encode};
use crate::orders::{Applied, Change, Order, StoreError};
use crate::provider::{ApiError, Concern, RequestKind};
use crate::rate_limit::{Checked, Meaning, PermitDecision, PermitRequest};

/// What an id says of the time when its order was created is believed if it was tracked no later than this.
const MAX_HANDOVER: Duration = Duration::from_hours(7 * 24);

/// How soon a recheck that met an outage of the provider runs again, in domain time.
const OUTAGE_PAUSE: Duration = Duration::from_mins(1);
/// How often a request that shows whether the provider is down is asked for, …
const MAX_TRIES_TO_VERIFY: u32 = 3;
/// … and for how long each time, in real time.
const MAX_TRY: Duration = Duration::from_secs(2);
/// An order of this age is a part of the backlog: three times as old as fast polling makes it. A customer has waited for
/// it for so long that one who has just paid goes first.
const BACKLOG_AGE: Duration = Duration::from_mins(15);
/// The provider's clock may be ahead of ours by this much.
const CLOCKS_APART: Duration = Duration::from_mins(5);

/// The id that a job which follows an order must have, the order's, where it is another than its id. A job that carries
/// out a message about an order follows nothing, and has an id of its own.
pub(super) fn other_id_of_order(id: &[u8], payload: &[u8]) -> Option<String> {
    if names_first(id, payload) {
        return None;
    }
    // One that cannot be read as a whole becomes a dead letter under the id that it has.
    let order: TrackTopup = serde_json::from_slice(payload).ok()?;
    let right = order.instruction.is_none().then(|| String::from(order.topup_id));
    right.filter(|right| right.as_bytes() != id)
}

/// Whether the payload begins with the order of this id, as those that workers write do: they need not be read twice.
fn names_first(id: &[u8], payload: &[u8]) -> bool {
    let behind_id = payload.strip_prefix(br#"{"topupId":""#).and_then(|rest| rest.strip_prefix(id));
    behind_id.is_some_and(|rest| rest.starts_with(b"\""))
}

/// Checks the order once and says what becomes of the job.
pub(super) async fn check(env: &Environment, name: JobName, job: &Job<TrackTopup>) -> Settlement {
    tracing::Span::current().record("order.id", job.payload.topup_id.as_str());
    match try_check(env, name, job).await {
        Ok(settlement) => settlement,
        Err(error) => {
            // Our own trouble, not the order's: it waits, and no attempt is lost.
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
        tracing::debug!(order.status = %order.tracking.status, "there is nothing to ask about the order");
        next.extend(env.jobs_to_notify(&order).await?);
        return Ok(Settlement { next, ..Settlement::new(Disposition::Complete) });
    }
    let now = env.clock.now();
    let waited = request.waited.until(now);
    if name == JobName::PollTopup {
        // Time in which it could not be asked for is not time in which it was polled.
        order.tracking.polling_since += waited.total();
    }
    let situation = Situation {
        job: name,
        tracking: &order.tracking,
        attempts_made: job.attempts_made,
        strategy: env.strategy,
        retry: order.retry.or(request.retry).unwrap_or_default(),
        jitter: (env.jitter)(),
    };
    let handling = Observation::Answered(ProviderOrder::handling());
    let as_before = decide(&situation, &handling, now);
    // What the list shows may be old: it does not have the last word, as before fast polling ends.
    let list_counts = matches!(as_before.next, Next::Poll(_));
    let (observation, source) = match observe(env, name, &order, list_counts).await {
        Observed::Answer(observation) => (observation, RequestKind::CheckId),
        Observed::SeenInList => (handling, RequestKind::List),
        // Nothing is learned of the order, so nothing is stored.
        Observed::Wait(wait) => {
            return Ok(stays(request, &order, request.waited.on(now), Disposition::Snooze(wait)));
        }
    };
    let now = env.clock.now();
    let mut decision = match source {
        RequestKind::CheckId => decide(&situation, &observation, now),
        RequestKind::List => as_before,
    };
    if shows_another_card(env, &order, &observation).await? {
        decision.notify = Some(Outcome::Unresolved);
        decision.warning = Some(ANOTHER_CARD.to_owned());
    }
    if let (RequestKind::List, JobName::PollTopup, Next::Poll(wait)) = (source, name, &decision.next)
        && order.tracking.last_checked_at.is_some()
    {
        // The list shows every order at every reading: what is as before is not worth a write. The first time it is:
        // from then on the order is one that the provider knows.
        return Ok(stays(request, &order, waited, Disposition::Snooze(env.clock.real(*wait))));
    }
    if !carry_out(env, name, &order, (source, &observation), &decision, now).await? {
        tracing::debug!("the order was changed meanwhile; checking again");
        return Ok(Settlement::new(Disposition::Snooze(Duration::ZERO)));
    }
    let mut settlement = settle(env, request, &order, decision);
    settlement.next.extend(env.jobs_to_notify(&order).await?);
    Ok(settlement)
}

/// Whether the provider shows another card than the one that is stored of a fulfilled order. One that cannot be
/// decrypted any more cannot be compared.
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

/// Whether the codes of two cards are the same, whatever spaces stand in them.
fn same_code(one: &Secret, other: &Secret) -> bool {
    let plain = |code: &Secret| code.reveal().split_whitespace().collect::<String>();
    plain(one) == plain(other)
}

/// What becomes of the job of an order that stays given up or cancelled: its end did not reach the queue when it gave
/// the order up, or the operator has discarded its dead letter or stopped the order since.
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

/// The jobs that follow where no request is needed, if that is so: it is final, or it is rechecked later, as the
/// list told or a look decided whose settling was lost.
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

/// Stores what a row of the list shows of an order that may be tracked. Returns whether its job has something to
/// carry out now.
///
/// # Errors
/// [`StoreError`] where the store fails.
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
        // That is known. Where the order has gone on since, the row is older than what is known.
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
    carry_out(env, job, &order, (RequestKind::List, &observation), &decision, now).await
}

/// Stores a decision and logs it. False where the order was changed meanwhile; then nothing is stored.
async fn carry_out(
    env: &Environment,
    job: JobName,
    order: &Order,
    (source, observation): (RequestKind, &Observation),
    decision: &Decision,
    now: Timestamp,
) -> Result<bool, StoreError> {
    if let Some(warning) = &decision.warning {
        tracing::warn!(order.id = %order.topup_id, warning, "an answer of the provider is unusual");
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
    match (env.store.apply(change).await?, &event) {
        (Applied::Conflict, _) => return Ok(false),
        (Applied::Stored, Some(event)) => env.report_unreachable(order, event),
        (Applied::Stored | Applied::Repeated, _) => {}
    }
    report(decision, observation);
    let tracking = &order.tracking;
    if record.status != tracking.status {
        // Polls that the list spared are not stored, so these are requests.
        let requests = tracking.polls + u32::from(source == RequestKind::CheckId);
        env.metrics.status_changed(tracking.status, record.status, requests);
    }
    if decision.next == Next::Done && !tracking.status.is_final() && tracking.scheduled_at.is_none() {
        let age = |at: Timestamp| (at - tracking.tracked_at).to_std().unwrap_or_default();
        env.budget.completed(tracking.last_checked_at.map(age).unwrap_or_default(), age(now)).await;
    }
    Ok(true)
}

/// Stores that an order is no longer tracked, and returns the jobs that tell so. For one that the queue has
/// dead-lettered by itself, in these words; an order that is given up or final already is left as it is.
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
    match env.store.apply(change).await? {
        Applied::Stored | Applied::Repeated => {
            tracing::error!(order.id = %topup_id, reason, "the order is no longer tracked");
            env.jobs_to_notify(&order).await
        }
        Applied::Conflict => Ok(Vec::new()),
    }
}

/// Whether a dead letter has its reason from a look at the order, which has stored before that the order is given up.
/// Where the store has it tracked nevertheless, the operator has had it replayed since.
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

/// What a check came to.
enum Observed {
    Answer(Observation),
    /// The list has just shown it HANDLING.
    SeenInList,
    /// Nothing is learned of the order: others come first, or the provider or a key is at fault. Checked again after this
    /// real time.
    Wait(Duration),
}

/// Asks the provider, unless no request may be made or another one has told.
async fn observe(env: &Environment, job: JobName, order: &Order, list_counts: bool) -> Observed {
    let tracking = &order.tracking;
    let age = |at: Timestamp| (at - tracking.tracked_at).to_std().unwrap_or_default();
    let (now, created_at) = (env.clock.now(), created_at(order));
    let request = PermitRequest {
        topup_id: order.topup_id.clone(),
        created_at,
        last: tracking.last_checked_at.map(age),
        age: age(now),
        backlog: job == JobName::RecheckTopup || created_at + BACKLOG_AGE < now,
        list_counts,
    };
    let permit = match env.budget.acquire(&request).await {
        PermitDecision::Granted(permit) => permit,
        PermitDecision::SeenInList => return Observed::SeenInList,
        PermitDecision::Wait(wait) | PermitDecision::Blocked(wait) => return Observed::Wait(wait),
    };
    env.metrics.waited(job, env.clock.domain(permit.waited));
    let answer = env.api(&permit).check_id(&order.topup_id).await;
    env.metrics.requested(RequestKind::CheckId, answer.as_ref().err());
    let checked = Checked { topup_id: &order.topup_id, known: order.tracking.last_checked_at.is_some() };
    let meaning = env.budget.report(&permit, Some(checked), answer.as_ref().err()).await;
    if let Meaning::SaysNothing(wait) = meaning {
        return Observed::Wait(wait);
    }
    Observed::Answer(match answer {
        Ok(order) => Observation::Answered(order),
        Err(ApiError::NotFound(_)) => Observation::NotFound,
        Err(error) => {
            if let Meaning::Failing(distinct) = meaning
                && job == JobName::RecheckTopup
                && (distinct > 1 || provider_is_down(env).await)
            {
                // The outage costs this order none of its few attempts.
                let wait_ms = env.clock.real(OUTAGE_PAUSE).as_millis();
                tracing::warn!(
                    order.id = %order.topup_id,
                    %error,
                    wait_ms,
                    "the provider seems to be down; the recheck waits and loses no attempt"
                );
                return Observed::Wait(env.clock.real(OUTAGE_PAUSE));
            }
            Observation::Failed(error.to_string())
        }
    })
}

/// Whether the provider answers nothing else either, after it failed to answer for one order. As long as that cannot be
/// asked, it counts as down.
async fn provider_is_down(env: &Environment) -> bool {
    for _ in 0..MAX_TRIES_TO_VERIFY {
        match env.budget.acquire_to_verify().await {
            Ok(permit) => {
                let answer = env.api(&permit).verify().await;
                let error = answer.as_ref().err();
                env.metrics.requested(RequestKind::List, error);
                env.budget.report(&permit, None, error).await;
                return error.is_some_and(|error| !matches!(error.concern(), Concern::Order));
            }
            Err(wait) => tokio::time::sleep(wait.min(MAX_TRY)).await,
        }
    }
    true
}

/// When the provider created the order: before it was tracked, and long before where no worker ran meanwhile.
fn created_at(order: &Order) -> Timestamp {
    let tracked_at = order.tracking.tracked_at;
    let notification = order.topup_id.created_at();
    let believed = tracked_at - MAX_HANDOVER..=tracked_at + CLOCKS_APART;
    notification.filter(|notification| believed.contains(notification)).unwrap_or(tracked_at)
}

fn report(decision: &Decision, observation: &Observation) {
    let status = decision.record.status;
    match (&decision.next, observation) {
        (Next::DeadLetter(reason), _) => {
            tracing::error!(order.status = %status, reason = reason.as_str(), "the order goes to the dead letters");
        }
        (_, Observation::Failed(error)) => tracing::warn!(error, "the provider did not answer usably"),
        _ => tracing::debug!(order.status = %status, "checked the order"),
    }
}

/// The jobs that carry out the decision. From the first look on they carry neither the customer nor the
/// metadata: those are in the store.
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

/// The job stays, for now or for an operator to look at.
fn stays(request: &TrackTopup, order: &Order, waited: Waited, disposition: Disposition) -> Settlement {
    let continued = request.continued(order.tracking.tracked_at);
    let payload = TrackTopup { force: request.force, waited, ..continued };
    Settlement { payload: Some(encode(&payload)), ..Settlement::new(disposition) }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
