//! Creates the same orders at the same times for each tracker (a program that tracks orders), and measures the result.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::super::report::percentile;
use super::{BudgetSettings, RATE_LIMIT};
use crate::simulator::{ListCard, Mix, Simulator, SimulatorSettings, serve};

/// Percentages of the outcomes. Within 3 to 45 seconds of domain time, an order becomes final or QUEUED.
const MIX: Mix = Mix { fulfilled: 80, refunded: 10, queued: 10, slow: 0 };
const SEED: u64 = 1;

/// The conditions of one measurement: orders per minute, settings, and the card fields that the provider's list shows.
pub(super) struct Load<'a> {
    pub(super) arrivals: u32,
    pub(super) settings: &'a BudgetSettings,
    pub(super) list_card: ListCard,
}

/// The counts of one tracker's orders and requests, and how soon it notified the customers.
pub(super) struct Tracked {
    pub(super) orders: u32,
    pub(super) ended: u32,
    pub(super) requests: u32,
    /// Number of checks that the provider refused with 429.
    pub(super) refused: u32,
    pub(super) busiest_minute: u32,
    /// For each order, the domain time in ms from its final or QUEUED status at the provider to its notification,
    /// sorted. An order without a notification counts with the time to the end of the measurement.
    notified_after_ms: Vec<i64>,
    /// Number of rechecks that were due at the start and got an answer: in all, and per minute of domain time.
    pub(super) rechecks_answered: (u32, f64),
}

impl Tracked {
    pub(super) fn orders_per_request(&self) -> f64 {
        f64::from(self.ended) / f64::from(self.requests)
    }

    /// Returns the seconds of domain time within which `share` (0 to 1) of the customers were notified.
    pub(super) fn notified_after(&self, share: f64) -> f64 {
        percentile(&self.notified_after_ms, share) / 1000.0
    }
}

/// The simulated provider of one tracker, and the record of the orders whose customers were notified.
pub(super) struct Provider {
    pub(super) url: String,
    pub(super) notified: Notified,
    _serving: AbortOnDropHandle<std::io::Result<()>>,
}

/// Per notified order, the domain time from its final or QUEUED status to its notification. Clones share the record.
#[derive(Clone)]
pub(super) struct Notified {
    simulator: Simulator,
    after: Arc<Mutex<HashMap<String, Duration>>>,
}

impl Notified {
    pub(super) fn simulator(&self) -> &Simulator {
        &self.simulator
    }

    /// Records that the customer of this order is notified now.
    pub(super) fn now(&self, topup_id: &str) {
        if let Some(after) = self.simulator.decided_for(topup_id) {
            self.after().entry(topup_id.to_owned()).or_insert(after);
        }
    }

    fn after(&self) -> MutexGuard<'_, HashMap<String, Duration>> {
        self.after.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load<'_> {
    /// Converts a wait in domain time to real time.
    pub(super) fn real(&self, wait: Duration) -> Duration {
        wait.div_f64(self.settings.time_scale)
    }

    pub(super) async fn provider(&self) -> anyhow::Result<Provider> {
        let settings = SimulatorSettings {
            seed: SEED,
            rate_limit: RATE_LIMIT,
            mix: MIX,
            list_card: self.list_card,
            ..SimulatorSettings::default()
        };
        let simulator = Simulator::new(settings, self.settings.time_scale);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let serving = tokio::spawn(serve(listener, simulator.clone(), std::future::pending()));
        let notified = Notified { simulator, after: Arc::default() };
        Ok(Provider { url, notified, _serving: AbortOnDropHandle::new(serving) })
    }

    /// Creates orders at random times, hands each to the tracker, and waits up to `settle_minutes` for notifications.
    pub(super) async fn arrive(
        &self,
        provider: &Provider,
        mut hand_over: impl AsyncFnMut(String) -> anyhow::Result<()>,
    ) -> anyhow::Result<Tracked> {
        let orders = self.arrivals * self.settings.minutes;
        let (simulator, mut rng) = (&provider.notified.simulator, StdRng::seed_from_u64(SEED));
        let (mut next, mut ids) = (Instant::now(), Vec::new());
        for _ in 0..orders {
            // Exponential intervals, because customers arrive independently of each other.
            let minutes = -(1.0 - rng.random::<f64>()).ln() / f64::from(self.arrivals);
            next += self.real(Duration::from_secs_f64(minutes * 60.0));
            tokio::time::sleep_until(next).await;
            let topup_id = simulator.create_drawn();
            ids.push(topup_id.clone());
            hand_over(topup_id).await?;
        }
        let end = Instant::now() + self.real(Duration::from_mins(self.settings.settle_minutes.into()));
        while provider.notified.after().len() < ids.len() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let requests = u32::try_from(simulator.total_calls())?;
        let refused =
            |id: &String| simulator.calls(id).iter().filter(|call| call.answer.starts_with("429")).count();
        let refused = u32::try_from(ids.iter().map(refused).sum::<usize>())?;
        let notified = provider.notified.after().clone();
        let after = |id: &String| notified.get(id).copied().or_else(|| simulator.decided_for(id));
        let ms = |after: Duration| i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        let mut notified_after_ms: Vec<i64> = ids.iter().filter_map(after).map(ms).collect();
        notified_after_ms.sort_unstable();
        Ok(Tracked {
            orders,
            ended: u32::try_from(notified.len())?,
            requests,
            refused,
            busiest_minute: u32::try_from(simulator.busiest_minute())?,
            notified_after_ms,
            rechecks_answered: (0, 0.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> BudgetSettings {
        BudgetSettings {
            arrivals: vec![600],
            minutes: 1,
            settle_minutes: 1,
            time_scale: 100.0,
            rechecks: 0,
            rechecks_lost: false,
            trackers: Vec::new(),
        }
    }

    /// Measures a tracker that notifies no customer. Returns the card codes of the orders, and the measured counts.
    async fn ignored(settings: &BudgetSettings) -> (Vec<Option<String>>, Tracked) {
        let load = Load { arrivals: 600, settings, list_card: ListCard::default() };
        let provider = load.provider().await.unwrap();
        let mut ids = Vec::new();
        let tracked = load.arrive(&provider, async |id| {
            ids.push(id);
            Ok(())
        });
        let tracked = tracked.await.unwrap();
        (ids.iter().map(|id| provider.notified.simulator.card_code(id)).collect(), tracked)
    }

    #[tokio::test]
    async fn every_tracker_gets_the_same_orders() {
        let settings = settings();
        let ((first, _), (second, _)) = (ignored(&settings).await, ignored(&settings).await);
        assert_eq!(first.len(), 600);
        assert_eq!(first, second);
    }

    #[tokio::test]
    async fn orders_without_notification_count_with_the_time_until_the_end() {
        let (_, tracked) = ignored(&settings()).await;
        assert_eq!((tracked.orders, tracked.ended, tracked.requests), (600, 0, 0));
        assert_eq!(tracked.notified_after_ms.len(), 600);
        assert!(tracked.notified_after(0.0) >= 15.0, "all are final within 45 of the last 60 seconds");
    }
}
