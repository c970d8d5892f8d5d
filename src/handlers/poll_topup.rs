//! `poll-topup`: the fast pace, at most five minutes.

use async_trait::async_trait;
use topup_jobs::{JobName, PollTopup};

use super::follow::{follow, id_of_order};
use super::{Environment, Handler, Job, Settlement};

/// Handler of `poll-topup`.
pub struct PollTopupHandler(pub Environment);

#[async_trait]
impl Handler for PollTopupHandler {
    type Payload = PollTopup;
    const NAME: JobName = JobName::PollTopup;

    fn id_of(payload: &[u8]) -> Option<String> {
        id_of_order(payload)
    }

    async fn handle(&self, job: Job<PollTopup>) -> Settlement {
        follow(&self.0, Self::NAME, &job.map(|payload| payload.0)).await
    }
}
