//! Verifies the API key at the start, and whenever a refusal or an outage may be over.
//!
//! One row of the list is enough for that, so that no order is spent on it. A worker with a mistyped key, or on an address
//! that is not allowed, knows so before it claims a job. While the provider refuses it, it looks now and then whether other
//! workers can check orders, and leaves the jobs to them.

use std::sync::Arc;
use std::time::Duration;

use super::acquire::Purpose;
use super::scripts;
use super::{OTHER_KEY, RedisBudget};
use crate::provider::{ApiError, TopupApi};
use crate::rate_limit::{Budget, PermitDecision};
use crate::shutdown::Shutdown;

/// How often a refused worker looks whether others check orders.
const OTHERS_CHECK_INTERVAL: Duration = Duration::from_secs(3);

/// How often a worker notes in Redis that it can check orders, so that refused workers leave the jobs to it. The note
/// counts for three times as long.
const NOTE_INTERVAL: Duration = Duration::from_secs(30);

/// Shortest time between two verifications, doubling while they change nothing, up to …
const PAUSE: Duration = Duration::from_secs(1);
/// … this.
const MAX_PAUSE: Duration = Duration::from_mins(1);

impl RedisBudget {
    /// Verifies the key in use, and keeps the standing of this worker until shutdown. `apis` holds one client for each
    /// key; `requested` is called after each request, with its error if there was one.
    pub(crate) async fn keep_standing(
        self: Arc<Self>,
        apis: Vec<Arc<dyn TopupApi>>,
        requested: impl Fn(Option<&ApiError>) + Send + Sync + 'static,
        shutdown: Shutdown,
    ) {
        let keep = async {
            let mut pause = PAUSE;
            loop {
                self.verify(&apis, &requested).await;
                // A request that changed nothing is not repeated soon.
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
                while !self.standing.is_refused() && !self.may_be_verified().await {
                    pause = PAUSE;
                    let _ = tokio::time::timeout(NOTE_INTERVAL, self.standing.changed()).await;
                }
                while let Some(left) = self.standing.refused_for() {
                    pause = PAUSE;
                    if self.others_can_ask().await {
                        self.standing.pause_claims();
                    }
                    tokio::time::sleep(left.min(OTHERS_CHECK_INTERVAL)).await;
                }
            }
        };
        tokio::select! {
            () = shutdown.requested() => {}
            () = keep => {}
        }
    }

    /// Notes that this worker can check orders, if it can. Returns whether a verification may show that a key is good, or
    /// that the provider is back.
    async fn may_be_verified(&self) -> bool {
        let worker = if self.standing.is_able() { self.worker.as_str() } else { "" };
        let mut call = scripts::BUDGET_ABLE.prepare_invoke();
        call.key(&self.key).arg(worker);
        self.write_keys(&mut call);
        self.heard(call.invoke_async(&mut self.connection.get()).await).unwrap_or(false)
    }

    /// Makes one request as soon as one may be made.
    async fn verify(&self, apis: &[Arc<dyn TopupApi>], requested: &(impl Fn(Option<&ApiError>) + Sync)) {
        loop {
            match self.request(Purpose::Verification).await {
                PermitDecision::Granted(permit) => {
                    let Some(api) = apis.get(permit.key) else { return };
                    let answer = api.verify().await;
                    let error = answer.as_ref().err();
                    requested(error);
                    let meaning = self.report(&permit, None, error).await;
                    self.standing.tried();
                    if meaning != OTHER_KEY {
                        return;
                    }
                }
                PermitDecision::Wait(wait) => tokio::time::sleep(wait).await,
                PermitDecision::Blocked(_) | PermitDecision::SeenInList => {
                    // The first order that may be checked shows what is to be known.
                    self.standing.tried();
                    return;
                }
            }
        }
    }
}
