//! Requests permits from Redis, and decides how long an order waits while the provider refuses this worker.

use std::time::Duration;

use redis::Value;

use super::scripts;
use super::{MAX_BACKLOG_WAIT, MAX_WAIT, REQUEST, RedisBudget, UNKNOWN, in_flight};
use crate::rate_limit::{Permit, PermitDecision};
use crate::redis::millis;

/// How often a waiting order's job checks whether the probe, the only request of a half-open breaker, has ended.
const PROBE_LOOK: Duration = Duration::from_millis(200);
/// Wait of a job while only other workers can check orders. It is short, so that such a worker soon claims the job.
const ELSEWHERE: Duration = Duration::from_secs(1);

pub(super) enum Purpose<'a> {
    /// The check of an order.
    Order { id: &'a str, created_at_ms: i64, seen_for: Duration, patience: Duration, backlog: bool },
    /// A page of the list.
    Page,
    /// A request that verifies the key or shows whether the provider answers.
    Verification,
}

impl RedisBudget {
    pub(super) async fn request_for_list(&self, purpose: Purpose<'_>) -> Result<Permit, Duration> {
        match self.request(purpose).await {
            PermitDecision::Granted(permit) => Ok(permit),
            PermitDecision::Wait(wait) | PermitDecision::Full(wait) | PermitDecision::Blocked(wait) => {
                Err(wait)
            }
            // Unreachable: the script answers this only to the check of an order.
            PermitDecision::SeenInList => Err(UNKNOWN),
        }
    }

    /// Requests a permit, unless the provider refuses this worker.
    pub(super) async fn request(&self, purpose: Purpose<'_>) -> PermitDecision {
        if self.standing.refused_for().is_some()
            && let Some(wait) = self.cannot_ask().await
        {
            return PermitDecision::Blocked(wait);
        }
        let allowed = &self.rate_limit;
        let mut call = scripts::BUDGET_ACQUIRE.prepare_invoke();
        call.key(&self.key);
        let in_backlog = matches!(purpose, Purpose::Order { backlog: true, .. });
        let longest_wait = if in_backlog { MAX_BACKLOG_WAIT } else { MAX_WAIT };
        match purpose {
            Purpose::Order { id, created_at_ms, seen_for, patience, backlog } => {
                call.arg("order").arg(id).arg(created_at_ms);
                call.arg(millis(allowed.real(seen_for)))
                    .arg(millis(allowed.real(patience)))
                    .arg(u8::from(backlog));
            }
            Purpose::Page => {
                call.arg("page").arg("").arg(0).arg(0).arg(0).arg(0);
            }
            Purpose::Verification => {
                call.arg("verification").arg("").arg(0).arg(0).arg(0).arg(0);
            }
        }
        call.arg(allowed.requests_per_minute).arg(millis(allowed.minute)).arg(allowed.burst());
        call.arg(allowed.max_in_flight).arg(millis(REQUEST)).arg(millis(in_flight::LEASE));
        call.arg(millis(PROBE_LOOK)).arg(allowed.real_ms(longest_wait)).arg(&self.worker);
        self.write_keys(&mut call);
        let answer: Option<Vec<Value>> = self.heard(call.invoke_async(&mut self.connection.get()).await);
        let Some(said) = answer.and_then(|answer| Said::read(&answer)) else {
            return PermitDecision::Blocked(UNKNOWN);
        };
        match said {
            Said::Refused(wait) => {
                self.standing.keys_refused(None, wait);
                PermitDecision::Blocked(self.cannot_ask().await.unwrap_or(UNKNOWN))
            }
            Said::Mistrusted(wait) => {
                self.standing.keys_mistrusted();
                PermitDecision::Blocked(self.leave_to_others(wait).await)
            }
            Said::Decision(decision) => {
                if let PermitDecision::Granted(permit) = &decision
                    && let Some(key) = self.keys.get(permit.key)
                {
                    self.in_flight.began(&permit.number, key);
                }
                decision
            }
        }
    }

    /// How long an order waits because the provider refuses this worker; `None` if the provider accepts this worker.
    pub(super) async fn cannot_ask(&self) -> Option<Duration> {
        Some(self.leave_to_others(self.standing.refused_for()?).await)
    }

    /// How long a job waits while this worker can check no orders. If another worker can check orders, the wait is
    /// short, and this worker claims no jobs for a while, so that the other worker claims them.
    pub(super) async fn leave_to_others(&self, wait: Duration) -> Duration {
        if self.others_can_ask().await {
            self.standing.pause_claims();
            return ELSEWHERE.min(wait);
        }
        wait.min(self.rate_limit.real(MAX_WAIT).max(Duration::from_millis(1)))
    }

    pub(super) async fn others_can_ask(&self) -> bool {
        let mut call = scripts::BUDGET_OTHERS.prepare_invoke();
        call.key(&self.key).arg(&self.worker);
        self.heard(call.invoke_async(&mut self.connection.get()).await).unwrap_or(false)
    }
}

enum Said {
    Decision(PermitDecision),
    /// The provider refuses all keys of this worker for this long.
    Refused(Duration),
    /// The answer "not found" to requests with this worker's key is not believed for this long.
    Mistrusted(Duration),
}

impl Said {
    fn read(answer: &[Value]) -> Option<Self> {
        let text =
            |n: usize| answer.get(n).and_then(|value| redis::from_redis_value_ref::<String>(value).ok());
        let number = |n: usize| text(n)?.parse::<u64>().ok();
        let wait = |n: usize| number(n).map(Duration::from_millis);
        let decision = match text(0)?.as_str() {
            "granted" => PermitDecision::Granted(Permit {
                number: text(1)?,
                key: usize::try_from(number(2)?).ok()?,
                probe: number(3)? == 1,
                waited: wait(4)?,
            }),
            "seen-in-list" => PermitDecision::SeenInList,
            "wait" => PermitDecision::Wait(wait(1)?),
            "full" => PermitDecision::Full(wait(1)?),
            "blocked" => PermitDecision::Blocked(wait(1)?),
            "refused" => return Some(Self::Refused(wait(1)?)),
            "mistrusted" => return Some(Self::Mistrusted(wait(1)?)),
            _ => return None,
        };
        Some(Self::Decision(decision))
    }
}
