//! One look at an order: load → ask → decide → apply. Shared by `poll-topup` and `recheck-topup`, which
//! differ only in what `decide` makes of the answer.

use std::time::Duration;

use topup_jobs::{
    Decision, Event, EventData, JobName, Next, Observation, OrderStatus, Outcome, ProviderOrder, Situation,
    Timestamp, TopupId, TrackTopup, Tracking, decide,
};

use super::environment::{Environment, TROUBLE_PAUSE, chain};
use super::job::encode;
use super::{End, Job, NextJob, Settlement};
use crate::notify;
use crate::orders::{Applied, Change, NewEvent, Order, StoreError};
use crate::topup_api::{ApiError, Permission, Wish};

/// Looks at the order once and says what becomes of the job.
pub(super) async fn follow(env: &Environment, name: JobName, job: &Job<TrackTopup>) -> Settlement {
    tracing::Span::current().record("order.id", job.payload.topup_id.as_str());
    match look(env, name, job).await {
        Ok(settlement) => settlement,
        Err(error) => {
            // Our own trouble, not the order's: it waits, and no attempt is lost.
            tracing::error!(error = chain(&error), "the store failed; the job waits");
            Settlement::new(End::Wait(TROUBLE_PAUSE))
        }
    }
}

async fn look(env: &Environment, name: JobName, job: &Job<TrackTopup>) -> Result<Settlement, StoreError> {
    let request = &job.payload;
    let mut order = env.store.track(request, env.clock.now()).await?;
    if order.tracking.status.is_final() && !request.force {
        tracing::debug!(order.status = %order.tracking.status, "the order is final; nothing to do");
        let next = env.jobs_to_tell(&order).await?;
        return Ok(Settlement { next, ..Settlement::new(End::Finish) });
    }
    let observation = match observe(env, name, &mut order).await {
        Ok(observation) => observation,
        // Nothing is learned of the order, so nothing is stored.
        Err(wait) => return Ok(stays(request, End::Wait(wait))),
    };
    let now = env.clock.now();
    let situation = Situation {
        job: name,
        tracking: &order.tracking,
        attempts_made: job.attempts_made,
        strategy: env.strategy,
        retry: request.retry.unwrap_or_default(),
        jitter: (env.jitter)(),
    };
    let decision = decide(&situation, &observation, now);
    if let Some(warning) = &decision.warning {
        tracing::warn!(warning, "an answer of the provider is unusual");
    }
    let seen = match &observation {
        Observation::Answered(seen) => Some(seen),
        _ => None,
    };
    let event = decision.notify.map(|outcome| NewEvent {
        outcome,
        body: event(outcome, &order, seen, &decision.record, now),
        channels: env.channels.wanting(outcome, &order),
    });
    let given_up = match decision.next {
        Next::DeadLetter(reason) => Some(reason.as_str()),
        _ => None,
    };
    let record = &decision.record;
    let change = Change { job: name, at: now, order: &order, record, seen, given_up, event };
    if env.store.apply(change).await? == Applied::Outdated {
        tracing::debug!("the order was changed meanwhile; looking again");
        return Ok(Settlement::new(End::Wait(Duration::ZERO)));
    }
    report(&decision, &observation);
    if decision.next == Next::Done && order.tracking.scheduled_at.is_none() {
        let age = |at: Timestamp| (at - order.tracking.tracked_at).to_std().unwrap_or_default();
        env.budget.completed(order.tracking.last_checked_at.map(age).unwrap_or_default(), age(now)).await;
    }
    let mut settlement = settle(env, request, decision);
    settlement.next.extend(env.jobs_to_tell(&order).await?);
    Ok(settlement)
}

/// Stores that an order is followed no longer, and returns the jobs that tell so. For one that the queue has
/// buried by itself, in these words; an order that is given up or final already is left as it is.
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
    let outcome = Outcome::Unresolved;
    let event = NewEvent {
        outcome,
        body: event(outcome, &order, None, &record, now),
        channels: env.channels.wanting(outcome, &order),
    };
    let handling = order.tracking.status == OrderStatus::Handling;
    let change = Change {
        job: if handling { JobName::PollTopup } else { JobName::RecheckTopup },
        at: now,
        order: &order,
        record: &record,
        seen: None,
        given_up: Some(reason),
        event: Some(event),
    };
    match env.store.apply(change).await? {
        Applied::Stored => {
            tracing::error!(order.id = %topup_id, reason, "the order is followed no longer");
            env.jobs_to_tell(&order).await
        }
        Applied::Outdated => Ok(Vec::new()),
    }
}

/// Asks the provider, unless nobody may; or says how long to wait for a request, in real time.
async fn observe(env: &Environment, job: JobName, order: &mut Order) -> Result<Observation, Duration> {
    let tracking = &mut order.tracking;
    let age = |at: Timestamp| (at - tracking.tracked_at).to_std().unwrap_or_default();
    let wish = Wish {
        topup_id: order.topup_id.clone(),
        last: tracking.last_checked_at.map(age),
        age: age(env.clock.now()),
        recheck: job == JobName::RecheckTopup,
    };
    let ticket = match env.budget.ask(&wish).await {
        Permission::Ask(ticket) => ticket,
        Permission::Wait(wait) => return Err(wait),
        Permission::Closed(wait) => return Ok(Observation::GateClosed(env.clock.domain(wait))),
    };
    if job == JobName::PollTopup {
        // Time in line is not time in which the order was polled.
        tracking.polling_since += env.clock.domain(ticket.waited);
    }
    let answer = env.api(&ticket).check_id(&order.topup_id).await;
    env.budget.answered(&ticket, answer.as_ref().err()).await;
    Ok(match answer {
        Ok(order) => Observation::Answered(order),
        Err(ApiError::NotFound(_)) => Observation::NotFound,
        Err(error) => match error.closes_gate() {
            Some(wait) => Observation::GateClosed(wait),
            None => Observation::Failed(error.to_string()),
        },
    })
}

fn report(decision: &Decision, observation: &Observation) {
    let status = decision.record.status;
    match (&decision.next, observation) {
        (Next::DeadLetter(reason), _) => {
            tracing::error!(order.status = %status, reason = reason.as_str(), "the order goes to the dead letters");
        }
        (_, Observation::Failed(error)) => tracing::warn!(error, "the provider did not answer usably"),
        _ => tracing::debug!(order.status = %status, "looked at the order"),
    }
}

/// The jobs that carry out the decision. From the first look on they carry neither the customer nor the
/// metadata: those are in the store.
fn settle(env: &Environment, request: &TrackTopup, decision: Decision) -> Settlement {
    let follow_up = |job, wait| {
        let next = NextJob::look(job, request.follow_up(), env.clock.real(wait));
        Settlement { next: vec![next], ..Settlement::new(End::Finish) }
    };
    let stays = |end| stays(request, end);
    match decision.next {
        Next::Done => Settlement::new(End::Finish),
        Next::Poll(wait) => follow_up(JobName::PollTopup, wait),
        Next::Recheck(wait) => follow_up(JobName::RecheckTopup, wait),
        Next::Retry(wait) => {
            let error = decision.record.last_error.unwrap_or_default();
            stays(End::Retry(env.clock.real(wait), error))
        }
        Next::Wait(wait) => stays(End::Wait(env.clock.real(wait))),
        Next::DeadLetter(reason) => stays(End::DeadLetter(reason.as_str().to_owned())),
    }
}

/// The job stays, for now or for an operator to look at.
fn stays(request: &TrackTopup, end: End) -> Settlement {
    let payload = TrackTopup { force: request.force, ..request.follow_up() };
    Settlement { payload: Some(encode(&payload)), ..Settlement::new(end) }
}

/// The event as it is stored: everything but the card, which the sender reads when it tells.
fn event(
    outcome: Outcome,
    order: &Order,
    seen: Option<&ProviderOrder>,
    record: &Tracking,
    now: Timestamp,
) -> Event {
    let locale = order.customer.as_ref().map(|customer| customer.locale).unwrap_or_default();
    Event {
        kind: outcome.event_type(),
        timestamp: now,
        data: EventData {
            topup_id: order.topup_id.clone(),
            topup_ref: order.topup_ref.clone().or_else(|| seen?.topup_ref.clone()),
            status: record.status,
            kind: order.kind.clone().or_else(|| seen?.kind.clone()),
            number: order.number.clone().or_else(|| seen?.number.clone()),
            topup_amount: order.topup_amount.or_else(|| seen?.topup_amount),
            card_code: None,
            num_trans: None,
            date_traitement: None,
            next_check_at: record.next_check_at,
            message: notify::message(outcome, locale).to_owned(),
            customer: order.customer.clone(),
            metadata: order.metadata.clone(),
        },
    }
}
