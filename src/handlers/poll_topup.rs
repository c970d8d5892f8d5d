//! `poll-topup`: fast polling, for at most five minutes. Its queue also carries messages about known orders.

use async_trait::async_trait;
use topup_jobs::{JobName, PollTopup};

use super::Environment;
use super::check::{check, other_id_of_order};
use super::instruct::instruct;
use crate::job::{Handler, Job, Settlement};

/// Handler of `poll-topup`.
pub struct PollTopupHandler(pub Environment);

#[async_trait]
impl Handler for PollTopupHandler {
    type Payload = PollTopup;
    const NAME: JobName = JobName::PollTopup;

    fn other_id(id: &[u8], payload: &[u8]) -> Option<String> {
        other_id_of_order(id, payload)
    }

    async fn handle(&self, job: Job<PollTopup>) -> Settlement {
        let job = job.map(|payload| payload.0);
        match job.payload.instruction {
            Some(instruction) => instruct(&self.0, &job, instruction).await,
            None => check(&self.0, Self::NAME, &job).await,
        }
    }
}
