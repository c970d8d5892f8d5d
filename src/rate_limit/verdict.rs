//! Turns an answer of the provider into arguments of `budget_report.lua`, and logs what the operator should know.

use std::time::Duration;

use redis::ScriptInvocation;

use super::RedisBudget;
use crate::provider::{ApiError, Concern, KeyFingerprint};
use crate::rate_limit::Permit;
use crate::redis::millis;

/// Number of requests in a row without a usable answer, for at least two orders, at which the breaker opens. A failed
/// probe opens it again at once.
const MAX_FAILURES: u32 = 8;
/// Number of unknown orders in a row at which "not found" is no longer believed: the key or the provider may be wrong.
const MAX_UNKNOWN: u32 = 3;
/// Pause after `MAX_FAILURES` failures or `MAX_UNKNOWN` unknown orders. Repetitions double it, up to `MAX_CLOSURE`.
const FIRST_CLOSURE: Duration = Duration::from_secs(5);
const MAX_CLOSURE: Duration = Duration::from_mins(1);
/// Failures are forgotten after this long without another one.
const FAILURE_MEMORY: Duration = Duration::from_mins(10);
/// Unknown orders are forgotten after this long without another one.
const UNKNOWN_MEMORY: Duration = Duration::from_hours(1);
/// How long a key counts as verified after a usable answer.
const VERIFIED: Duration = Duration::from_hours(30 * 24);

impl RedisBudget {
    pub(super) fn write_verdict(&self, call: &mut ScriptInvocation<'_>, concern: Option<Concern>) {
        let ms = |wait| self.rate_limit.real_ms(wait);
        match concern {
            None => call.arg("usable").arg(ms(VERIFIED)),
            Some(Concern::Order) => call.arg("own"),
            Some(Concern::UnknownOrder) => call
                .arg("unknown")
                .arg(MAX_UNKNOWN)
                .arg(ms(FIRST_CLOSURE))
                .arg(ms(MAX_CLOSURE))
                .arg(ms(UNKNOWN_MEMORY)),
            Some(Concern::Outage) => call
                .arg("failed")
                .arg(MAX_FAILURES)
                .arg(ms(FIRST_CLOSURE))
                .arg(ms(MAX_CLOSURE))
                .arg(ms(FAILURE_MEMORY)),
            Some(Concern::Provider(wait)) => call.arg("unavailable").arg(ms(wait)),
            Some(Concern::KeyLimited(wait)) => call.arg("limited").arg(ms(wait)),
            Some(Concern::KeyRefused(wait)) => call.arg("refused").arg(ms(wait)),
            Some(Concern::Address(_)) => call.arg("address"),
        };
    }

    /// Logs a change of the breakers or keys once; repetitions are logged at debug level.
    pub(super) fn log_verdict(
        &self,
        permit: &Permit,
        became: &str,
        wait: Duration,
        error: Option<&ApiError>,
    ) {
        let key = self.keys.get(permit.key).map(KeyFingerprint::as_str).unwrap_or_default();
        let wait_ms = millis(wait);
        let error = error.map(tracing::field::display);
        match became {
            "recovered" => tracing::info!(key, "the provider answers checks again; waiting orders resume"),
            "other-key" => tracing::warn!(
                key,
                error,
                "the provider refuses an API key; orders are checked with the other key of this worker"
            ),
            "opened" => tracing::error!(
                key,
                error,
                wait_ms,
                "no order is checked for a while: the provider limits this key, takes no requests at all or does not \
                 answer; orders are checked again after wait_ms"
            ),
            "open" => {
                tracing::debug!(key, error, wait_ms, "the provider still takes no requests; orders wait");
            }
            "mistrusted-first" => tracing::error!(
                key,
                error,
                wait_ms,
                "the provider knows none of several orders: the API key may be of the other environment (sandbox or \
                 production), or the provider has a fault; these orders wait and none is given up"
            ),
            "mistrusted" => {
                tracing::debug!(key, error, wait_ms, "the provider still knows no order; the orders wait");
            }
            _ => {}
        }
    }
}
