//! What a message about an order that is known asks for. It changes what is stored; where the order is to be checked, a
//! look at it follows as a job. Nothing is asked of the provider here.

use std::time::Duration;

use topup_jobs::{Instruction, InstructionKind, JobName, TrackTopup};

use super::environment::{Environment, TROUBLE_PAUSE, log_store_failure};
use crate::job::{Disposition, Job, NextJob, Settlement};
use crate::orders::{Instructed, StoreError};

/// Why such a job is a dead letter.
const UNKNOWN: &str = "the store knows of no such order";

/// Carries it out and says what becomes of the job.
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
            "no such order is stored; the message is kept as a dead letter"
        );
        return Ok(Settlement::new(Disposition::DeadLetter(UNKNOWN.to_owned())));
    };
    let order = &instructed.order;
    tracing::info!(
        order.id = %topup_id,
        message = what,
        order.status = %order.tracking.status,
        cancelled = order.cancelled_at.is_some(),
        "a message about a known order was carried out"
    );
    let mut settlement = Settlement::new(Disposition::Complete);
    settlement.next.extend(next_check(&instructed, request, instruction));
    // Pending notifications use the corrected address.
    settlement.next.extend(env.jobs_to_notify(order).await?);
    Ok(settlement)
}

/// The look at the order that follows, if one does. Where a queue held its job when the message was taken in, that job
/// is due already.
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
