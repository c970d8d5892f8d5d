//! Applies a message about a known order: changes the store and may enqueue a check. Sends no request to the provider.

use std::time::Duration;

use topup_jobs::{Instruction, InstructionKind, JobName, TrackTopup};

use super::environment::{Environment, TROUBLE_PAUSE, log_store_failure};
use crate::job::{Disposition, Job, NextJob, Settlement};
use crate::orders::{Instructed, StoreError};

/// Dead-letter reason of a message about an unknown order.
const UNKNOWN: &str = "the store knows of no such order";

pub(super) async fn instruct(
    env: &Environment,
    job: &Job<TrackTopup>,
    instruction: Instruction,
) -> Settlement {
    tracing::Span::current().record("order.id", job.payload.topup_id.as_str());
    match carry_out(env, &job.payload, instruction).await {
        Ok(settlement) => settlement,
        Err(error) => {
            log_store_failure(&error);
            Settlement::new(Disposition::Snooze(TROUBLE_PAUSE))
        }
    }
}

async fn carry_out(
    env: &Environment,
    request: &TrackTopup,
    instruction: Instruction,
) -> Result<Settlement, StoreError> {
    let now = env.clock.now();
    let (topup_id, what) = (&request.topup_id, instruction.kind.as_str());
    let Some(instructed) = env.store.instruct(request, instruction, now).await? else {
        tracing::warn!(
            order.id = %topup_id,
            message = what,
            "a message names an order that is not stored; the message is kept as a dead letter"
        );
        return Ok(Settlement::new(Disposition::DeadLetter(UNKNOWN.to_owned())));
    };
    let order = &instructed.order;
    tracing::info!(
        order.id = %topup_id,
        message = what,
        order.status = %order.tracking.status,
        cancelled = order.cancelled_at.is_some(),
        "a message about an order was applied to the stored order"
    );
    let mut settlement = Settlement::new(Disposition::Complete);
    settlement.next.extend(next_check(&instructed, request, instruction));
    // Pending notifications go to the corrected address, because their jobs read it from the store when they run.
    settlement.next.extend(env.jobs_to_notify(order).await?);
    Ok(settlement)
}

/// The job that checks the order now; `None` if no check is needed. None is needed either if the order was tracked all
/// along and a queue held its job when the message arrived, because the intake has then made that job due.
fn next_check(instructed: &Instructed, request: &TrackTopup, instruction: Instruction) -> Option<NextJob> {
    let Instructed { order, tracked_again } = instructed;
    let (check, status) = (instruction.kind == InstructionKind::Check, order.tracking.status);
    let bare = request.continued(order.tracking.tracked_at);
    if check && status.is_final() {
        let asked_again = TrackTopup { force: true, ..bare };
        return Some(NextJob::check(JobName::PollTopup, asked_again, Duration::ZERO));
    }
    let is_tracked = order.tracking.next_check_at.is_some();
    (*tracked_again || (check && is_tracked && !instruction.tracked))
        .then(|| NextJob::check(JobName::tracking(status), bare, Duration::ZERO))
}
