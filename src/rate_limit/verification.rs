//! Learns at the start, and whenever a refusal or an outage may be over, whether the provider lets this worker ask.
//!
//! One row of the list tells, so that no order has to find out. A worker with a mistyped key, or on an address that is not
//! allowed, is known as such before it claims a job. While it is refused it looks now and then whether other workers
//! check orders, and leaves the jobs to them.

use std::sync::Arc;
use std::time::Duration;

use super::permits::Purpose;
use super::scripts;
use super::{OTHER_KEY, RedisBudget};
use crate::provider::{ApiError, TopupApi};
use crate::rate_limit::{Budget, Permission};
use crate::shutdown::Shutdown;

/// How often a refused worker looks whether others check orders.
const LOOK_AT_OTHERS: Duration = Duration::from_secs(3);

/// How often a worker says that it can check orders, so that refused ones leave the jobs to it. What it said counts for
/// three times as long.
const NOTE_ABLE: Duration = Duration::from_secs(30);

/// Shortest time between two verifications, doubling while they change nothing, up to …
const PAUSE: Duration = Duration::from_secs(1);
/// … this.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

impl RedisBudget {
    /// Verifies the key in use, and keeps the standing of this worker until asked to stop. `apis` are the provider asked
    /// with each of the keys; `requested` gets to know of each request, with its error if there was one.
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
                pause = (pause * 2).min(LONGEST_PAUSE);
                while !self.standing.is_refused() && !self.may_be_verified().await {
                    pause = PAUSE;
                    let _ = tokio::time::timeout(NOTE_ABLE, self.standing.changed()).await;
                }
                while let Some(left) = self.standing.refused_for() {
                    pause = PAUSE;
                    if self.others_can_ask().await {
                        self.standing.pause_claims();
                    }
                    tokio::time::sleep(left.min(LOOK_AT_OTHERS)).await;
                }
            }
        };
        tokio::select! {
            () = shutdown.requested() => {}
            () = keep => {}
        }
    }

    /// Says that this worker can check orders, if it can. Returns whether a verification may show that a key is good or
    /// the provider back: then no order has to.
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
                Permission::Ask(ticket) => {
                    let Some(api) = apis.get(ticket.key) else { return };
                    let answer = api.verify().await;
                    let error = answer.as_ref().err();
                    requested(error);
                    let meaning = self.answered(&ticket, None, error).await;
                    self.standing.tried();
                    if meaning != OTHER_KEY {
                        return;
                    }
                }
                Permission::Wait(wait) => tokio::time::sleep(wait).await,
                Permission::Closed(_) | Permission::Sighted => {
                    // The first order that may be checked shows what is to be known.
                    self.standing.tried();
                    return;
                }
            }
        }
    }
}
