//! `recheck-topup`: slow rechecks, for orders that are QUEUED or were not final when fast polling ended.

use async_trait::async_trait;
use topup_jobs::{JobName, RecheckTopup};

use super::Environment;
use super::check::{check, other_id_of_order};
use crate::job::{Handler, Job, Settlement};

/// Handler of `recheck-topup`.
pub struct RecheckTopupHandler(pub Environment);

#[async_trait]
impl Handler for RecheckTopupHandler {
    type Payload = RecheckTopup;
    const NAME: JobName = JobName::RecheckTopup;

    fn other_id(id: &[u8], payload: &[u8]) -> Option<String> {
        other_id_of_order(id, payload)
    }

    async fn handle(&self, job: Job<RecheckTopup>) -> Settlement {
        check(&self.0, Self::NAME, &job.map(|payload| payload.0)).await
    }
}
