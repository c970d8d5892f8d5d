//! The request of a check: acquires a permit from the budget, then asks the provider about the order.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use topup_jobs::{JobName, Observation, Timestamp};
use tracing::Instrument as _;

use super::environment::Environment;
use crate::orders::Order;
use crate::provider::{ApiError, Concern, RequestKind};
use crate::rate_limit::{Checked, Meaning, PermitDecision, PermitRequest};

/// Longest plausible time from an order's creation to its tracking. An earlier creation time in its id is ignored.
const MAX_HANDOVER: Duration = Duration::from_hours(7 * 24);

/// Wait before the next recheck during an outage of the provider, in domain time.
const OUTAGE_PAUSE: Duration = Duration::from_mins(1);
/// Attempts to get a permit for the request that shows whether the provider is down.
const MAX_TRIES_TO_VERIFY: u32 = 3;
/// Longest wait between two of the `MAX_TRIES_TO_VERIFY` attempts, in real (not scaled) time.
const MAX_TRY: Duration = Duration::from_secs(2);
/// Longest time, in domain time, for which a job keeps its slot while it waits for a request in flight to end. Then it
/// goes back to its queue, because the provider answers slowly.
const MAX_WAIT_IN_SLOT: Duration = Duration::from_secs(2);
/// Age from which an order belongs to the backlog: three times the limit of fast polling. The backlog gets fewer
/// requests than newer orders.
const BACKLOG_AGE: Duration = Duration::from_mins(15);
/// How far the provider's clock may be ahead of ours. If the creation time in an id is further ahead, it is ignored.
const CLOCKS_APART: Duration = Duration::from_mins(5);

/// What a check learned about the order.
pub(super) enum Observed {
    Answer(Answered),
    /// A recent row of the list shows the order; contains the wait, see [`Answered::waited`].
    SeenInList(Duration),
    /// Nothing: no permit was free, or a key or the provider is at fault. Check again after this real (unscaled) time.
    Wait(Duration),
}

pub(super) struct Answered {
    pub(super) observation: Observation,
    /// How long the job waited, with its slot, for another request to end, in domain time.
    pub(super) waited: Duration,
    /// Reports the answer to the budget meanwhile. The job must not end before.
    pub(super) reporting: Option<JoinHandle<()>>,
}

/// Asks the provider about the order if there is a permit. With `list_counts`, a recent row of the list suffices.
pub(super) async fn observe(env: &Environment, job: JobName, order: &Order, list_counts: bool) -> Observed {
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
    let waited = || (env.clock.now() - now).to_std().unwrap_or_default();
    let mut ended_requests = env.budget.ended_requests();
    let permit = loop {
        // A request that ends from now on, even before the budget has answered, ends the wait below.
        ended_requests.mark_unchanged();
        match env.budget.acquire(&request).await {
            PermitDecision::Granted(permit) => break permit,
            PermitDecision::SeenInList => return Observed::SeenInList(waited()),
            PermitDecision::Full(wait) => {
                let is_long = waited() + env.clock.domain(wait) > MAX_WAIT_IN_SLOT;
                if is_long || !env.budget.has_request_in_flight() {
                    return Observed::Wait(wait);
                }
                // After this time the order asks again, too: a request of another worker may have ended.
                let _ = tokio::time::timeout(wait, ended_requests.changed()).await;
            }
            PermitDecision::Wait(wait) | PermitDecision::Blocked(wait) => return Observed::Wait(wait),
        }
    };
    let waited = waited();
    env.metrics.waited(job, env.clock.domain(permit.waited));
    let answer = env.api(&permit).check_id(&order.topup_id).await;
    env.metrics.requested(RequestKind::CheckId, answer.as_ref().err());
    let known = order.tracking.last_checked_at.is_some();
    let error = match answer {
        Ok(answer) => {
            // A usable answer is always about the order, so the check does not wait for its report.
            let (budget, topup_id) = (Arc::clone(&env.budget), order.topup_id.clone());
            let report = async move {
                budget.report(&permit, Some(Checked { topup_id: &topup_id, known }), None).await;
            };
            let reporting = Some(tokio::spawn(report.in_current_span()));
            let observation = Observation::Answered(answer);
            return Observed::Answer(Answered { observation, waited, reporting });
        }
        Err(error) => error,
    };
    let checked = Checked { topup_id: &order.topup_id, known };
    let meaning = env.budget.report(&permit, Some(checked), Some(&error)).await;
    if let Meaning::SaysNothing(wait) = meaning {
        return Observed::Wait(wait);
    }
    let observation = match error {
        ApiError::NotFound(_) => Observation::NotFound,
        error => {
            if let Meaning::Failing(distinct) = meaning
                && job == JobName::RecheckTopup
                && (distinct > 1 || provider_is_down(env).await)
            {
                // An outage must not use up the few attempts of a recheck.
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
    };
    Observed::Answer(Answered { observation, waited, reporting: None })
}

/// Requests the list after a check failed. No permit, or any error but `Concern::Order`, counts as an outage.
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

/// The order's creation time, from its id; the start of tracking if that time is implausible.
fn created_at(order: &Order) -> Timestamp {
    let tracked_at = order.tracking.tracked_at;
    let by_id = order.topup_id.created_at();
    let believed = tracked_at - MAX_HANDOVER..=tracked_at + CLOCKS_APART;
    by_id.filter(|at| believed.contains(at)).unwrap_or(tracked_at)
}
