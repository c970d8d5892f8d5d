//! `poll-topup`: the fast pace, at most five minutes.

use async_trait::async_trait;
use topup_jobs::{JobName, PollTopup};

use super::follow::follow;
use super::{Environment, Handler, Job, Settlement};

/// Handler of `poll-topup`.
pub struct PollTopupHandler(pub Environment);

#[async_trait]
impl Handler for PollTopupHandler {
    type Payload = PollTopup;
    const NAME: JobName = JobName::PollTopup;

    async fn handle(&self, job: Job<PollTopup>) -> Settlement {
        follow(&self.0, Self::NAME, &job.map(|payload| payload.0)).await
    }
}
