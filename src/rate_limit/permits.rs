//! Asking Redis for one request, and what becomes of it where the provider refuses this worker.

use std::time::Duration;

use redis::Value;

use super::scripts;
use super::{LONGEST_BACKLOG_WAIT, LONGEST_WAIT, REQUEST, RedisBudget, UNKNOWN, in_flight};
use crate::rate_limit::{Permission, Ticket};
use crate::redis::millis;

/// How long the others wait before they look whether a probe has come back.
const PROBE_LOOK: Duration = Duration::from_millis(200);
/// How soon a job that this worker cannot check may run elsewhere.
const ELSEWHERE: Duration = Duration::from_secs(1);

/// What a request is for.
pub(super) enum Purpose<'a> {
    /// To check an order.
    Order { id: &'a str, created_at_ms: i64, sighting: Duration, patience: Duration, backlog: bool },
    /// A page of the list.
    Page,
    /// To verify the key, or to learn whether the provider answers.
    Verification,
}

impl RedisBudget {
    pub(super) async fn request_for_list(&self, purpose: Purpose<'_>) -> Result<Ticket, Duration> {
        match self.request(purpose).await {
            Permission::Ask(ticket) => Ok(ticket),
            Permission::Wait(wait) | Permission::Closed(wait) => Err(wait),
            // Never: only an order is sighted.
            Permission::Sighted => Err(UNKNOWN),
        }
    }

    /// Asks for one request.
    pub(super) async fn request(&self, purpose: Purpose<'_>) -> Permission {
        if self.standing.refused_for().is_some()
            && let Some(wait) = self.cannot_ask().await
        {
            return Permission::Closed(wait);
        }
        let allowed = &self.allowance;
        let mut call = scripts::BUDGET_ASK.prepare_invoke();
        call.key(&self.key);
        let in_backlog = matches!(purpose, Purpose::Order { backlog: true, .. });
        let longest_wait = if in_backlog { LONGEST_BACKLOG_WAIT } else { LONGEST_WAIT };
        match purpose {
            Purpose::Order { id, created_at_ms, sighting, patience, backlog } => {
                call.arg("order").arg(id).arg(created_at_ms);
                call.arg(millis(allowed.real(sighting)))
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
        call.arg(allowed.under_way).arg(millis(REQUEST)).arg(millis(in_flight::LEASE));
        call.arg(millis(PROBE_LOOK)).arg(allowed.real_ms(longest_wait)).arg(&self.worker);
        self.write_keys(&mut call);
        let answer: Option<Vec<Value>> = self.heard(call.invoke_async(&mut self.connection.get()).await);
        let Some(said) = answer.and_then(|answer| Said::read(&answer)) else {
            return Permission::Closed(UNKNOWN);
        };
        match said {
            Said::Refused(wait) => {
                self.standing.keys_refused(None, wait);
                Permission::Closed(self.cannot_ask().await.unwrap_or(UNKNOWN))
            }
            Said::Doubted(wait) => {
                self.standing.keys_doubted();
                Permission::Closed(self.leave_to_others(wait).await)
            }
            Said::Permission(permission) => {
                if let Permission::Ask(ticket) = &permission
                    && let Some(key) = self.keys.get(ticket.key)
                {
                    self.in_flight.began(&ticket.number, key);
                }
                permission
            }
        }
    }

    /// How long an order of this worker waits before it asks again, while the provider refuses this worker.
    pub(super) async fn cannot_ask(&self) -> Option<Duration> {
        Some(self.leave_to_others(self.standing.refused_for()?).await)
    }

    /// How long an order waits that this worker cannot check for this long: hardly at all where another worker may check
    /// it. Then this one claims no jobs for a while.
    pub(super) async fn leave_to_others(&self, wait: Duration) -> Duration {
        if self.others_can_ask().await {
            self.standing.pause_claims();
            return ELSEWHERE.min(wait);
        }
        wait.min(self.allowance.real(LONGEST_WAIT).max(Duration::from_millis(1)))
    }

    /// Whether another worker checks orders now.
    pub(super) async fn others_can_ask(&self) -> bool {
        let mut call = scripts::BUDGET_OTHERS.prepare_invoke();
        call.key(&self.key).arg(&self.worker);
        self.heard(call.invoke_async(&mut self.connection.get()).await).unwrap_or(false)
    }
}

/// What the script says.
enum Said {
    Permission(Permission),
    /// All keys are refused, for this long.
    Refused(Duration),
    /// The key is not believed to know the order, for this long.
    Doubted(Duration),
}

impl Said {
    fn read(answer: &[Value]) -> Option<Self> {
        let text =
            |n: usize| answer.get(n).and_then(|value| redis::from_redis_value_ref::<String>(value).ok());
        let number = |n: usize| text(n)?.parse::<u64>().ok();
        let wait = |n: usize| number(n).map(Duration::from_millis);
        let permission = match text(0)?.as_str() {
            "ask" => Permission::Ask(Ticket {
                number: text(1)?,
                key: usize::try_from(number(2)?).ok()?,
                probe: number(3)? == 1,
                waited: wait(4)?,
            }),
            "sighted" => Permission::Sighted,
            "wait" => Permission::Wait(wait(1)?),
            "closed" => Permission::Closed(wait(1)?),
            "refused" => return Some(Self::Refused(wait(1)?)),
            "doubted" => return Some(Self::Doubted(wait(1)?)),
            _ => return None,
        };
        Some(Self::Permission(permission))
    }
}
