//! Verifies the API key at the start, and whenever a refusal or an outage may be over.
//!
//! A verification reads one row of the list, so it needs no order. A worker with a mistyped key or a refused address
//! learns that before it claims a job. While the worker is refused, it checks every few seconds whether other workers
//! can check orders; if so, it claims no jobs.

use std::sync::Arc;
use std::time::Duration;

use super::acquire::Purpose;
use super::scripts;
use super::{OTHER_KEY, RedisBudget};
use crate::provider::{ApiError, TopupApi};
use crate::rate_limit::{Budget, PermitDecision};
use crate::shutdown::Shutdown;

/// How often a refused worker checks whether other workers can check orders.
const OTHERS_CHECK_INTERVAL: Duration = Duration::from_secs(3);

/// How often a worker reports in Redis that it can check orders. A report is valid for three times as long.
const NOTE_INTERVAL: Duration = Duration::from_secs(30);

/// Shortest pause between two verifications. It doubles, up to `MAX_PAUSE`, while verifications change nothing.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_mins(1);

impl RedisBudget {
    /// Verifies the keys and keeps the standing (whether the provider accepts this worker) up to date until shutdown.
    /// `apis` holds one client per key; `requested` is called after each request, with its error if there was one.
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
                // A request that changed nothing must not be repeated at once.
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

    /// Reports this worker as able to check orders, if it is. Returns whether a verification request is useful.
    async fn may_be_verified(&self) -> bool {
        let worker = if self.standing.is_able() { self.worker.as_str() } else { "" };
        let mut call = scripts::BUDGET_ABLE.prepare_invoke();
        call.key(&self.key).arg(worker);
        self.write_keys(&mut call);
        self.heard(call.invoke_async(&mut self.connection.get()).await).unwrap_or(false)
    }

    /// Makes one verification request as soon as a permit is granted.
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
                PermitDecision::Wait(wait) | PermitDecision::Full(wait) => tokio::time::sleep(wait).await,
                PermitDecision::Blocked(_) | PermitDecision::SeenInList => {
                    // No verification is possible now, so the next check of an order verifies the key instead.
                    self.standing.tried();
                    return;
                }
            }
        }
    }
}
