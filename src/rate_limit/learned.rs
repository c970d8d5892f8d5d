//! Learns how long orders take to become final, and derives how urgent the next check of an order is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use topup_jobs::Completions;

use super::RedisBudget;
use crate::rate_limit::PermitRequest;

/// Longest time by which an order is put back in the wait queue: if it is almost certainly not final yet.
const MAX_PATIENCE: Duration = Duration::from_secs(30);
/// How often a worker reads the counts of completed orders, which all workers share.
const LEARN_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Learned {
    completions: Completions,
    read_at: Option<Instant>,
}

/// Age ranges of final orders that are not yet counted in Redis. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Uncounted(Arc<Mutex<Vec<usize>>>);

impl Uncounted {
    /// Adds an order; returns whether there was none before.
    pub(super) fn add(&self, span: usize) -> bool {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.push(span);
        spans.len() == 1
    }

    pub(super) fn take(&self) -> Vec<usize> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl RedisBudget {
    /// Delay of this order in the wait queue: longer if less likely final; 0 in the backlog or before its first check.
    pub(super) fn patience(&self, request: &PermitRequest) -> Duration {
        if request.backlog {
            return Duration::ZERO;
        }
        let Some(last) = request.last else { return Duration::ZERO };
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        MAX_PATIENCE.mul_f64(1.0 - learned.completions.chance(last, request.age))
    }

    /// Reads how many orders became final at which age, at most once per `LEARN_INTERVAL`.
    pub(super) async fn learn(&self) {
        let now = Instant::now();
        {
            let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
            if learned.read_at.is_some_and(|at| now.duration_since(at) < LEARN_INTERVAL) {
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
