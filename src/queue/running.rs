//! Runs the handler of one job, in a worker or in an isolated process.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use topup_jobs::JobName;
use tracing::Instrument;

use crate::job::{Disposition, Handler, Job, Settlement};

/// Timeout of a handler. For a longer wait, such as the one between two checks, the job is scheduled again.
pub(super) const HANDLER_TIMEOUT: Duration = Duration::from_mins(2);

/// Runs a handler for at most [`HANDLER_TIMEOUT`]. The error says if it panicked, took too long or could not be called.
pub(super) async fn carry_out<F, E>(handling: F) -> Result<Settlement, &'static str>
where
    F: Future<Output = Result<Settlement, E>> + Send,
{
    // The timeout is within `catch_unwind`, because the handler may also panic when the timeout drops it.
    let handled = async move { tokio::time::timeout(HANDLER_TIMEOUT, handling).await };
    match AssertUnwindSafe(handled).catch_unwind().await {
        Ok(Ok(Ok(settlement))) => Ok(settlement),
        Ok(Ok(Err(_))) => Err("the handler could not be called"),
        Ok(Err(_elapsed)) => Err("the handler took too long"),
        Err(_panic) => Err("the handler panicked"),
    }
}

/// Decodes and runs one job. A job whose payload cannot be read becomes a dead letter.
pub(super) async fn run_payload<H: Handler>(
    handler: &H,
    id: String,
    attempts_made: u32,
    payload: Option<&[u8]>,
) -> Settlement {
    let Some(payload) = payload else {
        return unreadable(H::NAME, "it has no payload");
    };
    let payload = match serde_json::from_slice(payload) {
        Ok(payload) => payload,
        // Reports only the kind and the position of the error, as its text may repeat a value of the payload.
        Err(error) => {
            let what = match error.classify() {
                serde_json::error::Category::Data => "has a wrong or missing field",
                _ => "is not JSON",
            };
            let (line, column) = (error.line(), error.column());
            return unreadable(H::NAME, &format!("its payload {what} (at line {line}, column {column})"));
        }
    };
    let span = tracing::info_span!("job", job.name = %H::NAME, job.id = %id, job.attempt = attempts_made + 1);
    handler.handle(Job { id, attempts_made, payload }).instrument(span).await
}

fn unreadable(job: JobName, why: &str) -> Settlement {
    tracing::warn!(job.name = %job, why, "the payload of a job is unreadable; the job becomes a dead letter");
    Settlement::new(Disposition::DeadLetter(format!("unreadable: {why}")))
}
