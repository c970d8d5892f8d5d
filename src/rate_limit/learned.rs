//! What was learned of how long orders take, and how urgent that makes the next check of one.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;
use topup_jobs::Completions;

use super::RedisBudget;
use crate::rate_limit::Wish;

/// Longest that an order which is hardly final yet may wait compared with one that asks now.
const MOST_PATIENCE: Duration = Duration::from_secs(30);
/// How often a worker reads what all have learned.
const LEARN_EVERY: Duration = Duration::from_secs(5);

/// What was learned about completion, and when it was read.
#[derive(Default)]
pub(super) struct Learned {
    completions: Completions,
    read_at: Option<Instant>,
}

impl RedisBudget {
    /// How long an order may wait compared with one that asks now: the less likely it is final, the longer.
    pub(super) fn patience(&self, wish: &Wish) -> Duration {
        if wish.backlog {
            return Duration::ZERO;
        }
        let Some(last) = wish.last else { return Duration::ZERO };
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        MOST_PATIENCE.mul_f64(1.0 - learned.completions.chance(last, wish.age))
    }

    /// Reads what was learned, now and then.
    pub(super) async fn learn(&self) {
        let now = Instant::now();
        {
            let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
            if learned.read_at.is_some_and(|at| now.duration_since(at) < LEARN_EVERY) {
                return;
            }
            learned.read_at = Some(now);
        }
        let mut read = redis::cmd("HGETALL");
        read.arg(format!("{}:completions", self.key));
        let counts: Option<Vec<(String, u64)>> =
            self.heard(read.query_async(&mut self.connection.get()).await);
        if let Some(counts) = counts {
            let spans = counts.into_iter().filter_map(|(span, count)| Some((span.parse().ok()?, count)));
            let completions = Completions::new(spans);
            self.learned.lock().unwrap_or_else(PoisonError::into_inner).completions = completions;
        }
    }
}
